"""A link that holds for some rows only, by a word of theirs, is followed for those alone."""

import copy
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lethe.config.params import Params
from lethe.core.errors import ErasureRefused, ParamsInvalid, SchemaMismatch
from lethe.core.outcomes import Traces
from lethe.stores.source.compact import compact_source
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.expire import erase_expired, look_for_expired
from lethe.stores.source.find_people import subjects_by
from lethe.stores.source.identifiers import traces, traces_of
from lethe.stores.source.read import Source
from lethe.stores.source.verify import verify_source
from tests.postgres import postgres_server, postgres_urls
from tests.traps import DECLARED, NOW, ROWS, SCHEMA, Parish, declare, sqlite_url

__all__ = ["postgres_server", "postgres_urls"]

Make = Callable[..., Parish]

LINK = {"role": "link"}
REMARKS = [
    (1, "Person", "1", "of Ada", "yes", "2026-01-01", "a@x.example"),
    (2, "Case", "10", "of Ada's case", "no", "2026-03-01", "b@x.example"),
    (3, "Person", "2", "of Bo", "yes", "2026-04-01", "c@x.example"),
    (4, "Case", "20", "of Bo's case", "no", "2026-05-01", "d@x.example"),
    (5, "Circle", "1", "of the choir, which has the number of Ada", "no", "2026-05-01", "e"),
    (6, "Circle", "2", "of the chess club", "no", "2026-05-01", "f"),
    (7, None, None, "of nothing", "no", "2026-05-01", "g"),
]
LINKS = {
    "about_id": [
        {"to": "people.person_id", "when": {"about": "Person"}},
        {"to": "cases.case_no", "when": {"about": ["Case", "File"]}},
        {"to": "nobody", "when": {"about": "Circle"}},
    ]
}
TABLE: dict[str, Any] = {
    "links": LINKS,
    "erase": {"action": "delete"},
    "columns": {
        "rno": {"role": "feature", "type": "integer", "bounds": [0, 9], "why": "w"},
        "about": LINK,
        "about_id": LINK,
        "made": {"role": "timestamp", "type": "date", "why": "order"},
        "mail": {"role": "identifier", "why": "who wrote"},
        "good": DECLARED["tables"]["visits"]["columns"]["returned"],
    },
    "unused": ["body"],
}
COLUMNS = """rno INTEGER PRIMARY KEY, about TEXT, about_id TEXT, body TEXT, good TEXT,
    made TEXT, mail TEXT"""
OF_PEOPLE = REMARKS[:4]


def with_remarks(url: str, **changes: Any) -> Params:
    """The parish whose training records are remarks."""
    tables = copy.deepcopy(DECLARED["tables"] | {"remarks": TABLE})
    tables["visits"]["columns"] |= {"returned": {"role": "unused"}, "minutes": {"role": "unused"}}
    changes.setdefault("records", {"table": "remarks"})
    return declare(url, tables=tables, **changes)


@pytest.fixture(params=["sqlite", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.chdir(tmp_path)
    postgres = request.getfixturevalue("postgres_urls") if request.param == "postgres" else None

    def made(remarks: list[Any] = REMARKS) -> Parish:
        parish = Parish.build(
            postgres() if postgres else sqlite_url(tmp_path),
            schema=SCHEMA | {"remarks": COLUMNS},
            rows=ROWS | {"remarks": remarks},
        )
        return parish

    return made


def test_an_erasure_takes_what_its_word_leads_to_the_person_and_nothing_of_the_same_number(
    make: Make,
) -> None:
    parish = make()
    params = with_remarks(parish.url)
    (ada,) = traces_of(params, [("1", None)])
    assert "remarks.about_id" in verify_source(params, ada).places
    assert erase_from_source(params, ada, now=NOW).result == "erased"
    assert parish.rows("remarks") == REMARKS[2:]
    compact_source(params)
    seen = verify_source(params, ada)
    assert (seen.result, seen.places) == ("absent", ()), "the choir's number is not Ada's key"
    (bo,) = traces_of(params, [("2", None)])
    assert erase_from_source(params, bo, now=NOW).result == "erased"
    assert parish.rows("remarks") == REMARKS[4:]


@pytest.mark.parametrize("parts", ["BY LIST (about)", "BY RANGE (rno)"])
def test_what_the_planner_knows_of_a_partition_is_the_persons_by_its_word_alone(
    make: Make, parts: str
) -> None:
    """The choir has Ada's number, so often that the statistics of its partition know it."""
    if "postgres" not in (parish := make([])).url:
        pytest.skip("SQLite has no partitions")
    first = "IN ('Circle')" if "LIST" in parts else "FROM (50) TO (999)"
    parish.run(
        "DROP TABLE remarks",
        f"CREATE TABLE remarks ({COLUMNS.replace(' PRIMARY KEY', '')}) PARTITION {parts}",
        f"CREATE TABLE remarks_a PARTITION OF remarks FOR VALUES {first}",
        "CREATE TABLE remarks_b PARTITION OF remarks DEFAULT",
        "INSERT INTO remarks SELECT 100 + n, 'Circle', '1' FROM generate_series(1, 50) n",
        "INSERT INTO remarks SELECT n, 'Person', '1' FROM generate_series(1, 5) n",
        "INSERT INTO remarks SELECT 10 + n, 'Person', '2' FROM generate_series(1, 5) n",
        "ANALYZE",
    )
    params = with_remarks(parish.url)
    (ada,) = traces_of(params, [("1", None)])
    assert "remarks: 5 deleted" in erase_from_source(params, ada, now=NOW).places
    seen = verify_source(params, ada)
    assert (seen.result, seen.places) == ("absent", ())


def test_a_row_left_by_an_older_deletion_is_found_by_the_key_under_its_word_alone(
    make: Make,
) -> None:
    left = [(8, "Person", "77", "x", "no", None, None), (9, "Case", "77", "y", "no", None, None)]
    parish = make(left)
    params = with_remarks(parish.url)
    erase_from_source(params, traces(params, "77"), now=NOW)
    assert parish.rows("remarks") == left[1:]


def test_a_kept_row_loses_its_link_and_its_word_stays(make: Make) -> None:
    parish = make()
    law = {"action": "retain", "columns": ["body"], "basis": "Art. 17(3)(b): tax", "days": 9}
    params = with_remarks(parish.url, tables__remarks__erase=law)
    erase_from_source(params, traces(params, "1"), now=NOW)
    kept = {row[0]: row[1:4] for row in parish.rows("remarks")}
    assert kept[1] == ("Person", None, None)
    assert kept[2] == ("Case", None, None)
    assert kept[3] == ("Person", "2", "of Bo")
    assert kept[5][1] == "1"


def test_records_are_the_persons_that_their_word_leads_to(make: Make) -> None:
    parish = make(OF_PEOPLE)
    parish.run("ALTER TABLE cases ADD COLUMN branch TEXT", "UPDATE cases SET branch = 'a'")
    kind = {"role": "feature", "type": "category", "domain": ["a"], "why": "w"}
    params = with_remarks(parish.url, tables__cases__columns__branch=kind)
    with Source.open(params) as source:
        source.check(params)
        (chunk,) = source.records(params, NOW)
    found = zip(chunk.row_key, chunk.subject, chunk.values["branch"], strict=True)
    assert sorted((key.strip("\x1f"), who, what) for key, who, what in found) == [
        ("1", "1", None),
        ("2", "1", "a"),
        ("3", "2", None),
        ("4", "2", "a"),
    ]
    assert subjects_by(params, "remarks.mail", ["b@x.example", "c@x.example", "e"]) == {
        "b@x.example": ["1"],
        "c@x.example": ["2"],
        "e": [],
    }


def test_what_is_past_its_time_is_counted_for_the_person_of_its_word(make: Make) -> None:
    parish = make(OF_PEOPLE)
    limit = {"days": 85, "by": "made"}
    params = with_remarks(parish.url, tables__remarks__retention=limit)
    found = look_for_expired(params, as_of=NOW)
    assert (found.rows, found.keys) == ({"bills": 1, "remarks": 2}, {"1"})
    erase_expired(params, as_of=NOW, known=found.keys, about="1")
    assert parish.rows("remarks") == REMARKS[2:4]


def test_a_word_that_no_link_is_declared_for_stops_reading_and_erasing_with_its_count(
    make: Make,
) -> None:
    words = ["person", "Invoice", "", None]
    strays = [(8 + n, word, "1", "of Ada?", "no", None, None) for n, word in enumerate(words)]
    parish = make([*REMARKS, *strays])
    params = with_remarks(parish.url)
    before = parish.everything()
    with pytest.raises(ErasureRefused, match=r"4 rows of remarks have a value in about_id"):
        erase_from_source(params, Traces("1", None), now=NOW)
    assert parish.everything() == before
    with (
        pytest.raises(SchemaMismatch, match="no link of it is declared"),
        Source.open(params) as source,
    ):
        source.check(params)


def test_answers_can_hang_on_such_a_link(make: Make) -> None:
    parish = make()
    parish.run(
        "CREATE TABLE permits (permit INTEGER PRIMARY KEY, of_kind TEXT, of_id INTEGER, "
        "purpose TEXT, said TEXT, said_at TEXT)",
        "INSERT INTO permits VALUES (1, 'Person', 1, 'care', 'yes', '2026-01-01')",
        "INSERT INTO permits VALUES (2, 'Case', 20, 'care', 'no', '2026-01-02')",
    )
    word = {"role": "consent"}
    params = with_remarks(
        parish.url,
        tables__permits={
            "links": {
                "of_id": [
                    {"to": "people.person_id", "when": {"of_kind": "Person"}},
                    {"to": "cases.case_no", "when": {"of_kind": "Case"}},
                ]
            },
            "erase": {"action": "delete"},
            "columns": {
                "permit": LINK,
                "of_kind": LINK,
                "of_id": LINK,
                "purpose": word,
                "said": word,
                "said_at": word,
            },
        },
        consent__table="permits",
        consent__subject="of_id",
    )
    with Source.open(params) as source:
        assert not any(source.answer_problems(params, NOW).values())
        (found,) = source.answers(params, NOW)
    assert sorted(zip(found["subject"], found["answer"], strict=True)) == [
        ("1", "yes"),
        ("2", "no"),
    ]


def test_rows_of_a_folder_go_by_their_word_and_the_others_keep_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "files"
    folder.mkdir()
    names = {"people": ["person_id", "name"], "answers": ["member", "purpose", "said", "said_at"]}
    names["remarks"] = ["about", "about_id", "good", "size"]
    rows: dict[str, list[Any]] = {
        "people": [(1, "Ada Quill"), (2, "Bo Larkspur")],
        "answers": [(1, "care", "yes", "2026-01-01")],
        "remarks": [("Person", 1, "yes", 3), ("Person", 2, "no", 4), ("Circle", 1, "no", 5)],
    }
    for name, header in names.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows[name]])
    tables = {name: copy.deepcopy(DECLARED["tables"][name]) for name in ("people", "answers")}
    tables["people"] |= {"links": {}}
    del tables["answers"]["columns"]["answer"]
    for column in ("email", "phone", "address_id", "referred_by"):
        del tables["people"]["columns"][column]
    size = {"role": "feature", "type": "integer", "bounds": [0, 9], "why": "w"}
    tables["remarks"] = {
        "links": {"about_id": [LINKS["about_id"][0], LINKS["about_id"][2]]},
        "erase": {"action": "delete"},
        "columns": {"about": LINK, "about_id": LINK, "size": size}
        | {"good": TABLE["columns"]["good"]},
    }
    params = declare(f"csv:{folder}", tables=tables, records={"table": "remarks"})
    assert erase_from_source(params, traces(params, "1"), now=NOW).result == "erased"
    left = (folder / "remarks.csv").read_text()
    assert left == "about,about_id,good,size\nPerson,2,no,4\nCircle,1,no,5\n"


@pytest.mark.parametrize(
    ("links", "said"),
    [
        ({"about_id": [{"to": "people.person_id"}, {"to": "cases.case_no"}]}, "each needs `when`"),
        (
            {
                "about_id": [
                    {"to": "people.person_id", "when": {"about": ["Person", "Case"]}},
                    {"to": "cases.case_no", "when": {"about": "Case"}},
                ]
            },
            "can hold for one row",
        ),
        ({"about_id": {"to": "people.person_id", "when": {"abuot": "Person"}}}, "abuot"),
        ({"about_id": {"to": "people.person_id", "when": {"body": "Person"}}}, "'body'"),
        ({"about_id": {"to": "people.person_id", "when": {"about": []}}}, "needs a value"),
        ({"about_id": {"too": "people.person_id"}}, "did you mean 'to'"),
        ({"about_id": {"to": "nobody"}}, "name the table.column"),
        (
            {
                "about_id": [
                    {"to": "people.person_id", "when": {"about": "Person"}},
                    {"to": "remarks.rno", "when": {"about": "Remark"}},
                ]
            },
            "leads back to where it comes from",
        ),
    ],
)
def test_a_declaration_that_says_two_things_or_none_is_refused(
    links: dict[str, Any], said: str
) -> None:
    with pytest.raises(ParamsInvalid, match=said):
        with_remarks("sqlite:///x.db", tables__remarks__links=links)


def test_what_says_where_a_row_points_may_not_be_blanked() -> None:
    blank = {"action": "anonymize", "columns": ["about"]}
    with pytest.raises(ParamsInvalid, match="blank the link"):
        with_remarks("sqlite:///x.db", tables__remarks__erase=blank)


def test_a_link_for_every_row_says_whose_they_are_before_one_with_a_condition() -> None:
    params = with_remarks(
        "sqlite:///x.db",
        tables__remarks__links={**LINKS, "rno": "cases.case_no"},
    )
    (chain,) = params.paths("remarks", "people")
    assert [link.table for link in chain] == ["cases", "people"]
