"""Mutation testing of Rust sources: all mutants of cargo-mutants in one build, one of them chosen when a test begins.

    cargo install cargo-mutants --locked && pip install tree-sitter tree-sitter-rust
    python -P tests/reliability/mutate_native.py [--jobs N] [--only REGEX] [--alone] [--all]

A mutant costs a run of the tests, not a build: each expression that is changed becomes a choice by a number that the
environment has. What does not compile as a choice is built alone. Every mutant is killed by a test, explained in
`mutants.toml`, or open; the exit status is 1 if any is open or an explanation has become wrong.
"""

import argparse
import concurrent.futures
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tree_sitter
import tree_sitter_rust

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("codec", "container")
# Of the library those of the sources, and these.
TESTS = ("container", "written", "choice", "continued", "malformed", "elements", "bounds", "decoded", "allocations")
CHOICE = "crate::chosen_mutant()"
MARKED = re.compile(rb"/\*<(\d+)\*/.*?/\*\1>\*/", re.DOTALL)
# A mutant may be what the compiler refuses to see in code.
ALLOWED = "#![allow(warnings, arithmetic_overflow, unconditional_panic)]\n"
LIBRARY = """
/// The number of the mutant that runs; 0 is none.
#[inline(always)]
pub(crate) fn chosen_mutant() -> u32 {
    static NUMBER: std::sync::LazyLock<u32> =
        std::sync::LazyLock::new(|| std::env::var("MUTANT").map_or(0, |number| number.parse().unwrap()));
    *NUMBER
}
"""
UNBUILT = "does not compile"
# A build for a single mutant is hardly optimised, which would take longer than the tests. One test takes minutes then.
PLAIN, SLOW = ("--config", "profile.test.package.mcd-core.opt-level=1"), "allocations"
# A test that takes this many times as long as without a change, and as many seconds more, has an endless loop; one that
# waits for so many seconds waits for ever.
PATIENCE, SECONDS, WAIT = 10, 5, 600
# No mutant may fill the memory of the machine.
MEMORY = 6 << 30


@dataclass
class Mutant:
    """A change of a piece of a file, as cargo-mutants has found it."""

    number: int
    name: str
    file: str  # from core/src/ on
    function: str
    start: int  # bytes of the file
    end: int
    line: str
    replacement: str
    genre: str
    alone: bool = field(default=False)  # it does not compile as a choice

    @property
    def change(self) -> str:
        """What is changed, without the place."""
        return re.sub(r"^\S+ ", "", self.name)


def offset(lines: list[str], at: dict[str, int]) -> int:
    """Bytes in front of a line and column, which begin with 1 and count characters."""
    return len("".join([*lines[: at["line"] - 1], lines[at["line"] - 1][: at["column"] - 1]]).encode())


def copied(folder: Path) -> None:
    """Puts the tracked files of native/ into a folder, with the portable kernel alone, so that builds are quick."""
    tracked = subprocess.run(["git", "ls-files", "native"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    for file in tracked.stdout.split():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, folder / file)
    for path in folder.glob("native/core/src/**/*.rs"):
        path.write_text(re.sub(r'target_arch = "(x86_64|aarch64)"', 'target_arch = "none"', path.read_text()))


def listed(native: Path) -> list[Mutant]:
    """All mutants of the sources. cargo-mutants leaves out every ``new``, so it is shown another name there."""
    shown = native.parent / "shown"
    shutil.copytree(native, shown)
    for path in shown.glob("core/src/**/*.rs"):
        path.write_text(path.read_text().replace("fn new(", "fn n_w("))
    files = [word for folder in SOURCES for word in ("-f", f"core/src/{folder}/*.rs")]
    command = ["cargo", "mutants", "--list", "--json", "-d", str(shown), "-p", "mcd-core", *files]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    mutants = []
    for number, one in enumerate(found, 1):
        lines = (native / one["file"]).read_text().splitlines(keepends=True)
        file = one["file"].removeprefix("core/src/")
        function = (one["function"] or {"function_name": ""})["function_name"].replace("n_w", "new")
        start, end = (offset(lines, one["span"][side]) for side in ("start", "end"))
        name = one["name"].removeprefix("core/src/").replace("n_w", "new")
        text = lines[one["span"]["start"]["line"] - 1].strip()
        mutants.append(Mutant(number, name, file, function, start, end, text, one["replacement"], one["genre"]))
    return mutants


def constant(tree: tree_sitter.Tree, mutant: Mutant) -> bool:
    """Whether what is changed is worked out when it is compiled."""
    node = tree.root_node.descendant_for_byte_range(mutant.start, mutant.end)
    while node is not None:
        if node.type in ("const_item", "static_item", "array_type", "const_block"):
            return True
        if node.type == "function_item":
            return any(child.type == "function_modifiers" and b"const" in child.text for child in node.children)
        node = node.parent
    return False


def choice(source: bytes, tree: tree_sitter.Tree, mutant: Mutant) -> tuple[int, int, bytes, bytes] | None:
    """Begin and end of what becomes a choice, what is written in front of it and behind it; nothing where it cannot."""
    mark = b"/*<%d*/%b/*%d>*/"
    number = mutant.number
    node = tree.root_node.descendant_for_byte_range(mutant.start, mutant.end)
    if constant(tree, mutant):
        return None
    match mutant.genre:
        case "FnValue":
            if "impl " in mutant.name.split("->")[-1].split(" with ")[0]:
                return None
            value = mutant.replacement.encode()
            chosen = b"if %b == %d { return %b; }" % (CHOICE.encode(), number, value)
            return mutant.start, mutant.start, mark % (number, chosen, number), b""
        case "MatchArm":
            while node.type != "match_arm":
                node = node.parent
            pattern = node.child_by_field_name("pattern")
            guard = b" if %b != %d" % (CHOICE.encode(), number)
            return pattern.end_byte, pattern.end_byte, mark % (number, guard, number), b""
        case "MatchArmGuard":
            begin, end = mutant.start, mutant.end
        case "BinaryOperator" | "UnaryOperator":
            node = node.parent
            if node.type not in ("binary_expression", "unary_expression", "compound_assignment_expr"):
                return None  # the && of a condition with a pattern in it
            begin, end = node.start_byte, node.end_byte
        case _:
            return None
    value = source[begin : mutant.start] + mutant.replacement.encode() + source[mutant.end : end]
    other = mark % (number, b"%d => { %b }" % (number, value), number)
    return begin, end, b"(match %b { %b _ => { " % (CHOICE.encode(), other), b" } })"


def woven(source: bytes, mutants: list[Mutant]) -> bytes:
    """A file with all of these mutants as choices."""
    tree = tree_sitter.Parser(tree_sitter.Language(tree_sitter_rust.language())).parse(source)
    found = []
    for mutant in mutants:
        made = None if mutant.alone else choice(source, tree, mutant)
        mutant.alone = made is None
        found += [] if made is None else [made]
    # Where several begin, the longest comes first; where several end, last.
    front = [(begin, -end, at, text) for at, (begin, end, text, _) in enumerate(found)]
    behind = [(end, -begin, -at, text) for at, (begin, end, _, text) in enumerate(found)]
    pieces = [(at, 1, *rest) for at, *rest in front] + [(at, 0, *rest) for at, *rest in behind]
    out, done = [], 0
    for at, _, _, _, text in sorted(pieces):
        out += [source[done:at], text]
        done = at
    return b"".join([*out, source[done:]])


def compiled(native: Path, *words: str) -> tuple[list[dict], bool]:
    """What cargo says about a build of the tests, and whether it succeeded."""
    tests = [word for test in TESTS for word in ("--test", test)]
    command = ["cargo", *words, "--locked", "--message-format", "json", "-p", "mcd-core", "--lib", *tests]
    environment = {"CARGO_TARGET_DIR": str(ROOT / "native/target")} | os.environ
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    done = subprocess.run(command, check=False, cwd=native, env=environment, **quiet)
    return [json.loads(line) for line in done.stdout.splitlines()], done.returncode == 0


def at_fault(messages: list[dict], native: Path) -> set[int]:
    """The mutants that a failed build complains of."""
    numbers = set()
    for message in messages:
        diagnostic = message.get("message")
        if not isinstance(diagnostic, dict) or diagnostic.get("level") != "error":
            continue
        for span in diagnostic["spans"]:
            if span["is_primary"]:
                text = (native / span["file_name"]).read_bytes()
                numbers |= blamed(list(MARKED.finditer(text)), span["byte_start"], span["byte_end"])
    return numbers


def blamed(marked: list[re.Match[bytes]], start: int, end: int) -> set[int]:
    """The mutants around a piece of a file, or else those in it, or else the one behind its begin."""
    around = [m for m in marked if m.start() <= start and end <= m.end()]
    inside = [m for m in marked if start <= m.start() and m.end() <= end]
    behind = [m for m in marked if start <= m.start()][:1]
    return {int(m[1]) for m in around or inside or behind}


def built(native: Path, mutants: list[Mutant]) -> dict[str, Path]:
    """Builds the choices, without those that do not compile as one; the test binaries."""
    sources = {path: path.read_bytes() for folder in SOURCES for path in native.glob(f"core/src/{folder}/*.rs")}
    library = native / "core/src/lib.rs"
    library.write_text(ALLOWED + library.read_text() + LIBRARY)
    while True:
        for path, source in sources.items():
            file = path.relative_to(native / "core/src").as_posix()
            path.write_bytes(woven(source, [mutant for mutant in mutants if mutant.file == file]))
        messages, done = compiled(native, "check", "--profile", "test")
        if done:
            return tests_of(compiled(native, "test", "--no-run")[0], native.parent / "choices")
        bad = {mutant.number for mutant in mutants if not mutant.alone} & at_fault(messages, native)
        if not bad:
            sys.exit("\n".join(m["message"]["rendered"] for m in messages if m["reason"] == "compiler-message"))
        for mutant in mutants:
            mutant.alone |= mutant.number in bad


def tests_of(messages: list[dict], folder: Path) -> dict[str, Path]:
    """The test binaries that a build has made, copied to a folder, by the names of the tests."""
    folder.mkdir(exist_ok=True)
    made = {m["target"]["name"]: m["executable"] for m in messages if m.get("executable") and m["profile"]["test"]}
    return {name: Path(shutil.copy(binary, folder / name)) for name, binary in made.items()}


def limited(seconds: float) -> None:
    """Ends a test that uses more of a processor than this, and keeps it from filling the memory."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 1))


def passes(binary: Path, seconds: float, number: int = 0) -> bool:
    """Whether the tests of a binary pass, in time."""
    wanted = [f"{folder}::" for folder in SOURCES] if binary.name == "mcd_core" else []
    try:
        done = subprocess.run(
            [binary, "-q", *wanted],
            check=False,
            env=os.environ | {"MUTANT": str(number)},
            timeout=WAIT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: limited(seconds),
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def used() -> float:
    """Seconds of a processor that the tests so far have used."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def timed(tests: dict[str, Path]) -> dict[str, float]:
    """What each test takes without a change, in seconds; the quickest first."""
    times = {}
    for name, binary in tests.items():
        before = used()
        if not passes(binary, WAIT):
            sys.exit(f"{name} fails without a change")
        times[name] = used() - before
    return dict(sorted(times.items(), key=lambda item: item[1]))


def killer(tests: dict[str, Path], times: dict[str, float], number: int = 0) -> str | None:
    """The first test that fails with a mutant."""
    for name, seconds in times.items():
        if not passes(tests[name], PATIENCE * seconds + SECONDS, number):
            return name
    return None


def plain_tests(native: Path, folder: str) -> dict[str, Path]:
    """The test binaries with little optimisation."""
    found = tests_of(compiled(native, "test", *PLAIN, "--no-run")[0], native.parent / folder)
    return {name: path for name, path in found.items() if name != SLOW}


def killer_of_one(native: Path, mutant: Mutant, source: bytes, times: dict[str, float]) -> str | None:
    """Builds one mutant in place of what it changes, and runs the tests."""
    path = native / "core/src" / mutant.file
    choices = path.read_bytes()
    path.write_bytes(source[: mutant.start] + mutant.replacement.encode() + source[mutant.end :])
    try:
        if not compiled(native, "check", *PLAIN, "--profile", "test")[1]:
            return UNBUILT
        return killer(plain_tests(native, "one"), times)
    finally:
        path.write_bytes(choices)


class Explanations:
    """Why some mutants change no result that anybody promises."""

    def __init__(self, path: Path) -> None:
        self.entries = tomllib.loads(path.read_text()).get("explained", [])
        self.used: set[int] = set()

    def why(self, mutant: Mutant) -> str | None:
        """The reason, if there is one."""
        for at, entry in enumerate(self.entries):
            fits = entry["file"] == mutant.file and entry["function"] == mutant.function
            if fits and entry["line"] in mutant.line and any(part in mutant.change for part in entry["changes"]):
                self.used.add(at)
                return str(entry["why"])
        return None

    def unused(self) -> list[dict[str, object]]:
        """Those that no mutant has asked for."""
        return [entry for at, entry in enumerate(self.entries) if at not in self.used]


def killers(folder: Path, jobs: int, only: str, *, alone: bool) -> Iterator[tuple[Mutant, str | None]]:
    """Each mutant with the test that kills it, if one does; ``alone``: of those that need a build of their own."""
    native = folder / "native"
    copied(folder)
    root = native / "core/src"
    sources = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.rs")}
    mutants = listed(native)
    tests = built(native, mutants)
    mutants = [mutant for mutant in mutants if re.search(only, mutant.name)]
    chosen = [mutant for mutant in mutants if not mutant.alone and not alone]
    if chosen:
        times = timed(tests)
        say(", ".join(f"{name} {seconds:.2f} s" for name, seconds in times.items()))
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        yield from zip(chosen, pool.map(lambda mutant: killer(tests, times, mutant.number), chosen), strict=True)
    single = [mutant for mutant in mutants if mutant.alone]
    times = timed(plain_tests(native, "plain")) if single else {}
    for mutant in single:
        yield mutant, killer_of_one(native, mutant, sources[mutant.file], times)


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Try all mutants; whether any is open."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", metavar="REGEX", help="mutants whose names this is found in")
    parser.add_argument("--alone", action="store_true", help="those only that do not compile as a choice")
    parser.add_argument("--all", action="store_true", help="names those that are killed too")
    asked = parser.parse_args()
    explanations = Explanations(Path(__file__).with_name("mutants.toml"))
    fates: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for mutant, by in killers(Path(folder), asked.jobs, asked.only, alone=asked.alone):
            fate = by if by == UNBUILT else "killed" if by else "explained" if explanations.why(mutant) else "open"
            fates[fate] += 1
            if asked.all or fate == "open":
                say(f"{mutant.name}: {fate}{f' by {by}' if fate == 'killed' else ''}")
    stale = [] if asked.only or asked.alone else explanations.unused()
    for entry in stale:
        say(f"explains nothing: {entry}")
    say(f"{fates.total()} mutants: " + ", ".join(f"{count} {fate}" for fate, count in fates.most_common()))
    return 1 if fates["open"] or stale else 0


if __name__ == "__main__":
    sys.exit(main())
