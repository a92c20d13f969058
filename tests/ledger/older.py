"""Ledgers as versions before made them."""

import sqlite3
from pathlib import Path

DUMP = Path(__file__).with_name("schema_2.sql")
_LAST = "0" * 31 + "6"  # the run that was reserved after somebody was erased


def write_schema_2(path: Path) -> str:
    """Two settled runs, a void one, a reserved one, and an erased person who came back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as connection:
        connection.executescript(DUMP.read_text())
    connection.close()
    return f"sqlite:///{path}"


def write_schema_1(path: Path) -> str:
    """The same as it was before anybody was erased: there was no table for them yet."""
    url = write_schema_2(path)
    with sqlite3.connect(path) as connection:
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type='trigger'"
        ).fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        for statement in (
            "DROP TABLE ledger_carried",
            "DELETE FROM ledger_entries WHERE position > 6",
            f"DELETE FROM ledger_spends WHERE run_id = '{_LAST}'",
            "UPDATE ledger_schema SET version = 1",
        ):
            connection.execute(statement)
    connection.close()
    return url
