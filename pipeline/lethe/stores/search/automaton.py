"""Looks for any number of values in one pass over memory: RE2, by way of Arrow.

A regular expression of Python's tries value after value at every place; RE2 steps once a byte
however many there are. It has no look-around, so what it says is where to look more closely.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from lethe.core.text import APOSTROPHES, HYPHENS, ODD

# Of one automaton; with many more it no longer fits RE2's own memory.
_AT_ONCE = 250  # values
_LETTERS = 100_000  # of their patterns
CASED = 0x1F000  # no letter after it has two cases
_LONGEST = 200  # of a value, of which what comes after is left to the closer look
SPACE = r"\s\pZ\x{0b}\x{1c}-\x{1f}\x{85}"  # within a class: every space of Python's


class AnyOf:
    """Values, or patterns, to look for together; letters in any case.

    Guarantees: what is there is said to be there; what is said to be there may be not.
    """

    def __init__(self, patterns: Iterable[str], *, kind: pa.DataType) -> None:
        self._kind = kind
        groups: list[list[str]] = []
        letters = 0
        for pattern in dict.fromkeys(patterns):
            letters += len(pattern)
            if not groups or len(groups[-1]) == _AT_ONCE or letters > _LETTERS:
                groups.append([])
                letters = len(pattern)
            groups[-1].append(pattern)
        self._automata = ["|".join(group) for group in groups]

    @classmethod
    def of_bytes(cls, values: Iterable[bytes]) -> "AnyOf":
        """For raw bytes."""
        spelled = ("".join(rf"\x{{{b:02x}}}" for b in value[:_LONGEST]) for value in values)
        return cls(spelled, kind=pa.large_binary())

    @classmethod
    def of_texts(cls, patterns: Iterable[str]) -> "AnyOf":
        """For UTF-8; of patterns as `pattern_of` makes them."""
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


def literal(text: str) -> list[str]:
    """Units that match a text wherever Python's `re.IGNORECASE` does, and maybe more."""
    return list(map(_letter, text))


def spelled(text: str) -> list[str]:
    """Units that match whatever `lethe.core.text.folded` makes this folded text of, and maybe
    more; but for `ODD` letters, which `odd_letter` finds."""
    units: list[str] = []
    for found in re.finditer("s{2,}|.", text, re.DOTALL):
        letter = found.group()
        if len(letter) > 1:  # any of them may be half of a sharp s
            sharp = _letter("s").replace("]", r"\x{df}\x{1e9e}]")
            units.append(f"{sharp}{{1,{min(len(letter), _LONGEST)}}}")
        elif letter in "'-":
            alike = APOSTROPHES if letter == "'" else HYPHENS
            units.append("[" + "".join(rf"\x{{{ord(each):x}}}" for each in alike) + "]")
        else:
            units.append(_in_any_form(letter))
    return units


def odd_letter() -> str:
    """A pattern for what may stand for other letters."""
    # In its own case: the long s is odd, and no reason to look at every s.
    return "(?-i:[" + "".join(rf"\x{{{a:x}}}-\x{{{b:x}}}" for a, b in ODD) + "])"


@cache
def _in_any_form(letter: str) -> str:
    parts = unicodedata.normalize("NFD", letter)
    if len(parts) == 1:
        return _letter(letter)
    return rf"(?:{_letter(parts[0])}?[^\x00-\x7f]{{1,4}})"


def pattern_of(units: Iterable[str]) -> str:
    """A pattern of units, each of which matches something of its own; cut if it is long."""
    return "".join(islice(units, _LONGEST))


@cache
def _letter(letter: str) -> str:
    if letter.isascii() and letter not in "iIkKsS":
        return letter if letter.isalnum() else rf"\x{{{ord(letter):02x}}}"
    if letter in "iI\u0130\u0131":
        alike = set("iI\u0130\u0131")  # Python takes the Turkish ones for the others' cases
    else:
        alike = _by_lower()[letter.lower()] | _by_upper()[letter.upper()] | {letter}
    return "[" + "".join(rf"\x{{{ord(each):x}}}" for each in sorted(alike)) + "]"


@cache
def _by_lower() -> Mapping[str, set[str]]:
    """Letters of every script by their small one."""
    return _grouped(str.lower)


@cache
def _by_upper() -> Mapping[str, set[str]]:
    return _grouped(str.upper)


def _grouped(case: Callable[[str], str]) -> Mapping[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for each in map(chr, range(CASED)):
        if each.lower() != each or each.upper() != each:
            found[case(each)].add(each)
    return found
