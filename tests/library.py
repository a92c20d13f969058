"""A handful of invented people in a small source of every kind, and its declarations."""

import copy
import csv
import datetime as dt
import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from lethe.config.params import Params, parse_params

NOW = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)

DECLARED: dict[str, Any] = {
    "purpose": "reading",
    "source": {"url": "", "chunk_rows": 2},
    "subject": {"table": "readers", "key": "reader_id", "minimum": 2},
    "records": {"table": "loans", "latest_by": "lent_at"},
    "shards": 2,
    "tables": {
        "readers": {
            "erase": {"action": "delete"},
            "columns": {
                "reader_id": {"role": "subject_key", "why": "joins"},
                "name": {"role": "identifier", "names_people": True, "why": "letters"},
                "email": {"role": "identifier", "why": "letters"},
                "born": {
                    "role": "quasi_identifier",
                    "type": "date",
                    "why": "taste changes",
                    "generalize": {"age_at": "lent_at", "bins": [0, 18, 65, 120]},
                },
            },
            "unused": ["shoe_size"],
        },
        "branches": {
            "about": "nobody",
            "retention": {"days": 3650, "by": "opened_at"},
            "columns": {
                "town": {"role": "link"},
                "number": {"role": "link"},
                "kind": {
                    "role": "feature",
                    "type": "category",
                    "domain": ["main", "small"],
                    "why": "w",
                },
                "opened_at": {"role": "timestamp", "type": "timestamp", "why": "retention"},
            },
        },
        "loans": {
            "links": {
                "reader_id": "readers.reader_id",
                "town, branch": "branches.town, branches.number",
            },
            "retention": {"days": 1000, "by": "lent_at"},
            "erase": {"action": "delete"},
            "columns": {
                "loan_id": {"role": "link"},
                "reader_id": {"role": "link"},
                "town": {"role": "link"},
                "branch": {"role": "link"},
                "lent_at": {"role": "timestamp", "type": "timestamp", "why": "order"},
                "days": {"role": "feature", "type": "integer", "bounds": [0, 60], "why": "w"},
                "remark": {"role": "text", "scrub": "refuse", "why": "w"},
                "returned": {
                    "role": "label",
                    "type": "boolean",
                    "positive": ["true"],
                    "why": "predicted",
                },
            },
            "unused": ["secret"],
        },
        "answers": {
            "links": {"reader_id": "readers.reader_id"},
            "erase": {"action": "delete"},
            "columns": {
                "reader_id": {"role": "link"},
                "purpose": {"role": "consent"},
                "answer": {"role": "consent"},
                "answered_at": {"role": "consent", "type": "timestamp"},
            },
        },
    },
    "consent": {
        "table": "answers",
        "subject": "reader_id",
        "purpose": "purpose",
        "answer": "answer",
        "time": "answered_at",
    },
    "budget": {"epsilon": 4.0, "delta": 1.0e-5},
    "training": {
        "held_out": 0.2,
        "mechanism": {
            "epsilon": 1.0,
            "records_per_person": 2,
            "expected_subjects": 100,
            "sample_rate": 0.1,
            "steps": 3,
            "clip_norm": 1.0,
        },
        "optimizer": {"learning_rate": 0.1},
    },
    "audit": {},
    "validation": {},
    "registration": {"name": "reading"},
}

# name → (SQL type, primary key?); order is the rows' order
COLUMNS: dict[str, dict[str, tuple[Any, bool]]] = {
    "readers": {
        "reader_id": (sa.Integer, True),
        "name": (sa.Text, False),
        "email": (sa.Text, False),
        "born": (sa.Date, False),
        "shoe_size": (sa.Integer, False),
    },
    "branches": {
        "town": (sa.Text, True),
        "number": (sa.Integer, True),
        "kind": (sa.Text, False),
        "opened_at": (sa.DateTime(timezone=True), False),
    },
    "loans": {
        "loan_id": (sa.Integer, True),
        "reader_id": (sa.Integer, False),
        "town": (sa.Text, False),
        "branch": (sa.Integer, False),
        "lent_at": (sa.DateTime(timezone=True), False),
        "days": (sa.Integer, False),
        "remark": (sa.Text, False),
        "returned": (sa.Boolean, False),
        "secret": (sa.Text, False),
    },
    "answers": {
        "reader_id": (sa.Integer, False),
        "purpose": (sa.Text, False),
        "answer": (sa.Text, False),
        "answered_at": (sa.DateTime(timezone=True), False),
    },
}


def at(day: str) -> dt.datetime:
    return dt.datetime.fromisoformat(day).replace(tzinfo=dt.UTC)


def rows() -> dict[str, list[tuple[Any, ...]]]:
    """Ada (7) has two loans in time and one past retention; Bo (8) one; Cleo (9) none."""
    return {
        "readers": [
            (7, "Ada Quill", "ada@example.org", dt.date(1990, 6, 2), 38),
            (8, "Bo Larkspur", "bo@example.org", dt.date(2010, 1, 1), 44),
            (9, "Cleo Fenwick", "cleo@example.org", None, 40),
        ],
        "branches": [
            ("Aby", 1, "main", at("2020-01-01")),
            ("Aby", 2, "small", at("2001-01-01")),  # past its retention of ten years
        ],
        "loans": [
            (
                101,
                7,
                "Aby",
                1,
                at("2026-01-01T09:00:00"),
                14,
                "Ada asked for large print",
                True,
                "s1",
            ),
            (102, 7, "Aby", 2, at("2026-03-01T09:00:00"), 30, None, False, "s2"),
            (103, 7, "Aby", 1, at("2020-03-01T09:00:00"), 1, None, True, "s3"),
            (104, 8, None, None, at("2026-05-01T09:00:00"), 60, "with Bo's mother", True, "s4"),
        ],
        "answers": [
            (7, "reading", "yes", at("2026-01-01")),
            (8, "reading", "yes", at("2026-01-01")),
            (8, "reading", "withdrawn", at("2026-02-01")),
            (9, "newsletter", "yes", at("2026-01-01")),
        ],
    }


def declare(url: str, **changes: Any) -> Params:
    """The declarations for a URL; a change is a dotted path with `__` for the dots."""
    raw = copy.deepcopy(DECLARED)
    raw["source"]["url"] = url
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = raw
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return parse_params(raw)


def build(kind: str, folder: Path, data: dict[str, list[tuple[Any, ...]]], postgres: Any) -> str:
    """Writes the data as a source of a kind and returns its URL."""
    if kind == "sqlite":
        return _build_sql(f"sqlite:///{folder / 'library.db'}", data)
    if kind == "postgres":
        url: str = postgres()
        return _build_sql(url.replace("postgresql:", "postgresql+psycopg:"), data, url)
    folder = folder / kind
    folder.mkdir()
    for name, table in data.items():
        names = list(COLUMNS[name])
        if kind == "csv":
            opened = gzip.open if name == "loans" else open
            suffix = "csv.gz" if name == "loans" else "csv"
            with opened(folder / f"{name}.{suffix}", "wt", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(names)
                writer.writerows([_text(value) for value in row] for row in table)
        else:
            columns = list(zip(*table, strict=True)) or [()] * len(names)
            made = {n: pa.array(c) for n, c in zip(names, columns, strict=True)}
            pq.write_table(pa.table(made), folder / f"{name}.parquet")
    return f"{kind}:{folder}"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dt.date | dt.datetime):
        return value.isoformat()
    return str(value).lower() if isinstance(value, bool) else str(value)


def _build_sql(url: str, data: dict[str, list[tuple[Any, ...]]], message: str | None = None) -> str:
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    metadata = sa.MetaData()
    with engine.begin() as connection:
        for name, table in data.items():
            described = sa.Table(
                name,
                metadata,
                *(
                    sa.Column(c, type_, primary_key=key)
                    for c, (type_, key) in COLUMNS[name].items()
                ),
            )
            described.create(connection)
            if table:
                names = list(COLUMNS[name])
                connection.execute(
                    sa.insert(described), [dict(zip(names, row, strict=True)) for row in table]
                )
    engine.dispose()
    return message or url
