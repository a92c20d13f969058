"""One way from the rows of a table to those of another, and columns that hold a person's key."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lethe.config.links import When, holds

Columns = tuple[str, ...]
Carrier = tuple[str, Columns]  # a table, and its columns that hold a subject's key


@dataclass(frozen=True)
class Edge:
    """Rows of `child`, those that `when` is about, point at a row of `parent`; `enforced` by the
    database or declared only."""

    child: str
    columns: tuple[str, ...]
    parent: str
    references: tuple[str, ...]
    enforced: bool
    deferrable: bool = False
    restricts: bool = False
    when: When = ()

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether a row of `child` is one that the link is about."""
        return holds(self.when, values)
