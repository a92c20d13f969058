"""Frozen facts that cross stores and the rights that are exercised over them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Result(StrEnum):
    """What became of a person in one store, or how a store looks; `Outcome.reason` only explains.

    `ERASED`: something was taken out. `ABSENT`: nothing is there. `PRESENT`: something is there,
    or waits to be overwritten. `UNREACHABLE`: the store could not be worked on or looked into,
    or not wholly. `KEPT`: something stays on purpose.
    """

    ERASED = "erased"
    ABSENT = "absent"
    PRESENT = "present"
    UNREACHABLE = "unreachable"
    KEPT = "kept"


OPEN_ENDS = frozenset({Result.PRESENT, Result.UNREACHABLE})  # with these nothing is finished


@dataclass(frozen=True)
class Outcome:
    """What one store did, or found, about one person; it names nobody.

    `store` is the store's name in receipts (`source`, `vault`, `cache`, `remote local`, …);
    `places` are table names, object hashes or model versions, never a value of a person;
    `count` how many rows or objects there were. `reason` is for people to read, and is given
    whenever something is present, unreachable or kept. `retained` says what stays by law:
    `{table, basis, until, count}` each.
    """

    store: str
    result: Result
    count: int = 0
    places: tuple[str, ...] = ()
    reason: str | None = None
    retained: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "result", Result(self.result))
        if self.result not in (Result.ERASED, Result.ABSENT) and not self.reason:
            raise ValueError(f"{self.store}: what is {self.result} needs a reason")
        if self.result == Result.ABSENT and self.count:
            raise ValueError(f"{self.store}: {self.count} cannot be absent")

    @property
    def is_open(self) -> bool:
        """Whether the step that had this outcome must be done again."""
        return self.result in OPEN_ENDS

    @property
    def still_there(self) -> bool:
        """Whether a fresh look found something, or could not look where it should."""
        return self.result not in (Result.ABSENT, Result.KEPT)

    def to_data(self) -> dict[str, Any]:
        return {
            "store": self.store,
            "result": self.result.value,
            "count": self.count,
            "places": list(self.places),
            "reason": self.reason,
            "retained": [dict(each) for each in self.retained],
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Outcome":
        """What `to_data` wrote, of this version or of one that had three results."""
        return cls(
            store=data["store"],
            result=_read_result(data),
            count=data["count"],
            places=tuple(data["places"]),
            reason=data["reason"],
            retained=tuple(data.get("retained", ())),
        )


_STAYED = "stays: only its use for this purpose ends"  # how "kept" was written before


def _read_result(data: Mapping[str, Any]) -> Result:
    """Marks and receipts of earlier versions know "nothing found" and "not attempted"."""
    written = data["result"]
    if written == "nothing found":
        return Result.ABSENT
    if written != "not attempted":
        return Result(written)
    if data["reason"] == _STAYED:
        return Result.KEPT
    return Result.PRESENT if data["count"] else Result.UNREACHABLE


@dataclass(frozen=True)
class Traces:
    """What leads to one person: to search stores for. Held in memory alone, never shown.

    `identifiers` are the values of the person's own identifier columns (name, e-mail, …);
    `token` is None for a person whom the vault does not know.
    """

    key: str = field(repr=False)
    token: int | None = field(repr=False)
    identifiers: tuple[str, ...] = field(repr=False, default=())
