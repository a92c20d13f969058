"""The doorbell rings once for each time that somebody asked, and never for what stays open."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from lethe.stores.requests.requests import Requests
from tests.dags.conftest import Airflow
from tests.postgres import postgres_server, postgres_url, postgres_urls  # noqa: F401

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


@pytest.fixture
def heard(tmp_path: Path, postgres_url: str) -> dict[str, Any]:  # noqa: F811
    with Requests.open(postgres_url.replace("postgresql:", "postgresql+psycopg:")) as requests:
        for number in range(3):
            requests.receive(
                f"{number:032x}",
                kind="erase",
                purpose=None,
                reference=bytes([number]),
                encrypted=b"encrypted",
                received_at=NOW,
                due_at=NOW + dt.timedelta(days=30),
            )
    home = tmp_path / "workspace"
    home.mkdir()
    airflow = Airflow(tmp_path / "airflow", home)
    airflow.environment["RING_LEDGER_URL"] = postgres_url
    said = airflow.run("python", str(Path(__file__).parent / "ring.py"), str(home))
    found: dict[str, Any] = json.loads(said.partition("RANG")[2])
    return found


def test_it_rings_for_what_is_added_by_a_watermark_and_only_reads(heard: dict[str, Any]) -> None:
    assert heard["rang"] == {
        "nothing there": [],
        "a table": [],
        "a request": [{"requests": 1}],
        "it stays open": [],
        "two more": [{"requests": 3}],
        "all closed": [],
        "a backup without them": [],
        "one after that": [{"requests": 2}],
        "started anew with one open": [{"requests": 2}],
    }
    assert heard["write refused"] is True
    assert heard["elsewhere"] == [3, 3], "the real table, on PostgreSQL"
    assert (heard["no such variable"], heard["half-written"]) == (None, None)
