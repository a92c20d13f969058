"""Every kind of source gives the same answers."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.errors import (
    ParamsInvalid,
    SchemaMismatch,
    SourceUnavailable,
    SubjectKeyInvalid,
    TooFewSubjects,
)
from lethe.stores.source.read import RecordChunk, Source
from tests.library import NOW, at, build, declare, rows
from tests.postgres import postgres_server, postgres_urls  # noqa: F401

Make = Callable[..., str]


@pytest.fixture(params=["sqlite", "postgres", "csv", "parquet"])
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Builds the library, with changed tables, as a source of each kind."""
    monkeypatch.chdir(tmp_path)
    kind: str = request.param
    postgres = request.getfixturevalue("postgres_urls") if kind == "postgres" else None

    def made(**tables: list[tuple[Any, ...]]) -> str:
        return build(kind, tmp_path, rows() | tables, postgres)

    return made


def records(params: Params, as_of: dt.datetime = NOW) -> pd.DataFrame:
    """All records in one frame, by row key."""
    with Source.open(params) as source:
        chunks = list(source.records(params, as_of))
    return together(chunks)


def together(chunks: list[RecordChunk]) -> pd.DataFrame:
    frames = [
        chunk.values.assign(
            subject=chunk.subject,
            order=chunk.order,
            row_key=chunk.row_key,
            **{f"at {name}": series for name, series in chunk.at.items()},
        )
        for chunk in chunks
    ]
    return pd.concat(frames, ignore_index=True).sort_values("row_key", ignore_index=True)


def test_a_source_as_declared_passes(make: Make) -> None:
    params = declare(make())
    with Source.open(params) as source:
        source.check(params)


def test_subjects_are_canonical_keys(make: Make) -> None:
    params = declare(make())
    with Source.open(params) as source:
        chunks = list(source.subjects())
    assert [len(chunk) for chunk in chunks] == [2, 1]  # chunk_rows is 2
    assert sorted(pd.concat(chunks)) == ["7", "8", "9"]


def test_records_within_retention_come_with_what_they_point_at(make: Make) -> None:
    found = records(declare(make()))
    assert found["subject"].tolist() == ["7", "7", "8"]
    assert found["order"].tolist() == [
        pd.Timestamp("2026-01-01T09:00Z"),
        pd.Timestamp("2026-03-01T09:00Z"),
        pd.Timestamp("2026-05-01T09:00Z"),
    ]
    assert [float(days) for days in found["days"]] == [14.0, 30.0, 60.0]
    # 102's branch is past its own retention, 104 has none: both as absent
    assert found["kind"].where(found["kind"].notna(), None).tolist() == ["main", None, None]
    assert "remark" not in found


def test_the_row_key_is_the_same_for_every_kind(make: Make) -> None:
    found = records(declare(make()))
    assert found["row_key"].str.contains("101|102|104").all()


def test_a_record_stays_to_the_end_of_the_last_day_of_its_retention(make: Make) -> None:
    url = make()
    edge = at("2026-01-01T09:00:00") + dt.timedelta(days=1000)
    assert records(declare(url), edge)["subject"].tolist() == ["7", "7", "8"]
    last = edge.replace(hour=23, minute=59)
    assert records(declare(url), last)["subject"].tolist() == ["7", "7", "8"]
    after = last + dt.timedelta(minutes=1)
    assert records(declare(url), after)["subject"].tolist() == ["7", "8"]


def test_retention_is_counted(make: Make) -> None:
    loans = rows()["loans"]
    params = declare(make(loans=[*loans, (105, 8, None, None, None, 1, None, True, "s5")]))
    with Source.open(params) as source:
        assert source.retention(params, NOW) == {"rows": 5, "past_retention": 1, "undated": 1}
    assert records(params)["subject"].tolist() == ["7", "7", "8"]  # undated is never read


def test_at_most_a_chunk_of_rows_is_fetched_at_once(make: Make) -> None:
    many = [(n, 7, "Aby", 1, at("2026-01-01"), 5, None, True, "s") for n in range(1000, 1023)]
    params = declare(make(loans=many), source__chunk_rows=5)
    with Source.open(params) as source:
        chunks = [len(chunk.subject) for chunk in source.records(params, NOW)]
    assert chunks == [5, 5, 5, 5, 3]


def test_no_statement_names_what_is_not_declared_for_use(make: Make) -> None:
    """Promise 1: seen in the SQL that is sent."""
    params = declare(make())
    sent: list[str] = []
    with Source.open(params) as source:
        source.tables()  # the catalogue is read before, and names every column
        sa.event.listen(
            source.engine,
            "before_cursor_execute",
            lambda _c, _cursor, statement, *_: sent.append(statement),
        )
        source.check(params)
        list(source.records(params, NOW))
        list(source.subjects())
        list(source.answers(params, NOW))
        source.answer_problems(params, NOW)
        source.retention(params, NOW)
    message = " ".join(each for each in sent if "FROM pg_catalog." not in each)
    assert "reader_id" in message and "days" in message
    for never in ("shoe_size", "secret", "email", "name", "remark", "*"):
        assert never not in message.replace("count(*)", "").replace("COUNT(*)", ""), never


def test_a_record_of_nobody_stops_the_run(make: Make) -> None:
    loans = rows()["loans"]
    stray = [
        (105, None, None, None, at("2026-01-01"), 1, None, True, "s"),
        (106, 55, None, None, at("2026-01-01"), 1, None, True, "s"),
    ]
    with pytest.raises(SubjectKeyInvalid, match="2 rows of loans"):
        records(declare(make(loans=loans + stray)))


def test_too_few_subjects_are_refused(make: Make) -> None:
    params = declare(make(), subject__minimum=4)
    with Source.open(params) as source, pytest.raises(TooFewSubjects, match=r"3 subjects.* 4"):
        source.check(params)


def test_a_purpose_nobody_was_asked_about_is_refused_with_the_nearest(make: Make) -> None:
    params = declare(make(), purpose="readin")
    with Source.open(params) as source, pytest.raises(ParamsInvalid, match="'reading'"):
        source.check(params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tables__readers__unused": []}, "readers.shoe_size is not declared"),
        ({"tables__readers__unused": ["shoe_size", "hat"]}, "readers.hat is declared but absent"),
        (
            {"tables__racks": {"columns": {}, "about": "nobody"}},
            "'racks' is declared but absent",
        ),
    ],
)
def test_what_differs_from_the_declarations_is_named(
    make: Make, change: dict[str, Any], message: str
) -> None:
    params = declare(make(), **change)
    with Source.open(params) as source, pytest.raises(SchemaMismatch, match=message):
        source.check(params)


def test_answers_are_of_this_purpose_up_to_the_moment(make: Make) -> None:
    params = declare(make())
    with Source.open(params) as source:
        found = pd.concat(list(source.answers(params, at("2026-01-15"))))
        later = pd.concat(list(source.answers(params, NOW)))
    assert sorted(zip(found["subject"], found["answer"], strict=True)) == [
        ("7", "yes"),
        ("8", "yes"),
    ]
    assert sorted(later["answer"]) == ["withdrawn", "yes", "yes"]
    assert str(later["time"].dtype) == "datetime64[us, UTC]"


def test_problems_of_answers_are_counted(make: Make) -> None:
    wrong = [
        (7, "reading", "perhaps", at("2026-01-01")),
        (7, "reading", None, at("2026-01-01")),
        (7, "reading", "yes", at("2027-01-01")),
        (7, "reading", "yes", None),
        (55, "newsletter", "yes", at("2026-01-01")),
        (7, "newsletter", "perhaps", at("2026-01-01")),  # another purpose's own words
    ]
    params = declare(make(answers=rows()["answers"] + wrong))
    with Source.open(params) as source:
        assert source.answer_problems(params, NOW) == {
            "unknown_subject": 1,
            "null_answer": 1,
            "unknown_answer": 1,
            "undated": 1,
            "future": 1,
            "near_purpose": 0,
            "no_purpose": 0,
        }


def test_a_refusal_counts_however_its_purpose_and_word_are_spelt(make: Make) -> None:
    more = [
        (7, "  Reading ", "WITHDRAWN", at("2026-03-01")),
        (8, "*", " No", at("2026-03-01")),
        (9, "*", "yes", at("2026-03-01")),
    ]
    given = [(7, "reading", "Yes ", at("2026-02-01")), (8, "reading", "yes", at("2026-02-01"))]
    params = declare(make(answers=given + more), consent__every_purpose=["*"])
    with Source.open(params) as source:
        found = pd.concat(list(source.answers(params, NOW)))
        assert not any(source.answer_problems(params, NOW).values())
    assert sorted(zip(found["subject"], found["answer"], strict=True)) == [
        ("7", "withdrawn"),
        ("7", "yes"),
        ("8", "no"),
        ("8", "yes"),
    ]


def test_known_names_are_words_of_the_columns_that_name_people(make: Make) -> None:
    taken = {"role": "text", "scrub": "presidio", "why": "w"}
    params = declare(make(), tables__loans__columns__remark=taken)
    with Source.open(params) as source:
        names = source.known_names(params)
        texts = together(list(source.records(params, NOW)))["remark"].dropna().tolist()
    assert names == {"ada", "bo", "quill", "larkspur", "cleo", "fenwick"}
    assert sorted(texts) == ["Ada asked for large print", "with Bo's mother"]


def test_a_null_or_repeated_subject_key_is_refused(tmp_path: Path) -> None:
    """Only a source without constraints can hold one; counts are shown, keys are not."""
    people = rows()["readers"]
    folder = build("csv", tmp_path, rows() | {"readers": [*people, people[0]]}, None)
    params = declare(folder)
    with (
        Source.open(params) as source,
        pytest.raises(SubjectKeyInvalid, match="0 keys are null and 1 are repeated among 4"),
    ):
        source.check(params)


def test_a_link_that_meets_several_rows_is_refused(tmp_path: Path) -> None:
    """It would multiply records, and with them a person's weight."""
    twice = [*rows()["branches"], ("Aby", 1, "small", at("2021-01-01"))]
    params = declare(build("csv", tmp_path, rows() | {"branches": twice}, None))
    with (
        Source.open(params) as source,
        pytest.raises(SchemaMismatch, match=r"loans to branches\.town, number is not many to one"),
    ):
        source.check(params)


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_the_whole_read_sees_one_snapshot_and_cannot_write(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    postgres = request.getfixturevalue("postgres_urls") if database == "postgres" else None
    url = build(database, tmp_path, rows(), postgres)
    params = declare(url)
    writer = sa.create_engine(
        url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.pool.NullPool
    )
    with writer.connect() as connection:  # so that a reader does not keep the writer out
        if database == "sqlite":
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    with Source.open(params) as source:
        assert sum(map(len, source.subjects())) == 3
        with writer.begin() as connection:
            connection.execute(sa.text("DELETE FROM loans"))
            connection.execute(sa.text("DELETE FROM readers"))
        assert sum(map(len, source.subjects())) == 3
        assert len(together(list(source.records(params, NOW)))) == 3
        with source.engine.connect() as connection, pytest.raises(sa.exc.DBAPIError):
            connection.execute(sa.text("DELETE FROM answers"))
    writer.dispose()


def test_a_timestamp_without_a_zone_is_utc_whatever_the_servers_zone(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The test server's own zone is Asia/Tokyo."""
    url = build("postgres", tmp_path, rows(), request.getfixturevalue("postgres_urls"))
    writer = sa.create_engine(
        url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.pool.NullPool
    )
    with writer.begin() as connection:
        change = "ALTER TABLE loans ALTER lent_at TYPE timestamp USING lent_at AT TIME ZONE 'UTC'"
        connection.execute(sa.text(change))
    edge = at("2026-01-01T09:00:00") + dt.timedelta(days=1000)
    assert len(records(declare(url), edge)) == 3
    assert len(records(declare(url), edge + dt.timedelta(days=1))) == 2
    assert records(declare(url))["order"].tolist()[0] == pd.Timestamp("2026-01-01T09:00Z")


def test_a_wrong_password_is_one_line_without_it(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = build("postgres", tmp_path, rows(), request.getfixturevalue("postgres_urls"))
    wrong = url.replace("invented-for-tests", "hunter2")
    with pytest.raises(SourceUnavailable) as caught:
        Source.open(declare(wrong))
    message = str(caught.value)
    assert "hunter2" not in message and "lethe:" not in message and "\n" not in message


def test_dtypes_do_not_depend_on_the_chunk(make: Make) -> None:
    params = declare(make(), source__chunk_rows=1)
    with Source.open(params) as source:
        chunks = list(source.records(params, NOW))
    assert {str(chunk.order.dtype) for chunk in chunks} == {"datetime64[us, UTC]"}
    assert all(chunk.values.dtypes.eq(np.dtype(object)).all() for chunk in chunks)
