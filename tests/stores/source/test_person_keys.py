"""People whom several columns name together: read, found and erased, in databases and files."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from lethe.config.params import Params
from lethe.core.errors import ParamsInvalid, SchemaMismatch, SubjectKeyInvalid
from lethe.core.outcomes import Traces
from lethe.people.references import refer
from lethe.rights.intake import read_csv
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.expire import look_for_expired
from lethe.stores.source.find_people import key_meant, keys_spelled, subjects_by
from lethe.stores.source.identifiers import traces
from lethe.stores.source.read import Source
from lethe.stores.source.verify import verify_source, verify_sources
from tests.library import NOW
from tests.postgres import postgres_server, postgres_urls
from tests.studio import TABLES, Run, build, declare, folder

__all__ = ["postgres_server", "postgres_urls"]

GONE = '("1","12")'
STAY = ['("1","1")', '("11","2")', '("2","12")']


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    if request.param == "SQLite":
        return f"sqlite:///{tmp_path / 'studio.db'}"
    made: str = request.getfixturevalue("postgres_urls")()
    return made


@pytest.fixture
def studio(url: str) -> tuple[str, Run]:
    return url, build(url)


def read(params: Params) -> list[tuple[str, int]]:
    with Source.open(params) as source:
        source.check(params)
        chunks = list(source.records(params, NOW))
    found = [each for c in chunks for each in zip(c.subject, c.values["minutes"], strict=True)]
    return sorted((who, int(minutes)) for who, minutes in found)


def people_in(params: Params) -> list[str]:
    with Source.open(params) as source:
        return sorted(who for frame in source.subjects() for who in frame)


def test_each_row_is_its_own_persons(studio: tuple[str, Run]) -> None:
    params = declare(studio[0])
    assert read(params) == [
        *(('("1","1")', 12), ('("1","1")', 22), ('("1","12")', 10), ('("1","12")', 20)),
        *(('("11","2")', 11), ('("11","2")', 21), ('("2","12")', 13), ('("2","12")', 23)),
    ]
    assert people_in(params) == sorted([GONE, *STAY])
    with Source.open(params) as source:
        agreed = [who for frame in source.answers(params, NOW) for who in frame["subject"]]
        assert source.answer_problems(params, NOW)["unknown_subject"] == 0
    assert sorted(agreed) == sorted([GONE, *STAY])


def test_one_person_goes_and_who_has_a_part_of_their_key_stays(studio: tuple[str, Run]) -> None:
    url, run = studio
    params = declare(url)
    found = traces(params, GONE)
    assert found.identifiers == ("member0@example.org",)
    assert verify_source(params, found).result == "present"
    outcome = erase_from_source(params, found, now=NOW)
    assert (outcome.result, outcome.places) == (
        "erased",
        ("answers: 1 deleted", "bills: 1 anonymized", "members: 1 deleted", "visits: 2 deleted"),
    )
    assert [seen.result for seen in verify_sources(params, [found])] == ["absent"]
    assert people_in(params) == STAY
    for table, each in (("visits", 2), ("answers", 1), ("bills", 1)):
        left = run(
            f"SELECT studio, number, count(*) FROM {table} WHERE number IS NOT NULL "
            "GROUP BY studio, number ORDER BY 1, 2"
        )
        assert left == [(1, 1, each), (2, 12, each), (11, 2, each)]
    assert run("SELECT studio, number FROM bills WHERE bill = 0") == [(None, None)]
    assert erase_from_source(params, found, now=NOW).result == "absent"
    others = [verify_source(params, traces(params, key)).result for key in STAY]
    assert others == ["present"] * 3


def test_rows_left_without_their_person_are_found_by_the_whole_key(studio: tuple[str, Run]) -> None:
    url, run = studio
    params = declare(url)
    run(
        "DELETE FROM visits WHERE studio = 1 AND number = 12",
        "DELETE FROM members WHERE studio = 1 AND number = 12",
        "SELECT 1",
    )
    found = traces(params, GONE)
    assert verify_source(params, found).places == ("answers.studio, number", "bills.studio, number")
    places = erase_from_source(params, found, now=NOW).places
    assert places == ("answers: 1 deleted", "bills: 1 anonymized")
    assert verify_source(params, found).result == "absent"


def test_nobody_is_erased_for_somebody_who_is_not_there(studio: tuple[str, Run]) -> None:
    url, run = studio
    params = declare(url)
    for key in ('("12","1")', '("1","2")', '("1","1","2")', "1", '["1","12"]', ""):
        assert erase_from_source(params, traces(params, key), now=NOW).result == "absent"
    assert run("SELECT count(*) FROM members") == [(4,)]


TYPES = {
    "char": ("char(6)", "integer", [("AB", "12"), ("ABC", "2"), ("AB", "1")], ""),
    "date": (
        "date",
        "integer",
        [("2020-01-02", "1"), ("2020-01-03", "1"), ("2020-01-02", "2")],
        "",
    ),
    "timestamp": (
        "timestamp",
        "integer",
        [("2020-01-02 10:00", "1"), ("2020-01-02 10:00:01", "1"), ("2020-01-02 10:00", "2")],
        "",
    ),
    "boolean": ("boolean", "integer", [("true", "1"), ("false", "1"), ("true", "2")], ""),
    "numeric": ("numeric(9,2)", "text", [("7.50", "x"), ("75", "x"), ("7.50", "y")], ""),
    "domain": (
        "code",
        "whole",
        [("AB", "1"), ("ABC", "1"), ("AB", "2")],
        "CREATE DOMAIN code AS char(6); CREATE DOMAIN whole AS integer",
    ),
    "enum": (
        "compass",
        "integer",
        [("north", "1"), ("south", "1"), ("north", "2")],
        "CREATE TYPE compass AS ENUM ('north', 'south')",
    ),
    "uuid": (
        "uuid",
        "varchar(9)",
        [
            ("5f3a0f44-6f2e-4a57-9f2c-1f1f7f0c0a01", "é"),
            ("5f3a0f44-6f2e-4a57-9f2c-1f1f7f0c0a01", "e"),
            ("5f3a0f44-6f2e-4a57-9f2c-1f1f7f0c0a02", "é"),
        ],
        "",
    ),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("action", ["delete", "anonymize"])
def test_parts_of_every_type_are_found_by_whoever_erases(
    kind: str, action: str, postgres_urls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = postgres_urls()
    studio, number, people, before = TYPES[kind]
    run = build(
        url, people, studio=studio, number=number, before=before or "SELECT 1", linked=False
    )
    members = TABLES["members"] | {"links": {}, "erase": {"action": "delete"}}
    if action == "anonymize":
        members["erase"] = {"action": "anonymize", "columns": ["email"]}
    params = declare(url, members=members)
    keys = people_in(params)
    with Source.open(params) as source:
        source.check(params)
        key = next(frame["subject"].iloc[0] for frame in source.answers(params, NOW))
    gone = traces(params, key)
    assert erase_from_source(params, gone, now=NOW).result == "erased"
    assert verify_source(params, gone).result == "absent"
    left = people_in(params)
    assert set(keys) - set(left) == {key}
    assert len(left) == (2 if action == "delete" else 3)
    assert run("SELECT count(*) FROM visits") == [(4,)]
    assert run("SELECT count(*) FROM bills") == [(3,)]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("double precision", ["1.5", "2.5"]),
        ("timestamptz", ["2020-01-01", "2020-01-02"]),
        ("numeric", ["1.5", "2.5"]),
        ("interval", ["1 day", "2 days"]),
        ("bytea", ["a", "b"]),
        ("time", ["10:00", "11:00"]),
        ("inet", ["10.0.0.1", "10.0.0.2"]),
        ('text COLLATE "blind"', ["a", "b"]),
    ],
)
def test_a_type_that_cannot_be_compared_surely_is_refused_by_name(
    kind: str, values: list[str], postgres_urls: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    url = postgres_urls()
    collation = "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', "
    build(
        url,
        [(each, "1") for each in values],
        studio=kind,
        linked=False,
        before=collation + "deterministic = false)",
    )
    params = declare(url, members=TABLES["members"] | {"links": {}})
    with Source.open(params) as source, pytest.raises(SchemaMismatch, match=r"members\.studio"):
        source.check(params)


def test_who_is_read_and_not_found_by_the_writer_is_unreachable(
    studio: tuple[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = declare(studio[0])
    found = traces(params, GONE)
    monkeypatch.setattr("lethe.stores.source.writer.key_forms", lambda *_: [])
    outcome = erase_from_source(params, found, now=NOW)
    assert (outcome.result, outcome.count) == ("unreachable", 0)
    assert "is not found there by the columns studio, number" in str(outcome.reason)
    assert verify_source(params, Traces(GONE, None)).places == ("members",)


def test_a_person_is_found_by_what_was_said(studio: tuple[str, Run]) -> None:
    params = declare(studio[0])
    for said in ("[1, 12]", '["1","12"]', ' [ "1", 12 ] ', GONE, "[01, 12.0]"):
        if said == "[01, 12.0]":
            with pytest.raises(ParamsInvalid):
                key_meant(params, said)
            said = '["01", 12.0]'
        assert key_meant(params, said) == GONE
    assert keys_spelled(params, ['("9","9")']) == {'("9","9")': ['("9","9")']}
    found = subjects_by(params, "members.email", ["MEMBER1@example.org"])
    assert found == {"MEMBER1@example.org": ['("11","2")']}
    assert refer(params, "subject", "[1, 12]").value == GONE
    for wrong in ("1", "[1]", "[1, 2, 3]", "1, 12", "[null, 1]", "[[1], 2]", "{}", "[1, 12", "[]"):
        with pytest.raises(ParamsInvalid, match=r"named by 2 values \(studio, number\)"):
            refer(params, None, wrong)
    for half in ('["\\ud800", 1]', '[1, "\\udc00"]', '["\\u0000", 1]'):
        with pytest.raises(ParamsInvalid, match="in no text"):
            refer(params, None, half)
        with pytest.raises(ParamsInvalid, match="in no text"):
            key_meant(params, half)
    with pytest.raises(ParamsInvalid, match="not a declared identifier"):
        refer(params, "number", "12")


def test_requests_of_a_file_name_people_by_lists(studio: tuple[str, Run], tmp_path: Path) -> None:
    params = declare(studio[0])
    (tmp_path / "asked.csv").write_text('subject\n"[1, 12]"\n"[""11"", ""2""]"\n')
    assert [each.value for each in read_csv(params, tmp_path / "asked.csv")] == [GONE, STAY[1]]
    (tmp_path / "asked.csv").write_text("subject\n12\n")
    with pytest.raises(ParamsInvalid, match="line 2: A person is named by 2 values"):
        read_csv(params, tmp_path / "asked.csv")


def test_spelling_of_a_part_is_what_it_is_of_a_whole_key(url: str) -> None:
    build(url, [("Aby", "A-1"), ("Aby", "B-1"), ("Céby", "A-1")], studio="text", number="text")
    params = declare(url)
    assert key_meant(params, '["aby", "a-1"]') == '("Aby","A-1")'
    together = keys_spelled(params, ['("aby","a-1")', '("x","b-1")'])
    assert together == {'("aby","a-1")': ['("Aby","A-1")'], '("x","b-1")': ['("x","b-1")']}
    assert key_meant(params, '["ce\\u0301by", "A-1"]') == '("Céby","A-1")'
    gone = traces(params, '("Aby","A-1")')
    assert erase_from_source(params, gone, now=NOW).result == "erased"
    assert people_in(params) == ['("Aby","B-1")', '("Céby","A-1")']


def test_a_wide_quotation_mark_is_a_letter_of_the_value(url: str) -> None:
    build(url, [("a\uff02b", "1"), ("ab", "1")], studio="text")
    params = declare(url)
    for said in ('["a\uff02b", 1]', '["a\\uff02b", 1]', '["a\\"b", "1"]'):
        assert key_meant(params, said) == '("a\uff02b","1")'
        assert keys_spelled(params, [refer(params, None, said).value]) == {
            '("a\\"b","1")': ['("a\uff02b","1")']
        }


ODD = [
    ("a,b", "c"),
    ("a", "b,c"),
    ('a","b', "c"),
    ("", "x"),
    ("[", "]"),
    ("a\nb", "\\"),
    ("(", ")"),
]


def test_odd_texts_are_nobody_elses(url: str) -> None:
    run = build(url, [*ODD, ("x" * 2000, "é")], studio="text", number="text")
    params = declare(url)
    for n, key in enumerate(people_in(params), start=1):
        assert erase_from_source(params, traces(params, key), now=NOW).result == "erased"
        assert key not in people_in(params)
        assert run("SELECT count(*) FROM members") == [(8 - n,)]


def test_half_a_key_is_nobodys(studio: tuple[str, Run]) -> None:
    url, run = studio
    run("UPDATE visits SET number = NULL WHERE visit = 0", "SELECT 1")
    with pytest.raises(SubjectKeyInvalid, match="1 rows of visits link to no row"):
        read(declare(url))
    params = declare(url)
    left_out = dataclasses.replace(
        params, records=dataclasses.replace(params.records, without_person="leave_out")
    )
    assert (GONE, 10) not in read(left_out)
    assert (GONE, 20) in read(left_out)


def test_rows_past_their_time_are_whose_they_are(studio: tuple[str, Run]) -> None:
    visits = TABLES["visits"] | {"retention": {"days": 148, "by": "day"}}  # since 4 January
    found = look_for_expired(declare(studio[0], visits=visits), as_of=NOW)
    assert found.rows["visits"] == 3
    assert found.keys == {GONE, '("11","2")', '("1","1")'}


def test_child_rows_count_for_their_own_person(studio: tuple[str, Run]) -> None:
    """And `latest_by` orders each person's own records."""
    visits = TABLES["visits"] | {
        "aggregates": {
            "before": {"count": "visits", "by": "day", "at": "day", "bounds": [0, 9], "why": "w"},
            "most": {"sum": "visits.minutes", "by": "day", "at": "day", "same_day": False,
                     "bounds": [0, 99], "why": "w"},
        }
    }  # fmt: skip
    params = declare(studio[0], visits=visits)
    with Source.open(params) as source:
        chunks = list(source.records(params, NOW))
    rows = [
        (who, order.day, int(before), None if most != most else int(most))
        for c in chunks
        for who, order, before, most in zip(
            c.subject, c.order, c.values["before"], c.values["most"], strict=True
        )
    ]
    assert sorted(rows, key=lambda row: (row[0], -row[1])) == [
        *(('("1","1")', 3, 0, None), ('("1","1")', 1, 1, 12)),
        *(('("1","12")', 1, 0, None), ('("1","12")', 1, 1, 10)),
        *(('("11","2")', 2, 0, None), ('("11","2")', 1, 1, 11)),
        *(('("2","12")', 4, 0, None), ('("2","12")', 1, 1, 13)),
    ]


def test_a_person_can_be_one_row(studio: tuple[str, Run]) -> None:
    members = TABLES["members"] | {
        "columns": {
            **{name: TABLES["members"]["columns"][name] for name in ("studio", "number")},
            "email": {"role": "label", "type": "category", "why": "w",
                      "domain": [f"member{n}@example.org" for n in range(4)]},
        },
        "aggregates": {"visits": {"count": "visits", "by": "day", "bounds": [0, 9], "why": "w"}},
    }  # fmt: skip
    columns = dict(TABLES["visits"]["columns"])
    columns["minutes"] = columns["came_back"] = {"role": "link"}
    params = declare(
        studio[0],
        records={"table": "members"},
        members=members,
        visits=TABLES["visits"] | {"columns": columns},
    )
    with Source.open(params) as source:
        source.check(params)
        chunks = list(source.records(params, NOW))
    found = {who: n for c in chunks for who, n in zip(c.subject, c.values["visits"], strict=True)}
    assert found == dict.fromkeys([GONE, *STAY], 2)


def test_a_folder_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = declare(folder(tmp_path))
    assert people_in(params) == sorted([GONE, *STAY])
    gone = traces(params, key_meant(params, "[1, 12]"))
    assert erase_from_source(params, gone, now=NOW).result == "erased"
    assert verify_source(params, gone).result == "absent"
    assert sorted({who for who, _ in read(params)}) == STAY
