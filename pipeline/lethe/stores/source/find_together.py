"""Finding people by a key of several columns, however each part of it is spelled."""

from collections.abc import Iterator, Sequence
from contextlib import closing

import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.text import folded
from lethe.stores.source import queries
from lethe.stores.source.alike import may_be_one_of
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
        for key in asked:
            parts = apart(key, count)
            if parts is None:
                continue
            own = tuple(map(_as_number, parts, spellings))
            said[key] = together(own)
            meant.setdefault(tuple(map(folded, own)), []).append(key)
        found: dict[str, list[str]] = {}
        for some in chunks(list(meant), AT_ONCE):
            for subject in _alike(reader, params, some):
                parts = apart(subject, count)
                for key in meant.get(tuple(map(folded, parts)), ()) if parts else ():
                    found.setdefault(key, []).append(subject)
    made: dict[str, list[str]] = {}
    for key in asked:
        own_key = said.get(key, key)
        alike = sorted(set(found.get(key, ())))
        made[key] = [own_key] if own_key in alike or not alike else alike
    return made


def _as_number(part: str, spelling: NumberKeys | None) -> str:
    """A part as its column spells it, where that is one of numbers."""
    number = plain_number(part)
    if number is None or spelling is None:
        return part
    return spelling.spelled(number) or part


def _alike(reader: Reader, params: Params, words: Sequence[Parts]) -> Iterator[str]:
    """Everybody whose parts the database takes for those of one of the keys, or cannot be sure."""
    table = queries.table_of(params, params.subject.table)
    parts = [table.c[key] for key in params.subject.keys]
    may = [
        may_be_one_of(sa.cast(part, sa.Text()), dict.fromkeys(said), reader.dialect)
        for part, said in zip(parts, zip(*words, strict=True), strict=True)
    ]
    statement = sa.select(*queries.labelled(parts)).where(*may)
    for frame in reader.stream(statement):
        yield from queries.subjects_in(frame).dropna()
