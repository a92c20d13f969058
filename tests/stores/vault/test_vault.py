"""The vault in its SQLite file: who can read it, what is left in it, what a crash leaves."""

import datetime as dt
import os
import sqlite3
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from lethe.core import sql
from lethe.core.errors import Busy, DiskFull, NotFound, SourceUnavailable, VaultMismatch
from lethe.stores.vault.vault import Vault
from tests.warm import program, warm_environment

KEY, NEW_KEY = b"k" * 32, b"n" * 32
NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "vault.db"


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def test_file_is_its_owners_alone_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        with Vault.open(url(path), KEY) as vault:
            vault.tokens(["ada"])
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_file_that_others_could_read_is_closed_at_opening(path: Path) -> None:
    Vault.open(url(path), KEY).close()
    path.chmod(0o644)
    Vault.open(url(path), KEY).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_journal_stays_beside_the_file(path: Path) -> None:
    with Vault.open(url(path), KEY) as vault:
        vault.tokens(["ada", "ben"])
        vault.forget(["ada"])
        assert [each.name for each in path.parent.iterdir()] == ["vault.db"]


def stored(path: Path, token: int) -> tuple[bytes, bytes]:
    connection = sqlite3.connect(path)
    try:
        found: tuple[bytes, bytes] = connection.execute(
            "SELECT lookup, identity FROM vault_subjects WHERE token = ?", (token,)
        ).fetchone()
        return found
    finally:
        connection.close()


@pytest.mark.parametrize("leave", [lambda v: v.forget(["ada"]), lambda v: v.rotate(NEW_KEY)])
def test_freed_pages_hold_nothing_of_what_was_there(
    path: Path, leave: Callable[[Vault], object]
) -> None:
    with Vault.open(url(path), KEY) as vault:
        tokens = vault.tokens(["ada", *(f"person {number}" for number in range(500))])
        lookup, identity = stored(path, int(tokens[0]))
        assert lookup in path.read_bytes()
        assert identity in path.read_bytes()
        leave(vault)
    assert lookup not in path.read_bytes()
    assert identity not in path.read_bytes()


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("content", [b"no database" * 100, b"SQLite format 3\0" + b"\xff" * 200])
def test_file_that_is_no_database_is_refused_and_kept(
    path: Path, create: bool, content: bytes
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(VaultMismatch, match="damaged"):
        Vault.open(url(path), KEY, create=create)
    assert path.read_bytes() == content


def test_overwritten_pages_are_reported_as_damage(path: Path) -> None:
    with Vault.open(url(path), KEY) as vault:
        vault.tokens([f"person {number}" for number in range(2_000)])
    content = bytearray(path.read_bytes())
    content[4096 * 4 :] = b"\xff" * (len(content) - 4096 * 4)
    path.write_bytes(content)
    with pytest.raises(VaultMismatch), Vault.open(url(path), KEY) as vault:
        vault.lookup([f"person {number}" for number in range(2_000)])


def test_absent_vault_is_not_made_by_asking(path: Path) -> None:
    with pytest.raises(NotFound, match="no vault"):
        Vault.open(url(path), KEY, create=False)
    assert not path.exists()
    path.parent.mkdir()
    path.touch()
    with pytest.raises(NotFound, match="no vault"):
        Vault.open(url(path), KEY, create=False)


def test_empty_file_of_a_killed_first_run_becomes_a_vault(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with Vault.open(url(path), KEY) as vault:
        assert vault.count() == 0


@pytest.mark.parametrize(
    "address", ["no url", "mysql://host/vault", "nonsense+driver://host/vault", "sqlite:////proc/v"]
)
def test_address_of_no_vault_is_refused(address: str) -> None:
    with pytest.raises(SourceUnavailable, match="vault"):
        Vault.open(address, KEY)


def test_server_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(SourceUnavailable, match="is not there") as refused:
        Vault.open("postgresql+psycopg://lethe:hidden-word@127.0.0.1:1/vault", KEY)
    assert "hidden-word" not in str(refused.value)


def test_writer_that_waits_too_long_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "PATIENCE_S", 0.05)
    with Vault.open(url(path), KEY) as vault:
        other = sqlite3.connect(path, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Busy, match="vault"):
                vault.tokens(["ada"])
        finally:
            other.close()
        assert vault.count() == 0


def test_full_disk_adds_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(self: sql.Database, connection: sqlite3.Connection, record: object) -> None:
        prepare(self, connection, record)
        connection.execute("PRAGMA max_page_count = 20")

    prepare = sql.Database._on_connect
    monkeypatch.setattr(sql.Database, "_on_connect", small)
    with Vault.open(url(path), KEY) as vault:
        with pytest.raises(DiskFull):
            vault.tokens([f"person {number}" for number in range(5_000)])
        assert vault.count() == 0


_KILLED = """
import os, signal, sys
from lethe.stores.vault import database, vault

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

step, url = sys.argv[1:]
opened = vault.Vault.open(url, b"k" * 32)
if step == "rotate":
    vault.wrapped = die
    opened.rotate(b"n" * 32)
else:
    database.LOOKUP.create = die
    opened.tokens(["eve", "finn"])
"""


@pytest.mark.parametrize("step", ["rotate", "tokens"])
def test_killed_in_the_middle_leaves_the_vault_as_it_was(path: Path, step: str) -> None:
    with Vault.open(url(path), KEY) as vault:
        tokens = vault.tokens(["ada", "ben"]).tolist()
    done = subprocess.run(
        program(_KILLED, step, url(path)), env=warm_environment(), capture_output=True, text=True
    )
    assert done.returncode == -9, done.stderr
    with Vault.open(url(path), KEY) as vault:
        assert vault.count() == 2
        assert vault.tokens(["ada", "ben"]).tolist() == tokens
        assert vault.reveal(tokens[1], reason="check", who="auditor", now=NOW) == "ben"
        assert vault.lookup(["eve"]).tolist() == [-1]
        vault.tokens(["eve", "finn"])
        vault.rotate(NEW_KEY)
        assert vault.lookup(["ada", "ben"]).tolist() == tokens


def test_processes_at_once_agree_on_every_token(path: Path) -> None:
    code = (
        "import sys; from lethe.stores.vault.vault import Vault\n"
        "with Vault.open(sys.argv[1], b'k' * 32) as vault:\n"
        "    vault.tokens([f'person {n}' for n in range(int(sys.argv[2]), 600)])\n"
    )
    running = [
        subprocess.Popen(program(code, url(path), str(start)), env=warm_environment())
        for start in (0, 200, 400)
    ]
    assert [process.wait(600) for process in running] == [0, 0, 0]
    with Vault.open(url(path), KEY) as vault:
        assert vault.count() == 600


def test_error_of_the_database_quotes_nothing_that_was_to_be_written(path: Path) -> None:
    with Vault.open(url(path), KEY) as vault:
        token = int(vault.tokens(["ada"])[0])
        connection = sqlite3.connect(path)
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON vault_reveals "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
        connection.close()
        with pytest.raises(sa.exc.IntegrityError, match="refused") as raised:
            vault.reveal(token, reason="asked by Eve Adams", who="auditor", now=NOW)
    assert "Eve Adams" not in str(raised.value)
