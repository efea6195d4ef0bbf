"""What the checks of data find, and how fast rows become examples.

python benchmarks/data.py checks [--each N] [--seed S]                   # recall and false alarms on planted problems
python benchmarks/data.py speed [--rows N] [--data FILE] [CONTENDER ...]  # rows a second and memory, beside other ways
"""

from __future__ import annotations

import argparse
from pathlib import Path

import data_checks
import data_speed


def main() -> None:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    checks = commands.add_parser("checks", help="recall and false alarms")
    checks.add_argument("--each", type=int, default=200, help="problems of every kind (default 200)")
    checks.add_argument("--seed", type=int, default=0, help="another seed plants other problems (default 0)")
    speed = commands.add_parser("speed", help="rows a second and memory")
    speed.add_argument("--rows", type=int, default=20_000, help="how many rows (default 20,000)")
    speed.add_argument("--data", type=Path, metavar="FILE", help="such as GSM8K's (default the support desk's rows)")
    speed.add_argument("contenders", nargs="*", metavar="CONTENDER", help=", ".join(data_speed.CONTENDERS))
    given = parser.parse_args()
    if given.command == "checks":
        print(data_checks.table(data_checks.measure(given.each, given.seed)))
    else:
        data_speed.compare(given.rows, given.contenders or list(data_speed.CONTENDERS), given.data)


if __name__ == "__main__":
    main()
