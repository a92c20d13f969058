import base64
import hashlib
import os
import random
import signal
import stat
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lethe.config import private_reports
from lethe.config.params import Params
from lethe.config.workspace import MINIMIZED, TEMPORARY, report_path
from lethe.core.errors import LetheError, NotFinite, ValueOutsideDomain
from lethe.core.files import read_json
from lethe.data.partition import shard_of
from lethe.stages import minimize
from lethe.stores.source.read import RecordChunk
from lethe.stores.vault.vault import Vault
from tests.library import DECLARED, NOW, at, build, declare, rows

KEY = b"k" * 32
TEXT = {"role": "text", "scrub": "presidio", "why": "w"}


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LETHE_KEY", base64.urlsafe_b64encode(KEY).decode())


def library(tmp_path: Path, **changes: Any) -> Params:
    loans = changes.pop("loans", rows()["loans"])
    return declare(build("sqlite", tmp_path, rows() | {"loans": loans}, None), **changes)


def everything() -> pd.DataFrame:
    """All shards in one frame, null as None."""
    frames = [pq.read_table(path).to_pandas() for path in sorted(MINIMIZED.iterdir())]
    frame = pd.concat(frames).sort_values(["subject", "rank"]).reset_index(drop=True)
    return frame.astype(object).where(frame.notna(), None)


def md5s() -> list[str]:
    return [hashlib.md5(path.read_bytes()).hexdigest() for path in sorted(MINIMIZED.iterdir())]


def test_each_record_leaves_generalized_and_the_latest_is_first(tmp_path: Path) -> None:
    minimize.run(library(tmp_path), now=NOW)
    assert list(everything().columns) == ["subject", "rank", "days", "returned", "born", "kind"]
    assert everything().values.tolist() == [
        ["7", 0, 30.0, "false", "[18,65)", None],
        ["7", 1, 14.0, "true", "[18,65)", "main"],
        ["8", 0, 60.0, "true", "[0,18)", None],
    ]


def test_the_report_counts_and_names_nobody(tmp_path: Path) -> None:
    report = minimize.run(library(tmp_path), now=NOW)
    public = read_json(report_path("minimize"))
    assert public == {"columns": ["days", "returned", "born", "kind"], "shards": 2}
    assert report == private_reports.read(Path(), "minimize") | public
    assert report == {
        "rows": 4,
        "rows_past_retention": 1,
        "rows_undated": 0,
        "rows_without_person": 0,
        "records": 3,
        "subjects": 2,
        "columns": ["days", "returned", "born", "kind"],
        "outside": {"days": 0, "returned": 0, "born": 0, "kind": 0},
        "missing": {"days": 0, "returned": 0, "born": 0, "kind": 2},
        "scrubbed": {},
        "shards": 2,
        "undated_children": {},
    }


def test_records_that_are_left_out_as_nobodys_are_counted(tmp_path: Path) -> None:
    loans = [
        (*loan[:1], 77 if n == 1 else loan[1], *loan[2:]) for n, loan in enumerate(rows()["loans"])
    ]
    params = library(tmp_path, loans=loans, records__without_person="leave_out")
    report = minimize.run(params, now=NOW)
    assert (report["rows_without_person"], report["records"]) == (1, 2)


def test_an_aggregate_leaves_clipped_and_undated_rows_are_counted(tmp_path: Path) -> None:
    earlier = {"by": "lent_at", "at": "lent_at", "bounds": [0, 10], "why": "w"}
    loans = [*rows()["loans"], (105, 8, None, None, None, 5, None, True, "s5")]
    made = {
        "before": {"count": "loans", **earlier},
        "kept": {"latest": "loans.days", **earlier},
    }
    params = library(
        tmp_path, loans=loans, tables__loans__aggregates=made, tables__loans__retention=None
    )
    report = minimize.run(params, now=NOW)
    assert list(everything().columns[2:]) == ["days", "returned", "before", "kept", "born", "kind"]
    assert everything()[["subject", "before", "kept"]].values.tolist() == [
        ["7", 2.0, 10.0],  # the loan before was of 14 days
        ["7", 1.0, 1.0],
        ["7", 0.0, None],
        ["8", 0.0, None],
        ["8", None, None],  # undated itself
    ]
    assert report["undated_children"] == {"loans.lent_at": 1}
    assert (report["outside"]["kept"], report["missing"]["kept"]) == (1, 3)


def test_a_sum_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    made = {"sum": "loans.days", "by": "lent_at", "at": "lent_at", "bounds": [0, 9], "why": "w"}
    days = DECLARED["tables"]["loans"]["columns"]["days"] | {"type": "real"}
    loans = [(*each[:5], 1.7e308, *each[6:]) for each in rows()["loans"]]
    params = library(
        tmp_path,
        loans=loans,
        tables__loans__aggregates={"total": made},
        tables__loans__columns__days=days | {"bounds": [0, 1.7e308]},
        tables__loans__retention=None,
    )
    with pytest.raises(NotFinite, match="'total'"):
        minimize.run(params, now=NOW)


def test_every_shard_is_there_private_and_has_its_people_only(tmp_path: Path) -> None:
    minimize.run(library(tmp_path, shards=8), now=NOW)
    with Vault.open("sqlite:///.lethe/vault.db", KEY) as vault:
        secret = vault.secret("shard")
    names = [f"shard-{number:04d}.parquet" for number in range(8)]
    assert sorted(path.name for path in MINIMIZED.iterdir()) == names
    assert stat.S_IMODE(MINIMIZED.stat().st_mode) == 0o700
    schemas = set()
    for number, name in enumerate(names):
        path = MINIMIZED / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        table = pq.read_table(path)
        schemas.add(str(table.schema))
        subjects = table["subject"].to_pandas()
        assert (shard_of(subjects, secret=secret, shards=8) == number).all()
    assert len(schemas) == 1


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    params = library(tmp_path)
    minimize.run(params, now=NOW)
    first = md5s()
    minimize.run(declare(params.source.url, source__chunk_rows=1), now=NOW)
    assert md5s() == first


def test_a_shard_without_a_change_keeps_its_bytes(tmp_path: Path) -> None:
    many = [
        (n, n, "Aby", 1, at("2026-01-01"), n % 60, None, bool(n % 2), "s") for n in range(1, 200)
    ]
    people = [(n, f"Person {n}", "e", None, 1) for n in range(1, 200)]
    folder = Path(build("csv", tmp_path, rows() | {"loans": many, "readers": people}, None)[4:])
    params = declare(f"csv:{folder}", shards=8)
    minimize.run(params, now=NOW)
    before = md5s()
    less = (folder / "readers.csv").read_text().replace("77,Person 77,e,,1\n", "")
    (folder / "readers.csv").write_text(less)
    import gzip

    loans = gzip.decompress((folder / "loans.csv.gz").read_bytes()).decode().splitlines(True)
    kept = "".join(line for line in loans if not line.startswith("77,"))
    (folder / "loans.csv.gz").write_bytes(gzip.compress(kept.encode()))
    minimize.run(params, now=NOW)
    assert sum(a != b for a, b in zip(before, md5s(), strict=True)) == 1


def test_nothing_private_is_left_behind(tmp_path: Path) -> None:
    minimize.run(library(tmp_path), now=NOW)
    assert not list(TEMPORARY.iterdir())


def test_links_timestamps_and_identifiers_do_not_leave(tmp_path: Path) -> None:
    minimize.run(library(tmp_path), now=NOW)
    found = set(everything().columns)
    assert not found & {"reader_id", "loan_id", "town", "lent_at", "name", "email", "remark"}


def test_text_leaves_scrubbed_of_the_names_that_the_source_knows(tmp_path: Path) -> None:
    params = library(tmp_path, tables__loans__columns__remark=TEXT)
    report = minimize.run(params, now=NOW)
    assert everything()["remark"].tolist() == [
        None,
        "<PERSON> asked for large print",
        "with <PERSON>'s mother",  # Bo: of two letters, and capitalized
    ]
    assert report["scrubbed"] == {"PERSON": 2}


def test_text_is_scrubbed_alike_by_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = library(tmp_path, tables__loans__columns__remark=TEXT)
    alone = minimize.run(params, now=NOW)
    first = md5s()
    monkeypatch.setattr(minimize, "_FEW_TEXTS", 0)
    monkeypatch.setattr(minimize, "BrokenProcessPool", ())  # and none of them is done without
    assert minimize.run(params, now=NOW) == alone
    assert md5s() == first


def be_killed() -> None:
    """As a process ends that takes the last of the memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_shards_are_finished_alone_where_another_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = library(tmp_path, tables__loans__columns__remark=TEXT)
    minimize.run(params, now=NOW)
    first = md5s()
    monkeypatch.setattr(minimize, "_FEW_TEXTS", 0)
    monkeypatch.setattr(minimize, "drop_keys", be_killed)
    minimize.run(params, now=NOW)
    assert md5s() == first


def test_values_outside_are_counted_over_all_chunks_and_leave_nothing(tmp_path: Path) -> None:
    loans = [(n, 7, "Aby", 1, at("2026-01-01"), 61, None, True, "s") for n in range(7)]
    params = library(tmp_path, loans=loans, source__chunk_rows=2)
    with pytest.raises(ValueOutsideDomain, match=r"days \(7\)"):
        minimize.run(params, now=NOW)
    assert not MINIMIZED.exists() and not report_path("minimize").exists()
    assert not list(TEMPORARY.iterdir())


def test_clipped_values_are_counted(tmp_path: Path) -> None:
    loans = [(1, 7, "Aby", 1, at("2026-01-01"), 61, None, True, "s")]
    params = library(tmp_path, loans=loans, tables__loans__columns__days__outside="clip")
    assert minimize.run(params, now=NOW)["outside"]["days"] == 1
    assert everything()["days"].tolist() == [60.0]


def test_an_infinite_number_stops_the_run(tmp_path: Path) -> None:
    loans = [(1, 7, "Aby", 1, at("2026-01-01"), float("inf"), None, True, "s")]
    params = library(tmp_path, loans=loans)
    with pytest.raises(NotFinite, match="days"):
        minimize.run(params, now=NOW)
    assert not MINIMIZED.exists()


@pytest.mark.parametrize("nan", [float("nan"), Decimal("NaN"), np.float64("nan")])
def test_a_number_that_is_nan_stops_the_run_and_null_does_not(nan: Any) -> None:
    """As PostgreSQL's drivers give them; SQLite itself has no NaN."""
    declared = {"days": declare("x:").tables["loans"].columns["days"]}

    def chunk(*days: Any) -> RecordChunk:
        count = range(len(days))
        return RecordChunk(
            subject=pd.Series([str(n) for n in count]),
            order=pd.Series([float(n) for n in count]),
            row_key=pd.Series([str(n) for n in count]),
            values=pd.DataFrame({"days": pd.Series(days, dtype=object)}),
            at={},
        )

    with pytest.raises(NotFinite, match="'days' has 2 values that are NaN"):
        minimize.minimize(chunk(3, nan, None, nan), declared, minimize.Tally())
    tally = minimize.Tally()
    minimize.minimize(chunk(3, None), declared, tally)
    assert tally.missing == {"days": 1}


def test_a_failed_run_keeps_what_was_there(tmp_path: Path) -> None:
    params = library(tmp_path)
    minimize.run(params, now=NOW)
    first = md5s()
    with pytest.raises(LetheError):
        minimize.run(declare(params.source.url, subject__minimum=50), now=NOW)
    assert md5s() == first


def test_a_declared_snapshot_is_the_day_that_retention_counts_from(tmp_path: Path) -> None:
    early = declare(library(tmp_path).source.url, snapshot="2022-01-01T00:00:00Z")
    assert minimize.run(early, now=NOW)["rows_past_retention"] == 0


def staged(**columns: Any) -> pa.Table:
    return pa.table(columns | {"row_key": pa.array(columns["row_key"], pa.string())})


def test_rank_counts_from_the_latest_and_ties_go_by_key_then_by_value() -> None:
    table = staged(
        subject=["b", "a", "a", "a", "a", "a"],
        order=pa.array([1, 1, 5, None, 5, 5], pa.float64()),
        row_key=["1", "2", "4", "5", "3", "3"],
        **{"0": [9.0, 1.0, 2.0, 3.0, 5.0, 4.0]},
    )
    declared = {"x": declare("x:").tables["loans"].columns["days"]}
    expected = [
        ["a", 0, 4.0],  # order 5, key 3, the lesser value first
        ["a", 1, 5.0],
        ["a", 2, 2.0],
        ["a", 3, 1.0],
        ["a", 4, 3.0],  # no order: last
        ["b", 0, 9.0],
    ]
    for seed in range(5):
        shuffled = list(range(6))
        random.Random(seed).shuffle(shuffled)
        made = minimize.rank(table.take(pa.array(shuffled)), declared)
        assert made.to_pandas().values.tolist() == expected


def test_staging_holds_a_bounded_number_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted by chunks alive at once: each is dropped once its buffer is flushed."""
    monkeypatch.setattr(minimize, "_BUFFERED_ROWS", 100)
    import weakref

    alive: list[weakref.ref[pa.Table]] = []
    peak = 0

    def chunks() -> Any:
        nonlocal peak
        for _ in range(40):
            subject = pa.array([str(n) for n in np.random.default_rng(0).integers(0, 99, 50)])
            table = pa.table({"subject": subject})
            alive.append(weakref.ref(table))
            peak = max(peak, sum(ref() is not None for ref in alive))
            yield table
            del table

    paths = minimize.stage(chunks(), tmp_path, secret=b"s" * 32, shards=3)
    total = 0
    for path in paths.values():
        with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as reader:
            total += len(reader.read_all())
    assert total == 2000 and peak <= 5


def test_the_input_chunk_is_untouched() -> None:
    values = pd.DataFrame({"days": [3]}, dtype=object)
    chunk = RecordChunk(
        subject=pd.Series(["7"]),
        order=pd.Series([1.0]),
        row_key=pd.Series(["1"]),
        values=values,
        at={},
    )
    declared = {"days": declare("x:").tables["loans"].columns["days"]}
    tally = minimize.Tally()
    made = minimize.minimize(chunk, declared, tally)
    assert values.dtypes.tolist() == [object] and tally.records == 1
    assert made.column_names == ["subject", "order", "row_key", "0"]
