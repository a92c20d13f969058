"""Overwrites the space of deleted rows, and remembers across a crash that it must be done.

Until then a deleted row's bytes are still in the database's files. SQLite's file is rebuilt
without them; PostgreSQL's dead rows are vacuumed and its statistics gathered anew, so that no
statement shows them. To write a source's tables anew would shut everybody else out, so what a
vacuum leaves in its pages, its log and its backups are its own.
"""

import hashlib
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lethe.config.params import Params
from lethe.config.workspace import STATE
from lethe.core.errors import Busy, FileDamaged, SourceUnavailable
from lethe.core.files import read_json, write_json
from lethe.core.outcomes import Outcome
from lethe.core.reading import damage
from lethe.core.schemas import quoted
from lethe.stores.search.statistics import forget_statistics_if_empty
from lethe.stores.source.connect import (
    WAIT_SECONDS,
    SourcePlace,
    place_of,
    refuse_other_place,
    source_engine,
)
from lethe.stores.source.descent import descent
from lethe.stores.source.writing_errors import writing_errors

MARKS = STATE / "source-erasures.json"
REMAINS = (
    "PostgreSQL: dead rows are vacuumed and its statistics are new; no statement shows them. "
    "Pages may keep bytes until they are used again or the tables written anew (VACUUM FULL); its "
    "write-ahead log, replicas and backups keep them by their own schedule."
)


class Marks:
    """What was deleted but not overwritten yet, and what was done for whom but not verified.

    So a call after a crash says what the killed one did. A person is a salted scrypt hash
    here, and gone when `verify_source` has seen that nothing is left.
    """

    def __init__(self, root: Path) -> None:
        self._path = path = root / MARKS
        self._content: dict[str, Any] = (
            _sound(read_json(path), path)
            if path.exists()
            else {"salt": secrets.token_hex(16), "tables": [], "outcomes": {}}
        )

    @property
    def place(self) -> SourcePlace | None:
        """Where it was deleted: the fresh look, and what overwrites, must be there too."""
        return _place(self._content)

    def refuse_elsewhere(self, here: SourcePlace | None) -> None:
        """Compares places but for the user: another role may end what one began.

        Raises:
            SourceUnavailable: what stands here was done in another database or schema.
        """
        there = self.place
        if here is not None and there is not None:
            there = replace(there, user=here.user)
        refuse_other_place(here, there, what="people were erased from")

    @property
    def tables(self) -> list[str]:
        """Tables with deleted rows whose space is not overwritten."""
        return list(self._content["tables"])

    def done(self, key: str) -> Outcome | None:
        """What an earlier call did for the person and nobody verified."""
        if not self._content["outcomes"]:
            return None
        found = self._content["outcomes"].get(self._digest(key))
        if found is None:
            return None
        return Outcome.from_data(found)

    def add(
        self, key: str, outcome: Outcome, tables: list[str], *, place: SourcePlace | None
    ) -> None:
        """Before the transaction ends: what will then have been done, and where."""
        self._content["outcomes"][self._digest(key)] = outcome.to_data()
        self._content["place"] = None if place is None else place.to_data()
        self.wait(tables)

    def wait(self, tables: list[str]) -> None:
        """More that is to be overwritten."""
        self._content["tables"] = sorted({*self.tables, *tables})
        self._write()

    def overwritten(self) -> None:
        self._content["tables"] = []
        self._write()

    def verified(self, key: str) -> None:
        done = self._content["outcomes"]
        if done and done.pop(self._digest(key), None) is not None:
            self._write()

    def _digest(self, key: str) -> str:
        salt = bytes.fromhex(self._content["salt"])
        return hashlib.scrypt(key.encode(), salt=salt, n=2**12, r=8, p=1, dklen=16).hex()

    def _write(self) -> None:
        if self.tables or self._content["outcomes"]:
            write_json(self._path, self._content)
        else:
            self._path.unlink(missing_ok=True)


_MARKS_DAMAGED = (
    "{}, which says what deleted data waits to be overwritten, is not as Lethe writes it. Restore "
    "it from a backup."
)


def _place(content: dict[str, Any]) -> SourcePlace | None:
    data = content.get("place")
    return None if data is None else SourcePlace.from_data(data)


def _sound(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """What was read, once all of it can be: half of it would forget what waits."""
    with damage(lambda: FileDamaged(_MARKS_DAMAGED.format(path))):
        bytes.fromhex(content["salt"])
        _place(content)
        if not all(isinstance(each, str) for each in content["tables"]):
            raise TypeError
        for each in content["outcomes"].values():
            Outcome.from_data(each)
    return content


def compact_source(params: Params, *, marks: Marks | None = None) -> None:
    """Overwrites the space of what was deleted, if anything waits for it.

    Raises:
        Busy, SourceUnavailable, DiskFull: it still waits; call again.
    """
    marks = marks or Marks(params.root)
    if not marks.tables:
        return
    engine = source_engine(params, writing=True)
    try:
        with writing_errors(deleted=True), engine.connect() as connection:
            marks.refuse_elsewhere(place_of(connection))
            if connection.dialect.name == "sqlite":
                _rebuild(connection)
            else:
                _vacuum(connection, marks.tables)
    finally:
        engine.dispose()
    marks.overwritten()


def _rebuild(connection: sa.Connection) -> None:
    """Pages that a split left behind hold old rows that `secure_delete` never sees."""
    raw: Any = connection.connection.driver_connection
    wal = raw.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    raw.execute("VACUUM")
    if wal and raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        raise Busy(
            "A reader of the source keeps its log from being emptied, so deleted rows are still "
            "in it. Close it; the next call goes on."
        )


def _vacuum(connection: sa.Connection, tables: list[str]) -> None:
    partitions = descent(connection, tables).partitions
    raw: Any = connection.connection.driver_connection
    raw.rollback()
    raw.autocommit = True
    raw.execute(f"SET lock_timeout = '{WAIT_SECONDS}s'")
    notices: list[str] = []
    raw.add_notice_handler(lambda notice: notices.append(notice.sqlstate or ""))
    for table in tables:
        raw.execute(f"VACUUM (ANALYZE) {quoted(table)}")
        for each in (table, *partitions(table)):
            forget_statistics_if_empty(connection, each)
    if "01000" in notices:  # a warning, not an error: skipped for want of the right
        raise SourceUnavailable(
            f"Deleted rows of {', '.join(tables)} still lie in the database's files: the role may "
            "not vacuum. Grant it MAINTAIN (or ownership); the next call goes on."
        )
    raw.execute("VACUUM pg_statistic")  # the owner's of the database; to others a warning
