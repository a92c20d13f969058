"""One way to open a database of Lethe's own, and one translation of what it complains of."""

import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lethe.core.errors import (
    Busy,
    DiskFull,
    LedgerInvalid,
    NotFound,
    SourceUnavailable,
    VaultMismatch,
)
from lethe.core.sql import Database, code_of, failure_of
from lethe.ledger.database import DATABASE as LEDGER
from lethe.stores.vault.database import DATABASE as VAULT

BOTH = pytest.mark.parametrize("database", [LEDGER, VAULT], ids=["ledger", "vault"])


def _error(
    *, name: str = "", state: str = "", text: str = "ana-4711", kind: Any = sa.exc.OperationalError
) -> Any:
    cause = sqlite3.OperationalError(text)
    if name:
        cause.sqlite_errorname = name
    if state:
        cause.sqlstate = state  # type: ignore[attr-defined]
    return kind("INSERT ana-4711", {"key": "ana-4711"}, cause)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"name": "SQLITE_BUSY_SNAPSHOT"}, "busy"),
        ({"name": "SQLITE_LOCKED"}, "busy"),
        ({"state": "55P03"}, "busy"),
        ({"state": "40001"}, "conflict"),
        ({"state": "40P01"}, "conflict"),
        ({"name": "SQLITE_FULL"}, "full"),
        ({"state": "53100"}, "full"),
        ({"name": "SQLITE_NOTADB"}, "damaged"),
        ({"name": "SQLITE_CORRUPT_INDEX"}, "damaged"),
        ({"state": "42P01"}, "lacking"),
        ({"state": "42703"}, "lacking"),
        ({"name": "SQLITE_ERROR", "text": "no such table: t"}, "lacking"),
        ({"name": "SQLITE_ERROR", "text": "near SELECT: syntax error"}, "silent"),
        ({"name": "SQLITE_IOERR"}, "silent"),
        ({}, "silent"),
        ({"name": "SQLITE_READONLY_DIRECTORY"}, "read only"),
        ({"state": "42501", "kind": sa.exc.ProgrammingError}, "read only"),
        ({"name": "SQLITE_CONSTRAINT_UNIQUE", "kind": sa.exc.IntegrityError}, "rule"),
        ({"state": "23505", "kind": sa.exc.IntegrityError}, "rule"),
        ({"state": "22001", "kind": sa.exc.DataError}, None),
    ],
)
def test_what_a_database_complains_of_is_known_in_both_languages(
    given: dict[str, Any], expected: str | None
) -> None:
    assert failure_of(_error(**given)) == expected


@BOTH
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"name": "SQLITE_BUSY"}, Busy),
        ({"state": "40001"}, Busy),
        ({"name": "SQLITE_FULL"}, DiskFull),
        ({"name": "SQLITE_NOTADB"}, None),
        ({"state": "42P01"}, None),
        ({"name": "SQLITE_CANTOPEN"}, SourceUnavailable),
    ],
)
def test_each_store_is_named_and_no_row_is_quoted(
    database: Database, given: dict[str, Any], expected: type[Exception] | None
) -> None:
    said = database.error(_error(**given))
    assert type(said) is (expected or database.invalid)
    assert database.name in str(said)
    assert "4711" not in str(said)


def test_damage_is_each_stores_own_error() -> None:
    assert (LEDGER.invalid, VAULT.invalid) == (LedgerInvalid, VaultMismatch)


@BOTH
def test_what_is_not_understood_stays_what_it_is(database: Database) -> None:
    error = _error(state="23505", kind=sa.exc.IntegrityError)
    assert database.error(error) is error
    assert code_of(error) == "23505"


@BOTH
def test_a_file_is_its_owners_alone_and_is_not_made_by_asking(
    database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "a.db"
    with pytest.raises(NotFound, match=database.name):
        database.open(f"sqlite:///{path}", create=False)
    assert not path.parent.exists()
    database.open(f"sqlite:///{path}", create=True).dispose()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(("database", "mode"), [(LEDGER, 0o640), (VAULT, 0o600)])
def test_the_vaults_file_is_made_private_again_at_every_opening(
    database: Database, mode: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.db"
    path.touch()
    path.chmod(0o640)
    database.open(f"sqlite:///{path}", create=False).dispose()
    assert stat.S_IMODE(path.stat().st_mode) == mode


@BOTH
@pytest.mark.parametrize("url", ["mysql://host/name", "no url", "nonsense+driver://host/x"])
def test_an_address_of_no_such_database_names_its_setting(database: Database, url: str) -> None:
    with pytest.raises(SourceUnavailable, match=database.setting):
        database.open(url, create=True)


@BOTH
def test_what_is_removed_is_overwritten_and_no_journal_keeps_it(
    database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "a.db"
    engine = database.open(f"sqlite:///{path}", create=True)
    with database.transaction(engine, write=True) as connection:
        connection.exec_driver_sql("CREATE TABLE t (x TEXT)")
        connection.exec_driver_sql("INSERT INTO t VALUES ('ana-4711')")
        # Some builds of SQLite overwrite by default, so that the bytes alone prove nothing here.
        assert connection.exec_driver_sql("PRAGMA secure_delete").scalar_one() == 1
    assert b"ana-4711" in path.read_bytes()
    with database.transaction(engine, write=True) as connection:
        connection.exec_driver_sql("DELETE FROM t")
    engine.dispose()
    assert all(b"ana-4711" not in each.read_bytes() for each in tmp_path.iterdir())


@BOTH
def test_a_block_that_fails_leaves_nothing(database: Database, tmp_path: Path) -> None:
    engine = database.open(f"sqlite:///{tmp_path / 'a.db'}", create=True)
    with pytest.raises(ZeroDivisionError), database.transaction(engine, write=True) as connection:
        connection.exec_driver_sql("CREATE TABLE t (x TEXT)")
        raise ZeroDivisionError
    with database.transaction(engine, write=False) as connection:
        assert not sa.inspect(connection).get_table_names()
    engine.dispose()
