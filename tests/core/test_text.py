"""Two spellings of the same words are one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lethe.core.text import folded


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
