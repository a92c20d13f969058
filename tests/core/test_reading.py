"""Whatever stands in a file of Lethe's own, its reader gives a result or the user's error."""

import datetime as dt
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyroaring import BitMap
from safetensors.torch import save

from lethe.config.params import load_params
from lethe.config.sections import Budget
from lethe.config.workspace import FAILURE, take_failure
from lethe.core.errors import FileDamaged, LetheError
from lethe.core.files import json_bytes, parse_json, parse_people
from lethe.core.reading import DEEPEST, parse_data, parse_yaml
from lethe.data.encoding import Encoder
from lethe.data.shards import eligible_people, read_shard
from lethe.ledger.ledger import Ledger
from lethe.privacy.claim import Claim
from lethe.privacy.plan import Plan
from lethe.registration.gate import Gate
from lethe.rights.receipts import facts_of
from lethe.stores.dvc.git import parse_lock, parse_run
from lethe.stores.dvc.graph import read_stages
from lethe.stores.dvc.purge import JOURNAL, _read_journal
from lethe.stores.dvc.survey import entries_of, md5_of
from lethe.stores.registry.tombstones import _from_json
from lethe.training.models import Architecture, Description, build_model, load_model
from tests.core.more_readers import MORE, on_file
from tests.data.test_encoding import column
from tests.plans import SMALL as PLAN

FUZZED = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
ENCODER = Encoder(
    {"age": column(type="integer", bounds=(0.0, 9.0))},
    "ill",
    column(role="label", type="category", domain=("n", "y"), positive=("y",)),
)
CLAIM = Claim.of(PLAN.release(BitMap([1])), noise="gaussian")
TOMBSTONE = b'{"runs": [], "logged_models": [], "artifacts": [], "facts": {}}'
RECEIPT = (
    b'{"receipt": {"number": 1, "format": "lethe receipt 1", "previous": ""}, "signature": ""}'
)
LOCK = (
    b"schema: '2.0'\nstages:\n  train:\n    cmd: lethe train\n    outs:\n"
    b"    - path: model\n      md5: 0123\n"
)


def shard() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"token": [1, 2], "held_out": [False, True]}), sink)
    return bytes(sink.getvalue().to_pybytes())


def on_data(read: Callable[[Any], object]) -> Callable[[bytes, Path], object]:
    return lambda content, folder: read(parse_json(content, of="it"))


def on_text(read: Callable[[str], object]) -> Callable[[bytes, Path], object]:
    return lambda content, folder: read(content.decode("utf-8", errors="replace"))


def weights(path: Path) -> object:
    architecture = Architecture("logistic", (), len(ENCODER.names), 1)
    described = json_bytes(
        {
            "architecture": architecture.to_data(),
            "classes": list(ENCODER.classes),
            "encoder": ENCODER.to_data(),
            "plan": PLAN.to_data(),
            "run_id": "r",
        }
    )
    (path.parent / "model.json").write_bytes(described)
    return load_model(path.parent, model="logistic", hidden=())


READERS: dict[str, tuple[Callable[[bytes, Path], object], bytes]] = {
    "plan": (on_data(Plan.from_data), json_bytes(PLAN.to_data())),
    "encoding": (on_data(Encoder.from_data), json_bytes(ENCODER.to_data())),
    "claim": (on_data(Claim.from_data), json_bytes(CLAIM.to_data())),
    "description": (lambda content, folder: Description.from_bytes(content), b'{"run_id": "r"}'),
    "weights": (
        on_file(weights, "weights.safetensors"),
        save(build_model(Architecture("logistic", (), len(ENCODER.names), 1)).state_dict()),
    ),
    "manifest": (
        lambda content, folder: parse_people(content, of="it"),
        BitMap(range(9)).serialize(),
    ),
    "shard": (
        on_file(lambda path: (read_shard(path), eligible_people([path])), "a.parquet"),
        shard(),
    ),
    "params": (on_file(load_params, "params.yaml"), b"purpose: x\ntables: {a: [1, 2]}\n"),
    "graph": (on_file(read_stages, "dvc.yaml"), b"stages:\n  a:\n    cmd: b\n"),
    "lock": (lambda content, folder: parse_lock(content), LOCK),
    "run cache": (lambda content, folder: parse_run(content), LOCK),
    "listing": (
        lambda content, folder: entries_of(content, md5_of(content)),
        b'[{"md5": "0", "relpath": "a"}]',
    ),
    "journal": (
        on_file(lambda path: _read_journal(path.parents[len(JOURNAL.parts) - 1]), str(JOURNAL)),
        b'{"written": true, "replaced": {"a": {}}, "gone": []}',
    ),
    "failure": (
        on_file(lambda path: take_failure(path.parents[len(FAILURE.parts) - 1]), str(FAILURE)),
        b'{"exit_code": 10, "message": "m"}',
    ),
    "tombstone": (on_text(_from_json), TOMBSTONE),
    "gate": (on_text(Gate.from_tag), b'{"reasons": [], "waits_for": []}'),
    "receipt": (on_text(facts_of), RECEIPT),
    **MORE,
}


def result_or_error(read: Callable[[bytes, Path], object], content: bytes, folder: Path) -> None:
    try:
        read(content, folder)
    except LetheError as error:
        assert error.exit_code != 1
        assert len(str(error)) < 1000


@pytest.mark.parametrize("name", READERS)
@FUZZED
@given(data=st.data())
def test_a_damaged_file_is_read_or_reported(name: str, data: st.DataObject, tmp_path: Path) -> None:
    read, sound = READERS[name]
    if data.draw(st.booleans()):
        flipped = bytearray(sound)
        for _ in range(data.draw(st.integers(1, 4))):
            flipped[data.draw(st.integers(0, len(sound) - 1))] = data.draw(st.integers(0, 255))
        content = bytes(flipped)[: data.draw(st.integers(0, len(sound)))]
    else:
        content = data.draw(st.binary(max_size=60))
    result_or_error(read, content, tmp_path)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=4,
)


@pytest.mark.parametrize("name", [n for n, (_, sound) in READERS.items() if sound[:1] in b"{["])
@FUZZED
@given(data=st.data())
def test_sound_json_of_other_things_is_read_or_reported(
    name: str, data: st.DataObject, tmp_path: Path
) -> None:
    read, sound = READERS[name]
    parsed = json.loads(sound)
    if isinstance(parsed, dict) and parsed:
        parsed[data.draw(st.sampled_from(sorted(parsed)))] = data.draw(JUNK)
    else:
        parsed = data.draw(JUNK)
    result_or_error(read, json.dumps(parsed).encode(), tmp_path)


DEEP = {
    "brackets": b"[" * 100_000,
    "closed": b"[" * 100_000 + b"]" * 100_000,
    "objects": b'{"a":' * 100_000,
    "closed objects": b'{"a":' * 3_000 + b"1" + b"}" * 3_000,
    "sequences": b"- " * 100_000 + b"a",
    "indented": b"\n".join(b" " * n + b"a:" for n in range(1_500)),
    "in a stage": b"stages: {train: {outs: " + b"[" * 5_000 + b"]" * 5_000 + b"}}",
    "number": b"9" * 5_000,
    "in a field": b'{"receipt": ' + b"[" * 900 + b"]" * 900 + b', "signature": ""}',
    "impossible day": b"a: 2020-13-45",
    "no number": b'{"a": NaN, "b": 1e999}',
    "half a character": b'{"a": "\\ud800"}',
    "empty": b"",
}


@pytest.mark.parametrize("how", DEEP)
@pytest.mark.parametrize("name", READERS)
def test_no_nesting_breaks_a_reader(name: str, how: str, tmp_path: Path) -> None:
    result_or_error(READERS[name][0], DEEP[how], tmp_path)


@pytest.mark.parametrize(
    "name",
    [name for name in READERS if name not in ("description", "journal", "params", "tombstone")],
)
def test_what_is_sound_is_read(name: str, tmp_path: Path) -> None:
    read, sound = READERS[name]
    assert read(sound, tmp_path)


@FUZZED
@given(data=st.data())
def test_a_ledger_with_flipped_bytes_is_read_or_reported(
    ledger_bytes: bytes, data: st.DataObject, tmp_path: Path
) -> None:
    flipped = bytearray(ledger_bytes)
    texts = [
        ledger_bytes.index(word)
        for word in (b"reserve", b'{"', b"person", b"sha", b"CREATE")
        if word in ledger_bytes
    ]
    for _ in range(data.draw(st.integers(1, 6))):
        near = data.draw(st.sampled_from([*texts, len(flipped) // 2]))
        at = (near + data.draw(st.integers(-80, 80))) % len(flipped)
        flipped[at] = data.draw(st.integers(0, 255))
    (tmp_path / "ledger.db").write_bytes(flipped)
    with suppress(LetheError):
        Ledger.open(f"sqlite:///{tmp_path}/ledger.db").classes(BitMap([1]), delta=1e-5)


@pytest.fixture(scope="module")
def ledger_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    ledger = Ledger.open(f"sqlite:///{path}")
    budget = Budget(epsilon=50.0, delta=1e-5)
    moment = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
    ledger.reserve(PLAN.release(BitMap([1, 2])), budget=budget, request="r", now=moment)
    return path.read_bytes()


def test_what_is_as_deep_as_it_may_be_is_read() -> None:
    most = DEEPEST - 1
    assert parse_data("[" * most + "]" * most)
    assert parse_yaml(b"[" * most + b"]" * most)
    for parse in (parse_data, parse_yaml):
        with pytest.raises(ValueError, match=r"deep|YAML"):
            parse(b"[" * (most + 3) + b"]" * (most + 3))


def test_a_folder_where_a_file_should_be_is_damage(tmp_path: Path) -> None:
    from lethe.core.files import read_json

    with pytest.raises(FileDamaged):
        read_json(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none")
