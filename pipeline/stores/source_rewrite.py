"""A folder of CSV or Parquet files as a source that people can be erased from."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.params import Params


@contextmanager
def readable(params: Params) -> Iterator[Path | None]:
    """A folder's private copy as a SQLite file; None for a database, which is read itself."""
    yield None
