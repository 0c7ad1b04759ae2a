"""Runs a Python fuzz target under atheris: ``python tests/fuzz/fuzz.py TARGET [CORPUS] [-libfuzzer=options]``."""

import sys
from pathlib import Path

import atheris

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "support"), str(TESTS), str(TESTS / "fuzz")]

with atheris.instrument_imports(include=["mcd_graph", "safetensors", "pickletools", "importers", "graphs"]):
    import importers

    if "graphs" in sys.argv[1]:
        import graphs

TARGETS = {"importers": lambda: importers, "graphs": lambda: graphs}


def main() -> None:
    target = TARGETS[sys.argv.pop(1)]()
    if "seeds" in sys.argv:
        folder = Path(sys.argv[-1])
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(target.seeds()):
            (folder / f"seed{number:03}").write_bytes(seed)
        return
    atheris.Setup(sys.argv, target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
