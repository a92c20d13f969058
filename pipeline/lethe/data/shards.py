"""The shards' files, and who in them may train; no tensors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from pyroaring import BitMap

from lethe.core.errors import FileDamaged, NotFound
from lethe.core.files import RESTORE


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
        table = pq.read_table(path, columns=["token", "held_out"])
        tokens = table["token"].to_numpy().astype(np.uint32)
        eligible |= BitMap(tokens[~table["held_out"].to_numpy().astype(bool)])
    return eligible


def read_people(path: Path) -> BitMap:
    """The tokens in a manifest.

    Raises:
        FileDamaged: it is not one.
    """
    try:
        return BitMap.deserialize(path.read_bytes())
    except ValueError:
        raise FileDamaged(f"{path} is no list of people, as Lethe writes it. {RESTORE}") from None
