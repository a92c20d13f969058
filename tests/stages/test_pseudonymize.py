"""pseudonymize: tokens in, keys out, the same bytes every time."""

import base64
import datetime as dt
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyroaring import BitMap

from lethe.config.params import Params, load_params
from lethe.config.workspace import CONSENTED, SHARDS, SUBJECTS, shard_name
from lethe.core.errors import KeyInvalid, NotFound, SubjectKeyInvalid, VaultMismatch
from lethe.data import partition
from lethe.stages import pseudonymize as stage
from lethe.stages.pseudonymize import pseudonymize, run
from lethe.stores.vault.vault import NO_TOKEN, Vault
from tests.conftest import PROJECT
from tests.warm import program, warm_environment

KEY = b"k" * 32
NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
PARAMS = PROJECT / "params.yaml"
SCHEMA = pa.schema(
    {"subject": pa.string(), "rank": pa.int32(), "ward": pa.string(), "stay": pa.float64()}
)
# What consent leaves, by shard: subject, rank, ward, stay.
ROWS = [
    [("ada@example.org", 0, "north", 3.0), ("ada@example.org", 1, None, None)],
    [("ben-4711-0042", 0, "south", 1.0), ("cleo", 0, "north", 2.0), ("dora", 0, "south", 9.0)],
    [],
]


def table(rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA.names)
    return pa.table(dict(zip(SCHEMA.names, map(list, columns), strict=True)), schema=SCHEMA)


def write(rows: list[list[tuple[Any, ...]]]) -> None:
    shutil.rmtree(CONSENTED, ignore_errors=True)
    CONSENTED.mkdir(parents=True)
    for shard, its_rows in enumerate(rows):
        pq.write_table(table(its_rows), CONSENTED / shard_name(shard))


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Params]:
    """A workspace of three shards after consent, and its declarations."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LETHE_KEY", base64.urlsafe_b64encode(KEY).decode())
    text = (
        PARAMS.read_text()
        .replace("shards: 16", "shards: 3")
        .replace("held_out: 0.2", "held_out: 0.5")
    )
    Path("params.yaml").write_text(text)
    write(ROWS)
    yield load_params(Path("params.yaml"))


def tokens_of(params: Params, *people: str) -> list[int]:
    with Vault.open(params.stores.vault, KEY) as vault:
        found: list[int] = vault.lookup(people).tolist()
        return found


def shard(number: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(SHARDS / shard_name(number)).to_pylist()
    return rows


def written() -> dict[str, bytes]:
    """Every byte that is left of the stage outside the vault."""
    paths = [*SHARDS.glob("*"), SUBJECTS, Path("reports/pseudonymize.json")]
    return {str(path): path.read_bytes() for path in paths if path.exists()}


def test_core_replaces_the_key_and_sorts_by_token_and_rank() -> None:
    records = table([("cleo", 0, "north", 2.0), ("ada", 1, None, None), ("ada", 0, "south", 3.0)])
    made = pseudonymize(
        records, tokens=np.uint32([9, 4, 4]), held_out=np.array([True, False, False])
    )
    assert made.to_pylist() == [
        {"token": 4, "held_out": False, "rank": 0, "ward": "south", "stay": 3.0},
        {"token": 4, "held_out": False, "rank": 1, "ward": None, "stay": None},
        {"token": 9, "held_out": True, "rank": 0, "ward": "north", "stay": 2.0},
    ]
    assert [str(field.type) for field in made.schema] == [
        *("uint32", "bool", "int32", "string", "double")
    ]
    assert records.column_names == ["subject", "rank", "ward", "stay"]


def test_core_leaves_out_who_has_no_token() -> None:
    records = table([("ada", 0, "north", 2.0), ("ben", 0, "south", 3.0)])
    made = pseudonymize(
        records, tokens=np.array([NO_TOKEN, 7], dtype=np.uint32), held_out=np.array([False, True])
    )
    assert made["token"].to_pylist() == [7]


def test_core_drops_metadata_that_may_describe_the_key() -> None:
    records = table(ROWS[1]).replace_schema_metadata({"pandas": "subject ben-4711-0042"})
    made = pseudonymize(records, tokens=np.uint32([1, 2, 3]), held_out=np.zeros(3, bool))
    assert made.schema.metadata is None


def test_shards_hold_the_vaults_tokens_and_every_record(params: Params) -> None:
    report = run(params, now=NOW)
    ada, ben, cleo, dora = tokens_of(params, "ada@example.org", "ben-4711-0042", "cleo", "dora")
    assert [(row["token"], row["rank"], row["ward"], row["stay"]) for row in shard(0)] == [
        (ada, 0, "north", 3.0),
        (ada, 1, None, None),
    ]
    assert sorted((row["token"], row["ward"], row["stay"]) for row in shard(1)) == sorted(
        [(ben, "south", 1.0), (cleo, "north", 2.0), (dora, "south", 9.0)]
    )
    assert [row["token"] for row in shard(1)] == sorted([ben, cleo, dora])
    assert shard(2) == []
    assert pq.read_schema(SHARDS / shard_name(2)) == pq.read_schema(SHARDS / shard_name(0))
    assert set(BitMap.deserialize(SUBJECTS.read_bytes())) == {ada, ben, cleo, dora}
    assert report == json.loads(Path("reports/pseudonymize.json").read_text())
    assert {name: report[name] for name in ("subjects", "records", "shards", "suppressed")} == {
        "subjects": 4,
        "records": 5,
        "shards": 3,
        "suppressed": 0,
    }


def test_held_out_people_are_those_of_the_keyed_hash(params: Params) -> None:
    many = [[(f"person {number}", 0, "north", 1.0) for number in range(200)], [], []]
    write(many)
    report = run(params, now=NOW)
    with Vault.open(params.stores.vault, KEY) as vault:
        people = [row[0] for row in many[0]]
        apart = partition.held_out(
            pd.Series(people, dtype="str"), secret=vault.secret("holdout"), share=0.5
        )
        expected = dict(zip(vault.lookup(people).tolist(), apart.tolist(), strict=True))
    assert {row["token"]: row["held_out"] for row in shard(0)} == expected
    assert report["held_out"] == sum(expected.values())
    assert 50 < report["held_out"] < 150


def test_no_key_of_a_subject_is_in_anything_that_leaves(params: Params) -> None:
    run(params, now=NOW)
    for name, content in written().items():
        for key in (b"ada@", b"example.org", b"4711", b"cleo", b"dora", b"subject\x00"):
            assert key not in content, name
    for number in range(3):
        assert "subject" not in pq.read_schema(SHARDS / shard_name(number)).names
    assert b"example.org" not in Path(".lethe/vault.db").read_bytes()


def test_same_records_give_the_same_bytes(params: Params) -> None:
    run(params, now=NOW)
    before = written()
    run(params, now=NOW + dt.timedelta(days=1))
    assert written() == before


def test_shard_in_which_nothing_changed_keeps_its_bytes(params: Params) -> None:
    run(params, now=NOW)
    before = written()
    write([ROWS[0], [*ROWS[1][:2], ("finn", 0, "south", 4.0)], ROWS[2]])
    run(params, now=NOW)
    after = written()
    same = {name for name, content in before.items() if after[name] == content}
    assert {str(SHARDS / shard_name(0)), str(SHARDS / shard_name(2))} <= same
    assert str(SHARDS / shard_name(1)) not in same


def test_suppressed_subject_is_in_no_shard_and_counted(params: Params) -> None:
    run(params, now=NOW)
    ada, ben = tokens_of(params, "ada@example.org", "ben-4711-0042")
    with Vault.open(params.stores.vault, KEY) as vault:
        vault.suppress(["ada@example.org"], now=NOW)
    report = run(params, now=NOW)
    assert (report["subjects"], report["suppressed"], report["records"]) == (3, 1, 3)
    assert shard(0) == []
    listed = BitMap.deserialize(SUBJECTS.read_bytes())
    assert ada not in listed
    assert ben in listed
    assert NO_TOKEN not in listed


def test_subject_in_two_shards_is_refused(params: Params) -> None:
    write([ROWS[0], ROWS[0], []])
    with pytest.raises(SubjectKeyInvalid, match="1 subjects have records in several shards"):
        run(params, now=NOW)
    assert written() == {}


def test_record_without_subject_is_refused(params: Params) -> None:
    write([[(None, 0, "north", 1.0)], [], []])
    with pytest.raises(SubjectKeyInvalid, match="1 records have no subject"):
        run(params, now=NOW)
    assert written() == {}


def test_missing_shard_is_refused(params: Params) -> None:
    (CONSENTED / shard_name(2)).unlink()
    with pytest.raises(NotFound, match="lethe consent"):
        run(params, now=NOW)
    assert written() == {}


def test_wrong_key_writes_nothing(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    run(params, now=NOW)
    before = written()
    monkeypatch.setenv("LETHE_KEY", base64.urlsafe_b64encode(b"o" * 32).decode())
    with pytest.raises(VaultMismatch):
        run(params, now=NOW)
    monkeypatch.setenv("LETHE_KEY", "broken")
    with pytest.raises(KeyInvalid):
        run(params, now=NOW)
    assert written() == before


def test_old_bitmap_is_gone_before_the_shards_are_new(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(params, now=NOW)
    write([ROWS[0], [], []])

    def fail(*_: object) -> None:
        raise RuntimeError("killed here")

    monkeypatch.setattr(stage, "write_whole", fail)
    with pytest.raises(RuntimeError, match="killed here"):
        run(params, now=NOW)
    assert shard(1) == []
    assert not SUBJECTS.exists()


_KILLED = """
import datetime as dt, os, signal, sys
from pathlib import Path
from lethe.config.params import load_params
from lethe.stages import pseudonymize as stage

left = int(sys.argv[2])

def counted(call):
    def counting(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return counting

stage.open_vault = counted(stage.open_vault)
stage.pq.write_table = counted(stage.pq.write_table)
stage.write_whole = counted(stage.write_whole)
stage.write_json = counted(stage.write_json)
stage.run(load_params(Path(sys.argv[1])), now=dt.datetime.now(dt.UTC))
"""


def test_killed_anywhere_leaves_no_half_and_runs_again_to_the_same_bytes(params: Params) -> None:
    run(params, now=NOW)
    whole = written()
    killed = 0
    for step in range(1, 8):  # opens the vault, writes three shards, the bitmap, the report
        shutil.rmtree(SHARDS)
        SUBJECTS.unlink()
        Path("reports/pseudonymize.json").unlink()
        done = subprocess.run(
            program(_KILLED, "params.yaml", str(step)),
            env=warm_environment() | {"LETHE_KEY": os.environ["LETHE_KEY"]},
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        killed += 1
        assert whole.items() >= written().items()
        assert not SHARDS.exists() or len(list(SHARDS.iterdir())) == 3
        run(params, now=NOW)
        assert written() == whole
    assert killed == 6
