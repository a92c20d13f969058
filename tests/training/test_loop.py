"""The loop: one step of the mechanism, and a training that cannot run unreserved."""

import hashlib
import io
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyroaring import BitMap
from torch import Tensor, nn

from lethe.config.training import Optimizer
from lethe.core.errors import NotFinite, TrainingRefused
from lethe.data.batches import PersonData
from lethe.privacy.noise.sampling import Keystream
from lethe.privacy.plan import Plan
from lethe.training.engines.reference import PlainEngine
from lethe.training.loop import DpStep, Execution, Task, train, train_plain
from lethe.training.models import binary_loss
from lethe.training.transcript import Recorder

KEY = bytes(range(32))


@dataclass
class Reservation:
    run_id: str = "run-1"
    admitted: BitMap = field(default_factory=lambda: BitMap(range(100)))


def plan(**words: Any) -> Plan:
    numbers: dict[str, Any] = {
        "sample_rate": 0.5,
        "steps": 3,
        "records_per_person": 2,
        "clip_norm": 0.25,
        "noise_multiplier": 2.0,
        "expected_batch_size": 10.0,
        "delta": 1e-5,
    }
    return Plan(**(numbers | words))


def people(count: int = 20, *, records: int = 2) -> PersonData:
    numbers = torch.Generator().manual_seed(3)
    features = torch.rand(count, records, 4, generator=numbers) * 2 - 1
    return PersonData(
        features=features,
        mask=torch.ones(count, records, dtype=torch.bool),
        labels=(features[..., 0] > 0).float(),
        tokens=np.arange(count, dtype=np.uint32),
    )


def model() -> nn.Linear:
    made = nn.Linear(4, 1)
    nn.init.zeros_(made.weight)
    nn.init.zeros_(made.bias)
    return made


def step(network: nn.Module, **words: Any) -> DpStep:
    return DpStep(plan(**words), network, PlainEngine(network, binary_loss), Keystream(KEY))


SGD = Optimizer(learning_rate=1.0)


def length(tensors: list[Tensor]) -> float:
    return float(torch.cat([t.flatten() for t in tensors]).double().norm())


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def run(network: nn.Module, data: PersonData | None = None, **words: Any) -> nn.Module:
    numbers = {k: words.pop(k) for k in list(words) if k in Plan.__dataclass_fields__}
    computed = {k: words.pop(k) for k in ("engine", "physical_batch") if k in words}
    reservation, optimizer = words.pop("reservation", Reservation()), words.pop("optimizer", SGD)
    task = Task(plan(**numbers), data or people(), network, binary_loss, **computed)
    execution = Execution(**({"keystream": lambda: Keystream(KEY)} | words))
    return train(task, reservation, optimizer, execution).model


def test_a_person_more_moves_the_sum_by_at_most_the_clip() -> None:
    data, made = people(), step(model())
    whole = made.clipped_sum(data.features, data.mask, data.labels)
    for person in range(len(data)):
        others = [i for i in range(len(data)) if i != person]
        less = made.clipped_sum(*data.batch(torch.tensor(others)))
        moved = length([a - b for a, b in zip(whole, less, strict=True)])
        assert 0 < moved <= 0.25 * (1 + 1e-5)


def test_noise_has_the_plans_scale_whatever_the_batch() -> None:
    network = nn.Linear(400, 100)
    for batch_size in (1.0, 1000.0):
        made = step(network, expected_batch_size=batch_size)
        zeros = [torch.zeros_like(p) for p in network.parameters()]
        realised = torch.cat([t.flatten() for t in made.noisy(zeros)])
        assert float(realised.std()) == pytest.approx(2.0 * 0.25, rel=0.03)


def test_an_empty_draw_is_a_step_of_pure_noise() -> None:
    network = model()
    run(network, sample_rate=1e-12, steps=1)
    assert weights(network).abs().min() > 0


def test_every_step_draws_new_noise() -> None:
    network, seen = model(), []
    run(network, sample_rate=1e-12, steps=4, progress=lambda *_: seen.append(weights(network)))
    moves = torch.diff(torch.stack([torch.zeros(5), *seen]), dim=0).flatten().tolist()
    assert len(set(moves)) == len(moves) == 20


def test_the_step_divides_by_the_public_batch_size_alone() -> None:
    """One step at rate 1 with noise too small to see: the sum of all over the plan's number."""
    data, network = people(), model()
    sums, _ = PlainEngine(network, binary_loss)(
        data.features, data.mask, data.labels, clip_norm=0.25
    )
    run(network, steps=1, sample_rate=1.0, noise_multiplier=1e-9, expected_batch_size=50.0)
    expected = -torch.cat([t.flatten() for t in sums]) / 50.0
    torch.testing.assert_close(weights(network), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("physical_batch", [1, 3, 1000])
def test_physical_batches_do_not_change_the_mechanism(physical_batch: int) -> None:
    whole, split = model(), model()
    run(whole)
    run(split, physical_batch=physical_batch)
    torch.testing.assert_close(weights(split), weights(whole), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ["bookkeeping", "functional", "opacus", "opacus_ghost"])
def test_every_engine_trains_the_same_model(engine: str) -> None:
    plain, other = model(), model()
    run(plain, engine="plain")
    run(other, engine=engine)
    torch.testing.assert_close(weights(other), weights(plain), rtol=1e-4, atol=1e-6)


def test_progress_gets_nothing_of_the_data() -> None:
    seen: list[tuple[int, int]] = []
    run(model(), progress=lambda *words: seen.append(words))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_two_trainings_in_production_draw_different_noise() -> None:
    first, second = model(), model()
    run(first, keystream=Keystream.from_system)
    run(second, keystream=Keystream.from_system)
    assert not torch.allclose(weights(first), weights(second))


def test_torch_and_numpy_seeds_have_no_part_in_it() -> None:
    first, second = model(), model()
    for network in (first, second):
        torch.manual_seed(1)
        np.random.seed(1)
        run(network, keystream=Keystream.from_system)
    assert not torch.allclose(weights(first), weights(second))


def test_somebody_outside_the_reservation_stops_the_training_before_any_draw() -> None:
    def never() -> Keystream:
        raise AssertionError("a keystream was asked for")

    network = model()
    with pytest.raises(TrainingRefused, match="1 people in the data are not in reservation run-1"):
        run(network, reservation=Reservation(admitted=BitMap(range(19))), keystream=never)
    assert weights(network).abs().max() == 0


def test_somebody_twice_in_the_data_is_refused() -> None:
    data = people()
    data.tokens[3] = 4
    with pytest.raises(TrainingRefused, match="more than once"):
        run(model(), data)


def test_more_records_than_the_plan_allows_are_refused() -> None:
    data = people(records=3)
    with pytest.raises(TrainingRefused, match="3 records"):
        run(model(), data)
    with pytest.raises(TrainingRefused, match="3 records"):
        step(model()).clipped_sum(data.features, data.mask, data.labels)


def test_a_delta_that_allows_to_publish_a_person_is_refused() -> None:
    with pytest.raises(TrainingRefused, match="1/subjects"):
        run(model(), delta=0.06)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stops_the_run(bad: float) -> None:
    data = people()
    data.features[7, 0, 0] = bad
    with pytest.raises(NotFinite, match="counts as spent"):
        run(model(), data, sample_rate=1.0)


@pytest.mark.parametrize("engine", ["bookkeeping", "functional", "opacus", "opacus_ghost", "plain"])
def test_a_loss_that_is_not_finite_stops_the_run_though_its_gradient_is(engine: str) -> None:
    data = people()
    data.labels[7, 1] = 7.0

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return outputs[..., 0] + torch.where(labels == 7, torch.inf, 0.0)

    numbers = plan(sample_rate=1.0)
    with pytest.raises(NotFinite, match="counts as spent"):
        train(Task(numbers, data, model(), loss, engine), Reservation(), SGD)
    data.mask[7, 1] = False  # an absent record may be anything
    train(Task(numbers, data, model(), loss, engine), Reservation(), SGD)


def test_weights_that_overflow_are_not_released() -> None:
    with pytest.raises(NotFinite, match="counts as spent"):
        run(model(), optimizer=Optimizer(learning_rate=3e38), noise_multiplier=1e3)


def test_momentum_is_the_classical_one() -> None:
    """Noise alone, seen step by step: velocity = 0.5 * velocity + gradient."""
    plain, heavy = model(), model()
    moves: list[Tensor] = []
    run(plain, sample_rate=1e-12, progress=lambda *_: moves.append(weights(plain)))
    run(heavy, sample_rate=1e-12, optimizer=Optimizer(learning_rate=1.0, momentum=0.5))
    g = torch.diff(torch.stack([torch.zeros(5), *moves]), dim=0)
    expected = g[0] + (0.5 * g[0] + g[1]) + (0.25 * g[0] + 0.5 * g[1] + g[2])
    torch.testing.assert_close(weights(heavy), expected, rtol=1e-5, atol=1e-6)


def test_averaging_is_the_bias_corrected_mean_of_the_iterates() -> None:
    plain, averaged = model(), model()
    seen: list[Tensor] = []
    run(plain, progress=lambda *_: seen.append(weights(plain)))
    run(averaged, optimizer=Optimizer(learning_rate=1.0, averaging=0.5))
    expected = (seen[0] * 0.25 + seen[1] * 0.5 + seen[2] * 1.0) / 1.75
    torch.testing.assert_close(weights(averaged), expected, rtol=1e-5, atol=1e-6)


def test_cosine_schedule_ends_near_zero() -> None:
    network, seen = model(), [torch.zeros(5)]
    made = Optimizer(learning_rate=1.0, schedule="cosine")
    run(network, optimizer=made, steps=40, progress=lambda *_: seen.append(weights(network)))
    moves = torch.diff(torch.stack(seen), dim=0).norm(dim=1)
    assert float(moves[-1]) < 0.02 * float(moves[0])


@pytest.mark.parametrize(
    "optimizer",
    [Optimizer(learning_rate=2.0, momentum=0.9), Optimizer(name="adam", learning_rate=0.1)],
)
def test_a_training_with_little_noise_learns(optimizer: Optimizer) -> None:
    data, network = people(100), model()
    run(
        network,
        data,
        optimizer=optimizer,
        steps=60,
        noise_multiplier=0.01,
        expected_batch_size=50.0,
    )
    answers = network(data.features.flatten(0, 1))[:, 0] > 0
    assert float((answers == data.labels.flatten().bool()).float().mean()) > 0.9


def test_the_comparison_without_privacy_learns_the_same_task() -> None:
    data = people(100)
    network = train_plain(Task(plan(steps=60), data, model(), binary_loss), SGD)
    answers = network(data.features.flatten(0, 1))[:, 0] > 0
    assert float((answers == data.labels.flatten().bool()).float().mean()) > 0.9


class Killed(Exception):
    pass


def killed_at(step: int) -> Any:
    def progress(done: int, _: int) -> None:
        if done == step:
            raise Killed

    return progress


def test_a_killed_training_goes_on_from_its_checkpoint_with_new_noise(tmp_path: Path) -> None:
    path, network, steps = tmp_path / "run.checkpoint", model(), []
    words: dict[str, Any] = {
        "checkpoint": path,
        "checkpoint_every": 2,
        "steps": 6,
        "optimizer": Optimizer(learning_rate=1.0, momentum=0.9, averaging=0.5),
        "keystream": Keystream.from_system,
    }
    with pytest.raises(Killed):
        run(network, progress=killed_at(5), **words)
    assert path.stat().st_mode & 0o777 == 0o600
    run(model(), progress=lambda done, _: steps.append(done), **words)
    assert steps == [5, 6]  # steps 1 to 4 are not done again, and not paid again


def test_a_resumed_training_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    """With noise too small to see and everybody drawn, both are the same descent."""
    words: dict[str, Any] = {
        "steps": 6,
        "sample_rate": 1.0,
        "noise_multiplier": 1e-9,
        "optimizer": Optimizer(name="adam", learning_rate=0.1, averaging=0.5),
    }
    unbroken, broken, resumed = model(), model(), model()
    run(unbroken, **words)
    words |= {"checkpoint": tmp_path / "c", "checkpoint_every": 2}
    with pytest.raises(Killed):
        run(broken, progress=killed_at(3), **words)
    run(resumed, **words)
    torch.testing.assert_close(weights(resumed), weights(unbroken), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "other", [{"noise_multiplier": 3.0}, {"reservation": Reservation(run_id="run-2")}]
)
def test_a_checkpoint_of_another_plan_or_run_is_refused(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    words: dict[str, Any] = {"checkpoint": tmp_path / "c", "checkpoint_every": 1}
    run(model(), **words)
    with pytest.raises(TrainingRefused, match="another plan or run"):
        run(model(), **words, **other)


def _cut_off(content: bytes) -> bytes:
    return content[:100]


def _a_bit_turned(content: bytes) -> bytes:
    return content[:-200] + bytes([content[-200] ^ 1]) + content[-199:]


def _something_else(content: bytes) -> bytes:
    return pickle.dumps({"step": 1})


@pytest.mark.parametrize("damage", [_cut_off, _a_bit_turned, _something_else, lambda _: b""])
def test_a_damaged_checkpoint_is_refused_and_never_begun_anew(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    words: dict[str, Any] = {"checkpoint": tmp_path / "c", "checkpoint_every": 1}
    run(model(), **words)
    damaged = damage((tmp_path / "c").read_bytes())
    (tmp_path / "c").write_bytes(damaged)
    with pytest.raises(TrainingRefused, match="damaged"):
        run(model(), **words)
    assert (tmp_path / "c").read_bytes() == damaged


class _Code:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(("version", "said"), [(2, "no checkpoint holds"), (1, "another version")])
def test_no_code_in_a_checkpoint_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, said: str
) -> None:
    """Its digest is right: whoever can write the file can also compute it."""
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    torch.save({"step": _Code()}, buffer)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).digest()
    Path("c").write_bytes(b"lethe checkpoint %d\n" % version + digest + content)
    with pytest.raises(TrainingRefused, match=said):
        run(model(), checkpoint=Path("c"))
    assert not Path("executed").exists()


def test_a_checkpoint_holds_no_key(tmp_path: Path) -> None:
    run(model(), checkpoint=tmp_path / "c", checkpoint_every=1)
    content = (tmp_path / "c").read_bytes()
    assert KEY not in content
    assert not any(KEY[i : i + 16] in content for i in range(17))


@pytest.mark.parametrize(
    "known", [lambda: Keystream(KEY), lambda: Keystream.from_system()], ids=["known", "hidden"]
)
def test_a_run_that_is_recorded_takes_its_key_from_the_system_alone(
    known: Callable[[], Any], tmp_path: Path
) -> None:
    recorder = Recorder(tmp_path, run_id="r", plan="p", limit=2**20)
    with pytest.raises(TrainingRefused, match="from the operating system alone"):
        run(model(), keystream=known, transcript=recorder)
    assert list(tmp_path.iterdir()) == []
    run(model(), keystream=Keystream.from_system, transcript=recorder)
    assert (tmp_path / "about.json").exists()
