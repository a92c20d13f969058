"""A clip that follows a quantile: what it costs, where it goes, and what a plan refuses."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import dp_accounting as dp
import numpy as np
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from pyroaring import BitMap
from torch import Tensor, nn

from lethe.attacks import replay
from lethe.attacks.threads import helped
from lethe.config.training import Adaptive, Optimizer
from lethe.core.errors import FileDamaged, ParamsInvalid
from lethe.data.batches import PersonData
from lethe.privacy.noise.sampling import Keystream
from lethe.privacy.plan import AdaptiveClip, Plan
from lethe.privacy.planning import plan_from
from lethe.training.engines.reference import PlainEngine
from lethe.training.loop import CLIP_RANGE, DpStep, Execution, Task, TrainedModel, train
from lethe.training.parallel import Admission
from tests import trained_run

PEOPLE = 200
CLIP = AdaptiveClip(quantile=0.3, learning_rate=0.2, count_noise=5.0)
PLAN = Plan(
    sample_rate=0.5,
    steps=200,
    records_per_person=1,
    clip_norm=8.0,
    noise_multiplier=1.2,
    expected_batch_size=100.0,
    delta=1e-5,
    adaptive=CLIP,
)


def people() -> PersonData:
    """Gradients of norm 1/200, 2/200, … 1 under the loss of `output_as_loss`."""
    features = torch.arange(1, PEOPLE + 1).reshape(PEOPLE, 1, 1) / PEOPLE
    mask = torch.ones(PEOPLE, 1, dtype=torch.bool)
    labels = torch.zeros(PEOPLE, 1)
    return PersonData(features, mask, labels, np.arange(PEOPLE, dtype=np.uint32))


def model() -> nn.Module:
    return nn.Linear(1, 1, bias=False)


def trained(plan: Plan, *, processes: int = 1, **words: Any) -> TrainedModel:
    data, network = people(), model()
    reserved = Admission("run-1", BitMap(data.tokens))
    task = Task(plan, data, network, replay.output_as_loss, "bookkeeping", 1, 64)
    with helped(processes, task, reserved) as others:
        execution = Execution(keystream=lambda: Keystream(bytes(range(32))), others=others, **words)
        return train(task, reserved, Optimizer(learning_rate=0.1), execution)


@pytest.mark.parametrize(("z", "count_noise"), [(0.7, 0.4), (1.2, 5.0), (3.0, 1.6), (1.0, 400.0)])
def test_sum_and_count_together_cost_what_the_plan_says(z: float, count_noise: float) -> None:
    """Against the composition of both Gaussians by dp_accounting: sensitivities C and 1/2."""
    plan = replace(
        PLAN,
        noise_multiplier=z,
        expected_batch_size=1e3,
        adaptive=replace(CLIP, count_noise=count_noise),
    )
    both = dp.ComposedDpEvent(
        [dp.GaussianDpEvent(plan.gradient_noise_multiplier), dp.GaussianDpEvent(2 * count_noise)]
    )
    for made in (RdpAccountant, PLDAccountant):
        claimed = made().compose(dp.GaussianDpEvent(z)).get_epsilon(1e-5)
        assert made().compose(both).get_epsilon(1e-5) == pytest.approx(claimed, rel=2e-4)
    assert plan.gradient_noise_multiplier > z
    assert replay.noise_multiplier(plan) == pytest.approx(plan.gradient_noise_multiplier, rel=1e-6)
    assert plan.event == replace(plan, adaptive=None).event


def test_the_clip_goes_to_the_quantile_and_stays_there() -> None:
    clips = trained(PLAN).clips
    assert len(clips) == PLAN.steps
    assert clips[0] == PLAN.clip_norm
    # 0.3 of the norms are at most 0.3; the count's noise moves the share by 5/100 a step.
    assert np.median(clips[100:]) == pytest.approx(0.3, rel=0.1)


def test_a_step_follows_the_rule_of_the_paper() -> None:
    """One step by hand: b = 70 people within of 100 drawn, in a batch expected to be 100."""
    network = model()
    step = DpStep(
        PLAN, network, PlainEngine(network, replay.output_as_loss), Keystream(bytes(range(32)))
    )
    gradient, count = torch.ones(1), torch.tensor([70.0 - 50.0])
    assert step.follow([gradient, count]) == [gradient]
    assert step.clip_norm == pytest.approx(8.0 * math.exp(-0.2 * (0.7 - 0.3)))


def test_each_person_moves_the_count_by_half() -> None:
    network, data = model(), people()
    step = DpStep(
        replace(PLAN, clip_norm=0.5),
        network,
        PlainEngine(network, replay.output_as_loss),
        Keystream(bytes(range(32))),
    )
    whole = step.clipped_sum(data.features, data.mask, data.labels)[-1]
    assert float(whole) == 100 - 0.5 * 200
    for person in (0, 99, 100, 199):
        less = step.clipped_sum(
            *data.batch(torch.tensor([i for i in range(PEOPLE) if i != person]))
        )
        assert float(whole - less[-1]) == (0.5 if person < 100 else -0.5)


def test_the_clip_does_not_vanish_where_nobody_has_a_gradient() -> None:
    still = AdaptiveClip(quantile=0.01, learning_rate=1.0, count_noise=1.0)
    clips = trained(replace(PLAN, adaptive=still, clip_norm=1e5)).clips
    assert clips[-1] == pytest.approx(1e5 / CLIP_RANGE)


def test_over_processes_the_clip_is_the_same() -> None:
    plan = replace(PLAN, steps=20)
    one, two = trained(plan), trained(plan, processes=2)
    assert two.clips == pytest.approx(one.clips, rel=1e-6)
    assert len(set(one.clips)) == 20


class Killed(Exception):
    pass


def test_a_resumed_training_goes_on_with_the_clip_it_had(tmp_path: Path) -> None:
    """Everybody drawn and next to no noise: both move the same way."""
    plan = replace(
        PLAN,
        steps=8,
        sample_rate=1.0,
        noise_multiplier=1e-9,
        adaptive=replace(CLIP, count_noise=1e-6),
    )

    def killed(step: int, _: int) -> None:
        if step == 5:
            raise Killed

    words: dict[str, Any] = {"checkpoint": tmp_path / "c", "checkpoint_every": 2}
    unbroken = trained(plan)
    with pytest.raises(Killed):
        trained(plan, progress=killed, **words)
    resumed = trained(plan, **words)
    assert resumed.steps == 8
    assert resumed.clips == pytest.approx(unbroken.clips[4:], rel=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count_noise": 0.6}, "costs more than noise_multiplier=1.2 allows"),
        ({"count_noise": 0.1}, "Raise count_noise above half"),
        ({"count_noise": 101.0}, "sees nothing in 100 people"),
        ({"count_noise": 0.0}, "must be finite and above 0"),
        ({"count_noise": math.nan}, "must be finite and above 0"),
        ({"quantile": 1.0}, "must be in"),
        ({"learning_rate": 1.5}, "must be in"),
    ],
)
def test_what_cannot_be_paid_for_is_refused(change: dict[str, float], said: str) -> None:
    with pytest.raises(ParamsInvalid, match=said):
        replace(PLAN, adaptive=replace(CLIP, **change))


def test_a_moving_clip_with_noise_on_the_grid_of_one_clip_is_refused() -> None:
    with pytest.raises(ParamsInvalid, match="grid of discrete noise is made for one clip"):
        replace(PLAN, noise="discrete")


def test_a_plan_with_an_adaptive_clip_is_written_and_read_whole() -> None:
    assert Plan.from_data(PLAN.to_data()) == PLAN
    others = [None, replace(CLIP, count_noise=5.1), replace(CLIP, quantile=0.31)]
    digests = {replace(PLAN, adaptive=other).digest for other in others} | {PLAN.digest}
    assert len(digests) == 4
    for wrong in ({"quantile": 0.3}, {**PLAN.to_data()["adaptive"], "more": 1}, 7):
        with pytest.raises(FileDamaged, match=r"plan is not as Lethe writes it \(adaptive"):
            Plan.from_data({**PLAN.to_data(), "adaptive": wrong})


def test_declared_without_a_number_the_counts_noise_is_a_twentieth_of_the_batch() -> None:
    params = trained_run.params()
    mechanism = replace(params.training.mechanism, adaptive=Adaptive(quantile=0.7))
    plan = plan_from(replace(params, training=replace(params.training, mechanism=mechanism)))
    assert plan.adaptive == AdaptiveClip(quantile=0.7, learning_rate=0.2, count_noise=45 / 20)
    assert plan_from(params).adaptive is None


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


@pytest.mark.parametrize("clip_norm", [0.01, 0.5, 40.0])
def test_the_sums_noise_is_the_enlarged_one_in_the_clips_of_the_step(clip_norm: float) -> None:
    network = nn.Linear(200, 200)
    step = DpStep(PLAN, network, PlainEngine(network, replay.output_as_loss), Keystream(bytes(32)))
    step.clip_norm = clip_norm
    *noise, count = step.noisy(step.zeros())
    expected = 1 / math.sqrt(1 / 1.2**2 - 1 / 10.0**2) * clip_norm
    # 40,200 values: the standard deviation is known to 0.35 %; five of those
    assert float(flat(noise).std()) == pytest.approx(expected, rel=0.018)
    assert count.shape == (1,)
