"""How rows of one table point at rows of another: declared links, and chains of them."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from lethe.core.values import canonical_text

_CLOSED = ConfigDict(extra="forbid")

NOBODY = "nobody"  # where a link leads that leads to no declared row

When = tuple[tuple[str, tuple[str, ...]], ...]  # column of the row → its values; all of them
Word = str | bool | int


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class DeclaredLink:
    """Where a link leads, and for which rows: those whose columns have one of these values.

    `to`: `table.column`, or `nobody` for rows that point at nothing declared.
    `when`: column of the same row → a value, or several; without it the link holds for every row.
    """

    to: str
    when: dict[str, Word | tuple[Word, ...]] = Field(default_factory=dict)

    @property
    def condition(self) -> When:
        return condition_of(self.when)


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Link:
    """Rows of one table, those that `when` holds for, point at a row of another (many to one)."""

    columns: tuple[str, ...]
    table: str
    references: tuple[str, ...]
    when: When = ()


class LinkedTable(Protocol):
    """As much of a declared table as chains of links need."""

    @property
    def parsed_links(self) -> tuple[Link, ...]: ...


def condition_of(declared: Mapping[str, Word | tuple[Word, ...]]) -> When:
    """A condition as it is compared: each value in the one spelling."""
    return tuple(
        (column, tuple(map(canonical_text, said if isinstance(said, tuple) else (said,))))
        for column, said in declared.items()
    )


def holds(when: When, values: Mapping[str, Any]) -> bool:
    """Whether a row is one that a condition is about; as `queries.held` asks a database."""
    return all(
        values[column] is not None and canonical_text(values[column]).rstrip(" ") in wanted
        for column, wanted in when
    )


def as_declared(value: Any) -> Any:
    """A link as it may be written (`table.column`, one mapping, or several) as several."""
    if isinstance(value, str):
        return [{"to": value}]
    return [value] if isinstance(value, Mapping | DeclaredLink) else value


def parse_links(own: str, declared: Iterable[DeclaredLink]) -> tuple[tuple[str, ...], list[Link]]:
    """One key of `links`: its own columns, and where they lead.

    Raises:
        ValueError: a target is not written as one, or two of the links can hold for one row.
    """
    columns = tuple(part.strip() for part in own.split(","))
    found = []
    several = list(declared)
    for each in several:
        if each.to != NOBODY:
            found.append(_parsed(own, columns, each))
    if not several or (not several[0].when and several[0].to == NOBODY):
        raise ValueError(f"link {own!r}: name the table.column that it leads to")
    if len(several) > 1 and not all(each.when for each in several):
        raise ValueError(f"link {own!r}: of several links each needs `when`: the rows it holds for")
    if any(not wanted or "" in wanted for each in several for _, wanted in each.condition):
        raise ValueError(f"link {own!r}: `when` needs a value for each column that it names")
    for place, one in enumerate(several):
        for other in several[:place]:
            if not _apart(one.condition, other.condition):
                raise ValueError(
                    f"link {own!r}: its links to {other.to} and {one.to} can hold for one row. "
                    "Give `when` of each other values of one column"
                )
    return columns, found


def _parsed(own: str, columns: tuple[str, ...], declared: DeclaredLink) -> Link:
    targets = [part.strip() for part in declared.to.split(",")]
    # The last dot: a table may be of another schema, `schema.table.column`.
    parts = [target.rpartition(".") for target in targets]
    if not all(table and column for table, _, column in parts):
        raise ValueError(f"link {own!r}: write the target as table.column, not {declared.to!r}")
    tables = {table for table, _, _ in parts}
    if len(tables) != 1 or len(columns) != len(targets):
        raise ValueError(f"link {own!r} → {declared.to!r}: one table, as many columns each side")
    references = tuple(column for _, _, column in parts)
    return Link(columns=columns, table=tables.pop(), references=references, when=declared.condition)


def _apart(one: When, other: When) -> bool:
    """Whether no row can be one that both conditions are about."""
    others = dict(other)
    return any(not set(wanted) & set(others.get(column, wanted)) for column, wanted in one)


def paths_between(
    tables: Mapping[str, LinkedTable], start: str, goal: str, *, seen: frozenset[str] = frozenset()
) -> tuple[tuple[Link, ...], ...]:
    """The chains of many-to-one links from a table to another; empty without one.

    The shortest chain of links that hold for every row. Without one, a chain for each way that
    a row can go at a link with conditions: for one row at most one of them holds.

    Raises:
        ValueError: links with conditions lead back to a table that they come from.
    """
    straight = _shortest(tables, start, goal, conditional=False)
    if straight is not None:
        return (straight,)
    chain = _shortest(tables, start, goal, conditional=True)
    if chain is None:
        return ()
    first = chain[0]
    found: list[tuple[Link, ...]] = []
    for link in tables[start].parsed_links:
        if link != first and not (first.when and link.when and link.columns == first.columns):
            continue
        if link.table in seen | {start}:
            raise ValueError(
                f"tables.{start}: the link {', '.join(link.columns)} to {link.table} leads back to "
                "where it comes from, so whose a row is could not be asked of the source. Declare "
                f"a link of {start} to {goal} that holds for every row"
            )
        rest = paths_between(tables, link.table, goal, seen=seen | {start})
        found += [(link, *each) for each in rest]
    return tuple(found)


def _shortest(
    tables: Mapping[str, LinkedTable], start: str, goal: str, *, conditional: bool
) -> tuple[Link, ...] | None:
    frontier: list[tuple[str, tuple[Link, ...]]] = [(start, ())]
    seen = {start}
    while frontier:
        here, links = frontier.pop(0)
        if here == goal:
            return links
        for link in tables[here].parsed_links:
            if link.table not in seen and (conditional or not link.when):
                seen.add(link.table)
                frontier.append((link.table, (*links, link)))
    return None
