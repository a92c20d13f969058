"""Partitions and inheritance in PostgreSQL: each row is one table's, and is counted once."""

import contextlib
import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lethe.core.errors import ErasureRefused
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.graph import read_graph
from lethe.stores.source.identifiers import traces
from lethe.stores.source.read import Source
from lethe.stores.source.verify import verify_source
from lethe.stores.source.writer import Row, Writer, open_writer
from tests.postgres import postgres_server, postgres_urls
from tests.traps import DECLARED, NOW, Parish, declare

__all__ = ["postgres_server", "postgres_urls"]

LETTERS = DECLARED["tables"]["letters"]
PARTS = (  # rows of each have the same addresses within their partition
    "CREATE TABLE whole (addressee INTEGER, body TEXT) PARTITION BY RANGE (addressee)",
    "CREATE TABLE letters_a PARTITION OF whole FOR VALUES FROM (0) TO (2)",
    "CREATE TABLE letters_b PARTITION OF whole FOR VALUES FROM (2) TO (99)"
    " PARTITION BY RANGE (addressee)",
    "CREATE TABLE letters_c PARTITION OF letters_b FOR VALUES FROM (2) TO (3)",
    "CREATE TABLE letters_d PARTITION OF letters_b DEFAULT",
    "INSERT INTO whole SELECT * FROM letters",
    "DROP TABLE letters",
    "ALTER TABLE whole RENAME TO letters",
)
HEIR = (  # of a key that another's row has as well
    "CREATE TABLE findings_old (PRIMARY KEY (finding)) INHERITS (findings)",
    "INSERT INTO findings_old VALUES (4, 1, 1, 'old'), (1, 3, 1, 'of Cleo')",
)


@pytest.fixture
def parish(
    postgres_urls: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Parish:
    monkeypatch.chdir(tmp_path)
    return Parish.build(postgres_urls())


def places(parish: Parish, **changes: Any) -> set[str]:
    """What became of Ada, by table; nothing leads to her any more."""
    params = declare(parish.url, **changes)
    found = traces(params, "1")
    outcome = erase_from_source(params, found, now=NOW)
    assert verify_source(params, found).result == "absent"
    return {place for place in outcome.places if place.endswith("deleted")}


def test_rows_of_partitions_are_counted_once_and_nobody_elses_goes(parish: Parish) -> None:
    parish.run(*PARTS)
    assert "letters: 2 deleted" in places(parish)
    assert [row[0] for row in parish.rows("letters")] == [2, 3]


def test_what_the_planner_knows_of_an_emptied_partition_goes_too(parish: Parish) -> None:
    parish.run(
        "CREATE TABLE whole (addressee INTEGER, body TEXT) PARTITION BY LIST (body)",
        "CREATE TABLE letters_a PARTITION OF whole FOR VALUES IN ('Dear Ada')",
        "CREATE TABLE letters_b PARTITION OF whole DEFAULT",
        *PARTS[5:],
        "INSERT INTO letters SELECT 1, 'Dear Ada' FROM generate_series(1, 50)",
        "ANALYZE",
    )
    assert "letters: 52 deleted" in places(parish)
    with parish.engine.connect() as connection:
        known = connection.exec_driver_sql(
            "SELECT tablename FROM pg_stats WHERE attname = 'addressee'"
        )
        assert set(known.scalars()) == {"letters", "letters_b"}


def test_what_the_planner_knows_of_the_key_that_parts_a_table_goes_too(parish: Parish) -> None:
    """Ada's key is all that an emptied partition ever had; what stands on it is as before."""
    parish.run(
        "CREATE TABLE whole (addressee INTEGER REFERENCES people, body TEXT)"
        " PARTITION BY RANGE (addressee)",
        "CREATE TABLE letters_a PARTITION OF whole FOR VALUES FROM (0) TO (2)",
        "CREATE TABLE letters_b PARTITION OF whole FOR VALUES FROM (2) TO (99)",
        "CREATE INDEX by_addressee ON whole (addressee)",
        *PARTS[5:],
        "INSERT INTO letters SELECT 1, 'Dear Ada' FROM generate_series(1, 50)",
        "ANALYZE",
    )
    before = standing(parish)
    assert "letters: 52 deleted" in places(parish)
    assert standing(parish) == before


def test_statistics_that_cannot_be_emptied_keep_the_request_open_and_say_what_to_do(
    parish: Parish,
) -> None:
    parish.run(
        "CREATE TABLE whole (addressee INTEGER, body TEXT) PARTITION BY RANGE (addressee)",
        "CREATE TABLE letters_a PARTITION OF whole FOR VALUES FROM (0) TO (2)",
        "CREATE TABLE letters_b PARTITION OF whole DEFAULT",  # whose rows would be read
        *PARTS[5:],
        "INSERT INTO letters SELECT 1, 'Dear Ada' FROM generate_series(1, 50)",
        "ANALYZE",
    )
    params = declare(parish.url)
    found = traces(params, "1")
    for _ in range(2):
        erase_from_source(params, found, now=NOW)
        seen = verify_source(params, found)
        assert seen.places == ("the statistics of letters_a.addressee",)
        assert "DELETE FROM pg_statistic" in str(seen.reason)
    parish.run("DELETE FROM pg_statistic WHERE starelid = 'letters_a'::regclass")
    erase_from_source(params, found, now=NOW)
    assert verify_source(params, found).result == "absent"


def standing(parish: Parish) -> list[Any]:
    """Partitions, and the constraints, indexes and triggers of each table of letters."""
    with parish.engine.connect() as connection:
        return [
            sorted(map(tuple, connection.execute(sa.text(statement))), key=repr)
            for statement in (
                "SELECT relname, pg_get_expr(relpartbound, oid) FROM pg_class "
                "WHERE relname LIKE 'letters%'",
                "SELECT conrelid::regclass::text, contype, pg_get_constraintdef(oid), "
                "conparentid <> 0 FROM pg_constraint WHERE conrelid::regclass::text LIKE 'lett%'",
                "SELECT indrelid::regclass::text, count(*) FROM pg_index "
                "WHERE indrelid::regclass::text LIKE 'letters%' GROUP BY 1",
                "SELECT tgrelid::regclass::text, count(*) FROM pg_trigger "
                "WHERE tgrelid::regclass::text LIKE 'letters%' GROUP BY 1",
            )
        ]


def test_partitions_that_are_declared_as_well_are_counted_once(parish: Parish) -> None:
    parish.run(*PARTS)
    declared = {f"tables__letters_{part}": copy.deepcopy(LETTERS) for part in "abcd"}
    done = places(parish, **declared)
    assert {each for each in done if each.startswith("letters")} == {"letters: 2 deleted"}
    assert [row[0] for row in parish.rows("letters")] == [2, 3]


def test_the_look_counts_a_row_of_a_partition_once(parish: Parish) -> None:
    plain = verify_source(declare(parish.url), traces(declare(parish.url), "1"))
    parish.run(*PARTS)
    seen = verify_source(declare(parish.url), traces(declare(parish.url), "1"))
    assert (seen.count, seen.places) == (plain.count, plain.places)


def test_a_partition_that_is_declared_otherwise_is_refused(parish: Parish) -> None:
    parish.run(*PARTS)
    nobody = {**copy.deepcopy(LETTERS), "about": "nobody", "links": {}}
    nobody.pop("erase")
    with pytest.raises(ErasureRefused, match="letters_a is a partition of letters"):
        places(parish, tables__letters_a=nobody)


APART: dict[str, dict[str, Any]] = {
    "not_links": {"not_links": ["body"]},
    "links": {"links": {"addressee": "cases.case_no"}},
    "erase": {"erase": {"action": "anonymize", "columns": ["body"]}},
    "retention": {
        "retention": {"days": 9, "by": "body"},
        "columns": {
            "addressee": LETTERS["columns"]["addressee"],
            "body": {"role": "timestamp", "type": "date", "why": "retention"},
        },
    },
}


@pytest.mark.parametrize("other", APART.values(), ids=APART)
def test_a_partition_whose_links_are_declared_otherwise_is_refused(
    parish: Parish, other: dict[str, Any]
) -> None:
    parish.run(*PARTS)
    params = declare(parish.url, tables__letters_a={**copy.deepcopy(LETTERS), **other})
    said = "letters_a is a partition of letters, and is declared otherwise"
    with parish.engine.connect() as connection, pytest.raises(ErasureRefused, match=said):
        read_graph(connection, params)


def test_a_link_to_a_partition_leads_to_its_table(parish: Parish) -> None:
    parish.run(
        "CREATE TABLE rooms (room INTEGER PRIMARY KEY, guest INTEGER REFERENCES people)"
        " PARTITION BY RANGE (room)",
        "CREATE TABLE rooms_a PARTITION OF rooms FOR VALUES FROM (0) TO (99)",
        "CREATE TABLE keys (key INTEGER PRIMARY KEY, room INTEGER REFERENCES rooms_a (room))",
        "INSERT INTO rooms VALUES (1, 1), (2, 2)",
        "INSERT INTO keys VALUES (7, 1), (8, 2)",
    )
    link = {"role": "link"}
    tables = {
        "tables__rooms": {
            "links": {"guest": "people.person_id"},
            "erase": {"action": "delete"},
            "columns": {"room": link, "guest": link},
        },
        "tables__keys": {
            "links": {"room": "rooms.room"},
            "erase": {"action": "delete"},
            "columns": {"key": link, "room": link},
        },
    }
    done = places(parish, **tables)
    assert {"rooms: 1 deleted", "keys: 1 deleted"} <= done
    assert parish.rows("keys") == [(8, 2)]


@pytest.mark.parametrize("part", ["rooms_a", "rooms_b", "rooms"])
def test_whose_a_row_is_may_be_declared_by_way_of_a_partition(parish: Parish, part: str) -> None:
    """Of a key whose room is Ada's: it is hers, and no link of somebody else's to be cut."""
    parish.run(
        "CREATE TABLE rooms (room INTEGER PRIMARY KEY, guest INTEGER REFERENCES people)"
        " PARTITION BY RANGE (room)",
        "CREATE TABLE rooms_a PARTITION OF rooms FOR VALUES FROM (0) TO (99)"
        " PARTITION BY RANGE (room)",
        "CREATE TABLE rooms_b PARTITION OF rooms_a DEFAULT",
        "CREATE TABLE keys (key INTEGER PRIMARY KEY, room INTEGER)",
        "INSERT INTO rooms VALUES (1, 1), (2, 2)",
        "INSERT INTO keys VALUES (7, 1), (8, 2)",
    )
    link = {"role": "link"}
    rooms = {
        "links": {"guest": "people.person_id"},
        "erase": {"action": "delete"},
        "columns": {"room": link, "guest": link},
    }
    keys = {
        "links": {"room": f"{part}.room"},
        "erase": {"action": "delete"},
        "columns": {"key": link, "room": link},
    }
    declared = dict.fromkeys(("tables__rooms", f"tables__{part}"), rooms)
    params = declare(parish.url, tables__keys=keys, **declared)
    with parish.engine.connect() as connection:
        (own,) = read_graph(connection, params).own["keys"]
    assert (own.parent, own.columns) == ("rooms", ("room",))
    assert "keys: 1 deleted" in places(parish, tables__keys=keys, **declared)
    assert parish.rows("keys") == [(8, 2)]


def test_rows_of_heirs_are_counted_once_and_nobody_elses_goes(parish: Parish) -> None:
    parish.run(*HEIR)
    old = {"tables__findings_old": copy.deepcopy(DECLARED["tables"]["findings"])}
    done = places(parish, **old)
    assert {"findings: 2 deleted", "findings_old: 1 deleted"} <= done
    assert [row[:2] for row in parish.rows("findings_old")] == [(1, 3)]
    assert [row[:2] for row in parish.rows("ONLY findings")] == [(3, 2), (4, 3)]


def test_links_of_a_table_are_its_heirs_too(parish: Parish) -> None:
    parish.run("CREATE TABLE visits_old () INHERITS (visits)", *HEIR)
    declared = {
        f"tables__{name}_old": copy.deepcopy(DECLARED["tables"][name])
        for name in ("findings", "visits")
    }
    columns = declared["tables__visits_old"]["columns"]
    declared["tables__visits_old"]["unused"] = ["minutes", "returned"]
    del columns["minutes"], columns["returned"]
    params = declare(parish.url, **declared)
    with parish.engine.connect() as connection:
        edges = {(e.child, e.parent, e.enforced) for e in read_graph(connection, params).edges}
    assert ("findings", "visits", True) in edges
    for child, parent in (("findings_old", "visits_old"), ("findings", "visits_old")):
        assert (child, parent, False) in edges


@pytest.mark.parametrize(
    "index",
    [
        "CREATE UNIQUE INDEX one ON letters (kept, lower(body))",
        "CREATE UNIQUE INDEX one ON letters (kept) WHERE addressee = 2",
        "CREATE UNIQUE INDEX CONCURRENTLY one ON letters (kept)",  # fails, and stays as invalid
    ],
)
def test_an_index_that_is_not_of_every_row_distinguishes_none(parish: Parish, index: str) -> None:
    parish.run(
        "DELETE FROM letters WHERE ctid IN (SELECT max(ctid) FROM letters WHERE addressee = 1)",
        "ALTER TABLE letters ADD COLUMN kept INTEGER NOT NULL DEFAULT 7",
    )
    with parish.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        with contextlib.suppress(sa.exc.IntegrityError):
            connection.exec_driver_sql(index)
        assert connection.exec_driver_sql("SELECT to_regclass('one')").scalar()
    letters = {**copy.deepcopy(LETTERS), "unused": ["kept"]}
    assert "letters: 1 deleted" in places(parish, tables__letters=letters)
    assert [row[0] for row in parish.rows("letters")] == [2, 3]


def test_a_change_that_meets_more_rows_than_asked_for_is_refused(parish: Parish) -> None:
    parish.run("UPDATE letters SET addressee = 1")
    with open_writer(declare(parish.url), writing=True) as writer:
        facts = dataclasses.replace(writer.graph.tables["letters"], identity=("addressee",))
        tables = {**writer.graph.tables, "letters": facts}
        wrong = Writer(
            writer.connection, dataclasses.replace(writer.graph, tables=tables), locking=True
        )
        for change in (lambda name, rows: wrong.update(name, rows, {"body": ""}), wrong.delete):
            with pytest.raises(ErasureRefused, match="4 rows of letters have the addressee of 1"):
                change("letters", [Row("letters", (1,), {})])
        writer.connection.rollback()


@pytest.mark.parametrize(
    "made",
    [
        ("CREATE TABLE away.heir () INHERITS (findings)",),
        (
            "CREATE FOREIGN DATA WRAPPER none",
            "CREATE SERVER far FOREIGN DATA WRAPPER none",
            "CREATE FOREIGN TABLE letters_f PARTITION OF letters"
            " FOR VALUES FROM (100) TO (200) SERVER far",
        ),
    ],
)
def test_an_heir_or_foreign_partition_that_is_not_seen_is_refused(
    parish: Parish, made: tuple[str, ...]
) -> None:
    parish.run(*PARTS, "CREATE SCHEMA away", *made)
    with parish.engine.connect() as connection, pytest.raises(ErasureRefused, match="foreign"):
        read_graph(connection, declare(parish.url))


def test_reading_looking_and_erasing_mean_the_same_rows_of_a_table_with_heirs(
    parish: Parish,
) -> None:
    parish.run(
        "CREATE TABLE visits_old () INHERITS (visits)",
        "INSERT INTO visits_old SELECT person_id, number + 90, NULL, NULL, 7, 'yes', day "
        "FROM ONLY visits WHERE person_id = 1",
        "CREATE TABLE people_old () INHERITS (people)",
        "INSERT INTO people_old VALUES (1, 'Ada Quill', NULL, NULL, NULL, NULL)",
        "CREATE TABLE answers_old () INHERITS (answers)",
        "INSERT INTO answers_old SELECT answer + 90, 2, purpose, said, said_at FROM ONLY answers",
    )
    heirs = {}
    for name in ("people", "visits", "answers"):
        table = copy.deepcopy(DECLARED["tables"][name])
        every = [*table["columns"], *table.get("unused", ())]
        links = {each for own in table.get("links", {}) for each in own.split(", ")}
        table["columns"] = {each: {"role": "link"} for each in table["columns"] if each in links}
        table["unused"] = [each for each in every if each not in table["columns"]]
        table["not_links"] = [each for each in table["unused"] if each in ("answer", "minutes")]
        heirs[f"tables__{name}_old"] = table
    heirs["tables__people_old"] |= {
        "links": {"person_id": "people.person_id"},
        "columns": {"person_id": {"role": "link"}},
        "unused": ["name", "email", "phone", "address_id", "referred_by"],
    }
    params = declare(parish.url, **heirs)
    with Source.open(params) as source:
        source.check(params)  # no key of a person is there twice
        read = sum(len(chunk.subject) for chunk in source.records(params, NOW))
        answers = sum(len(frame) for frame in source.answers(params, NOW))
    assert read == len(parish.rows("ONLY visits"))
    assert answers == len(parish.rows("ONLY answers"))
    found = traces(params, "1")
    done = erase_from_source(params, found, now=NOW)
    assert {"people: 1 deleted", "people_old: 1 deleted", "visits_old: 3 deleted"} <= set(
        done.places
    )
    assert verify_source(params, found).result == "absent"


def test_materialized_views_are_named(parish: Parish) -> None:
    parish.run("CREATE MATERIALIZED VIEW names AS SELECT name FROM people")
    params = declare(parish.url)
    found = traces(params, "1")
    erase_from_source(params, found, now=NOW)
    seen = verify_source(params, found)
    assert seen.result == "absent"
    assert "Materialized views, which are computed anew when rows go: names." in str(seen.reason)
    with parish.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM names")).scalar() == 3
