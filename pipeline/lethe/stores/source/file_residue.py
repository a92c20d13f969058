"""Looks for a person in the bytes of a SQLite file: what no statement can see any more.

A deleted or changed row's old bytes stay in free pages, in the gaps within pages and in the
write-ahead log until something overwrites them.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.text import spellings
from lethe.stores.search.automaton import AnyOf, literal, pattern_of
from lethe.stores.source.mentions import Terms
from lethe.stores.source.text_scan import as_one, rows_with
from lethe.stores.source.writer import Writer

_BLOCK = 2**23


def residue(writer: Writer, params: Params, people: Mapping[Any, Terms]) -> bool:
    """Whether values of the people lie in the source's SQLite file, but in no row of it.

    A value that a row still has, as part of somebody else's longer one or kept by law, is
    not distinguished from its own residue, and does not count. One pass over the file for all
    of them.
    """
    if writer.graph.dialect != "sqlite" or not people:
        return False
    url = params.address(params.source.url)
    if url.partition(":")[0] in ("csv", "parquet"):
        return False  # a copy made a moment ago
    path = Path(str(sa.make_url(url).database))
    said = (each for terms in people.values() for each in terms.values)
    values = {form.encode().lower(): form for each in said for form in spellings(each)}
    seen = {needle for file in _files(path) for needle in _found(file, values)}
    return bool(seen - _live(writer, {needle: values[needle] for needle in seen}))


def _files(path: Path) -> list[Path]:
    beside = [path.with_name(path.name + suffix) for suffix in ("-wal", "-journal")]
    return [path, *(file for file in beside if file.exists())]


def _found(path: Path, needles: Iterable[bytes]) -> Iterator[bytes]:
    """The needles that are in a file, in any case of ASCII letters."""
    left = set(needles)
    longest = max(map(len, left), default=1)
    sought = AnyOf.of_bytes(left)
    tail = b""
    with path.open("rb") as file:
        while left and (block := file.read(_BLOCK)):
            text = tail + block
            tail = text[-longest:]
            if sought.is_in(text):
                lowered = text.lower()
                for needle in [each for each in left if each in lowered]:
                    left.discard(needle)
                    yield needle


def _live(writer: Writer, values: Mapping[bytes, str]) -> set[bytes]:
    """Those that any row still has, if only inside a longer one."""
    left = set(values)
    inside = ["%" + re.sub(r"([%_\\])", r"\\\1", value) + "%" for value in values.values()]
    sought = AnyOf.of_texts(pattern_of(literal(value)) for value in values.values())

    def may(whole: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
        return sa.or_(*(whole.like(each, escape="\\") for each in inside))

    names = sorted(writer.graph.tables, key=lambda name: name != writer.graph.subject)
    for name in names:
        texts = [c for c, each in writer.graph.tables[name].columns.items() if each.holds_text]
        if texts and left:
            for _, found in rows_with(writer, name, texts, sought, may):
                whole = as_one(found.values()).encode().lower()
                left -= {needle for needle in left if needle in whole}
                if not left:
                    break
    return set(values) - left
