"""Features made of child rows: one person's, of days before the record's, in every source."""

import datetime as dt
import math
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.errors import NotFinite, ParamsInvalid, SchemaMismatch, ValueOutsideDomain
from lethe.data.encoding import Encoder
from lethe.stores.source.aggregates import owner
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.expire import look_for_expired
from lethe.stores.source.identifiers import traces
from lethe.stores.source.read import Source
from lethe.stores.source.verify import verify_source
from tests import library
from tests.library import DECLARED, NOW, at, build, rows
from tests.postgres import postgres_server, postgres_urls

__all__ = ["postgres_server", "postgres_urls"]

Make = Callable[..., Params]

LINK = {"role": "link"}
# Ada's loans are of 1 January (101) and 1 March (102), Bo's of 1 May (104).
FINES: list[tuple[Any, ...]] = [
    (1, 7, 101, at("2025-12-31T23:00"), 100.0, "late"),
    (2, 7, 101, at("2026-01-01T08:00"), 300.0, "late"),  # of 101's day
    (3, 7, 102, at("2026-02-15T08:00"), None, "lost"),
    (4, 7, 102, at("2026-02-28T08:00"), 500.0, "lost"),
    (5, 7, 102, at("2026-03-02T08:00"), 9000.0, "late"),  # after all of Ada's
    (6, 7, 102, None, 50.0, "late"),
    (7, 8, 104, at("2026-05-02T08:00"), 700.0, "late"),  # after Bo's
    (8, 99, None, at("2025-12-30T08:00"), 1.0, "late"),  # nobody's
]
COLUMNS = {
    "fine_id": (sa.Integer, True),
    "reader_id": (sa.Integer, False),
    "loan_id": (sa.Integer, False),
    "made_at": (sa.DateTime(timezone=True), False),
    "cents": (sa.Float, False),
    "kind": (sa.Text, False),
}
TABLE: dict[str, Any] = {
    "links": {"reader_id": "readers.reader_id", "loan_id": "loans.loan_id"},
    "erase": {"action": "delete"},
    "columns": {
        "fine_id": LINK,
        "reader_id": LINK,
        "loan_id": LINK,
        "made_at": {"role": "timestamp", "type": "timestamp", "why": "before the loan"},
        "cents": {"role": "aggregated", "type": "real", "why": "who was fined pays"},
        "kind": LINK,
    },
}
DATED = {"by": "made_at", "at": "lent_at", "bounds": [0, 1000], "why": "w"}
MEAN = {"mean": "fines.cents", **DATED}


def declare(url: str, aggregates: dict[str, Any], **changes: Any) -> Params:
    changes.setdefault("tables__fines", TABLE)
    return library.declare(url, tables__loans__aggregates=aggregates, **changes)


def fitted(url: str, aggregates: dict[str, Any], **changes: Any) -> Params:
    """As `declare`, without what no aggregate needs."""
    table = changes.pop("tables__fines", TABLE)
    if "fines.cents" not in str(aggregates) + str(changes):
        table = table | {"columns": table["columns"] | {"cents": {"role": "unused"}}}
    return declare(url, aggregates, tables__fines=table, **changes)


@pytest.fixture(params=["sqlite", "postgres", "csv", "parquet"])
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """The library with fines, as a source of each kind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(library.COLUMNS, "fines", COLUMNS)
    kind: str = request.param
    postgres = request.getfixturevalue("postgres_urls") if kind == "postgres" else None

    def made(
        aggregates: dict[str, Any], fines: list[tuple[Any, ...]] = FINES, **changes: Any
    ) -> Params:
        url = build(kind, tmp_path, rows() | {"fines": fines}, postgres)
        return fitted(url, aggregates, **changes)

    return made


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """The library with fines in SQLite, after some statements."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(library.COLUMNS, "fines", COLUMNS)

    def made(aggregates: dict[str, Any], *statements: str, **changes: Any) -> Params:
        fines = changes.pop("fines", FINES)
        (tmp_path / "library.db").unlink(missing_ok=True)
        url = build("sqlite", tmp_path, rows() | {"fines": fines}, None)
        with sqlite3.connect(tmp_path / "library.db") as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()
        return fitted(url, aggregates, **changes)

    return made


def read(params: Params) -> dict[str, list[Any]]:
    """Each aggregate of loans 101, 102 and 104; null as None."""
    with Source.open(params) as source:
        source.check(params)
        chunks = list(source.records(params, NOW))
    frame = pd.concat([c.values.assign(row=c.row_key) for c in chunks]).sort_values("row")
    return {
        name: [None if math.isnan(each) else each for each in frame[name]]
        for name in params.aggregates
    }


def test_rows_before_the_record_count_and_none_of_later_in_every_source(make: Make) -> None:
    found = read(
        make(
            {
                "fines_90": {"count": "fines", "days": 90, **DATED},
                "fined_90": {"count": "fines.cents", "days": 90, **DATED},
                "kinds_90": {"count": "fines.kind", "days": 90, **DATED},
                "sum_90": {"sum": "fines.cents", "days": 90, **DATED},
                "mean_90": {"mean": "fines.cents", "days": 90, **DATED},
                "last_90": {"latest": "fines.cents", "days": 90, **DATED},
                "mean_30": {"mean": "fines.cents", "days": 30, **DATED},
                "fines_ever": {"count": "fines", **DATED},
                "with_the_day": {"count": "fines", "days": 90, "same_day": True, **DATED},
                "of_the_loan": {"count": "fines", "of": "record", **DATED},
                "lost": {"count": "fines", "when": {"kind": ["lost", "torn"]}, **DATED},
                "paid_lost": {"sum": "fines.cents", "when": {"kind": "lost"}, **DATED},
                "yesterday": {"count": "fines", "days": 1, **DATED},
            }
        )
    )
    assert found == {
        "fines_90": [1, 4, 0],
        "fined_90": [1, 3, 0],
        "kinds_90": [1, 4, 0],
        "sum_90": [100, 900, None],
        "mean_90": [100, 300, None],
        "last_90": [100, 500, None],
        "mean_30": [100, 500, None],
        "fines_ever": [1, 4, 0],
        "with_the_day": [2, 4, 0],
        "of_the_loan": [1, 2, 0],
        "lost": [0, 2, 0],
        "paid_lost": [None, 500, None],
        "yesterday": [1, 1, 0],
    }


def test_a_window_ends_with_its_last_day(small: Make) -> None:
    fines = [(n, 7, 101, at(day), 1.0, "x") for n, day in enumerate(("2025-12-02", "2025-12-03"))]
    windows = {f"d{n}": {"count": "fines", "days": n, **DATED} for n in (28, 29, 30)}
    assert [found[0] for found in read(small(windows, fines=fines)).values()] == [0, 1, 2]


def test_earlier_records_of_the_same_person_count_and_never_the_record_itself(make: Make) -> None:
    earlier = {"why": "w", "by": "lent_at", "at": "lent_at", "bounds": [0, 90]}
    params = make(
        {
            "loans_before": {"count": "loans", **earlier},
            "small_before": {"count": "loans", "when": {"branch": 2}, **earlier},
            "days_before": {"mean": "loans.days", **earlier},
        },
    )
    assert read(params) == {  # the one past retention is absent
        "loans_before": [0, 1, 0],
        "small_before": [0, 0, 0],
        "days_before": [None, 14, None],
    }


def test_child_rows_past_their_retention_are_absent(make: Make) -> None:
    kept = TABLE | {"retention": {"days": 100, "by": "made_at"}}  # since 21 February
    assert read(make({"fines": {"count": "fines", **DATED}}, tables__fines=kept)) == {
        "fines": [0, 1, 0]
    }


def test_a_record_without_a_day_has_no_aggregate(small: Make) -> None:
    params = small(
        {"n": {"count": "fines", **DATED}},
        "UPDATE loans SET lent_at = NULL WHERE loan_id = 102",
        tables__loans__retention=None,
    )
    assert read(params)["n"][1] is None


def test_no_child_rows_at_all_are_none(make: Make) -> None:
    found = read(make({"n": {"count": "fines", **DATED}, "m": MEAN}, []))
    assert found == {"n": [0, 0, 0], "m": [None, None, None]}


def test_rows_that_point_at_a_record_need_no_day(make: Make) -> None:
    undated = {name: each for name, each in TABLE["columns"].items() if name != "made_at"}
    made = {"count": "fines", "of": "record", "bounds": [0, 9], "why": "w"}
    params = make({"n": made}, tables__fines=TABLE | {"columns": undated, "unused": ["made_at"]})
    assert read(params)["n"] == [2, 4, 1]


def test_a_row_that_points_at_anothers_record_counts_for_nobody(small: Make) -> None:
    """Else the leaving of one person would change the records of another."""
    params = small(
        {"n": {"count": "fines", "of": "record", **DATED}},
        "UPDATE fines SET reader_id = 8 WHERE fine_id = 4",
    )
    assert read(params)["n"] == [1, 1, 0]


def test_two_keys_are_never_one_text() -> None:
    """One person's key may look like another's key and a record's together."""
    person, record = (
        pd.Series(["a", "a\x1fb", "a\x1es", "a\x1f"]),
        pd.Series(["b\x1fc", "c", "", "s"]),
    )
    assert owner(person, [record]).nunique() == 4
    assert owner(pd.Series(["a\x1fb", "a"]), [pd.Series(["c", "b\x1fc"])]).nunique() == 2


def test_the_order_of_rows_and_the_size_of_chunks_decide_nothing(small: Make) -> None:
    drawn = random.Random(5)
    fines = [
        (n, 7, 101, at(f"2025-12-{1 + n % 28:02d}T0{n % 7}:00"), drawn.uniform(0, 500), "x")
        for n in range(400)
    ]
    made = {
        "sum": {"sum": "fines.cents", **DATED, "bounds": [0, 1e9]},
        "mean": MEAN,
        "latest": {"latest": "fines.cents", **DATED},
    }
    first = read(small(made, fines=fines))
    for chunk_rows in (1, 7, 1000):
        drawn.shuffle(fines)
        fines = [(n, *fine[1:]) for n, fine in enumerate(fines)]  # SQLite reads by their number
        assert read(small(made, fines=fines, source__chunk_rows=chunk_rows)) == first


def test_of_one_moment_the_greatest_value_is_the_latest(small: Make) -> None:
    moment = at("2025-12-31T10:00")
    fines = [(n, 7, 101, moment, cents, "x") for n, cents in enumerate((5.0, 7.0, None, 6.0))]
    fines.append((9, 7, 101, at("2025-12-31T09:00"), 900.0, "x"))
    assert read(small({"m": {"latest": "fines.cents", **DATED}}, fines=fines))["m"][0] == 7


@pytest.mark.parametrize("gone", [7, 8])
def test_who_leaves_changes_nobody_elses_records(small: Make, gone: int) -> None:
    made = {
        "n": {"count": "fines", **DATED},
        "m": MEAN,
        "o": {"count": "fines", "of": "record", **DATED},
    }
    params = small(made, "UPDATE fines SET reader_id = 8 WHERE fine_id IN (2, 4)")

    def others() -> list[Any]:
        with Source.open(params) as source:
            chunks = list(source.records(params, NOW))
        frame = pd.concat([c.values[list(made)].assign(who=c.subject) for c in chunks])
        return frame[frame["who"] != str(gone)].fillna(-1).values.tolist()

    before = others()
    found = traces(params, str(gone))
    outcome = erase_from_source(params, found, now=NOW)
    assert any(place.startswith("fines: ") for place in outcome.places)
    assert verify_source(params, found).result == "absent"
    assert others() == before


def test_a_person_who_is_one_record_has_the_day_of_the_snapshot(small: Make) -> None:
    loans, readers = (DECLARED["tables"][name]["columns"] for name in ("loans", "readers"))
    label = loans["returned"] | {"type": "integer", "domain": ["38", "40", "44"]}
    made = {"mean": "fines.cents", "by": "made_at", "days": 33, "bounds": [0, 900], "why": "w"}
    params = small(
        {},
        "INSERT INTO fines VALUES (9, 9, NULL, '2026-06-01T01:00:00', 800, 'today')",
        records={"table": "readers"},
        tables__loans__columns=loans | {"days": LINK, "returned": LINK},
        tables__branches__columns=DECLARED["tables"]["branches"]["columns"] | {"kind": LINK},
        tables__readers={
            "erase": {"action": "delete"},
            "columns": {
                "reader_id": readers["reader_id"],
                "shoe_size": label | {"positive": ["44"]},
            },
            "unused": ["name", "email", "born"],
            "aggregates": {
                "paid": made,
                "paid_today": made | {"same_day": True},
                "loans": {"count": "loans", "by": "lent_at", "bounds": [0, 9], "why": "w"},
            },
        },
    )
    assert read(params) == {
        "paid": [None, 700, None],
        "paid_today": [None, 700, 800],
        "loans": [2, 1, 0],
    }


def test_a_row_that_several_aggregates_are_made_of_is_counted_once(small: Make) -> None:
    cents = TABLE["columns"]["cents"] | {"bounds": [0, 400]}
    several = {
        "m": MEAN,
        "own": {**MEAN, "of": "record"},
        "late": {**MEAN, "when": {"kind": "late"}},
        "kinds": {"count": "fines", "days": 9, **DATED},
    }

    def declared(outside: str) -> Params:
        columns = TABLE["columns"] | {"cents": cents | {"outside": outside}}
        return small(several, tables__fines=TABLE | {"columns": columns})

    params = declared("null")
    with Source.open(params) as source:
        children = source.children(params, NOW)
    assert dict(children.undated) == {"fines.made_at": 1}
    assert dict(children.outside) == {"fines.cents": 3}
    with pytest.raises(ValueOutsideDomain, match=r"fines\.cents \(3\)"):
        read(declared("reject"))


def test_values_are_held_to_the_columns_own_declaration(small: Make) -> None:
    cents = TABLE["columns"]["cents"] | {"bounds": [0, 400]}

    def with_cents(**more: Any) -> Params:
        columns = TABLE["columns"] | {"cents": cents | more}
        return small({"m": MEAN}, tables__fines=TABLE | {"columns": columns})

    with pytest.raises(ValueOutsideDomain, match=r"fines\.cents \(3\)"):
        read(with_cents())
    assert read(with_cents(outside="null"))["m"][1] == 200
    assert read(with_cents(outside="clip"))["m"][1] == pytest.approx((100 + 300 + 400) / 3)
    assert read(with_cents(outside="null", missing=["300"]))["m"][1] == 100


@pytest.mark.parametrize(
    ("statement", "error", "said"),
    [
        ("UPDATE fines SET made_at = 'soon'", ValueOutsideDomain, r"fines\.made_at \(aggregates\)"),
        ("UPDATE fines SET cents = 9e999", NotFinite, r"fines\.cents"),
        ("UPDATE fines SET cents = 'much'", ValueOutsideDomain, r"fines\.cents \(7\)"),
        (
            "UPDATE fines SET reader_id = 'x' || reader_id",
            SchemaMismatch,
            r"fines\.reader_id holds",
        ),
    ],
)
def test_what_cannot_be_read_is_named_and_never_shown(
    small: Make, statement: str, error: type[Exception], said: str
) -> None:
    untyped = "CREATE TABLE fines2 AS SELECT * FROM fines"
    loose = "CREATE TABLE fines (fine_id, reader_id, loan_id, made_at, cents, kind)"
    params = small(
        {"m": MEAN},
        untyped,
        "DROP TABLE fines",
        loose,
        "INSERT INTO fines SELECT * FROM fines2",
        "DROP TABLE fines2",
        statement,
    )
    with pytest.raises(error, match=said) as caught:
        read(params)
    assert "soon" not in str(caught.value) and "much" not in str(caught.value)


def test_nan_of_a_database_is_refused_by_its_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_urls: Callable[[], str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(library.COLUMNS, "fines", COLUMNS)
    fines = [(1, 7, 101, at("2025-12-31"), math.nan, "late")]
    url = build("postgres", tmp_path, rows() | {"fines": fines}, postgres_urls)
    with pytest.raises(NotFinite, match=r"'fines\.cents' has 1 values that are NaN"):
        read(declare(url, {"m": MEAN}))


def test_a_sum_beyond_every_number_is_refused_where_it_is_made(small: Make) -> None:
    params = small({"s": {"sum": "fines.cents", **DATED}}, "UPDATE fines SET cents = 1.7e308")
    assert read(params)["s"][1] == math.inf  # which minimize refuses, as any infinite number


def test_rows_whose_time_is_over_name_whose_records_they_were_in(small: Make) -> None:
    kept = TABLE | {"retention": {"days": 20, "by": "made_at"}}
    params = small({"n": {"count": "fines", **DATED}}, tables__fines=kept)
    assert look_for_expired(params, as_of=NOW).keys == {"7", "8"}
    without = small({}, tables__fines=kept)
    assert look_for_expired(without, as_of=NOW).keys == {"7"}  # by a loan past its retention


def test_a_model_takes_an_aggregate_as_a_number_within_its_bounds(small: Make) -> None:
    encoder = Encoder.from_params(small({"n": {"count": "fines", **DATED}, "m": MEAN}))
    assert {"n", "m"} <= set(encoder.features)
    assert encoder.features["n"].limits == (0, 1000)
    assert (encoder.features["n"].type, encoder.features["m"].type) == ("integer", "real")


def test_a_name_that_a_column_has_elsewhere_is_qualified(small: Make) -> None:
    params = small({"rank": {"count": "fines", **DATED}, "born": MEAN, "m": MEAN})
    assert list(params.aggregates) == ["loans.rank", "loans.born", "m"]
    assert read(params)["loans.rank"] == [1, 4, 0]


def _refused() -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    yield {"n": {**DATED}}, {}, "exactly one of count, sum, mean, latest"
    yield {"n": {**MEAN, "count": "fines"}}, {}, "exactly one of"
    yield {"n": {"mean": "fines", **DATED}}, {}, "mean takes TABLE.COLUMN"
    yield {"n": {"count": "fins", **DATED}}, {}, "did you mean 'fines'"
    yield {"n": {"count": "readers", **DATED}}, {}, "one row a person"
    yield {"n": {"count": "branches", **DATED}}, {}, "whose its rows are, so no erasure"
    yield {"n": {"mean": "fines.kind", **DATED}}, {}, "mean needs numbers"
    yield {"n": {"mean": "fines.made_at", **DATED}}, {}, "mean needs numbers"
    yield {"n": {"mean": "fines.cent", **DATED}}, {}, "did you mean 'cents'"
    yield {"n": {"count": "readers.name", **DATED}}, {}, "one row a person"
    yield {"n": {"count": "loans.remark", **DATED}}, {}, "not declared as a column that is read"
    yield {"n": MEAN | {"bounds": [5, 5]}}, {}, "finite rising"
    yield {"n": MEAN | {"bounds": None}}, {}, "bounds"
    yield {"n": {k: v for k, v in MEAN.items() if k != "bounds"}}, {}, "bounds' is missing"
    yield {"n": MEAN | {"why": " "}}, {}, "needs `why`"
    yield {"n": MEAN | {"by": None, "at": None}}, {}, "no row of after the record"
    yield {"n": MEAN | {"by": None}}, {}, "need `by`"
    yield {"n": MEAN | {"by": "kind"}}, {}, "must be a timestamp column of 'fines'"
    yield {"n": MEAN | {"at": "days"}}, {}, "must be a timestamp column of 'loans'"
    yield {"n": MEAN | {"at": None}}, {}, "say with `at`"
    yield {"n": MEAN | {"days": 0}}, {}, "days"
    yield {"n": MEAN | {"when": {"colour": "red"}}}, {}, "not declared as a column that is read"
    yield {"n": MEAN | {"when": {"kind": ""}}}, {}, "needs a value"
    yield {"n": MEAN | {"within": 3}}, {}, "unknown key"
    yield {"days": MEAN}, {}, "columns of that name"
    yield {"a b": MEAN}, {}, "letters, digits"
    earlier = {"count": "loans", **DATED, "by": "lent_at"}
    yield {"n": earlier | {"same_day": True}}, {}, "counted for itself"
    yield {"n": earlier | {"of": "record"}}, {}, "of: record, but no chain"
    yield {"n": {"count": "answers", "of": "record", **DATED}}, {}, "of: record, but no chain"
    yield {"n": {"count": "fines", **DATED}}, {}, "role aggregated, but no aggregate"
    unlinked = TABLE | {"about": "nobody", "links": {}}
    yield {"n": MEAN}, {"tables__fines": unlinked}, "so no erasure would find"
    yield {"n": MEAN}, {"tables__fines": TABLE | {"links": {}}}, "no chain of links leads"
    text = TABLE["columns"] | {"cents": TABLE["columns"]["cents"] | {"type": "text"}}
    yield {"n": MEAN}, {"tables__fines": TABLE | {"columns": text}}, "of numbers"
    elsewhere = DECLARED["tables"]["answers"] | {"aggregates": {"n": MEAN}}
    yield {}, {"tables__answers": elsewhere}, "belong to the records' table 'loans'"


@pytest.mark.parametrize(("aggregates", "changes", "said"), [*_refused()])
def test_what_cannot_be_an_aggregate_is_refused_with_what_to_do(
    aggregates: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ParamsInvalid, match=said):
        declare("sqlite:///x.db", aggregates, **changes)


def test_a_day_is_the_one_that_was_written(small: Make) -> None:
    """In UTC this fine would be of the loan's day, or of the day after."""
    fines = [(1, 7, 101, dt.datetime(2025, 12, 31, 23, 30), 1.0, "x")]
    params = small(
        {"n": {"count": "fines", "days": 1, **DATED}},
        "UPDATE fines SET made_at = '2025-12-31T23:30:00-09:00'",
        fines=fines,
    )
    assert read(params)["n"][0] == 1
