"""The shards' files, and who in them may train; no tensors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyroaring import BitMap

from lethe.core.errors import FileDamaged, NotFound
from lethe.core.files import RESTORE, parse_people


def shard_paths(folder: Path) -> list[Path]:
    """The shards' files in order.

    Raises:
        NotFound: there is none.
    """
    paths = sorted(folder.glob("shard-*.parquet"))
    if not paths:
        raise NotFound(
            f"{folder} has no shards. Run the pipeline up to them first: lethe pseudonymize."
        )
    return paths


def eligible_people(paths: Sequence[Path]) -> BitMap:
    """Tokens of everybody in the shards who is not held out."""
    eligible = BitMap()
    for path in paths:
        table = read_shard(path, ["token", "held_out"])
        tokens = table["token"].to_numpy().astype(np.uint32)
        eligible |= BitMap(tokens[~table["held_out"].to_numpy().astype(bool)])
    return eligible


def held_out_people(paths: Sequence[Path]) -> BitMap:
    """Tokens of everybody in the shards who is held out."""
    held_out = BitMap()
    for path in paths:
        table = read_shard(path, ["token", "held_out"])
        tokens = table["token"].to_numpy().astype(np.uint32)
        held_out |= BitMap(tokens[table["held_out"].to_numpy().astype(bool)])
    return held_out


def read_people(path: Path) -> BitMap:
    """The tokens in a manifest.

    Raises:
        FileDamaged: it is not one.
    """
    return parse_people(path.read_bytes(), of=str(path))


def read_shard(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A file of records that a stage wrote.

    Raises:
        FileDamaged: it is none, or lacks one of the columns.
    """
    try:
        return pq.read_table(path, columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise FileDamaged(f"{path} has no records, as Lethe writes them. {RESTORE}") from None
