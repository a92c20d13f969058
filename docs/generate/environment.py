"""The page of environment variables, out of `.env.sample` and the code that reads them."""

import re
from dataclasses import dataclass
from pathlib import Path

from docs.generate.tables import code, table

SAMPLE = ".env.sample"
_READ_IN = ("pipeline", "dags", "infra", "benchmarks")
_NAME = re.compile(r"\bLETHE_[A-Z][A-Z_]*[A-Z]\b")
_SET = re.compile(r"#([A-Z][A-Z_]+)=(.*)")


@dataclass(frozen=True)
class Variable:
    """One variable of the sample: an example or default value, and what it is for."""

    name: str
    value: str
    meaning: str


def sampled(root: Path) -> list[Variable]:
    """The variables of `.env.sample`; the comment above a block is about all of it."""
    found: list[Variable] = []
    comment: list[str] = []
    closed = False
    for line in (root / SAMPLE).read_text().splitlines():
        if match := _SET.fullmatch(line):
            found.append(Variable(match[1], match[2], " ".join(comment)))
            closed = True
        elif line.startswith("# "):
            comment = [line[2:]] if closed else [*comment, line[2:]]
            closed = False
        else:
            comment, closed = [], False
    return found


def read_in(root: Path) -> dict[str, list[str]]:
    """Variable → the files that name it."""
    found: dict[str, list[str]] = {}
    for folder in _READ_IN:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in (".py", ".sh", ".json", ".yaml") or not path.is_file():
                continue
            for name in sorted(set(_NAME.findall(path.read_text(encoding="utf-8")))):
                found.setdefault(name, []).append(path.relative_to(root).as_posix())
    return found


def page(root: Path) -> str:
    """Every variable, what it is for, and where it is read."""
    places = read_in(root)
    rows = [
        [
            code(each.name),
            code(each.value) if each.value else "",
            each.meaning,
            ", ".join(map(code, places.get(each.name, [])[:3])) or "",
        ]
        for each in sampled(root)
    ]
    return (
        "# Environment variables\n\n"
        "None is needed for the demonstration. Secrets come from the environment alone: they never "
        "stand in `params.yaml`, DVC or MLflow. `.env.sample` has the same list, to copy.\n\n"
        + table(["variable", "default or example", "meaning", "read in"], rows)
        + "\n"
    )
