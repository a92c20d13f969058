"""A date is read alike in every kind of source, and one that cannot be read is said."""

import datetime as dt
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.errors import ValueOutsideDomain
from lethe.stores.source.read import Source
from tests.library import NOW, build, declare, rows
from tests.postgres import postgres_server, postgres_urls

__all__ = ["postgres_server", "postgres_urls"]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Params]:
    """The library in SQLite, whose one loan was lent at what is given."""
    monkeypatch.chdir(tmp_path)

    def made(lent_at: Any, **changes: Any) -> Params:
        params = declare(build("sqlite", tmp_path, rows(), None), **changes)
        with sqlite3.connect(tmp_path / "library.db") as connection:
            connection.execute("DELETE FROM loans WHERE loan_id > 101")
            connection.execute("UPDATE loans SET lent_at = ?", [lent_at])
        connection.close()
        return params

    return made


def loans(params: Params, as_of: dt.datetime = NOW) -> int:
    with Source.open(params) as source:
        return sum(len(chunk.subject) for chunk in source.records(params, as_of))


UNREAD = ["01/05/2026", "2026-02-29", 1777593600, "2026-02-30 00:00", "last May"]


@pytest.mark.parametrize("value", UNREAD)
def test_a_date_that_is_none_is_counted_and_its_column_and_policy_named(
    written: Callable[..., Params], value: Any
) -> None:
    params = written(value, tables__loans__retention=None)
    with pytest.raises(ValueOutsideDomain, match=r"loans\.lent_at \(.*\) has 1 values") as caught:
        loans(params)
    assert str(value) not in str(caught.value)


@pytest.mark.parametrize("value", UNREAD)
def test_a_date_that_is_none_is_undated_for_retention(
    written: Callable[..., Params], value: Any
) -> None:
    """SQLite alone would make the second of March of the thirtieth of February."""
    params = written(value)
    with Source.open(params) as source:
        assert source.retention(params, NOW) == {"rows": 1, "past_retention": 0, "undated": 1}


@pytest.mark.parametrize(
    ("value", "changes", "edge"),
    [
        ("20260501T000000Z", {}, "2026-05-01T00:00"),
        ("2026-05-01 00:00", {"source__time_zone": "Europe/Berlin"}, "2026-04-30T22:00"),
        ("2026-05-01 00:00Z", {"source__time_zone": "Europe/Berlin"}, "2026-05-01T00:00"),
        (
            "2026-05-01",
            {
                "source__time_zone": "Europe/Berlin",
                "tables__loans__columns__lent_at__time_zone": "Asia/Tokyo",
            },
            "2026-04-30T15:00",
        ),
        (
            "01/05/2026",
            {"tables__loans__columns__lent_at__format": "%d/%m/%Y"},
            "2026-05-01T00:00",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_retention_and_order_go_by_the_declared_zone_and_format(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    value: str,
    changes: dict[str, Any],
    edge: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    postgres = request.getfixturevalue("postgres_urls") if kind == "postgres" else None
    url = build(kind, tmp_path, rows(), postgres)
    engine = sa.create_engine(
        url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.pool.NullPool
    )
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM loans WHERE loan_id > 101"))
        if postgres:
            connection.execute(sa.text("ALTER TABLE loans ALTER lent_at TYPE text"))
        connection.execute(sa.text("UPDATE loans SET lent_at = :at"), {"at": value})
    retention = {"days": 1, "by": "lent_at"}
    params = declare(url, tables__loans__retention=retention, **changes)
    last = pd.Timestamp(edge, tz="UTC") + pd.Timedelta(days=1)
    assert loans(params, last.to_pydatetime()) == 1
    assert loans(params, (last + pd.Timedelta(seconds=1)).to_pydatetime()) == 0
    with Source.open(params) as source:
        (chunk,) = source.records(params, last.to_pydatetime())
    assert chunk.order.tolist() == [pd.Timestamp(edge, tz="UTC")]


def test_a_moment_of_postgresql_has_the_day_of_the_sources_zone(
    postgres_urls: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    url = build("postgres", tmp_path, rows(), postgres_urls)
    engine = sa.create_engine(
        url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.pool.NullPool
    )
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM loans WHERE loan_id > 101"))
        connection.execute(sa.text("UPDATE loans SET lent_at = '2026-04-30 23:30Z'"))
    for zone, day in (("UTC", "2026-04-30"), ("Europe/Berlin", "2026-05-01")):
        params = declare(url, source__time_zone=zone)
        with Source.open(params) as source:
            (chunk,) = source.records(params, NOW)
        assert chunk.at["born"].tolist() == [pd.Timestamp(day)]


def test_the_time_of_an_answer_is_of_the_sources_zone(
    written: Callable[..., Params],
) -> None:
    params = written("2026-05-01", source__time_zone="Pacific/Auckland")
    with sqlite3.connect("library.db") as connection:
        connection.execute("DELETE FROM answers")
        connection.execute("INSERT INTO answers VALUES (7, 'reading', 'yes', '2026-05-01 10:00')")
    connection.close()
    with Source.open(params) as source:
        (found,) = source.answers(params, NOW)
    assert found["time"].tolist() == [pd.Timestamp("2026-04-30T22:00", tz="UTC")]
