"""Two spellings of the same words are one."""

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.core.text import APOSTROPHES, HYPHENS, ODD, InPlace, folded, normal_forms


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("jose\u0301@example.org", "JOS\u00c9@example.org"),
        ("\uff21\uff44\uff41", "ada"),
        ("stra\u00dfe 5", "STRASSE\u00a05"),
        ("a\u200bd\u00ada\u2060", "ada"),
        ("Ada\u3000\u202f Quill ", "ada quill"),
        ("O\u2019Neil", "o'neil"),
        ("\u0130stanbul", "istanbul"),
        ("I\u0307stanbul", "istanbul"),
        ("Jean\u2011Luc", "jean-luc"),
        ("\ufb01n", "FIN"),
        (
            "\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2",
            "\u03c3\u03af\u03c3\u03c5\u03c6\u03bf\u03c3",
        ),
        ("\u212bsa", "\u00c5SA"),
    ],
)
def test_spellings_of_one_word_are_equal(one: str, other: str) -> None:
    assert folded(one) == folded(other)


@pytest.mark.parametrize(("one", "other"), [("jose", "jos\u00e9"), ("a b", "ab"), ("a.b", "ab")])
def test_different_words_stay_different(one: str, other: str) -> None:
    assert folded(one) != folded(other)


@given(st.text())
def test_folding_twice_is_folding_once(text: str) -> None:
    assert folded(folded(text)) == folded(text)


@settings(deadline=None)  # the first text of all waits for a table of letters
@given(st.text())
def test_a_text_folded_in_place_is_the_text_folded(text: str) -> None:
    seen = InPlace.of(text)
    assert " ".join(seen.folded.split()) == folded(text)
    assert len(seen.starts) == len(seen.ends) == len(seen.folded)


def test_a_letter_that_stands_for_others_is_odd() -> None:
    """Then a database that cannot fold hands its texts over."""
    odd = {number for low, high in ODD for number in range(low, high + 1)}
    for number in range(0x80, sys.maxunicode + 1):
        letter = chr(number)
        if unicodedata.category(letter) in ("Cn", "Co", "Cs"):
            continue
        made = InPlace.of(letter).folded
        composed = unicodedata.normalize("NFC", letter)
        cases = {letter, composed, composed.lower(), composed.casefold()}
        one_to_one = made in cases and len(made) == 1
        known = letter in APOSTROPHES + HYPHENS + "\u00df\u1e9e"
        blank = made.isspace()
        assert number in odd or one_to_one or known or blank, hex(number)


def test_other_forms_of_a_word_are_few_and_hold_it() -> None:
    assert normal_forms("ada") == ("ada",)
    assert {"jos\u00e9", "jose\u0301"} <= set(normal_forms("jos\u00e9"))
