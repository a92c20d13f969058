"""Databases that the project has never seen, described in params.yaml alone."""

import datetime as dt
import json
import random
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import PROJECT, Workspace

CHINOOK = PROJECT.parent / "shared" / "data" / "chinook" / "Chinook_Sqlite.sql"


def _documented() -> str:
    page = (PROJECT / "docs" / "own-database.md").read_text()
    found = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return found.group(1)


def _studio(path: Path, members: int) -> None:
    """The documented fitness studio; everybody in it is invented."""
    rng = random.Random(7)
    path.parent.mkdir(exist_ok=True)
    today = dt.date.today()
    with sqlite3.connect(path) as made:
        made.executescript(
            "CREATE TABLE branches (branch_id INTEGER PRIMARY KEY, region TEXT);"
            "INSERT INTO branches VALUES (1, 'north'), (2, 'south');"
            "CREATE TABLE members (member_id INTEGER PRIMARY KEY, name TEXT, email TEXT, born DATE,"
            " home_branch INTEGER REFERENCES branches, shoe_size INTEGER);"
            "CREATE TABLE visits (visit_id INTEGER PRIMARY KEY, member_id INTEGER REFERENCES"
            " members, day DATE, minutes INTEGER, class TEXT, came_back BOOLEAN);"
            "CREATE TABLE answers (member_id INTEGER REFERENCES members, asked_for TEXT,"
            " said TEXT, said_at TIMESTAMP);"
        )
        for member in range(1, members + 1):
            born = f"{rng.randint(1940, 2005)}-01-01"
            made.execute(
                "INSERT INTO members VALUES (?,?,?,?,?,?)",
                (member, f"Invented {member}", f"m{member}@example.org", born, member % 2 + 1, 40),
            )
            for _ in range(rng.randint(1, 5)):
                day = today - dt.timedelta(days=rng.randint(1, 1400))
                kind = rng.choice(["weights", "yoga", "boxing"])
                back = rng.random() < (0.7 if kind == "weights" else 0.3)
                made.execute(
                    "INSERT INTO visits (member_id, day, minutes, class, came_back)"
                    " VALUES (?,?,?,?,?)",
                    (member, day.isoformat(), rng.randint(10, 300), kind, back),
                )
            if member % 5:
                said = "agreed" if member % 7 else "took back"
                made.execute(
                    "INSERT INTO answers VALUES (?,?,?,?)",
                    (member, "win_back", said, "2026-01-02 10:00:00"),
                )
    made.close()


def test_the_documented_database_runs_the_pipeline_as_documented(workspace: Workspace) -> None:
    (workspace.root / "params.yaml").write_text(_documented())
    _studio(workspace.root / "data" / "studio.db", members=2000)
    assert "sound" in workspace.lethe("check").stdout
    workspace.lethe("key")
    workspace.lethe("run")
    model = json.loads(workspace.lethe("lineage", "--model", "win-back/1", "--json").stdout)
    assert model["epsilon_pld"] <= 2.0
    asked = [json.loads(workspace.lethe("lineage", "--subject", k, "--json").stdout) for k in "57"]
    assert asked == [{"models": [], "datasets": []}] * 2  # never asked; took it back


def test_the_documented_epsilon_command_works(workspace: Workspace) -> None:
    said = workspace.lethe(
        *("epsilon", "--sample-rate", "0.2", "--steps", "60", "--target-epsilon", "2")
    )
    assert "person" in said.stdout


_CUSTOMER = [
    *("FirstName", "LastName", "Company", "Address", "City", "State", "PostalCode", "Phone"),
    *("Fax", "Email", "SupportRepId"),
]
_INVOICE = [f"Billing{part}" for part in ("Address", "City", "State", "Country", "PostalCode")]


def _chinook(raw: dict[str, Any]) -> None:
    """Chinook's customers and invoices; everything else is declared as not needed."""
    raw.update(
        purpose="offers",
        source={"url": "sqlite:///data/chinook.db"},
        subject={"table": "Customer", "key": "CustomerId", "minimum": 10},
        records={"table": "Invoice", "latest_by": "InvoiceDate"},
        shards=2,
    )
    raw["consent"].update(table="answers", subject="CustomerId", time="answered_at")
    nobody: dict[str, Any] = {
        name: {"about": "nobody", "columns": {}, "unused": columns.split()}
        for name, columns in {
            "Album": "AlbumId Title ArtistId",
            "Artist": "ArtistId Name",
            "Genre": "GenreId Name",
            "MediaType": "MediaTypeId Name",
            "Playlist": "PlaylistId Name",
            "PlaylistTrack": "PlaylistId TrackId",
            "Track": "TrackId Name AlbumId MediaTypeId GenreId Composer Milliseconds Bytes "
            "UnitPrice",
            "Employee": "EmployeeId LastName FirstName Title ReportsTo BirthDate HireDate Address "
            "City State Country PostalCode Phone Fax Email",
        }.items()
    }
    raw["tables"] = nobody | {
        "Customer": {
            "erase": {"action": "delete"},
            "columns": {
                "CustomerId": {"role": "subject_key", "why": "joins"},
                "Country": {
                    "role": "quasi_identifier",
                    "type": "category",
                    "why": "tastes differ",
                    "generalize": {
                        "groups": {"America": ["USA", "Canada", "Brazil"]},
                        "others": "elsewhere",
                    },
                },
            },
            "unused": _CUSTOMER,
        },
        "Invoice": {
            "erase": {"action": "retain", "basis": "Art. 17(3)(b): tax law", "days": 3650},
            "links": {"CustomerId": "Customer.CustomerId"},
            "columns": {
                "InvoiceId": {"role": "link"},
                "CustomerId": {"role": "link"},
                "InvoiceDate": {"role": "timestamp", "type": "timestamp", "why": "order"},
                "Total": {
                    "role": "label",
                    "type": "real",
                    "why": "what is predicted",
                    "generalize": {"bins": [0, 4, 1000]},
                    "positive": ["[4,1000)"],
                },
            },
            "unused": _INVOICE,
        },
        "InvoiceLine": {
            "erase": {"action": "delete"},
            "links": {"InvoiceId": "Invoice.InvoiceId"},
            "columns": {"InvoiceId": {"role": "link"}},
            "unused": ["InvoiceLineId", "TrackId", "UnitPrice", "Quantity"],
        },
        "answers": {
            "erase": {"action": "delete"},
            "links": {"CustomerId": "Customer.CustomerId"},
            "columns": {
                "CustomerId": {"role": "link"},
                "purpose": {"role": "consent"},
                "answer": {"role": "consent"},
                "answered_at": {"role": "consent", "type": "timestamp"},
            },
        },
    }
    raw["training"]["mechanism"].update(expected_subjects=40, steps=5, sample_rate=0.5)
    raw["registration"].update(name="offers", min_auc=0.0)


@pytest.mark.skipif(not CHINOOK.exists(), reason="the Chinook database is not on this machine")
def test_chinook_runs_the_pipeline(workspace: Workspace) -> None:
    source = workspace.root / "data" / "chinook.db"
    source.parent.mkdir(exist_ok=True)
    with sqlite3.connect(source) as made:
        made.executescript(CHINOOK.read_text(encoding="utf-8-sig"))
        made.execute(
            "CREATE TABLE answers (CustomerId INTEGER REFERENCES Customer (CustomerId),"
            " purpose TEXT, answer TEXT, answered_at TIMESTAMP)"
        )
        made.execute(
            "INSERT INTO answers SELECT CustomerId, 'offers', 'yes', '2020-01-01' FROM Customer"
        )
    made.close()
    writer = YAML()
    raw = workspace.params()
    _chinook(raw)
    with (workspace.root / "params.yaml").open("w") as file:
        writer.dump(raw, file)
    workspace.lethe("key")
    workspace.lethe("run")
    model = json.loads(workspace.lethe("lineage", "--model", "offers/1", "--json").stdout)
    assert model["unit"] == "person"
    exact = json.loads((workspace.root / ".lethe/private/reports/train.json").read_text())
    assert 20 < exact["subjects"] < 59
