"""Looking for a person in bytes: what of their traces can be sought where.

Whole names, addresses and long keys are sought anywhere, in any case of letters. A short value
(a key such as 42) is in any file by chance, so it is sought only where it is a value of its own:
a cell of text, or a quoted string. A key that is an ordinary word (it may be in `params.yaml`) is
sought as a key: a whole value of a column of subjects.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lethe.core.outcomes import Traces
from lethe.core.text import folded, is_ordinary_word, spellings
from lethe.stores.search.automaton import AnyOf

_ANYWHERE_FROM = 6  # bytes
_AT_ONCE = 2**23  # bytes of files that are swept together
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Needles:
    """Values to look for. Held in memory alone, never shown."""

    anywhere: tuple[bytes, ...]
    as_values: tuple[bytes, ...]
    as_keys: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        return f"Needles({len(self.anywhere) + len(self.as_values) + len(self.as_keys)} values)"

    def __bool__(self) -> bool:
        return bool(self.anywhere or self.as_values or self.as_keys)

    @property
    def spelled(self) -> tuple[bytes, ...]:
        """What a file that has one of them has in it, in some case of letters."""
        return (*self.anywhere, *(b'"' + needle + b'"' for needle in self.as_values))

    def in_bytes(self, content: bytes) -> bool:
        """Whether a file has one of them; what gzip packed is looked into as well."""
        lowered = content.lower()
        if any(needle in lowered for needle in self.spelled):
            return True
        unpacked = _unpacked(content)
        return unpacked is not None and self.in_bytes(unpacked)

    def is_key(self, text: str) -> bool:
        """Whether a subject's key is one of them."""
        return folded(text).encode() in self.as_keys

    def in_text(self, text: str) -> bool:
        """Whether a value of a database has one of them, or is one."""
        forms = dict.fromkeys((text, folded(text)))
        return any(
            content in self.as_values or self.in_bytes(content)
            for content in (form.encode().lower() for form in forms)
        )


class TextSearch:
    """Looks for several people in many files: small ones together, large ones alone.

    Guarantees: whoever `in_bytes` finds in a file is reported once `flush` has returned; each
        file's bytes are gone over once for all people.
    """

    def __init__(self, people: Sequence[Needles]) -> None:
        self._people = people
        self._sought = AnyOf.of_bytes(each for needles in people for each in needles.spelled)
        self._own = {value for needles in people for value in needles.as_values}
        self._waiting: list[tuple[bytes, Callable[[int], None]]] = []
        self._size = 0

    def __bool__(self) -> bool:
        return any(self._people)

    def add(self, content: bytes, report: Callable[[int], None]) -> None:
        """A file, and what to call with the place of each person who is in it."""
        if not self:
            return
        unpacked = _unpacked(content)
        if unpacked is not None:
            self.add(unpacked, report)
        self._waiting.append((content, report))
        self._size += len(content)
        if self._size >= _AT_ONCE:
            self.flush()

    def flush(self) -> None:
        for place in self._sought.places([content for content, _ in self._waiting]):
            content, report = self._waiting[place]
            lowered = content.lower()
            for number, needles in enumerate(self._people):
                if any(needle in lowered for needle in needles.spelled):
                    report(number)
        self._waiting, self._size = [], 0

    def in_column(self, column: pa.ChunkedArray, *, of_subjects: bool = False) -> set[int]:
        """Who is in a text column of a Parquet file.

        Args:
            of_subjects: whether its values are subjects' keys.
        """
        if not self:
            return set()
        texts = [str(each) for each in pc.unique(column.drop_null()).to_pylist()]
        likely = set(self._sought.places([text.encode() for text in texts]))
        likely |= {n for n, text in enumerate(texts) if text.encode().lower() in self._own}
        return {
            number
            for number, needles in enumerate(self._people)
            if any(needles.in_text(texts[place]) for place in likely)
            or (of_subjects and needles.as_keys and any(map(needles.is_key, texts)))
        }


def needles(traces: Traces | None) -> Needles:
    """What to look for of a person: key and identifiers, as they are and as JSON spells them.

    An ordinary word is looked for as a key only where it is the key: what somebody unknown was
    named by can be another person's key.
    """
    if traces is None:
        return Needles((), ())
    spelled: set[bytes] = set()
    keys: set[bytes] = set()
    for value in (traces.key, *traces.identifiers):
        text = value.strip()
        if is_ordinary_word(text):
            keys |= {folded(text).encode()} if value == traces.key else set()
            continue
        for form in spellings(text) if text else ():
            spelled |= {form.encode().lower(), json.dumps(form)[1:-1].lower().encode()}
    return Needles(
        tuple(sorted(each for each in spelled if len(each) >= _ANYWHERE_FROM)),
        tuple(sorted(each for each in spelled if len(each) < _ANYWHERE_FROM)),
        tuple(sorted(keys)),
    )


def _unpacked(content: bytes) -> bytes | None:
    if content[:2] != _GZIP:
        return None
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return None
