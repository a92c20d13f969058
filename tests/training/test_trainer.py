"""What every trainer promises; DP-SGD, and a toy that only this test knows."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import dp_accounting as dp
import numpy as np
import pytest
from pyroaring import BitMap

from lethe.config import workspace
from lethe.config.params import Params
from lethe.core.errors import BudgetExceeded, ParamsInvalid
from lethe.core.files import json_bytes, read_json
from lethe.data.batches import held_out_records, person_data
from lethe.data.encoding import Encoder
from lethe.data.shards import eligible_people, shard_paths
from lethe.ledger.ledger import Ledger
from lethe.privacy.release import Release
from lethe.stages import budget
from lethe.stages import train as stage
from lethe.training.dpsgd import DpSgd
from lethe.training.parallel import Admission
from lethe.training.trainer import Check, Reserved, Session, Shards, Trained, Trainer
from lethe.training.trainers import TRAINERS, trainer_of
from tests import trained_run

NOW = trained_run.NOW


@dataclass(frozen=True)
class NoisyCountPlan:
    """How many people have a positive record, with Laplace noise of `scale`."""

    scale: float
    delta: float
    records_per_person: int = 1

    def release(self, subjects: BitMap) -> Release:
        return Release(
            event=dp.LaplaceDpEvent(self.scale),  # one person moves the count by 1
            unit="person",
            adjacency="add or remove one person",
            sampling="everybody, without sampling",
            mechanism="noisy-count",
            digest=f"noisy-count {self.scale}",
            delta=self.delta,
            records_per_person=1,
            subjects=subjects,
        )

    def to_data(self) -> dict[str, Any]:
        return asdict(self)


class NoisyCount(Trainer[NoisyCountPlan]):
    def plan(self, params: Params) -> NoisyCountPlan:
        return NoisyCountPlan(2.0, params.budget.delta)

    def read_plan(self, data: Mapping[str, Any]) -> NoisyCountPlan:
        return NoisyCountPlan(**data)

    def fit(
        self, shards: Shards, reservation: Reserved, *, plan: NoisyCountPlan, session: Session
    ) -> Trained:
        count = float((shards.people.labels * shards.people.mask).amax(1).sum())
        noisy = count + np.random.default_rng().laplace(scale=plan.scale)
        return Trained(model={"model.json": json_bytes({"count": noisy})}, facts={"count": noisy})

    def checks(self, trained: Trained) -> list[Check]:
        return [Check("toy.count", -trained.facts["count"], 100.0, "no count is far below 0")]


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
        assert all(isinstance(content, bytes) for content in made[0].plots.values())

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
            (run,) = ledger.runs()
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
            ({"records": 10**6}, "training.records"),
            ({"records": float("nan")}, "training.records"),
        ],
    )
    def test_a_report_that_cannot_be_of_this_plan_fails_its_checks(
        self, params: Params, change: dict[str, Any], failed: str
    ) -> None:
        plan = self.trainer.plan(params)
        sound = {
            "plan": plan.to_data(),
            "clip_norm": plan.clip_norm,
            "records": 3,
            "subjects": 2,
        }
        assert all(c.passed for c in self.trainer.checks(Trained(model={}, facts=sound)))
        checks = self.trainer.checks(Trained(model={}, facts=sound | change))
        assert [c.name for c in checks if not c.passed] == [failed]


class TestNoisyCount(TrainerContract):
    trainer = NoisyCount()


def test_dp_sgd_is_what_is_declared_without_a_word() -> None:
    assert isinstance(trainer_of(trained_run.params().training), DpSgd)


@pytest.mark.parametrize("method", ["dpsdg", "pate", ""])
def test_a_kind_of_training_that_there_is_not_is_refused_by_name(method: str) -> None:
    training = replace(trained_run.params().training, method=method)
    with pytest.raises(ParamsInvalid, match=f"training.method '{method}' is none of dpsgd"):
        trainer_of(training)
