"""How a consent table spells purposes: which of them are the declared one, or might be."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.text import folded
from lethe.stores.source.queries import table_of
from lethe.stores.source.reader import Reader

_NEAR = 0.8  # of difflib's ratio: a letter or two in a word of eight


@dataclass(frozen=True)
class Purposes:
    """The purposes of a consent table as its database has them, sorted out.

    `own`: the declared one, in any case and with any blanks. `every`: declared to end consent
    for all purposes. `near`: so like the declared one that it may be meant. `empty`: none.
    `others`: all else.
    """

    own: tuple[str, ...]
    every: tuple[str | None, ...]
    near: tuple[str, ...]
    empty: tuple[str | None, ...]
    others: tuple[str, ...]


def spelled(table: sa.FromClause, params: Params) -> sa.ColumnElement[str]:
    """The purpose as text, whatever its type; CHAR without the blanks that fill it up."""
    return sa.cast(table.c[params.consent.purpose], sa.Text())


def is_one_of(
    purpose: sa.ColumnElement[str], spellings: Iterable[str | None]
) -> sa.ColumnElement[bool]:
    """The condition for rows of these purposes, of which one may be null."""
    known = list(spellings)
    found = purpose.in_([each for each in known if each is not None])
    return sa.or_(found, purpose.is_(None)) if None in known else found


def purposes(reader: Reader, params: Params) -> Purposes:
    """Sorts out what the consent table has; reads no answer."""
    column = spelled(table_of(params, params.consent.table), params)
    asked: list[str | None] = []
    for frame in reader.stream(sa.select(column.label("purpose")).distinct()):
        asked += [None if each is None else str(each) for each in frame["purpose"]]
    return sorted_out(asked, params)


def sorted_out(asked: Iterable[str | None], params: Params) -> Purposes:
    """Which of these purposes is which."""
    every = {folded(each) for each in params.consent.every_purpose}
    other = {folded(each) for each in params.consent.other_purposes}
    goal = folded(params.purpose)
    found: dict[str, list[str | None]] = {}
    for each in asked:
        said = folded(each or "")
        if said == goal:
            kind = "own"
        elif said in every:
            kind = "every"
        elif said in other:
            kind = "others"
        elif not said:
            kind = "empty"
        else:
            kind = "near" if _is_near(said, goal) else "others"
        found.setdefault(kind, []).append(each)

    def texts(kind: str) -> tuple[str, ...]:
        return tuple(sorted(each for each in found.get(kind, ()) if each is not None))

    return Purposes(
        own=texts("own"),
        every=tuple(found.get("every", ())),
        near=texts("near"),
        empty=tuple(found.get("empty", ())),
        others=texts("others"),
    )


def _is_near(said: str, goal: str) -> bool:
    """`study-1` and `study-2` differ on purpose; `re search` and `research` by mistake."""
    one, two = ("".join(filter(str.isalnum, text)) for text in (said, goal))
    if one == two:
        return True
    digits = [[c for c in text if c.isdigit()] for text in (one, two)]
    return digits[0] == digits[1] and difflib.SequenceMatcher(None, one, two).ratio() >= _NEAR
