"""Looking for a person in bytes: what of their traces can be sought where.

Whole names, addresses and long keys are sought anywhere, in any case of letters. A short value
(a key such as 42) is in any file by chance, so it is sought only where it is a value of its own:
a cell of text, or a quoted string.
"""

import gzip
import json
import zlib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.records import Traces

_ANYWHERE_FROM = 6  # bytes
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Needles:
    """Values to look for. Held in memory alone, never shown."""

    anywhere: tuple[bytes, ...]
    as_values: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"Needles({len(self.anywhere) + len(self.as_values)} values)"

    def __bool__(self) -> bool:
        return bool(self.anywhere or self.as_values)

    def in_bytes(self, content: bytes) -> bool:
        """Whether a file has one of them; what gzip packed is looked into as well."""
        lowered = content.lower()
        if any(needle in lowered for needle in self.anywhere):
            return True
        if any(b'"' + needle + b'"' in lowered for needle in self.as_values):
            return True
        unpacked = _unpacked(content)
        return unpacked is not None and self.in_bytes(unpacked)

    def in_text(self, text: str) -> bool:
        """Whether a value of a database has one of them, or is one."""
        content = text.encode().lower()
        return content in self.as_values or self.in_bytes(content)

    def in_column(self, column: pa.ChunkedArray) -> bool:
        """Whether a text column of a Parquet file has one of them."""
        distinct = pc.unique(column.drop_null()).to_pylist()
        return any(self.in_text(str(each)) for each in distinct)


def needles(traces: Traces | None) -> Needles:
    """What to look for of a person: key and identifiers, as they are and as JSON spells them."""
    if traces is None:
        return Needles((), ())
    spelled = set()
    for value in (traces.key, *traces.identifiers):
        text = value.strip()
        if text:
            spelled |= {text.lower().encode(), json.dumps(text)[1:-1].lower().encode()}
    return Needles(
        tuple(sorted(each for each in spelled if len(each) >= _ANYWHERE_FROM)),
        tuple(sorted(each for each in spelled if len(each) < _ANYWHERE_FROM)),
    )


def _unpacked(content: bytes) -> bytes | None:
    if content[:2] != _GZIP:
        return None
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return None
