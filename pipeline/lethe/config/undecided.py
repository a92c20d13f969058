"""What `lethe init` leaves open in a draft of `params.yaml`, and which of it comes next.

A draft says `<decide>` where only a person can know; a comment on the line says what. Such a file
is read by nothing else: the first that is open is named, one at a time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

DECIDE = "<decide>"


@dataclass(frozen=True)
class Decision:
    """`key`: as in `subject.table`. `line`: of the file, from 1. `question`: of its comment."""

    key: str
    line: int
    question: str

    def __str__(self) -> str:
        question = f": {self.question}" if self.question else ""
        return f"line {self.line}: decide {self.key}{question}"


def undecided(raw: Any, text: str) -> list[Decision]:
    """Every decision that is open, in the order of the file.

    Args:
        raw: as a YAML reader returned it. text: what it read.
    """
    lines = [
        (number, comment.strip())
        for number, (value, _, comment) in enumerate(
            (line.strip().partition(" #") for line in text.splitlines()), start=1
        )
        if not value.startswith("#")
        for _ in range(value.count(DECIDE))
    ]
    keys = list(_open(raw, ()))
    lines += [(0, "")] * (len(keys) - len(lines))  # no draft of ours: a value over many lines
    return [
        Decision(".".join(key), line, question)
        for key, (line, question) in zip(keys, lines, strict=False)
    ]


def _open(value: Any, key: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if value == DECIDE:
        yield key
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _open(each, (*key, str(name)))
    elif isinstance(value, list):
        for each in value:
            yield from _open(each, key)
