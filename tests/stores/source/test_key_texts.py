"""The one text of a key of several columns: nobody else's, and taken apart again as it was."""

import json

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lethe.config.sections import Subject
from lethe.core.errors import ParamsInvalid
from lethe.core.text import is_text, plain
from lethe.stores.source.person_key import apart, people_of, together, understood

WORDS = st.text(max_size=8) | st.text(alphabet='",()[]\\ \n1a', max_size=8)
PARTS = st.lists(WORDS, min_size=2, max_size=4).map(tuple)


@given(PARTS)
@example(("", ""))
@example(('","', ""))
@example(("x" * 100_000, "\ud800"))
def test_a_text_is_taken_apart_as_it_was_put_together(parts: tuple[str, ...]) -> None:
    text = together(parts)
    assert apart(text, len(parts)) == parts
    assert all(apart(text, n) is None for n in range(2, 7) if n != len(parts))
    assert apart(text, 1) == (text,)  # of one column every text is a key as it is


@given(PARTS, PARTS)
@example(("a,b", "c"), ("a", "b,c"))
@example(("1", "12"), ("11", "2"))
@example(('a","b', "c"), ("a", "b", "c"))
def test_two_people_never_have_one_text(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert (together(one) == together(other)) == (one == other)


@given(st.text() | PARTS.map(together) | PARTS.map(lambda parts: json.dumps(parts)))
def test_what_is_taken_apart_is_the_text_of_its_parts(text: str) -> None:
    parts = apart(text, 2)
    assert parts is None or together(parts) == text


@given(PARTS)
@example(("\uff02", "a\uff02b"))
@example(("\uff3b", "\uff0c"))
@example(("e\u0301", "\u00e9"))
def test_a_list_of_json_means_the_same_person(parts: tuple[str, ...]) -> None:
    """In the plain form of each value, which is none of the list's own signs."""
    subject = Subject(table="t", key=tuple(f"c{n}" for n in range(len(parts))))
    for said in (json.dumps(parts), json.dumps(parts, ensure_ascii=False), together(parts)):
        if is_text("".join(parts)):
            assert understood(said, subject) == together([plain(part) for part in parts])
        else:
            with pytest.raises(ParamsInvalid):
                understood(said, subject)


def test_signs_of_a_list_may_be_wide_where_it_is_none_else() -> None:
    subject = Subject(table="t", key=("a", "b"))
    wide = "\uff3b\uff02north\uff02\uff0c\uff11\uff3d"
    for said in (wide, '\u200b["north", 1]\ufeff', '["north", 1]\u3000'):
        assert understood(said, subject) == '("north","1")'


HALVES = [
    *('["\\ud800", 1]', '["\\udfff", 1]', '["a\\ud800b", "1"]', '[1, "\\udcff"]'),
    *('["\\u0000", 1]', '["\x00", 1]', '["\ud800", 1]', '("\\ud800","1")'),
]


@pytest.mark.parametrize("word", HALVES)
def test_what_no_text_has_is_refused_before_anything_is_recorded(word: str) -> None:
    with pytest.raises(ParamsInvalid, match=r"in no text|named by 2 values"):
        understood(word, Subject(table="t", key=("a", "b")))
    assert understood('["\\ud83d\\ude00", 1]', Subject(table="t", key=("a", "b"))) == together(
        ("\U0001f600", "1")
    )


@pytest.mark.parametrize("word", ["\ud800", "a\x00", "\udcff1"])
def test_nor_of_one_column(word: str) -> None:
    with pytest.raises(ParamsInvalid, match="in no text"):
        understood(word, Subject(table="t", key="a"))


def test_numbers_and_truths_may_stand_without_quotes() -> None:
    subject = Subject(table="t", key=("a", "b", "c"))
    assert understood("[1, 12.50, true]", subject) == '("1","12.50","true")'
    assert understood("[123456789012345678901234567890, 1e3, -0]", subject) == together(
        ("123456789012345678901234567890", "1e3", "-0")
    )


NO_KEYS = ["", "1", "[1,2]", "[1,2,3,4]", "[1,2,null]", "[1,2,NaN]", "[", "[]", "(1,2,[3])"]


@pytest.mark.parametrize("word", [*NO_KEYS, '{"a":1}', "[1,2,3] x", "[" * 5000])
def test_anything_else_is_refused_without_showing_it(word: str) -> None:
    with pytest.raises(ParamsInvalid, match=r"named by 3 values \(a, b, c\)"):
        understood(word, Subject(table="t", key=("a", "b", "c")))


def test_of_one_column_every_word_is_a_key() -> None:
    assert understood("[1, 12]", Subject(table="t", key="a")) == "[1, 12]"


def test_people_side_by_side() -> None:
    frame = people_of(
        [pd.Series([1, 11, None, 1], dtype=object), pd.Series([12, 2, 3, None], dtype=object)]
    )
    assert frame[:2].tolist() == ['("1","12")', '("11","2")']
    assert frame[2:].isna().all()
    alone = people_of([pd.Series([1, None], dtype=object)])
    assert alone[0] == "1"
    assert alone.isna()[1]


@pytest.mark.parametrize("key", [[], ["a"], ["a", "a"]])
def test_a_list_names_two_columns_or_more(key: list[str]) -> None:
    with pytest.raises(ValueError, match="a list names two columns or more"):
        Subject(table="t", key=tuple(key))
