"""What a driver complains of while a source is written to, in the user's words."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from lethe.core.errors import Busy, DiskFull, ErasureRefused, SchemaMismatch, SourceUnavailable
from lethe.core.sql import code_of, failure_of, refusal_of


@contextmanager
def writing_errors(*, deleted: bool = False) -> Iterator[None]:
    """A driver's complaint as the user's error; its own words can hold a row.

    Args:
        deleted: whether rows are deleted for good already, and only their space is at issue.
    """
    try:
        yield
    except (exc.DBAPIError, sqlite3.Error) as error:
        raise _users_error(error, _DELETED if deleted else _UNCHANGED) from None


_UNCHANGED = "Nothing was changed"
_DELETED = "The rows are deleted; only their space is not overwritten yet"


def _unsure(so_far: str) -> str:
    """A connection that ends while a transaction does leaves open whether it was done."""
    return "It was done whole or not at all; try again" if so_far == _UNCHANGED else so_far


def _users_error(error: exc.DBAPIError | sqlite3.Error, so_far: str) -> Exception:
    match failure_of(error):
        case "busy" | "conflict":
            return Busy(f"Somebody else holds the source's tables or rows. {so_far}; try again.")
        case "read only":
            return SourceUnavailable(
                "The source cannot be written to: it is read-only, or the role lacks the right. "
                f"{so_far}."
            )
        case "full":
            return DiskFull(f"The source has no space left for the erasure. {so_far}.")
        case "lacking":
            return SchemaMismatch(
                f"A declared table or column of the source is gone. {so_far}; correct "
                "params.yaml or the source."
            )
        case "rule":
            return ErasureRefused(
                f"A rule of the source ({_rule(error)}) forbids what params.yaml declares for the "
                f"erasure. {so_far}. Declare another action, or values under replace."
            )
        case "damaged":
            return SourceUnavailable(
                f"The source file is not a database, or damaged. {so_far}. Correct "
                "source.url or the file."
            )
    if why := refusal_of(error) if isinstance(error, exc.DBAPIError) else None:
        return SourceUnavailable(f"The source's server {why} (source.url). {so_far}.")
    return SourceUnavailable(
        f"The source does not answer, or refused the erasure ({code_of(error)}). "
        f"{_unsure(so_far)}. Check source.url and that the database is up."
    )


def _rule(error: exc.DBAPIError | sqlite3.Error) -> str:
    """Which rule of which table, as far as the driver names it; never a value."""
    diagnosis = getattr(error.orig if isinstance(error, exc.DBAPIError) else error, "diag", None)
    rule = getattr(diagnosis, "constraint_name", None) or code_of(error)
    return f"{rule} of {getattr(diagnosis, 'table_name', None) or 'a table'}"
