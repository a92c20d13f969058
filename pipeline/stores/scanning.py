"""Looks for any number of values in one sweep over memory: RE2, by way of Arrow.

A regular expression of Python's tries value after value at every place; RE2 steps once a byte
however many there are. It has no look-around, so what it says is where to look more closely.
"""

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

_AT_ONCE = 250  # values of one automaton: with many more it no longer fits RE2's own memory
SPACE = r"\s\pZ\x{0b}\x{1c}-\x{1f}\x{85}"  # within a class: every space of Python's
_OTHER = r"(?:[^\x00-\x7f]|[iks])"  # what any letter beyond ASCII is in another case


class AnyOf:
    """Values, or patterns, to look for together; letters in any case.

    Guarantees: what is there is said to be there; what is said to be there may be not.
    """

    def __init__(self, patterns: Iterable[str], *, kind: pa.DataType) -> None:
        distinct = list(dict.fromkeys(patterns))
        self._kind = kind
        self._automata = [
            "|".join(distinct[start : start + _AT_ONCE])
            for start in range(0, len(distinct), _AT_ONCE)
        ]

    @classmethod
    def of_bytes(cls, values: Iterable[bytes]) -> "AnyOf":
        """For raw bytes."""
        spelled = ("".join(rf"\x{{{byte:02x}}}" for byte in value) for value in values)
        return cls(spelled, kind=pa.large_binary())

    @classmethod
    def of_texts(cls, patterns: Iterable[str]) -> "AnyOf":
        """For UTF-8; of patterns made with `literal` and `SPACE`."""
        return cls(patterns, kind=pa.large_utf8())

    def is_in(self, content: bytes) -> bool:
        """Whether any of them is."""
        ends = pa.py_buffer(bytes(8) + len(content).to_bytes(8, "little"))
        buffers = [None, ends, pa.py_buffer(content)]
        return bool(self._in(pa.Array.from_buffers(self._kind, 1, buffers)))

    def places(self, texts: Sequence[str] | Sequence[bytes]) -> list[int]:
        """Which of the texts have any of them."""
        return self._in(pa.array(texts, type=self._kind))

    def _in(self, texts: pa.Array) -> list[int]:
        found: set[int] = set()
        for automaton in self._automata:
            seen = pc.match_substring_regex(texts, pattern=automaton, ignore_case=True)
            found.update(pc.indices_nonzero(seen.fill_null(False)).to_pylist())
        return sorted(found)


def literal(text: str) -> str:
    """A pattern that matches a text wherever Python's `re.IGNORECASE` does, and maybe more."""
    return "".join(map(_letter, text))


def _letter(letter: str) -> str:
    if not letter.isascii():
        return _OTHER
    if letter in "iI":
        return r"[iI\x{130}\x{131}]"
    return letter if letter.isalnum() else rf"\x{{{ord(letter):02x}}}"
