"""A date is read alike in every kind of source, and one that cannot be read is said."""

import datetime as dt
import sqlite3
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.errors import SchemaMismatch, ValueOutsideDomain
from lethe.core.times import day_of
from lethe.people.consents import snapshot
from lethe.stores.source.expire import look_for_expired
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


LENT = "tables__loans__columns__lent_at__"
BERLIN = {"source__time_zone": "Europe/Berlin"}


@pytest.mark.parametrize(
    ("value", "changes", "zone", "moment"),
    [
        ("20260501T000000Z", {}, "UTC", "2026-05-01T00:00"),
        ("2026-05-01T00:30:00+01:00", {}, "UTC", "2026-04-30T23:30"),
        ("2026-05-01 23:30Z", BERLIN, "Europe/Berlin", "2026-05-01T23:30"),
        ("2026-05-01 00:00", BERLIN, "Europe/Berlin", "2026-04-30T22:00"),
        ("2026-05-01", {LENT + "time_zone": "Asia/Tokyo"}, "Asia/Tokyo", "2026-04-30T15:00"),
        ("01/05/2026", {LENT + "format": "%d/%m/%Y"}, "UTC", "2026-05-01T00:00"),
        (20260501, {LENT + "format": "%Y%m%d"}, "UTC", "2026-05-01T00:00"),
    ],
)
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_retention_goes_by_the_day_as_written_and_order_by_the_moment(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    value: str | int,
    changes: dict[str, Any],
    zone: str,
    moment: str,
) -> None:
    """All of them say the first of May; a day is kept to the end of the next one."""
    monkeypatch.chdir(tmp_path)
    postgres = request.getfixturevalue("postgres_urls") if kind == "postgres" else None
    url = build(kind, tmp_path, rows(), postgres)
    engine = sa.create_engine(
        url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.pool.NullPool
    )
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM loans WHERE loan_id > 101"))
        if postgres:
            kind = "integer USING NULL" if isinstance(value, int) else "text"
            connection.execute(sa.text(f"ALTER TABLE loans ALTER lent_at TYPE {kind}"))
        connection.execute(sa.text("UPDATE loans SET lent_at = :at"), {"at": value})
    params = declare(url, tables__loans__retention={"days": 1, "by": "lent_at"}, **changes)
    over = pd.Timestamp("2026-05-03", tz=zone).to_pydatetime()
    last = over - dt.timedelta(seconds=1)
    with Source.open(params) as source:
        (chunk,) = source.records(params, last)
        assert chunk.order.tolist() == [pd.Timestamp(moment, tz="UTC")]
        assert chunk.at["born"].tolist() == [pd.Timestamp("2026-05-01")]
        assert source.retention(params, last)["past_retention"] == 0
        assert not list(source.records(params, over))
        assert source.retention(params, over)["past_retention"] == 1
    assert not look_for_expired(params, as_of=last).rows
    assert look_for_expired(params, as_of=over).rows == {"loans": 1}


def test_numbers_of_a_database_that_are_declared_as_dates_are_refused_by_name(
    postgres_urls: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = build("postgres", tmp_path, rows(), postgres_urls)
    engine = sa.create_engine(
        url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.pool.NullPool
    )
    with engine.begin() as connection:
        for table, column, kind in (
            ("loans", "lent_at", "bigint"),
            ("readers", "born", "numeric"),
            ("answers", "answered_at", "double precision"),
        ):
            connection.execute(
                sa.text(f"ALTER TABLE {table} ALTER {column} TYPE {kind} USING NULL")
            )
    with pytest.raises(SchemaMismatch) as caught, Source.open(declare(url)) as source:
        source.check(declare(url))
    columns = "readers.born, loans.lent_at, answers.answered_at"
    assert str(caught.value).startswith(f"{columns}: declared as dates")


def test_whole_numbers_are_dates_by_a_declared_format_alone() -> None:
    for value in (20231101, 20231101.0, Decimal(20231101), np.int64(20231101), "20231101"):
        assert day_of(value, form="%Y%m%d") == dt.datetime(2023, 11, 1)
    for value in (20231101.5, float("nan"), float("inf"), True, 20230229, -20231101):
        assert day_of(value, form="%Y%m%d") is None
    assert day_of(20231101) is None, "days since 1970, seconds, or digits?"
    assert day_of("20231101") == dt.datetime(2023, 11, 1)


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


@pytest.mark.parametrize(
    ("answered", "changes", "moment"),
    [
        ("2026-05-01 10:00", {"source__time_zone": "Pacific/Auckland"}, "2026-04-30T22:00"),
        ("2026-05-01 10:00Z", {"source__time_zone": "Pacific/Auckland"}, "2026-05-01T10:00"),
        (
            "2026-05-01 10:00",
            {
                "source__time_zone": "Pacific/Auckland",
                "tables__answers__columns__answered_at__time_zone": "Asia/Tokyo",
            },
            "2026-05-01T01:00",
        ),
        (20260501, {"tables__answers__columns__answered_at__format": "%Y%m%d"}, "2026-05-01"),
    ],
)
def test_the_time_of_an_answer_is_of_the_declared_zone(
    written: Callable[..., Params], answered: Any, changes: dict[str, Any], moment: str
) -> None:
    params = written("2026-05-01", **changes)
    with sqlite3.connect("library.db") as connection:
        connection.execute("DELETE FROM answers")
        connection.execute("INSERT INTO answers VALUES (7, 'reading', 'yes', ?)", [answered])
    connection.close()
    with Source.open(params) as source:
        (found,) = source.answers(params, NOW)
    assert found["time"].tolist() == [pd.Timestamp(moment, tz="UTC")]


def test_a_snapshot_without_a_zone_is_of_the_sources(written: Callable[..., Params]) -> None:
    params = written(
        "2026-05-01", snapshot="2026-05-01T10:00:00", source__time_zone="Pacific/Auckland"
    )
    assert snapshot(params, NOW) == dt.datetime(2026, 4, 30, 22, tzinfo=dt.UTC)
