"""validate: data that breaks its declarations stops the pipeline, without its values."""

import copy
import datetime as dt
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyroaring import BitMap

from lethe.config.params import Params, parse_params
from lethe.config.workspace import SHARDS, SUBJECTS, shard_name
from lethe.core.errors import FileDamaged, NotFound, ValidationFailed

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)


def run(params: Params, *, now: dt.datetime) -> dict[str, Any]:
    """The stage; imported here, since who only collects the tests need not wait for its imports."""
    from lethe.stages import validate

    return validate.run(params, now=now)


DECLARED: dict[str, Any] = {
    "purpose": "readmission",
    "source": {"url": "sqlite:///clinic.db"},
    "subject": {"table": "patients", "key": "patient_id", "minimum": 3},
    "records": {"table": "stays"},
    "shards": 2,
    "tables": {
        "patients": {
            "erase": {"action": "delete"},
            "columns": {"patient_id": {"role": "subject_key", "why": "joins"}},
        },
        "stays": {
            "links": {"patient_id": "patients.patient_id"},
            "erase": {"action": "delete"},
            "columns": {
                "patient_id": {"role": "link"},
                "ward": {
                    "role": "feature",
                    "type": "category",
                    "domain": ["north", "south", "73211009"],  # a public code, long as it is
                    "why": "w",
                },
                "days": {"role": "feature", "type": "integer", "bounds": [1, 14], "why": "w"},
                "note": {"role": "text", "scrub": "presidio", "why": "w"},
                "returned": {"role": "label", "type": "boolean", "why": "predicted"},
            },
        },
        "answers": {
            "links": {"patient_id": "patients.patient_id"},
            "erase": {"action": "delete"},
            "columns": {
                "patient_id": {"role": "link"},
                "purpose": {"role": "consent"},
                "answer": {"role": "consent"},
                "at": {"role": "consent", "type": "timestamp"},
            },
        },
    },
    "consent": {
        "table": "answers",
        "subject": "patient_id",
        "purpose": "purpose",
        "answer": "answer",
        "time": "at",
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
    "validation": {"max_missing_share": 0.4, "max_records_per_subject": 2},
    "audit": {},
    "registration": {"name": "readmission"},
}
SCHEMA = pa.schema(
    {
        "token": pa.uint32(),
        "held_out": pa.bool_(),
        "rank": pa.int32(),
        "ward": pa.string(),
        "days": pa.float64(),
        "note": pa.string(),
        "returned": pa.string(),
    }
)
Shards = list[pd.DataFrame]


def sound() -> Shards:
    """Four people in two shards, five records, two values missing."""
    names = SCHEMA.names
    return [
        pd.DataFrame(
            [
                (7, False, 0, "north", 3.0, "came on foot", "true"),
                (7, False, 1, "73211009", 14.0, None, "false"),
                (9, True, 0, "south", 1.0, "returned 2024-01-31 10:30", "false"),
            ],
            columns=names,
        ),
        pd.DataFrame(
            [
                (2, False, 0, "north", None, "<PERSON> came at 8", "true"),
                (5, False, 0, "south", 2.0, "pulse 72, pressure 120/80", "false"),
            ],
            columns=names,
        ),
    ]


def declared(edit: Callable[[dict[str, Any]], object] = lambda raw: None) -> Params:
    raw = copy.deepcopy(DECLARED)
    edit(raw)
    return parse_params(raw)


def write(shards: Shards, schema: pa.Schema | None = SCHEMA) -> None:
    shutil.rmtree(SHARDS, ignore_errors=True)
    SHARDS.mkdir(parents=True)
    tokens: set[int] = set()
    for number, shard in enumerate(shards):
        written = pa.Table.from_pandas(shard, schema=schema, preserve_index=False)
        pq.write_table(written, SHARDS / shard_name(number))
        if "token" in shard:
            tokens |= set(shard["token"].dropna().astype(int))
    SUBJECTS.write_bytes(BitMap(tokens).serialize())


def failures(params: Params | None = None) -> set[str]:
    """Names of the expectations that fail; checks that report and error agree."""
    with pytest.raises(ValidationFailed) as refused:
        run(params or declared(), now=NOW)
    report = json.loads(Path("reports/validate.json").read_text())
    assert report["passed"] is False
    failed = {
        f"{each['name'].removeprefix('expect_')}({each['column']})"
        for each in report["expectations"]
        if not each["success"]
    }
    for name in failed:
        assert name.removesuffix("(None)") in str(refused.value)
    return failed


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_sound_shards_pass_and_the_report_names_what_was_asked() -> None:
    write(sound())
    report = run(declared(), now=NOW)
    assert report == json.loads(Path("reports/validate.json").read_text())
    assert report["passed"] is True
    asked = {
        (each["name"].removeprefix("expect_"), each["column"]) for each in report["expectations"]
    }
    assert asked == {
        ("table_columns_to_match_ordered_list", None),
        ("compound_columns_to_be_unique", None),
        ("column_values_to_not_be_null", "token"),
        ("column_values_to_be_of_type", "token"),
        ("column_values_to_be_between", "token"),
        ("column_values_to_not_be_null", "held_out"),
        ("column_values_to_be_of_type", "held_out"),
        ("column_values_to_not_be_null", "rank"),
        ("column_values_to_be_of_type", "rank"),
        ("column_values_to_be_between", "rank"),
        ("column_values_to_be_in_set", "ward"),
        ("column_values_to_not_match_regex", "ward"),
        ("column_values_to_be_of_type", "days"),
        ("column_values_to_be_between", "days"),
        ("column_values_to_not_match_regex", "note"),
        ("column_values_to_be_in_set", "returned"),
        ("column_values_to_not_match_regex", "returned"),
        ("column_values_to_not_be_null", "returned"),
        ("column_values_to_be_between", "subjects"),
        ("column_values_to_be_between", "subjects_in_several_shards"),
        ("column_values_to_be_between", "subjects_held_out_and_not"),
        ("column_values_to_be_between", "subjects_not_as_listed"),
        ("column_values_to_be_between", "records_per_subject"),
        ("column_values_to_be_between", "missing_share ward"),
        ("column_values_to_be_between", "missing_share days"),
        ("column_values_to_be_between", "missing_share note"),
        ("column_values_to_be_between", "missing_share returned"),
    }


def set_value(column: str, value: Any) -> Callable[[Shards], None]:
    def change(shards: Shards) -> None:
        shards[1][column] = shards[1][column].astype(object)
        shards[1].loc[1, column] = value

    return change


def copy_to_other_shard(shards: Shards) -> None:
    shards[1] = pd.concat([shards[1], shards[0].iloc[[2]]], ignore_index=True)


def duplicate_record(shards: Shards) -> None:
    shards[1] = pd.concat([shards[1], shards[1].iloc[[0]]], ignore_index=True)


def third_record(shards: Shards) -> None:
    shards[0] = pd.concat([shards[0], shards[0].iloc[[0]].assign(rank=2)], ignore_index=True)


def half_held_out(shards: Shards) -> None:
    shards[0].loc[1, "held_out"] = True


def fewer_people(shards: Shards) -> None:
    shards[1] = shards[1].iloc[:0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (set_value("ward", "west"), {"column_values_to_be_in_set(ward)"}),
        (
            set_value("ward", "eve@example.org"),
            {"column_values_to_be_in_set(ward)", "column_values_to_not_match_regex(ward)"},
        ),
        (set_value("days", 15.0), {"column_values_to_be_between(days)"}),
        (set_value("days", 0.5), {"column_values_to_be_between(days)"}),
        (set_value("days", float("inf")), {"column_values_to_be_between(days)"}),
        (set_value("days", float("-inf")), {"column_values_to_be_between(days)"}),
        (set_value("returned", "maybe"), {"column_values_to_be_in_set(returned)"}),
        (set_value("returned", None), {"column_values_to_not_be_null(returned)"}),
        (set_value("rank", -1), {"column_values_to_be_between(rank)"}),
        (set_value("token", 2**32 - 1), {
            "column_values_to_be_between(token)",
            "column_values_to_be_between(subjects_not_as_listed)",
        }),
        (set_value("note", "call 0151 555 01234"), {"column_values_to_not_match_regex(note)"}),
        (half_held_out, {"column_values_to_be_between(subjects_held_out_and_not)"}),
        (third_record, {"column_values_to_be_between(records_per_subject)"}),
        (copy_to_other_shard, {
            "compound_columns_to_be_unique(None)",
            "column_values_to_be_between(subjects_in_several_shards)",
        }),
        (duplicate_record, {"compound_columns_to_be_unique(None)"}),
        (fewer_people, {"column_values_to_be_between(subjects)"}),
    ],
)  # fmt: skip
def test_broken_value_fails_its_expectation_and_no_other(
    change: Callable[[Shards], None], expected: set[str]
) -> None:
    shards = sound()
    change(shards)
    write(shards)
    assert failures() == expected


def test_person_in_two_shards_is_seen_even_if_no_two_rows_meet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lethe.stages.validate._BATCH_ROWS", 1)
    shards = sound()
    copy_to_other_shard(shards)
    shards[1].loc[2, "rank"] = 1
    write(shards)
    assert failures() == {"column_values_to_be_between(subjects_in_several_shards)"}


@pytest.mark.parametrize("batch_rows", [1, 200_000])
def test_failure_in_the_first_shard_is_not_forgotten_at_the_last(
    monkeypatch: pytest.MonkeyPatch, batch_rows: int
) -> None:
    monkeypatch.setattr("lethe.stages.validate._BATCH_ROWS", batch_rows)
    shards = sound()
    shards[0].loc[0, "ward"] = "west"
    write(shards)
    assert failures() == {"column_values_to_be_in_set(ward)"}


def test_missing_share_counts_over_all_shards() -> None:
    shards = sound()  # days: one of five is missing
    shards[0].loc[0, "days"] = float("nan")
    write(shards)
    assert run(declared(), now=NOW)["passed"]  # 2 of 5 is the limit
    shards[0].loc[1, "days"] = float("nan")
    write(shards)
    assert failures() == {"column_values_to_be_between(missing_share days)"}


def test_limit_of_records_that_is_not_declared_is_not_asked() -> None:
    shards = sound()
    third_record(shards)
    write(shards)
    assert run(declared(lambda raw: raw["validation"].pop("max_records_per_subject")), now=NOW)


@pytest.mark.parametrize("shard", [0, 1])
def test_undeclared_column_in_one_shard_is_refused(shard: int) -> None:
    shards = sound()
    shards = [each.astype({"token": "uint32", "rank": "int32"}) for each in shards]
    shards[shard]["full_name"] = "Eve Adams"
    write(shards, schema=None)
    assert failures() == {"table_columns_to_match_ordered_list(None)"}


def test_columns_in_another_order_are_refused() -> None:
    shards = [shard[["rank", "token", *SCHEMA.names[3:], "held_out"]] for shard in sound()]
    shards = [shard.astype({"token": "uint32", "rank": "int32"}) for shard in shards]
    write(shards, schema=None)
    assert failures() == {"table_columns_to_match_ordered_list(None)"}


@pytest.mark.parametrize("column", ["token", "held_out", "rank", "returned"])
def test_absent_column_is_refused_by_name(column: str) -> None:
    write([shard.drop(columns=column) for shard in sound()], schema=None)
    assert {
        "table_columns_to_match_ordered_list(None)",
        f"column_values_to_not_be_null({column})",
    } <= failures()


@pytest.mark.parametrize("column", ["token", "rank", "days"])
def test_column_of_another_type_is_refused(column: str) -> None:
    other = {"token": pa.int64(), "rank": pa.int64(), "days": pa.float32()}[column]
    position = SCHEMA.get_field_index(column)
    write(sound(), schema=SCHEMA.set(position, pa.field(column, other)))
    assert failures() == {f"column_values_to_be_of_type({column})"}


def test_bitmap_that_lists_other_people_is_refused() -> None:
    write(sound())
    SUBJECTS.write_bytes(BitMap([2, 5, 7, 8]).serialize())
    assert failures() == {"column_values_to_be_between(subjects_not_as_listed)"}


def test_empty_shard_and_column_without_a_value_pass_where_declared() -> None:
    shards = sound()
    shards[0] = pd.concat(shards, ignore_index=True).assign(note=None)
    shards[1] = shards[1].iloc[:0]
    write(shards)
    params = declared(lambda raw: raw["validation"].update(max_missing_share=1.0))
    assert run(params, now=NOW)["passed"]


def test_neither_report_nor_error_nor_log_holds_a_value(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    shards = sound()
    shards[1] = shards[1].astype({"days": object})
    shards[1].loc[0, ["ward", "days", "note"]] = [
        "eve@example.org",
        "+49 30 5550123",
        "Eve 5550123",
    ]
    schema = SCHEMA.set(SCHEMA.get_field_index("days"), pa.field("days", pa.string()))
    shards[0] = shards[0].astype({"days": str})
    shards[1] = shards[1].astype({"days": str})
    write(shards, schema=schema)
    with caplog.at_level(logging.DEBUG), pytest.raises(ValidationFailed) as refused:
        run(declared(), now=NOW)
    assert [each for each in caplog.records if each.name.startswith("great_expectations")] == []
    message = str(refused.value) + Path("reports/validate.json").read_text() + caplog.text
    message += "".join(capfd.readouterr())
    assert "days" in message
    for value in ("eve@", "Eve", "5550123", "example.org"):
        assert value not in message


def test_answers_hold_no_value_even_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from great_expectations.datasource.fluent import interfaces

    answers: list[Any] = []
    batch = interfaces.Batch
    validate = batch.validate

    def kept(*arguments: Any, **options: Any) -> Any:
        answers.append(validate(*arguments, **options))
        return answers[-1]

    monkeypatch.setattr(batch, "validate", kept)
    shards = sound()
    shards[1].loc[0, "ward"] = "eve@example.org"
    write(shards)
    with pytest.raises(ValidationFailed):
        run(declared(), now=NOW)
    assert all(each.result == {} for answer in answers for each in answer.results)
    assert "eve@" not in str(answers)


def test_nothing_is_shown_while_it_works(capfd: pytest.CaptureFixture[str]) -> None:
    write(sound())
    run(declared(), now=NOW)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "value",
    [
        "eve.adams@example.org",
        "write to <eve@mail.example.co>",
        "+49 30 5550123",
        "+1 (555) 010-9999",
        "555-010-9999",
        "(555) 010-9999",
        "0151 555 0123",
        "patient 00123456",
        "219-09-9999",
        "4111 1111 1111 1111",
        "3f2b8c1e-7d4a-4e7b-9f57-0a6f3c1d2e4b",
        "9f86d081884c7d65",
        "MRN-0012345",
        "P#00123",
    ],
)
def test_identifier_looking_text_is_refused(value: str) -> None:
    shards = sound()
    shards[1].loc[0, "note"] = value
    write(shards)
    assert failures() == {"column_values_to_not_match_regex(note)"}


@pytest.mark.parametrize(
    "value",
    [
        "pulse 72, pressure 120/80, 37.5 C",
        "on 2024-01-31 at 10:30",
        "31.01.2024 and 01/31/2024",
        "<EMAIL_ADDRESS> called <PHONE_NUMBER>",
        "[1000,2000) of ICD 250.83, V27",
        "1,000,000 units",
        "COVID-19, B12, room 4711",
        "deadbeef café",
    ],
)
def test_ordinary_text_passes(value: str) -> None:
    from lethe.stages.validate import IDENTIFIERS

    assert [pattern for pattern in IDENTIFIERS if re.search(pattern, value)] == []


def test_declared_mail_address_is_refused_although_declared() -> None:
    params = declared(
        lambda raw: raw["tables"]["stays"]["columns"]["ward"]["domain"].append("eve@example.org")
    )
    shards = sound()
    shards[1].loc[0, "ward"] = "eve@example.org"
    write(shards)
    assert failures(params) == {"column_values_to_not_match_regex(ward)"}


def test_shards_or_bitmap_that_are_not_there_are_named() -> None:
    with pytest.raises(NotFound, match="lethe pseudonymize"):
        run(declared(), now=NOW)
    write(sound())
    SUBJECTS.unlink()
    with pytest.raises(NotFound, match="lethe pseudonymize"):
        run(declared(), now=NOW)
    write(sound())
    (SHARDS / "shard-0002.parquet").touch()
    with pytest.raises(NotFound, match="2 declared shards"):
        run(declared(), now=NOW)
    write(sound())
    SUBJECTS.write_bytes(b"broken")
    with pytest.raises(FileDamaged, match="is no list of people"):
        run(declared(), now=NOW)


def test_same_shards_give_the_same_report() -> None:
    write(sound())
    run(declared(), now=NOW)
    before = Path("reports/validate.json").read_bytes()
    run(declared(), now=NOW + dt.timedelta(days=1))
    assert Path("reports/validate.json").read_bytes() == before
