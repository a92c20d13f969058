"""The train stage: reserve, train, settle, publish; and what a killed run leaves behind."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyroaring import BitMap
from safetensors.torch import load_file

from lethe.config import private_reports, workspace
from lethe.config.params import Params, load_params
from lethe.core.errors import (
    BudgetExceeded,
    Busy,
    NotFinite,
    NotFound,
    TooFewSubjects,
    TrainingRefused,
)
from lethe.core.files import read_json, write_json
from lethe.data.encoding import Encoder
from lethe.ledger.ledger import Ledger
from lethe.privacy.accounting import epsilon_rdp
from lethe.privacy.plan import Plan
from lethe.privacy.release import Release
from lethe.stages import train as stage
from lethe.training import dpsgd_fit
from lethe.training.description import Architecture
from lethe.training.dpsgd import DpSgd
from lethe.training.models import build_model
from tests.conftest import PROJECT

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass
class Run:
    run_id: str
    admitted: BitMap
    state: str = "reserved"
    left_out: int = 0
    resumed: bool = False


@dataclass
class FakeLedger:
    """Reserves by request, and remembers in what order it was asked."""

    runs: dict[str, Run] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    refuse: bool = False
    over_budget: BitMap = field(default_factory=BitMap)

    def reserve(self, release: Release, *, request: str, **_: Any) -> Run:
        if self.refuse:
            raise BudgetExceeded("No.")
        self.log.append("reserve")
        if request in self.runs:
            self.runs[request].resumed = True
            return self.runs[request]
        admitted = release.subjects - self.over_budget
        made = Run(
            f"run-{len(self.runs)}", admitted, left_out=len(release.subjects) - len(admitted)
        )
        self.runs[request] = made
        return made

    def settle(self, run_id: str) -> None:
        self.log.append("settle")
        self.run(run_id).state = "settled"

    def void(self, run_id: str, reason: str, **_: Any) -> None:
        self.log.append("void")
        self.run(run_id).state = "void"

    def run(self, run_id: str) -> Run:
        return next(run for run in self.runs.values() if run.run_id == run_id)


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A workspace with two shards of sixty invented people, every fifth held out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dpsgd_fit, "_ended", {})  # every test has a run-0
    raw = (PROJECT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(raw.replace("minimum: 500", "minimum: 20"))
    made = load_params()
    random = np.random.default_rng(5)
    rows = []
    for token in range(60):
        for rank in range(1 + token % 3):
            row: dict[str, Any] = {"token": token, "held_out": token % 5 == 0, "rank": rank}
            for name, (_, column) in made.taken_columns().items():
                if column.categories is not None:
                    row[name] = random.choice(column.categories)
                elif column.limits is not None:
                    row[name] = float(column.limits[0])
            rows.append(row)
    frame = pd.DataFrame(rows).astype({"token": "uint32", "rank": "int32"})
    workspace.SHARDS.mkdir(parents=True)
    for shard in (0, 1):
        own = frame[frame["token"] % 2 == shard]
        own.to_parquet(workspace.SHARDS / workspace.shard_name(shard))
    plan = Plan(
        sample_rate=0.5,
        steps=4,
        records_per_person=2,
        clip_norm=1.0,
        noise_multiplier=3.0,
        expected_batch_size=25.0,
        delta=1e-5,
    )
    write_json(workspace.PLAN, plan.to_data())
    write_json(workspace.ENCODING, Encoder.from_params(made).to_data())
    return made


def released() -> list[Path]:
    """What stands where others may read it."""
    places = (workspace.MODEL, workspace.MANIFEST, workspace.report_path("train"))
    return [path for path in places if path.exists()]


def go(params: Params, ledger: FakeLedger) -> dict[str, Any]:
    return stage.train_reserved(params, ledger, DpSgd(), now=NOW)


def test_report_says_what_was_trained_and_at_what_price(params: Params) -> None:
    report = go(params, FakeLedger())
    exact = private_reports.read(params.root, "train")
    assert exact["subjects"] == 48
    # Of the people 0..59 without every fifth: ranks 0 and 1 alone, as the plan says.
    assert exact["records"] == sum(min(2, 1 + t % 3) for t in range(60) if t % 5)
    assert exact["metrics"]["held_out_subjects"] == 12.0
    assert not {"subjects", "records", "left_out"} & set(report)
    assert (report["unit"], report["adjacency"]) == ("person", "add or remove one person")
    assert report["sampling"] == "Poisson over persons"
    assert 0 < report["epsilon_pld"] < report["epsilon_rdp"]
    assert all(metric["private"] is True for metric in report["metrics"].values())
    assert {"held_out_subjects", "subjects", "records"} <= set(report["metrics"])
    assert report["figures"]["epsilon_pld"] <= params.reporting.epsilon
    assert read_json(workspace.report_path("train")) == report


def test_the_manifest_is_everybody_who_trained_and_nobody_else(params: Params) -> None:
    go(params, FakeLedger(over_budget=BitMap([1, 2])))
    manifest = BitMap.deserialize(workspace.MANIFEST.read_bytes())
    assert manifest == BitMap(t for t in range(60) if t % 5 and t not in (1, 2))


def test_a_model_can_be_built_again_from_its_folder_alone(params: Params) -> None:
    go(params, FakeLedger())
    description = read_json(workspace.MODEL / "model.json")
    model = build_model(Architecture.from_data(description["architecture"]))
    model.load_state_dict(load_file(workspace.MODEL / "weights.safetensors"))
    assert Encoder.from_data(description["encoder"]) == Encoder.from_params(params)
    assert Plan.from_data(description["plan"]).steps == 4


def test_curves_have_few_points_and_show_no_single_record(params: Params) -> None:
    go(params, FakeLedger())
    roc = pd.read_csv(workspace.PLOTS / "roc.csv")
    assert list(roc) == ["private", "fpr", "tpr"]
    assert len(roc) <= 200
    assert list(pd.read_csv(workspace.PLOTS / "calibration.csv")) == [
        *("private", "predicted", "observed")
    ]
    assert roc["private"].all()


def test_nothing_is_drawn_and_nothing_written_when_the_ledger_refuses(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dpsgd_fit, "train", never)
    with pytest.raises(BudgetExceeded):
        go(params, FakeLedger(refuse=True))
    assert released() == []
    assert not stage.STAGING.exists()


class Talkative(DpSgd):
    facts = ()


def test_a_trainers_fact_that_it_does_not_declare_is_published_nowhere(params: Params) -> None:
    with pytest.raises(TrainingRefused, match=r"Talkative\.facts does not declare"):
        stage.train_reserved(params, FakeLedger(), Talkative(), now=NOW)
    assert released() == []
    assert list(Path(stage.STAGING).glob("*/report.json")) == []


def test_settled_before_published(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = FakeLedger()

    def killed(*_: Any) -> None:
        assert ledger.log == ["reserve", "reserve", "settle", "settle"]
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "_publish", killed)
    with pytest.raises(KeyboardInterrupt):
        go(params, ledger)
    assert released() == []


def test_killed_before_publishing_that_one_model_is_published(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = FakeLedger()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage, "_publish", interrupt)
        go(params, ledger)
    staged = (stage.STAGING / "run-0" / "model" / "weights.safetensors").read_bytes()
    monkeypatch.setattr(dpsgd_fit, "train", never)
    assert go(params, ledger)["run_id"] == "run-0"
    assert (workspace.MODEL / "weights.safetensors").read_bytes() == staged
    assert len(ledger.runs) == 2, "the training and its figures"


def test_killed_while_training_it_goes_on_under_the_same_charge(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = FakeLedger()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dpsgd_fit, "train", interrupt)
        go(params, ledger)
    assert released() == []
    assert go(params, ledger)["run_id"] == "run-0"
    assert len(ledger.runs) == 2, "the training and its figures"


def test_training_again_after_a_release_is_a_second_charge(params: Params) -> None:
    ledger = FakeLedger()
    first, second = go(params, ledger), go(params, ledger)
    assert (first["run_id"], first["figures"]["run_id"]) == ("run-0", "run-1")
    assert (second["run_id"], second["figures"]["run_id"]) == ("run-2", "run-3")
    assert [run.state for run in ledger.runs.values()] == ["settled"] * 4


def test_a_training_that_diverges_is_spent_for_good_and_publishes_nothing(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = FakeLedger()
    with monkeypatch.context() as patch, pytest.raises(NotFinite):
        patch.setattr(dpsgd_fit, "train", diverge)
        go(params, ledger)
    assert released() == []
    assert ledger.run("run-0").state == "settled"  # no one can void it
    assert ledger.run("run-1").state == "void"  # of its figures nothing was drawn
    assert go(params, ledger)["run_id"] == "run-2"  # another try is another charge


def test_a_number_that_is_not_finite_before_any_draw_spends_nothing_for_good(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = FakeLedger()
    with monkeypatch.context() as patch, pytest.raises(NotFinite):
        patch.setattr(stage, "person_data", diverge)
        go(params, ledger)
    assert ledger.run("run-0").state == ledger.run("run-1").state == "reserved"
    report = go(params, ledger)
    assert (report["run_id"], report["figures"]["run_id"]) == ("run-0", "run-1")


def diverge(*_: Any, **__: Any) -> None:
    raise NotFinite("A gradient is NaN.")


def _another_optimizer(path: Path) -> None:
    text = path.read_text()
    assert "averaging: " in text
    path.write_text(text.replace("name: sgd", "name: adam"))


def _another_record(path: Path) -> None:
    shard = workspace.SHARDS / workspace.shard_name(0)
    pd.read_parquet(shard).iloc[:-1].to_parquet(shard)


def _another_price_of_figures(path: Path) -> None:
    text = path.read_text()
    assert "reporting: {epsilon: 0.25" in text
    path.write_text(text.replace("reporting: {epsilon: 0.25", "reporting: {epsilon: 0.2"))


def _another_workspace(path: Path) -> None:
    stage.WORKSPACE_ID.unlink()


@pytest.mark.parametrize(
    "change",
    [_another_optimizer, _another_record, _another_price_of_figures, _another_workspace],
)
def test_another_training_is_another_request(
    params: Params, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    ledger = FakeLedger()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage, "_publish", interrupt)
        go(params, ledger)
    change(Path("params.yaml"))
    go(load_params(), ledger)
    assert [run.state for run in ledger.runs.values()] == ["settled"] * 4
    assert len({run.run_id for run in ledger.runs.values()}) == 4


def test_fewer_people_than_the_minimum_are_not_trained_on(params: Params) -> None:
    Path("params.yaml").write_text(
        Path("params.yaml").read_text().replace("minimum: 20", "minimum: 49")
    )
    ledger = FakeLedger()
    with pytest.raises(TooFewSubjects, match="fewer than 100 people may train"):
        go(load_params(), ledger)
    assert ledger.log == []


def test_without_a_plan_the_next_step_is_named(params: Params) -> None:
    workspace.PLAN.unlink()
    with pytest.raises(NotFound, match="budget"):
        go(params, FakeLedger())


def test_two_trainings_of_one_workspace_do_not_run_at_once(params: Params) -> None:
    with stage.alone(Path()), pytest.raises(Busy), stage.alone(Path()):
        pass


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("it was trained")


def test_the_stage_charges_the_real_ledger_before_it_publishes(params: Params) -> None:
    report = stage.run(params, now=NOW)
    with Ledger.open(params.stores.ledger) as ledger:
        record = ledger.run(report["run_id"])
        assert record.state == "settled"
        assert record.plan_digest == Plan.from_data(report["plan"]).digest
        assert record.eligible == BitMap.deserialize(workspace.MANIFEST.read_bytes())
        figures = ledger.run(report["figures"]["run_id"])
        assert (figures.state, figures.mechanism) == ("settled", "figures")
        spent = max(found.epsilon_rdp for found in ledger.classes())
        alone = max(
            found.epsilon_rdp for found in ledger.classes(figures.eligible - record.eligible)
        )
    assert report["epsilon_rdp"] == pytest.approx(epsilon_rdp([record.event], record.delta))
    assert report["figures"]["epsilon_rdp"] == pytest.approx(alone)
    assert spent == pytest.approx(epsilon_rdp([record.event, figures.event], record.delta))


OWN = """from torch import nn

class Net(nn.Linear):
    mean = 0.0
    def forward(self, x):
        {what}
        return super().forward(x)

def build(features, outputs):
    return Net(features, outputs)
"""


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("x = x - x.mean(0) if self.training else x", "in training mode: people mix"),
        ("x = x - x.mean(0) if len(x) > 40 else x", "people mix"),
        ("self.mean = self.mean + float(x.mean())", "'mean' changes"),
        ("x = x.double()", r"float32 features \(RuntimeError\)"),
    ],
)
def test_a_model_that_mixes_people_is_refused_before_anything_is_reserved(
    params: Params, what: str, said: str
) -> None:
    name = f"own_{abs(hash(what))}"
    Path(f"{name}.py").write_text(OWN.format(what=what))
    declared = replace(params, training=replace(params.training, model=f"{name}:build"))
    ledger = FakeLedger()
    with pytest.raises(TrainingRefused, match=said):
        stage.train_reserved(declared, ledger, DpSgd(), now=NOW)  # type: ignore[arg-type]
    assert ledger.log == []
    assert not list(Path().glob(".lethe/staging/*"))


def test_a_model_of_tied_weights_is_published_with_both_names(params: Params) -> None:
    Path("own_tied.py").write_text(
        """from torch import nn

def build(features, outputs):
    model = nn.Sequential(nn.Linear(features, 4), nn.Linear(4, 4), nn.Linear(4, 4),
                          nn.Linear(4, outputs))
    model[2].weight = model[1].weight
    return model
"""
    )
    declared = replace(params, training=replace(params.training, model="own_tied:build"))
    stage.train_reserved(declared, FakeLedger(), DpSgd(), now=NOW)  # type: ignore[arg-type]
    weights = load_file(workspace.MODEL / "weights.safetensors")
    assert weights["1.weight"].equal(weights["2.weight"])
