"""An invented parish whose tables hold every trap that an erasure can step into.

people ── address_id ─→ addresses       shared by those who live together
people ── referred_by ─→ people         a self-reference to somebody else
visits (person, number)                 a composite key, with a self-reference; RESTRICT
findings ─→ visits                      ON DELETE CASCADE, two steps from the person
cases ⇄ documents                       a circle of foreign keys
friendships, memberships                many to many, with a person and with a group
bills ─→ people                         kept by law, yet ON DELETE CASCADE
letters                                 no primary key, no foreign key: a declared link
notices                                 about nobody, naming anybody; ON DELETE SET NULL
"""

import copy
import datetime as dt
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lethe.config.params import Params, parse_params

NOW = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)

Rows = dict[str, list[tuple[Any, ...]]]

SCHEMA = {
    "addresses": "address_id INTEGER PRIMARY KEY, street TEXT, city TEXT",
    "people": """
        person_id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT UNIQUE, phone TEXT,
        address_id INTEGER REFERENCES addresses (address_id),
        referred_by INTEGER REFERENCES people (person_id)""",
    "visits": """
        person_id INTEGER NOT NULL REFERENCES people (person_id) ON DELETE RESTRICT,
        number INTEGER NOT NULL, earlier_person INTEGER, earlier_number INTEGER,
        minutes INTEGER, returned TEXT, day TEXT, PRIMARY KEY (person_id, number),
        FOREIGN KEY (earlier_person, earlier_number) REFERENCES visits (person_id, number)""",
    "findings": """
        finding INTEGER PRIMARY KEY, person_id INTEGER NOT NULL, visit INTEGER NOT NULL,
        remark TEXT, FOREIGN KEY (person_id, visit) REFERENCES visits (person_id, number)
        ON DELETE CASCADE""",
    "cases": """
        case_no INTEGER PRIMARY KEY, member INTEGER NOT NULL REFERENCES people (person_id),
        main_document INTEGER""",
    "documents": """
        document_no INTEGER PRIMARY KEY, case_no INTEGER NOT NULL REFERENCES cases (case_no)
        ON DELETE RESTRICT, content TEXT""",
    "friendships": """
        one INTEGER NOT NULL REFERENCES people (person_id),
        other INTEGER NOT NULL REFERENCES people (person_id), PRIMARY KEY (one, other)""",
    "circles": "circle INTEGER PRIMARY KEY, title TEXT",
    "memberships": """
        circle INTEGER NOT NULL REFERENCES circles (circle),
        member INTEGER NOT NULL REFERENCES people (person_id), PRIMARY KEY (circle, member)""",
    "bills": """
        bill INTEGER PRIMARY KEY, payer INTEGER REFERENCES people (person_id) ON DELETE CASCADE,
        address_id INTEGER REFERENCES addresses (address_id), sent_to TEXT NOT NULL,
        cents INTEGER, issued TEXT""",
    "letters": "addressee INTEGER, body TEXT",
    "notices": """
        notice INTEGER PRIMARY KEY, body TEXT, remark TEXT,
        posted_for INTEGER REFERENCES people (person_id) ON DELETE SET NULL""",
    "answers": """
        answer INTEGER PRIMARY KEY, member INTEGER REFERENCES people (person_id),
        purpose TEXT, said TEXT, said_at TEXT""",
}
# A circle can only be closed when both tables are there; SQLite says it at once.
CLOSING = "ALTER TABLE cases ADD FOREIGN KEY (main_document) REFERENCES documents (document_no)"

LETTER = "Dear Bo, ADA  QUILL (ada.quill@example.org) of 3 Elm Row called from +212 555-0107."
NOTICE = "Quill, Ada and Ada Quillon meet bada.quill@example.org; 2125550107, 12125550107."

ROWS: Rows = {
    "addresses": [(1, "3 Elm Row", "Aby"), (2, "9 Oak Row", "Aby"), (3, "1 Fir Row", "Ceeby")],
    "people": [
        (1, "Ada Quill", "ada.quill@example.org", "(212) 555-0107", 1, None),
        (2, "Bo Larkspur", "bo.larkspur@example.org", "(212) 555-0108", 1, 1),
        (3, "Cleo Fenwick", "cleo.fenwick@example.org", "(212) 555-0109", 2, 2),
        (4, "Dov Sorrel", "dov.sorrel@example.org", "(212) 555-0110", 3, None),
    ],
    "visits": [
        (1, 1, None, None, 10, "yes", "2026-01-01"),
        (1, 2, 1, 1, 20, "no", "2026-02-01"),
        (1, 3, 1, 2, 30, "no", "2026-03-01"),
        (2, 1, 1, 3, 15, "yes", "2026-01-05"),  # Bo's, after Ada's
        (2, 2, 2, 1, 25, "no", "2026-02-05"),
        (3, 1, None, None, 35, "no", "2026-02-06"),
    ],
    "findings": [
        (1, 1, 1, "fine"),
        (2, 1, 3, "better"),
        (3, 2, 1, "with Ada Quill"),
        (4, 3, 1, "x"),
    ],
    "cases": [(10, 1, None), (20, 2, None)],
    "documents": [(100, 10, "first"), (101, 10, "second"), (200, 20, "of Bo")],
    "friendships": [(1, 2), (2, 3), (3, 1), (3, 4)],
    "circles": [(1, "choir"), (2, "chess")],
    "memberships": [(1, 1), (1, 2), (2, 1), (2, 3)],
    "bills": [
        (1, 1, 1, "Ada Quill, 3 Elm Row", 500, "2020-03-01"),
        (2, 1, 1, "Ada Quill, 3 Elm Row", 700, "2010-03-01"),  # kept for long enough
        (3, 2, 1, "Bo Larkspur, 3 Elm Row", 900, "2020-03-01"),
        (4, 3, 2, "Cleo Fenwick, 9 Oak Row", 100, "2021-03-01"),
    ],
    "letters": [(1, "Dear Ada"), (2, LETTER), (3, "Dear Cleo"), (1, "Dear Ada")],
    "notices": [(1, NOTICE, "ask ada.quill@example.org", 1), (2, "Choir at nine", None, 2)],
    "answers": [
        (1, 1, "care", "yes", "2026-01-01"),
        (2, 2, "care", "yes", "2026-01-01"),
        (3, 3, "care", "yes", "2026-01-01"),
    ],
}

LINK = {"role": "link"}
DECLARED: dict[str, Any] = {
    "purpose": "care",
    "source": {"url": ""},
    "subject": {"table": "people", "key": "person_id", "minimum": 1},
    "records": {"table": "visits"},
    "shards": 2,
    "tables": {
        "addresses": {
            "about": "shared",
            "erase": {"action": "delete"},
            "columns": {
                "address_id": LINK,
                "street": {"role": "identifier", "why": "letters"},
            },
            "unused": ["city"],
        },
        "people": {
            "links": {
                "address_id": "addresses.address_id",
                "referred_by": "people.person_id",
            },
            "erase": {"action": "delete"},
            "columns": {
                "person_id": {"role": "subject_key", "why": "joins"},
                "name": {"role": "identifier", "names_people": True, "why": "letters"},
                "email": {"role": "identifier", "why": "letters"},
                "phone": {"role": "identifier", "why": "calls"},
                "address_id": LINK,
                "referred_by": LINK,
            },
        },
        "visits": {
            "links": {
                "person_id": "people.person_id",
                "earlier_person, earlier_number": "visits.person_id, visits.number",
            },
            "erase": {"action": "delete"},
            "columns": {
                "person_id": LINK,
                "number": LINK,
                "earlier_person": LINK,
                "earlier_number": LINK,
                "minutes": {"role": "feature", "type": "integer", "bounds": [0, 60], "why": "w"},
                "returned": {
                    "role": "label",
                    "type": "category",
                    "domain": ["no", "yes"],
                    "positive": ["yes"],
                    "why": "predicted",
                },
                "day": {"role": "timestamp", "type": "date", "why": "order"},
            },
        },
        "findings": {
            "links": {"person_id, visit": "visits.person_id, visits.number"},
            "erase": {"action": "delete"},
            "columns": {
                "finding": LINK,
                "person_id": LINK,
                "visit": LINK,
                "remark": {"role": "text", "mentions": "redact", "why": "memory"},
            },
        },
        "cases": {
            "links": {"member": "people.person_id", "main_document": "documents.document_no"},
            "erase": {"action": "delete"},
            "columns": {"case_no": LINK, "member": LINK, "main_document": LINK},
        },
        "documents": {
            "links": {"case_no": "cases.case_no"},
            "erase": {"action": "delete"},
            "columns": {"document_no": LINK, "case_no": LINK},
            "unused": ["content"],
        },
        "friendships": {
            "links": {"one": "people.person_id", "other": "people.person_id"},
            "erase": {"action": "delete"},
            "columns": {"one": LINK, "other": LINK},
        },
        "circles": {"about": "nobody", "columns": {"circle": LINK}, "unused": ["title"]},
        "memberships": {
            "links": {"member": "people.person_id", "circle": "circles.circle"},
            "erase": {"action": "delete"},
            "columns": {"circle": LINK, "member": LINK},
        },
        "bills": {
            "links": {"payer": "people.person_id", "address_id": "addresses.address_id"},
            "erase": {
                "action": "retain",
                "columns": ["sent_to"],
                "basis": "Art. 17(3)(b): tax",
                "days": 3650,
                "by": "issued",
            },
            "columns": {
                "bill": LINK,
                "payer": LINK,
                "address_id": LINK,
                "issued": {"role": "timestamp", "type": "date", "why": "tax year"},
            },
            "unused": ["sent_to", "cents"],
        },
        "letters": {
            "links": {"addressee": "people.person_id"},
            "erase": {"action": "delete"},
            "columns": {
                "addressee": LINK,
                "body": {"role": "text", "mentions": "redact", "why": "letters"},
            },
        },
        "notices": {
            "about": "nobody",
            "links": {"posted_for": "people.person_id"},
            "columns": {
                "notice": LINK,
                "posted_for": LINK,
                "body": {"role": "text", "mentions": "redact", "why": "the board"},
                "remark": {"role": "text", "mentions": "redact", "why": "the board"},
            },
        },
        "answers": {
            "links": {"member": "people.person_id"},
            "erase": {"action": "delete"},
            "columns": {
                "answer": LINK,
                "member": LINK,
                "purpose": {"role": "consent"},
                "said": {"role": "consent"},
                "said_at": {"role": "consent"},
            },
        },
    },
    "consent": {
        "table": "answers",
        "subject": "member",
        "purpose": "purpose",
        "answer": "said",
        "time": "said_at",
    },
    "budget": {"epsilon": 4.0, "delta": 1.0e-5},
    "training": {
        "held_out": 0.2,
        "mechanism": {
            "epsilon": 1.0,
            "records_per_person": 2,
            "expected_subjects": 100,
            "sample_rate": 0.5,
            "steps": 2,
            "clip_norm": 1.0,
        },
        "optimizer": {"learning_rate": 1.0},
    },
    "validation": {},
    "audit": {},
    "registration": {"name": "care"},
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
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return parse_params(raw)


class Parish:
    """The parish in a database that tests look into and change by plain SQL."""

    def __init__(self, url: str) -> None:
        self.url = url
        driver = url.replace("postgresql:", "postgresql+psycopg:")
        self.engine = sa.create_engine(driver, poolclass=sa.pool.NullPool)
        if self.sqlite:
            sa.event.listen(self.engine, "connect", _guard)

    @property
    def sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    @classmethod
    def build(cls, url: str, *, schema: dict[str, str] = SCHEMA, rows: Rows = ROWS) -> "Parish":
        made = cls(url)
        tables = dict(schema)
        if made.sqlite and "cases" in tables:
            tables["cases"] += " REFERENCES documents (document_no)"
        statements = [f"CREATE TABLE {name} ({columns})" for name, columns in tables.items()]
        if not made.sqlite and "cases" in tables:
            statements.append(CLOSING)
        made.run(*statements)
        with made.engine.begin() as connection:
            for name in tables:
                for row in rows.get(name, []):
                    marks = ", ".join(f":c{n}" for n in range(len(row)))
                    connection.execute(
                        sa.text(f"INSERT INTO {name} VALUES ({marks})"),
                        {f"c{n}": value for n, value in enumerate(row)},
                    )
        if rows is ROWS:
            made.run(
                "UPDATE cases SET main_document = 100 WHERE case_no = 10",
                "UPDATE cases SET main_document = 200 WHERE case_no = 20",
            )
        return made

    def run(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """Every row of a table, sorted."""
        with self.engine.connect() as connection:
            found = connection.exec_driver_sql(f"SELECT * FROM {table}").all()
        return sorted((tuple(row) for row in found), key=repr)

    def everything(self) -> Rows:
        names = sa.inspect(self.engine).get_table_names()
        return {name: self.rows(name) for name in sorted(names)}

    def broken_links(self) -> list[Any]:
        """SQLite's own count of foreign keys that lead nowhere; PostgreSQL has none by force."""
        if not self.sqlite:
            return []
        with self.engine.connect() as connection:
            return list(connection.exec_driver_sql("PRAGMA foreign_key_check").all())


def _guard(connection: Any, _: object) -> None:
    connection.execute("PRAGMA foreign_keys = ON")


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'parish.db'}"
