"""Measures what the README and the page of results say, and writes both: one record, one story.

    python benchmarks/publish.py benchmarks/records/DATE-MACHINE-sessions.jsonl [--cache DIR] [--seconds 0.8]

It runs sessions.py for every workload and memory.py for two, on a machine that should do nothing else; begun again, it
goes on where it was ended. Then tables.py and plots.py make the pages of the record.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import workloads

HERE = Path(__file__).parent


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="in benchmarks/records")
    parser.add_argument("--cache", type=Path, default=workloads.CACHE, help="where models are kept")
    parser.add_argument("--seconds", default="0.8", help="for each contestant and row")
    parser.add_argument("--turns", default="5", help="openings of each, cold and warm")
    arguments = parser.parse_args()
    kept = ["--json", str(arguments.record), "--resume", "--cache", str(arguments.cache)]
    steps = (
        ["memory.py", *kept, "--turns", arguments.turns],
        ["sessions.py", *kept, "--seconds", arguments.seconds],
        ["tables.py", "--record", str(arguments.record)],
        ["plots.py"],
    )
    for script, *rest in steps:
        print(f"== {script} {' '.join(rest)}", flush=True)
        subprocess.run([sys.executable, str(HERE / script), *rest], check=True)


if __name__ == "__main__":
    main()
