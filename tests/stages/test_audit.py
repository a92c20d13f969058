"""The stage: what it reads, what it leaves, and when it stops the pipeline."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyroaring import BitMap
from safetensors.torch import load_file, save_file

from lethe.attacks import membership, verdicts
from lethe.attacks.statistics import ALPHA
from lethe.config import private_reports, transcripts, workspace
from lethe.core.errors import AuditContradiction, FileDamaged, NotFinite, NotFound
from lethe.core.files import read_json, write_json
from lethe.ledger.ledger import Ledger
from lethe.stages import audit
from lethe.stages import train as train_stage
from lethe.stores.opening import open_ledger
from tests import trained_run
from tests.attacks import looks

PARAMS = trained_run.params()


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        trained_run.write_people(PARAMS)
        train_stage.run(PARAMS, now=trained_run.NOW)
        looks.examine_run(PARAMS)
    return root


@pytest.fixture(scope="module", autouse=True)
def replayed_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        looks.replay_once(patch)
        yield


@pytest.fixture
def trained(run_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "workspace"
    shutil.copytree(run_once, root)
    monkeypatch.chdir(root)
    return root


def _run() -> dict[str, Any]:
    return audit.run(PARAMS, now=trained_run.NOW)


def _written() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(workspace.report_path("audit").read_text())
    return found


def _edit(path: Path, **changes: Any) -> None:
    write_json(path, read_json(path) | changes)


def test_the_report_is_what_is_returned_and_says_what_was_looked_at(trained: Path) -> None:
    report = _run()
    assert _written() == report
    assert private_reports.read(Path(), "audit")["failed"] == []
    assert report["passed"] is True
    assert report["private"] is False
    assert set(report) == {  # no list of people among them
        *("attack", "checks", "failed", "false_alarm_rate", "passed", "private", "run_id"),
        *("measured", "model_md5", "not_looked_at"),
    }
    assert report["attack"] == {"attempted": True, "kind": "loss threshold, per person"}
    assert set(report["measured"]) == {"run"}
    assert report["run_id"] == read_json(workspace.MODEL / "model.json")["run_id"]
    names = {check["name"].split(".")[0] for check in report["checks"]}
    assert names == {
        *("accounting", "people", "sampling", "clipping", "noise", "loop", "refusal"),
        *("training", "membership", "independence", "separation"),
        *("run", "draws_of_run", "noise_of_run"),
    }
    exact = private_reports.read(Path(), "audit")
    assert exact["attack"]["private"] is False
    assert [check["name"] for check in exact["checks"]] == [c["name"] for c in report["checks"]]
    said = {"name", "passed", "false_alarm_rate", "kind", "meaning"}
    for check, measured in zip(report["checks"], exact["checks"], strict=True):
        assert set(check) == said
        assert set(measured) == said | {"statistic", "threshold"}
        assert check.items() <= measured.items()


def test_what_was_measured_on_people_is_for_the_operator_alone(trained: Path) -> None:
    _run()
    exact = private_reports.read(Path(), "audit")
    assert {"auc", "epsilon_lower_bound", "people_in", "tpr_at_fpr"} < set(exact["attack"])
    public = _written()
    rates = {check.pop("false_alarm_rate") for check in public["checks"]}
    assert rates <= {0.0, ALPHA, membership.CONTRADICTION_ALPHA}
    del public["false_alarm_rate"]  # their sum
    assert not _has_a_number(public), "but public rates"
    assert sorted(path.name for path in workspace.PLOTS.iterdir()) == ["calibration.csv", "roc.csv"]
    for name in ("audit.json", "audit_roc.csv"):
        assert (private_reports.REPORTS / name).stat().st_mode & 0o777 == 0o600


def _has_a_number(data: Any) -> bool:
    if isinstance(data, dict | list):
        return any(map(_has_a_number, data.values() if isinstance(data, dict) else data))
    return isinstance(data, int | float) and not isinstance(data, bool)


def test_a_report_without_what_was_measured_is_enough_for_a_verdict(trained: Path) -> None:
    """As git brings it to another machine, which has no transcript and never looked."""
    first = _run()
    shutil.rmtree(trained / transcripts.VERDICTS)
    shutil.rmtree(trained / private_reports.PRIVATE)
    again = _run()
    assert again["checks"] == first["checks"]
    assert (again["passed"], again["false_alarm_rate"]) == (True, first["false_alarm_rate"])
    assert again["measured"]["run"]["looked"] == verdicts.Looked.ELSEWHERE


def test_all_alarms_together_are_rarer_than_one_in_a_million(trained: Path) -> None:
    report = _run()
    together = sum(check["false_alarm_rate"] for check in report["checks"])
    assert report["false_alarm_rate"] == pytest.approx(together)
    assert together <= 1e-6


def test_as_many_people_are_attacked_as_declared_half_of_them_members(trained: Path) -> None:
    _run()
    attacked = private_reports.read(Path(), "audit")["attack"]
    assert attacked["people_in"] == attacked["people_out"] == PARAMS.audit.subjects // 2


def test_the_curve_has_no_more_points_than_reveal_nobody(trained: Path) -> None:
    _run()
    curve = pd.read_csv(private_reports.REPORTS / "audit_roc.csv")
    assert list(curve.columns) == ["fpr", "tpr"]
    assert len(curve) <= 200
    assert curve["tpr"].is_monotonic_increasing
    assert curve.iloc[-1].tolist() == [1.0, 1.0]


def test_a_contradiction_is_written_before_the_pipeline_stops(trained: Path) -> None:
    _edit(workspace.report_path("train"), epsilon_rdp=0.01)
    with pytest.raises(AuditContradiction, match=r"1 of \d+ .*: accounting.epsilon_rdp\. Do not"):
        _run()
    report = _written()
    assert report["passed"] is False
    assert report["failed"] == ["accounting.epsilon_rdp"]


@pytest.mark.parametrize("claimed", [None, "much", 0.0])
def test_a_report_without_a_price_contradicts(trained: Path, claimed: object) -> None:
    _edit(workspace.report_path("train"), epsilon_pld=claimed)
    with pytest.raises(AuditContradiction):
        _run()
    assert _written()["failed"] == ["accounting.epsilon_pld"]


@pytest.mark.parametrize("more", [{"people": [4711]}, {"metrics": {"auc": {"of": 4711}}}])
def test_a_report_with_a_field_that_nobody_declared_is_refused(
    more: dict[str, Any], trained: Path
) -> None:
    _edit(workspace.report_path("train"), **more)
    with pytest.raises(FileDamaged, match=r"train\.json has fields that no report"):
        _run()


def test_a_model_of_another_plan_contradicts(trained: Path) -> None:
    plan = read_json(workspace.PLAN)
    write_json(workspace.PLAN, plan | {"steps": plan["steps"] + 1})
    with pytest.raises(AuditContradiction):
        _run()
    assert "accounting.plan" in _written()["failed"]
    assert "accounting.charged" in _written()["failed"]


def test_a_report_of_another_noise_contradicts(trained: Path) -> None:
    """Discrete noise is a claim of its own: a run with the other must not carry it."""
    _edit(workspace.report_path("train"), noise="discrete")
    with pytest.raises(AuditContradiction):
        _run()
    assert _written()["failed"] == ["accounting.statement"]


def test_more_steps_than_were_paid_for_contradict(trained: Path) -> None:
    _edit(workspace.report_path("train"), steps=PARAMS.training.mechanism.steps + 1)
    with pytest.raises(AuditContradiction):
        _run()
    assert _written()["failed"] == ["accounting.steps"]


def test_a_model_of_an_unknown_run_contradicts(trained: Path) -> None:
    _edit(workspace.MODEL / "model.json", run_id="0" * 32)
    with pytest.raises(AuditContradiction):
        _run()
    assert {"accounting.reserved", "accounting.settled", "accounting.charged"} <= set(
        _written()["failed"]
    )


def test_a_manifest_with_somebody_else_in_it_contradicts(trained: Path) -> None:
    manifest = BitMap.deserialize(workspace.MANIFEST.read_bytes())
    with open_ledger(PARAMS) as ledger:
        outside = audit.load_target(PARAMS, ledger).held_out()
    manifest.add(outside[0])
    workspace.MANIFEST.write_bytes(manifest.serialize())
    with pytest.raises(AuditContradiction):
        _run()
    assert {"accounting.covered", "accounting.subjects", "people.held_out"} <= set(
        _written()["failed"]
    )


def test_somebody_with_two_places_in_the_shards_is_one_person(trained: Path) -> None:
    path = workspace.SHARDS / workspace.shard_name(0)
    frame = pd.read_parquet(path)
    someone = frame[(frame["rank"] == 0) & ~frame["held_out"]].iloc[:1]
    pd.concat([someone, frame], ignore_index=True).to_parquet(path)
    report = _run()  # one more record of one person, still within K
    assert report["passed"] is True


def test_a_model_that_remembers_its_people_contradicts(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter([0.1, 5.0])
    losses = membership.person_losses
    monkeypatch.setattr(
        membership, "person_losses", lambda *words: losses(*words) * 0 + next(calls)
    )
    _edit(workspace.report_path("train"), epsilon_rdp=0.5)
    with pytest.raises(AuditContradiction):
        _run()
    assert "membership" in _written()["failed"]


def test_without_people_held_out_nothing_is_attacked_and_that_is_said(trained: Path) -> None:
    for path in workspace.SHARDS.glob("*.parquet"):
        frame = pd.read_parquet(path)
        frame[~frame["held_out"]].to_parquet(path)
    report = _run()
    assert report["passed"] is True
    assert report["attack"]["attempted"] is False
    assert pd.read_csv(private_reports.REPORTS / "audit_roc.csv").empty


@pytest.mark.parametrize(
    "path", ["data/plan.json", "data/manifest.roaring", "model/model.json", "reports/train.json"]
)
def test_without_a_trained_model_there_is_nothing_to_audit(trained: Path, path: str) -> None:
    Path(path).unlink()
    with pytest.raises(NotFound, match=path):
        _run()
    assert not workspace.report_path("audit").exists()


PLANTED = """
from pathlib import Path
Path("imported").touch()

def run(features, outputs):
    Path("called").touch()
"""


@pytest.mark.parametrize("name", ["planted:run", "os:mkdir", "lethe.cli.main:main", "logistic"])
def test_what_model_json_names_is_never_imported_or_called(trained: Path, name: str) -> None:
    """Whoever can write to a cache or a remote can write this file; params.yaml comes by git."""
    (trained / "planted.py").write_text(PLANTED)
    described = workspace.MODEL / "model.json"
    _edit(described, architecture=read_json(described)["architecture"] | {"model": name})
    with pytest.raises(FileDamaged, match="not of the model that is declared"):
        _run()
    assert not (trained / "imported").exists()
    assert not (trained / "called").exists()
    assert "planted" not in sys.modules
    assert not workspace.report_path("audit").exists()


def _an_extra_field(data: dict[str, Any]) -> None:
    data["loader"] = "os:system"


def _no_run_id(data: dict[str, Any]) -> None:
    del data["run_id"]


def _another_type(data: dict[str, Any]) -> None:
    data["run_id"] = {"$gt": ""}


def _a_number_as_text(data: dict[str, Any]) -> None:
    data["architecture"]["features"] = str(data["architecture"]["features"])


def _more_in_a_column(data: dict[str, Any]) -> None:
    data["encoder"]["features"][0]["column"]["parse"] = "os:system"


def _a_column_of_another_type(data: dict[str, Any]) -> None:
    data["encoder"]["features"][0]["column"]["bounds"] = "0 to 10"


def _another_encoding(data: dict[str, Any]) -> None:
    data["encoder"]["features"].pop()


def _a_feature_twice(data: dict[str, Any]) -> None:
    data["encoder"]["features"].append(data["encoder"]["features"][0])


def _larger_layers(data: dict[str, Any]) -> None:
    data["architecture"]["hidden"] = [10**9]


@pytest.mark.parametrize(
    "damage",
    [
        *(_an_extra_field, _no_run_id, _another_type, _a_number_as_text, _more_in_a_column),
        *(_a_column_of_another_type, _another_encoding, _a_feature_twice, _larger_layers),
    ],
)
def test_a_model_json_that_lethe_would_not_write_is_refused_whole(
    trained: Path, damage: Callable[[dict[str, Any]], None]
) -> None:
    path = workspace.MODEL / "model.json"
    data = read_json(path)
    damage(data)
    write_json(path, data)
    with pytest.raises(FileDamaged):
        _run()


@pytest.mark.parametrize(
    "change",
    [
        *({"steps": "20"}, {"steps": 20.5}, {"steps": True}, {"more": 1}, {"delta": float("nan")}),
        *({"noise": "os:system"}, {"adaptive": {"quantile": 0.5}}, {"sample_rate": [0.1]}),
    ],
)
def test_a_plan_that_lethe_would_not_write_is_refused_whole(
    trained: Path, change: dict[str, Any]
) -> None:
    workspace.PLAN.write_text(json.dumps(read_json(workspace.PLAN) | change))
    with pytest.raises(FileDamaged, match="plan"):
        _run()


@pytest.mark.parametrize(
    ("path", "content"),
    [
        *(("model/model.json", b"\x80\x04pickled"), ("model/model.json", b"[]")),
        *(("model/model.json", b"[" * 100_000), ("data/plan.json", b"null")),
        *(("reports/train.json", b"{"), ("data/manifest.roaring", b"not a bitmap")),
        *(("model/weights.safetensors", b""), ("model/weights.safetensors", b"PK\x03\x04")),
    ],
)
def test_damaged_files_are_one_error_and_no_report(
    trained: Path, path: str, content: bytes
) -> None:
    Path(path).write_bytes(content)
    with pytest.raises(FileDamaged, match=re.escape(path)):
        _run()
    assert not workspace.report_path("audit").exists()


def test_weights_of_another_network_are_refused(trained: Path) -> None:
    path = workspace.MODEL / "weights.safetensors"
    weights = load_file(path)
    save_file({f"{name}.more": tensor for name, tensor in weights.items()}, path)
    with pytest.raises(FileDamaged, match="weights"):
        _run()


def test_weights_that_are_not_numbers_stop_the_pipeline(trained: Path) -> None:
    path = workspace.MODEL / "weights.safetensors"
    weights = load_file(path)
    save_file({name: tensor * float("nan") for name, tensor in weights.items()}, path)
    with pytest.raises(NotFinite):
        _run()


def test_the_ledger_is_only_read(trained: Path) -> None:
    with Ledger.open(PARAMS.stores.ledger) as ledger:
        before = ledger.head()
    _run()
    with Ledger.open(PARAMS.stores.ledger) as ledger:
        assert ledger.head() == before
