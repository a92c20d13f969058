"""Ends of a link that do not join, or that only the database joins, are named; nobody is lost."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest

from lethe.config.params import Params
from lethe.core.errors import ErasureRefused, SchemaMismatch, SubjectKeyInvalid
from lethe.core.outcomes import Traces
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.read import Source
from lethe.stores.source.verify import verify_source
from tests.library import NOW, build, declare, rows
from tests.postgres import postgres_server, postgres_urls  # noqa: F401
from tests.stores.source.test_odd_files import as_type, edited

ADA = Traces("7", None, ())


def check(params: Params) -> None:
    with Source.open(params) as source:
        source.check(params)


def records(params: Params) -> list[str]:
    check(params)
    with Source.open(params) as source:
        return sorted(key for chunk in source.records(params, NOW) for key in chunk.subject)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def altered(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., str]:
    def made(*statements: str) -> str:
        url = build("postgres", tmp_path, rows(), request.getfixturevalue("postgres_urls"))
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            for each in statements:
                connection.execute(each)
        return url

    return made


@pytest.mark.parametrize("table", ["loans", "answers"])
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("text", "text"),
        ("varchar(9)", "text"),
        ("uuid USING gen_random_uuid()", "UUIDs"),
        ("bytea USING reader_id::text::bytea", "bytes"),
    ],
)
@pytest.mark.parametrize("policy", ["refuse", "leave_out"])
def test_types_of_postgresql_that_do_not_join_are_named(
    altered: Callable[..., str], table: str, kind: str, said: str, policy: str
) -> None:
    url = altered(f"ALTER TABLE {table} ALTER reader_id TYPE {kind}")
    with pytest.raises(SchemaMismatch) as raised:
        check(declare(url, records__without_person=policy))
    assert f"{table}.reader_id holds {said}, and readers.reader_id" in str(raised.value)
    assert "numbers: no row joins, and no row is at fault" in str(raised.value)


@pytest.mark.parametrize("kind", ["bigint", "smallint", "numeric(9,2)", "double precision"])
def test_numbers_of_postgresql_join_whatever_their_types(
    altered: Callable[..., str], kind: str
) -> None:
    url = altered(f"ALTER TABLE loans ALTER reader_id TYPE {kind}")
    assert records(declare(url)) == ["7", "7", "8"]
    assert erase_from_source(declare(url), ADA, now=NOW).count
    assert verify_source(declare(url), ADA).result == "absent"
    assert records(declare(url)) == ["8"]


@pytest.mark.parametrize("table", ["loans", "answers"])
@pytest.mark.parametrize("policy", ["refuse", "leave_out"])
def test_types_of_files_that_do_not_join_are_named(tmp_path: Path, table: str, policy: str) -> None:
    url = build("parquet", tmp_path, rows(), None)
    edited(tmp_path, table, "reader_id", as_type(pa.string(), str))
    with pytest.raises(
        SchemaMismatch, match=rf"{table}\.reader_id holds text, and readers.*number"
    ):
        check(declare(url, records__without_person=policy))


@pytest.mark.parametrize("policy", ["refuse", "leave_out"])
@pytest.mark.parametrize("declared", ["", "BLOB"])
def test_columns_of_sqlite_without_a_type_that_do_not_join_are_named(
    tmp_path: Path, policy: str, declared: str
) -> None:
    params = declare(sqlite(tmp_path, declared, str, declared), records__without_person=policy)
    with pytest.raises(SchemaMismatch, match=r"loans\.reader_id holds text, and readers.*number"):
        check(params)


def sqlite(
    folder: Path, child: str, spelled: Callable[[int], object], parent: str = "INTEGER"
) -> str:
    """The library with keys of these types, and those of its loans and answers spelled so."""
    url = build("sqlite", folder, rows(), None)
    with sqlite3.connect(url.removeprefix("sqlite:///")) as source:
        source.create_function("spelled", 1, spelled)
        columns = {
            "loans": f"loan_id INTEGER PRIMARY KEY, reader_id {child}, town TEXT, branch INTEGER, "
            "lent_at DATETIME, days INTEGER, remark TEXT, returned BOOLEAN, secret TEXT",
            "answers": f"reader_id {child}, purpose TEXT, answer TEXT, answered_at DATETIME",
            "readers": f"reader_id {parent} PRIMARY KEY, name TEXT, email TEXT, born DATE, "
            "shoe_size INTEGER",
        }
        for table, those in columns.items():
            source.execute(f"ALTER TABLE {table} RENAME TO before")
            source.execute(f"CREATE TABLE {table} ({those})")
            source.execute(f"INSERT INTO {table} SELECT * FROM before")
            source.execute("DROP TABLE before")
            if table != "readers":
                source.execute(f"UPDATE {table} SET reader_id = spelled(reader_id)")
    return url


SPELLED = {
    "zeros": lambda key: f"00{key}",
    "blank before": lambda key: f" {key}",
    "blank after": lambda key: f"{key} ",
    "places": lambda key: f"{key}.0",
    "sign": lambda key: f"+{key}",
    "exponent": lambda key: f"{key}e0",
}


@pytest.mark.parametrize("how", SPELLED)
@pytest.mark.parametrize("child", ["TEXT", "VARCHAR(9)", "", "BLOB"])
def test_keys_that_sqlite_alone_joins_are_neither_read_nor_half_erased(
    tmp_path: Path, child: str, how: str
) -> None:
    """SQLite takes '007' for 7; an erasure of 7 left such rows, and its fresh look saw none."""
    params = declare(sqlite(tmp_path, child, SPELLED[how]))
    with pytest.raises(SchemaMismatch, match=r"4 rows of (loans|answers) have texts in reader_id"):
        check(params)
    with pytest.raises(ErasureRefused, match="SQLite joins them"):
        erase_from_source(params, ADA, now=NOW)
    assert verify_source(params, ADA).result == "unreachable"


@pytest.mark.parametrize("child", ["TEXT", "VARCHAR(9)", "", "BLOB"])
def test_keys_that_are_spelled_alike_join_in_sqlite_whatever_their_types(
    tmp_path: Path, child: str
) -> None:
    params = declare(sqlite(tmp_path, child, str))
    assert records(params) == ["7", "7", "8"]
    assert erase_from_source(params, ADA, now=NOW).count
    assert verify_source(params, ADA).result == "absent"
    assert records(params) == ["8"]


def test_one_number_twice_is_one_person_twice(altered: Callable[..., str]) -> None:
    url = altered(
        "ALTER TABLE readers DROP CONSTRAINT readers_pkey CASCADE",
        "ALTER TABLE readers ALTER reader_id TYPE numeric",
        "INSERT INTO readers (reader_id) VALUES (7.00)",
    )
    with pytest.raises(SubjectKeyInvalid, match="1 are repeated among 4 rows"):
        check(declare(url))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("kind", ["numeric", "double precision"])
def test_keys_that_are_no_numbers_are_refused(
    altered: Callable[..., str], kind: str, value: str
) -> None:
    url = altered(
        *(f"ALTER TABLE {each} ALTER reader_id TYPE {kind}" for each in ("readers", "loans")),
        f"INSERT INTO readers (reader_id) VALUES ('{value}')",
        f"UPDATE loans SET reader_id = '{value}' WHERE reader_id = 8",
    )
    with pytest.raises(SubjectKeyInvalid, match="no numbers"):
        records(declare(url))
    done = erase_from_source(declare(url), ADA, now=NOW)
    assert done.result == "erased", done.reason


def test_floats_that_can_be_two_people_are_refused(altered: Callable[..., str]) -> None:
    kind = "double precision USING 4 * reader_id + 2.0 ^ 53"
    url = altered(*(f"ALTER TABLE {n} ALTER reader_id TYPE {kind}" for n in ("readers", "loans")))
    with pytest.raises(SubjectKeyInvalid, match=r"floats beyond 2\*\*53"):
        records(declare(url))
