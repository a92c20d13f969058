"""Whatever of a run depends on people's data but weights is contradicted, each by its name.

A sound run is trained once; each test changes one thing in what it left, or in what trains.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pyroaring import BitMap
from safetensors.torch import load_file, save_file

from lethe.attacks.declared import Declared
from lethe.attacks.independence import Independence
from lethe.attacks.separation import Separation
from lethe.config import workspace
from lethe.config.params import Params
from lethe.core.errors import FileDamaged
from lethe.core.files import json_bytes, read_json, write_json
from lethe.data.encoding import Encoder
from lethe.stages import audit as stage
from lethe.stages import train as train_stage
from lethe.stores.opening import open_ledger
from lethe.training.loop import DpStep
from lethe.training.trainers import trainer_of
from tests import trained_run

PARAMS = trained_run.params()
MODEL, WEIGHTS = workspace.MODEL / "model.json", workspace.MODEL / "weights.safetensors"
Frames = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        trained_run.write_people(PARAMS)
        train_stage.run(PARAMS, now=trained_run.NOW)
    return root


@pytest.fixture(autouse=True)
def trained(run_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "workspace"
    shutil.copytree(run_once, root)
    monkeypatch.chdir(root)
    return root


def failed(params: Params = PARAMS) -> set[str]:
    """What the look contradicts of the workspace as it is."""
    with open_ledger(params) as ledger:
        target = stage.load_target(params, ledger)
        return {check.name for check in Independence().run(target) if not check.passed}


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = read_json(path)
    change(data)
    write_json(path, data)


def test_a_sound_run_is_not_contradicted() -> None:
    assert failed() == set()


# What is learned from the data --------------------------------------------------------------


def _records() -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in workspace.SHARDS.glob("*.parquet")])


def a_vocabulary(features: list[dict[str, Any]]) -> None:
    present = Counter(_records()["ward"])
    features[1]["column"]["domain"] = [ward for ward, _ in sorted(present.items())]


def bounds(features: list[dict[str, Any]]) -> None:
    features[0]["column"]["bounds"] = [0, int(_records()["stay"].max()) - 1]


def bins(features: list[dict[str, Any]]) -> None:
    median = int(_records()["stay"].median())
    features[0]["column"].pop("bounds")
    features[0]["column"]["generalize"] = {"bins": [0, median, 11]}


@pytest.mark.parametrize("learned", [a_vocabulary, bounds, bins], ids=lambda f: f.__name__)
@pytest.mark.parametrize("trained_by_it", [True, False])
def test_an_encoding_that_is_learned_contradicts(
    learned: Callable[[list[dict[str, Any]]], None], trained_by_it: bool
) -> None:
    edit(workspace.ENCODING, lambda data: learned(data["features"]))
    expected = {"independence.encoding", "independence.one_encoding"}
    if trained_by_it and learned is a_vocabulary:  # of which the weights have the same size
        edit(MODEL, lambda data: learned(data["encoder"]["features"]))
        expected = {"independence.encoding", "independence.description"}
    assert failed() >= expected


def test_classes_in_the_order_of_their_frequency_contradict() -> None:
    edit(workspace.ENCODING, lambda data: data["label"]["column"]["domain"].reverse())
    edit(MODEL, lambda data: data["encoder"]["label"]["column"]["domain"].reverse())
    assert failed() == {"independence.encoding", "independence.description"}


def test_classes_by_other_names_are_refused_before_the_audit() -> None:
    edit(MODEL, lambda data: data["classes"].reverse())
    with pytest.raises(FileDamaged):
        failed()


def test_a_normalizer_that_was_counted_contradicts() -> None:
    def count(data: dict[str, Any]) -> None:
        data["expected_batch_size"] = _records()["token"].nunique() * data["sample_rate"]

    edit(workspace.PLAN, count)
    edit(MODEL, lambda data: count(data["plan"]))
    assert failed() == {"independence.plan", "independence.description"}


def test_a_plan_that_looks_at_data_contradicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit makes it where there is no data; what reads any cannot be made there."""
    plan = type(trainer_of(PARAMS.training)).plan

    def counted(self: Any, params: Params) -> Any:
        people = pd.read_parquet(params.at(workspace.SHARDS))["token"].nunique()
        return replace(plan(self, params), expected_batch_size=people / 10)

    monkeypatch.setattr(type(trainer_of(PARAMS.training)), "plan", counted)
    write_json(workspace.PLAN, trainer_of(PARAMS.training).plan(PARAMS).to_data())
    assert "independence.declared" in failed()


def test_what_is_declared_is_made_without_a_single_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: Any, **others: Any) -> Any:
        raise AssertionError("a file was opened")

    expected = read_json(workspace.PLAN), read_json(workspace.ENCODING)
    for name in ("open", "read_bytes", "read_text"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr(pd, "read_parquet", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    made = Declared.of(PARAMS)
    assert made is not None
    assert (made.plan.to_data(), made.encoder.to_data()) == expected


def test_records_that_are_scaled_by_the_data_contradict(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = Encoder.encode_columns

    def standardized(self: Encoder, frame: Any, *, rows: int) -> Any:
        out = encode(self, frame, rows=rows)
        return (out - out.mean(0)) / (out.std(0) + 1)

    monkeypatch.setattr(Encoder, "encode_columns", standardized)
    assert failed() == {"independence.records"}


def test_records_that_are_encoded_as_nowhere_declared_contradict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One by one they are alike; by hand they are not."""
    encode = Encoder.encode_columns
    monkeypatch.setattr(
        Encoder, "encode_columns", lambda self, frame, *, rows: 0.9 * encode(self, frame, rows=rows)
    )
    assert failed() == {"independence.records"}


# What a file could carry out ----------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [("encoder",), ("encoder", "label"), ("architecture",), ()], ids=lambda p: ".".join(p)
)
def test_a_field_more_in_the_description_is_refused(path: tuple[str, ...]) -> None:
    def add(data: dict[str, Any]) -> None:
        for part in path:
            data = data[part]
        data["note"] = 4711

    edit(MODEL, add)
    with pytest.raises(FileDamaged):
        failed()


def test_a_field_more_in_the_plan_of_the_description_contradicts() -> None:
    edit(MODEL, lambda data: data["plan"].update(note=4711))
    assert failed() == {"independence.description", "independence.one_encoding"}


def test_a_default_that_is_written_out_contradicts() -> None:
    """Read, it is the same column; whether it is there is a bit that gets out."""
    edit(MODEL, lambda data: data["encoder"]["label"]["column"].update(missing=[]))
    assert failed() == {"independence.description"}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("a second key", lambda text: text.replace(b'"run_id"', b'"run_id": "4711", "run_id"')),
        ("blanks behind", lambda text: text + b"  \n"),
        ("blanks inside", lambda text: text.replace(b": ", b":  ", 1)),
        ("another order", lambda text: json.dumps(json.loads(text), indent=2).encode() + b" "),
        ("a number spelled otherwise", lambda text: text.replace(b"450.0", b"4.5e2")),
        ("an escape", lambda text: text.replace(b"north", b"n\\u006frth")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("path", [MODEL, workspace.ENCODING, workspace.PLAN], ids=str)
def test_bytes_that_read_alike_contradict(
    path: Path, name: str, change: Callable[[bytes], bytes]
) -> None:
    before = path.read_bytes()
    path.write_bytes(change(before))
    names = {
        MODEL: "independence.description",
        workspace.ENCODING: "independence.encoding",
        workspace.PLAN: "independence.plan",
    }
    assert failed() == ({names[path]} if path.read_bytes() != before else set())


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "deeper/weights.safetensors", "empty/"])
def test_a_file_more_beside_the_model_contradicts(name: str) -> None:
    path = workspace.MODEL / name
    path.parent.mkdir(exist_ok=True)
    if name.endswith("/"):
        path.mkdir()
    else:
        path.write_bytes(b"4711")
    assert failed() == {"independence.folder"}


def test_a_tensor_more_is_refused() -> None:
    save_file({**load_file(WEIGHTS), "counts": torch.ones(3)}, WEIGHTS)
    with pytest.raises(FileDamaged):
        failed()


def test_metadata_in_the_header_contradict() -> None:
    save_file(load_file(WEIGHTS), WEIGHTS, metadata={"people": "400"})
    assert failed() == {"independence.tensors", "independence.weights"}


@pytest.mark.parametrize("kind", [torch.float64, torch.float16])
def test_weights_of_another_kind_contradict(kind: torch.dtype) -> None:
    save_file({name: t.to(kind) for name, t in load_file(WEIGHTS).items()}, WEIGHTS)
    assert failed() >= {"independence.tensors", "independence.size", "independence.weights"}


def test_a_header_with_blanks_contradicts() -> None:
    content = WEIGHTS.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length] + b" " * 8
    WEIGHTS.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    assert failed() == {"independence.weights"}


def test_bytes_after_the_last_tensor_do_not_pass() -> None:
    WEIGHTS.write_bytes(WEIGHTS.read_bytes() + b"4711")
    with pytest.raises(FileDamaged):
        failed()


def test_somebody_who_is_held_out_and_trains_contradicts() -> None:
    manifest = BitMap.deserialize(workspace.MANIFEST.read_bytes())
    path = workspace.SHARDS / workspace.shard_name(0)
    frame = pd.read_parquet(path)
    mine = frame.index[frame["token"].isin(list(manifest)) & frame["token"].duplicated()]
    frame.loc[mine[0], "held_out"] = True
    frame.to_parquet(path)
    assert failed() == {"independence.held_out"}


def test_what_is_written_is_what_is_rebuilt() -> None:
    made = Declared.of(PARAMS)
    assert made is not None
    run_id = read_json(MODEL)["run_id"]
    assert MODEL.read_bytes() == made.description(run_id).to_bytes()
    assert workspace.PLAN.read_bytes() == json_bytes(made.plan.to_data())


# Clipping in the mode that trains -----------------------------------------------------------


def _separated() -> set[str]:
    with open_ledger(PARAMS) as ledger:
        target = stage.load_target(PARAMS, ledger)
        return {check.name for check in Separation().run(target) if not check.passed}


def test_a_sound_run_is_separated() -> None:
    assert _separated() == set()


def test_clips_that_are_wider_while_training_contradict(monkeypatch: pytest.MonkeyPatch) -> None:
    clipped = DpStep.clipped_sum

    def wider(self: DpStep, *people: torch.Tensor) -> list[torch.Tensor]:
        wide = 1.3 if self.model.training else 1.0
        return [t * wide for t in clipped(self, *people)]

    monkeypatch.setattr(DpStep, "clipped_sum", wider)
    assert _separated() == {"separation.sensitivity"}


def test_a_layer_that_mixes_while_training_contradicts(monkeypatch: pytest.MonkeyPatch) -> None:
    tanh = torch.nn.Tanh.forward

    def mixing(self: torch.nn.Tanh, x: torch.Tensor) -> torch.Tensor:
        return tanh(self, x - x.mean(0)) if self.training and len(x) > 64 else tanh(self, x)

    monkeypatch.setattr(torch.nn.Tanh, "forward", mixing)
    assert "separation.records" in _separated()
