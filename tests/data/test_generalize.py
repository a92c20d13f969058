import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from lethe.config.tables import Column, Generalization
from lethe.core.errors import NotFinite, ParamsInvalid, ValueOutsideDomain
from lethe.core.values import parse_times
from lethe.data.generalize import generalize, icd9_group


def column(**declared: Any) -> Column:
    if "generalize" in declared:
        declared["generalize"] = Generalization(**declared["generalize"])
    return Column(**{"role": "feature", "why": "tested"} | declared)


def one(
    values: Any, declared: Column, *, at: Any = None, count_only: bool = False
) -> tuple[list[Any], int, int]:
    """Values, outside and missing of a single column; missing values as None."""
    series = values if isinstance(values, pd.Series) else pd.Series(values, dtype=object)
    stamps = None if at is None else {"x": pd.Series(at, dtype=object)}
    made = generalize(
        pd.DataFrame({"x": series}), {"x": declared}, at=stamps, count_only=count_only
    )
    found = made.frame["x"].astype(object)
    return found.where(found.notna(), None).tolist(), made.outside["x"], made.missing["x"]


CATEGORY = column(type="category", domain=("1", "2"), outside="null", missing=("?",))


@pytest.mark.parametrize("spelling", [1, 1.0, "1", " 1", "1  ", np.int64(1), Decimal("1")])
def test_a_category_may_arrive_as_a_number_or_padded(spelling: Any) -> None:
    assert one([spelling, None], CATEGORY) == (["1", None], 0, 1)


def test_a_declared_missing_value_is_missing_and_not_outside() -> None:
    assert one(["?", " ?", None, "2"], CATEGORY) == ([None, None, None, "2"], 0, 3)


def test_an_unknown_category_is_null_and_counted() -> None:
    assert one(["3", "1"], CATEGORY) == ([None, "1"], 1, 0)


def test_the_word_none_is_a_category_like_any_other() -> None:
    declared = column(type="category", domain=("None", "Norm"))
    assert one(["None", "Norm", None], declared) == (["None", "Norm", None], 0, 1)


def test_a_value_outside_is_refused_by_column_and_count_and_never_shown() -> None:
    raw = pd.DataFrame({"a": ["1", "hunter2", "hunter2"], "b": [5, 99, 5]})
    declared = {
        "a": column(type="category", domain=("1",)),
        "b": column(type="integer", bounds=(0, 10)),
    }
    with pytest.raises(ValueOutsideDomain, match=r"a \(2\), b \(1\)") as caught:
        generalize(raw, declared)
    assert "hunter2" not in str(caught.value) and "99" not in str(caught.value)


def test_counting_only_nulls_what_would_be_refused() -> None:
    raw = pd.DataFrame({"a": ["1", "x"]})
    made = generalize(raw, {"a": column(type="category", domain=("1",))}, count_only=True)
    assert made.rejected == {"a": 1}
    assert made.frame["a"].isna().tolist() == [False, True]


def test_the_input_is_untouched_and_the_index_kept() -> None:
    raw = pd.DataFrame({"x": [1, 99]}, index=[10, 20])
    before = raw.copy()
    made = generalize(raw, {"x": column(type="integer", bounds=(0, 10), outside="clip")})
    pd.testing.assert_frame_equal(raw, before)
    assert made.frame.index.tolist() == [10, 20]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, None], ["false", "true", None]),
        ([False, True], ["false", "true"]),
        (["f", "t", "False", "TRUE", "0", "1"], ["false", "true"] * 3),
        ([0.0, 1.0], ["false", "true"]),
    ],
)
def test_booleans_of_every_spelling(values: list[Any], expected: list[Any]) -> None:
    assert one(values, column(type="boolean"))[0] == expected


NUMBER = {"type": "real", "bounds": (0.0, 10.0)}


@pytest.mark.parametrize(
    ("outside", "expected"), [("clip", [0.0, 10.0, 5.0, None]), ("null", [None, None, 5.0, None])]
)
def test_numbers_beyond_bounds_follow_the_policy(outside: str, expected: list[Any]) -> None:
    declared = column(**NUMBER, outside=outside)
    assert one(["-3", 11, 5.0, None], declared) == (expected, 2, 1)
    native = pd.Series([-3.0, 11.0, 5.0, np.nan])  # the fast path for numeric dtypes
    assert one(native, declared) == (expected, 2, 1)


def test_both_bounds_are_inside() -> None:
    assert one([0, 10], column(**NUMBER)) == ([0.0, 10.0], 0, 0)


@pytest.mark.parametrize("text", ["abc", "", "1_0", "nan"])
def test_text_that_is_no_number_is_outside_even_when_clipping(text: str) -> None:
    assert one([text], column(**NUMBER, outside="clip")) == ([None], 1, 0)


def test_a_fraction_is_no_integer() -> None:
    declared = column(type="integer", bounds=(0, 10), outside="null")
    assert one([3.0, "4", 3.5], declared) == ([3.0, 4.0, None], 1, 0)


@pytest.mark.parametrize("infinite", [np.inf, "-inf", "1e999", Decimal("Infinity")])
def test_an_infinite_number_is_refused_whatever_the_policy(infinite: Any) -> None:
    with pytest.raises(NotFinite, match="'x' has 1 infinite"):
        one([infinite, 1.0], column(**NUMBER, outside="clip"))


def test_a_declared_missing_number_is_missing_in_every_spelling() -> None:
    declared = column(**NUMBER, missing=("999", "?"))
    assert one([999, "999", 999.0, "?", 5], declared) == ([None] * 4 + [5.0], 0, 4)
    assert one(pd.Series([999.0, 5.0]), declared) == ([None, 5.0], 0, 1)


BINS = {"type": "integer", "generalize": {"bins": (0, 30, 60)}}


def test_bins_are_half_open() -> None:
    assert one([0, 29, 30, 59], column(**BINS))[0] == ["[0,30)", "[0,30)", "[30,60)", "[30,60)"]


def test_what_is_in_no_bin_follows_the_policy() -> None:
    values = [-1, 60, 61, 5]
    clipped = column(**BINS, outside="clip")
    nulled = column(**BINS, outside="null")
    assert one(values, clipped) == (["[0,30)", "[30,60)", "[30,60)", "[0,30)"], 3, 0)
    assert one(values, nulled) == ([None, None, None, "[0,30)"], 3, 0)
    with pytest.raises(ValueOutsideDomain):
        one(values, column(**BINS))


def test_bottom_and_top_coding_is_no_fault_of_the_value() -> None:
    declared = column(type="integer", generalize={"bottom": 1, "top": 9})
    assert one([0, 1, 9, 12, None], declared) == ([1.0, 1.0, 9.0, 9.0, None], 0, 1)


def test_groups_take_their_members_and_others_the_rest() -> None:
    groups = {"type": "category", "generalize": {"groups": {"low": ("1", "2")}, "others": "rest"}}
    assert one([1, "2", "77"], column(**groups))[0] == ["low", "low", "rest"]
    known = column(**groups, domain=("1", "2", "3"), outside="null")
    assert one(["3", "77"], known) == (["rest", None], 1, 0)
    closed = column(type="category", generalize={"groups": {"low": ("1",)}}, outside="null")
    assert one(["1", "77"], closed) == (["low", None], 1, 0)


def test_a_prefix_is_upper_case_and_of_the_domain() -> None:
    declared = column(
        type="category", generalize={"prefix": 2}, domain=("AB", "CD"), outside="null"
    )
    assert one(["ab1 2cd", "CDX", "zz9"], declared) == (["AB", "CD", None], 1, 0)


@pytest.mark.parametrize(
    ("group", "codes"),
    [
        # Strack et al. (2014), doi:10.1155/2014/781670, table 2; edges of each range
        ("circulatory", ["390", "459.9", "785", "428.0"]),
        ("respiratory", ["460", "519", "786.2"]),
        ("digestive", ["520", "579", "787"]),
        ("diabetes", ["250", "250.83", "250.01"]),
        ("injury", ["800", "999"]),
        ("musculoskeletal", ["710", "739"]),
        ("genitourinary", ["580", "629", "788"]),
        ("neoplasms", ["140", "239"]),
        ("other", ["001", "8", "251", "249", "240", "389", "630", "709", "740", "784", "789"]),
        ("other", ["V57", "E909", "v58.1", "e812"]),
    ],
)
def test_icd9_codes_become_the_groups_of_the_paper(group: str, codes: list[str]) -> None:
    assert [icd9_group(code) for code in codes] == [group] * len(codes)
    declared = column(type="category", generalize={"icd9": True})
    assert one(codes, declared)[0] == [group] * len(codes)


def test_what_is_no_icd9_code_is_outside() -> None:
    declared = column(type="category", generalize={"icd9": True}, outside="null")
    assert one(["I10", "1234", "x", 250.83], declared) == ([None, None, None, "diabetes"], 3, 0)


def test_a_date_becomes_its_year() -> None:
    declared = column(type="date", generalize={"year": True}, bounds=(1900, 2030))
    values = [dt.date(1990, 12, 31), "1990-01-01", dt.datetime(1991, 1, 1), None]
    assert one(values, declared) == ([1990.0, 1990.0, 1991.0, None], 0, 1)


@pytest.mark.parametrize(
    ("born", "at", "years"),
    [
        ("1990-06-02", "2026-06-01", 35),  # the day before
        ("1990-06-02", "2026-06-02", 36),  # the birthday
        ("2000-02-29", "2026-02-28", 25),
        ("2000-02-29", "2026-03-01", 26),
        (dt.date(1990, 6, 2), dt.datetime(2026, 6, 2, 0, 30, tzinfo=dt.UTC), 36),
        # half past midnight in Tokyo, still the day before in UTC, is the day that was written
        ("1990-06-02", "2026-06-02T00:30:00+09:00", 36),
        ("1990-03-01", "2020-03-01T00:30:00+01:00", 30),
        ("1990-03-01T23:30:00-05:00", "2020-03-01", 30),
        ("19900301", "20200301T003000+0100", 30),
    ],
)
def test_a_birth_date_becomes_whole_years(born: Any, at: Any, years: int) -> None:
    declared = column(type="date", generalize={"age_at": "seen"}, bounds=(0, 120))
    assert one([born], declared, at=[at]) == ([float(years)], 0, 0)


def test_an_age_may_be_binned_and_a_birth_after_the_record_is_outside() -> None:
    declared = column(
        type="date", generalize={"age_at": "seen", "bins": (0, 18, 120)}, outside="null"
    )
    born = ["2020-01-01", "1990-01-01", "2027-01-01", None, "1990-01-01", "soon"]
    at = ["2026-01-01"] * 4 + [None, "2026-01-01"]
    found = one(born, declared, at=at)
    assert found == (["[0,18)", "[18,120)", None, None, None, None], 2, 2)


def test_a_birth_a_day_after_the_record_is_no_age_even_when_clipping() -> None:
    declared = column(type="date", generalize={"age_at": "seen"}, bounds=(0, 120), outside="clip")
    assert one(["2026-06-02", "1850-01-01"], declared, at=["2026-06-01"] * 2) == (
        [None, 120.0],
        2,
        0,
    )


def test_an_age_needs_its_timestamp() -> None:
    declared = column(type="date", generalize={"age_at": "seen"}, bounds=(0, 120))
    with pytest.raises(ParamsInvalid, match="'x' becomes an age at 'seen'"):
        one(["1990-01-01"], declared)


def test_text_passes_as_it_is() -> None:
    declared = Column(role="text", scrub="presidio", why="w", missing=("n/a",))
    assert one(["Ada said", None, "n/a"], declared) == (["Ada said", None, None], 0, 2)


def test_an_empty_frame_keeps_its_columns_and_types() -> None:
    declared = {"a": CATEGORY, "b": column(**NUMBER), "c": column(**BINS)}
    made = generalize(pd.DataFrame({"a": [], "b": [], "c": []}, dtype=object), declared)
    assert made.frame.dtypes.astype(str).to_dict() == {"a": "str", "b": "float64", "c": "str"}


def test_an_absent_column_is_named() -> None:
    with pytest.raises(ParamsInvalid, match="'x'"):
        generalize(pd.DataFrame({"y": [1]}), {"x": CATEGORY})


def test_times_of_every_spelling_are_utc() -> None:
    values = [
        "2026-01-01",
        dt.date(2026, 1, 1),
        dt.datetime(2026, 1, 1),
        "2026-01-01T09:00:00+09:00",
        "2026-01-01 00:00:00Z",
        "2026-01-01 00:00:00.000000",
        pd.Timestamp("2026-01-01T02:00+02:00"),
    ]
    found = parse_times(pd.Series(values, dtype=object))
    assert found.eq(pd.Timestamp("2026-01-01", tz="UTC")).all()
    assert str(found.dtype) == "datetime64[us, UTC]"


@pytest.mark.parametrize(
    ("value", "zone", "year"),
    [
        ("2020-01-01T00:30:00+01:00", "UTC", 2020.0),
        ("2019-12-31T23:30:00-05:00", "UTC", 2019.0),
        (dt.datetime(2019, 12, 31, 23, 30, tzinfo=dt.UTC), "Europe/Berlin", 2020.0),
        (dt.datetime(2019, 12, 31, 23, 30, tzinfo=dt.UTC), "UTC", 2019.0),
        (dt.datetime(2019, 12, 31, 23, 30), "Europe/Berlin", 2019.0),
    ],
)
def test_a_year_is_that_of_the_day_as_written(value: Any, zone: str, year: float) -> None:
    declared = column(type="timestamp", generalize={"year": True}, bounds=(1900, 2030))
    raw = pd.DataFrame({"x": pd.Series([value], dtype=object)})
    assert generalize(raw, {"x": declared}, zone=zone).frame["x"].tolist() == [year]


def test_a_format_may_be_declared_and_what_is_not_of_it_is_outside() -> None:
    declared = column(
        type="date",
        generalize={"year": True},
        bounds=(1900, 2030),
        format="%d/%m/%Y",
        outside="null",
    )
    values = ["31/12/1990", "29/02/2023", "1990-12-31", "12/31/1990"]
    assert one(values, declared) == ([1990.0, None, None, None], 3, 0)


@pytest.mark.parametrize("zone", ["Mars/Base", "", "../UTC"])
def test_a_zone_that_is_none_is_refused(zone: str) -> None:
    with pytest.raises(ValidationError, match="time zone"):
        column(type="date", bounds=(0, 1), time_zone=zone)


@pytest.mark.parametrize("form", ["%Q", "dd/mm/yyyy", "%d/%m/%", "%d %Z"])
def test_a_format_of_unknown_codes_is_refused(form: str) -> None:
    with pytest.raises(ValidationError, match="format"):
        column(type="date", bounds=(0, 1), format=form)


def test_a_time_without_a_zone_is_of_the_one_that_is_declared() -> None:
    read = pd.Series(["2026-07-01 02:00", "2026-01-01T01:00", "2026-10-25 02:30"], dtype=object)
    assert parse_times(read, zone="Europe/Berlin").tolist() == [
        pd.Timestamp("2026-07-01", tz="UTC"),
        pd.Timestamp("2026-01-01", tz="UTC"),
        pd.Timestamp("2026-10-25T00:30", tz="UTC"),  # the first of the two
    ]


@pytest.mark.parametrize(
    "text",
    [
        *("2023-02-29", "29/02/2024", "2023-02-30T00:00:00", "1698796800", "2023-11-31"),
        *("20230230", "2023-11-01T25:00", "2023-11-01+01:00", "\u0662023-11-01", "2023-W44-3"),
    ],
)
def test_a_day_that_the_calendar_has_not_is_no_time(text: str) -> None:
    assert parse_times(pd.Series([text, 1698796800], dtype=object)).isna().all()


def test_basic_iso_8601_is_read() -> None:
    read = pd.Series(["20231101T000000Z", "20231101", "20231101T0100+01"], dtype=object)
    assert parse_times(read).dt.date.eq(dt.date(2023, 11, 1)).all()


def test_what_is_no_time_is_null() -> None:
    found = parse_times(pd.Series(["soon", 1767225600, None, "2026-13-01"], dtype=object))
    assert found.isna().all()
