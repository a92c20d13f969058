"""Databases of Lethe's own, in SQLite or PostgreSQL: how one is opened, and how it fails.

Each store says what is special about its database in a `Database`; what is the same for all
stands here once. SQLite: one file that is its owner's alone, freed pages overwritten
(`secure_delete`), `BEGIN IMMEDIATE` for a writer. PostgreSQL: writers take turns by a lock that
is taken before anything is read. No message quotes a row.
"""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from lethe.core.errors import Busy, DiskFull, LetheError, NotFound, SourceUnavailable
from lethe.core.silence import give_up_when_silent
from lethe.core.waiting import CONNECT_S, PATIENCE_S, waiting

_MEMORY = (None, "", ":memory:")

Failure = Literal["busy", "conflict", "full", "damaged", "lacking", "read only", "rule", "silent"]


@dataclass(frozen=True, kw_only=True)
class Database:
    """A database of one store: its words for the user, and its ways with writers.

    `turn` is the statement by which PostgreSQL's writers take turns, `isolation` the level that
    they then read at. `private` sets the mode of SQLite's file at every opening, not only when it
    is made. `pooled` keeps connections; without it none is left open, or shared with a fork.
    """

    name: str  # as in "the vault"
    setting: str  # of params.yaml
    absent: str  # what the user reads where there is none
    damaged: str
    invalid: type[LetheError]  # of one that is damaged
    unfinished: str  # what became of a write that found the disk full
    turn: str
    isolation: str
    pragmas: tuple[str, ...] = ()
    private: bool = False
    pooled: bool = False

    def open(self, url: str, *, create: bool) -> sa.Engine:
        """An engine; SQLite's file is made if need be, where `create` says so.

        Raises:
            NotFound: there is no such file and `create` is false.
            SourceUnavailable: the URL is not one, or the file cannot be opened.
        """
        try:
            parsed = sa.make_url(url)
            backend = parsed.get_backend_name()
            if backend not in ("sqlite", "postgresql"):
                raise SourceUnavailable(
                    f"{self.setting} names {backend}; the {self.name} needs SQLite or PostgreSQL."
                )
            sqlite = backend == "sqlite"
            if sqlite and parsed.database not in _MEMORY:
                self._prepare_file(Path(str(parsed.database)), create=create)
            options: dict[str, Any] = {}
            if sqlite:
                options["connect_args"] = {"timeout": PATIENCE_S, "isolation_level": None}
            elif "connect_timeout" not in parsed.query:
                options["connect_args"] = {"connect_timeout": CONNECT_S}
            if not self.pooled:
                memory = sqlite and parsed.database in _MEMORY
                options["poolclass"] = sa.StaticPool if memory else sa.NullPool
            # hide_parameters: an error message must not quote a row.
            engine = sa.create_engine(parsed, hide_parameters=True, **options)
        except (sa.exc.ArgumentError, ImportError):
            raise SourceUnavailable(
                f"{self.setting} is not a SQLAlchemy URL of an installed driver, such as "
                f"sqlite:///.lethe/{self.name}.db or postgresql+psycopg://…"
            ) from None
        give_up_when_silent(engine, f"the {self.name} ({self.setting})")
        if sqlite:
            sa.event.listen(engine, "connect", self._on_connect)
            sa.event.listen(engine, "begin", _begin)
        return engine

    @contextmanager
    def transaction(self, engine: sa.Engine, *, write: bool) -> Iterator[sa.Connection]:
        """One transaction, committed if the block ends well: a writer is alone, a reader sees one
        state. What the database complains of passes through as it is; see `error`.
        """
        with ExitStack() as held:
            with waiting(f"the {self.name} ({self.setting})", at_most_s=PATIENCE_S):
                connection = held.enter_context(engine.connect())
                if engine.dialect.name == "sqlite":
                    connection = connection.execution_options(lethe_write=write)
                else:
                    level = self.isolation if write else "REPEATABLE READ"
                    connection = connection.execution_options(isolation_level=level)
                held.enter_context(connection.begin())
                if engine.dialect.name == "sqlite":
                    connection.exec_driver_sql("PRAGMA schema_version")  # here it waits, if at all
                if write and engine.dialect.name == "postgresql":
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PATIENCE_S}s'")
                    # Before any query: a snapshot must hold what the writer before committed.
                    connection.exec_driver_sql(self.turn)
            yield connection

    def error(self, error: sa.exc.DBAPIError) -> Exception:
        """The user's error for a database's; anything not understood stays what it is."""
        match failure_of(error):
            case "busy":
                return Busy(
                    f"Another process held the {self.name} for {PATIENCE_S} s. Try again after it."
                )
            case "conflict":
                return Busy(f"Other processes kept changing the {self.name}. Try again.")
            case "full":
                return DiskFull(
                    f"No space is left for the {self.name}. Free some; {self.unfinished}."
                )
            case "damaged":
                return self.invalid(self.damaged)
            case "lacking":
                return self.invalid(
                    f"The {self.name} lacks a table or column of its own. Restore its backup."
                )
            case "silent" | "read only":
                if why := refusal_of(error):
                    return SourceUnavailable(f"The {self.name}'s server {why} ({self.setting}).")
                return SourceUnavailable(
                    f"The {self.name}'s database does not answer ({code_of(error)}). "
                    f"Check {self.setting} and that it runs."
                )
        return error

    def _prepare_file(self, path: Path, *, create: bool) -> None:
        if not create and not path.exists():  # to connect would make it
            raise NotFound(self.absent)
        if not (create or self.private):
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if self.private:
                    os.fchmod(descriptor, 0o600)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise SourceUnavailable(
                f"The {self.name}'s file cannot be opened: {os.strerror(error.errno or 0)}. "
                f"Check {self.setting}."
            ) from None

    def _on_connect(self, connection: Any, _record: Any) -> None:
        for pragma in (
            *self.pragmas,
            "secure_delete=ON",  # what is removed is overwritten
            "foreign_keys=ON",
            "synchronous=FULL",
            "temp_store=MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("lethe_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def failure_of(error: sa.exc.DBAPIError | sqlite3.Error) -> Failure | None:
    """What a database complains of, in either of its languages; None if that is not known."""
    cause: Any = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    name = getattr(cause, "sqlite_errorname", "") or ""
    state = getattr(cause, "sqlstate", "") or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or state == "55P03":
        return "busy"
    if state in ("40001", "40P01"):  # serialization failure, deadlock
        return "conflict"
    if name.startswith("SQLITE_FULL") or state == "53100":
        return "full"
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return "damaged"
    if "decode to UTF-8" in str(cause):
        return "damaged"
    if state in ("42P01", "42703"):
        return "lacking"
    if name.startswith("SQLITE_ERROR") and "no such" in str(cause):
        return "lacking"
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM")) or state in ("25006", "42501"):
        return "read only"
    if name.startswith("SQLITE_CONSTRAINT") or state.startswith("23"):
        return "rule"
    if isinstance(error, sa.exc.OperationalError):
        return "silent"
    return None


# What libpq says where there is no session yet, which has no code: the first that is in it.
_REFUSALS = (
    ("does not support SSL", "offers no TLS, which the URL demands: correct sslmode"),
    (
        "certificate verify failed|root certificate|server certificate for|self-signed",
        "has a TLS certificate that cannot be verified: correct sslmode, sslrootcert or the host",
    ),
    ("no encryption|SSL off", "lets this role in from here by TLS alone: add ?sslmode=require"),
    ("invalid response|SSL SYSCALL|wrong version number", "is no PostgreSQL: correct the port"),
    ("SSL|sslmode|TLS", "and this machine do not agree on TLS: correct sslmode and certificates"),
    (
        "password authentication failed|no password supplied",
        "refuses the password, or has no such role: correct the role or its password",
    ),
    ('role ".*" does not exist', "has no such role: correct the role"),
    ('role ".*" is not permitted to log in', "does not let this role log in: grant it LOGIN"),
    ('database ".*" does not exist', "has no such database: correct its name"),
    ("permission denied for database", "does not let this role in there: grant it CONNECT"),
    (
        "pg_hba.conf|authentication failed",
        "does not let this role in from here: correct the role, or the server's pg_hba.conf",
    ),
    (
        "too many clients|too many connections|connection slots",
        "has no connection left: end some, or try again",
    ),
    ("starting up|shutting down|in recovery", "starts or stops just now: try again"),
    ("resolve host|translate host|not known|No address", "is a host that nobody knows: correct it"),
    (
        "Connection refused|No route|unreachable|No such file",
        "is not there: correct the host or the port, or start it",
    ),
    ("timeout", "did not answer in time: correct the host or the port, or look for a firewall"),
)


def refusal_of(error: sa.exc.DBAPIError) -> str | None:
    """Why PostgreSQL let nobody in, as what follows "the server"; None if that is not known.

    Guarantees: none of the server's or the URL's own words are in it, so no secret is.
    """
    if not isinstance(error, sa.exc.OperationalError):
        return None
    said = str(error.orig)
    return next((why for form, why in _REFUSALS if re.search(form, said, re.DOTALL)), None)


def code_of(error: sa.exc.DBAPIError | sqlite3.Error) -> str:
    """A database's own code for what went wrong, or the kind of error; never its message."""
    cause: Any = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    name = getattr(cause, "sqlite_errorname", "") or ""
    return name or getattr(cause, "sqlstate", "") or type(cause).__name__


def schema_of(
    connection: sa.Connection,
    versions: sa.Table,
    *,
    known: int,
    what: str,
    invalid: type[LetheError],
) -> int:
    """The schema that tables are of, by their table of versions; 0 where there are none.

    Args:
        what: as in "The ledger has", for the message.

    Raises:
        invalid: it is newer than `known`.
    """
    if not sa.inspect(connection).has_table(versions.name):
        return 0
    found = int(connection.execute(sa.select(sa.func.max(versions.c.version))).scalar_one() or 0)
    if found > known:
        raise invalid(
            f"{what} schema {found}; this version of Lethe knows up to {known}. "
            "Upgrade Lethe; nothing was changed."
        )
    return found
