"""Parts of a key: what names a person alone, what is in other links too, and what stays."""

import copy
from pathlib import Path
from typing import Any

import pytest

from lethe.config.params import Params
from lethe.core.errors import ErasureRefused, ParamsInvalid
from lethe.core.outcomes import Traces
from lethe.stores.source.compact import compact_source
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.expire import erase_expired, look_for_expired
from lethe.stores.source.identifiers import traces
from lethe.stores.source.verify import verify_source, verify_sources
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


@pytest.mark.parametrize(
    ("names", "theirs"),
    [
        (("studio", "number"), True),
        (("number", "studio"), True),
        (("Studio", "NUMBER"), True),
        (("fee_studio", "fee_number"), False),
    ],
)
def test_a_table_with_such_a_key_of_its_own_has_rows_of_people_if_it_has_their_names(
    url: str, names: tuple[str, str], theirs: bool
) -> None:
    """A table of one row a person, without a foreign key."""
    run = build(url)
    one, other = names
    key = f"PRIMARY KEY ({one}, {other})"
    run(f"CREATE TABLE fees ({one} integer, {other} integer, {key})", "SELECT 1")
    names = names if url.startswith("sqlite") else (one.lower(), other.lower())
    fees: dict[str, Any] = {"about": "nobody", "columns": {}, "unused": list(names)}
    if theirs:
        with pytest.raises(ErasureRefused, match=r"fees\.\(.*\) looks like"):
            traces(declare(url, fees=fees), '("1","12")')
        fees |= {"not_links": [names[0]]}
    assert traces(declare(url, fees=fees), '("1","12")').identifiers


@pytest.mark.parametrize(
    "whose", ["number", ["number"], ["number", "studio"], ["studio", "number", "said"], []]
)
def test_answers_name_people_as_the_key_does(whose: Any) -> None:
    with pytest.raises(ParamsInvalid, match=r"consent"):
        _answered("sqlite:///x", whose)
    assert _answered("sqlite:///x", ["studio", "number"]).consent.subjects == ("studio", "number")


@pytest.mark.parametrize(
    "whose", [["member_nr", "studio"], ["number", "place"], ["member_nr", "Studio"]]
)
def test_a_column_named_as_a_part_of_the_key_stands_in_its_place(whose: list[str]) -> None:
    """Without a link that says otherwise: `member_nr` would be taken for the studio."""
    own = {each: {"role": "link"} for each in whose}
    with pytest.raises(ParamsInvalid, match=r"consent.*in the order of"):
        _answered("sqlite:///x", whose, columns=own)
    assert _answered("sqlite:///x", whose[::-1], columns=own).consent.subjects == (*whose[::-1],)
    links = {", ".join(whose): "members.studio, members.number"}
    assert _answered("sqlite:///x", whose, columns=own, links=links)  # the link says it
    partly = {whose[0]: "members.number"}
    with pytest.raises(ParamsInvalid, match=r"consent.*in the order of"):
        _answered("sqlite:///x", whose, columns=own, links=partly)


def _answered(url: str, whose: Any, *, columns: Any = None, links: Any = None) -> Params:
    from lethe.config.params import parse_params
    from tests.library import DECLARED

    raw = copy.deepcopy(DECLARED)
    raw["source"]["url"] = url
    raw["subject"] = {"table": "members", "key": ["studio", "number"], "minimum": 2}
    raw["records"] = {"table": "visits", "latest_by": "day"}
    raw["tables"] = copy.deepcopy(TABLES)
    if columns is not None:
        kept = {n: c for n, c in TABLES["answers"]["columns"].items() if c["role"] == "consent"}
        raw["tables"]["answers"] = {"about": "nobody", "columns": columns | kept}
        raw["tables"]["answers"]["links"] = links or {}
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
        "CREATE TABLE visits (visit char(6) PRIMARY KEY, person text, day date, minutes integer, "
        "came_back text)",
        "CREATE TABLE sets (visit text, lifted integer)",
        "CREATE TABLE bills (bill integer PRIMARY KEY, person text, cents integer)",
        "CREATE TABLE answers (person varchar(9), purpose text, said text, said_at text)",
        "INSERT INTO members VALUES ('AB', 'a@example.org'), ('ABC', 'b@example.org')",
        "INSERT INTO visits VALUES ('1', 'AB', '2026-01-01', 1, 'yes')",
        "INSERT INTO visits VALUES ('2', 'ABC', NULL, 2, 'no')",
        "INSERT INTO sets VALUES ('1', 10), ('2', 10), ('1', 20)",
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
    tables["sets"] = {
        "links": {"visit": "visits.visit"},
        "erase": {"action": "delete"},
        "columns": {"visit": {"role": "link"}},
        "unused": ["lifted"],
    }
    raw["tables"] = tables
    raw["consent"] |= {"subject": "person", "answer": "said", "time": "said_at"}
    params = parse_params(raw)
    outcome = erased(params, "AB    ")
    assert outcome.places == (
        *("answers: 1 deleted", "bills: 1 anonymized", "members: 1 deleted"),
        *("sets: 2 deleted", "visits: 1 deleted"),
    )
    assert run("SELECT bill, person FROM bills ORDER BY 1") == [(1, None), (2, "ABC")]
    assert run("SELECT person FROM visits") == [("ABC",)]


LINKED = "FOREIGN KEY (by_studio, by_number) REFERENCES members (studio, number)"


@pytest.mark.parametrize("nullable", ["", "by_number", "by_studio, by_number"])
def test_somebody_elses_row_that_points_at_the_person_is_cut_off(url: str, nullable: str) -> None:
    run = build(url)
    kept_full = {"by_studio": " NOT NULL", "by_number": " NOT NULL"}
    kept_full |= dict.fromkeys(nullable.split(", "), "")
    columns = ", ".join(f"{name} integer{kept_full[name]}" for name in ("by_studio", "by_number"))
    run(
        "CREATE TABLE tips (tip integer PRIMARY KEY, cents integer, studio integer, "
        f"number integer, {columns}, "
        f"FOREIGN KEY (studio, number) REFERENCES members (studio, number), {LINKED})",
        "INSERT INTO tips VALUES (1, 5, 11, 2, 1, 12), (2, 5, 11, 2, 2, 12), (3, 5, 1, 12, 1, 1), "
        "(4, 5, 1, 1, 1, 12)",
        "SELECT 1",
    )
    link = {"role": "link"}
    tips = {
        "erase": {"action": "delete"},
        "links": {
            "studio, number": "members.studio, members.number",
            "by_studio, by_number": "members.studio, members.number",
        },
        "columns": dict.fromkeys(["studio", "number", "by_studio", "by_number"], link),
        "unused": ["tip", "cents"],
    }
    params = declare(url, tips=tips)
    if not nullable:
        with pytest.raises(ErasureRefused, match="by_studio, by_number, which cannot be null"):
            erase_from_source(params, traces(params, '("1","12")'), now=NOW)
        return
    erased(params, '("1","12")')
    left = None if "by_studio" in nullable else 1
    rows = run("SELECT tip, by_studio, by_number FROM tips ORDER BY tip")
    assert rows == [(1, left, None), (2, 2, 12), (4, left, None)]
    tips["erase"] = {"action": "anonymize", "columns": ["cents"]}
    run("INSERT INTO tips VALUES (5, 5, 1, 1, 2, 12)", "SELECT 1")
    erased(declare(url, tips=tips), '("1","1")')  # a row of theirs that stays, about another too
    rows = run("SELECT tip, cents, studio, number, by_studio, by_number FROM tips WHERE tip > 3")
    assert sorted(rows)[1] == (5, None, None, None, 2, 12)


def test_people_past_their_time_are_named_by_the_whole_key(url: str) -> None:
    run = build(url)
    run(
        "ALTER TABLE members ADD COLUMN joined date",
        "UPDATE members SET joined = '2020-01-01'",
        "UPDATE members SET joined = '2026-05-01' WHERE studio = 11",
        "UPDATE visits SET day = '2025-01-01'",
        "UPDATE visits SET day = '2026-05-01' WHERE studio = 2 AND number = 12 AND minutes < 20",
        "SELECT 1",
    )
    own = copy.deepcopy(TABLES["members"])
    own["columns"]["joined"] = {"role": "timestamp", "type": "date", "why": "retention"}
    own["retention"] = {"days": 365, "by": "joined"}
    visits = copy.deepcopy(TABLES["visits"]) | {"retention": {"days": 365, "by": "day"}}
    params = declare(url, members=own, visits=visits)
    found = look_for_expired(params, as_of=NOW)
    assert found.people == ('("1","1")', '("1","12")')
    assert found.keys == {'("1","1")', '("1","12")', '("11","2")', '("2","12")'}
    outcome = erase_expired(params, as_of=NOW, known=found.keys, about="day")
    assert outcome.places == ("visits: 7 deleted",)
    assert run("SELECT studio, number FROM visits") == [(2, 12)]


def test_a_number_that_no_column_can_hold_is_nobodys(url: str) -> None:
    build(url)
    params = declare(url)
    for key in ('("99999999999","1")', f'("{"9" * 30}","1")', '("-1","-99999999999")'):
        assert erase_from_source(params, traces(params, key), now=NOW).result == "absent"
        assert verify_source(params, traces(params, key)).result == "absent"


@pytest.mark.parametrize("kind", ["integer", "numeric(9,2)"])
def test_what_the_planner_remembers_of_a_part_is_a_trace_unless_it_is_somebody_elses(
    kind: str, postgres_urls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = postgres_urls()
    people = [("1", "12"), ("1", "1"), ("2", "12"), ("2", "3")]
    run = build(url, people, studio=kind, number=kind, linked=False)
    params = declare(url, members=TABLES["members"] | {"links": {}})
    run("ANALYZE", "SELECT 1")
    for table in ("visits", "answers", "bills", "members"):
        run(f"DELETE FROM {table} WHERE number IN (3, 12) AND studio = 2", "SELECT 1")
    known = verify_sources(params, [Traces('("2","3")', None), Traces('("1","1")', None)])
    places = {each for each in known[0].places if each.startswith("the statistics of ")}
    assert places == {
        f"the statistics of {table}.{column}"
        for table in ("answers", "bills", "members", "visits")
        for column in ("studio", "number")
    }
    assert not any(each.startswith("the statistics of ") for each in known[1].places)
    erase_from_source(params, Traces('("2","3")', None), now=NOW)
    compact_source(params)
    assert verify_source(params, Traces('("2","3")', None)).result == "absent"


LAW = {"action": "retain", "basis": "Art. 17(3)(b): tax law", "days": 3650}
FEES = TO_MEMBER | {
    "erase": LAW,
    "columns": {"studio": {"role": "link"}, "number": {"role": "link"}},
    "unused": ["fee"],
}


def test_what_is_left_of_a_key_must_be_somebody_elses_too(url: str) -> None:
    run = build(url, [("1", "12"), ("2", "12"), ("2", "7")], linked=False)
    fixed = "CREATE TABLE fees (fee integer PRIMARY KEY, studio integer, number integer NOT NULL)"
    run(fixed, "INSERT INTO fees VALUES (1, 1, 12), (2, 2, 7)", "SELECT 1")
    params = declare(url, fees=FEES, members=TABLES["members"] | {"links": {}})
    with pytest.raises(ErasureRefused, match="studio, number cannot be null"):
        erase_from_source(params, traces(params, '("2","7")'), now=NOW)
    erased(params, '("1","12")')
    assert run("SELECT studio, number FROM fees ORDER BY 2") == [(2, 7), (None, 12)]


def test_what_names_the_person_alone_does_not_stay_for_another_link(url: str) -> None:
    run = build(url, MAIL, studio="text", number="text")
    fixed = "CREATE TABLE fees (fee integer PRIMARY KEY, studio text, number text NOT NULL)"
    accounts = "CREATE TABLE accounts (mail text PRIMARY KEY)"
    rows = "INSERT INTO accounts VALUES ('ada@example.org'), ('bo@example.org')"
    run(
        fixed, accounts, rows, "INSERT INTO fees VALUES (1, 'north', 'ada@example.org')", "SELECT 1"
    )
    fees = FEES | {"links": TO_MEMBER["links"] | {"number": "accounts.mail"}}
    mails = {"about": "nobody", "columns": {"mail": {"role": "link"}}}
    params = declare(url, fees=fees, accounts=mails)
    with pytest.raises(ErasureRefused, match="studio, number cannot be null"):
        erase_from_source(params, traces(params, ADA), now=NOW)
    assert run("SELECT count(*) FROM members") == [(3,)]
