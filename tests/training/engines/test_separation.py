"""Models that mix people, or keep something of them, are refused; whoever does neither is not."""

import math
import random
from collections.abc import Callable
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lethe.core.errors import TrainingRefused
from lethe.training.engines.choose import make_engine, refuse_unclippable, whole_numbers
from lethe.training.engines.fixed_randomness import FixedRandomness, seeded
from lethe.training.engines.kept_state import changed, kept_state
from lethe.training.engines.separation import EXTREME, Make, TriedRecords, refuse_mixing
from lethe.training.models import binary_loss, class_loss
from lethe.training.rehearsal import refuse_moving
from tests.plans import SMALL

SIZES = (7, 119, 120)


def bounded(width: int = 6) -> Make:
    """Numbers between -1 and 1, as an encoder makes them."""

    def make(count: int, kind: str, numbers: torch.Generator) -> Tensor:
        drawn = torch.rand(count, width, generator=numbers) * 2 - 1
        return torch.sign(drawn) if kind == EXTREME else drawn

    return make


class Through(nn.Module):
    """Two layers behind whatever a test does to the records before them."""

    def __init__(self, first: Callable[[Any, Tensor], Tensor], **kept: Any) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(6, 5), nn.Linear(5, 1)
        self.first = first
        for name, value in kept.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.hidden(self.first(self, x)).tanh())
        return out


def try_(model: nn.Module, *, make: Make | None = None, classes: int = 1) -> None:
    loss = binary_loss if classes == 1 else class_loss
    refuse_unclippable(model)
    refuse_mixing(model, loss, TriedRecords(make or bounded(), classes, SIZES))


def standardize(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / (x.std(0, unbiased=False) + 1e-3)


def in_training_alone(self: Any, x: Tensor) -> Tensor:
    return standardize(x) if self.training else x


def in_larger_batches_alone(self: Any, x: Tensor) -> Tensor:
    return standardize(x) if len(x) > 64 else x


def at_larger_values_alone(self: Any, x: Tensor) -> Tensor:
    return standardize(x) if x.abs().max() >= 1 else x


def of_even_batches_alone(self: Any, x: Tensor) -> Tensor:
    return standardize(x) if len(x) % 2 == 0 else x


def sorted_over_the_batch(self: Any, x: Tensor) -> Tensor:
    return x.sort(0).values


def less_the_largest(self: Any, x: Tensor) -> Tensor:
    return x - x.max()


def softmax_over_the_batch(self: Any, x: Tensor) -> Tensor:
    return x.softmax(0)


def by_the_number_of_records(self: Any, x: Tensor) -> Tensor:
    return x / len(x)


def attention_over_the_batch(self: Any, x: Tensor) -> Tensor:
    return (x @ x.T).softmax(-1) @ x


def shuffled(self: Any, x: Tensor) -> Tensor:
    return x[torch.randperm(len(x))]


def of_one_place_in_another(self: Any, x: Tensor) -> Tensor:
    if len(x) < 100:
        return x
    return torch.cat([x[:97], x[97:98] + x[33:34], x[98:]])


def seeded_by_the_data(self: Any, x: Tensor) -> Tensor:
    torch.manual_seed(int(x.abs().sum() * 1000))
    return nn.functional.dropout(x, 0.5, self.training)


def changed_in_place(self: Any, x: Tensor) -> Tensor:
    return x.mul_(0.5)


def of_the_first_record_in_place(self: Any, x: Tensor) -> Tensor:
    x[0] += x.mean(0)
    return x


@pytest.mark.parametrize(
    "first",
    [
        in_training_alone,
        in_larger_batches_alone,
        at_larger_values_alone,
        of_even_batches_alone,
        sorted_over_the_batch,
        less_the_largest,
        softmax_over_the_batch,
        by_the_number_of_records,
        attention_over_the_batch,
        shuffled,
        of_one_place_in_another,
        seeded_by_the_data,
    ],
    ids=lambda first: first.__name__,
)
def test_a_model_that_mixes_people_is_refused(first: Callable[[Any, Tensor], Tensor]) -> None:
    with pytest.raises(TrainingRefused, match="people mix, and no person can be clipped"):
        try_(Through(first))


def test_the_layer_is_named_where_it_is_seen() -> None:
    class Standardized(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return standardize(x) if self.training else x

    model = nn.Sequential(nn.Linear(6, 4), Standardized(), nn.Linear(4, 1))
    with pytest.raises(TrainingRefused, match=r"what layer 1 \(Standardized\) gives, .* training"):
        try_(model)


def test_a_last_layer_that_begins_at_zero_hides_nothing() -> None:
    model = Through(in_training_alone)
    nn.init.zeros_(model.last.weight)
    nn.init.zeros_(model.last.bias)
    with pytest.raises(TrainingRefused, match="people mix"):
        try_(model)


@pytest.mark.parametrize("first", [changed_in_place, of_the_first_record_in_place])
def test_a_model_that_changes_what_it_is_given_is_refused(first: Any) -> None:
    with pytest.raises(TrainingRefused, match="in place"):
        try_(Through(first))


def a_list(self: Any, x: Tensor) -> Tensor:
    self.means.append(float(x.mean()))
    return x - self.means[-1]


def a_tensor(self: Any, x: Tensor) -> Tensor:
    self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
    return x - self.mean


def an_array(self: Any, x: Tensor) -> Tensor:
    self.seen[:] = x.detach().numpy().mean(0)
    return x


def a_nested_one(self: Any, x: Tensor) -> Tensor:
    self.notes["deep"]["er"][0] = float(x.sum())
    return x


def what_came_first(self: Any, x: Tensor) -> Tensor:
    if self.mean is None:
        self.mean = x.detach().mean(0)
    return x - self.mean


def a_counter(self: Any, x: Tensor) -> Tensor:
    self.passes += 1
    return standardize(x) if self.passes > 10_000 else x


def a_generator(self: Any, x: Tensor) -> Tensor:
    return x * torch.rand(x.shape, generator=self.own)


class Slots:
    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = 0.0


def one_in_slots(self: Any, x: Tensor) -> Tensor:
    self.kept.last = float(x.mean())
    return x


OUTSIDE: dict[str, float] = {"mean": 0.0}


def a_variable_of_the_module(self: Any, x: Tensor) -> Tensor:
    OUTSIDE["mean"] = float(x.mean())
    return x


def a_default(self: Any, x: Tensor, before: list[float] = []) -> Tensor:  # noqa: B006
    before[:] = [float(x.mean())]
    return x


def a_closure() -> Callable[[Any, Tensor], Tensor]:
    passes = 0

    def count(self: Any, x: Tensor) -> Tensor:
        nonlocal passes
        passes += 1
        return standardize(x) if passes > 10_000 else x

    return count


class OfItsClass(nn.Module):
    largest = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        type(self).largest = max(type(self).largest, float(x.max()))
        out: Tensor = self.last(x)
        return out


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: Through(a_list, means=[]), "'means'"),
        (lambda: Through(a_tensor, mean=torch.zeros(6)), "'mean'"),
        (lambda: Through(an_array, seen=np.zeros(6)), "'seen'"),
        (lambda: Through(a_nested_one, notes={"deep": {"er": [0]}}), r"notes\[deep\]\[er\]\[0\]"),
        (lambda: Through(what_came_first, mean=None), "'mean'"),
        (lambda: Through(a_counter, passes=0), "'passes'"),
        (lambda: Through(a_generator, own=torch.Generator()), "'own'"),
        (lambda: Through(one_in_slots, kept=Slots()), "kept.last"),
        (lambda: Through(a_variable_of_the_module), "OUTSIDE"),
        (lambda: Through(a_default), "a_default"),
        (lambda: Through(a_closure()), "'passes'"),
        (OfItsClass, "OfItsClass.largest"),
        (
            lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5)),
            "'parametrizations.weight.0._u'",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_that_keeps_something_is_refused_by_its_name(
    model: Callable[[], nn.Module], said: str
) -> None:
    with pytest.raises(TrainingRefused, match=f"{said}.* without noise"):
        try_(model())


def test_randomness_that_no_seed_repeats_is_refused() -> None:
    system = random.SystemRandom()
    model = Through(lambda self, x: x + system.random())
    with pytest.raises(TrainingRefused, match="second pass under the same seed"):
        try_(model)


def test_a_loss_that_mixes_people_is_refused() -> None:
    def centred(outputs: Tensor, labels: Tensor) -> Tensor:
        losses = binary_loss(outputs, labels)
        return losses - losses.mean()

    model = Through(lambda self, x: x)
    with pytest.raises(TrainingRefused, match="people mix"):
        refuse_mixing(model, centred, TriedRecords(bounded(), 1, SIZES))


class Backwards(torch.autograd.Function):
    """Records pass as they are; their gradients mix."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (g,) = gradients
        return g - g.mean(0) * 3 if len(g) > 16 else g


def test_gradients_that_mix_people_are_refused_in_a_whole_batch() -> None:
    model = Through(lambda self, x: x)
    model.hidden = nn.Sequential(nn.Linear(6, 5), _Applied())  # type: ignore[assignment]
    engine = make_engine("auto", model, binary_loss, record_shape=(6,), classes=1)
    tried = TriedRecords(bounded(), 1, SIZES)
    with pytest.raises(TrainingRefused, match=r"moves the clipped sum .* hooks"):
        refuse_moving(engine, model, tried, SMALL, people=100)


class _Applied(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Backwards.apply(x)  # type: ignore[no-untyped-call]
        return out


class Attention(nn.Module):
    """Within a record: its numbers are the positions."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.wide = nn.Linear(1, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=batch_first)
        self.last = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.wide(x.unsqueeze(-1))
        h = self.layer(h).mean(1) if self.batch_first else self.layer(h.transpose(0, 1)).mean(0)
        out: Tensor = self.last(h)
        return out


class Looked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(3, 4), nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.table((x + 1).round().long()).flatten(1))
        return out


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(x + self.two(self.one(x).relu()))
        return out


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 1)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.two(self.one(x).tanh()).tanh())
        return out


class Prepared(nn.Module):
    """Keeps a table that it makes of sizes alone, once it knows them."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 1)
        self.places: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] not in self.places:
            self.places[x.shape[1]] = torch.linspace(0, 1, x.shape[1])
        out: Tensor = self.last(x + self.places[x.shape[1]])
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = nn.GRU(1, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.cell(x.unsqueeze(-1))[0][:, -1])
        return out


def _frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
    model[0].requires_grad_(False)
    return model


HONEST: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)),
    "dropout": lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 1)),
    "alpha dropout": lambda: nn.Sequential(nn.Linear(6, 8), nn.AlphaDropout(), nn.Linear(8, 1)),
    "layer norm": lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 1)),
    "group norm": lambda: nn.Sequential(nn.Linear(6, 8), nn.GroupNorm(2, 8), nn.Linear(8, 1)),
    "convolutions": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 6)),
        nn.Conv1d(1, 4, 3),
        nn.InstanceNorm1d(4),
        nn.ReLU(inplace=True),
        nn.Dropout1d(0.3),
        nn.Flatten(),
        nn.Linear(16, 1),
    ),
    "attention": lambda: Attention(batch_first=True),
    "attention, positions first": lambda: Attention(batch_first=False),
    "recurrent": Recurrent,
    "embedding": Looked,
    "residual": Residual,
    "tied": Tied,
    "frozen": _frozen,
    "a table of sizes": Prepared,
    "noise of its own": lambda: Through(lambda self, x: x + 0.1 * torch.randn_like(x)),
    "weight norm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.Linear(5, 1)
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_model_passes_and_stays_as_it_was(name: str) -> None:
    model = HONEST[name]()
    before = kept_state(model)
    try_(model)
    assert changed(before, kept_state(model)) == []
    assert model.training


@pytest.mark.parametrize("name", ["mlp", "dropout", "tied", "frozen", "convolutions"])
def test_an_honest_models_sum_moves_by_the_clip_at_most_while_it_trains(name: str) -> None:
    model = HONEST[name]()
    engine = make_engine("auto", model, binary_loss, record_shape=(6,), classes=1)
    refuse_moving(engine, model, TriedRecords(bounded(), 1, SIZES), SMALL, people=60)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_parameters_of_other_numbers_are_refused_by_name(kind: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 1).to(kind))
    with pytest.raises(TrainingRefused, match=rf"'1.weight' is of {str(kind).split('.')[1]}"):
        try_(model)


def test_a_layer_that_needs_whole_numbers_hears_how() -> None:
    model = nn.Sequential(nn.Embedding(3, 2), nn.Flatten(), nn.Linear(12, 1))
    with pytest.raises(TrainingRefused, match=r"float32 features .*x\.long\(\)"):
        try_(model, make=whole_numbers((6,)))


def test_what_the_process_draws_afterwards_is_as_if_nothing_had_been_tried() -> None:
    def drawn() -> list[float]:
        return [float(torch.rand(())), float(np.random.rand()), random.random()]

    model = HONEST["dropout"]()
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    expected = drawn()
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    try_(model)
    assert drawn() == expected


def test_fixed_randomness_lets_dropout_through_at_every_size() -> None:
    ones = torch.ones(4, 3)
    with seeded(), FixedRandomness():
        for few in (ones, ones[:2]):
            assert torch.equal(nn.functional.dropout(few, 0.5), few * 2)
            assert torch.equal(torch.randperm(3), torch.tensor([2, 1, 0]))
            assert torch.equal(torch.randint(2, 9, (3,)), torch.tensor([2, 2, 2]))
            assert math.isclose(float(torch.rand(())), 0.5)


def test_processes_that_are_threads_have_their_public_randomness_each_alone() -> None:
    """As the audit stands in for helpers: a pass is the same whoever else is seeded meanwhile."""
    apart: list[int] = []

    def passes() -> None:
        for number in range(500):
            with seeded():
                once = torch.rand(64)
            with seeded():
                again = torch.rand(64)
            if not torch.equal(once, again):
                apart.append(number)

    threads = [Thread(target=passes) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert apart == []
