"""Where the clinic is written: whole or not at all, and over nobody else's data."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from lethe.core.errors import DiskFull, ParamsInvalid, SourceUnavailable
from lethe.sample import build_clinic
from lethe.sample.schema import TABLES
from lethe.stores.source.demonstration import new_clinic
from tests.postgres import postgres_server, postgres_url, postgres_urls  # noqa: F401
from tests.sample.test_diabetes import broken
from tests.sample.test_sample import NOW, PARAMS, column


def test_a_database_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE patients (name TEXT)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(ParamsInvalid, match="not made by lethe sample"):
        build_clinic(f"sqlite:///{path}", patients=10, now=NOW)
    assert path.read_bytes() == before


def test_an_earlier_sample_is_replaced_and_its_journal_is_not_played_back(tmp_path: Path) -> None:
    path = tmp_path / "clinic.db"
    build_clinic(f"sqlite:///{path}", patients=10, now=NOW)
    for suffix in ("-journal", "-wal", "-shm"):
        (tmp_path / f"clinic.db{suffix}").write_bytes(b"of the old file")
    build_clinic(f"sqlite:///{path}", patients=20, now=NOW)
    assert [found.name for found in tmp_path.iterdir()] == ["clinic.db"]
    assert column(path, "SELECT count(*) FROM patients") == [20]


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "clinic.db"
    old = os.umask(0)
    try:
        build_clinic(f"sqlite:///{path}", patients=5, now=NOW)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_killed_call_leaves_the_old_clinic_and_the_next_call_clears_up(tmp_path: Path) -> None:
    path = tmp_path / "clinic.db"
    build_clinic(f"sqlite:///{path}", patients=10, now=NOW)
    before = path.read_bytes()
    script = (
        "import datetime as dt, os, lethe.sample.clinic as clinic\n"
        "clinic.make_invoices = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        f"clinic.build_clinic('sqlite:///{path}', patients=10, now=dt.datetime.now(dt.UTC))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=PARAMS.parent, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
    build_clinic(f"sqlite:///{path}", patients=10, now=NOW)
    assert [found.name for found in tmp_path.iterdir()] == ["clinic.db"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    with pytest.raises(DiskFull), new_clinic(f"sqlite:///{tmp_path / 'c.db'}", TABLES):
        raise full
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["csv:folder", "parquet:folder", "mysql://db/clinic", "sqlite://", "no url"]
)
def test_only_a_file_or_a_postgresql_server_is_written(url: str) -> None:
    with pytest.raises(ParamsInvalid, match="lethe sample writes"):
        build_clinic(url, patients=5, now=NOW)


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(SourceUnavailable) as caught:
        build_clinic("postgresql://me:hunter2@127.0.0.1:1/db", patients=5, now=NOW)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"consent_share": 1.5}, {"notes_share": -0.1}, {"patients": 0}, {"patients": 10**8}]
)
def test_impossible_arguments_are_refused_by_name(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ParamsInvalid, match=next(iter(wrong))):
        build_clinic(f"sqlite:///{tmp_path / 'c.db'}", now=NOW, **wrong)


def everything(connection: Any) -> dict[str, list[Any]]:
    return {
        table.name: [
            tuple(map(str, row))
            for row in connection.execute(
                f"SELECT {', '.join(chr(34) + name + chr(34) for name in table.columns)} "
                f"FROM {table.name} ORDER BY {table.key}"
            ).fetchall()
        ]
        for table in TABLES
    }


def test_postgresql_gets_the_same_clinic_and_refuses_a_stranger(
    tmp_path: Path,
    postgres_url: str,  # noqa: F811
) -> None:
    build_clinic(f"sqlite:///{tmp_path / 'clinic.db'}", patients=60, now=NOW)
    build_clinic(postgres_url, patients=60, now=NOW)
    with (
        closing(sqlite3.connect(tmp_path / "clinic.db")) as file,
        psycopg.connect(postgres_url) as server,
    ):
        wanted = everything(file)
        found = everything(server)
        # SQLite keeps the text that was written; PostgreSQL prints no empty fractions.
        assert found == {
            table: [tuple(value.replace(".000000", "") for value in row) for row in written]
            for table, written in wanted.items()
        }
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            server.execute("INSERT INTO consents VALUES (0, 'nobody', 'newsletter', 'yes', now())")


def test_postgresql_keeps_the_old_clinic_if_the_new_one_fails(
    tmp_path: Path,
    postgres_url: str,  # noqa: F811
) -> None:
    build_clinic(postgres_url, patients=30, now=NOW)
    with pytest.raises(SourceUnavailable):
        build_clinic(postgres_url, encounters_file=broken(tmp_path, "no number"), now=NOW)
    with psycopg.connect(postgres_url) as server:
        assert server.execute("SELECT count(*) FROM patients").fetchone() == (30,)
        server.execute("CREATE VIEW mine AS SELECT * FROM patients")
    with pytest.raises(SourceUnavailable, match="nothing was kept"):
        build_clinic(postgres_url, patients=40, now=NOW)
    with psycopg.connect(postgres_url) as server:
        server.execute("DROP VIEW mine")
    build_clinic(postgres_url, patients=40, now=NOW)
    with psycopg.connect(postgres_url) as server:
        assert server.execute("SELECT count(*) FROM patients").fetchone() == (40,)


def test_postgresql_tables_of_somebody_else_are_left_alone(
    postgres_url: str,  # noqa: F811
) -> None:
    with psycopg.connect(postgres_url) as server:
        server.execute("CREATE TABLE patients (name text)")
        server.execute("INSERT INTO patients VALUES ('Ada')")
    with pytest.raises(ParamsInvalid, match="patients of that database"):
        build_clinic(postgres_url, patients=10, now=NOW)
    with psycopg.connect(postgres_url) as server:
        assert server.execute("SELECT * FROM patients").fetchall() == [("Ada",)]
        tables = server.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert tables.fetchall() == [("patients",)]
