"""One spelling of people's words: the only way in which two of them are compared.

Databases compare bytes, or what their collation says; SQLite knows ASCII's case alone. So where a
person's words decide (requests, look-ups, mentions, consent, suppression), both sides go through
`folded`, in Python.
"""

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Self

# What may stand for other letters, in ranges: full-width and other compatible forms, ligatures,
# letters of two cases that are not one to one, invisible characters. A database that cannot fold
# hands over every text with one of them. Not among them is what every text of some languages has
# and what is spelled out where it is looked for: sharp s, blanks, apostrophes, hyphens.
ODD = (
    *((0xA8, 0xA8), (0xAF, 0xAF), (0xB8, 0xB8), (0x307, 0x307), (0x344, 0x344)),
    *((0x374, 0x374), (0x384, 0x385), (0x958, 0x95F), (0x9DC, 0x9DF), (0xA33, 0xA36)),
    *((0xA59, 0xA5E), (0xB5C, 0xB5D), (0xF43, 0xFB9)),
    *((0xAA, 0xAA), (0xAD, 0xAD), (0xB2, 0xB5), (0xB9, 0xBA), (0xBC, 0xBE), (0x130, 0x133)),
    *((0x13F, 0x140), (0x149, 0x149), (0x17F, 0x17F), (0x1C4, 0x1CC), (0x1F0, 0x1F3)),
    *((0x2B0, 0x2BB), (0x2BD, 0x2FF), (0x345, 0x345), (0x34F, 0x34F), (0x37A, 0x37A)),
    *((0x390, 0x390), (0x3B0, 0x3B0), (0x3D0, 0x3F9), (0x587, 0x587), (0x600, 0x605)),
    *((0x61C, 0x61C), (0x675, 0x678), (0x6DD, 0x6DD), (0x70F, 0x70F), (0x890, 0x8E2)),
    *((0xE33, 0xE33), (0xEB3, 0xEB3), (0xEDC, 0xEDD), (0xF0C, 0xF0C), (0xF77, 0xF79)),
    *((0x10FC, 0x10FC), (0x115F, 0x1160), (0x13F8, 0x13FD), (0x17B4, 0x17B5), (0x180B, 0x180F)),
    *((0x1C80, 0x1C8A), (0x1D2C, 0x1DBF), (0x1E96, 0x1E9D), (0x1F50, 0x1FFE), (0x200B, 0x200F)),
    *((0x2017, 0x2017), (0x2024, 0x2026), (0x202A, 0x202E), (0x2033, 0x203E), (0x2047, 0x2049)),
    *((0x2057, 0x2057), (0x2060, 0x209F), (0x20A8, 0x20A8), (0x2100, 0x218F), (0x222C, 0x2230)),
    *((0x2460, 0x24FF), (0x2A0C, 0x2ADC), (0x2C7C, 0x2C7D), (0x2D6F, 0x2D6F), (0x2E9F, 0x2FD5)),
    *((0x3036, 0x303A), (0x309B, 0x309F), (0x30FF, 0x30FF), (0x3131, 0x33FF), (0xA69C, 0xA69D)),
    *((0xA770, 0xA770), (0xA7F1, 0xA7F9), (0xAB5C, 0xABBF), (0xF900, 0xFB4F), (0xFB50, 0xFDFF)),
    *((0xFE00, 0xFE6F), (0xFE70, 0xFEFF), (0xFF00, 0xFFEF), (0xFFF9, 0xFFFB)),
    *((0x10780, 0x107BF), (0x110BD, 0x110CD), (0x13430, 0x1343F), (0x1BCA0, 0x1BCA3)),
    *((0x1CCD6, 0x1CCF9), (0x1D159, 0x1D7FF), (0x1E030, 0x1E06D), (0x1EE00, 0x1EEFF)),
    *((0x1F100, 0x1F2FF), (0x1FBF0, 0x1FBF9), (0x2F800, 0x2FA1F), (0xE0000, 0xE0FFF)),
)
APOSTROPHES = "'\u2018\u2019\u02bc\u02b9\u00b4\u2032\uff07"
HYPHENS = "-\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"

# One letter to whoever types them: apostrophes, hyphens, and the Turkish i's.
_ALIKE = str.maketrans(
    dict.fromkeys(APOSTROPHES, "'") | dict.fromkeys(HYPHENS, "-") | {"\u0130": "i", "\u0131": "i"}
)


def folded(text: str) -> str:
    """A text so that two spellings of the same words are equal.

    Guarantees: composed and decomposed accents, letters in either case, full-width and other
        compatible forms, blanks of any kind and number, apostrophes and hyphens of any kind,
        and invisible characters (zero-width, soft hyphen, marks of direction) make no
        difference; folding twice is folding once.
    """
    return " ".join(_folded(text).split())


def plain(text: str) -> str:
    """A text in composed letters of the usual forms and width, without invisible characters."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", _invisible().sub("", text))


def is_text(value: str) -> bool:
    """Whether a database can have it: no NUL, and no half of a character, as which a byte on the
    command line comes that is no UTF-8, and which JSON can spell (`\\ud800`)."""
    return not any(each == "\x00" or "\ud800" <= each <= "\udfff" for each in value)


def is_ordinary_word(text: str) -> bool:
    """Whether a text is one word of letters alone: it is in files that mean nobody, so where it
    is somebody's key it can be found as a key only."""
    word = folded(text)
    return bool(word) and all(each.isalpha() or each in "'-_" for each in word)


def normal_forms(text: str) -> tuple[str, ...]:
    """The text and its other Unicode forms, for what is known by a digest of one of them."""
    if text.isascii():
        return (text,)
    forms = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    return tuple(dict.fromkeys((text, plain(text), *forms)))


def spellings(text: str) -> tuple[str, ...]:
    """Forms in which a text is likely to lie in files that are no databases: composed and
    decomposed, in small letters, in capitals and as it is."""
    if text.isascii():
        return (text,)
    cases = (text, text.lower(), text.upper(), folded(text), plain(text))
    forms = (unicodedata.normalize(form, each) for each in cases for form in ("NFC", "NFD"))
    return tuple(dict.fromkeys((text, *forms)))


@dataclass(frozen=True)
class InPlace:
    """A text folded but for its blanks, and which stretch of the text each letter came from."""

    folded: str
    starts: Sequence[int]
    ends: Sequence[int]

    @classmethod
    def of(cls, text: str) -> Self:
        if text.isascii():
            return cls(text.lower(), range(len(text)), range(1, len(text) + 1))
        pieces: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        for cluster in _clusters().finditer(text):
            made = _folded(cluster.group())
            pieces.append(made)
            starts += [cluster.start()] * len(made)
            ends += [cluster.end()] * len(made)
        return cls("".join(pieces), starts, ends)


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    made = text
    while True:
        composed = unicodedata.normalize("NFKC", _invisible().sub("", made)).translate(_ALIKE)
        after = unicodedata.normalize("NFKC", composed.casefold())
        if after == made:
            return made
        made = after


@cache
def _clusters() -> re.Pattern[str]:
    """A letter with all that may become one with it: marks, what is invisible, parts of Hangul."""
    marks = [n for n in range(sys.maxunicode) if unicodedata.category(chr(n))[0] == "M"]
    more = {*map(ord, invisible()), *marks, *range(0x1160, 0x1200), 0xFF9E, 0xFF9F}
    more |= set(range(0xFFA0, 0xFFDD)) | set(range(0x3131, 0x318F))
    joined = "".join(f"{re.escape(chr(a))}-{re.escape(chr(b))}" for a, b in _ranges(more))
    return re.compile(f".[{joined}]*", re.DOTALL)


def _ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    first = last = None
    for number in sorted(numbers):
        if last is not None and first is not None and number != last + 1:
            yield first, last
            first = number
        first, last = (number if first is None else first), number
    if first is not None and last is not None:
        yield first, last


@cache
def _invisible() -> re.Pattern[str]:
    return re.compile("[" + "".join(map(re.escape, invisible())) + "]")


@cache
def invisible() -> tuple[str, ...]:
    """Characters that show nothing and part no words: Unicode's default ignorables."""
    others = [0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0]
    others += [*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]
    formats = (n for n in range(sys.maxunicode) if unicodedata.category(chr(n)) == "Cf")
    return tuple(map(chr, sorted({*others, *formats})))
