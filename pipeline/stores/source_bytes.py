"""Looks for a person in the bytes of a SQLite file: what no statement can see any more.

A deleted or changed row's old bytes stay in free pages, in the gaps within pages and in the
write-ahead log until something overwrites them.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import sqlalchemy as sa

from pipeline.params import Params, resolve_secret
from pipeline.stores.source_mentions import Terms, together
from pipeline.stores.source_writer import Writer

_BLOCK = 2**23


def residue(writer: Writer, params: Params, terms: Terms) -> bool:
    """Whether values of the person lie in the source's SQLite file, but in no row of it.

    A value that a row still has, as part of somebody else's longer one or kept by law, is
    not told from its own residue, and does not count.
    """
    if writer.graph.dialect != "sqlite":
        return False
    url = resolve_secret(params.source.url)
    if url.partition(":")[0] in ("csv", "parquet"):
        return False  # a copy made a moment ago
    path = Path(str(sa.make_url(url).database))
    needles = [value.encode().lower() for value in terms.values]
    seen = {needle for file in _files(path) for needle in _found(file, needles)}
    return any(
        not _is_live(writer, value) for value in terms.values if value.encode().lower() in seen
    )


def _files(path: Path) -> list[Path]:
    beside = [path.with_name(path.name + suffix) for suffix in ("-wal", "-journal")]
    return [path, *(file for file in beside if file.exists())]


def _found(path: Path, needles: Sequence[bytes]) -> Iterator[bytes]:
    """The needles that are in a file, in any case of ASCII letters."""
    longest = max(map(len, needles), default=1)
    left = set(needles)
    tail = b""
    with path.open("rb") as file:
        while left and (block := file.read(_BLOCK)):
            text = (tail + block).lower()
            for needle in [each for each in left if each in text]:
                left.discard(needle)
                yield needle
            tail = text[-longest:]


def _is_live(writer: Writer, value: str) -> bool:
    """Whether any row still has the value, if only inside a longer one."""
    inside = "%" + re.sub(r"([%_\\])", r"\\\1", value) + "%"
    names = sorted(writer.graph.tables, key=lambda name: name != writer.graph.subject)
    for name in names:
        table = writer.table(name)
        texts = [
            table.c[c] for c, each in writer.graph.tables[name].columns.items() if each.holds_text
        ]
        if not texts:
            continue
        condition = together(texts, writer.graph.dialect).like(inside, escape="\\")
        found = sa.select(sa.literal(1)).select_from(table).where(condition).limit(1)
        if writer.connection.execute(found).all():
            return True
    return False
