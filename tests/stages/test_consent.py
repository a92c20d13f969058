"""Who is used: only people whose latest answer for this purpose, so far, is yes."""

import base64
import datetime as dt
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lethe.config import private_reports
from lethe.config.params import Params, parse_params
from lethe.config.workspace import CONSENTED, MINIMIZED, report_path, shard_name
from lethe.core.errors import (
    ConsentInvalid,
    NobodyConsents,
    NotFound,
    ParamsInvalid,
    TooFewSubjects,
)
from lethe.core.files import read_json
from lethe.people import consents
from lethe.people.consents import decisions_now, read_decisions, snapshot, willing_subjects
from lethe.people.references import Reference
from lethe.rights.intake import receive
from lethe.stages.consent import consent, left_out, run
from lethe.stores.source.purposes import sorted_out
from lethe.stores.source.read import Source
from lethe.stores.vault.vault import Vault

KEY = b"k" * 32
SNAPSHOT = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
NOW = dt.datetime(2026, 7, 1, 12, tzinfo=dt.UTC)
SCHEMA = pa.schema([("subject", pa.string()), ("rank", pa.int32()), ("dose", pa.float64())])

# What one answer can be: (purpose, answer, before the snapshot?). Capitals: before it.
KINDS = {
    "Y": ("model", "yes", True),
    "N": ("model", "no", True),
    "W": ("model", "withdrawn", True),
    "A": ("newsletter", "yes", True),
    "B": ("newsletter", "no", True),
    "C": ("newsletter", "withdrawn", True),
    "y": ("model", "yes", False),
    "n": ("model", "no", False),
    "w": ("model", "withdrawn", False),
    "a": ("newsletter", "yes", False),
    "b": ("newsletter", "no", False),
    "c": ("newsletter", "withdrawn", False),
}
# 1: is used. One answer alone, or none.
ONE = {"": 0} | dict(zip("YNWABCynwabc", map(int, "100000000000"), strict=True))
# Two answers: row is the one written first, column the one written second. Of two answers on
# the same side of the snapshot, the second is the later.
TWO = {
    #        YNWABC ynwabc
    "Y": "100111111111",
    "N": "100000000000",
    "W": "100000000000",
    "A": "100000000000",
    "B": "100000000000",
    "C": "100000000000",
    "y": "100000000000",
    "n": "100000000000",
    "w": "100000000000",
    "a": "100000000000",
    "b": "100000000000",
    "c": "100000000000",
}
# Two answers of this purpose at the same moment: yes only if nothing contradicts it.
SAME_MOMENT = {"YY": 1, "YN": 0, "YW": 0, "NY": 0, "NN": 0, "NW": 0, "WY": 0, "WN": 0, "WW": 0}
# Three of this purpose before the snapshot: the last alone decides.
THREE = {
    "YYY": 1, "YYN": 0, "YYW": 0, "YNY": 1, "YNN": 0, "YNW": 0, "YWY": 1, "YWN": 0, "YWW": 0,
    "NYY": 1, "NYN": 0, "NYW": 0, "NNY": 1, "NNN": 0, "NNW": 0, "NWY": 1, "NWN": 0, "NWW": 0,
    "WYY": 1, "WYN": 0, "WYW": 0, "WNY": 1, "WNN": 0, "WNW": 0, "WWY": 1, "WWN": 0, "WWW": 0,
}  # fmt: skip
EXPECTED: dict[str, int] = (
    {f"one-{kinds or 'none'}": used for kinds, used in ONE.items()}
    | {
        f"two-{first}{second}": int(used)
        for first, line in TWO.items()
        for second, used in zip("YNWABCynwabc", line, strict=True)
    }
    | {f"same-{kinds}": used for kinds, used in SAME_MOMENT.items()}
    | {f"three-{kinds}": used for kinds, used in THREE.items()}
)


def declared(**changes: Any) -> Params:
    feature = {"role": "feature", "type": "real", "bounds": [0, 9], "why": "test"}
    label = {"role": "label", "type": "boolean", "positive": ["true"], "why": "test"}
    raw: dict[str, Any] = {
        "purpose": "model",
        "source": {"url": "sqlite:///source.db", "chunk_rows": 7},
        "subject": {"table": "people", "key": "id", "minimum": 1},
        "records": {"table": "visits"},
        "shards": 2,
        "tables": {
            "people": {
                "columns": {"id": {"role": "subject_key", "why": "test"}},
                "erase": {"action": "delete"},
            },
            "visits": {
                "columns": {"person": {"role": "link"}, "dose": feature, "back": label},
                "links": {"person": "people.id"},
                "erase": {"action": "delete"},
            },
            "answers": {
                "columns": {
                    "person": {"role": "link"},
                    "purpose": {"role": "consent"},
                    "answer": {"role": "consent"},
                    "at": {"role": "consent", "type": "timestamp"},
                },
                "links": {"person": "people.id"},
                "erase": {"action": "delete"},
            },
        },
        "consent": {
            "table": "answers",
            "subject": "person",
            "purpose": "purpose",
            "answer": "answer",
            "time": "at",
        },
        "budget": {"epsilon": 4.0, "delta": 1e-5},
        "training": {
            "held_out": 0.2,
            "mechanism": {
                "epsilon": 1.0,
                "records_per_person": 1,
                "expected_subjects": 100,
                "sample_rate": 0.1,
                "steps": 10,
                "clip_norm": 1.0,
            },
            "optimizer": {"learning_rate": 1.0},
        },
        "audit": {},
        "validation": {},
        "registration": {"name": "test"},
    }
    return parse_params(raw | changes)


def write_source(people: list[str], answers: list[tuple[str | None, str, str | None, str]]) -> None:
    with closing(sqlite3.connect("source.db")) as connection:
        connection.execute("CREATE TABLE people (id TEXT PRIMARY KEY)")
        connection.execute("CREATE TABLE visits (person TEXT, dose REAL, back TEXT)")
        connection.execute("CREATE TABLE answers (person TEXT, purpose TEXT, answer TEXT, at TEXT)")
        connection.executemany("INSERT INTO people VALUES (?)", [(key,) for key in people])
        connection.executemany("INSERT INTO answers VALUES (?, ?, ?, ?)", answers)
        connection.commit()


def write_minimized(*shards: list[tuple[str, int, float | None]]) -> None:
    MINIMIZED.mkdir(parents=True)
    for number, rows in enumerate(shards):
        columns = [list(values) for values in zip(*rows, strict=True)] or [[], [], []]
        table = pa.table(columns, schema=SCHEMA)
        pq.write_table(table, MINIMIZED / shard_name(number))


def consented() -> list[list[tuple[Any, ...]]]:
    return [
        [tuple(row.values()) for row in pq.read_table(path).to_pylist()]
        for path in sorted(CONSENTED.iterdir())
    ]


@pytest.fixture(autouse=True)
def in_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LETHE_KEY", base64.urlsafe_b64encode(KEY).decode())


def history(person: str) -> list[tuple[str, str, str, str]]:
    """The rows of the truth table's person, in the order in which they were written."""
    how, kinds = person.split("-")
    found = []
    for place, kind in enumerate(kinds if kinds != "none" else ""):
        purpose, answer, before = KINDS[kind]
        day = (10 if before else 40) + (0 if how == "same" else place)
        at = SNAPSHOT - dt.timedelta(days=20) + dt.timedelta(days=day)
        found.append((person, purpose, answer, at.strftime("%Y-%m-%d %H:%M:%S")))
    return found


def test_truth_table_of_answers_purposes_and_times() -> None:
    write_source(list(EXPECTED), [row for person in EXPECTED for row in history(person)])
    params = declared()
    assert len(EXPECTED) == 1 + 12 + 144 + 9 + 27
    with Source.open(params) as source:
        found = read_decisions(source, params, as_of=SNAPSHOT, now=NOW)
    assert {person: int(person in found.willing) for person in EXPECTED} == EXPECTED


def test_truth_table_with_rows_in_reverse_order() -> None:
    write_source(list(EXPECTED), [row for person in EXPECTED for row in history(person)][::-1])
    params = declared()
    with Source.open(params) as source:
        found = read_decisions(source, params, as_of=SNAPSHOT, now=NOW)
    assert {person: int(person in found.willing) for person in EXPECTED} == EXPECTED


def answers(*rows: tuple[str | None, str | None, int | None]) -> pd.DataFrame:
    """(subject, answer, day of May 2026)"""
    return pd.DataFrame(
        {
            "subject": [row[0] for row in rows],
            "answer": [row[1] for row in rows],
            "time": pd.to_datetime(
                [None if row[2] is None else f"2026-05-{row[2]:02d}" for row in rows], utc=True
            ),
        }
    )


def test_latest_answer_counts_whatever_the_chunks() -> None:
    rows = [("ann", "yes", 1), ("bob", "no", 2), ("ann", "withdrawn", 5), ("bob", "yes", 9)]
    whole = willing_subjects([answers(*rows)], yes=["yes"], no=["no", "withdrawn"])
    chunked = willing_subjects(
        [answers(row) for row in reversed(rows)], yes=["yes"], no=["no", "withdrawn"]
    )
    for found in (whole, chunked):
        assert found.latest.to_dict() == {"ann": "withdrawn", "bob": "yes"}
        assert list(found.willing) == ["bob"]


def test_every_declared_yes_is_a_yes_and_two_of_them_do_not_contradict() -> None:
    found = willing_subjects(
        [answers(("ann", "ja", 1), ("ann", "yes", 1), ("bob", "ja", 1), ("bob", "nein", 1))],
        yes=["yes", "ja", "yes"],
        no=["nein", "nein"],
    )
    assert list(found.willing) == ["ann"]
    assert found.latest["bob"] == "nein"


def test_reduction_does_not_keep_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lethe.people.consents._BUFFERED_ROWS", 10)
    sizes = []
    kept = consents._latest

    def watched(frames: list[pd.DataFrame]) -> pd.DataFrame:
        sizes.append(sum(map(len, frames)))
        return kept(frames)

    monkeypatch.setattr("lethe.people.consents._latest", watched)
    chunks = (answers(("ann", "no", day % 28 + 1), ("cid", "yes", 1)) for day in range(500))
    first = answers(("bob", "yes", 1))
    found = willing_subjects([first, *chunks], yes=["yes"], no=["no"])
    assert found.latest.to_dict() == {"ann": "no", "bob": "yes", "cid": "yes"}
    assert max(sizes) <= 3 + 10 + 2


@pytest.mark.parametrize(
    "row",
    [("ann", "perhaps", 1), ("ann", None, 1), (None, "yes", 1), ("ann", "yes", None)],
)
def test_reduction_refuses_what_is_no_answer_of_anybody(
    row: tuple[str | None, str | None, int | None],
) -> None:
    with pytest.raises(ConsentInvalid) as caught:
        willing_subjects([answers(("bob", "yes", 1), row)], yes=["yes"], no=["no"])
    assert "ann" not in str(caught.value) and "perhaps" not in str(caught.value)


def test_nobody_who_is_not_named_is_let_through() -> None:
    records = pa.table([["ann", None, "ann", "eve"], [0, 0, 1, 0], [1.0, 2.0, None, 4.0]], SCHEMA)
    kept = consent(records, pd.Index(["ann", "bob"]))
    assert kept.to_pylist() == [
        {"subject": "ann", "rank": 0, "dose": 1.0},
        {"subject": "ann", "rank": 1, "dose": None},
    ]
    assert kept.schema == records.schema
    assert consent(records, pd.Index(["ann", None])).num_rows == 2
    assert consent(records, pd.Index([], dtype="str")).num_rows == 0


def test_reasons_are_counted_apart() -> None:
    decisions = willing_subjects(
        [answers(("ann", "yes", 1), ("bob", "no", 1), ("cid", "withdrawn", 2), ("dan", "no", 3))],
        yes=["yes"],
        no=["no", "withdrawn"],
    )
    people = pd.Index(["ann", "bob", "cid", "dan", "eve"])
    nobody = pd.Index([], dtype="str")
    assert left_out(people, decisions, nobody) == {
        "has asked to be left out, or was erased": 1,
        "latest answer is no": 2,
        "latest answer is withdrawn": 1,
        "no answer for this purpose": 1,
    }


PEOPLE = ["ann", "bob", "cid", "dan", "eve"]
ANSWERS: list[tuple[str | None, str, str | None, str]] = [
    ("ann", "model", "yes", "2026-05-01 00:00:00"),
    ("bob", "model", "yes", "2026-05-01 00:00:00"),
    ("bob", "model", "withdrawn", "2026-05-02 00:00:00"),
    ("cid", "newsletter", "yes", "2026-05-01 00:00:00"),
    ("dan", "model", "no", "2026-05-01 00:00:00"),
    ("eve", "model", "no", "2026-05-01 00:00:00"),
    ("eve", "model", "yes", "2026-05-02 00:00:00"),
]
RECORDS = (
    [("ann", 0, 1.5), ("ann", 1, None), ("bob", 0, 2.0), ("cid", 0, 3.0)],
    [("dan", 0, 4.0), ("eve", 0, 5.0)],
)


def test_withdrawn_subject_is_absent_after_consent() -> None:
    write_source(PEOPLE, ANSWERS)
    write_minimized(*RECORDS)
    report = run(declared(), now=NOW)
    assert consented() == [[("ann", 0, 1.5), ("ann", 1, None)], [("eve", 0, 5.0)]]
    assert report == {
        "purpose": "model",
        "subjects_in": 5,
        "subjects": 2,
        "left_out": {
            "latest answer is no": 1,
            "latest answer is withdrawn": 1,
            "no answer for this purpose": 1,
        },
        "records_in": 6,
        "records": 3,
    }
    public = read_json(report_path("consent"))
    assert public == {"purpose": report["purpose"]}
    assert private_reports.read(Path(), "consent") | public == report
    assert all(pq.read_schema(path) == SCHEMA for path in CONSENTED.iterdir())


def test_who_asked_or_was_erased_is_absent_after_consent_until_they_agree_afresh() -> None:
    write_source(PEOPLE, [*ANSWERS, ("cid", "model", "yes", "2026-05-01 00:00:00")])
    write_minimized(*RECORDS)
    params = declared()
    receive(params, [Reference(None, "ann")], kind="object", now=NOW)
    with Vault.open(params.stores.vault, KEY) as vault:
        vault.suppress(["cid", "eve"], now=dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC))
    report = run(params, now=NOW)
    assert consented() == [[], [("eve", 0, 5.0)]]
    assert report["left_out"]["has asked to be left out, or was erased"] == 2
    with Vault.open(params.stores.vault, KEY) as vault:
        assert vault.suppressed(["cid", "eve"]).tolist() == [True, False]


def test_a_shard_without_anybody_is_there_with_its_schema_and_bytes_repeat() -> None:
    write_source(PEOPLE, ANSWERS)
    write_minimized([], RECORDS[0])
    run(declared(), now=NOW)
    first = [path.read_bytes() for path in sorted(CONSENTED.iterdir())]
    assert consented() == [[], [("ann", 0, 1.5), ("ann", 1, None)]]
    run(declared(), now=NOW)
    assert [path.read_bytes() for path in sorted(CONSENTED.iterdir())] == first
    assert pq.read_schema(CONSENTED / shard_name(0)) == SCHEMA


def test_what_still_has_subject_keys_is_its_owners_alone() -> None:
    write_source(PEOPLE, ANSWERS)
    write_minimized(*RECORDS)
    run(declared(), now=NOW)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (CONSENTED, *CONSENTED.iterdir())]
    assert modes == [0o700, 0o600, 0o600]


@pytest.mark.parametrize(
    "row",
    [
        ("nobody", "model", "yes", "2026-05-01 00:00:00"),
        ("nobody", "newsletter", "yes", "2026-05-01 00:00:00"),
        (None, "model", "yes", "2026-05-01 00:00:00"),
        ("ann", "model", "perhaps", "2026-05-01 00:00:00"),
        ("ann", "model", None, "2026-05-01 00:00:00"),
        ("ann", "model", "yes", "2026-07-02 00:00:00"),
        ("ann", "model", "yes", "soon"),
    ],
)
def test_a_consent_table_that_does_not_hold_stops_and_leaves_nothing(
    row: tuple[str | None, str, str | None, str],
) -> None:
    write_source(PEOPLE, [*ANSWERS, row])
    write_minimized(*RECORDS)
    with pytest.raises(ConsentInvalid) as caught:
        run(declared(), now=NOW)
    assert not CONSENTED.exists() and not report_path("consent").exists()
    said = str(caught.value)
    assert "'answers'" in said and "(1 " in said and "\n" not in said
    assert not any(word in said for word in ("ann", "nobody", "perhaps", "soon"))


def test_nobody_left_stops_the_pipeline() -> None:
    write_source(PEOPLE, [row for row in ANSWERS if row[2] != "yes"])
    write_minimized(*RECORDS)
    with pytest.raises(NobodyConsents, match="'model'"):
        run(declared(), now=NOW)
    assert not CONSENTED.exists() and not report_path("consent").exists()


def test_too_few_left_stop_the_pipeline_and_those_without_records_do_not_count() -> None:
    write_source([*PEOPLE, "fay"], [*ANSWERS, ("fay", "model", "yes", "2026-05-01 00:00:00")])
    write_minimized(*RECORDS)
    three = {"table": "people", "key": "id", "minimum": 3}
    with pytest.raises(TooFewSubjects, match="fewer than 100 subjects with records consent"):
        run(declared(subject=three), now=NOW)
    assert not CONSENTED.exists() and not report_path("consent").exists()


@pytest.mark.parametrize("shards", [0, 1, 3])
def test_other_shards_than_declared_are_refused(shards: int) -> None:
    write_source(PEOPLE, ANSWERS)
    write_minimized(*([RECORDS[0]] * shards))
    with pytest.raises(NotFound, match="lethe minimize"):
        run(declared(), now=NOW)


def test_snapshot_stops_the_clock_but_not_for_decisions_now() -> None:
    write_source(["ann", "bob"], [
        ("ann", "model", "yes", "2026-05-01 00:00:00"),
        ("ann", "model", "withdrawn", "2026-06-15 00:00:00"),
        ("bob", "model", "yes", "2026-06-15 00:00:00"),
    ])  # fmt: skip
    write_minimized([("ann", 0, 1.0), ("bob", 0, 2.0)], [])
    params = declared(snapshot="2026-06-01T12:00:00")
    run(params, now=NOW)
    assert consented() == [[("ann", 0, 1.0)], []]
    assert decisions_now(params, NOW).willing.tolist() == ["bob"]


def test_a_snapshot_in_the_future_is_now_and_one_without_a_zone_is_utc() -> None:
    assert snapshot(declared(), NOW) == NOW
    assert snapshot(declared(snapshot="2027-01-01T00:00:00"), NOW) == NOW
    assert snapshot(declared(snapshot="2026-06-01T12:00:00"), NOW) == SNAPSHOT
    assert snapshot(declared(snapshot="2026-06-01T14:00:00+02:00"), NOW) == SNAPSHOT


def decided(*rows: tuple[str, str | None, str, str], **consent: Any) -> set[str]:
    """Who agrees, after these answers of ann's and a yes of bob's."""
    people = [("ann", "model", "yes", "2026-05-01"), ("bob", "model", "yes", "2026-05-01")]
    write_source(["ann", "bob"], [*people, *rows])  # type: ignore[list-item]
    params = declared(consent=declared_consent() | consent)
    with Source.open(params) as source:
        return set(read_decisions(source, params, as_of=SNAPSHOT, now=NOW).willing)


def declared_consent() -> dict[str, Any]:
    names = {"table": "answers", "subject": "person", "purpose": "purpose"}
    return names | {"answer": "answer", "time": "at"}


LATER = "2026-05-02"


@pytest.mark.parametrize(
    "purpose",
    ["model ", "\tMODEL", "Model\u00a0", "\uff2dodel", "mo\u200bdel", "\u202fmodel\ufeff"],
)
@pytest.mark.parametrize("answer", ["no", "Withdrawn ", "\uff4eo", "NO\u200b"])
def test_a_withdrawal_counts_however_it_is_spelt(purpose: str, answer: str) -> None:
    assert decided(("ann", purpose, answer, LATER)) == {"bob"}


@pytest.mark.parametrize("purpose", ["", "  ", None, "\u200b", "models", "modle", "mo-del"])
def test_a_purpose_that_may_be_meant_stops_with_a_count(purpose: str | None) -> None:
    with pytest.raises(ConsentInvalid, match=r"1 for (no purpose|a purpose that is nearly)"):
        decided(("ann", purpose, "no", LATER))


@pytest.mark.parametrize("purpose", ["", None, "All ", "modle"])
def test_a_declared_word_ends_consent_for_every_purpose(purpose: str | None) -> None:
    every = {"every_purpose": ["", "all", "Modle"]}
    assert decided(("ann", purpose, "no", LATER), **every) == {"bob"}


def test_nobody_agrees_to_every_purpose() -> None:
    every = {"every_purpose": ["all"]}
    rows = [("ann", "model", "no", LATER), ("ann", "all", "yes", "2026-05-03")]
    assert decided(*rows, **every) == {"bob"}


def test_another_purpose_may_look_like_this_one_if_it_is_declared() -> None:
    assert decided(("ann", "models", "no", LATER), other_purposes=["Models"]) == {"ann", "bob"}


def test_numbers_distinguish_purposes() -> None:
    assert sorted_out(["study-2"], declared(purpose="study-1")).others == ("study-2",)
    assert sorted_out(["Study - 1"], declared(purpose="study-1")).near == ("Study - 1",)


@pytest.mark.parametrize("answer", ["y", "yes?", "maybe", "yes no", "ye\u0301s"])
def test_an_answer_that_is_not_understood_is_no_yes(answer: str) -> None:
    with pytest.raises(ConsentInvalid, match="1 neither yes nor no"):
        decided(("ann", "model", answer, LATER))
    with pytest.raises(ConsentInvalid, match="1 neither yes nor no"):
        Path("source.db").unlink()
        decided(("ann", "all", answer, LATER), every_purpose=["all"])


@pytest.mark.parametrize(
    "consent",
    [
        {"yes": ["Yes"], "no": ["YES "]},
        {"yes": [" "], "no": ["no"]},
        {"every_purpose": ["Model"]},
        {"other_purposes": ["model\u00a0"]},
        {"every_purpose": ["all"], "other_purposes": ["ALL"]},
    ],
)
def test_words_that_would_mean_two_things_are_refused(consent: dict[str, Any]) -> None:
    with pytest.raises(ParamsInvalid):
        declared(consent=declared_consent() | consent)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((0, 0, 0), "visits is empty"),
        ((7, 7, 0), "of fewer than 100 rows of visits, fewer than 100 are past their retention"),
        ((7, 0, 7), "fewer than 100 have no date"),
        (
            (941, 403, 538),
            "of about 900 rows of visits, about 400 are past their retention and about 500 have no",
        ),
    ],
)
def test_nobody_for_want_of_records_is_said_so(counts: tuple[int, int, int], message: str) -> None:
    write_source(PEOPLE, ANSWERS)
    write_minimized([], [])
    names = ("rows", "rows_past_retention", "rows_undated")
    private_reports.write(Path(), "minimize", dict(zip(names, counts, strict=True)))
    with pytest.raises(NobodyConsents, match=message):
        run(declared(), now=NOW)


def test_who_agrees_and_has_no_record_is_distinguished_from_nobody_agreeing() -> None:
    write_source(["ann", "bob"], [("ann", "model", "yes", "2026-05-01 00:00:00")])
    write_minimized([("bob", 0, 1.0)], [])
    with pytest.raises(
        NobodyConsents, match=r"fewer than 100 people agree .* none of them has a record"
    ):
        run(declared(), now=NOW)


def test_who_agrees_and_asked_to_be_left_out_is_distinguished() -> None:
    write_source(["ann"], [("ann", "model", "yes", "2026-05-01 00:00:00")])
    write_minimized([("ann", 0, 1.0)], [])
    params = declared()
    receive(params, [Reference(None, "ann")], kind="object", now=NOW)
    with pytest.raises(NobodyConsents, match="all of them have asked to be left out"):
        run(params, now=NOW)
