"""People whose columns the database joins to one key: read, found and erased in both databases."""

import copy
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from lethe.config.params import Params, parse_params
from lethe.core.errors import ErasureRefused, ParamsInvalid, SubjectKeyInvalid
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.expire import look_for_expired
from lethe.stores.source.find_people import keys_spelled, subjects_by
from lethe.stores.source.identifiers import traces
from lethe.stores.source.read import Source
from lethe.stores.source.verify import verify_source
from tests.library import DECLARED, NOW
from tests.postgres import postgres_server, postgres_urls

__all__ = ["postgres_server", "postgres_urls"]

SCHEMA = """
CREATE TABLE members (studio text, number integer, email text, PRIMARY KEY (studio, number));
CREATE TABLE visits (visit integer PRIMARY KEY, studio text, number integer, day date,
    minutes integer, came_back text, FOREIGN KEY (studio, number) REFERENCES members);
CREATE TABLE answers (studio text, number integer, purpose text, said text, said_at text);
CREATE TABLE bills (bill integer PRIMARY KEY, studio text, number integer, cents integer);
INSERT INTO members VALUES ('Aby', 1, 'ada@example.org'), ('Aby', 12, 'bo@example.org'),
    ('Aby/1', 12, 'cleo@example.org'), ('Ceeby', 1, 'dov@example.org');
INSERT INTO visits VALUES (1, 'Aby', 1, '2026-01-01', 10, 'yes'),
    (2, 'Aby', 1, '2026-02-01', 20, 'no'), (3, 'Aby', 12, '2026-02-01', 30, 'no'),
    (4, 'Aby/1', 12, '2026-02-01', 40, 'no'), (5, 'Ceeby', 1, '2026-02-01', 50, 'no');
INSERT INTO answers VALUES ('Aby', 1, 'reading', 'yes', '2026-01-01'),
    ('Aby', 12, 'reading', 'yes', '2026-01-01');
INSERT INTO bills VALUES (1, 'Aby', 1, 100), (2, 'Ceeby', 1, 100);
"""
JOINED = {
    "SQLite": """
ALTER TABLE members ADD COLUMN person TEXT GENERATED ALWAYS AS (studio || '/' || number) VIRTUAL;
ALTER TABLE visits ADD COLUMN person TEXT GENERATED ALWAYS AS (studio || '/' || number) VIRTUAL;
ALTER TABLE answers ADD COLUMN person TEXT GENERATED ALWAYS AS (studio || '/' || number) VIRTUAL;
CREATE UNIQUE INDEX members_person ON members (person);
CREATE INDEX visits_person ON visits (person);
CREATE INDEX answers_person ON answers (person);

ALTER TABLE bills ADD COLUMN person TEXT;
UPDATE bills SET person = studio || '/' || number;
CREATE INDEX bills_person ON bills (person);
CREATE TRIGGER bills_person AFTER INSERT ON bills BEGIN
  UPDATE bills SET person = NEW.studio || '/' || NEW.number WHERE rowid = NEW.rowid;
END;
""",
    "PostgreSQL": """
ALTER TABLE members ADD COLUMN person text
    GENERATED ALWAYS AS (studio || '/' || number::text) STORED;
ALTER TABLE visits ADD COLUMN person text
    GENERATED ALWAYS AS (studio || '/' || number::text) STORED;
ALTER TABLE answers ADD COLUMN person text
    GENERATED ALWAYS AS (studio || '/' || number::text) STORED;
CREATE UNIQUE INDEX members_person ON members (person);
CREATE INDEX visits_person ON visits (person);
CREATE INDEX answers_person ON answers (person);

ALTER TABLE bills ADD COLUMN person text;
UPDATE bills SET person = studio || '/' || number::text;
CREATE INDEX bills_person ON bills (person);
CREATE FUNCTION bills_person() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN NEW.person := NEW.studio || '/' || NEW.number::text; RETURN NEW; END $$;
CREATE TRIGGER bills_person BEFORE INSERT ON bills FOR EACH ROW EXECUTE FUNCTION bills_person();
""",
}
LINK = {"role": "link"}
TO_MEMBER = {"links": {"person": "members.person"}, "erase": {"action": "delete"}}
TABLES: dict[str, Any] = {
    "members": {
        "erase": {"action": "delete"},
        "columns": {
            "person": {"role": "subject_key", "why": "joins"},
            "email": {"role": "identifier", "why": "letters"},
        },
        "unused": ["studio", "number"],
    },
    "visits": TO_MEMBER
    | {
        "columns": {
            "visit": LINK,
            "person": LINK,
            "day": {"role": "timestamp", "type": "date", "why": "order"},
            "minutes": {"role": "feature", "type": "integer", "bounds": [0, 99], "why": "w"},
            "came_back": {"role": "label", "type": "category", "domain": ["yes", "no"], "why": "w"},
        },
        "unused": ["studio", "number"],
    },
    "answers": TO_MEMBER
    | {
        "columns": {
            "person": LINK,
            "purpose": {"role": "consent"},
            "said": {"role": "consent"},
            "said_at": {"role": "consent", "type": "timestamp"},
        },
        "unused": ["studio", "number"],
    },
    "bills": {
        "links": {"person": "members.person"},
        "erase": {
            "action": "retain",
            "basis": "Art. 17(3)(b): tax law",
            "days": 3650,
            "columns": ["studio", "number"],
        },
        "columns": {"bill": LINK, "person": LINK},
        "unused": ["studio", "number", "cents"],
    },
}
Run = Callable[..., list[tuple[Any, ...]]]


def declare(url: str, **tables: Any) -> Params:
    raw = copy.deepcopy(DECLARED)
    raw["source"]["url"] = url
    raw["subject"] = {"table": "members", "key": "person", "minimum": 2}
    raw["records"] = {"table": "visits", "latest_by": "day"}
    raw["tables"] = copy.deepcopy(TABLES) | tables
    raw["consent"] |= {"subject": "person", "answer": "said", "time": "said_at"}
    return parse_params(raw)


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def studio(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Run]:
    """The studio with the joined key, and a way to ask it."""
    monkeypatch.chdir(tmp_path)
    if request.param == "SQLite":
        url = f"sqlite:///{tmp_path / 'studio.db'}"

        def run(*statements: str) -> list[tuple[Any, ...]]:
            with sqlite3.connect(tmp_path / "studio.db") as made:
                for statement in statements[:-1]:
                    made.executescript(statement)
                found = list(made.execute(statements[-1]))
            made.close()
            return found
    else:
        url = request.getfixturevalue("postgres_urls")()

        def run(*statements: str) -> list[tuple[Any, ...]]:
            with psycopg.connect(url) as made:
                for statement in statements[:-1]:
                    made.execute(statement.encode())
                done = made.execute(statements[-1].encode())
                return done.fetchall() if done.description else []

    run(SCHEMA, JOINED[request.param], "SELECT 1")
    return url, run


def read(params: Params) -> list[tuple[str, int]]:
    with Source.open(params) as source:
        source.check(params)
        chunks = list(source.records(params, NOW))
    found = [each for c in chunks for each in zip(c.subject, c.values["minutes"], strict=True)]
    return sorted((who, int(minutes)) for who, minutes in found)


def test_each_row_is_its_own_persons(studio: tuple[str, Run]) -> None:
    params = declare(studio[0])
    assert read(params) == [
        ("Aby/1", 10),
        ("Aby/1", 20),
        ("Aby/1/12", 40),
        ("Aby/12", 30),
        ("Ceeby/1", 50),
    ]
    with Source.open(params) as source:
        agreed = [who for frame in source.answers(params, NOW) for who in frame["subject"]]
    assert sorted(agreed) == ["Aby/1", "Aby/12"]


def test_a_person_is_found_by_the_joined_key_and_by_identifiers(studio: tuple[str, Run]) -> None:
    params = declare(studio[0])
    assert keys_spelled(params, ["Aby/1", "aby/12", "Aby"]) == {
        "Aby/1": ["Aby/1"],
        "aby/12": ["Aby/12"],
        "Aby": ["Aby"],
    }
    found = subjects_by(params, "members.email", ["ada@example.org"])
    assert found == {"ada@example.org": ["Aby/1"]}


def test_an_erasure_takes_one_person_and_leaves_who_is_spelled_alike(
    studio: tuple[str, Run],
) -> None:
    url, run = studio
    params = declare(url)
    ada = traces(params, "Aby/1")
    outcome = erase_from_source(params, ada, now=NOW)
    assert outcome.places == (
        *("answers: 1 deleted", "bills: 1 anonymized", "members: 1 deleted", "visits: 2 deleted"),
    )
    assert verify_source(params, ada).result == "absent"
    left = [who for who, _ in read(params)]
    assert left == ["Aby/1/12", "Aby/12", "Ceeby/1"]
    bills = run("SELECT bill, studio, number, person FROM bills ORDER BY bill")
    assert bills == [(1, None, None, None), (2, "Ceeby", 1, "Ceeby/1")]


def test_new_rows_have_the_key_of_their_own(studio: tuple[str, Run]) -> None:
    url, run = studio
    run(
        "INSERT INTO bills (bill, studio, number, cents) VALUES (3, 'Aby', 12, 5)",
        "INSERT INTO visits (visit, studio, number, day, minutes, came_back) "
        "VALUES (6, 'Aby', 12, '2026-03-01', 9, 'no')",
        "SELECT 1",
    )
    assert run("SELECT person FROM bills WHERE bill = 3") == [("Aby/12",)]
    assert ("Aby/12", 9) in read(declare(url))


def test_rows_that_stay_cannot_keep_a_generated_key(studio: tuple[str, Run]) -> None:
    url, run = studio
    kept = TABLES["visits"] | {"erase": {"action": "anonymize", "columns": ["studio", "number"]}}
    params = declare(url, visits=kept)
    before = run("SELECT count(*) FROM visits")
    with pytest.raises(ErasureRefused, match=r"visits\.person is made by the database"):
        erase_from_source(params, traces(params, "Aby/1"), now=NOW)
    assert run("SELECT count(*) FROM visits") == before


def test_rows_past_their_time_are_whose_they_are(studio: tuple[str, Run]) -> None:
    kept = TABLES["visits"] | {"retention": {"days": 140, "by": "day"}}  # since 12 January
    found = look_for_expired(declare(studio[0], visits=kept), as_of=NOW)
    assert (found.rows["visits"], found.keys) == (1, {"Aby/1"})


def test_half_a_key_is_nobodys(studio: tuple[str, Run]) -> None:
    url, run = studio
    run("UPDATE visits SET number = NULL WHERE visit = 3", "SELECT 1")
    with pytest.raises(SubjectKeyInvalid, match="1 rows of visits link to no row"):
        read(declare(url))


@pytest.mark.parametrize("key", ["studio, number", "studio,number"])
def test_several_columns_in_one_text_are_refused_with_how_to_write_them(key: str) -> None:
    with pytest.raises(ParamsInvalid, match=r"as a list: \[studio, number\]"):
        raw = copy.deepcopy(DECLARED)
        parse_params(raw | {"subject": {"table": "readers", "key": key}})
