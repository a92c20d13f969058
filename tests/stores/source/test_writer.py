"""What the source complains of while it is written to, as the user's error."""

import sqlite3

import pytest
import sqlalchemy as sa

from lethe.core.errors import (
    Busy,
    DiskFull,
    ErasureRefused,
    LetheError,
    SchemaMismatch,
    SourceUnavailable,
)
from lethe.stores.source.writer import writing_errors


def _error(name: str = "", state: str = "") -> sa.exc.DBAPIError:
    cause = sqlite3.OperationalError("no such row as ana-4711")
    cause.sqlite_errorname = name
    cause.sqlstate = state  # type: ignore[attr-defined]
    return sa.exc.OperationalError("INSERT ana-4711", {"key": "ana-4711"}, cause)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (_error("SQLITE_BUSY_SNAPSHOT"), Busy, "Somebody else holds"),
        (_error(state="40P01"), Busy, "Somebody else holds"),
        (_error("SQLITE_READONLY"), SourceUnavailable, "cannot be written to"),
        (_error(state="42501"), SourceUnavailable, "cannot be written to"),
        (_error("SQLITE_FULL"), DiskFull, "no space left"),
        (_error(state="42P01"), SchemaMismatch, "is gone"),
        (_error("SQLITE_ERROR"), SchemaMismatch, "is gone"),
        (_error("SQLITE_CONSTRAINT_FOREIGNKEY"), ErasureRefused, "SQLITE_CONSTRAINT_FOREIGNKEY of"),
        (_error(state="23503"), ErasureRefused, "23503 of a table"),
        (_error("SQLITE_NOTADB"), SourceUnavailable, "not a database"),
        (_error("SQLITE_IOERR"), SourceUnavailable, "does not answer, or refused the erasure"),
        (_error(), SourceUnavailable, "It was done whole or not at all; try again"),
    ],
)
def test_a_drivers_complaint_is_the_users_error_and_quotes_no_row(
    error: sa.exc.DBAPIError, kind: type[LetheError], words: str
) -> None:
    with pytest.raises(kind, match=words) as seen, writing_errors():
        raise error
    assert "ana-4711" not in str(seen.value)


@pytest.mark.parametrize("name", ["SQLITE_BUSY", "SQLITE_FULL", "SQLITE_IOERR"])
def test_once_rows_are_deleted_no_error_says_that_nothing_changed(name: str) -> None:
    with (
        pytest.raises(LetheError, match="The rows are deleted") as seen,
        writing_errors(deleted=True),
    ):
        raise _error(name)
    assert "Nothing was changed" not in str(seen.value)
