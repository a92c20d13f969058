"""Encoding: by declared domains alone, the same wherever the record stands."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lethe.config.tables import Column, Generalization
from lethe.core.errors import FileDamaged, NotFinite, SchemaMismatch, ValueOutsideDomain
from lethe.core.files import read_json, write_json
from lethe.data.encoding import Encoder


def column(**words: Any) -> Column:
    return Column(**({"role": "feature", "why": "a test"} | words))


WARD = column(type="category", domain=("surgery", "internal"))
STAY = column(type="integer", bounds=(0.0, 10.0))
SMOKES = column(type="boolean")
AGE = column(role="quasi_identifier", type="integer", generalize=Generalization(bins=(0, 50, 100)))
NOTE = column(role="text", scrub="presidio", buckets=4)
RETURNED = column(role="label", type="category", domain=("NO", ">30", "<30"), positive=("<30",))

ENCODER = Encoder({"ward": WARD, "stay": STAY, "smokes": SMOKES, "age": AGE}, "returned", RETURNED)


def records() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "ward": ["internal", "surgery", None],
            "stay": [10.0, 2.5, np.nan],
            "smokes": ["true", None, "false"],
            "age": ["[50,100)", "[0,50)", None],
            "returned": ["<30", "NO", ">30"],
        }
    )


def test_a_record_becomes_the_numbers_written_out_here() -> None:
    assert ENCODER.names == (
        *("ward=surgery", "ward=internal", "ward=(missing)", "stay", "stay=(missing)"),
        *("smokes=false", "smokes=true", "smokes=(missing)"),
        *("age=[0,50)", "age=[50,100)", "age=(missing)"),
    )
    encoded = ENCODER.encode(records())
    assert encoded.dtype == np.float32
    assert encoded.tolist() == [
        [0, 1, 0, 1.0, 0, 0, 1, 0, 0, 1, 0],
        [1, 0, 0, -0.5, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 1, 0.0, 1, 1, 0, 0, 0, 0, 1],
    ]


def test_a_record_alone_is_encoded_as_among_others() -> None:
    together = ENCODER.encode(records())
    alone = np.vstack([ENCODER.encode(records().iloc[[i]]) for i in range(3)])
    assert np.array_equal(together, alone)


def test_no_records_are_no_rows_of_the_declared_width() -> None:
    assert ENCODER.encode(records().iloc[:0]).shape == (0, 11)


def test_the_input_frame_is_untouched() -> None:
    frame = records()
    ENCODER.encode(frame)
    pd.testing.assert_frame_equal(frame, records())


def test_arrow_strings_and_whole_numbers_are_taken() -> None:
    frame = records().convert_dtypes()
    assert np.array_equal(ENCODER.encode(frame), ENCODER.encode(records()))


def test_text_is_hashed_by_words_whatever_their_case_and_has_length_one() -> None:
    encoder = Encoder({"note": NOTE}, "returned", RETURNED)
    frame = pd.DataFrame({"note": ["Chest pain, chest", "CHEST chest pain", "", None]})
    encoded = encoder.encode(frame)
    assert encoded.shape == (4, 4)
    assert np.array_equal(encoded[0], encoded[1])
    assert np.linalg.norm(encoded, axis=1).tolist() == pytest.approx([1, 1, 0, 0])


def test_hashes_are_the_same_on_every_machine() -> None:
    # printf pain | b2sum -l 64, read as a little-endian number: odd, and its half is 1 mod 4.
    encoder = Encoder({"note": NOTE}, "returned", RETURNED)
    assert encoder.encode(pd.DataFrame({"note": ["pain"]})).tolist() == [[0.0, 1.0, 0.0, 0.0]]


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_an_infinite_number_is_refused(bad: float) -> None:
    with pytest.raises(NotFinite, match="'stay' has 1 infinite"):
        ENCODER.encode(records().assign(stay=[1.0, bad, 2.0]))


@pytest.mark.parametrize(
    ("name", "values"),
    [("ward", ["internal", "garden", None]), ("stay", [1.0, 11.0, np.nan])],
)
def test_a_value_outside_its_domain_is_refused_without_being_shown(
    name: str, values: list[object]
) -> None:
    with pytest.raises(ValueOutsideDomain, match=f"'{name}' has 1 values outside") as caught:
        ENCODER.encode(records().assign(**{name: values}))
    assert "garden" not in str(caught.value)
    assert "11" not in str(caught.value)


def test_an_absent_column_is_refused_by_name() -> None:
    with pytest.raises(SchemaMismatch, match="'age'"):
        ENCODER.encode(records().drop(columns="age"))


def test_positive_values_make_a_label_of_zero_and_one() -> None:
    labels = ENCODER.labels(records())
    assert (labels.dtype, labels.tolist()) == (np.float32, [1.0, 0.0, 0.0])
    assert (ENCODER.outputs, ENCODER.binary) == (1, True)


def test_without_positive_values_the_label_is_a_class_in_declared_order() -> None:
    several = column(role="label", type="category", domain=("NO", ">30", "<30"))
    encoder = Encoder({"ward": WARD}, "returned", several)
    labels = encoder.labels(records())
    assert (labels.dtype, labels.tolist()) == (np.int64, [2, 0, 1])
    assert encoder.outputs == 3


def test_a_missing_label_is_refused_and_can_be_left_out_before() -> None:
    frame = records().assign(returned=["<30", None, "NO"])
    with pytest.raises(ValueOutsideDomain, match="missing in 1"):
        ENCODER.labels(frame)
    assert ENCODER.labels(ENCODER.labelled(frame)).tolist() == [1.0, 0.0]


def test_an_encoder_read_back_from_json_encodes_the_same() -> None:
    encoder = Encoder({**ENCODER.features, "note": NOTE}, "returned", RETURNED)
    read = Encoder.from_data(json.loads(json.dumps(encoder.to_data())))
    assert read == encoder
    frame = records().assign(note=["a b", None, "c"])
    assert np.array_equal(read.encode(frame), encoder.encode(frame))
    assert np.array_equal(read.labels(frame), encoder.labels(frame))


@pytest.mark.parametrize(
    ("groups", "others"),
    [
        ({"young": ("1",), "middle": ("2", "3"), "old": ("4",)}, None),
        ({"under 50": ("1",), "50 to 69": ("2",), "70 and over": ("3",)}, "unknown"),
        ({"ä": ("1",), "Z": ("2",), "a": ("3",)}, "A"),
    ],
)
def test_an_encoder_read_back_from_its_file_has_the_groups_in_one_order(
    groups: dict[str, tuple[str, ...]], others: str | None, tmp_path: Path
) -> None:
    """Files have their keys sorted, and a model's inputs are where its encoder says."""
    ward = column(type="category", generalize=Generalization(groups=groups, others=others))
    encoder = Encoder({"ward": ward}, "returned", RETURNED)
    write_json(tmp_path / "encoding.json", encoder.to_data())
    read = Encoder.from_data(read_json(tmp_path / "encoding.json"))
    assert read.names == encoder.names
    frame = pd.DataFrame({"ward": [*groups, None]})
    assert np.array_equal(read.encode(frame), encoder.encode(frame))


BORN = column(
    role="quasi_identifier",
    type="date",
    format="%d.%m.%Y",
    generalize=Generalization(age_at="seen", bins=(0, 50, 100)),
)
SEEN = column(role="timestamp", type="timestamp", format="%d/%m/%Y")


def _aged(seen: Column = SEEN, zone: str = "Europe/Berlin") -> Encoder:
    taken = {"born": ("patients", BORN), "returned": ("visits", RETURNED)}
    declared = SimpleNamespace(
        taken_columns=lambda: taken,
        age_times=lambda: {"seen": seen},
        source=SimpleNamespace(time_zone=zone),
    )
    read = Encoder.from_data(json.loads(json.dumps(Encoder.from_params(declared).to_data())))
    assert read == Encoder.from_params(declared)
    return read


def _at(encoder: Encoder, frame: pd.DataFrame) -> pd.Series:
    return encoder.ages_at(frame, encoder.features)["born"]


def test_the_times_of_ages_are_read_as_they_are_declared() -> None:
    frame = pd.DataFrame({"seen": ["03/02/2020", None]})
    found = _at(_aged(), frame)
    assert found.tolist() == [pd.Timestamp(2020, 2, 3), pd.NaT]
    moment = pd.DataFrame({"seen": [pd.Timestamp("2020-02-02T23:30Z")]})  # as a driver has it
    plain = column(role="timestamp", type="timestamp")
    elsewhere = column(role="timestamp", type="timestamp", time_zone="America/New_York")
    assert _at(_aged(plain), moment).tolist() == [pd.Timestamp(2020, 2, 3)]
    assert _at(_aged(elsewhere), moment).tolist() == [pd.Timestamp(2020, 2, 2)]
    assert _at(_aged(plain, "UTC"), moment).tolist() == [pd.Timestamp(2020, 2, 2)]


@pytest.mark.parametrize("unread", ["2020-02-03", "31/02/2020", " ", "then", 7])
def test_a_time_of_an_age_that_cannot_be_read_is_refused_and_not_shown(unread: object) -> None:
    with pytest.raises(ValueOutsideDomain, match=r"'seen' .* 1 value") as caught:
        _at(_aged(), pd.DataFrame({"seen": ["03/02/2020", unread, None]}, dtype=object))
    assert not str(unread).strip() or str(unread) not in str(caught.value).replace("%d/%m/%Y", "")


def test_an_encoding_of_the_version_before_has_no_times_and_is_read() -> None:
    data = _aged().to_data()
    older = {name: data[name] for name in ("features", "label")}
    read = Encoder.from_data(older)
    assert (read.times, read.zone) == ({}, "UTC")
    assert _at(read, pd.DataFrame({"seen": ["2020-02-03"]})).notna().all()


def test_an_encoding_in_a_zone_that_nobody_knows_is_damaged() -> None:
    with pytest.raises(FileDamaged, match="time_zone"):
        Encoder.from_data({**_aged().to_data(), "time_zone": "Nowhere/At_all"})
