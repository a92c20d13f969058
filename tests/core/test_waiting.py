"""Nobody waits long in silence: who waits learns for what, and for how long at most."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lethe.core import sql, waiting
from lethe.core.errors import Busy
from lethe.core.locks import waited_for
from lethe.ledger import database
from lethe.ledger.ledger import Ledger
from lethe.stores.requests.requests import Requests
from lethe.stores.source import connect
from lethe.stores.source.writer import open_writer
from lethe.stores.vault.vault import Vault
from tests.library import build, declare, rows


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second of patience, and a tenth of silence."""
    monkeypatch.setattr(waiting, "SILENCE_S", 0.1)
    monkeypatch.setattr(sql, "PATIENCE_S", 0.5)
    monkeypatch.setattr(database, "PATIENCE_S", 0.5)


ASKED: dict[str, Callable[[str], object]] = {
    "ledger": lambda url: Ledger.open(url).__enter__().head(),
    "requests": lambda url: Requests.open(url).__enter__().all(),
    "vault": lambda url: Vault.open(url, b"k" * 32).__enter__().count(),
}


@pytest.mark.parametrize("what", ASKED)
@pytest.mark.parametrize("lock", ["EXCLUSIVE", "IMMEDIATE"])
def test_a_database_that_another_process_holds(
    tmp_path: Path,
    hasty: None,
    what: str,
    lock: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "held.db"
    ASKED[what](f"sqlite:///{path}")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute(f"BEGIN {lock}")
    try:
        if lock == "IMMEDIATE" and what != "vault":  # readers go on, however slow the machine is
            monkeypatch.setattr(waiting, "SILENCE_S", 600.0)  # who waited would be refused
            ASKED[what](f"sqlite:///{path}")
            assert capsys.readouterr().err == ""
            return
        if lock == "EXCLUSIVE":
            with pytest.raises(Busy, match=r"for 0\.5 s"):
                ASKED[what](f"sqlite:///{path}")
            assert "Waiting for the" in capsys.readouterr().err
    finally:
        other.close()


def test_a_lock_file(tmp_path: Path, hasty: None, capsys: pytest.CaptureFixture[str]) -> None:
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with waited_for(tmp_path / "a.lock"):
            held.set()
            free.wait(300)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(300)
    threading.Timer(0.4, free.set).start()
    with waited_for(tmp_path / "a.lock"):
        pass
    other.join()
    assert "Waiting for another process that holds a.lock" in capsys.readouterr().err


def test_what_does_not_wait_says_nothing(hasty: None, capsys: pytest.CaptureFixture[str]) -> None:
    with waiting.waiting("nothing", at_most_s=1):
        pass
    assert capsys.readouterr().err == ""


def test_a_source_that_another_process_holds(
    tmp_path: Path,
    hasty: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(connect, "WAIT_SECONDS", 0.5)
    params = declare(build("sqlite", tmp_path, rows(), None))
    other = sqlite3.connect(tmp_path / "library.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with (
            pytest.raises(Busy, match="holds the source"),
            open_writer(params, writing=True),
        ):
            pass
    finally:
        other.close()
    assert "Waiting for the source (source.url), up to 0.5 s." in capsys.readouterr().err
