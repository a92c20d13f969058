"""Every way to break the mechanism or its accounting turns the audit of a normal run red.

A run is trained on invented people; then the code that trains is changed as each test
says, and the audit stage looks at it. Changes are made in the source of the real
functions: where the text to change is gone, the test says so instead of passing.

The audit alarms at a sound run with probability 1e-6 at most; that it misses one of these
is less probable by far. Some of each kind go through a whole audit, the others through the
one look that must see them (`looks.only`), with the sizes and so the power that it has there.
"""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pyroaring import BitMap

from lethe.config import workspace
from lethe.config.params import Params
from lethe.core.errors import AuditContradiction
from lethe.core.files import read_json, write_json
from lethe.data import batches
from lethe.ledger.ledger import Ledger
from lethe.privacy import claim
from lethe.privacy.noise import sampling
from lethe.privacy.noise.gaussian import GaussianNoise
from lethe.privacy.noise.sampling import Keystream
from lethe.privacy.plan import AdaptiveClip, Plan
from lethe.privacy.release import Release
from lethe.stages import audit
from lethe.stages import train as train_stage
from lethe.training import loop, parallel
from tests import trained_run
from tests.attacks import looks
from tests.attacks.rewriting import rewrite

NOW = trained_run.NOW


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which a sound run was trained."""
    root = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        trained_run.write_people(trained_run.params())
        train_stage.run(trained_run.params(), now=NOW)
        looks.examine_run(trained_run.params())
    return root


@pytest.fixture
def trained(run_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, and the working directory."""
    root = tmp_path / "workspace"
    shutil.copytree(run_once, root)
    monkeypatch.chdir(root)
    return root


Patch = pytest.MonkeyPatch


def _clip(patch: Patch, factors: Callable[..., torch.Tensor]) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("lethe.training.") and hasattr(module, "clip_factors"):
            patch.setattr(module, "clip_factors", factors)


def no_noise(patch: Patch) -> None:
    rewrite(patch, GaussianNoise, "add", "t + part.view_as(t)", "t + 0 * part.view_as(t)")


def noise_at_half_scale(patch: Patch) -> None:
    rewrite(patch, loop.DpStep, "noisy", "* self.clip_norm", "* self.clip_norm / 2")


def noise_a_tenth_too_weak(patch: Patch) -> None:
    rewrite(patch, loop.DpStep, "noisy", "* self.clip_norm", "* self.clip_norm * 0.9")


def noise_without_the_clip(patch: Patch) -> None:
    """Only seen where the clip is not 1; the run of this test has another one."""
    rewrite(patch, loop.DpStep, "noisy", "* self.clip_norm", "* 1.0")


def noise_scaled_by_the_batch(patch: Patch) -> None:
    patch.setattr(loop, "_drawn", 0.0, raising=False)
    rewrite(
        patch,
        loop.DpStep,
        "clipped_sum",
        "sums, norms = self.engine(",
        "globals().update(_drawn=float(mask.any(1).sum()))\n    sums, norms = self.engine(",
    )
    rewrite(
        patch,
        loop.DpStep,
        "noisy",
        "* self.clip_norm",
        "* self.clip_norm * max(1.0, _drawn) / self.plan.expected_batch_size",
    )


def noise_in_the_first_layer_only(patch: Patch) -> None:
    rewrite(
        patch,
        GaussianNoise,
        "add",
        "return [t + part.view_as(t) for t, part in zip(sums, parts, strict=True)]",
        "return [sums[0] + parts[0].view_as(sums[0]), *(t.clone() for t in sums[1:])]",
    )


def noise_that_is_uniform(patch: Patch) -> None:
    def uniform(self: GaussianNoise, count: int) -> torch.Tensor:
        return (self._bits.int64(count).double() * 2.0**-64 * 12**0.5).float()

    patch.setattr(GaussianNoise, "normal", uniform)


def noise_for_each_physical_batch_is_shared_out(patch: Patch) -> None:
    """Noise is added where the parts of a batch are summed, not once in a step."""
    rewrite(
        patch,
        loop,
        "summed",
        "sum_.add_(part_sum)",
        "sum_.add_(part_sum).add_(\n"
        "    torch.randn_like(sum_) * step.plan.noise_multiplier * step.plan.clip_norm\n"
        ")",
    )


def clip_per_batch(patch: Patch) -> None:
    """The sum of everybody's whole gradients is cut to the clip, in place of each one's."""
    rewrite(patch, loop.DpStep, "clipped_sum", "clip_norm=self.clip_norm", "clip_norm=1e9")
    clipped = loop.DpStep.clipped_sum

    def cut(self: loop.DpStep, *people: torch.Tensor) -> list[torch.Tensor]:
        sums = clipped(self, *people)
        length = float(torch.cat([s.flatten() for s in sums]).norm())
        return [s * min(1.0, self.plan.clip_norm / max(length, 1e-30)) for s in sums]

    patch.setattr(loop.DpStep, "clipped_sum", cut)


def clip_per_batch_in_the_engine(patch: Patch) -> None:
    def factors(norms: torch.Tensor, clip_norm: float) -> torch.Tensor:
        whole = norms.sum().clamp_min(1e-30)
        return (clip_norm / whole).clamp_max(1.0).expand_as(norms)

    _clip(patch, factors)


def clip_to_a_mean_norm(patch: Patch) -> None:
    def factors(norms: torch.Tensor, clip_norm: float) -> torch.Tensor:
        return clip_norm / norms.mean().clamp_min(clip_norm).expand_as(norms)

    _clip(patch, factors)


def clip_not_at_all(patch: Patch) -> None:
    _clip(patch, lambda norms, clip_norm: torch.ones_like(norms))


def normalize_instead_of_clip(patch: Patch) -> None:
    """Everybody's gradient becomes as long as the clip: the bound holds, the plan does not."""
    _clip(patch, lambda norms, clip_norm: clip_norm / norms.clamp_min(1e-30))


def clip_twice_as_wide(patch: Patch) -> None:
    rewrite(
        patch,
        loop.DpStep,
        "clipped_sum",
        "clip_norm=self.clip_norm",
        "clip_norm=2 * self.clip_norm",
    )


def clip_per_record(patch: Patch) -> None:
    rewrite(
        patch,
        loop.DpStep,
        "clipped_sum",
        "sums, norms = self.engine(",
        "alone = [t.flatten(0, 1).unsqueeze(1) for t in (features, mask, labels)]\n"
        "    features, mask, labels = alone\n"
        "    sums, norms = self.engine(",
    )


def more_records_than_k_are_taken(patch: Patch) -> None:
    rows = batches.person_rows

    def all_of_them(*words: Any, records_per_person: int, **others: Any) -> batches.PersonData:
        return rows(*words, records_per_person=2 * records_per_person, **others)

    patch.setattr(batches, "person_rows", all_of_them)


def more_records_than_k_are_not_refused(patch: Patch) -> None:
    wide = "data.mask.shape[1] > plan.records_per_person"
    rewrite(patch, loop, "refuse_unreserved", wide, "False")
    wide = "mask.shape[1] > self.plan.records_per_person"
    rewrite(patch, loop.DpStep, "clipped_sum", wide, "False")


def k_is_not_enforced_anywhere(patch: Patch) -> None:
    more_records_than_k_are_taken(patch)
    more_records_than_k_are_not_refused(patch)


def a_subject_twice(patch: Patch) -> None:
    draw = sampling.poisson_draw

    def doubled(keystream: Keystream, subjects: int, sample_rate: float) -> Any:
        drawn = draw(keystream, subjects, sample_rate)
        return np.concatenate([drawn, drawn[:1]])

    patch.setattr(loop, "poisson_draw", doubled)


def drawn_with_replacement(patch: Patch) -> None:
    def draw(keystream: Keystream, subjects: int, sample_rate: float) -> Any:
        random = np.random.default_rng()
        count = random.binomial(subjects, sample_rate)
        return np.sort(random.integers(0, subjects, size=count))

    patch.setattr(loop, "poisson_draw", draw)


def a_subject_has_two_places(patch: Patch) -> None:
    rewrite(patch, loop, "refuse_unreserved", "len(people) != len(data)", "False")


def shuffling(patch: Patch) -> None:
    orders: dict[int, list[int]] = {}

    def draw(keystream: Keystream, subjects: int, sample_rate: float) -> Any:
        size = max(1, round(subjects * sample_rate))
        order = orders.setdefault(subjects, [])
        if len(order) < size:
            order[:] = np.random.default_rng().permutation(subjects).tolist()
        taken, order[:] = order[:size], order[size:]
        return np.array(sorted(taken), dtype=np.int64)

    patch.setattr(loop, "poisson_draw", draw)


def batches_of_a_fixed_size(patch: Patch) -> None:
    def draw(keystream: Keystream, subjects: int, sample_rate: float) -> Any:
        size = max(1, round(subjects * sample_rate))
        return np.sort(np.random.default_rng().permutation(subjects)[:size])

    patch.setattr(loop, "poisson_draw", draw)


def drawn_at_a_higher_rate(patch: Patch) -> None:
    draw = sampling.poisson_draw
    patch.setattr(loop, "poisson_draw", lambda k, n, q: draw(k, n, min(1.0, 1.1 * q)))


def drawn_from_a_seed(patch: Patch) -> None:
    draw = sampling.poisson_draw
    patch.setattr(loop, "poisson_draw", lambda k, n, q: draw(Keystream(bytes(32)), n, q))


def divided_by_the_drawn_batch(patch: Patch) -> None:
    divisor = "g / plan.expected_batch_size"
    rewrite(patch, loop, "train", divisor, "g / max(1, len(drawn))")


def divided_by_the_private_number_of_subjects(patch: Patch) -> None:
    divisor = "g / plan.expected_batch_size"
    rewrite(patch, loop, "train", divisor, "g / (plan.sample_rate * len(data))")


_DRAW = "drawn = torch.from_numpy(step.draw(len(data)))"


def empty_batches_skipped(patch: Patch) -> None:
    rewrite(patch, loop, "train", _DRAW, f"{_DRAW}\n        if not len(drawn): continue")


def empty_batches_skipped_and_reported(patch: Patch) -> None:
    message = "execution.progress and execution.progress(number + 1, plan.steps)"
    skip = f"{_DRAW}\n        if not len(drawn):\n            {message}\n            continue"
    rewrite(patch, loop, "train", _DRAW, skip)


def empty_batches_drawn_again(patch: Patch) -> None:
    again = f"{_DRAW}\n        while not len(drawn): {_DRAW}"
    rewrite(patch, loop, "train", _DRAW, again)


def noise_twice_from_one_seed(patch: Patch) -> None:
    def seeded(self: GaussianNoise, count: int) -> torch.Tensor:
        return torch.randn(count, generator=torch.Generator().manual_seed(0))

    patch.setattr(GaussianNoise, "normal", seeded)


def every_run_from_one_key(patch: Patch) -> None:
    patch.setattr(Keystream, "from_system", classmethod(lambda cls: cls(bytes(32))))
    rewrite(patch, loop, "train", "execution.keystream())", "Keystream(bytes(32)))")


def every_layer_the_same_noise(patch: Patch) -> None:
    def same(self: GaussianNoise, sums: Any, *, standard_deviation: float) -> list[torch.Tensor]:
        most = max(t.numel() for t in sums)
        noise = self.normal(most) * standard_deviation
        return [t + noise[: t.numel()].view_as(t) for t in sums]

    patch.setattr(GaussianNoise, "add", same)


def noise_that_comes_back_after_a_while(patch: Patch) -> None:
    normal = GaussianNoise.normal
    kept: dict[tuple[int, int], list[torch.Tensor]] = {}

    def recycled(self: GaussianNoise, count: int) -> torch.Tensor:
        pool = kept.setdefault((id(self), count), [])
        pool.append(pool[-50].clone() if len(pool) >= 50 else normal(self, count))
        return pool[-1].clone()

    patch.setattr(GaussianNoise, "normal", recycled)


def people_train_without_reservation(patch: Patch) -> None:
    rewrite(patch, loop, "refuse_unreserved", "if strangers:", "if False:")


def a_step_more_than_the_plan(patch: Patch) -> None:
    rewrite(patch, loop, "train", "range(done, plan.steps)", "range(done, plan.steps + 1)")


def the_plans_event_says_a_smaller_rate(patch: Patch) -> None:
    event = Plan.event.fget
    assert event is not None
    patch.setattr(
        Plan, "event", property(lambda self: event(replace(self, sample_rate=self.sample_rate / 2)))
    )


# Which check must be among those that see it.
IN_TRAINING: dict[Callable[[Patch], None], str] = {
    no_noise: "noise.scale",
    noise_at_half_scale: "noise.scale",
    noise_a_tenth_too_weak: "noise.scale",
    noise_without_the_clip: "noise.scale",
    noise_scaled_by_the_batch: "noise.any_batch",
    noise_in_the_first_layer_only: "noise.scale",
    noise_that_is_uniform: "noise.shape",
    noise_for_each_physical_batch_is_shared_out: "loop.noise_scale",
    clip_per_batch: "clipping.per_person",
    clip_per_batch_in_the_engine: "clipping.replay",
    clip_to_a_mean_norm: "clipping.replay",
    clip_not_at_all: "clipping.sensitivity",
    normalize_instead_of_clip: "clipping.per_person",
    clip_twice_as_wide: "clipping.sensitivity",
    clip_per_record: "clipping.sensitivity",
    more_records_than_k_are_taken: "people.most_records",
    more_records_than_k_are_not_refused: "refusal.too_many_records",
    k_is_not_enforced_anywhere: "people.records",
    a_subject_twice: "sampling.nobody_twice",
    drawn_with_replacement: "sampling.nobody_twice",
    a_subject_has_two_places: "refusal.place_twice",
    shuffling: "sampling.sizes",
    batches_of_a_fixed_size: "sampling.sizes",
    drawn_at_a_higher_rate: "sampling.rate",
    drawn_from_a_seed: "sampling.fresh_keys",
    divided_by_the_drawn_batch: "loop.crowd.shares",
    divided_by_the_private_number_of_subjects: "loop.crowd.shares",
    empty_batches_skipped: "loop.lonely.steps",
    empty_batches_skipped_and_reported: "loop.lonely.steps",
    empty_batches_drawn_again: "loop.lonely.rate",
    noise_twice_from_one_seed: "noise.independent",
    every_run_from_one_key: "loop.noise_independent",
    every_layer_the_same_noise: "noise.independent",
    noise_that_comes_back_after_a_while: "noise.no_repeats",
    people_train_without_reservation: "refusal.unreserved",
    a_step_more_than_the_plan: "loop.crowd.steps",
    the_plans_event_says_a_smaller_rate: "accounting.event",
}


# Where the looks beside the one that must see it run on the broken code as well.
IN_A_WHOLE_AUDIT = (no_noise, k_is_not_enforced_anywhere, people_train_without_reservation)


def _declared() -> Params:
    """With the clip of the plan that the run has."""
    return trained_run.params(adaptive=read_json(workspace.PLAN)["adaptive"])


def _must_see(check: str, patch: Patch, *, whole: bool) -> None:
    """The audit stops the pipeline, and the check is among those that failed."""
    if not whole:
        looks.only(patch, looks.look(check))
    with pytest.raises(AuditContradiction, match=check):
        audit.run(_declared(), now=NOW)
    assert check in _failed()


def _passes(*more: str) -> None:
    """A whole audit, with every look in it."""
    report = audit.run(_declared(), now=NOW)
    assert report["passed"] is True
    assert report["failed"] == []
    assert report["false_alarm_rate"] <= 1e-6
    assert {looks.look(check["name"]) for check in report["checks"]} == set(looks.LOOKS) - {
        "count"
    } | set(more)


def _failed() -> set[str]:
    report = json.loads(workspace.report_path("audit").read_text())
    assert report["passed"] is False
    assert report["failed"] == [c["name"] for c in report["checks"] if not c["passed"]]
    return set(report["failed"])


def test_a_sound_run_passes(trained: Path) -> None:
    _passes()


@pytest.mark.parametrize("mutation", IN_TRAINING, ids=lambda m: m.__name__)
def test_the_audit_turns_red(
    mutation: Callable[[Patch], None], trained: Path, monkeypatch: Patch
) -> None:
    mutation(monkeypatch)
    _must_see(IN_TRAINING[mutation], monkeypatch, whole=mutation in IN_A_WHOLE_AUDIT)


def every_process_sums_everybody(patch: Patch) -> None:
    rewrite(patch, parallel, "assist", "drawn[wire.rank :: wire.size]", "drawn")


def every_process_draws_by_itself(patch: Patch) -> None:
    """A helper sums people of a draw of its own."""
    own = "torch.from_numpy(loop.poisson_draw(Keystream.from_system(), len(task.data), q))"
    with_loop = f"(q := task.plan.sample_rate, {own})[1]"
    patch.setattr(parallel, "loop", loop, raising=False)
    rewrite(patch, parallel, "assist", "drawn[wire.rank :: wire.size]", with_loop)


def every_process_adds_noise(patch: Patch) -> None:
    loud = "part.add_(torch.randn_like(part) * task.plan.noise_multiplier * task.plan.clip_norm)"
    rewrite(patch, parallel, "assist", "wire.reduce(part)", f"wire.reduce({loud})")


def a_process_is_not_waited_for(patch: Patch) -> None:
    """Its people are drawn, and are in no sum."""
    rewrite(
        patch,
        parallel.Leader,
        "summed",
        "self._wire.reduce(part)",
        "self._wire.reduce(part.clone())",
    )


def the_sum_is_a_mean_over_processes(patch: Patch) -> None:
    rewrite(
        patch,
        parallel.Leader,
        "summed",
        "self._wire.reduce(part)",
        "(self._wire.reduce(part), part.div_(self.size))",
    )


def a_process_clips_twice_as_wide(patch: Patch) -> None:
    """A helper's people alone: the leader's own part looks sound."""
    message = "step.clip_norm = float(clip_norm)"
    rewrite(patch, parallel, "assist", message, "step.clip_norm = 2 * float(clip_norm)")


OVER_PROCESSES: dict[Callable[[Patch], None], str] = {
    every_process_sums_everybody: "loop.crowd.nobody_twice",
    every_process_draws_by_itself: "loop.crowd.nobody_twice",
    every_process_adds_noise: "loop.noise_scale",
    a_process_is_not_waited_for: "loop.crowd.rate",
    the_sum_is_a_mean_over_processes: "loop.crowd.shares",
    a_process_clips_twice_as_wide: "loop.crowd.nobody_twice",
}


def _as_of_two_processes() -> None:
    path = workspace.report_path("train")
    write_json(path, read_json(path) | {"processes": 2})


def test_a_sound_run_over_processes_passes(trained: Path) -> None:
    _as_of_two_processes()
    _passes()


@pytest.mark.parametrize("mutation", OVER_PROCESSES, ids=lambda m: m.__name__)
def test_the_audit_of_a_run_over_processes_turns_red(
    mutation: Callable[[Patch], None], trained: Path, monkeypatch: Patch
) -> None:
    _as_of_two_processes()
    mutation(monkeypatch)
    whole = mutation is every_process_sums_everybody
    _must_see(OVER_PROCESSES[mutation], monkeypatch, whole=whole)


MOVING = {"quantile": 0.6, "learning_rate": 0.2, "count_noise": 1.0}


@pytest.fixture(scope="module")
def adaptive_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which a run with an adaptive clip was trained."""
    root = tmp_path_factory.mktemp("adaptive")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        params = trained_run.params(adaptive=MOVING)
        trained_run.write_people(params)
        plan = replace(trained_run.plan_of(params), adaptive=AdaptiveClip(**MOVING))
        write_json(workspace.PLAN, plan.to_data())
        train_stage.run(params, now=NOW)
    return root


@pytest.fixture
def adaptive(adaptive_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "workspace"
    shutil.copytree(adaptive_once, root)
    monkeypatch.chdir(root)
    return root


_COUNTED = "self._noise.add(sums[-1:], standard_deviation=noise)"


def count_released_without_noise(patch: Patch) -> None:
    rewrite(patch, loop.DpStep, "noisy", _COUNTED, "[sums[-1].clone()]")


def count_with_half_its_noise(patch: Patch) -> None:
    rewrite(patch, loop.DpStep, "noisy", _COUNTED, _COUNTED.replace("=noise", "=noise / 2"))


def gradient_noise_not_enlarged_for_the_count(patch: Patch) -> None:
    enlarged = "self.plan.gradient_noise_multiplier"
    rewrite(patch, loop.DpStep, "noisy", enlarged, "self.plan.noise_multiplier")


def the_plans_own_enlargement_is_too_small(patch: Patch) -> None:
    patch.setattr(Plan, "gradient_noise_multiplier", property(lambda plan: plan.noise_multiplier))


def clip_follows_the_exact_count(patch: Patch) -> None:
    rewrite(patch, loop, "train", "step.follow(noisy)", "step.follow([*noisy[:-1], sums[-1]])")


def noise_stays_at_the_first_clip(patch: Patch) -> None:
    rewrite(patch, loop.DpStep, "noisy", "* self.clip_norm", "* self.plan.clip_norm")


def clip_moves_after_the_sum_and_before_its_noise(patch: Patch) -> None:
    """The noise is scaled by the next step's clip, which the exact count has made."""
    early = "step.follow(sums)\n        noisy = step.noisy(sums)"
    rewrite(patch, loop, "train", "noisy = step.noisy(sums)", early)


def people_are_counted_whole(patch: Patch) -> None:
    """A person then moves the count by 1, twice what its noise was made for."""
    rewrite(patch, loop.DpStep, "clipped_sum", "(within - 0.5).sum()", "within.sum()")


def norms_are_summed_in_place_of_people(patch: Patch) -> None:
    wide = "(norms / self.clip_norm).to(torch.float32)"
    rewrite(
        patch,
        loop.DpStep,
        "clipped_sum",
        "(norms <= self.clip_norm).to(torch.float32)",
        wide,
    )


ADAPTIVE: dict[Callable[[Patch], None], str] = {
    count_released_without_noise: "count.noise",
    count_with_half_its_noise: "count.noise",
    gradient_noise_not_enlarged_for_the_count: "noise.scale",
    the_plans_own_enlargement_is_too_small: "noise.scale",
    clip_follows_the_exact_count: "loop.clip_moves",
    noise_stays_at_the_first_clip: "loop.noise_scale",
    clip_moves_after_the_sum_and_before_its_noise: "loop.clip_moves",
    people_are_counted_whole: "count.sensitivity",
    norms_are_summed_in_place_of_people: "count.sensitivity",
}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_sound_run_with_an_adaptive_clip_passes(adaptive: Path, processes: int) -> None:
    if processes == 2:
        _as_of_two_processes()
    _passes("count")


@pytest.mark.parametrize("mutation", ADAPTIVE, ids=lambda m: m.__name__)
def test_the_audit_of_an_adaptive_clip_turns_red(
    mutation: Callable[[Patch], None], adaptive: Path, monkeypatch: Patch
) -> None:
    mutation(monkeypatch)
    whole = mutation is people_are_counted_whole
    _must_see(ADAPTIVE[mutation], monkeypatch, whole=whole)


def _charged_for(patch: Patch, change: Callable[[Plan], Plan]) -> None:
    reserve = Ledger.reserve

    def message(self: Ledger, release: Release, **others: Any) -> Any:
        plan = change(Plan.from_data(read_json(workspace.PLAN)))
        return reserve(self, plan.release(release.subjects), **others)

    patch.setattr(Ledger, "reserve", message)


def charged_for_a_smaller_rate(patch: Patch) -> None:
    _charged_for(patch, lambda plan: replace(plan, sample_rate=plan.sample_rate * 0.99))


def charged_for_fewer_steps(patch: Patch) -> None:
    _charged_for(patch, lambda plan: replace(plan, steps=plan.steps - 1))


def charged_for_more_noise(patch: Patch) -> None:
    louder = 1.01
    _charged_for(patch, lambda plan: replace(plan, noise_multiplier=plan.noise_multiplier * louder))


@dataclass(frozen=True)
class _Unpaid:
    run_id: str
    admitted: BitMap
    left_out: int = 0
    resumed: bool = False


def reservation_skipped(patch: Patch) -> None:
    patch.setattr(Ledger, "settle", lambda *words, **others: None)
    patch.setattr(
        Ledger, "reserve", lambda self, release, **others: _Unpaid("0" * 32, release.subjects)
    )


def reserved_for_half_the_people(patch: Patch) -> None:
    reserve = Ledger.reserve

    def half(self: Ledger, release: Release, **others: Any) -> Any:
        everybody = release.subjects
        few = replace(release, subjects=BitMap(list(everybody)[: len(everybody) // 2]))
        return _Unpaid(reserve(self, few, **others).run_id, everybody)

    patch.setattr(Ledger, "reserve", half)


def never_settled(patch: Patch) -> None:
    patch.setattr(Ledger, "settle", lambda *words, **others: None)


def epsilon_claimed_too_small(patch: Patch) -> None:
    epsilon = claim.epsilon_rdp
    patch.setattr(claim, "epsilon_rdp", lambda *words: 0.99 * epsilon(*words))


def pld_claimed_too_small(patch: Patch) -> None:
    epsilon = claim.epsilon_pld
    patch.setattr(claim, "epsilon_pld", lambda *words: 0.99 * epsilon(*words))


def held_out_people_train(patch: Patch) -> None:
    def everybody(paths: list[Path]) -> BitMap:
        tokens = [pd.read_parquet(path, columns=["token"])["token"] for path in paths]
        return BitMap(pd.concat(tokens).to_numpy(np.uint32))

    patch.setattr(train_stage, "eligible_people", everybody)


IN_A_RUN: dict[Callable[[Patch], None], str] = {
    charged_for_a_smaller_rate: "accounting.charged",
    charged_for_fewer_steps: "accounting.charged",
    charged_for_more_noise: "accounting.charged",
    reservation_skipped: "accounting.reserved",
    reserved_for_half_the_people: "accounting.covered",
    never_settled: "accounting.settled",
    epsilon_claimed_too_small: "accounting.epsilon_rdp",
    pld_claimed_too_small: "accounting.epsilon_pld",
    held_out_people_train: "people.held_out",
}


@pytest.mark.parametrize("mutation", IN_A_RUN, ids=lambda m: m.__name__)
def test_a_run_that_was_charged_or_filled_wrongly_turns_the_audit_red(
    mutation: Callable[[Patch], None], tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.chdir(tmp_path)
    trained_run.write_people(trained_run.params())
    with pytest.MonkeyPatch.context() as patch:
        mutation(patch)
        train_stage.run(trained_run.params(), now=NOW)
    _must_see(IN_A_RUN[mutation], monkeypatch, whole=mutation is reservation_skipped)
