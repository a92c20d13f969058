"""The people of this project's own files are invented."""

import sqlite3
import subprocess
from contextlib import closing

import pytest

from tests.conftest import PROJECT

CHINOOK = PROJECT.parent / "shared" / "data" / "chinook" / "Chinook_Sqlite.sql"
_COLUMNS = ("Email", "Phone", "Address", "FirstName || ' ' || LastName")


def test_no_file_quotes_a_person_of_a_public_database() -> None:
    """Whoever is erased from that database would stay in every clone of this project."""
    if not CHINOOK.exists():
        pytest.skip("the Chinook database is not on this machine")
    with closing(sqlite3.connect(":memory:")) as database:
        script = CHINOOK.read_text(encoding="utf-8-sig")
        database.executescript(f"BEGIN; {script}; COMMIT;")
        quoted = {
            str(value)
            for table in ("Customer", "Employee")
            for column in _COLUMNS
            for (value,) in database.execute(f"SELECT {column} FROM {table}")  # constants above
            if value
        }
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=PROJECT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    holders = []
    for name in filter(None, listed):
        path = PROJECT / name
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        if any(value in text for value in quoted):
            holders.append(name)
    assert holders == []
