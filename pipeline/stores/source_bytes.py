"""Looks for a person in the bytes of a SQLite file: what no statement can see any more.

A deleted or changed row's old bytes stay in free pages, in the gaps within pages and in the
write-ahead log until something overwrites them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import sqlalchemy as sa

from pipeline.params import Params, resolve_secret
from pipeline.stores.source_mentions import Terms
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
    for table, facts in writer.graph.tables.items():
        clause = writer.table(table)
        inside = [
            sa.func.instr(sa.func.lower(clause.c[column]), sa.func.lower(value)) > 0
            for column in facts.columns
        ]
        if writer.connection.execute(
            sa.select(sa.literal(1)).where(sa.or_(*inside)).limit(1)
        ).all():
            return True
    return False
