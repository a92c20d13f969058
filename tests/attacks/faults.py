"""Every fault that the tests of the audit put in, by the check that names it: a table for the docs.

Written into docs/how-sure.md: python -m tests.attacks.faults
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.attacks import test_canaries, test_discrete_mutations, test_mutations
from tests.attacks.run import test_draws, test_faulty_runs, test_noise_law, test_residuals

PAGE = Path(__file__).parents[2] / "docs" / "how-sure.md"
BEGIN, END = "<!-- faults: written by tests.attacks.faults -->", "<!-- end of faults -->"

Fault = tuple[str, str]  # what is done, and the check that must name it


def in_ordinary_runs() -> list[Fault]:
    """Put into the code that trains; the audit stage looks at the run as always."""
    return [
        *_named(test_faulty_runs.FAULTS, lambda found: sorted(found[1])),
        *_named(test_mutations.IN_A_RUN, _one),
    ]


def in_replayed_code() -> list[Fault]:
    """A sound run; then the code is broken that the audit stage replays on it."""
    return [
        *_named(test_mutations.IN_TRAINING, _one),
        *_named(test_mutations.OVER_PROCESSES, _one),
        *_named(test_mutations.ADAPTIVE, _one),
        *_named(test_discrete_mutations.MUTATIONS, _one),
    ]


def in_what_a_run_recorded() -> list[Fault]:
    """Put into the noise, the sums or the draws of a run as it is recorded."""
    return [
        *_named(test_noise_law.MUTATIONS, lambda check: [f"noise_of_run.{check}"]),
        *_named(test_residuals.HOOKS, lambda found: [f"noise_of_run.{found[1]}"]),
        *_named(test_draws.MUTATIONS, lambda check: [f"draws_of_run.{check}"]),
    ]


def in_a_twin() -> list[Fault]:
    """Put into the code that trains, and seen by canaries in a twin (`lethe audit --deep`)."""
    return _named(test_canaries.FOUND_BY, lambda found: [f"canaries.{found.where}"])


SECTIONS = {
    "in the run itself, by the audit of that run": in_ordinary_runs,
    "in the code that trains, by the audit's replay of it": in_replayed_code,
    "in what a run recorded": in_what_a_run_recorded,
    "in a twin with canaries, by the deep audit": in_a_twin,
}


def section() -> str:
    """The tables as they stand in the page."""
    lines = []
    for where, faults in SECTIONS.items():
        found = faults()
        lines += [f"**{len(found)} faults {where}**", "", "| fault | named by |", "|---|---|"]
        lines += [f"| {name} | `{check}` |" for name, check in found]
        lines.append("")
    return "\n".join([BEGIN, "", *lines, END])


def written() -> str:
    """The page with the tables of today."""
    before, rest = PAGE.read_text().split(BEGIN)
    return before + section() + rest.split(END)[1]


def _one(check: str) -> list[str]:
    return [check]


def _named(table: Mapping[Any, Any], checks_of: Any) -> list[Fault]:
    return list(_rows(table, checks_of))


def _rows(table: Mapping[Any, Any], checks_of: Any) -> Iterator[Fault]:
    for fault, found in table.items():
        name = fault if isinstance(fault, str) else fault.__name__.replace("_", " ")
        checks: Iterable[str] = checks_of(found)
        yield name, "`, `".join(checks)


if __name__ == "__main__":
    PAGE.write_text(written())
