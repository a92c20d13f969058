"""Known names are found in every form, script and case in which texts have them."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.core.text import plain
from lethe.data.names import Finder, name_words

PEOPLE = ["Bo Ng", "Émile Åström", "O'Brien", "Éa Wu", "张伟", "山田 太郎", "สมชาย ใจดี", "김철수"]
KNOWN = frozenset().union(*map(name_words, PEOPLE), name_words("Will Go"))


def _without(text: str, known: frozenset[str] = KNOWN) -> str:
    text = plain(text)
    spans = list(Finder(known).find(text))
    for start, end in reversed(spans):
        text = f"{text[:start]}#{text[end:]}"
    return text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Spoke to Bo and NG", "Spoke to # and #"),
        ("Éa rang, Wu did not", "# rang, # did not"),
        ("患者张伟今天来了", "患者#今天来了"),
        ("山田さんと太郎さん", "#さんと#さん"),
        ("山田太郎です", "##です"),
        ("วันนี้สมชายมาพบ", "วันนี้#มาพบ"),
        ("김철수는 왔다", "#는 왔다"),
        ("患者Émile来了", "患者#来了"),
        ("患者Bo来了", "患者#来了"),
        ("ÉMILE and émile", "# and #"),
        ("Seen by Go today", "Seen by # today"),
    ],
)
def test_names_are_found(text: str, left: str) -> None:
    assert _without(text) == left
    assert _without(unicodedata.normalize("NFD", text)) == left


@pytest.mark.parametrize(
    "text",
    [
        "bo is no word here, nor wu",
        "Boat, Wuthering, Ngram",
        "Go home. go on, GO",
        "Will it? will it",
        "今天来了",
        "วันนี้มาพบ",
        "伟大的张",
    ],
)
def test_other_words_stay(text: str) -> None:
    assert _without(text) == plain(text)


LETTERS = st.characters(categories=("Lu", "Ll", "Lo"), max_codepoint=0xFFFF)


@settings(max_examples=60, deadline=None)
@given(
    name=st.text(LETTERS, min_size=3, max_size=8),
    form=st.sampled_from(["NFC", "NFD"]),
    kept=st.sampled_from(["NFC", "NFD"]),
    case=st.sampled_from([str, str.upper, str.lower, str.title]),
)
def test_a_name_of_any_script_is_found_in_either_form(
    name: str, form: str, kept: str, case: type
) -> None:
    """In the middle of a sentence, where no letter beside it makes it another word."""
    known = frozenset(name_words(unicodedata.normalize(kept, name)))
    text = plain(unicodedata.normalize(form, f"went to - {case(name)} - today"))
    left = _without(text, known)
    for word in (each for each in known if len(each) > 2):  # AB is an abbreviation, too
        assert not {word} & name_words(left), (word, left)


def test_particles_and_words_of_every_sentence_are_nobodys() -> None:
    assert name_words("Anna van de Berg") == {"anna", "berg"}
    assert name_words("The Who") == set()
    assert name_words("J. R.") == set()
