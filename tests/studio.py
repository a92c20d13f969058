"""An invented studio whose people are named by two columns, in a database of either kind."""

import copy
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg

from lethe.config.params import Params, parse_params
from tests.library import DECLARED

Run = Callable[..., list[tuple[Any, ...]]]

SCHEMA = """
CREATE TABLE studios (studio {studio} PRIMARY KEY, town text);
CREATE TABLE members (studio {studio} NOT NULL, number {number} NOT NULL, email text,
    PRIMARY KEY (studio, number){to_studio});
CREATE TABLE visits (visit integer PRIMARY KEY, studio {studio}, number {number}, day date,
    minutes integer, came_back text, note text,
    FOREIGN KEY (studio, number) REFERENCES members (studio, number));
CREATE TABLE answers (studio {studio}, number {number}, purpose text, said text, said_at text);
CREATE TABLE bills (bill integer PRIMARY KEY, studio {studio}, number {number}, cents integer);
CREATE TABLE letters (letter integer PRIMARY KEY, body text);
"""
# Who is easily taken for whom: their keys joined without care are one text, or have one part.
PEOPLE = [("1", "12"), ("11", "2"), ("1", "1"), ("2", "12")]
LINK = {"role": "link"}
TO_MEMBER = {
    "links": {"studio, number": "members.studio, members.number"},
    "erase": {"action": "delete"},
}
KEY = {"role": "subject_key", "why": "joins"}
TABLES: dict[str, Any] = {
    "studios": {"about": "nobody", "columns": {"studio": LINK}, "unused": ["town"]},
    "members": {
        "erase": {"action": "delete"},
        "links": {"studio": "studios.studio"},
        "columns": {
            "studio": KEY,
            "number": KEY,
            "email": {"role": "identifier", "why": "letters"},
        },
    },
    "visits": TO_MEMBER
    | {
        "columns": {
            "visit": LINK,
            "studio": LINK,
            "number": LINK,
            "day": {"role": "timestamp", "type": "date", "why": "order"},
            "minutes": {"role": "feature", "type": "integer", "bounds": [0, 99], "why": "w"},
            "came_back": {"role": "label", "type": "category", "domain": ["yes", "no"], "why": "w"},
        },
        "unused": ["note"],
    },
    "answers": TO_MEMBER
    | {
        "columns": {
            "studio": LINK,
            "number": LINK,
            "purpose": {"role": "consent"},
            "said": {"role": "consent"},
            "said_at": {"role": "consent", "type": "timestamp"},
        },
    },
    "bills": TO_MEMBER
    | {
        "erase": {"action": "retain", "basis": "Art. 17(3)(b): tax law", "days": 3650},
        "columns": {"bill": LINK, "studio": LINK, "number": LINK},
        "unused": ["cents"],
    },
    "letters": {
        "about": "nobody",
        "columns": {"body": {"role": "text", "mentions": "redact", "why": "w"}},
        "unused": ["letter"],
    },
}


def declare(
    url: str,
    *,
    key: Any = ("studio", "number"),
    records: Mapping[str, Any] | None = None,
    **tables: Any,
) -> Params:
    """The declarations of the studio; `tables` replace whole tables."""
    raw = copy.deepcopy(DECLARED)
    raw["source"]["url"] = url
    raw["subject"] = {"table": "members", "key": list(key), "minimum": 2}
    raw["records"] = records or {"table": "visits", "latest_by": "day"}
    raw["tables"] = copy.deepcopy(TABLES) | tables
    raw["consent"] |= {"subject": list(key), "answer": "said", "time": "said_at"}
    return parse_params(raw)


def opened(url: str) -> Run:
    """A way to run statements; the rows of the last one come back."""

    def in_sqlite(*statements: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(url.removeprefix("sqlite:///")) as made:
            for statement in statements[:-1]:
                made.executescript(statement)
            found = list(made.execute(statements[-1]))
        made.close()
        return found

    def in_postgres(*statements: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(url) as made:
            for statement in statements[:-1]:
                made.execute(statement.encode())
            done = made.execute(statements[-1].encode())
            return done.fetchall() if done.description else []

    return in_sqlite if url.startswith("sqlite") else in_postgres


def build(
    url: str,
    people: list[tuple[str, str]] = PEOPLE,
    *,
    studio: str = "integer",
    number: str = "integer",
    before: str = "SELECT 1",
    linked: bool = True,
) -> Run:
    """Makes the tables with columns of these types, and everybody's rows: two visits each, an
    answer, a bill."""
    run = opened(url)
    to_studio = ", FOREIGN KEY (studio) REFERENCES studios" if linked else ""
    run(before, SCHEMA.format(studio=studio, number=number, to_studio=to_studio), "SELECT 1")
    said = [(a.replace("'", "''"), b.replace("'", "''")) for a, b in people]
    rows = [f"INSERT INTO studios VALUES ('{a}', 'Aby')" for a in dict.fromkeys(a for a, _ in said)]
    for n, (a, b) in enumerate(said):
        again = 10 * n + 1
        own, day = f"'{a}', '{b}'", f"2026-01-{n % 28 + 1:02d}"
        rows += [
            f"INSERT INTO members VALUES ({own}, 'member{n}@example.org')",
            f"INSERT INTO visits VALUES ({10 * n}, {own}, '{day}', {10 + n % 20}, 'yes', '')",
            f"INSERT INTO visits VALUES ({again}, {own}, '2026-02-01', {20 + n % 9}, 'no', '')",
            f"INSERT INTO answers VALUES ({own}, 'reading', 'yes', '2026-01-01')",
            f"INSERT INTO bills VALUES ({n}, {own}, 100)",
        ]
    run(*rows, "SELECT 1")
    return run


def folder(path: Path, people: list[tuple[str, str]] = PEOPLE) -> str:
    """The same as a folder of CSV files; the folder's URL."""
    url = f"sqlite:///{path / 'studio.db'}"
    run = build(url, people)
    made = path / "files"
    made.mkdir()
    import csv

    for table in TABLES:
        names = [row[1] for row in run(f"PRAGMA table_info({table})")]
        with (made / f"{table}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows(run(f"SELECT * FROM {table}"))
    return f"csv:{made}"
