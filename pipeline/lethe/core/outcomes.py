"""Frozen facts that cross stores and the rights that are exercised over them."""

from dataclasses import dataclass, field
from typing import Any, Literal

Result = Literal["erased", "nothing found", "not attempted"]


@dataclass(frozen=True)
class Outcome:
    """What one store did, or found, about one person; it names nobody.

    `store` is the store's name in receipts (`source`, `vault`, `cache`, `remote local`, …);
    `places` are table names, object hashes or model versions, never a value of a person;
    `count` how many rows or objects there were. `reason` is given whenever something was not
    attempted. `retained` says what stays by law: `{table, basis, until, count}` each.
    """

    store: str
    result: Result
    count: int = 0
    places: tuple[str, ...] = ()
    reason: str | None = None
    retained: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.result == "not attempted" and not self.reason:
            raise ValueError(f"{self.store}: what was not attempted needs a reason")

    def to_data(self) -> dict[str, Any]:
        return {
            "store": self.store,
            "result": self.result,
            "count": self.count,
            "places": list(self.places),
            "reason": self.reason,
            "retained": [dict(each) for each in self.retained],
        }


@dataclass(frozen=True)
class Traces:
    """What leads to one person: to search stores for. Held in memory alone, never shown.

    `identifiers` are the values of the person's own identifier columns (name, e-mail, …);
    `token` is None for a person whom the vault does not know.
    """

    key: str = field(repr=False)
    token: int | None = field(repr=False)
    identifiers: tuple[str, ...] = field(repr=False, default=())
