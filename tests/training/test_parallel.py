"""A training over several processes is the mechanism of one; threads play them here."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pyroaring import BitMap
from torch import Tensor, nn

from lethe.attacks import threads
from lethe.attacks.statistics import ALPHA, mean_p, shape_p, variance_p
from lethe.config.training import Optimizer
from lethe.core.errors import NotFinite, ProcessLost, TrainingRefused
from lethe.data.batches import PersonData
from lethe.privacy.noise.sampling import Keystream
from lethe.privacy.plan import Plan
from lethe.training import parallel
from lethe.training.description import Architecture
from lethe.training.loop import DpStep, Execution, Task, summed, train
from lethe.training.models import binary_loss, build_model
from lethe.training.parallel import Admission, NoKeystream
from lethe.training.wire import Place, device_of

KEY = bytes(range(32))
PLAN = Plan(
    sample_rate=0.4,
    steps=4,
    records_per_person=2,
    clip_norm=0.25,
    noise_multiplier=2.0,
    expected_batch_size=16.0,
    delta=1e-5,
)


def people(count: int = 41) -> PersonData:
    numbers = torch.Generator().manual_seed(3)
    features = torch.rand(count, 2, 4, generator=numbers) * 2 - 1
    mask = torch.ones(count, 2, dtype=torch.bool)
    mask[::3, 1] = False
    return PersonData(
        features, mask, (features[..., 0] > 0).float(), np.arange(count, dtype=np.uint32)
    )


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return build_model(Architecture("mlp", (8,), 4, 1))


def task(**changes: Any) -> Task:
    made = Task(PLAN, people(), model(), binary_loss, "bookkeeping", 1, 7)
    return replace(made, **changes)


def admission(of: Task) -> Admission:
    return Admission("run-1", BitMap(of.data.tokens))


def trained(processes: int, of: Task, **words: Any) -> nn.Module:
    with threads.helped(processes, of, admission(of)) as others:
        optimizer = words.pop("optimizer", Optimizer(learning_rate=0.5))
        execution = Execution(others=others, **({"keystream": fixed} | words))
        made = train(of, admission(of), optimizer, execution)
    return made.model


def fixed() -> Keystream:
    return Keystream(KEY)


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


def weights(network: nn.Module) -> Tensor:
    return flat(list(network.parameters()))


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("drawn", [[], [4], [0, 3, 5, 8, 13, 21, 34, 40], list(range(41))])
def test_the_sum_over_processes_is_that_of_one(processes: int, drawn: list[int]) -> None:
    made = task()
    network = made.model
    with threads.helped(processes, made, admission(made)) as others:
        assert others is not None
        engine = parallel.prepared_engine(made, network)
        step = DpStep(PLAN, network, engine, fixed())

        def sum_of(positions: Tensor) -> list[Tensor]:
            return summed(step, made, positions, device="cpu")

        positions = torch.tensor(drawn, dtype=torch.int64)
        alone = [part.clone() for part in sum_of(positions)]
        together = others.summed(step, positions, sum_of)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    assert (float(flat(alone).norm()) > 0) == bool(drawn)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_two_processes_train_the_model_that_one_trains(optimizer: Any) -> None:
    """Under one key: the same draws, the same noise, once; sums in another order."""
    words = {"optimizer": Optimizer(name=optimizer, learning_rate=0.1, averaging=0.5)}
    one, two = trained(1, task(), **words), trained(2, task(), **words)
    torch.testing.assert_close(weights(two), weights(one), rtol=1e-4, atol=1e-5)


def test_noise_over_processes_is_the_plans_and_not_each_ones_own() -> None:
    """With nobody's records all that is left is noise; false alarms 3e-8 together."""
    made = task(plan=replace(PLAN, steps=150))
    empty = replace(made, data=replace(made.data, mask=torch.zeros_like(made.data.mask)))
    seen = [weights(empty.model)]
    trained(
        2,
        empty,
        optimizer=Optimizer(learning_rate=16.0),
        keystream=Keystream.from_system,
        progress=lambda *_: seen.append(weights(empty.model)),
    )
    noise = (-torch.diff(torch.stack(seen), dim=0).double() / (2.0 * 0.25)).numpy().ravel()
    assert min(variance_p(noise), mean_p(noise), shape_p(noise)) > ALPHA
    assert variance_p(noise * 2**0.5) < ALPHA  # that two noises would be seen


def test_helpers_hold_the_leaders_weights_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    own = parallel.summed

    def watched(step: DpStep, *words: Any, **others: Any) -> list[Tensor]:
        seen.append(weights(step.model).clone())
        return own(step, *words, **others)

    monkeypatch.setattr(parallel, "summed", watched)
    made = task()
    leaders = [weights(made.model).clone()]
    trained(2, made, progress=lambda *_: leaders.append(weights(made.model).clone()))
    assert len(seen) == PLAN.steps
    assert all(torch.equal(a, b) for a, b in zip(leaders, seen, strict=False))


def test_a_helper_cannot_draw() -> None:
    with pytest.raises(TrainingRefused, match="leads"):
        NoKeystream().uint64(1)


def test_a_gradient_that_is_not_finite_on_another_process_stops_all_by_name() -> None:
    data = people()
    data.features[1, 0, 0] = float("nan")  # at rate 1 the second place is the helper's
    made = task(data=data, plan=replace(PLAN, sample_rate=1.0))
    with pytest.raises(NotFinite, match=r"Process 1: A loss or a gradient .* counts as spent"):
        trained(2, made)


def test_the_leaders_own_error_is_its_own() -> None:
    data = people()
    data.features[0, 0, 0] = float("nan")
    with pytest.raises(NotFinite, match=r"^A loss or a gradient"):
        trained(2, task(data=data, plan=replace(PLAN, sample_rate=1.0)))


def test_a_helper_that_breaks_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any, **__: Any) -> list[Tensor]:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(parallel, "summed", breaks)
    with pytest.raises(ProcessLost):
        trained(2, task())


@pytest.mark.parametrize(
    "other",
    [
        {"plan": replace(PLAN, noise_multiplier=1.9)},
        {"data": people(40)},
        {"data": replace(people(), features=people().features + 1e-6)},
        {"engine": "functional"},
    ],
)
def test_a_process_with_another_plan_or_other_data_is_refused_before_any_draw(
    other: dict[str, Any],
) -> None:
    made = task()

    def never() -> Keystream:
        raise AssertionError("a keystream was asked for")

    meeting = threads.Meeting(2)
    with threads.ThreadPoolExecutor(1) as pool:
        wire = threads.ThreadWire(meeting, 1, 2)
        helper = pool.submit(parallel.assist, wire, lambda *_: task(**other), device="cpu")
        leader = parallel.Leader(threads.ThreadWire(meeting, 0, 2))
        leader.begin({"run_id": "run-1"}, BitMap(range(41)))
        with leader.together():
            pass
        with pytest.raises(TrainingRefused, match=r"Processes \[1\] read another plan"):
            leader.agree(made)
        assert helper.result(30) is None


def test_a_helper_refuses_people_who_are_not_admitted() -> None:
    made = task()
    with (
        pytest.raises(TrainingRefused, match="Process 1: 1 people in the data are not in"),
        threads.helped(2, made, Admission("run-1", BitMap(range(40)))),
    ):
        pass


def test_a_process_is_where_its_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Place.here() == Place(0, 1, 0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Place.here() == Place(3, 4, 1)
    monkeypatch.setenv("WORLD_SIZE", "1")  # as some launchers say of a single process
    assert Place.here() == Place(0, 1, 0)


def test_each_process_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_of("auto", Place(rank, 2, rank)) for rank in (0, 1)] == ["cuda:0", "cuda:1"]
    assert device_of("auto", Place(0, 1, 0)) == "cuda"
    assert device_of("cpu", Place(1, 2, 1)) == "cpu"
    with pytest.raises(TrainingRefused, match="this machine has 2"):
        device_of("auto", Place(2, 3, 2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto", Place(1, 2, 1)) == "cpu"
    with pytest.raises(TrainingRefused, match="PyTorch finds none"):
        device_of("cuda", Place(0, 1, 0))
