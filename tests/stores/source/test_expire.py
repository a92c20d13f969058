"""Rows past their retention leave a source of either kind as declared, and no row in time does."""

import csv
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lethe.config.params import Params
from lethe.core.errors import ErasureRefused, ValueOutsideDomain
from lethe.core.outcomes import Outcome
from lethe.stores.source.compact import compact_source
from lethe.stores.source.expire import erase_expired, look_for_expired, verify_expired
from tests import library
from tests.postgres import postgres_server, postgres_urls  # noqa: F401
from tests.traps import DECLARED, NOW, ROWS, SCHEMA, Parish, declare, sqlite_url

Make = Callable[..., Parish]

VISITS = {"days": 119, "by": "day"}  # since 2026-02-02: three of Ada's and Bo's are past
STAYING = [
    (1, 3, None, None, 30, "no", "2026-03-01"),
    (2, 2, None, None, 25, "no", "2026-02-05"),
    (3, 1, None, None, 35, "no", "2026-02-06"),
]


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


def retain(params: Params) -> Outcome:
    keys = look_for_expired(params, as_of=NOW).keys
    return erase_expired(params, as_of=NOW, known=keys, about="1")


def test_what_is_past_goes_with_its_own_rows_and_links_to_it_are_cut(make: Make) -> None:
    parish = make()
    before = parish.everything()
    params = declare(parish.url, tables__visits__retention=VISITS)
    found = look_for_expired(params, as_of=NOW)
    assert (found.rows, found.blanked, found.undated) == ({"visits": 3, "bills": 1}, {}, {})
    assert (found.keys, found.people) == ({"1", "2"}, ())
    done = retain(params)
    assert parish.everything() == before | {
        "visits": STAYING,
        "findings": [(2, 1, 3, "better"), (4, 3, 1, "x")],
        "bills": [bill for bill in ROWS["bills"] if bill[0] != 2],  # the law's days are over
    }
    assert done.places == (
        "bills: 1 deleted",
        "findings: 2 deleted",
        "visits: 3 deleted",
        "visits: 2 unlinked",
    )
    assert parish.broken_links() == []


def test_again_finds_nothing_and_changes_nothing(make: Make) -> None:
    parish = make()
    params = declare(parish.url, tables__visits__retention=VISITS)
    retain(params)
    compact_source(params)
    assert verify_expired(params, as_of=NOW, about="1").result == "absent"
    state = parish.everything()
    assert not look_for_expired(params, as_of=NOW)
    assert retain(params).result == "absent"
    assert parish.everything() == state


def test_a_killed_call_is_reported_by_the_next_and_space_is_overwritten_before_it_verifies(
    make: Make,
) -> None:
    parish = make()
    params = declare(parish.url, tables__visits__retention=VISITS)
    done = retain(params)
    seen = verify_expired(params, as_of=NOW, about="1")
    assert (seen.result, "waits to be overwritten" in (seen.reason or "")) == (
        "present",
        True,
    )
    assert retain(params) == done, "what the killed one did"
    compact_source(params)
    assert verify_expired(params, as_of=NOW, about="1").result == "absent"
    assert retain(params).result == "absent"


def test_a_fresh_look_counts_what_is_still_there(make: Make) -> None:
    parish = make()
    params = declare(parish.url, tables__visits__retention=VISITS)
    seen = verify_expired(params, as_of=NOW, about="1")
    assert (seen.result, seen.count, seen.places) == ("present", 4, ("bills", "visits"))


def test_the_last_day_in_time_stays_as_written_and_the_one_before_goes(make: Make) -> None:
    rows = {
        "visits": [
            (3, 1, None, None, 35, "no", "2026-02-02T00:30:00+02:00"),
            (3, 2, None, None, 35, "no", "2026-02-01T23:59:59-02:00"),
        ],
        "findings": [],
    }
    parish = make(rows)
    params = declare(parish.url, tables__visits__retention=VISITS)
    retain(params)
    assert [row[1] for row in parish.rows("visits")] == [1]


def test_undated_rows_are_counted_and_stay(make: Make) -> None:
    parish = make()
    parish.run("UPDATE visits SET day = NULL WHERE person_id = 1 AND number = 1")
    params = declare(parish.url, tables__visits__retention=VISITS)
    found = look_for_expired(params, as_of=NOW)
    assert (found.rows["visits"], found.undated) == (2, {"visits": 1})
    retain(params)
    assert [row[:2] for row in parish.rows("visits")] == [(1, 1), (1, 3), (2, 2), (3, 1)]


def test_a_date_that_cannot_be_read_is_undated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parish = Parish.build(sqlite_url(tmp_path))
    parish.run(
        "UPDATE visits SET day = 'last spring' WHERE person_id = 1 AND number = 1",
        "UPDATE visits SET day = 1262304000 WHERE person_id = 1 AND number = 2",
    )
    params = declare(parish.url, tables__visits__retention=VISITS)
    assert look_for_expired(params, as_of=NOW).undated == {"visits": 2}
    retain(params)
    assert [row[:2] for row in parish.rows("visits")][:2] == [(1, 1), (1, 2)]


def test_a_text_that_postgresql_cannot_read_as_a_date_stops_it_and_is_not_shown(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    postgres_urls: Callable[[], str],  # noqa: F811
) -> None:
    monkeypatch.chdir(tmp_path)
    parish = Parish.build(postgres_urls())
    parish.run("UPDATE visits SET day = 'last spring' WHERE person_id = 1 AND number = 1")
    params = declare(parish.url, tables__visits__retention=VISITS)
    for attempt in (
        lambda: look_for_expired(params, as_of=NOW),
        lambda: erase_expired(params, as_of=NOW, known=frozenset(), about="1"),
    ):
        with pytest.raises(ValueOutsideDomain) as refused:
            attempt()
        assert "spring" not in str(refused.value)


def test_declared_columns_are_blanked_once_and_the_row_stays(make: Make) -> None:
    parish = make()
    before = parish.everything()
    params = declare(
        parish.url,
        tables__visits__retention=VISITS,
        tables__visits__erase={"action": "anonymize", "columns": ["minutes", "returned"]},
        tables__bills__erase={"action": "delete"},
    )
    done = retain(params)
    assert done.places == ("visits: 3 anonymized",)
    past = {(1, 1), (1, 2), (2, 1)}
    assert parish.everything() == before | {
        "visits": [
            (*row[:4], None, None, row[6]) if row[:2] in past else row for row in ROWS["visits"]
        ]
    }
    assert not look_for_expired(params, as_of=NOW)


def test_what_the_law_keeps_loses_its_columns_first_and_goes_when_the_law_ends(make: Make) -> None:
    parish = make()
    before = parish.everything()
    params = declare(parish.url, tables__bills__retention={"days": 2000, "by": "issued"})
    found = look_for_expired(params, as_of=NOW)
    assert (found.rows, found.blanked) == ({"bills": 1}, {"bills": 2})
    done = retain(params)
    assert parish.everything() == before | {
        "bills": [
            (1, 1, 1, "erased", 500, "2020-03-01"),
            (3, 2, 1, "erased", 900, "2020-03-01"),
            (4, 3, 2, "Cleo Fenwick, 9 Oak Row", 100, "2021-03-01"),
        ]
    }
    (kept,) = done.retained
    assert (kept["table"], kept["count"], kept["until"]) == ("bills", 2, "2030-12-31")
    assert not look_for_expired(params, as_of=NOW)


def test_a_shared_row_goes_with_the_last_that_points_at_it(make: Make) -> None:
    parish = make()
    parish.run("UPDATE people SET address_id = NULL WHERE person_id = 3")
    parish.run("UPDATE bills SET issued = '2010-01-01' WHERE bill = 4")
    retain(declare(parish.url))
    assert [row[0] for row in parish.rows("addresses")] == [1, 3]


def test_a_link_that_cannot_be_cut_stops_it_before_anything_is_changed(make: Make) -> None:
    parish = make()
    change: dict[str, Any] = {
        "tables__visits__retention": VISITS,
        "tables__findings__links": {  # a finding is Ada's by itself, and only points at the visit
            "person_id": "people.person_id",
            "person_id, visit": "visits.person_id, visits.number",
        },
    }
    before = parish.everything()
    with pytest.raises(ErasureRefused, match="findings point at rows of visits that are past"):
        retain(declare(parish.url, **change))
    assert parish.everything() == before
    message = {"action": "delete", "shared": "delete"}
    retain(declare(parish.url, **change, tables__findings__erase=message))
    assert [row[0] for row in parish.rows("findings")] == [2, 4]


def test_who_has_anything_left_in_time_stays_and_who_has_not_leaves_whole(make: Make) -> None:
    people = SCHEMA["people"] + ", seen TEXT"
    rows = [(*row, "2020-01-01") for row in ROWS["people"][:3]]
    parish = make({"people": [*rows, (*ROWS["people"][3], None)]}, people=people)
    change: dict[str, Any] = {
        "tables__people__retention": {"days": 120, "by": "seen"},
        "tables__people__columns__seen": {
            "role": "timestamp",
            "type": "date",
            "why": "retention",
        },
    }
    # Without another retention everybody whose own row is past leaves; Dov's has no date.
    found = look_for_expired(declare(parish.url, **change), as_of=NOW)
    assert (found.people, found.undated) == (("1", "2", "3"), {"people": 1})
    parish.run("UPDATE visits SET day = '2025-01-01' WHERE person_id = 1")
    parish.run("UPDATE visits SET day = NULL WHERE person_id = 2")
    params = declare(parish.url, **change, tables__visits__retention=VISITS)
    assert look_for_expired(params, as_of=NOW).people == ("1",)


def test_rows_that_came_in_meanwhile_are_not_taken_before_it_is_known_whose_they_are(
    make: Make,
) -> None:
    parish = make()
    params = declare(parish.url, tables__visits__retention=VISITS)
    before = parish.everything()
    done = erase_expired(params, as_of=NOW, known=frozenset({"1"}), about="1")
    assert (done.result, parish.everything()) == ("unreachable", before)


def test_rows_about_nobody_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = library.declare(library.build("sqlite", tmp_path, library.rows(), None))
    found = look_for_expired(params, as_of=library.NOW)
    assert found.rows == {"loans": 1}, "an old branch of the library is no person's data"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_lose_what_is_past_and_keep_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    params = library.declare(library.build(kind, tmp_path, library.rows(), None))
    keys = look_for_expired(params, as_of=library.NOW).keys
    done = erase_expired(params, as_of=library.NOW, known=keys, about="1")
    assert (keys, done.places) == ({"7"}, ("loans: 1 deleted",))
    assert verify_expired(params, as_of=library.NOW, about="1").result == "absent"
    if kind == "csv":
        with gzip.open(tmp_path / "csv" / "loans.csv.gz", "rt", newline="") as file:
            assert [row[0] for row in csv.reader(file)] == ["loan_id", "101", "102", "104"]


@pytest.mark.parametrize(
    "columns", [["minutes", "returned", "said"], ["said"], ["minutes", "returned"]]
)
def test_a_column_that_the_database_makes_is_refused_as_in_an_erasure(
    make: Make, columns: list[str]
) -> None:
    """It is blank once what it is made of is; to blank it by itself cannot be done."""
    made = "day TEXT, said TEXT GENERATED ALWAYS AS (returned || '!') STORED,"
    parish = make(visits=SCHEMA["visits"].replace("day TEXT,", made))
    said = {"said": {"role": "identifier", "why": "who"}}
    declared = DECLARED["tables"]["visits"]["columns"] | said
    params = declare(
        parish.url,
        tables__visits__retention=VISITS,
        tables__visits__columns=declared,
        tables__visits__erase={"action": "anonymize", "columns": columns},
        tables__bills__erase={"action": "delete"},
    )
    before = parish.everything()
    if "said" in columns:
        with pytest.raises(ErasureRefused, match=r"visits\.said is made by the database"):
            retain(params)
        assert parish.everything() == before
        return
    assert retain(params).places == ("visits: 3 anonymized",)
    assert [row[7] for row in parish.rows("visits")].count(None) == 3
    assert not look_for_expired(params, as_of=NOW)
