"""What every trainer promises; DP-SGD, and a toy that only this test knows."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import dp_accounting as dp
import mlflow
import numpy as np
import pandas as pd
import pytest
from pyroaring import BitMap
from safetensors.torch import save

from lethe.config import workspace
from lethe.config.params import Params
from lethe.core.errors import AuditContradiction, BudgetExceeded, ParamsInvalid
from lethe.core.files import json_bytes, md5, read_json, write_json, write_whole
from lethe.data.batches import held_out_records, person_data
from lethe.data.encoding import Encoder
from lethe.data.shards import eligible_people, shard_paths
from lethe.ledger.ledger import Ledger
from lethe.people.lineage import model_lineage
from lethe.privacy.claim import Claim
from lethe.privacy.release import Release
from lethe.registration.facts import release_of
from lethe.registration.gate import Evidence, objections
from lethe.registration.spending import spending
from lethe.stages import audit, budget, register
from lethe.stages import train as stage
from lethe.stores.dvc.repro import History
from lethe.stores.opened import OpenStores
from lethe.stores.registry.registry import Registry, Version, quiet
from lethe.training.description import WEIGHTS, Architecture, Description
from lethe.training.dpsgd import DpSgd
from lethe.training.models import build_model
from lethe.training.parallel import Admission
from lethe.training.trainer import Bound, Reserved, Session, Shards, Trained, Trainer
from lethe.training.trainers import TRAINERS, trainer_of
from tests import trained_run
from tests.asked import ask
from tests.stages.test_register import write_lock

NOW = trained_run.NOW


@dataclass(frozen=True)
class NoisyRatePlan:
    """How many people have a positive record, with Laplace noise of `scale`: a model's one bias."""

    scale: float
    delta: float
    expected: float
    records_per_person: int = 1
    noise: str = "laplace"

    def release(self, subjects: BitMap) -> Release:
        return Release(
            event=dp.LaplaceDpEvent(self.scale),  # one person moves the count by 1
            unit="person",
            adjacency="add or remove one person",
            sampling="everybody, without sampling",
            mechanism="noisy-rate",
            digest=hashlib.sha256(f"noisy-rate {self.scale}".encode()).hexdigest(),
            delta=self.delta,
            records_per_person=1,
            subjects=subjects,
        )

    def settings(self) -> dict[str, object]:
        return {"scale": self.scale}

    def to_data(self) -> dict[str, Any]:
        return asdict(self)


class NoisyRate(Trainer[NoisyRatePlan]):
    facts = ("count",)

    def plan(self, params: Params) -> NoisyRatePlan:
        expected = params.training.mechanism.expected_subjects
        return NoisyRatePlan(2.0, params.budget.delta, float(expected))

    def read_plan(self, data: Mapping[str, Any]) -> NoisyRatePlan:
        return NoisyRatePlan(**data)

    def fit(
        self, shards: Shards, reservation: Reserved, *, plan: NoisyRatePlan, session: Session
    ) -> Trained:
        count = float((shards.people.labels * shards.people.mask).amax(1).sum())
        noisy = count + np.random.default_rng().laplace(scale=plan.scale)
        architecture = Architecture("logistic", (), len(shards.encoder.names), 1)
        network = build_model(architecture)  # its weights are 0
        network[-1].bias.data.fill_(noisy / plan.expected)  # type: ignore[union-attr, operator]
        encoder, run_id = shards.encoder, reservation.run_id
        described = Description(architecture, encoder.classes, encoder, plan.to_data(), run_id)
        files = {"model.json": described.to_bytes(), WEIGHTS: save(network.state_dict())}
        return Trained(model=files, facts={"count": noisy})

    def checks(self, trained: Trained) -> list[Bound]:
        return [Bound("toy.count", -trained.facts["count"], 100.0, "no count is far below 0")]


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(tmp_path)
    made = trained_run.params()
    trained_run.write_people(made)
    return made


def _shards(params: Params, plan: Any, admitted: BitMap) -> Shards:
    paths, encoder = shard_paths(workspace.SHARDS), Encoder.from_params(params)
    return Shards(
        people=person_data(
            paths, encoder, admitted=admitted, records_per_person=plan.records_per_person
        ),
        held_out=held_out_records(paths, encoder),
        encoder=encoder,
        declared=params.training,
    )


class TrainerContract:
    """What the stage, the ledger and the audit rest on."""

    trainer: Trainer[Any]

    def test_the_same_declarations_give_the_same_plan(self, params: Params) -> None:
        assert self.trainer.plan(params) == self.trainer.plan(params)

    def test_a_plan_is_read_back_as_it_was_written(self, params: Params) -> None:
        plan = self.trainer.plan(params)
        data = json.loads(json_bytes(plan.to_data()))
        again = self.trainer.read_plan(data)
        assert again == plan
        people = BitMap([1])
        assert again.release(people).digest == plan.release(people).digest

    def test_a_plan_says_what_it_releases_and_that_can_be_charged(self, params: Params) -> None:
        plan, people = self.trainer.plan(params), BitMap([1, 2, 3])
        release = plan.release(people)
        assert release.subjects == people
        assert release.delta == params.budget.delta
        assert release.records_per_person == plan.records_per_person
        with Ledger.open(params.stores.ledger) as ledger:
            run = ledger.reserve(release, budget=params.budget, request="a", now=NOW)
            record = ledger.run(run.run_id)
        assert record.event == release.event
        assert (record.sampling, record.mechanism) == (release.sampling, release.mechanism)

    def test_two_fits_do_not_have_the_same_noise(self, params: Params, tmp_path: Path) -> None:
        plan = self.trainer.plan(params)
        admitted = eligible_people(shard_paths(workspace.SHARDS))
        made = [
            self.trainer.fit(
                _shards(params, plan, admitted),
                Admission(f"run-{n}", admitted),
                plan=plan,
                session=Session(checkpoint=tmp_path / f"{n}.checkpoint"),
            )
            for n in (1, 2)
        ]
        assert made[0].model != made[1].model
        assert list(made[0].model) == list(made[1].model)

    def test_it_is_planned_reserved_fitted_settled_and_published(
        self, params: Params, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(TRAINERS, "this", lambda: self.trainer)
        declared = replace(params, training=replace(params.training, method="this"))
        priced = budget.run(declared, now=NOW)
        report = stage.run(declared, now=NOW)
        release = self.trainer.plan(declared).release(BitMap())
        assert report["plan"] == priced["plan"]
        assert (report["sampling"], priced["sampling"]) == (release.sampling,) * 2
        assert priced["plan_digest"] == release.digest
        with Ledger.open(params.stores.ledger) as ledger:
            run, figures = ledger.runs()
        assert (figures.mechanism, figures.state) == ("figures", "settled")
        assert figures.eligible > run.eligible, "held-out people pay for figures too"
        assert (run.run_id, run.state) == (report["run_id"], "settled")
        assert (run.mechanism, run.sampling) == (release.mechanism, release.sampling)
        assert run.eligible == BitMap.deserialize(workspace.MANIFEST.read_bytes())
        files = {path.name: path.read_bytes() for path in workspace.MODEL.iterdir()}
        checks = self.trainer.checks(
            Trained(model=files, facts=read_json(workspace.report_path("train")))
        )
        assert checks
        assert [check.name for check in checks if not check.passed] == []

    def test_over_budget_nothing_is_fitted(
        self, params: Params, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(TRAINERS, "this", lambda: self.trainer)
        declared = replace(params, training=replace(params.training, method="this"))
        budget.run(declared, now=NOW)
        poor = replace(declared, budget=replace(params.budget, epsilon=1e-3))
        monkeypatch.setattr(type(self.trainer), "fit", _never)
        with pytest.raises(BudgetExceeded):
            stage.run(poor, now=NOW)


def _never(*_: Any, **__: Any) -> Trained:
    raise AssertionError("it was fitted")


class TestDpSgd(TrainerContract):
    trainer = DpSgd()

    @pytest.mark.parametrize(
        ("change", "failed"),
        [
            ({"clip_norm": 0.8}, "training.clip"),
        ],
    )
    def test_a_report_that_cannot_be_of_this_plan_fails_its_checks(
        self, params: Params, change: dict[str, Any], failed: str
    ) -> None:
        plan = self.trainer.plan(params)
        sound = {
            "plan": plan.to_data(),
            "clip_norm": plan.clip_norm,
        }
        assert all(c.passed for c in self.trainer.checks(Trained(model={}, facts=sound)))
        checks = self.trainer.checks(Trained(model={}, facts=sound | change))
        assert [c.name for c in checks if not c.passed] == [failed]


class TestNoisyRate(TrainerContract):
    trainer = NoisyRate()


@pytest.fixture
def toy(params: Params, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A workspace where the toy's model is trained and audited; its name is declared alone."""
    monkeypatch.setitem(TRAINERS, "noisy-rate", NoisyRate)
    training = replace(params.training, method="noisy-rate", model="logistic", hidden=())
    declared = replace(params, training=training)
    budget.run(declared, now=NOW)
    stage.run(declared, now=NOW)
    audit.run(declared, now=NOW)
    return declared


def test_a_toy_goes_through_audit_and_gate_to_the_facts_of_a_version(toy: Params) -> None:
    trained, audited = (read_json(workspace.report_path(s)) for s in ("train", "audit"))
    names = {check["name"].partition(".")[0] for check in audited["checks"]}
    assert names == {
        *("accounting", "independence", "membership", "people", "toy", "training"),
    }
    assert audited["passed"] is True
    evidence = _evidence(toy, trained, audited)
    assert objections(evidence) == []
    history = History(Path.cwd())
    made = release_of(toy, evidence, history, ledger_rows=2, ledger_head="h")
    assert made.tags["mechanism"] == "noisy-rate"
    assert made.tags["scale"] == "2.0"
    assert (made.tags["noise"], made.tags["sampling"]) == ("laplace", "everybody, without sampling")
    assert not {"sample_rate", "noise_multiplier", "clip_norm", "steps"} & set(made.tags)
    assert Claim.from_data(made.tags).epsilon_rdp == trained["epsilon_rdp"]
    assert "noise solved" not in made.tags["accountant"]
    assert [each.name for each in made.inputs] == ["stay", "ward"]
    seen = ask(spending, toy)["next"]
    assert (seen["epsilon_rdp"], seen["noise"]) == (trained["epsilon_rdp"], "laplace")
    assert "sample_rate" not in seen


def test_a_toys_release_is_charged_audited_and_registered_in_mlflow(
    toy: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register, "count_withdrawn", lambda *_: 0)  # there is no source to ask
    people = eligible_people(shard_paths(workspace.SHARDS))
    write_whole(workspace.SUBJECTS, people.serialize())
    write_json(workspace.report_path("validate"), {"passed": True})
    write_lock(Path.cwd(), "d" * 32 + ".dir")
    registered = register.run(toy, now=NOW)
    assert (registered["version"], registered["aliases"]) == (1, ["candidate"])
    assert "no auc was measured" in registered["reasons"], "so a toy is no champion by itself"
    trained = read_json(workspace.report_path("train"))
    with OpenStores(toy) as stores:
        run, _ = stores.ledger.runs()
        version = stores.registry.find("return", "1")
        found = model_lineage(stores, "return/1")
        assert stores.ledger.head()[0] == int(version.tags["ledger_rows"])
    assert (run.run_id, run.state, run.mechanism) == (trained["run_id"], "settled", "noisy-rate")
    assert run.event == dp.LaplaceDpEvent(2.0)
    assert version.tags["run_id"] == run.run_id
    assert (version.tags["mechanism"], version.tags["scale"]) == ("noisy-rate", "2.0")
    assert "toy 1" in version.tags["audit"]
    said = trained["metrics"]["subjects"]
    assert (found["subjects"], found["epsilon_rdp"]) == (said["value"], trained["epsilon_rdp"])
    with quiet():
        served = mlflow.pyfunc.load_model(_place_of(toy, version))
    (said,) = served.predict(pd.DataFrame({"stay": [3], "ward": ["north"]})).to_numpy().ravel()
    assert said == pytest.approx(1 / (1 + math.exp(-trained["count"] / 450)))
    again = register.run(toy, now=NOW)
    assert again == registered, "registered once"


def _place_of(params: Params, version: Version) -> str:
    registry = Registry.open(params.address(params.stores.registry))
    place: str = registry.client.get_logged_model(version.logged_model).artifact_location
    return place


@pytest.mark.parametrize("changed", ["sampling", "delta", "epsilon_pld", "noise", "unit"])
def test_a_toys_claim_that_is_not_what_it_released_contradicts(toy: Params, changed: str) -> None:
    report = read_json(workspace.report_path("train"))
    other: dict[str, Any] = {"delta": 1e-9, "epsilon_pld": 0.01}
    write_json(workspace.report_path("train"), report | {changed: other.get(changed, "other")})
    with pytest.raises(AuditContradiction, match=r"accounting\.(statement|epsilon_pld)"):
        audit.run(toy, now=NOW)


def test_a_trainer_without_a_check_of_its_own_is_not_passed(
    toy: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NoisyRate, "checks", lambda self, trained: [])
    with pytest.raises(AuditContradiction, match=r"training\.facts"):
        audit.run(toy, now=NOW)


def test_what_says_that_it_is_dp_sgd_is_replayed_as_dp_sgd(
    toy: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = NoisyRatePlan.release
    monkeypatch.setattr(
        NoisyRatePlan, "release", lambda *of: replace(release(*of), mechanism="dp-sgd")
    )
    with pytest.raises(AuditContradiction, match=r"loop\.replay"):
        audit.run(toy, now=NOW)


def test_another_digest_than_was_charged_is_refused_by_the_gate(toy: Params) -> None:
    trained, audited = (read_json(workspace.report_path(s)) for s in ("train", "audit"))
    evidence = _evidence(toy, trained, audited)
    other = replace(evidence, run_plan_digest="0" * 64)
    assert objections(other) == ["the ledger was charged for another plan"]


def _evidence(params: Params, trained: dict[str, Any], audited: dict[str, Any]) -> Evidence:
    """What register gathers, with DVC and the source left out."""
    with Ledger.open(params.stores.ledger) as ledger:
        record = ledger.run(trained["run_id"])
        (spent,) = ledger.classes(record.eligible, delta=params.budget.delta)
    manifest = md5(workspace.MANIFEST.read_bytes())
    return Evidence(
        validation={"passed": True},
        audit={**audited, "model_md5": "m"},
        training=trained,
        plan=trainer_of(params.training).read_plan(read_json(workspace.PLAN)),
        described_run=trained["run_id"],
        run_state=record.state,
        run_plan_digest=record.plan_digest,
        run_manifest_md5=record.manifest_md5,
        largest_spend=spent.epsilon_rdp,
        budget_epsilon=params.budget.epsilon,
        manifest_md5=manifest,
        subjects=len(record.eligible),
        withdrawn=0,
        recorded={"data": "d", "subjects": "s", "manifest": manifest, "model": "m"},
        used={"train": "d", "validate": "d"},
        model_is_recorded=True,
        audit_code="",
    )


def test_dp_sgd_is_what_is_declared_without_a_word() -> None:
    assert isinstance(trainer_of(trained_run.params().training), DpSgd)


@pytest.mark.parametrize("method", ["dpsdg", "pate", ""])
def test_a_kind_of_training_that_there_is_not_is_refused_by_name(method: str) -> None:
    training = replace(trained_run.params().training, method=method)
    with pytest.raises(ParamsInvalid, match=f"training.method '{method}' is none of dpsgd"):
        trainer_of(training)
