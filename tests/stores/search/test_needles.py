"""A short or ordinary value is found where it is a value, and nowhere by chance."""

import pyarrow as pa
import pytest

from lethe.core.outcomes import Traces
from lethe.stores.search.needles import TextSearch, needles
from lethe.stores.source.mentions import terms_of

PARAMS = b'purpose: reading\nname: "reading"\nbranches: [main, "readers"]\nfolder: reading-room\n'


@pytest.mark.parametrize(
    "word", ["reading", "main", "readers", "Reading", "reading-room", "purpose"]
)
def test_an_ordinary_word_is_a_key_only_where_keys_are(word: str) -> None:
    sought = needles(Traces(word, 7))
    assert sought and not sought.in_bytes(PARAMS) and not sought.in_text("reading")
    search = TextSearch([sought])
    message: list[int] = []
    search.add(PARAMS, message.append)
    search.flush()
    assert message == []
    column = pa.chunked_array([["ada", word]])
    assert search.in_column(column, of_subjects=True) == {0}
    assert search.in_column(column) == set()  # a feature's value is no person's key
    assert search.in_column(pa.chunked_array([[f"{word}s", None]]), of_subjects=True) == set()


@pytest.mark.parametrize("key", ["P-0017", "ada@example.org", "AB12", "Ada Quill", "7c1f9e02"])
def test_any_other_key_is_found_in_any_file(key: str) -> None:
    assert needles(Traces(key, 7)).in_bytes(f'{{"who": "{key.upper()}"}}'.encode())


def test_a_person_in_other_letters_is_found_in_files_and_cells() -> None:
    sought = needles(Traces("1", 7, ("jos\u00e9@example.org",)))
    for form in ("jose\u0301@example.org", "JOS\u00c9@EXAMPLE.ORG", "jos\u00e9@example.org"):
        assert sought.in_bytes(f"to {form}".encode()), form
    assert sought.in_bytes(b'"jos\\u00e9@example.org"')
    assert sought.in_text("\uff4aos\u00e9@example.org")
    assert not sought.in_bytes(b"jose@example.org")


def test_an_ordinary_word_names_nobody_in_texts() -> None:
    assert terms_of(Traces("reading", None, ("reading",)), whole_key=True) is None
    assert terms_of(Traces("main", None, ()), whole_key=True) is None
    assert terms_of(Traces("x", None, ("Ada Quill",)), whole_key=True) is not None


def test_an_ordinary_word_is_a_key_only_where_it_is_the_persons_own() -> None:
    assert needles(Traces("anna", None, ("anna",))).is_key("Anna")
    assert not needles(Traces("nobody-07", None, ("anna",))).is_key("anna")
