"""A person is found in a source of either kind however their words are typed."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from lethe.core.outcomes import Traces
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.find_people import keys_spelled, subjects_by
from lethe.stores.source.identifiers import traces
from lethe.stores.source.mentions import Terms
from lethe.stores.source.verify import verify_source
from tests.postgres import postgres_server, postgres_urls
from tests.traps import NOW, ROWS, SCHEMA, Parish, declare, sqlite_url

__all__ = ["postgres_server", "postgres_urls"]

Make = Callable[..., Parish]
MAIL = "jos\u00e9.\u00e5str\u00f6m@example.org"
NAME = "Jos\u00e9 \u00c5str\u00f6m-Wei\u00df"
KEYED = "notice TEXT PRIMARY KEY, body TEXT, remark TEXT, posted_for INTEGER"

FORMS = [
    unicodedata.normalize("NFD", MAIL),
    MAIL.upper(),
    unicodedata.normalize("NFD", MAIL.upper()),
    "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in MAIL),
    "\u00a0jos\u00e9.\u00e5str\u200b\u00f6m@example.org\u2003",
    "jose\u0301.\u00e5stro\u0308m@ex\u00adample.org",
]
WRITTEN = [
    *FORMS,
    "Jose\u0301\u00a0\u00c5stro\u0308m\u2011Weiss called",
    "of JOS\u00c9  A\u030aSTR\u00d6M-WEISS, here",
    "\u00c5str\u00f6m-Wei\u00df, Jos\u00e9",
    "(\uff4aos\u00e9 \u00e5str\u00f6m\u2013wei\u00df)",
]


@pytest.fixture(params=["sqlite", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.chdir(tmp_path)
    postgres = request.param == "postgres"
    url = request.getfixturevalue("postgres_urls")() if postgres else sqlite_url(tmp_path)

    def made(notices: str = SCHEMA["notices"], *, decomposed: bool = False) -> Parish:
        form = "NFD" if decomposed else "NFC"
        jose = (9, *(unicodedata.normalize(form, each) for each in (NAME, MAIL)), None, 3, None)
        parish = Parish.build(
            url,
            schema=SCHEMA | {"notices": notices},
            rows=ROWS | {"people": [*ROWS["people"], jose], "cases": [], "documents": []},
        )
        return parish

    return made


@pytest.mark.parametrize("decomposed", [False, True])
def test_an_identifier_leads_to_its_person_in_any_form(make: Make, decomposed: bool) -> None:
    params = declare(make(decomposed=decomposed).url)
    assert subjects_by(params, "people.email", FORMS) == {form: ["9"] for form in FORMS}
    assert subjects_by(params, "people.email", ["jose.astrom@example.org"]) == {
        "jose.astrom@example.org": []
    }


@pytest.mark.parametrize("keyed", [True, False])
def test_texts_that_name_a_person_in_any_form_are_redacted(make: Make, keyed: bool) -> None:
    parish = make(KEYED) if keyed else make(KEYED.replace(" PRIMARY KEY", ""))
    parish.run("DELETE FROM notices")
    for number, text in enumerate([*WRITTEN, "Jos\u00e9 alone; jose.astrom@example.org"]):
        parish.run(f"INSERT INTO notices VALUES ('{number}', 'at {text} .', NULL, NULL)")
    params = declare(parish.url)
    jose = traces(params, "9")
    assert set(jose.identifiers) == {NAME, MAIL}
    assert verify_source(params, jose).count > len(WRITTEN)
    erase_from_source(params, jose, now=NOW)
    texts = [row[1] for row in sorted(parish.rows("notices"), key=lambda row: int(row[0]))]
    assert all("<ERASED>" in text for text in texts[:-1]), texts
    assert all("str" not in text.casefold() for text in texts[:-1]), texts
    assert texts[-1] == "at Jos\u00e9 alone; jose.astrom@example.org ."
    assert verify_source(params, jose).result == "absent"


def test_what_another_has_in_another_form_is_nobodys_alone(make: Make) -> None:
    parish = make()
    parish.run(f"UPDATE people SET phone = '{FORMS[1]}' WHERE person_id IN (2, 9)")
    parish.run(f"UPDATE people SET phone = '{MAIL}' WHERE person_id = 2")
    assert FORMS[1] not in traces(declare(parish.url), "9").identifiers


def test_words_of_nobody_are_looked_for_in_any_form(make: Make) -> None:
    parish = make()
    parish.run("DELETE FROM people WHERE person_id = 9", f"UPDATE notices SET body = '{FORMS[0]}'")
    for form in FORMS:
        assert verify_source(declare(parish.url), Traces("x", None, (form,))).count


def test_redacting_takes_the_whole_of_a_letter_and_no_more() -> None:
    terms = Terms.of([MAIL, NAME])
    assert terms is not None
    for text in WRITTEN:
        made = terms.redact(f"a {text.strip()} z")
        assert "<ERASED>" in made and made[:2] == "a " and made[-2:] == " z", made
    assert terms.redact("stra\u00dfe na\u00efve") == "stra\u00dfe na\u00efve"


def test_a_key_in_another_form_is_the_persons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parish = Parish.build(sqlite_url(tmp_path))
    params = declare(parish.url)
    assert keys_spelled(params, ["1", "\uff11", "7x"]) == {
        "1": ["1"],
        "\uff11": ["1"],
        "7x": ["7x"],
    }
