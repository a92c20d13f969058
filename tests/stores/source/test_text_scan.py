"""However many people there are, a store is gone through once: counted, not timed."""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from pyroaring import BitMap

from lethe.core.outcomes import Traces
from lethe.stores.dvc import verify
from lethe.stores.dvc.objects import FolderObjects
from lethe.stores.dvc.verify import LookedFor, verify_histories, verify_history
from lethe.stores.search.needles import needles
from lethe.stores.source import file_residue, text_scan
from lethe.stores.source.compact import compact_source
from lethe.stores.source.edge import Edge
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.find_people import subjects_by
from lethe.stores.source.identifiers import traces_of
from lethe.stores.source.mentions import find_mentions
from lethe.stores.source.verify import verify_source, verify_sources
from lethe.stores.source.writer import open_writer
from tests.past_pipeline import ADA, BO, CLEO, forget_source
from tests.traps import NOW, ROWS, SCHEMA, Parish, declare, sqlite_url

MANY = 40


@pytest.fixture
def parish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parish:
    """The parish with forty people more, each of whom a notice names."""
    monkeypatch.chdir(tmp_path)
    more = [
        (100 + n, f"Number{n} Tenant", f"tenant{n}@example.org", f"(212) 556-{n:04d}", 3, None)
        for n in range(MANY)
    ]
    notices = [(50 + n, f"Ask tenant{n}@example.org", None, None) for n in range(MANY)]
    rows = ROWS | {
        "people": [*ROWS["people"], *more],
        "notices": [*ROWS["notices"], *notices],
    }
    made = Parish.build(sqlite_url(tmp_path), rows=rows)
    links = [(link.child, link.columns) for link in _links(made)]
    made.run(
        *(
            f"CREATE INDEX i{n} ON {t} ({', '.join(columns)})"
            for n, (t, columns) in enumerate(links)
        )
    )
    return made


def _links(parish: Parish) -> Iterable[Edge]:
    with open_writer(declare(parish.url), writing=False) as writer:
        return writer.graph.edges


@contextmanager
def scanning() -> Iterator[Counter[str]]:
    """Counts what SQLite's own plan calls a scan of a table, statement by statement."""
    seen: Counter[str] = Counter()

    def before(connection, cursor, statement, parameters, *_):  # type: ignore[no-untyped-def]
        if statement.lstrip().upper().startswith("SELECT"):
            raw = connection.connection.driver_connection
            if isinstance(raw, sqlite3.Connection):
                plan = raw.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
                steps = [s.decode() if isinstance(s, bytes) else s for *_, s in plan]
                seen.update(s for s in steps if s.startswith("SCAN") and "sqlite_" not in s)

    sa.event.listen(sa.Engine, "before_cursor_execute", before)
    try:
        yield seen
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", before)


def keys(count: int) -> list[str]:
    return [str(100 + n) for n in range(count)]


def everybody(params, count: int) -> list[Traces]:  # type: ignore[no-untyped-def]
    return traces_of(params, [(key, None) for key in keys(count)])


def test_many_people_are_looked_for_in_the_source_in_as_many_passes_as_one(
    parish: Parish, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = declare(parish.url)
    files: list[Path] = []
    found = file_residue._found

    def counted(path, needles):  # type: ignore[no-untyped-def]
        files.append(path)
        return found(path, needles)

    monkeypatch.setattr(file_residue, "_found", counted)
    gone = [Traces(f"9{n:03d}", None, (f"nobody{n}@example.org",)) for n in range(MANY)]
    with scanning() as one:
        assert verify_source(params, gone[0]).result == "absent"
    assert len(files) == 1
    with scanning() as many:
        outcomes = verify_sources(params, gone)
    assert {outcome.result for outcome in outcomes} == {"absent"}
    assert len(files) == 2, "the file was gone through once more, for all"
    assert many == one
    assert sum(one.values()) >= len(SCHEMA) - 3, "else nothing is counted here"


@pytest.mark.parametrize("number", [-(2**63), -5, 50, 69, 89, 700, 2**63 - 1])
@pytest.mark.parametrize("length", [0, 5_000])
def test_every_row_is_swept_whatever_its_number_and_length(
    parish: Parish, monkeypatch: pytest.MonkeyPatch, number: int, length: int
) -> None:
    monkeypatch.setattr(text_scan, "_ROWS", (3, 7))
    monkeypatch.setattr(text_scan, "_BYTES", 200)  # longer ones are taken a row at a time
    params = declare(parish.url)
    somebody = Traces("900", None, ("somebody@example.org",))
    body = "x " * length + "To Somebody@example.org"
    assert verify_source(params, somebody).result == "absent"
    parish.run(
        f"DELETE FROM notices WHERE notice = {number}",
        f"INSERT INTO notices VALUES ({number}, '{body}', NULL, NULL)",
    )
    seen = verify_source(params, somebody)
    assert (seen.count, seen.places) == (1, ("notices.body",))


def test_a_text_that_is_no_utf8_hides_nobody(parish: Parish) -> None:
    params = declare(parish.url)
    somebody = Traces("900", None, ("somebody@example.org",))
    parish.run("INSERT INTO notices VALUES (800, CAST(x'fffe41' AS TEXT), NULL, NULL)")
    assert verify_source(params, somebody).result == "absent"
    parish.run("INSERT INTO letters VALUES (1, 'to somebody@example.org')")
    assert verify_source(params, somebody).places == ("letters.body",)


def test_what_is_reported_of_many_is_what_is_reported_of_each(parish: Parish) -> None:
    params = declare(parish.url)
    people = [*everybody(params, 5), Traces("1", None, ("Ada Quill",)), Traces("77", None)]
    together = verify_sources(params, people)
    assert together == [verify_source(params, each) for each in people]
    assert [outcome.count > 0 for outcome in together] == [True] * 6 + [False]
    assert together[2].places == (
        *("notices.body", "people.email", "people.name", "people.person_id", "people.phone"),
    )


def test_many_people_are_found_by_as_few_passes_as_one(parish: Parish) -> None:
    params = declare(parish.url)
    for ask in (
        lambda count: everybody(params, count),
        lambda count: find_mentions(params, everybody(params, count)),
        lambda count: subjects_by(
            params, "people.email", [f"tenant{n}@example.org" for n in range(count)]
        ),
    ):
        with scanning() as one:
            ask(1)
        with scanning() as many:
            ask(MANY)
        assert sum(many.values()) == sum(one.values()) > 0


def test_people_who_are_found_together_are_those_who_are_found_alone(parish: Parish) -> None:
    params = declare(parish.url)
    mails = ["TENANT3@example.org ", "tenant4@example.org", "nobody@example.org"]
    found = subjects_by(params, "people.email", mails)
    assert found == {mails[0]: ["103"], mails[1]: ["104"], mails[2]: []}
    asked = [("103", 7), ("no such key", None), ("1", None), ("103", 7)]
    assert traces_of(params, asked) == [traces_of(params, [each])[0] for each in asked]


def test_what_was_seen_of_many_is_redacted_for_each(parish: Parish) -> None:
    params = declare(parish.url)
    people = everybody(params, MANY)
    named = find_mentions(params, people)
    assert all(len(named[each.key]["notices"]) == 1 for each in people)
    before = parish.rows("notices")
    with scanning() as scans:
        for each in people:
            done = erase_from_source(
                params, each, now=NOW, compact=False, mentioned=named[each.key]
            )
            assert done.result == "erased"
    assert not [scan for scan in scans if "notices" in scan]
    compact_source(params)
    kept = [row for row in parish.rows("notices") if "<ERASED>" in str(row[1])]
    assert len(kept) == MANY
    assert len(parish.rows("notices")) == len(before)
    assert {each.result for each in verify_sources(params, people)} == {"absent"}


def test_a_note_that_names_two_people_loses_both(parish: Parish) -> None:
    params = declare(parish.url)
    parish.run("INSERT INTO notices VALUES (9, 'tenant1@example.org, tenant2@example.org', 1, 1)")
    people = everybody(params, 3)
    named = find_mentions(params, people)
    for each in people:
        erase_from_source(params, each, now=NOW, compact=False, mentioned=named[each.key])
    assert [row[1] for row in parish.rows("notices") if row[0] == 9] == ["<ERASED>, <ERASED>"]


def test_every_stored_object_and_file_is_read_once_for_all(
    past: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[str] = Counter()
    read = FolderObjects.read
    monkeypatch.setattr(
        FolderObjects, "read", lambda self, each: reads.update(["object"]) or read(self, each)
    )
    files = verify._files

    def counted(root, away):  # type: ignore[no-untyped-def]
        for path in files(root, away):
            reads["file"] += 1
            yield path

    monkeypatch.setattr(verify, "_files", counted)
    people = [
        LookedFor(BitMap([token]), Traces(f"P-{token:07d}", token, ("Ada Quill",)))
        for token in (ADA, BO, CLEO)
    ]
    alone = [verify_history(past, each.tokens, traces=each.traces) for each in people]
    for_three = dict(reads)
    reads.clear()
    together = verify_histories(past, people)
    assert {name: 3 * count for name, count in reads.items()} == for_three
    assert together == alone
    assert all(any(outcome.count for outcome in each) for each in together)


def test_of_each_person_only_what_is_theirs_is_reported(past: Path) -> None:
    forget_source(past)
    pq.write_table(
        pa.table({"ward": ["Ada Quill's", "room of Bo", "42"]}), past / "data" / "more.parquet"
    )
    (past / "data" / "list.csv").write_text("bo.larkspur@example.org\n")
    people = [
        LookedFor(BitMap(), Traces("", None, ("Ada Quill",))),
        LookedFor(BitMap(), Traces("", None, ("bo.larkspur@example.org", "room of Bo"))),
        LookedFor(BitMap(), Traces("42", None)),
        LookedFor(BitMap()),
    ]
    looks = [
        {place for outcome in each for place in outcome.places if outcome.store == "workspace"}
        for each in verify_histories(past, people)
    ]
    assert looks == [
        {"data/more.parquet"},
        {"data/more.parquet", "data/list.csv"},
        {"data/more.parquet"},
        set(),
    ]
    assert not needles(None)
