"""`make bench`: one table; ratios are taken within one run, in alternation.

Looks for the real data in `../shared/data`, or where $LETHE_DATA points; what needs it is left
out, and said, where it is absent.
"""

import os
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import road, step, vault

DATA = Path(os.environ.get("LETHE_DATA", Path(__file__).parents[2] / "shared" / "data"))


def main() -> None:
    console = Console()
    rows = [*step.measure(), *vault.measure()]
    encounters = DATA / "diabetes130" / "diabetic_data.csv.gz"
    if encounters.exists():
        rows += road.measure(encounters)
    else:
        console.print(f"{encounters} is absent: the road on real data was not measured.")
    table = Table("what", "measured", "wanted")
    for row in rows:
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
