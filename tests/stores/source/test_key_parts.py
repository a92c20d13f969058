"""Parts of a key: what names a person alone, what is in other links too, and what stays."""

import copy
from pathlib import Path
from typing import Any

import pytest

from lethe.config.params import Params
from lethe.core.errors import ErasureRefused, ParamsInvalid
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.identifiers import traces
from lethe.stores.source.verify import verify_source
from tests.library import NOW
from tests.postgres import postgres_server, postgres_urls
from tests.stores.source.test_person_keys import people_in, url
from tests.studio import TABLES, TO_MEMBER, build, declare, opened

__all__ = ["postgres_server", "postgres_urls", "url"]

MAIL = [("north", "ada@example.org"), ("north", "bo@example.org"), ("south", "bo@example.org")]
ADA, BO = '("north","ada@example.org")', '("north","bo@example.org")'


def erased(params: Params, key: str) -> Any:
    found = traces(params, key)
    outcome = erase_from_source(params, found, now=NOW)
    assert verify_source(params, found).result == "absent"
    return outcome


def test_a_part_that_names_a_person_alone_is_looked_for_everywhere(url: str) -> None:
    run = build(url, MAIL, studio="text", number="text")
    texts = "INSERT INTO letters VALUES (1, 'Dear ADA@example.org, hello'), (2, 'To the north')"
    note = "UPDATE visits SET note = 'knows ada@example.org' WHERE visit = 10"
    run(texts, note, "SELECT 1")
    params = declare(url)
    found = traces(params, ADA)
    assert set(found.identifiers) == {"member0@example.org", "ada@example.org"}
    assert "visits.note" in verify_source(params, found).places
    erase_from_source(params, found, now=NOW)
    assert run("SELECT body FROM letters ORDER BY letter") == [
        ("Dear <ERASED>, hello",),
        ("To the north",),
    ]
    assert verify_source(params, found).places == ("visits.note",)  # undeclared texts stay open
    run("UPDATE visits SET note = ''", "SELECT 1")
    assert verify_source(params, found).result == "absent"


def test_a_part_that_is_somebody_elses_too_is_not(url: str) -> None:
    run = build(url, MAIL, studio="text", number="text")
    run("INSERT INTO letters VALUES (1, 'Dear bo@example.org')", "SELECT 1")
    params = declare(url)
    assert traces(params, BO).identifiers == ("member1@example.org",)
    erased(params, BO)
    assert run("SELECT body FROM letters") == [("Dear bo@example.org",)]
    assert people_in(params) == [ADA, '("south","bo@example.org")']


def test_numbers_of_a_key_are_no_telephone_number(url: str) -> None:
    run = build(url, [("1234", "5678"), ("1234", "1")])
    run("INSERT INTO letters VALUES (1, 'call 1234 5678, room 1234')", "SELECT 1")
    erased(declare(url), '("1234","5678")')
    assert run("SELECT body FROM letters") == [("call 1234 5678, room 1234",)]


def members(action: str, *columns: str, **more: Any) -> dict[str, Any]:
    erase = {"action": action, "columns": list(columns), **more}
    return copy.deepcopy(TABLES["members"]) | {"erase": erase}


def kept() -> dict[str, Any]:
    return copy.deepcopy(TABLES["visits"]) | {"erase": {"action": "anonymize", "columns": ["note"]}}


def test_an_anonymous_row_keeps_the_part_that_other_links_need(url: str) -> None:
    run = build(url)
    params = declare(url, members=members("anonymize", "email"), visits=kept())
    erased(params, '("1","12")')
    found = run("SELECT studio, number FROM members WHERE number < 0")
    assert [studio for studio, _ in found] == [1]
    number = found[0][1]
    assert run(f"SELECT studio, count(*) FROM visits WHERE number = {number} GROUP BY studio") == [
        (1, 2)
    ]
    assert run("SELECT count(*) FROM members") == [(4,)]
    assert run("SELECT count(*) FROM visits WHERE number > 0") == [(6,)]


def test_a_part_in_other_links_is_not_blanked_and_does_not_stay_silently(url: str) -> None:
    run = build(url)
    before = run("SELECT * FROM members ORDER BY 1, 2")
    params = declare(url, members=members("anonymize", "email", "studio"), visits=kept())
    with pytest.raises(ErasureRefused, match=r"members\.studio is a part of the person's key"):
        erase_from_source(params, traces(params, '("1","12")'), now=NOW)
    assert run("SELECT * FROM members ORDER BY 1, 2") == before


def test_a_part_that_names_the_person_does_not_stay(url: str) -> None:
    build(url, [("a@example.org", "1"), ("b@example.org", "1")], studio="text")
    params = declare(url, members=members("anonymize", "email"), visits=kept())
    with pytest.raises(ErasureRefused, match="It names the person by itself"):
        erase_from_source(params, traces(params, '("a@example.org","1")'), now=NOW)


def test_only_the_parts_that_are_named_change(url: str) -> None:
    run = build(url, [("1", "12"), ("1", "1")], linked=False)
    own = members("anonymize", "email", "number") | {"links": {}}
    params = declare(url, members=own, visits=kept())
    erased(params, '("1","12")')
    assert run("SELECT DISTINCT studio FROM members") == [(1,)]
    own = members("anonymize", "email") | {"links": {}}
    params = declare(url, members=own, visits=kept())
    erased(params, '("1","1")')
    assert run("SELECT count(*) FROM members WHERE studio = 1") == [(1,)]


def test_a_row_kept_by_law_keeps_no_more_of_the_key_than_is_everybodys(url: str) -> None:
    for shared, left in ((True, 1), (False, None)):
        other = url if shared else url.replace("studio.db", "other.db")
        if not shared and other == url:
            continue  # one database a test on PostgreSQL
        run = build(other, linked=shared)
        own = TABLES["members"] if shared else TABLES["members"] | {"links": {}}
        bills = copy.deepcopy(TABLES["bills"])
        if shared:
            bills["links"]["studio"] = "studios.studio"
        params = declare(other, members=own, bills=bills)
        erased(params, '("1","12")')
        assert run("SELECT studio, number FROM bills WHERE bill = 0") == [(left, None)]


def test_a_key_that_cannot_be_blanked_is_refused(url: str) -> None:
    run = build(url, [("1", "12"), ("1", "1"), ("2", "7")])
    fixed = "CREATE TABLE fees (studio integer NOT NULL, number integer NOT NULL, cents integer)"
    run(fixed, "INSERT INTO fees VALUES (1, 12, 5), (1, 1, 5), (2, 7, 5)", "SELECT 1")
    law = {"action": "retain", "basis": "Art. 17(3)(b): tax law", "days": 3650}
    columns = {"studio": {"role": "link"}, "number": {"role": "link"}}
    fees = TO_MEMBER | {"erase": law, "columns": columns, "unused": ["cents"]}
    params = declare(url, fees=fees)
    with pytest.raises(ErasureRefused, match="studio, number cannot be null"):
        erase_from_source(params, traces(params, '("1","12")'), now=NOW)
    assert run("SELECT count(*) FROM fees") == [(3,)]
    fees = fees | {"erase": {"action": "delete"}}
    erased(declare(url, fees=fees), '("1","12")')
    assert run("SELECT studio, number FROM fees ORDER BY 1") == [(1, 1), (2, 7)]


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ("studio integer, number integer", "studio, number"),
        ("old_studio integer, old_number integer", "old_studio, old_number"),
        ("Studio integer, memberNumber integer", "[sS]tudio, member[nN]umber"),
        ("member_id integer", ""),
    ],
)
def test_columns_side_by_side_that_look_like_the_key_are_to_be_declared(
    url: str, columns: str, named: str
) -> None:
    run = build(url)
    run(f"CREATE TABLE fees (fee integer, {columns})", "SELECT 1")
    names = [each.split()[0] for each in columns.split(", ")]
    names = names if url.startswith("sqlite") else [each.lower() for each in names]
    fees: dict[str, Any] = {"about": "nobody", "columns": {}, "unused": ["fee", *names]}
    params = declare(url, fees=fees)
    found = rf"fees\.\({named}\) looks like" if named else r"fees\.member_id looks like"
    with pytest.raises(ErasureRefused, match=found):
        traces(params, '("1","12")')
    assert traces(declare(url, fees=fees | {"not_links": names[-1:]}), '("1","12")').identifiers


def test_a_table_with_such_a_key_of_its_own_is_none(url: str) -> None:
    run = build(url)
    run("CREATE TABLE fees (studio integer, number integer, PRIMARY KEY (studio, number))",
        "SELECT 1")  # fmt: skip
    fees = {"about": "nobody", "columns": {}, "unused": ["studio", "number"]}
    assert traces(declare(url, fees=fees), '("1","12")').identifiers


@pytest.mark.parametrize(
    "whose", ["number", ["number"], ["number", "studio"], ["studio", "number", "said"], []]
)
def test_answers_name_people_as_the_key_does(whose: Any) -> None:
    with pytest.raises(ParamsInvalid, match=r"consent"):
        _answered("sqlite:///x", whose)
    assert _answered("sqlite:///x", ["studio", "number"]).consent.subjects == ("studio", "number")


def _answered(url: str, whose: Any) -> Params:
    from lethe.config.params import parse_params
    from tests.library import DECLARED

    raw = copy.deepcopy(DECLARED)
    raw["source"]["url"] = url
    raw["subject"] = {"table": "members", "key": ["studio", "number"], "minimum": 2}
    raw["records"] = {"table": "visits", "latest_by": "day"}
    raw["tables"] = copy.deepcopy(TABLES)
    raw["consent"] |= {"subject": whose, "answer": "said", "time": "said_at"}
    return parse_params(raw)


def test_a_blank_filled_key_leads_to_texts_without_blanks(
    postgres_urls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key of one column, too: `char(n)` against `text`, declared and by rows."""
    monkeypatch.chdir(tmp_path)
    url = postgres_urls()
    run = opened(url)
    run(
        "CREATE TABLE members (person char(6) PRIMARY KEY, email text)",
        "CREATE TABLE visits (visit integer PRIMARY KEY, person text, day date, minutes integer, "
        "came_back text)",
        "CREATE TABLE bills (bill integer PRIMARY KEY, person text, cents integer)",
        "CREATE TABLE answers (person varchar(9), purpose text, said text, said_at text)",
        "INSERT INTO members VALUES ('AB', 'a@example.org'), ('ABC', 'b@example.org')",
        "INSERT INTO visits VALUES (1, 'AB', '2026-01-01', 1, 'yes'), (2, 'ABC', NULL, 2, 'no')",
        "INSERT INTO bills VALUES (1, 'AB', 1), (2, 'ABC', 1)",
        "INSERT INTO answers VALUES ('AB', 'reading', 'yes', '2026-01-01')",
    )
    from lethe.config.params import parse_params
    from tests.library import DECLARED

    raw = copy.deepcopy(DECLARED)
    raw["source"]["url"] = url
    raw["subject"] = {"table": "members", "key": "person", "minimum": 2}
    raw["records"] = {"table": "visits", "latest_by": "day"}
    tables = copy.deepcopy({n: TABLES[n] for n in ("members", "visits", "answers", "bills")})
    for table in tables.values():
        key = table["columns"].pop("studio")
        del table["columns"]["number"]
        table["columns"]["person"] = key
        table["links"] = {} if key["role"] == "subject_key" else {"person": "members.person"}
    tables["visits"]["unused"] = []
    raw["tables"] = tables
    raw["consent"] |= {"subject": "person", "answer": "said", "time": "said_at"}
    params = parse_params(raw)
    outcome = erased(params, "AB    ")
    assert outcome.places == (
        *("answers: 1 deleted", "bills: 1 anonymized", "members: 1 deleted", "visits: 1 deleted"),
    )
    assert run("SELECT bill, person FROM bills ORDER BY 1") == [(1, None), (2, "ABC")]
    assert run("SELECT person FROM visits") == [("ABC",)]
