"""What one file says about people: which tokens are in it, and the file without some of them.

Knows the two forms in which the pipeline keeps tokens: Parquet with a `token` column, and Roaring
bitmaps. Recognized by their bytes, since DVC's objects have no names.
"""

import io
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyroaring import BitMap

from lethe.stores.dvc.manifest import Manifest, NotAManifest

TOKEN = "token"  # noqa: S105 - the column of shards
PARQUET = b"PAR1"
_DAMAGED = (pa.ArrowException, OSError, EOFError)
_FEW = 1000  # tokens that are looked for one by one rather than by opening the whole set


class Unreadable(ValueError):
    """A file looks like one that holds people, and cannot be opened as such."""


def holds(source: bytes | Path, tokens: BitMap) -> bool:
    """Whether a file has any of the tokens in it.

    Raises:
        Unreadable: it is a damaged Parquet file.
    """
    return bool(held_of(source, tokens))


def held_of(source: bytes | Path, tokens: BitMap) -> BitMap:
    """Which of the tokens a file has in it.

    Raises:
        Unreadable: it is a damaged Parquet file.
    """
    if _head(source) == PARQUET:
        return _tokens_of(source) & tokens
    try:
        manifest = Manifest(source) if isinstance(source, bytes) else Manifest.opened(source)
    except NotAManifest:
        return BitMap()
    if len(tokens) <= _FEW:
        return BitMap([token for token in tokens if token in manifest])
    content = source if isinstance(source, bytes) else source.read_bytes()
    return BitMap.deserialize(content) & tokens


def everybody_in(content: bytes) -> BitMap:
    """All tokens in a shard or manifest; none in any other file.

    Raises:
        Unreadable: it is a damaged Parquet file.
    """
    if content[:4] == PARQUET:
        return _tokens_of(content)
    try:
        Manifest(content)
    except NotAManifest:
        return BitMap()
    return BitMap.deserialize(content)


def without(content: bytes, tokens: BitMap) -> bytes:
    """The same file, written anew, of everybody but these people.

    Guarantees: no row, statistic, dictionary or container of the result is of these people. A
        shard has the very bytes that pseudonymize writes for those who remain.
    Raises:
        Unreadable: it is neither a shard nor a manifest.
    """
    if content[:4] != PARQUET:
        try:
            Manifest(content)
        except NotAManifest as error:
            raise Unreadable(f"not a manifest: {error}") from None
        return (BitMap.deserialize(content) - tokens).serialize()
    try:
        table = pq.read_table(io.BytesIO(content))
    except _DAMAGED:
        raise Unreadable("a damaged Parquet file") from None
    if TOKEN not in table.column_names:
        raise Unreadable("a Parquet file without tokens")
    column = table[TOKEN]
    gone = pc.is_in(column, value_set=pa.array(tokens.to_array(), type=column.type))
    kept = table.filter(pc.invert(gone))
    # A dictionary that is kept apart from the rows would keep the values that went.
    plain = [
        column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for column in kept.columns
    ]
    target = io.BytesIO()
    pq.write_table(
        pa.table(dict(zip(kept.column_names, plain, strict=True))).combine_chunks(),
        target,
        compression="zstd",
    )
    return target.getvalue()


def texts(content: bytes) -> Iterable[tuple[str, pa.ChunkedArray]]:
    """The text columns of a Parquet file by name, decoded; nothing for any other file.

    Raises:
        Unreadable: it is a damaged Parquet file.
    """
    if content[:4] != PARQUET:
        return
    try:
        table = pq.read_table(io.BytesIO(content))
    except _DAMAGED:
        raise Unreadable("a damaged Parquet file") from None
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            yield name, column


def _head(source: bytes | Path) -> bytes:
    if isinstance(source, bytes):
        return source[:4]
    with source.open("rb") as file:
        return file.read(4)


def _tokens_of(source: bytes | Path) -> BitMap:
    """The tokens in a Parquet file; none if it has no such column of whole numbers."""
    try:
        file = pq.ParquetFile(io.BytesIO(source) if isinstance(source, bytes) else source)
        kind = file.schema_arrow.field(TOKEN).type if TOKEN in file.schema_arrow.names else None
        if kind is None or not pa.types.is_integer(kind):
            return BitMap()
        column = file.read(columns=[TOKEN])[TOKEN].combine_chunks()
    except _DAMAGED:
        raise Unreadable("a damaged Parquet file") from None
    known = pc.unique(column.drop_null()).cast(pa.int64()).to_numpy()
    return BitMap(known[(known >= 0) & (known < 2**32)].astype("uint32"))
