"""Each training of a sweep on people is reserved before, and settled after."""

import dataclasses
from typing import Any

import pandas as pd
import pytest

from lethe.config import workspace
from lethe.config.params import Params
from lethe.core.errors import (
    NotFinite,
    TrainingRefused,
)
from lethe.data.encoding import Encoder
from lethe.data.shards import shard_paths
from lethe.ledger.ledger import Ledger
from lethe.privacy.accounting import epsilon_rdp
from lethe.sweep.grid import grid
from lethe.sweep.points import Network, free_points
from lethe.sweep.stand_in import generated
from lethe.training.trainer import Reserved
from tests import trained_run
from tests.sweep.fakes import FakeTrainer, points_of, states, unwatched


def test_each_training_is_reserved_before_and_settled_after(params: Params, ledger: Ledger) -> None:
    seen = []

    def look(reservation: Reserved) -> float:
        seen.append(ledger.run(reservation.run_id).state)
        return 0.6

    plans = grid(params, noise_multipliers=[2.0, 4.0], clips=[1.0])
    points = points_of(params, ledger, FakeTrainer(params, look), plans, repeats=2)
    assert seen == ["reserved"] * 4
    assert states(ledger) == ["settled"] * 4
    charged = [run.plan_digest for run in ledger.runs()]
    assert charged == [plans[0].digest] * 2 + [plans[1].digest] * 2
    assert [run for point in points for run in point.runs] == [r.run_id for r in ledger.runs()]
    (spent,) = ledger.classes(delta=1e-5)
    assert spent.epsilon_rdp == epsilon_rdp([p.event for p in plans for _ in range(2)], 1e-5)
    assert spent.subjects == trained_run.PEOPLE


def test_a_point_over_the_budget_is_not_trained_and_not_charged(
    params: Params, ledger: Ledger
) -> None:
    tight = dataclasses.replace(params, budget=dataclasses.replace(params.budget, epsilon=1.0))
    plans = grid(params, noise_multipliers=[8.0, 0.5], clips=[1.0])
    trainer = FakeTrainer(params, lambda reservation: 0.6)
    cheap, dear = points_of(tight, ledger, trainer, plans)
    assert (cheap.problem, cheap.aucs) == (None, (0.6,))
    assert (dear.problem, dear.aucs, dear.runs) == ("budget refused", (), ())
    assert trainer.plans == [plans[0]]
    assert len(ledger.runs()) == 1


def test_an_interrupted_training_is_given_back_and_nothing_after_it_runs(
    params: Params, ledger: Ledger
) -> None:
    def interrupted(reservation: Reserved) -> float:
        raise KeyboardInterrupt

    plans = grid(params, noise_multipliers=[8.0, 4.0], clips=[1.0])
    with pytest.raises(KeyboardInterrupt):
        points_of(params, ledger, FakeTrainer(params, interrupted), plans)
    assert states(ledger) == ["void"]
    assert "before anything of this point was shown" in ledger.runs()[0].reason


def test_a_training_that_diverged_stays_charged(params: Params, ledger: Ledger) -> None:
    def diverging(reservation: Reserved) -> float:
        raise NotFinite("A gradient is NaN.")

    (point,) = points_of(
        params,
        ledger,
        FakeTrainer(params, diverging),
        grid(params, noise_multipliers=[8.0], clips=[1.0]),
        3,
    )
    assert (point.problem, point.aucs, len(point.runs)) == ("diverged", (), 1)
    assert states(ledger) == ["settled"]


def test_the_same_sweep_again_is_charged_again(params: Params, ledger: Ledger) -> None:
    plans = grid(params, noise_multipliers=[8.0], clips=[1.0])
    for _ in range(2):
        points_of(params, ledger, FakeTrainer(params, lambda r: 0.6), plans)
    assert states(ledger) == ["settled", "settled"]


def test_a_killed_sweeps_reservation_is_used_and_not_charged_again(
    params: Params, ledger: Ledger
) -> None:
    plans = grid(params, noise_multipliers=[8.0], clips=[1.0])

    def killed(reservation: Reserved) -> float:
        raise SystemExit

    class Dead:
        """The ledger of a process that is killed: nothing of it voids."""

        def __getattr__(self, name: str) -> Any:
            return (lambda *words: None) if name == "void" else getattr(ledger, name)

    dead: Any = Dead()
    with pytest.raises(SystemExit):
        points_of(params, dead, FakeTrainer(params, killed), plans)
    assert states(ledger) == ["reserved"]
    points_of(params, ledger, FakeTrainer(params, lambda r: 0.6), plans)
    assert states(ledger) == ["settled"]


def test_held_out_people_of_one_label_stop_a_sweep_before_it_costs(
    params: Params, ledger: Ledger
) -> None:
    for path in shard_paths(workspace.SHARDS):
        frame = pd.read_parquet(path)
        frame.loc[frame["held_out"], "returned"] = "no"
        frame.to_parquet(path)
    with pytest.raises(TrainingRefused, match="1 of 2 labels"):
        points_of(params, ledger, FakeTrainer(params, lambda r: 0.6), grid(params, clips=[1.0]))
    assert ledger.runs() == []


def test_people_are_never_trained_on_without_privacy(params: Params) -> None:
    tried = generated(params, people=200, auc=0.7, base_rate=0.3, seed=1)
    trainer = Network(params.training, Encoder.from_params(params), "cpu")
    with pytest.raises(TrainingRefused, match="never trained on without privacy"):
        trainer.auc_without_privacy(
            trained_run.plan_of(params), dataclasses.replace(tried, kind="charged")
        )


def test_a_free_point_that_diverges_says_so_and_the_next_one_runs(params: Params) -> None:
    tried = generated(params, people=200, auc=0.7, base_rate=0.3, seed=1)
    plans = grid(params, noise_multipliers=[8.0, 4.0], clips=[1.0])

    def look(reservation: Reserved) -> float:
        if len(trainer.plans) == 1:
            raise NotFinite("A weight is NaN.")
        return 0.6

    trainer: Any = FakeTrainer(params, look)
    first, second = free_points(trainer, plans, tried, repeats=1, watch=unwatched)
    assert (first.problem, second.problem, second.aucs) == ("diverged", None, (0.6,))
