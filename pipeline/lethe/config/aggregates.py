"""Numbers that a record has of several rows of another table: how they are declared."""

import math
from typing import Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from lethe.config.links import When, Word, condition_of

MOST_DAYS = 73_050  # two centuries: nobody's law asks for more, and every calendar has such a day
_CLOSED = ConfigDict(extra="forbid")

Function = Literal["count", "sum", "mean", "latest"]
FUNCTIONS: tuple[Function, ...] = ("count", "sum", "mean", "latest")


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Aggregate:
    """A feature of the records: one number made of rows of another table, the child rows.

    Exactly one function: `count: TABLE` (or `TABLE.COLUMN`, of rows with a value there), `sum`,
    `mean` or `latest: TABLE.COLUMN`. Counted are rows that lead to the record's person; with
    `of: record` those that lead to the record itself.
    `by`: the timestamp column of the child rows, `at`: that of the records. Only rows of a day
    before the record's are looked at; `days` says how far back, `same_day` takes that day as well.
    `when`: column of the child row → a value, or several; without it every row counts.
    `bounds`: the least and greatest number, from public knowledge; `outside` is as of a column.

    Guarantees: a child row counts for the person alone to whom its own links lead.
    """

    bounds: tuple[float, float]
    why: str
    count: str | None = None
    sum: str | None = None
    mean: str | None = None
    latest: str | None = None
    of: Literal["person", "record"] = "person"
    by: str | None = None
    at: str | None = None
    days: int | None = Field(default=None, ge=1, le=MOST_DAYS)
    same_day: bool = False
    when: dict[str, Word | tuple[Word, ...]] = Field(default_factory=dict)
    outside: Literal["clip", "reject", "null"] = "clip"

    @property
    def function(self) -> Function:
        return next(each for each in FUNCTIONS if getattr(self, each) is not None)

    @property
    def table(self) -> str:
        """The child rows' table."""
        return str(getattr(self, self.function)).partition(".")[0]

    @property
    def column(self) -> str | None:
        """Whose values count; None where rows are counted."""
        return str(getattr(self, self.function)).partition(".")[2] or None

    @property
    def condition(self) -> When:
        return condition_of(self.when)

    @model_validator(mode="after")
    def _possible(self) -> "Aggregate":
        said = [each for each in FUNCTIONS if getattr(self, each) is not None]
        if len(said) != 1:
            raise ValueError(f"name exactly one of {', '.join(FUNCTIONS)}; named: {said or 'none'}")
        if not self.why.strip():
            raise ValueError("an aggregate needs `why`: what it is needed for")
        low, high = self.bounds
        if not (low < high and math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"bounds must be two finite rising numbers, not {list(self.bounds)}")
        if self.column is None and self.function != "count":
            raise ValueError(f"{self.function} takes TABLE.COLUMN")
        if self.by is None and (self.at or self.days or self.same_day or self.function == "latest"):
            raise ValueError("at, days, same_day and latest need `by`: the day of a child row")
        if any(not wanted or "" in wanted for _, wanted in self.condition):
            raise ValueError("`when` needs a value for each column that it names")
        return self
