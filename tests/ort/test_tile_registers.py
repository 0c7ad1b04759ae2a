"""Sums that AMX tile registers hold from one `asm!` block to the next: nothing else has the registers meanwhile.

`native/core/src/arch/x86_64/amx/fused.rs` says why it relies on that. Here the machine code of the library that is
installed is read, and held to it: from where the sums of a panel are loaded or cleared to where they are stored, on
every path, no function is called, no configuration is loaded or dropped, and registers of sums are only added to. No
compiler has put anything of its own into a tile register, for then there would be such an instruction elsewhere.
"""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import mcd_graph

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which("objdump"), reason="needs x86-64 and objdump"
)

SUMS = {"tmm0", "tmm1", "tmm2", "tmm3"}

# Those that return with sums in registers where a tile's last panel is not done yet: their callers store them.
DECODER = re.compile(r"avx5126decode\d+(panels|decode_tile)")
# Calls that do not come back.
DIVERGES = re.compile(r"panic|unwrap_failed|expect_failed|_fail\b|slice_.*_index|handle_alloc_error|_Unwind_Resume")

INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(?:(?:notrack|bnd|rep|lock)\s+)?(\w+)\s*(.*?)\s*(?:#.*)?$")
TARGET = re.compile(r"^([0-9a-f]+)(?: <([^+>]*)(?:\+0x[0-9a-f]+)?>)?$")
TILES = re.compile(r"tmm\d|\b(ldtilecfg|sttilecfg|tilerelease)\b")


def functions(disassembly):
    """The functions of a disassembly: names and texts."""
    found = re.split(r"^[0-9a-f]+ <(.*)>:$", disassembly, flags=re.MULTILINE)
    return zip(found[1::2], found[2::2], strict=True)


class Function:
    """A function that uses tile registers, or calls one that does."""

    def __init__(self, name, text, word_at):
        self.name, self.word_at = name, word_at
        self.code = [
            (int(found[1], 16), found[2], found[3]) for line in text.splitlines() if (found := INSTRUCTION.match(line))
        ]
        self.at = {address: index for index, (address, _, _) in enumerate(self.code)}

    def multiplies(self):
        return any(mnemonic.startswith("tdp") for _, mnemonic, _ in self.code)

    def target(self, operands):
        """Where a jump or call leads: an index in this function, or the name of another."""
        if not (found := TARGET.match(operands)):
            return None
        return self.at.get(int(found[1], 16), found[2] or "")

    def successors(self, index):
        """Where an instruction leads to in this function, or None where the code does not say."""
        _, mnemonic, operands = self.code[index]
        behind = [index + 1] if index + 1 < len(self.code) else []
        if mnemonic in ("ret", "ud2", "hlt", "int3"):
            return []
        if mnemonic.startswith(("j", "loop")):
            target = self.target(operands)
            if target is None:
                return self.by_table(index, operands)
            inside = [target] if isinstance(target, int) else []
            return inside if mnemonic == "jmp" else inside + behind
        if mnemonic == "call" and DIVERGES.search(operands):
            return []
        return behind

    def by_table(self, index, register):
        """Where a jump by way of a table of offsets leads, None where there is none."""
        load = base = None
        while index > 0 and base is None:
            index -= 1
            _, mnemonic, operands = self.code[index]
            if load is None and (found := re.match(r"(\w+),DWORD PTR \[(\w+)\+\w+\*4\]$", operands)):
                load = found[2] if mnemonic == "movsxd" and found[1] == register else None
            elif load and mnemonic == "lea" and (found := re.match(rf"{load},\[=([0-9a-f]+)\]$", operands)):
                base = int(found[1], 16)
        targets = []
        # The table ends where an offset leads to no instruction of this function.
        while base is not None and (offset := self.word_at(base + 4 * len(targets))) is not None:
            if base + offset not in self.at:
                break
            targets.append(self.at[base + offset])
        return targets or None

    def violations(self, leaving):
        """What is wrong; adds the function to `leaving` if it may return with sums in registers."""
        states = {0: {False}}
        todo = [0]
        while todo:
            index = todo.pop()
            successors = self.successors(index)
            if successors is None:
                yield f"{self.name}: a jump whose target is not known at {self.code[index][0]:x}"
                return
            after = set()
            for held in states[index]:
                after.add(self.held_after(index, held, leaving))
            for successor in successors:
                if not after <= states.setdefault(successor, set()):
                    states[successor] |= after
                    todo.append(successor)
        for index, before in sorted(states.items()):
            if True in before and (wrong := self.wrong_while_held(index)):
                yield f"{self.name}: {wrong} at {self.code[index][0]:x}"
        ends = [index for index in states if True in states[index] and self.leaves(index)]
        if ends and DECODER.search(self.name):
            leaving.add(self.name)

    def leaves(self, index):
        _, mnemonic, operands = self.code[index]
        return mnemonic == "ret" or (mnemonic == "jmp" and isinstance(self.target(operands), str))

    def held_after(self, index, held, leaving):
        """Whether registers hold sums behind an instruction."""
        _, mnemonic, operands = self.code[index]
        if mnemonic == "call":
            return held or self.target(operands) in leaving
        if "tmm0" in operands:
            if mnemonic in ("tilezero", "tileloadd"):
                return True
            if mnemonic == "tilestored":
                return False
        return held

    def wrong_while_held(self, index):
        """What an instruction must not do where registers hold sums."""
        _, mnemonic, operands = self.code[index]
        if mnemonic == "call" and not DIVERGES.search(operands):
            return f"a call of {operands}"
        if mnemonic in ("ldtilecfg", "tilerelease"):
            return mnemonic
        registers = operands.replace(" ", "").split(",")
        if mnemonic in ("tilezero", "tileloadd", "tileloaddt1") and registers[0] in SUMS and not self.in_run(index):
            return f"{mnemonic} {registers[0]}"
        return None

    def in_run(self, index):
        """Whether this is one of the instructions that load, clear or store a panel's sums, one behind the other."""
        kind = self.code[index][1]
        while self.code[index][1] in (kind, "lea"):
            if "tmm0" in self.code[index][2]:
                return True
            index -= 1
        return False


def violations(disassembly, word_at=lambda _: None):
    """Where a disassembly breaks what is said above, and how many functions multiply with tile registers."""
    tiled = {name for name, code in functions(disassembly) if TILES.search(code)}
    calls = re.compile(r"\b(?:call|jmp)\s+[0-9a-f]+ <(?:" + "|".join(map(re.escape, tiled)) + ")>")
    relevant = [
        Function(name, code, word_at) for name, code in functions(disassembly) if name in tiled or calls.search(code)
    ]
    leaving = set()
    while True:
        before = set(leaving)
        wrong = [text for function in relevant for text in function.violations(leaving)]
        if leaving == before:
            break
    # The sums of a panel are stored one behind the other.
    for function in relevant:
        for index, (address, mnemonic, operands) in enumerate(function.code):
            if mnemonic == "tilestored" and operands[-4:] in SUMS and not function.in_run(index):
                wrong.append(f"{function.name}: {operands[-4:]} is stored by itself at {address:x}")
    return wrong, sum(function.multiplies() for function in relevant)


def objdump(*arguments):
    return subprocess.run(["objdump", *arguments], capture_output=True, text=True, check=True, timeout=120).stdout


def disassembled():
    """The machine code of the library; calls by way of its table of addresses say whom they call."""
    path = str(mcd_graph.get_library_path())
    text = objdump("--disassemble", "--no-show-raw-insn", "-M", "intel", path)
    names = dict(re.findall(r"^0*([0-9a-f]+) <(.*)>:$", text, re.MULTILINE))
    table = {}
    for at, symbol, address in re.findall(
        r"^0*([0-9a-f]+) R_X86_64_\w+\s+(\S+?)(?:\+0x0*([0-9a-f]+))?$", objdump("--dynamic-reloc", path), re.MULTILINE
    ):
        table[at] = f"{address} <{names.get(address, '')}>" if symbol == "*ABS*" else f"0 <{symbol}>"
    by_address = re.compile(r"(call|jmp)(\s+)QWORD PTR \[rip\+0x[0-9a-f]+\]\s+# ([0-9a-f]+) <.*>$", re.MULTILINE)
    text = by_address.sub(lambda call: f"{call[1]}{call[2]}{table[call[3]]}" if call[3] in table else call[0], text)
    return re.sub(r"\[rip\+0x[0-9a-f]+\]\s+# ([0-9a-f]+).*", r"[=\1]", text)


def constants():
    """What gives a signed word of the library's constants by its address."""
    path = mcd_graph.get_library_path()
    headers = objdump("--section-headers", str(path))
    size, start, at = (int(field, 16) for field in re.search(r" \.rodata +(\w+) +(\w+) +\w+ +(\w+)", headers).groups())
    section = Path(path).read_bytes()[at : at + size]

    def word_at(address):
        word = section[address - start : address - start + 4] if address >= start else b""
        return int.from_bytes(word, "little", signed=True) if len(word) == 4 else None

    return word_at


def test_nothing_touches_sums_between_two_blocks():
    disassembly = disassembled()
    if "mcd_core" not in disassembly:
        pytest.skip("the library has no symbols")
    wrong, multiplying = violations(disassembly, constants())
    assert not wrong, "\n".join(wrong)
    assert multiplying > 2, "the fused products are not found"


SOUND = """
0000000000000100 <avx5126decode6panels>:
 100:\tcall   300 <other>
 104:\ttest   rax,rax
 108:\tje     118 <avx5126decode6panels+0x18>
 10c:\ttilestored [rcx+rdx*1],tmm0
 110:\tlea    rcx,[rcx+rsi*1]
 114:\ttilestored [rcx+rdx*1],tmm1
 118:\ttilezero tmm0
 11c:\ttilezero tmm1
 120:\tje     130 <avx5126decode6panels+0x30>
 124:\ttdpbsud tmm0,tmm7,tmm6
 128:\tjne    104 <avx5126decode6panels+0x4>
 12c:\tcall   400 <core9panicking5panic>
 130:\tret

0000000000000200 <closure>:
 200:\tcall   100 <avx5126decode6panels>
 204:\ttdpbsud tmm0,tmm7,tmm6
 208:\ttilestored [rcx+rdx*1],tmm0
 20c:\tcall   300 <other>
 210:\tret

0000000000000300 <other>:
 300:\tret
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", None),
        (" 124:\ttdpbsud tmm0,tmm7,tmm6", " 124:\tcall   300 <other>", "a call of 300 <other>"),
        (" 124:\ttdpbsud tmm0,tmm7,tmm6", " 124:\tldtilecfg [rsp]", "ldtilecfg"),
        (" 124:\ttdpbsud tmm0,tmm7,tmm6", " 124:\ttileloadd tmm1,[rsp+rax*1]", "tileloadd tmm1"),
        (" 110:\tlea    rcx,[rcx+rsi*1]", " 110:\tcall   300 <other>", "tmm1 is stored by itself"),
        (" 204:\ttdpbsud tmm0,tmm7,tmm6", " 204:\tcall   300 <other>", "a call of 300 <other>"),
        (" 200:\tcall   100 <avx5126decode6panels>", " 200:\tcall   300 <other>", None),
        (" 120:\tje     130 <avx5126decode6panels+0x30>", " 120:\tjmp    rax", "a jump whose target is not known"),
    ],
)
def test_what_the_check_finds(old, new, expected):
    assert old in SOUND
    wrong, multiplying = violations(SOUND.replace(old, new) if old else SOUND)
    assert multiplying >= 1
    if expected is None:
        assert not wrong, wrong
    else:
        assert any(expected in text for text in wrong), wrong
