"""minimize: takes the declared columns of every record, generalized and scrubbed.

Reads the source; writes `data/minimized`, one Parquet file a shard, which still has
subject keys and so is its owner's alone, and counts.
"""

import datetime as dt
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lethe.config import private_reports
from lethe.config.params import Params
from lethe.config.tables import Column
from lethe.config.workspace import MINIMIZED, TEMPORARY, report_path, shard_name, whole_directory
from lethe.core.children import drop_keys
from lethe.core.files import write_json
from lethe.data.finite import refuse_nan
from lethe.data.generalize import generalize, outside_domain
from lethe.data.partition import shard_of
from lethe.people.consents import snapshot
from lethe.stores.opening import open_vault
from lethe.stores.source.read import RecordChunk, Source

_BUFFERED_ROWS = 200_000
_ROW_GROUP = 2**20  # fixed: it is part of the bytes
_FEW_TEXTS = 5_000  # below, starting processes takes longer than the work


@dataclass
class Tally:
    """Counts over all chunks; none of them points at a person."""

    records: int = 0
    outside: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class ShardCounts:
    """What is in one finished shard; `scrubbed` counts replaced places by entity type."""

    records: int
    subjects: int
    scrubbed: Counter[str]


def minimized_schema(columns: Mapping[str, Column]) -> pa.Schema:
    """The columns of `data/minimized`: subject, rank, then what is taken."""
    return pa.schema(
        [
            pa.field("subject", pa.string(), nullable=False),
            pa.field("rank", pa.int32(), nullable=False),
        ]
        + [(name, _arrow_type(column)) for name, column in columns.items()]
    )


def minimize(
    chunk: RecordChunk, columns: Mapping[str, Column], tally: Tally, *, zone: str = "UTC"
) -> pa.Table:
    """One chunk generalized, beside what decides its rows' shard and rank; adds to `tally`.

    Guarantees: no value of a taken column is finer than its declaration says.
    Shapes: n records -> n rows: subject, order, row_key, then the taken columns by place.
    """
    refuse_nan(chunk.values, columns)
    made = generalize(chunk.values, columns, at=chunk.at, count_only=True, zone=zone)
    tally.records += len(made.frame)
    tally.outside.update(made.outside)
    tally.missing.update(made.missing)
    tally.rejected.update(made.rejected)
    order = chunk.order
    if isinstance(order.dtype, pd.DatetimeTZDtype):
        order = order.dt.tz_localize(None)
    deciding = {
        "subject": pa.array(chunk.subject, type=pa.string(), from_pandas=True),
        "order": pa.array(order, from_pandas=True),
        "row_key": pa.array(chunk.row_key, type=pa.string(), from_pandas=True),
    }
    taken = {
        str(place): pa.array(made.frame[name], type=_arrow_type(column), from_pandas=True)
        for place, (name, column) in enumerate(columns.items())
    }
    return pa.table(deciding | taken)


def rank(staged: pa.Table, columns: Mapping[str, Column]) -> pa.Table:
    """A shard's rows by subject, each person's latest first and numbered from 0.

    Guarantees: depends on the set of rows alone, not on their order: ties of `order` are
        broken by `row_key`, then by the values. Rows without an order come last.
    Shapes: as `minimize` makes them -> as `minimized_schema` says.
    """
    values = [str(place) for place in range(len(columns))]
    by = [("subject", "ascending"), ("order", "descending"), ("row_key", "ascending")]
    by += [(name, "ascending") for name in values]
    ordered = staged.take(pc.sort_indices(staged, sort_keys=by))
    subject = ordered["subject"].combine_chunks()
    position = np.arange(len(subject))
    first = np.ones(len(subject), dtype=bool)
    if len(subject) > 1:
        first[1:] = pc.not_equal(subject[1:], subject[:-1]).to_numpy(zero_copy_only=False)
    begins = np.maximum.accumulate(np.where(first, position, 0)) if len(subject) else position
    return pa.Table.from_arrays(
        [
            subject,
            pa.array((position - begins).astype(np.int32)),
            *(ordered[name].combine_chunks() for name in values),
        ],
        schema=minimized_schema(columns),
    )


def run(params: Params, *, now: dt.datetime) -> dict[str, Any]:
    """Runs the stage.

    Guarantees: `data/minimized` is readable by its owner alone, has one file for every shard,
        and the same source and declarations give the same bytes; counts go to the operator's
        private report alone.

    Raises:
        SourceUnavailable, SchemaMismatch, ParamsInvalid, SubjectKeyInvalid, TooFewSubjects:
            the source is not as declared; see `Source.check`.
        ValueOutsideDomain, NotFinite: a value is not as declared.
        KeyInvalid, VaultMismatch: the key or the vault cannot be used.
    """
    columns = {name: column for name, (_, column) in params.taken_columns().items()}
    as_of = snapshot(params, now)
    tally = Tally()
    with open_vault(params) as vault:
        secret = vault.secret("shard")
    with (
        whole_directory(params.root, MINIMIZED, private=True) as folder,
        _scratch(params) as scratch,
    ):
        with Source.open(params) as source:
            source.check(params)
            names = source.known_names(params) if _scrubs(columns) else None
            rows = source.retention(params, as_of)
            nobodys = source.without_person(params)
            zone = params.source.time_zone
            children = source.children(params, as_of)
            tally.outside.update(children.outside)
            tables = (
                minimize(chunk, columns, tally, zone=zone)
                for chunk in source.records(params, as_of, children)
            )
            staged = stage(tables, scratch, secret=secret, shards=params.shards)
        if tally.rejected:
            raise outside_domain(tally.rejected)
        counts = list(_finish_all(staged, folder, params.shards, columns, names, tally.records))
    scrubbed = sum((each.scrubbed for each in counts), Counter())
    report: dict[str, Any] = {"columns": list(columns), "shards": params.shards}
    exact: dict[str, Any] = {
        "rows": rows["rows"],
        "rows_past_retention": rows["past_retention"],
        "rows_undated": rows["undated"],
        "rows_without_person": nobodys,
        "undated_children": dict(children.undated),
        "records": sum(each.records for each in counts),
        "subjects": sum(each.subjects for each in counts),
        "outside": dict(tally.outside),
        "missing": dict(tally.missing),
        "scrubbed": dict(scrubbed),
    }
    private_reports.write(params.root, "minimize", exact)
    write_json(params.at(report_path("minimize")), report)
    return exact | report


def stage(
    tables: Iterable[pa.Table], scratch: Path, *, secret: bytes, shards: int
) -> dict[int, Path]:
    """Streams rows into one file a shard; at most `_BUFFERED_ROWS` and a chunk are held."""
    paths: dict[int, Path] = {}
    with ExitStack() as open_files:
        writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}

        def flush(buffered: list[pa.Table]) -> None:
            together = pa.concat_tables(buffered)
            shard = shard_of(together["subject"].to_pandas(), secret=secret, shards=shards)
            order = np.argsort(shard, kind="stable")
            sorted_rows = together.take(pa.array(order))
            bounds = np.searchsorted(shard[order], np.arange(shards + 1))
            for number, (start, end) in enumerate(pairwise(bounds)):
                if start == end:
                    continue
                if number not in writers:
                    paths[number] = scratch / f"{number}.arrows"
                    file = open_files.enter_context(pa.OSFile(str(paths[number]), "wb"))
                    writers[number] = open_files.enter_context(
                        pa.ipc.new_stream(file, together.schema)
                    )
                writers[number].write_table(sorted_rows.slice(start, end - start).combine_chunks())

        buffered: list[pa.Table] = []
        for table in tables:
            buffered.append(table)
            if sum(map(len, buffered)) >= _BUFFERED_ROWS:
                flush(buffered)
                buffered = []
        if buffered:
            flush(buffered)
    return paths


def finish_shard(
    shard: int,
    staged: Mapping[int, Path],
    folder: Path,
    columns: Mapping[str, Column],
    names: frozenset[str] | None,
) -> ShardCounts:
    """Scrubs, ranks and writes one shard; a shard without rows is a file without rows."""
    scrubbed: Counter[str] = Counter()
    schema = minimized_schema(columns)
    if shard in staged:
        with pa.OSFile(str(staged[shard]), "rb") as file, pa.ipc.open_stream(file) as reader:
            table = reader.read_all()
        for place, column in enumerate(columns.values()):
            if column.role == "text":
                table = _scrub(table, str(place), names or frozenset(), scrubbed)
        table = rank(table, columns)
    else:
        table = schema.empty_table()
    pq.write_table(table, folder / shard_name(shard), compression="zstd", row_group_size=_ROW_GROUP)
    return ShardCounts(len(table), pc.count_distinct(table["subject"]).as_py(), scrubbed)


def _finish_all(
    staged: Mapping[int, Path],
    folder: Path,
    shards: int,
    columns: Mapping[str, Column],
    names: frozenset[str] | None,
    records: int,
) -> Iterator[ShardCounts]:
    finish = partial(finish_shard, staged=staged, folder=folder, columns=columns, names=names)
    if names is None or records < _FEW_TEXTS:
        yield from map(finish, range(shards))
        return
    workers = min(shards, cpu_count() or 1)
    # spawn: a fork would copy Arrow's threads in the middle of whatever they hold
    start = get_context("spawn")
    done = 0
    try:
        with ProcessPoolExecutor(workers, mp_context=start, initializer=drop_keys) as pool:
            for counts in pool.map(finish, range(shards)):
                yield counts
                done += 1
    except BrokenProcessPool:
        # One was ended from outside, as where memory is short: this one alone needs less of it.
        yield from map(finish, range(done, shards))


def _scrub(table: pa.Table, name: str, names: frozenset[str], scrubbed: Counter[str]) -> pa.Table:
    # Presidio and spaCy take seconds to import, which only those with text should wait for.
    from lethe.data.scrub import scrubber

    texts, counts = scrubber(names).scrub(table[name].to_pandas())
    scrubbed.update(counts)
    clean = pa.array(texts, type=pa.string(), from_pandas=True)
    return table.set_column(table.schema.get_field_index(name), name, clean)


@contextmanager
def _scratch(params: Params) -> Iterator[Path]:
    """A private folder for rows on their way to a shard, gone afterwards."""
    folder = params.at(TEMPORARY) / "minimize-staged"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir(parents=True, mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _scrubs(columns: Mapping[str, Column]) -> bool:
    return any(column.role == "text" for column in columns.values())


def _arrow_type(column: Column) -> pa.DataType:
    return pa.string() if column.role == "text" or column.categories else pa.float64()
