"""Links of several columns are followed by their index: counted in SQLite's plan, not timed."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lethe.stores.source.writer import _among

VALUES = [(1, 12), (11, 2), (1, 1)]


@pytest.fixture
def lines(tmp_path: Path) -> sqlite3.Connection:
    made = sqlite3.connect(tmp_path / "lines.db")
    made.executescript(
        "CREATE TABLE lines (line integer PRIMARY KEY, a, b); CREATE INDEX both ON lines (a, b);"
    )
    rows = [(a, b) for a in range(1, 13) for b in range(1, 13)]
    made.executemany("INSERT INTO lines (a, b) VALUES (?, ?)", rows)
    return made


def _asked(values: list[tuple[Any, ...]], dialect: str) -> tuple[str, list[Any]]:
    sides: list[sa.ColumnElement[Any]] = [sa.column("a"), sa.column("b")]
    from sqlalchemy.dialects import sqlite

    statement = sa.select(sa.text("a, b")).select_from(sa.text("lines"))
    made = statement.where(_among(sides, values, dialect)).compile(
        dialect=sqlite.dialect(), compile_kwargs={"render_postcompile": True}
    )
    return str(made), [made.params[name] for name in made.positiontup or ()]


def test_the_index_is_used_and_no_other_pair_is_met(lines: sqlite3.Connection) -> None:
    statement, values = _asked(list(VALUES), "sqlite")
    plan = " ".join(row[3] for row in lines.execute("EXPLAIN QUERY PLAN " + statement, values))
    assert "USING COVERING INDEX both (a=? AND b=?)" in plan
    assert sorted(lines.execute(statement, values)) == sorted(VALUES)


def test_very_many_pairs_are_one_pass(lines: sqlite3.Connection) -> None:
    many = [(n, n) for n in range(1, 301)]
    statement, values = _asked(many, "sqlite")
    assert "a IN (?" not in statement
    assert sorted(lines.execute(statement, values)) == [(n, n) for n in range(1, 13)]
