"""A person leaves a source of either kind whole, and nobody else is touched."""

import copy
import datetime as dt
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.errors import ErasureRefused, SchemaMismatch
from lethe.core.outcomes import Outcome, Traces
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.identifiers import traces
from lethe.stores.source.verify import verify_source
from tests.postgres import postgres_server, postgres_urls  # noqa: F401
from tests.traps import LETTER, NOW, ROWS, SCHEMA, Parish, declare, sqlite_url

Make = Callable[..., Parish]

ADAS = ("Ada Quill", "ada.quill@example.org", "(212) 555-0107", "3 Elm Row")


@pytest.fixture(params=["sqlite", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Builds the parish, with changed tables or rows, in a database of each kind."""
    monkeypatch.chdir(tmp_path)
    kind: str = request.param
    postgres = request.getfixturevalue("postgres_urls") if kind == "postgres" else None

    def made(rows: dict[str, Any] | None = None, **schema: str) -> Parish:
        url = postgres() if postgres else sqlite_url(tmp_path)
        changed = ROWS if rows is None else ROWS | rows
        return Parish.build(url, schema=SCHEMA | schema, rows=changed)

    return made


def erase(params: Params, key: str = "1") -> Outcome:
    return erase_from_source(params, traces(params, key), now=NOW)


def without(rows: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The expected tables: rows as they were, but for those written out."""
    expected = copy.deepcopy(rows)
    return expected | {name: sorted(found, key=repr) for name, found in changes.items()}


def test_only_the_persons_rows_and_links_are_gone(make: Make) -> None:
    parish = make()
    before = parish.everything()
    params = declare(parish.url)
    outcome = erase(params)
    assert parish.everything() == without(
        before,
        {
            "people": [
                (2, "Bo Larkspur", "bo.larkspur@example.org", "(212) 555-0108", 1, None),
                *ROWS["people"][2:],
            ],
            "visits": [(2, 1, None, 3, 15, "yes", "2026-01-05"), *ROWS["visits"][4:]],
            "findings": [(3, 2, 1, "with <ERASED>"), (4, 3, 1, "x")],
            "cases": [(20, 2, 200)],
            "documents": [(200, 20, "of Bo")],
            "friendships": [(2, 3), (3, 4)],
            "memberships": [(1, 2), (2, 3)],
            "bills": [(1, None, 1, "erased", 500, "2020-03-01"), *ROWS["bills"][2:]],
            "letters": [
                (2, "Dear Bo, <ERASED> (<ERASED>) of 3 Elm Row called from <ERASED>."),
                (3, "Dear Cleo"),
            ],
            "notices": [
                (
                    1,
                    "<ERASED> and Ada Quillon meet bada.quill@example.org; <ERASED>, 12125550107.",
                    "ask <ERASED>",
                    None,
                ),
                ROWS["notices"][1],
            ],
            "answers": ROWS["answers"][1:],
        },
    )
    assert parish.broken_links() == []
    assert outcome.result == "erased"
    assert outcome.places == (
        "answers: 1 deleted",
        "bills: 1 anonymized",
        "bills: 1 deleted",
        "cases: 1 deleted",
        "documents: 2 deleted",
        "findings: 2 deleted",
        "findings: 1 redacted",
        "friendships: 2 deleted",
        "letters: 2 deleted",
        "letters: 1 redacted",
        "memberships: 2 deleted",
        "notices: 1 unlinked",
        "people: 1 deleted",
        "people: 1 unlinked",
        "visits: 3 deleted",
        "visits: 1 unlinked",
    )
    assert outcome.retained == (
        {"table": "bills", "basis": "Art. 17(3)(b): tax", "until": "2030-12-31", "count": 1},
    )
    assert verify_source(params, Traces("1", None, ADAS[:3])).result == "absent"


def test_a_second_erasure_finds_nothing_and_changes_nothing(make: Make) -> None:
    parish = make()
    params = declare(parish.url)
    found = traces(params, "1")
    erase_from_source(params, found, now=NOW)
    assert verify_source(params, found).result == "absent"
    after = parish.everything()
    assert erase_from_source(params, found, now=NOW) == Outcome("source", "absent")
    assert parish.everything() == after


def test_nobody_is_nothing_found(make: Make) -> None:
    parish = make()
    before = parish.everything()
    params = declare(parish.url)
    for key in ("77", "no number", "1.0", "9" * 30):
        assert traces(params, key) == Traces(key, None, ())
        assert erase_from_source(params, Traces(key, None), now=NOW) == Outcome("source", "absent")
    assert verify_source(params, Traces("", None)) == Outcome("source", "absent")
    assert parish.everything() == before


def test_everybody_can_be_erased_in_turn(make: Make) -> None:
    parish = make()
    params = declare(parish.url)
    for key in ("3", "1", "4", "2"):
        found = traces(params, key)
        assert erase_from_source(params, found, now=NOW).result == "erased"
        assert (seen := verify_source(params, found)).result == "absent", (key, seen)
    left = {name: rows for name, rows in parish.everything().items() if rows}
    assert set(left) == {"addresses", "bills", "circles", "notices"}
    assert [row[1] for row in left["bills"]] == [None, None, None]
    assert parish.broken_links() == []


def test_an_address_goes_with_the_last_who_lives_there(make: Make) -> None:
    parish = make(rows={"bills": []})
    params = declare(parish.url)
    erase(params, "1")
    assert 1 in [row[0] for row in parish.rows("addresses")]
    outcome = erase(params, "2")
    assert [row[0] for row in parish.rows("addresses")] == [2, 3]
    assert "addresses: 1 deleted" in outcome.places


def test_an_address_stays_with_a_bill_that_the_law_keeps_and_that_is_said(make: Make) -> None:
    parish = make()
    outcome = erase(declare(parish.url), "3")
    assert 2 in [row[0] for row in parish.rows("addresses")]
    assert [each["table"] for each in outcome.retained] == ["addresses", "bills"]
    assert {each["basis"] for each in outcome.retained} == {"Art. 17(3)(b): tax"}


def test_a_shared_row_can_be_anonymized_in_place_of_deleted(make: Make) -> None:
    parish = make()
    erase_shared = {"action": "anonymize", "columns": ["street", "city"]}
    erase(declare(parish.url, tables__addresses__erase=erase_shared), "4")
    assert (3, None, None) in parish.rows("addresses")


BILLS_BOUND = SCHEMA["bills"].replace(
    "payer INTEGER REFERENCES", "payer INTEGER NOT NULL REFERENCES"
)


def test_a_cascade_may_not_delete_what_is_retained(make: Make) -> None:
    """bills.payer is ON DELETE CASCADE: without a look the database would delete the bill."""
    parish = make(bills=BILLS_BOUND)
    before = parish.everything()
    with pytest.raises(ErasureRefused, match=r"bills is retained, but its payer cannot be null"):
        erase(declare(parish.url))
    assert parish.everything() == before


def test_a_shell_keeps_what_the_law_keeps_linked(make: Make) -> None:
    """Where the link cannot be null, the person's row stays under a key that reveals nothing."""
    parish = make(bills=BILLS_BOUND)
    params = declare(
        parish.url,
        tables__people__erase={
            "action": "anonymize",
            "columns": ["name", "email", "phone", "address_id", "referred_by"],
        },
    )
    found = traces(params, "1")
    outcome = erase_from_source(params, found, now=NOW)
    shells = [row for row in parish.rows("people") if row[0] not in (2, 3, 4)]
    assert len(shells) == 1
    assert shells[0][0] < 0 and shells[0][1:] == ("erased", None, None, None, None)
    assert (1, shells[0][0], 1, "erased", 500, "2020-03-01") in parish.rows("bills")
    assert next(row for row in parish.rows("people") if row[0] == 2)[5] is None
    assert {row[0] for row in parish.rows("visits")} == {2, 3}
    assert "people: 1 anonymized" in outcome.places
    assert parish.broken_links() == []
    assert verify_source(params, found).result == "absent"


def test_a_shell_takes_its_whole_family_of_composite_keys_along(make: Make) -> None:
    """Visits and findings stay anonymized, so their composite keys follow the new one."""
    parish = make()
    params = declare(
        parish.url,
        tables__people__erase={"action": "anonymize", "columns": ["name", "email", "phone"]},
        tables__visits__erase={"action": "anonymize", "columns": ["minutes"]},
        tables__findings__erase={"action": "anonymize", "columns": ["remark"]},
    )
    found = traces(params, "1")
    erase_from_source(params, found, now=NOW)
    (shell,) = [row[0] for row in parish.rows("people") if row[0] < 0]
    visits = [row for row in parish.rows("visits") if row[0] == shell]
    assert [row[:5] for row in sorted(visits, key=lambda row: row[1])] == [
        (shell, 1, None, None, None),
        (shell, 2, shell, 1, None),
        (shell, 3, shell, 2, None),
    ]
    assert [row[1:] for row in parish.rows("findings")][:2] == [(shell, 1, None), (shell, 3, None)]
    assert parish.broken_links() == []
    assert verify_source(params, found).result == "absent"


def test_a_shell_takes_the_databases_own_number_where_it_must(
    postgres_urls: Callable[[], str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    parish = Parish.build(postgres_urls(), schema=SCHEMA | {"bills": BILLS_BOUND})
    parish.run(
        "ALTER TABLE people ALTER person_id ADD GENERATED ALWAYS AS IDENTITY (START WITH 900)"
    )
    shell = {"action": "anonymize", "columns": ["name", "email", "phone", "address_id"]}
    params = declare(parish.url, tables__people__erase=shell)
    found = traces(params, "1")
    assert erase_from_source(params, found, now=NOW).result == "erased"
    assert [row[0] for row in parish.rows("people")] == [2, 3, 4, 900]
    assert (900, "erased", None, None, None, None) in parish.rows("people")
    assert (1, 900, 1, "erased", 500, "2020-03-01") in parish.rows("bills")
    assert verify_source(params, found).result == "absent"


def test_rows_that_name_the_key_and_lead_nowhere_go_too(make: Make) -> None:
    """Without a foreign key a finding can outlive its visit."""
    loose = "finding INTEGER PRIMARY KEY, person_id INTEGER, visit INTEGER, remark TEXT"
    rows = {"findings": [(1, 1, 1, "a"), (2, 1, 99, "of no visit"), (3, 2, 1, "b")]}
    parish = make(findings=loose, rows=rows)
    params = declare(parish.url)
    found = traces(params, "1")
    erase_from_source(params, found, now=NOW)
    assert parish.rows("findings") == [(3, 2, 1, "b")]
    assert verify_source(params, found).result == "absent"


def test_a_declared_view_is_another_tables_rows(make: Make) -> None:
    parish = make()
    parish.run("CREATE VIEW called AS SELECT person_id, phone FROM people")
    view = {
        "links": {"person_id": "people.person_id"},
        "erase": {"action": "delete"},
        "columns": {"person_id": {"role": "link"}},
        "unused": ["phone"],
    }
    assert erase(declare(parish.url, tables__called=view)).result == "erased"


def test_the_law_can_keep_the_person_too(make: Make) -> None:
    parish = make(bills=BILLS_BOUND)
    keep = {"action": "retain", "basis": "Art. 17(3)(e): a claim", "days": 90, "columns": ["phone"]}
    params = declare(parish.url, tables__people__erase=keep)
    found = traces(params, "1")
    outcome = erase_from_source(params, found, now=NOW)
    assert [row[3] for row in parish.rows("people") if row[0] == 1] == [None]
    assert {each["table"] for each in outcome.retained} == {"people", "bills"}
    assert {each["until"] for each in outcome.retained} == {"2026-12-31", "2030-12-31"}
    assert {row[0] for row in parish.rows("visits")} == {2, 3}
    assert verify_source(params, found).result == "absent"


LOOK_ALIKES = ("PersonId", "old_person_id", "person_no", "referred_by", "payer", "member")


def test_what_looks_like_a_link_and_is_none_stops_the_run_with_its_name(make: Make) -> None:
    empty: dict[str, Any] = {"circles": [], "memberships": []}
    columns = ", ".join(f"{name} TEXT" for name in (*LOOK_ALIKES, "personal_best"))
    parish = make(circles=f"circle INTEGER PRIMARY KEY, title TEXT, {columns}", rows=empty)
    before = parish.everything()
    names = [name if parish.sqlite else name.lower() for name in LOOK_ALIKES]
    unused = ["title", "personal_best", *names]
    params = declare(parish.url, tables__circles__unused=unused)
    with pytest.raises(ErasureRefused) as caught:
        erase(params)
    listed = ", ".join(f"circles.{name}" for name in names)
    assert str(caught.value).startswith(f"{listed} looks like a link")
    assert verify_source(params, Traces("1", None)).result == "unreachable"
    assert parish.everything() == before
    message = {"tables__circles__unused": unused, "tables__circles__not_links": names}
    assert erase(declare(parish.url, **message)).result == "erased"


def test_a_link_declared_without_a_foreign_key_is_followed_whatever_its_type(make: Make) -> None:
    parish = make(letters="addressee TEXT, body TEXT", rows={"letters": [("1", "a"), ("2", "b")]})
    erase(declare(parish.url))
    assert parish.rows("letters") == [("2", "b")]


def test_rows_left_by_an_older_deletion_are_found_by_the_key_alone(make: Make) -> None:
    parish = make()
    params = declare(parish.url)
    found = traces(params, "1")
    erase_from_source(params, found, now=NOW)
    parish.run("INSERT INTO letters VALUES (1, 'late')")  # no foreign key hinders it
    verified = verify_source(params, found)
    assert verified.result == "present"
    assert verified.places == ("letters.addressee",)
    assert erase_from_source(params, found, now=NOW).places == ("letters: 1 deleted",)
    assert verify_source(params, found).result == "absent"


def test_mentions_are_reported_where_they_are_not_to_be_redacted(make: Make) -> None:
    parish = make()
    params = declare(parish.url, tables__letters__columns__body__mentions="report")
    found = traces(params, "1")
    outcome = erase_from_source(params, found, now=NOW)
    assert (2, LETTER) in parish.rows("letters")
    assert outcome.reason is not None and "letters.body (1)" in outcome.reason
    verified = verify_source(params, found)
    assert verified.result == "present"
    assert verified.reason == "What leads to the person is still in letters.body (1)."


def test_a_name_that_two_people_bear_leads_to_neither(make: Make) -> None:
    people = [*ROWS["people"][:3], (4, "Ada Quill", "q@example.org", "(212) 555-0107", 3, None)]
    parish = make(rows={"people": people})
    assert traces(declare(parish.url), "1").identifiers == ("ada.quill@example.org",)


def test_traces_are_the_persons_own_and_shown_nowhere(make: Make) -> None:
    found = traces(declare(make().url), "1", token=7)
    assert found == Traces("1", 7, ADAS[:3])
    assert not any(value in repr(found) for value in ADAS)


def test_verifying_looks_into_every_column_of_every_table(make: Make) -> None:
    """Undeclared uses of columns: a name stands where nobody expects one."""
    parish = make()
    params = declare(parish.url)
    found = traces(params, "1")
    erase_from_source(params, found, now=NOW)
    assert verify_source(params, found).result == "absent"
    parish.run(
        "UPDATE findings SET remark = 'see ada quill, please'",
        "UPDATE circles SET title = 'Quill, ADA' WHERE circle = 2",
        "UPDATE people SET phone = '212.555.0107' WHERE person_id = 2",
        "UPDATE visits SET earlier_person = 1, earlier_number = NULL WHERE person_id = 3",
    )
    verified = verify_source(params, found)
    assert verified.result == "present"
    assert verified.reason == (
        "What leads to the person is still in circles.title (1), findings.remark (2), "
        "people.phone (1), visits.earlier_person (1)."
    )


def test_a_materialized_view_is_computed_anew(
    postgres_urls: Callable[[], str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    parish = Parish.build(postgres_urls())
    parish.run("CREATE MATERIALIZED VIEW called AS SELECT name, phone FROM people")
    params = declare(parish.url)
    found = traces(params, "1")
    erase_from_source(params, found, now=NOW)
    assert [row[0] for row in parish.rows("called")] == [row[1] for row in ROWS["people"][1:]]
    assert verify_source(params, found).result == "absent"
    parish.run("UPDATE people SET name = 'Ada Quill' WHERE person_id = 2")
    parish.run("REFRESH MATERIALIZED VIEW called")
    assert set(verify_source(params, found).places) == {"called", "people.name"}


def test_a_role_that_may_only_read_is_named(
    postgres_urls: Callable[[], str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    parish = Parish.build(postgres_urls())
    before = parish.everything()
    role = "reader" + parish.url.rsplit("/", 1)[1]
    parish.run(
        f"CREATE ROLE {role} LOGIN PASSWORD 'x'",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
    )
    try:
        host = parish.url.split("@", 1)[1]
        params = declare(f"postgresql://{role}:x@{host}")
        outcome = erase(params)
        assert outcome.result == "unreachable"
        assert outcome.reason is not None and "cannot be written to" in outcome.reason
        assert parish.everything() == before
        parish.run(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        outcome = erase(params)  # it may delete, but not vacuum what it does not own
        assert (outcome.result, outcome.count) == ("present", 23)
        assert outcome.reason is not None and "may not vacuum" in outcome.reason
        assert verify_source(params, Traces("1", None)).result == "present"
    finally:
        parish.run(f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    owner = declare(parish.url)
    outcome = erase(owner)
    assert (outcome.result, outcome.count) == ("erased", 23)
    assert outcome.reason is not None and "write-ahead log" in outcome.reason
    assert verify_source(owner, Traces("1", None)).result == "absent"


def test_a_trigger_that_deletes_what_is_to_stay_is_seen_and_undone(make: Make) -> None:
    parish = make()
    before = parish.everything()
    if parish.sqlite:
        parish.run(
            "CREATE TRIGGER t AFTER DELETE ON people BEGIN DELETE FROM bills WHERE bill = 1; END"
        )
    else:
        parish.run(
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN DELETE FROM bills WHERE bill = 1; RETURN NULL; END $$",
            "CREATE TRIGGER t AFTER DELETE ON people FOR EACH ROW EXECUTE FUNCTION f()",
        )
    with pytest.raises(ErasureRefused, match="1 rows of bills, which were to stay"):
        erase(declare(parish.url))
    assert parish.everything() == before


def test_a_row_about_two_people_that_says_more_than_that_needs_a_declaration(make: Make) -> None:
    parish = make(
        friendships=SCHEMA["friendships"].replace("PRIMARY KEY", "since TEXT, PRIMARY KEY"),
        rows={"friendships": [(3, 1, "school")]},
    )
    before = parish.everything()
    change: dict[str, Any] = {"tables__friendships__unused": ["since"]}
    with pytest.raises(ErasureRefused, match=r"friendships has rows about somebody else"):
        erase(declare(parish.url, **change))
    assert parish.everything() == before
    message = {"action": "delete", "shared": "delete"}
    erase(declare(parish.url, **change, tables__friendships__erase=message))
    assert parish.rows("friendships") == []


def test_a_circle_without_a_loose_link_needs_constraints_that_wait(make: Make) -> None:
    bound = SCHEMA["cases"].replace("main_document INTEGER", "main_document INTEGER NOT NULL")
    document = SCHEMA["documents"].replace("ON DELETE RESTRICT", "DEFERRABLE INITIALLY DEFERRED")
    rows = {"cases": [], "documents": []}
    parish = make(cases=bound, documents=document, rows=rows)
    if not parish.sqlite:
        parish.run("ALTER TABLE cases ALTER CONSTRAINT cases_main_document_fkey DEFERRABLE")
    with parish.engine.begin() as connection:
        defer = (
            "PRAGMA defer_foreign_keys = ON" if parish.sqlite else "SET CONSTRAINTS ALL DEFERRED"
        )
        connection.exec_driver_sql(defer)
        connection.exec_driver_sql("INSERT INTO documents VALUES (100, 10, 'x'), (200, 20, 'y')")
        connection.exec_driver_sql("INSERT INTO cases VALUES (10, 1, 100), (20, 2, 200)")
    erase(declare(parish.url))
    assert parish.rows("cases") == [(20, 2, 200)]
    assert parish.rows("documents") == [(200, 20, "y")]


def test_a_table_that_vanished_is_said_and_nothing_is_changed(make: Make) -> None:
    parish = make()
    params = declare(parish.url)
    found = traces(params, "1")
    parish.run("DROP TABLE letters")
    before = parish.everything()
    with pytest.raises(SchemaMismatch, match="'letters' is declared but absent"):
        erase_from_source(params, found, now=NOW)
    assert "letters" in str(verify_source(params, found).reason)
    assert parish.everything() == before


def test_nothing_that_is_said_holds_a_value_of_the_person(make: Make) -> None:
    bills = [(1, 1, 1, "Ada Quill, 3 Elm Row", 500, "2020-03-01"), (2, 1, 1, "Ada", 5, None)]
    parish = make(bills=BILLS_BOUND, rows={"bills": bills})
    said = []
    with pytest.raises(ErasureRefused) as caught:
        erase(declare(parish.url))
    said.append(str(caught.value))
    parish.run("CREATE UNIQUE INDEX one_blank ON bills (sent_to)")
    params = declare(
        parish.url,
        tables__people__erase={"action": "anonymize", "columns": ["name", "email", "phone"]},
        tables__bills__erase={
            "action": "anonymize",
            "columns": ["sent_to"],
            "replace": {"sent_to": "gone"},
        },
    )
    with pytest.raises(ErasureRefused) as caught:  # two bills, one word
        erase(params)
    said.append(str(caught.value))
    parish.run("DROP INDEX one_blank")
    found = traces(params, "1")
    said.append(repr(erase_from_source(params, found, now=NOW)))
    parish.run("UPDATE notices SET body = 'Ada Quill'")
    said.append(repr(verify_source(params, found)))
    assert all("Traceback" not in text and len(text) > 20 for text in said)
    for value in (*ADAS, "Quill", "quill"):
        assert not any(value in text for text in said)
    with_cause = caught.value.__cause__
    assert with_cause is None


def test_a_writer_who_adds_a_row_meanwhile_is_not_missed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other writer comes between the trace and the deletions."""
    import lethe.stores.source.erase as erasure

    parish = make()
    refused: list[BaseException] = []

    def add() -> None:
        try:
            parish.run("INSERT INTO visits VALUES (1, 9, NULL, NULL, 1, 'no', '2026-05-01')")
        except sa.exc.DBAPIError as error:
            refused.append(error)

    other = threading.Thread(target=add)
    planned = erasure.Planner.make

    def with_a_writer(self: Any, terms: Any, **options: Any) -> Any:
        other.start()
        other.join(0.3)
        assert other.is_alive()  # it waits for the person's row
        return planned(self, terms, **options)

    monkeypatch.setattr(erasure.Planner, "make", with_a_writer)
    outcome = erase(declare(parish.url))
    other.join()
    assert outcome.result == "erased"
    assert len(refused) == 1  # the person was gone by then
    assert {row[0] for row in parish.rows("visits")} == {2, 3}


def test_who_holds_the_persons_rows_makes_the_erasure_wait_for_another_time(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lethe.stores.source.connect.WAIT_SECONDS", 1)
    parish = make()
    params = declare(parish.url)
    found = traces(params, "1")
    with parish.engine.connect() as connection:
        if parish.sqlite:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.exec_driver_sql("UPDATE people SET phone = phone")
        outcome = erase_from_source(params, found, now=NOW)
        connection.rollback()
    assert outcome.result == "unreachable"
    assert outcome.reason is not None and "Somebody else holds" in outcome.reason
    assert erase_from_source(params, found, now=NOW).result == "erased"


def test_timestamps_decide_when_the_law_stops_asking(make: Make) -> None:
    parish = make()
    params = declare(parish.url)
    later = dt.datetime(2030, 3, 1, tzinfo=dt.UTC)  # 3,652 days after the bill
    outcome = erase_from_source(params, traces(params, "1"), now=later)
    assert "bills: 2 deleted" in outcome.places
    assert outcome.retained == ()


def test_columns_that_cannot_be_null_need_a_value(make: Make) -> None:
    parish = make(bills=SCHEMA["bills"].replace("cents INTEGER", "cents INTEGER NOT NULL"))
    retain = {
        "action": "retain",
        "columns": ["sent_to", "cents"],
        "basis": "Art. 17(3)(b): tax",
        "days": 36500,
    }
    if not parish.sqlite:
        with pytest.raises(ErasureRefused, match=r"bills\.cents is to be blanked and cannot be"):
            erase(declare(parish.url, tables__bills__erase=retain))
    message = retain | {"replace": {"cents": 0, "sent_to": "nobody"}}
    erase(declare(parish.url, tables__bills__erase=message))
    blanked = [row for row in parish.rows("bills") if row[1] is None]
    assert [row[3:5] for row in blanked] == [("nobody", 0), ("nobody", 0)]
