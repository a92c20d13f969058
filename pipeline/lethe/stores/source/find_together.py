"""Finding people by a key of several columns, however each part of it is spelled."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import repeat

import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.text import folded
from lethe.core.values import canonical_text
from lethe.stores.source import queries
from lethe.stores.source.alike import may_have_one_of
from lethe.stores.source.forms import Type, bare, key_forms
from lethe.stores.source.number_keys import NumberKeys, plain_number
from lethe.stores.source.person_key import Parts, apart, together
from lethe.stores.source.reader import Reader
from lethe.stores.source.writer import AT_ONCE, chunks


def keys_together(params: Params, asked: Sequence[str]) -> dict[str, list[str]]:
    """The keys of several columns that each of these may mean; see `keys_spelled`.

    Guarantees: one pass over the people for up to 500 keys, whether they are anybody's or not.

    Raises:
        SourceUnavailable: the source does not answer.
    """
    count = len(params.subject.keys)
    meant: dict[Parts, list[str]] = {}  # as its folded parts → the keys that were asked for
    said: dict[str, str] = {}
    with closing(Reader(params)) as reader:
        spellings = reader.number_keys()
        types = _types(reader, params)
        for key in asked:
            parts = apart(key, count)
            if parts is None:
                continue
            own = tuple(map(_as_column_has_it, parts, spellings, types, repeat(reader.dialect)))
            said[key] = together(own)
            meant.setdefault(tuple(map(folded, own)), []).append(key)
        found: dict[str, list[str]] = {}
        for some in chunks(list(meant), AT_ONCE):
            for subject in _alike(reader, params, some, types):
                parts = apart(subject, count)
                for key in meant.get(tuple(map(folded, parts)), ()) if parts else ():
                    found.setdefault(key, []).append(subject)
    made: dict[str, list[str]] = {}
    for key in asked:
        own_key = said.get(key, key)
        alike = sorted(set(found.get(key, ())))
        made[key] = [own_key] if own_key in alike or not alike else alike
    return made


def _types(reader: Reader, params: Params) -> list[Type]:
    """Of each column of the key; one that says nothing where the values are what they are."""
    if reader.dialect == "sqlite":
        return [sa.types.NullType() for _ in params.subject.keys]
    declared = reader.types(params.subject.table)
    return [bare(declared.get(key, sa.types.NullType())) for key in params.subject.keys]


def _as_column_has_it(part: str, spelling: NumberKeys | None, declared: Type, dialect: str) -> str:
    """A part as its column spells it where its type has one text for each value: a number, a
    moment (`2026-01-01 10:00` and `2026-01-01T10:00:00`), a UUID."""
    number = plain_number(part)
    if number is not None and spelling is not None:
        part = spelling.spelled(number) or part
    if dialect == "sqlite" or isinstance(declared, sa.String | sa.Numeric):
        return part
    forms = key_forms(part, declared, dialect)
    return canonical_text(forms[0]) if forms else part


def _alike(
    reader: Reader, params: Params, words: Sequence[Parts], types: Sequence[Type]
) -> Iterator[str]:
    """Everybody whose parts the database takes for those of one of the keys, or cannot be sure."""
    table = queries.table_of(params, params.subject.table)
    parts = [table.c[key] for key in params.subject.keys]
    may = [
        may_have_one_of(part, dict.fromkeys(said), declared, reader.dialect)
        for part, said, declared in zip(parts, zip(*words, strict=True), types, strict=True)
    ]
    statement = sa.select(*queries.labelled(parts)).where(*may)
    for frame in reader.stream(statement):
        yield from queries.subjects_in(frame).dropna()
