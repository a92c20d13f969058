"""`lethe audit --deep`: what it reads, what it leaves, and when it ends with a contradiction."""

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pyroaring import BitMap

from docs.generate import fields
from lethe.config import workspace
from lethe.core.errors import AuditContradiction, FileDamaged, NotFound
from lethe.core.files import write_json
from lethe.privacy.claim import Claim
from lethe.privacy.noise.gaussian import GaussianNoise
from lethe.registration import lower_bound
from lethe.reports.card import model_card
from lethe.stages import deep_audit
from tests import trained_run
from tests.docs.test_tutorial import _compare, _paths

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
PARAMS = trained_run.params()
PLAN = replace(trained_run.plan_of(PARAMS), sample_rate=0.2, noise_multiplier=1.0)
TRIALS = 4096


def write_training() -> None:
    """The report of a training, and no data of anybody."""
    workspace.REPORTS.mkdir()
    claim = Claim.of(PLAN.release(BitMap([1])), noise=PLAN.noise)
    facts = {"engine": "bookkeeping", "plan": PLAN.to_data(), "run_id": "run-1"}
    write_json(workspace.report_path("train"), {**claim.to_data(), **facts})
    write_json(Path("behaviour.json"), {"train": "code-1"})


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_training()
    return tmp_path


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("deep"))
        write_training()
        found = deep_audit.run(PARAMS, now=NOW, trials=TRIALS)
        assert json.loads(lower_bound.REPORT.read_text()) == found
        written = {path.name for path in Path().rglob("*") if path.is_file()}
        assert written == {"behaviour.json", "deep_audit.json", "train.json"}
    return found


def test_a_sound_plan_is_bounded_below_its_claim(report: Mapping[str, Any]) -> None:
    assert report["passed"] is True
    assert report["failed"] == []
    assert 0 < report["epsilon_lower_bound"] < report["epsilon_claimed"]
    assert report["interval_95"]["low"] < report["epsilon_claimed"] < report["interval_95"]["high"]
    assert report["confidence"] == 1 - report["false_alarm_rate"] > 1 - 1e-6
    assert (report["run_id"], report["training_code"]) == ("run-1", "code-1")
    assert report["private"] is True
    assert report["plan_digest"] == PLAN.digest


def test_every_field_of_the_report_has_a_meaning(report: Mapping[str, Any]) -> None:
    words = fields.described()["reports"]["sections"]["deep_audit.json?"]
    _compare(set(_paths(report)), words, what="deep_audit.json")


def test_it_is_said_in_a_sentence_beside_the_claim(report: Mapping[str, Any]) -> None:
    said = deep_audit.render(report)
    assert "at least" in said
    assert "claimed are" in said
    assert f"{report['trials']} coins" in said


def test_noise_at_half_scale_is_a_contradiction_and_is_written_first(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    normal = GaussianNoise.normal

    def weak(self: GaussianNoise, count: int) -> torch.Tensor:
        return normal(self, count) / 2

    monkeypatch.setattr(GaussianNoise, "normal", weak)
    with pytest.raises(AuditContradiction, match="Withdraw the models"):
        deep_audit.run(PARAMS, now=NOW, trials=TRIALS)
    found = json.loads(lower_bound.REPORT.read_text())
    assert found["passed"] is False
    assert found["epsilon_lower_bound"] > found["epsilon_claimed"]
    assert "canaries.steps.one_record.tradeoff" in found["failed"]


def test_nothing_trained_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound, match="up to train"):
        deep_audit.run(PARAMS, now=NOW)


@pytest.mark.parametrize("written", [{}, {"plan": None}, {"plan": [1]}])
def test_a_report_without_a_plan_is_damaged(trained: Path, written: dict[str, Any]) -> None:
    write_json(workspace.report_path("train"), written)
    with pytest.raises(FileDamaged):
        deep_audit.run(PARAMS, now=NOW)


def test_a_version_of_the_same_plan_and_code_carries_it(
    trained: Path, report: Mapping[str, Any]
) -> None:
    assert lower_bound.known(PARAMS, PLAN.digest) == {}
    write_json(lower_bound.REPORT, report)
    tags = lower_bound.known(PARAMS, PLAN.digest)
    sections = fields.described()["tags"]["sections"].values()
    assert {f"{name}?" for name in tags} <= {name for section in sections for name in section}
    assert float(tags["epsilon_lower_bound"]) <= report["epsilon_lower_bound"]
    page = model_card(tags, {}, []).markdown()
    assert tags["epsilon_lower_bound"] in page
    assert "epsilon that they show at least" in page


def test_a_version_of_another_plan_or_code_does_not(
    trained: Path, report: Mapping[str, Any]
) -> None:
    write_json(lower_bound.REPORT, report)
    assert lower_bound.known(PARAMS, "another plan") == {}
    write_json(Path("behaviour.json"), {"train": "code-2"})
    assert lower_bound.known(PARAMS, PLAN.digest) == {}
    Path("behaviour.json").unlink()
    assert lower_bound.known(PARAMS, PLAN.digest) == {}


class FakeRegistry:
    """Keeps what is written to the one version that it has."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}

    def of_run(self, name: str, run_id: str) -> str | None:
        return "version" if (name, run_id) == (PARAMS.registration.name, "run-1") else None

    def tag(self, version: str, key: str, value: str) -> None:
        self.tags[key] = value


@pytest.mark.parametrize("run_id", ["run-1", "run-2"])
def test_the_version_that_came_of_the_training_is_tagged_and_no_other(
    trained: Path, report: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch, run_id: str
) -> None:
    registry = FakeRegistry()
    monkeypatch.setattr(lower_bound, "exists", lambda url: True)
    monkeypatch.setattr(lower_bound.Registry, "open", lambda url: registry)
    lower_bound.tag(PARAMS, {**report, "run_id": run_id})
    assert registry.tags == (lower_bound.tags_of(report) if run_id == "run-1" else {})


def test_no_registry_is_made_to_tag_nothing(trained: Path, report: Mapping[str, Any]) -> None:
    before = sorted(Path().rglob("*"))
    lower_bound.tag(PARAMS, report)
    assert sorted(Path().rglob("*")) == before


def test_the_bound_is_never_shown_above_what_was_measured() -> None:
    said = {
        "at": "2026-03-01T00:00:00+00:00",
        "checks": [1, 2],
        "confidence": 0.99,
        "epsilon_lower_bound": 0.73456,
        "failed": ["a", "b"],
        "interval_95": {"high": 1.00001, "low": 0.89999},
    }
    tags = lower_bound.tags_of(said)
    assert tags["epsilon_lower_bound"] == "0.7345"
    assert tags["epsilon_shown_95"] == "0.8999 to 1.0001"
    assert tags["deep_audit"] == "contradicted: a, b"
