"""One person leaves databases that were not made for these tests: Chinook and the clinic."""

import copy
import dataclasses
import datetime as dt
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from lethe.config.params import Params, load_params, parse_params
from lethe.core.outcomes import Outcome
from lethe.sample.clinic import build_clinic
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.identifiers import traces
from lethe.stores.source.verify import verify_source
from tests.conftest import PROJECT
from tests.postgres import postgres_server, postgres_urls  # noqa: F401
from tests.traps import DECLARED, Parish

CHINOOK = PROJECT.parent / "shared" / "data" / "chinook"
NOW = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)

TABLES = {
    "Album": "AlbumId Title ArtistId",
    "Artist": "ArtistId Name",
    "Genre": "GenreId Name",
    "MediaType": "MediaTypeId Name",
    "Playlist": "PlaylistId Name",
    "PlaylistTrack": "PlaylistId TrackId",
    "Track": "TrackId Name AlbumId MediaTypeId GenreId Composer Milliseconds Bytes UnitPrice",
    "Employee": "EmployeeId LastName FirstName Title ReportsTo BirthDate HireDate Address City "
    "State Country PostalCode Phone Fax Email",
    "Customer": "CustomerId FirstName LastName Company Address City State Country PostalCode "
    "Phone Fax Email SupportRepId",
    "Invoice": "InvoiceId CustomerId InvoiceDate BillingAddress BillingCity BillingState "
    "BillingCountry BillingPostalCode Total",
    "InvoiceLine": "InvoiceLineId InvoiceId TrackId UnitPrice Quantity",
}
BILLED = ["BillingAddress", "BillingCity", "BillingState", "BillingCountry", "BillingPostalCode"]
NAMED = ["FirstName", "LastName", "Company", "Address", "City", "State", "PostalCode"]
NAMED += ["Phone", "Fax", "Email"]


def identifier(*, name: bool = False) -> dict[str, Any]:
    return {"role": "identifier", "names_people": name, "why": "letters"}


def chinook_declared(url: str) -> dict[str, Any]:
    raw = copy.deepcopy(DECLARED)
    raw.update(
        purpose="offers",
        source={"url": url},
        subject={"table": "Customer", "key": "CustomerId", "minimum": 1},
        records={"table": "Invoice", "latest_by": "InvoiceDate"},
    )
    raw["tables"] = {
        name: {"about": "nobody", "columns": {}, "unused": columns.split()}
        for name, columns in TABLES.items()
    }
    link = {"role": "link"}
    raw["tables"]["Customer"] = {
        "erase": {"action": "delete"},
        "columns": {
            "CustomerId": {"role": "subject_key", "why": "joins"},
            "FirstName": identifier(name=True),
            "LastName": identifier(name=True),
            "Email": identifier(),
            "Phone": identifier(),
            "Fax": identifier(),
            "Address": identifier(),
        },
        "unused": ["Company", "City", "State", "Country", "PostalCode", "SupportRepId"],
    }
    raw["tables"]["Invoice"] = {
        "erase": {"action": "delete"},
        "links": {"CustomerId": "Customer.CustomerId"},
        "columns": {
            "InvoiceId": link,
            "CustomerId": link,
            "InvoiceDate": {"role": "timestamp", "type": "timestamp", "why": "order"},
            "Total": {
                "role": "label",
                "type": "real",
                "why": "predicted",
                "generalize": {"bins": [0, 4, 1000]},
                "positive": ["[4,1000)"],
            },
            "BillingCountry": {
                "role": "feature",
                "type": "category",
                "domain": ["USA", "Canada"],
                "why": "tastes differ",
            },
        },
        "unused": [each for each in BILLED if each != "BillingCountry"],
    }
    raw["tables"]["InvoiceLine"] = {
        "erase": {"action": "delete"},
        "links": {"InvoiceId": "Invoice.InvoiceId"},
        "columns": {"InvoiceId": link},
        "unused": ["InvoiceLineId", "TrackId", "UnitPrice", "Quantity"],
    }
    raw["tables"]["answers"] = {
        "erase": {"action": "delete"},
        "links": {"CustomerId": "Customer.CustomerId"},
        "columns": {
            "CustomerId": link,
            "purpose": {"role": "consent"},
            "answer": {"role": "consent"},
            "answered_at": {"role": "consent"},
        },
    }
    raw["consent"].update(
        table="answers", subject="CustomerId", answer="answer", time="answered_at"
    )
    return raw


def snake(name: str) -> str:
    """Chinook's names in its PostgreSQL dialect: `InvoiceLineId` is `invoice_line_id`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {renamed(k, names): renamed(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [renamed(each, names) for each in value]
    if isinstance(value, str):
        return ".".join(names.get(part, part) for part in value.split("."))
    return value


ANSWERS = "(%s INTEGER REFERENCES %s (%s), purpose TEXT, answer TEXT, answered_at TIMESTAMP)"


@pytest.fixture(params=["sqlite", "postgres"])
def chinook(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Parish, Callable[..., Params], Callable[[str], str]]:
    """The database, its declarations, and how its dialect spells a name."""
    if not CHINOOK.exists():
        pytest.skip("the Chinook database is not on this machine")
    monkeypatch.chdir(tmp_path)
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'chinook.db'}"
        with sqlite3.connect(tmp_path / "chinook.db") as connection:
            script = (CHINOOK / "Chinook_Sqlite.sql").read_text(encoding="utf-8-sig")
            connection.executescript(f"PRAGMA synchronous = OFF; BEGIN; {script}; COMMIT;")
        connection.close()
    else:
        url = request.getfixturevalue("postgres_urls")()
        script = (CHINOOK / "Chinook_PostgreSql.sql").read_text(encoding="utf-8-sig")
        with psycopg.connect(url) as server:
            server.execute(script.split("\\c chinook;", 1)[1].encode())

    def spelled(name: str) -> str:
        return name if request.param == "sqlite" else snake(name)

    words = {n for name, columns in TABLES.items() for n in (name, *columns.split())}
    names = {word: spelled(word) for word in words}
    parish = Parish(url)
    parish.run(
        "CREATE TABLE answers "
        + ANSWERS % (spelled("CustomerId"), spelled("Customer"), spelled("CustomerId"))
    )

    def params(**erase: dict[str, Any]) -> Params:
        raw = chinook_declared(url)
        for table, how in erase.items():
            raw["tables"][table]["erase"] = how
        return parse_params(renamed(raw, names))

    return parish, params, spelled


def counts(parish: Parish) -> dict[str, int]:
    return {name.lower().replace("_", ""): len(rows) for name, rows in parish.everything().items()}


def test_a_customer_leaves_chinook(
    chinook: tuple[Parish, Callable[..., Params], Callable[[str], str]],
) -> None:
    parish, declared, spelled = chinook
    before = parish.everything()
    params = declared()
    found = traces(params, "5")
    # Read from the database, not written here: a test that quotes somebody keeps them for ever.
    row = next(row for row in parish.rows(spelled("Customer")) if row[0] == 5)
    first, last, address, contacts = row[1], row[2], row[4], row[9:12]
    assert set(found.identifiers) == {f"{first} {last}", address, *filter(None, contacts)}
    outcome = erase_from_source(params, found, now=NOW)
    assert outcome.places == (
        f"{spelled('Customer')}: 1 deleted",
        f"{spelled('Invoice')}: 7 deleted",
        f"{spelled('InvoiceLine')}: 38 deleted",
    )
    assert verify_source(params, found) == Outcome("source", "absent")
    after = parish.everything()
    assert parish.broken_links() == []
    for name, rows in before.items():
        assert set(after[name]) <= set(rows)  # nothing changed, only left
    assert sum(map(len, before.values())) - sum(map(len, after.values())) == 46


def test_the_tax_office_keeps_invoices_of_nobody(
    chinook: tuple[Parish, Callable[..., Params], Callable[[str], str]],
) -> None:
    """Invoice.CustomerId cannot be null, so the customer's row stays and says nothing."""
    parish, declared, spelled = chinook
    before = counts(parish)
    params = declared(
        Customer={"action": "anonymize", "columns": [*NAMED, "Country"]},
        Invoice={
            "action": "retain",
            "columns": BILLED,
            "basis": "Art. 17(3)(b): tax law",
            "days": 7300,
            "by": "InvoiceDate",
        },
        InvoiceLine={"action": "retain", "basis": "Art. 17(3)(b): tax law", "days": 7300},
    )
    found = traces(params, "5")
    outcome = erase_from_source(params, found, now=NOW)
    assert counts(parish) == before
    customers = [row for row in parish.rows(spelled("Customer")) if row[0] < 0]
    assert len(customers) == 1
    assert customers[0][1:] == ("erased", "erased", *[None] * 8, "erased", 4)
    mine = [row for row in parish.rows(spelled("Invoice")) if row[1] == customers[0][0]]
    assert len(mine) == 7
    assert all(row[3:8] == (None,) * 5 and row[8] is not None for row in mine)
    assert [each["count"] for each in outcome.retained] == [7, 38]
    assert verify_source(params, found) == Outcome("source", "absent")
    assert parish.broken_links() == []


@pytest.fixture(params=["sqlite", "postgres"])
def clinic(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Parish, Params]:
    monkeypatch.chdir(tmp_path)
    url = (
        f"sqlite:///{tmp_path / 'clinic.db'}"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_urls")()
    )
    build_clinic(url, patients=300, notes_share=0.5, now=NOW)
    loaded = load_params(PROJECT / "params.yaml", root=Path())
    source = dataclasses.replace(loaded.source, url=url)
    return Parish(url), dataclasses.replace(loaded, source=source)


def test_a_patient_leaves_the_clinic(clinic: tuple[Parish, Params], tmp_path: Path) -> None:
    parish, params = clinic
    with parish.engine.connect() as connection:
        key, name, email = connection.execute(
            sa.text(
                "SELECT patient_id, full_name, email FROM patients WHERE patient_id = "
                "(SELECT patient_id FROM notes GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1)"
            )
        ).one()
    with parish.engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE notes SET text = :text WHERE note_id = "
                "(SELECT min(note_id) FROM notes WHERE patient_id <> :key)"
            ),
            {"text": f"Shares a room with {name.upper()} <{email}>.", "key": key},
        )
    before = parish.everything()
    found = traces(params, key)
    outcome = erase_from_source(params, found, now=NOW)
    after = parish.everything()
    for table in ("patients", "encounters", "consents"):
        gone = set(before[table]) - set(after[table])
        assert gone and all(key in row for row in gone)
        assert set(after[table]) < set(before[table])
    changed = set(after["notes"]) - set(before["notes"])
    assert [row[-1] for row in changed] == ["Shares a room with <ERASED> <<ERASED>>."]
    kept = set(after["invoices"]) - set(before["invoices"])
    assert kept and all(row[1] is None and row[2] is None and row[5] is None for row in kept)
    assert all(row[4] is not None for row in kept)
    assert [each["table"] for each in outcome.retained] == ["invoices"]
    assert verify_source(params, found) == Outcome("source", "absent")
    if parish.sqlite:
        content = (tmp_path / "clinic.db").read_bytes()
        assert not any(value.encode() in content for value in (key, *found.identifiers))
