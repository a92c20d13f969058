"""Words that are in people's names, and where a text has them."""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

from lethe.core.text import folded

# Scripts that put no blanks between words, or put endings to names: Thai, Lao, Burmese, Khmer,
# Chinese, Japanese, Korean.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uac00-\ud7a3\U00020000-\U0003134f"
)
_RUN = re.compile(f"[{_UNSPACED}]+")
_SENTENCE_START = re.compile(r"(?:^|[.!?:;\n]\s*|^\s*[\"'(-]\s*)$")
# Parts of names that are nobody's own, or words of nearly every sentence (The, Van): removing them
# would leave nothing of a text and distinguish nobody.
_PARTICLES = """
    and are but can for from had has have her him his not she that they this was were who with you
    af al ap av da de del den der des di do dos du el ii iii iv jr la le lo los las mac mr mrs ms
    dr of sr st te ten ter the und van von zu zum zur
"""
_NO_NAME = frozenset(_PARTICLES.split())
# Names that are everyday words: a name only where written as one inside a sentence.
_EVERYDAY_WORDS = """
    able art august bell best bill black blue brown bush carol chance christian church cook day
    dean drew earl early faith fish ford forest frank free gay gene glass good grace grant gray
    green hall hand hart heart heath hill hope house hunter iris jack jean joy june king lane law
    little long love major mark marsh may miles moon moore new noble old page park pat piece
    pope porter power price prince ray read rice rich river rob rock rose sage short small stone
    street strong summer sun sunny thing trip violet walker wall ward waters weeks welcome wells
    west white wild will winter wise wood woods worth year young
"""
# Of two letters: words, and abbreviations of the wards that are written in capitals.
_SHORT_WORDS = """
    ab ac ad am an ap as at ba be bp by cc cm cr ct dm do dx ed er ex fe fu ga gi go gp gu ha he
    hi hr hx id if im in is it iv kg la ld lh li ma md me mg mi ml mm ms my na no ob of oh ok on
    or os ot ox pa ph pm po pr pt px qd ra rh rr rx si so sq st sx to tx uk up us ut va we wt xr
"""
_EVERYDAY = frozenset(_EVERYDAY_WORDS.split())
_SHORT = frozenset(_SHORT_WORDS.split())


def name_words(name: str) -> set[str]:
    """The words of a name by which it is looked for, in one spelling (`folded`).

    Of two letters or more; in scripts without blanks, what stands together.
    """
    text = folded(name)
    words = {*_words().findall(text), *_RUN.findall(text)}
    return {word for word in words if len(word) > 1} - _NO_NAME


class Finder:
    """Finds words of known names in texts of the usual forms (`lethe.core.text.plain`).

    Args:
        names: as `name_words` gives them.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        inside = {name for name in names if _RUN.fullmatch(name)}
        self._lengths = sorted({len(name) for name in inside}, reverse=True)

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """From and to of every word that is one of the names, in any case of letters.

        One of two letters counts where it is capitalized. One that is an everyday word (Will,
        Rose) counts where it is capitalized inside a sentence, and not at its start.
        """
        for match in _words().finditer(text):
            word = match.group()
            if len(word) > 1 and self._is_name(word, text, match.start()):
                yield match.span()
        if self._lengths and not text.isascii():
            for run in _RUN.finditer(text):
                yield from self._within(run.group(), run.start())

    def _is_name(self, word: str, text: str, start: int) -> bool:
        lower = folded(word)
        if lower not in self._names:
            # One letter may be two signs in the usual form (ŉ), of which one parts words.
            return lower != word.lower() and not self._names.isdisjoint(name_words(word))
        everyday = lower in _EVERYDAY
        if len(lower) == 2:
            if word[0].islower():
                return False
            if lower in _SHORT:
                everyday = True
                if word.isupper():
                    return False
        return not everyday or not (word[0].islower() or _starts_sentence(text, start))

    def _within(self, run: str, offset: int) -> Iterator[tuple[int, int]]:
        """Names inside a stretch without blanks; where several fit, the longest."""
        at = 0
        while at < len(run):
            for length in self._lengths:
                if run[at : at + length] in self._names and at + length <= len(run):
                    yield offset + at, offset + at + length
                    at += length
                    break
            else:
                at += 1


def _starts_sentence(text: str, start: int) -> bool:
    return bool(_SENTENCE_START.search(text[:start]))


@cache
def _words() -> re.Pattern[str]:
    """Letters, of scripts with blanks, with the marks on them that are no letters to `re`."""
    marks = "".join(chr(n) for n in range(0x300, 0x12000) if unicodedata.category(chr(n))[0] == "M")
    return re.compile(rf"[^\W\d_{_UNSPACED}](?:[^\W\d_{_UNSPACED}]|[{marks}])*")
