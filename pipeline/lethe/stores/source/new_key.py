"""What becomes of a person's key in rows that stay: another key, or none that leads to them.

Where the key has several columns, some of them may be in other links as well (a clinic's number,
by which rows lead to the clinic): these stay as they are, if they do not name the person alone.
"""

import datetime as dt
import secrets
from collections.abc import Collection, Sequence
from decimal import Decimal
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.errors import ErasureRefused
from lethe.core.values import canonical_text
from lethe.stores.source.edge import Columns
from lethe.stores.source.forms import key_forms
from lethe.stores.source.graph import Graph
from lethe.stores.source.mentions import is_identifying
from lethe.stores.source.writer import Row, Writer

ERASED = "erased"  # where text must stand and nothing may be revealed
_SHORTEST = 6  # letters that hardly anybody else is given
_DAYS = 300_000  # of the first centuries


def changing_places(writer: Writer, params: Params, row: Row) -> list[int]:
    """Which parts of the key of the person's own row get another value: those that
    `erase.columns` names; without one all that are in no other link.

    Guarantees: a part that stays is named nowhere to be blanked, and names nobody by itself.

    Raises:
        ErasureRefused: a part that must change is in another link too, or can have no other value.
    """
    graph = writer.graph
    if len(graph.key) == 1:
        return [0]
    erase = params.tables[graph.subject].erase
    named = [n for n, column in enumerate(graph.key) if erase and column in erase.columns]
    why = {place: _why_it_stays(graph, place, row) for place in range(len(graph.key))}
    chosen = named or [place for place, reason in why.items() if reason is None]
    for place, column in enumerate(graph.key):
        alone = _names_alone(writer, row, graph.key, place)
        if (reason := why[place]) is not None and (place in named or alone):
            raise ErasureRefused(
                f"{graph.subject}.{column} is a part of the person's key that cannot get another "
                f"value: {reason}. "
                + ("Take it out of erase.columns" if not alone else "It names the person by itself")
                + f", or declare delete for {graph.subject}."
            )
        if alone and place not in chosen:
            raise ErasureRefused(
                f"{graph.subject}.{column} is a part of the person's key and names them by itself. "
                f"Add it to erase.columns, or declare delete for {graph.subject}."
            )
    if not chosen:
        raise ErasureRefused(
            f"No column of the key of {graph.subject} ({', '.join(graph.key)}) can get another "
            f"value: {why[0]}. Declare delete for {graph.subject}."
        )
    return chosen


def _why_it_stays(graph: Graph, place: int, row: Row) -> str | None:
    for table, columns in graph.carrying:
        if (other := _other_link(graph, table, columns, [columns[place]])) is not None:
            return f"{other} has it too"
    facts = graph.facts(graph.subject, graph.key[place])
    if facts.generated:
        return "the database itself makes it"
    made = surrogate(row.values[graph.key[place]], facts.type)
    if made is None or (isinstance(made, str) and len(made) < _SHORTEST):
        return "its type has no value that surely nobody has"
    return None


def _other_link(graph: Graph, table: str, columns: Columns, some: Collection[str]) -> str | None:
    """A link that has some columns of a key, and not all of the key."""
    for edge in graph.out_of[table]:
        if set(some) <= set(edge.columns) and not set(columns) <= set(edge.columns):
            return f"the link {table}.({', '.join(edge.columns)})"
    for edge in graph.into[table]:
        if set(some) <= set(edge.references) and not set(columns) <= set(edge.references):
            return f"the link {edge.child}.({', '.join(edge.columns)})"
    return None


def cut_columns(
    writer: Writer,
    row: Row,
    columns: Columns,
    given: Collection[str] = (),
) -> list[str] | None:
    """Which of the columns that hold the person's key to blank, so that they lead to nobody.

    Guarantees: no part that is left names anybody by itself; all of them together are in one other
        link, or also somebody else's. None if that cannot be had.

    Args:
        given: columns that a value is declared for.
    """
    graph = writer.graph
    free = [c for c in columns if c in given or graph.facts(row.table, c).nullable]
    if len(columns) == 1:
        return free or None
    alone = {c for n, c in enumerate(columns) if _names_alone(writer, row, columns, n)}
    shared = {c for c in columns if _other_link(graph, row.table, columns, [c])}
    chosen = [c for c in free if c in alone or c not in shared]
    left = [place for place, c in enumerate(columns) if c not in chosen]
    if not chosen or any(columns[place] in alone for place in left):
        return None
    # Together they may name one person although each is many people's.
    linked = _other_link(graph, row.table, columns, [columns[place] for place in left])
    return chosen if not left or linked or _is_anothers(writer, row, columns, left) else None


def _names_alone(writer: Writer, row: Row, columns: Columns, place: int) -> bool:
    """Whether a part of a key can be looked for by itself, and is nobody else's."""
    text = canonical_text(row.values[columns[place]])
    return is_identifying(text) and not _is_anothers(writer, row, columns, [place])


def _is_anothers(writer: Writer, row: Row, columns: Columns, places: Sequence[int]) -> bool:
    """Whether somebody else's key has the same values at these places."""
    graph = writer.graph
    said, own = graph.said(row.table, columns, row.values), [graph.key[n] for n in places]
    parts = [canonical_text(row.values[columns[n]]) for n in places]
    types = [graph.facts(graph.subject, column).type for column in own]
    forms = [key_forms(p, t, graph.dialect) for p, t in zip(parts, types, strict=True)]
    typed = all(each is not None for each in forms)
    values = list(product(*(each or () for each in forms))) if typed else [tuple(parts)]
    found = writer.find(graph.subject, own, values, spelled_alike=typed, limit=2)
    return any(graph.said(graph.subject, graph.key, each.values) != said for each in found)


def surrogate(key: Any, declared: sa.types.TypeEngine[Any]) -> Any:
    """A random key of the same kind that no living person has: negative, `erased-…`, a day of the
    first centuries; None where a type has no such value."""
    if isinstance(declared, sa.Boolean | sa.Enum) or isinstance(key, bool):
        return None
    if isinstance(key, UUID):
        return uuid4()
    if isinstance(key, int | Decimal):
        number = -1 - secrets.randbelow(_most(declared))
        return Decimal(number) if isinstance(key, Decimal) else number
    if isinstance(key, dt.date):
        day = dt.datetime.min + dt.timedelta(days=secrets.randbelow(_DAYS))
        return day if isinstance(key, dt.datetime) else day.date()
    name = f"{ERASED}-{secrets.token_hex(8)}"
    length = getattr(declared, "length", None)
    if length is None and isinstance(declared, sa.CHAR):
        length = len(key)  # of a domain: what is read is filled to it
    return name if length is None or length >= len(name) else secrets.token_hex(16)[:length]


def _most(declared: sa.types.TypeEngine[Any]) -> int:
    """How many negative numbers a type surely has, up to those of 32 bits."""
    if isinstance(declared, sa.SmallInteger):
        return 2**15 - 1
    if isinstance(declared, sa.Numeric) and declared.precision is not None:
        whole = declared.precision - (declared.scale or 0)
        return max(1, min(2**31, 10 ** max(0, whole)) - 1)
    return 2**31 - 1
