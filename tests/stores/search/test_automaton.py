"""The sweep for many values misses nothing that a look for each alone finds."""

import re
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.stores.search.automaton import CASED, AnyOf, literal, odd_letter, pattern_of
from lethe.stores.search.needles import Needles, TextSearch
from lethe.stores.source.mentions import Terms

VALUES = (
    "Ada Quill",
    "ada.quill@example.org",
    "(212) 555-0107",
    "3 Elm Row",
    "Iskra Kiss",  # letters with a third case
    "Zoë O'Brien-Łuk",
    "İlknur Şık",
    "AB12 3456-x",
)
SPELLINGS = (
    str,
    str.upper,
    str.lower,
    str.title,
    lambda text: text.replace(" ", " \u00a0\t\x1c"),
    lambda text: text.replace("I", "İ").replace("i", "ı"),
    lambda text: text.replace("s", "ſ").replace("k", "\u212a"),
    lambda text: text.replace("'", "’"),
    lambda text: " ".join(reversed(text.split(" ", 1))),
    lambda text: ", ".join(reversed(text.split(" ", 1))),
    lambda text: "/".join(text),
    lambda text: "".join(filter(str.isdigit, text)) or text,
    lambda text: unicodedata.normalize("NFD", text),
)


@settings(deadline=None)
@given(
    value=st.sampled_from(VALUES),
    spelling=st.sampled_from(SPELLINGS),
    before=st.text(max_size=3),
    after=st.text(max_size=3),
)
def test_whatever_a_persons_pattern_finds_the_sweep_has_seen(
    value: str, spelling, before: str, after: str
) -> None:
    terms = Terms.of([value])
    assert terms is not None
    text = before + spelling(value) + after
    if terms.names_in(text):
        sought = AnyOf.of_texts([*terms.filters, odd_letter()])
        assert sought.places(["nobody", text]) == [1]
        assert sought.is_in(b"\xff" + text.encode(errors="surrogatepass"))


def test_every_letter_is_found_in_every_case_that_python_knows() -> None:
    cased = [c for c in map(chr, range(0x2FFF)) if c.lower() != c or c.upper() != c]
    for letter in "iksµßẞΣςθƃéЖъﬆᾳ\u0130\u0131\u017f\u212a\u1e9b":
        pattern = re.compile(re.escape(letter), re.IGNORECASE)
        same = [each for each in cased if pattern.fullmatch(each)]
        sought = AnyOf.of_texts([pattern_of(literal(letter))])
        assert sought.places(same) == list(range(len(same))), letter
    beyond = map(chr, range(CASED, sys.maxunicode + 1))
    assert all(each.lower() == each.upper() for each in beyond)


@pytest.mark.parametrize("spelling", SPELLINGS[:5])
def test_the_values_themselves_are_found_in_every_case(spelling) -> None:
    for value in VALUES[:6]:
        terms = Terms.of([value])
        assert terms is not None
        assert terms.names_in(spelling(value)), "else nothing is shown above"
        assert AnyOf.of_texts(terms.filters).places([spelling(value)]) == [0]


def test_each_of_very_many_values_is_found_and_nobody_else() -> None:
    values = [f"person-{number:05d}@example.org" for number in range(600)]
    sought = AnyOf.of_bytes(value.encode() for value in values)
    texts = [f"write to {value.upper()} now" for value in values] + ["person@example.org"]
    assert sought.places([text.encode() for text in texts]) == list(range(600))
    assert sought.is_in(texts[599].encode())
    assert not sought.is_in(texts[600].encode())
    assert not AnyOf.of_bytes([]).is_in(b"anything")


def test_values_of_any_length_and_script_are_found_together() -> None:
    values = [f"{'Жёлтый улица ' * 30}{n} дом" for n in range(60)]
    values += ["Long Row " * 3_000 + "9", "O'Brien " + "x" * 5_000 + " y 7"]
    each = [Terms.of([value]) for value in values]
    sought = AnyOf.of_texts(pattern for terms in each if terms for pattern in terms.filters)
    texts = [f"at {value.upper()}." for value in values]
    assert all(terms and terms.names_in(t) for terms, t in zip(each, texts, strict=True))
    assert sought.places([*texts, "at дом 7"]) == list(range(len(values)))
    raw = AnyOf.of_bytes(value.encode() for value in values)
    assert raw.places([value.encode() for value in values]) == list(range(len(values)))


def test_what_says_nothing_names_nobody() -> None:
    assert Terms.of(["-", " ", "(?)", "½"]) is None


def test_bytes_are_recognized_whatever_they_are() -> None:
    sought = AnyOf.of_bytes([bytes([0, 255, 10]), "é".encode()])
    assert sought.is_in(b"x\x00\xff\ny")
    assert sought.is_in("café".encode())
    assert not sought.is_in(b"\x00\xfe\n")


def test_a_search_reports_each_person_in_their_own_files() -> None:
    import gzip

    people = [
        Needles((b"ada.quill@example.org",), ()),
        Needles((), (b"42",)),
        Needles((), ()),
        Needles((b"bo larkspur",), (b"43",)),
    ]
    files = {
        "letter": b"To Ada.Quill@example.org",
        "packed": gzip.compress(b"bo larkspur and ADA.QUILL@example.org"),
        "json": b'{"id": "42", "n": 43}',
        "both": b"Bo Larkspur" + b" " * 2**23 + b'"42"',
        "none": b"42",
    }
    search = TextSearch(people)
    message: dict[str, list[int]] = {name: [] for name in files}
    for name, content in files.items():
        search.add(content, message[name].append)
    search.flush()
    assert message == {"letter": [0], "packed": [0, 3], "json": [1], "both": [1, 3], "none": []}
    for name, content in files.items():
        alone = [number for number, each in enumerate(people) if each.in_bytes(content)]
        assert message[name] == alone


def test_usual_letters_are_not_odd() -> None:
    """Else every text would be for a closer look."""
    sought = AnyOf.of_texts([odd_letter()])
    usual = (
        "".join(map(chr, range(32, 127))) + "äöüßéèñçøåÄÖÜ\u00a0 \u2013 \u2019 ąęłš абв αβγ 漢字"
    )
    assert not sought.is_in(usual.encode())
    assert all(sought.is_in(each.encode()) for each in ("\uff41", "a\u200b", "\ufb01", "\u212b"))
