"""Every reason is true: what was done before something stood in the way is not denied."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from lethe.core.outcomes import Result
from lethe.stores.source import compact, erase
from lethe.stores.source.identifiers import traces
from lethe.stores.source.verify import verify_source
from tests.library import NOW, build, declare, rows

FULL, BUSY, READ_ONLY, BROKEN = "SQLITE_FULL", "SQLITE_BUSY", "SQLITE_READONLY", "SQLITE_IOERR"


def complaint(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError("a driver's words, which may hold a row")
    error.sqlite_errorname = name
    error.sqlite_errorcode = getattr(sqlite3, name)
    return error


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    return declare(build("sqlite", tmp_path, rows(), None))


@pytest.mark.parametrize("name", [FULL, BUSY, READ_ONLY, BROKEN])
def test_what_fails_after_the_deletion_does_not_say_that_nothing_was_changed(
    params: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = traces(params, "7")

    def fails(connection: object) -> None:
        raise complaint(name)

    with monkeypatch.context() as patched:
        patched.setattr(compact, "_rebuild", fails)
        done = erase.erase_from_source(params, found, now=NOW)
    assert (done.result, done.count > 0) == (Result.PRESENT, True)
    assert "The rows are deleted; only their space is not overwritten yet" in str(done.reason)
    assert "othing was changed" not in str(done.reason)
    assert "may hold a row" not in str(done.reason)
    seen = verify_source(params, found)
    assert seen.result == Result.PRESENT and "waits to be overwritten" in str(seen.reason)
    again = erase.erase_from_source(params, found, now=NOW)
    assert (again.result, again.count) == (Result.ERASED, done.count)
    assert verify_source(params, found).result == Result.ABSENT


@pytest.mark.parametrize("name", [FULL, BUSY, READ_ONLY])
def test_what_fails_before_the_deletion_says_that_nothing_was_changed(
    params: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = traces(params, "7")

    def fails(*_: object) -> None:
        raise complaint(name)

    with monkeypatch.context() as patched:
        patched.setattr(erase, "_carry_out", fails)
        done = erase.erase_from_source(params, found, now=NOW)
    assert (done.result, done.count) == (Result.UNREACHABLE, 0)
    assert "Nothing was changed" in str(done.reason)
    assert erase.erase_from_source(params, found, now=NOW).result == Result.ERASED


def test_a_connection_that_ends_on_the_way_leaves_open_whether_it_was_done(
    params: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise complaint(BROKEN)

    monkeypatch.setattr(erase, "_carry_out", fails)
    done = erase.erase_from_source(params, traces(params, "7"), now=NOW)
    assert done.result == Result.UNREACHABLE
    assert "whole or not at all" in str(done.reason)
    assert "othing was changed" not in str(done.reason)
