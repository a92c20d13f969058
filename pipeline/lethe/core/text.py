"""One spelling of people's words: the only way in which two of them are compared.

Databases compare bytes, or what their collation says; SQLite knows ASCII's case alone. So where a
person's words decide (requests, look-ups, mentions, consent, suppression), both sides go through
`folded`, in Python.
"""

import re
import sys
import unicodedata
from functools import cache

# One letter to whoever types them: apostrophes, hyphens, and the Turkish i's.
_ALIKE = str.maketrans(
    dict.fromkeys("\u2018\u2019\u02bc\u02b9\u00b4\u2032\uff07", "'")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-")
    | {"\u0130": "i", "\u0131": "i"}
)


def folded(text: str) -> str:
    """A text so that two spellings of the same words are equal.

    Guarantees: composed and decomposed accents, letters in either case, full-width and other
        compatible forms, blanks of any kind and number, apostrophes and hyphens of any kind,
        and invisible characters (zero-width, soft hyphen, marks of direction) make no
        difference; folding twice is folding once.
    """
    if text.isascii():
        return " ".join(text.lower().split())
    made = text
    while True:
        composed = unicodedata.normalize("NFKC", _invisible().sub("", made)).translate(_ALIKE)
        after = unicodedata.normalize("NFKC", composed.casefold())
        if after == made:
            return " ".join(after.split())
        made = after


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
