"""One suite for every clipping engine: the contract of `lethe.training.engines.contract`."""

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from lethe.core.errors import TrainingRefused
from lethe.training.engines.bookkeeping import BookkeepingEngine
from lethe.training.engines.choose import make_engine
from lethe.training.engines.contract import Engine, LossFn, trainable_parameters
from lethe.training.engines.kernels import patches
from lethe.training.engines.reference import (
    FunctionalEngine,
    OpacusEngine,
    OpacusGhostEngine,
    PlainEngine,
)
from lethe.training.models import binary_loss, class_loss

Maker = Callable[[nn.Module, LossFn], Engine]


class Tokens(nn.Module):
    """Words → vectors → their mean: an embedding, and a sequence through a layer."""

    def __init__(self, *, padding_idx: int | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 5, padding_idx=padding_idx)
        self.mix = nn.Linear(5, 4)
        self.last = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.mix(self.table(x.long())).tanh()
        out: Tensor = self.last(hidden.mean(1))
        return out


class Twice(nn.Module):
    """One layer called twice: a person's gradient is the sum of both."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Linear(6, 6)
        self.last = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.same(self.same(x).tanh()).tanh())
        return out


class Scaled(nn.Module):
    """A parameter that belongs to no layer that any engine knows."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((6,), 0.5))
        self.last = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last((x * self.factor).tanh())
        return out


class Gain(nn.Module):
    """A layer of the user's own."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, size))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 1))


def _frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1))
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return model


def _image() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Tanh(), nn.GroupNorm(2, 4)),
        *(nn.Conv2d(4, 6, 3, bias=False, dilation=2, padding=2), nn.Tanh(), nn.Flatten()),
        *(nn.Linear(6 * 16, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)),
    )


def _signal() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv1d(2, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Conv1d(4, 6, 2, groups=2)),
        *(nn.Conv1d(6, 6, 3, padding="same"), nn.LayerNorm([6, 3]), nn.Flatten(), nn.Linear(18, 1)),
    )


class Recurrent(nn.Module):
    """Words of a sequence → vectors → an LSTM, which no rule knows: one layer falls back."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.read = Last(4, 3)
        self.last = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.read(self.table(x.long())))
        return out


class Last(nn.Module):
    """A recurrent cell of its own parameters over a sequence; its last state."""

    def __init__(self, wide: int, high: int) -> None:
        super().__init__()
        self.inward = nn.Parameter(torch.randn(high, wide) * 0.5)
        self.onward = nn.Parameter(torch.randn(high, high) * 0.5)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], self.onward.shape[0])
        for step in x.unbind(1):
            state = (step @ self.inward.T + state @ self.onward.T).tanh()
        return state


class Attention(nn.Module):
    """Every word looks at every other word of the same record."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.query, self.key, self.value = (nn.Linear(4, 4, bias=False) for _ in range(3))
        self.norm = nn.LayerNorm(4)
        self.last = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        words = self.table(x.long())
        seen = (self.query(words) @ self.key(words).transpose(1, 2)).softmax(-1)
        out: Tensor = self.last(self.norm(words + seen @ self.value(words)).mean(1))
        return out


def _literature() -> nn.Module:
    """The layers of the small CNN that the literature trains, on a smaller image."""
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 4, stride=2, padding=1), nn.Tanh(), nn.MaxPool2d(2, stride=1)),
        *(nn.Conv2d(4, 6, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3)),
    )


def _frozen_conv() -> nn.Module:
    model = nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 3, (1, 3), padding="valid")),
        *(nn.Tanh(), nn.Conv2d(3, 2, (3, 5), dilation=(2, 1), padding="same"), nn.Flatten()),
        nn.Linear(60, 1),
    )
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "logistic": (lambda: nn.Linear(6, 1), (6,), 1),
    "mlp": (_mlp, (6,), 1),
    "classes": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), (6,), 3),
    "in place": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 1)),
        (6,),
        1,
    ),
    "no bias": (lambda: nn.Linear(6, 1, bias=False), (6,), 1),
    "wide": (lambda: nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 1)), (6,), 1),
    "frozen": (_frozen, (6,), 1),
    "layer norm": (lambda: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 1)), (6,), 1),
    "image": (_image, (1, 8, 8), 3),
    "signal": (_signal, (2, 8), 1),
    "literature": (_literature, (1, 12, 12), 3),
    "frozen convolution": (_frozen_conv, (2, 6, 7), 1),
    "recurrent": (Recurrent, (5,), 1),
    "attention": (Attention, (5,), 1),
    "tokens": (Tokens, (5,), 1),
    "padded tokens": (lambda: Tokens(padding_idx=0), (5,), 1),
    "twice": (Twice, (6,), 1),
    "scaled": (Scaled, (6,), 1),
    "own layer": (lambda: nn.Sequential(nn.Linear(6, 4), Gain(4), nn.Linear(4, 1)), (6,), 1),
}
EVERYWHERE = set(MODELS)
# What the engines of others do not take; the project's own takes all.
ENGINES: dict[str, tuple[Maker, set[str]]] = {
    "bookkeeping": (BookkeepingEngine, EVERYWHERE),
    "bookkeeping by twos": (lambda m, f: BookkeepingEngine(m, f, chunk=2), EVERYWHERE),
    "functional": (FunctionalEngine, EVERYWHERE),
    "functional by twos": (lambda m, f: FunctionalEngine(m, f, chunk=2), EVERYWHERE),
    "opacus": (OpacusEngine, EVERYWHERE - {"in place", "padded tokens", "recurrent"}),
    "opacus_ghost": (
        OpacusGhostEngine,
        {"logistic", "mlp", "classes", "no bias", "wide", "frozen", "layer norm"},
    ),
}
PAIRS = [(e, m) for e, (_, models) in ENGINES.items() for m in MODELS if m in models]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(7)


def people(shape: tuple[int, ...], classes: int, *, records: int) -> tuple[Tensor, Tensor, Tensor]:
    """Five people: all records, some, the first one absent, none at all, one."""
    features = (
        torch.randint(0, 3, (5, records, *shape)).float() + torch.rand(5, records, *shape) * 0.9
    )
    labels = torch.randint(0, max(2, classes), (5, records))
    mask = torch.ones(5, records, dtype=torch.bool)
    if records > 1:
        mask[1, records // 2 :] = False
        mask[2, 0] = False
        mask[4, 1:] = False
    mask[3] = False
    return features, mask, labels.float() if classes == 1 else labels


def loss_of(classes: int) -> LossFn:
    return binary_loss if classes == 1 else class_loss


def by_hand(
    model: nn.Module, loss_fn: LossFn, data: tuple[Tensor, Tensor, Tensor], clip_norm: float
) -> tuple[list[Tensor], Tensor]:
    """The contract in its plainest words; shares no code with the engines."""
    total = [torch.zeros_like(p) for p in model.parameters() if p.requires_grad]
    norms = []
    for x, m, y in zip(*data, strict=True):
        if not m.any():
            norms.append(0.0)
            continue
        model.zero_grad()
        loss_fn(model(x[m]), y[m]).mean().backward()
        own = [
            torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for p in model.parameters()
            if p.requires_grad
        ]
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in own))
        norms.append(norm)
        for sum_, g in zip(total, own, strict=True):
            sum_ += g * min(1.0, clip_norm / norm if norm else 1.0)
    model.zero_grad()
    return total, torch.tensor(norms)


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        scale = max(float(b.abs().max()), 1e-3)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6 * max(scale, 1.0))


@pytest.mark.parametrize("records", [1, 3])
@pytest.mark.parametrize(("engine", "model"), PAIRS)
def test_engine_clips_each_person_as_the_contract_says(
    engine: str, model: str, records: int
) -> None:
    make, shape, classes = MODELS[model]
    network, data = make(), people(shape, classes, records=records)
    loss_fn = loss_of(classes)
    _, norms = by_hand(network, loss_fn, data, 1.0)
    clip_norm = float(norms[norms > 0].median()) * 0.9  # some are clipped, some are not
    expected, norms = by_hand(network, loss_fn, data, clip_norm)
    found, own = ENGINES[engine][0](network, loss_fn)(*data, clip_norm=clip_norm)
    torch.testing.assert_close(own, norms, rtol=1e-4, atol=1e-6)
    assert_same(found, expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_nobody_and_people_without_records_contribute_zero(engine: str) -> None:
    network = _mlp()
    features, mask, labels = people((6,), 1, records=3)
    made = ENGINES[engine][0](network, binary_loss)
    nobody, norms = made(features[:0], mask[:0], labels[:0], clip_norm=1.0)
    assert norms.shape == (0,)
    empty, own = made(features[3:4], mask[3:4], labels[3:4], clip_norm=1.0)
    assert own.tolist() == [0.0]
    for sums in (nobody, empty):
        assert all(float(t.abs().max()) == 0.0 for t in sums)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_stands_in_an_absent_record_does_not_matter(engine: str) -> None:
    network = _mlp()
    features, mask, labels = people((6,), 1, records=3)
    made = ENGINES[engine][0](network, binary_loss)
    first, _ = made(features, mask, labels, clip_norm=0.1)
    features[~mask] = 1e6
    labels[~mask] = 1.0
    second, _ = made(features, mask, labels, clip_norm=0.1)
    assert_same(second, first)


@pytest.mark.parametrize("engine", ENGINES)
def test_engine_leaves_the_model_as_it_was(engine: str) -> None:
    network = _mlp().eval()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    ENGINES[engine][0](network, binary_loss)(*people((6,), 1, records=3), clip_norm=1.0)
    assert not network.training
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    for p in network.parameters():
        assert p.grad is None
        assert not hasattr(p, "grad_sample")
    for module in network.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("engine", ENGINES)
def test_no_person_contributes_more_than_the_clip(engine: str, scale: float) -> None:
    features, mask, labels = people((6,), 1, records=3)
    made = ENGINES[engine][0](_mlp(), binary_loss)
    for person in range(len(features)):
        one = slice(person, person + 1)
        sums, _ = made(features[one] * scale, mask[one], labels[one], clip_norm=0.01)
        length = math.sqrt(sum(float(t.double().square().sum()) for t in sums))
        assert length <= 0.01 * (1 + 1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_auto_takes_the_projects_own_engine(model: str) -> None:
    make, shape, classes = MODELS[model]
    made = make_engine("auto", make(), loss_of(classes), record_shape=shape, classes=classes)
    assert made.name == "bookkeeping"


@pytest.mark.parametrize("engine", ["bookkeeping", "functional", "opacus", "opacus_ghost"])
def test_a_forced_engine_is_the_one_that_is_taken(engine: str) -> None:
    made = make_engine(engine, _mlp(), binary_loss, record_shape=(6,), classes=1)
    assert made.name == engine


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(
    ("stride", "padding"),  # torch has no strided convolution that keeps the size
    [
        *product((1, (2, 3)), ((0, 0), (2, 1), "valid")),
        (1, "same"),
    ],
)
def test_patches_are_what_a_convolution_looks_at(
    stride: int | tuple[int, int],
    padding: str | tuple[int, int],
    dilation: int,
    memory_format: torch.memory_format,
) -> None:
    layer = nn.Conv2d(3, 4, 3, stride=stride, padding=padding, dilation=dilation)
    x = torch.randn(5, 3, 9, 8).to(memory_format=memory_format)[1:]  # not at its storage's start
    expected = layer(x).flatten(2).transpose(1, 2)
    kernel = layer.weight.permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(
        patches(layer, x) @ kernel.T + layer.bias, expected, rtol=1e-5, atol=1e-5
    )


def test_the_engine_chooses_chunks_by_itself_and_they_change_nothing() -> None:
    network = _literature()
    features, mask, labels = people((1, 12, 12), 3, records=2)
    many = (features.repeat(9, 1, 1, 1, 1), mask.repeat(9, 1), labels.repeat(9, 1))
    made = BookkeepingEngine(network, class_loss)
    expected, norms = BookkeepingEngine(network, class_loss, chunk=45)(*many, clip_norm=0.1)
    for _ in range(2):  # at first it does not know how wide the layers are
        found, own = made(*many, clip_norm=0.1)
        torch.testing.assert_close(own, norms, rtol=1e-4, atol=1e-6)
        assert_same(found, expected)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.last = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.second(self.first(x).tanh()).tanh())
        return out


class Beside(nn.Module):
    """Uses a layer's weight without calling the layer: hooks do not see it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last((self.first(x) @ self.first.weight).tanh())
        return out


@pytest.mark.parametrize("model", [Tied, Beside])
def test_a_model_whose_shares_hooks_cannot_see_gets_another_engine(
    model: Callable[[], nn.Module],
) -> None:
    network = model()
    made = make_engine("auto", network, binary_loss, record_shape=(6,), classes=1)
    assert made.name == "functional"
    with pytest.raises(TrainingRefused, match="bookkeeping"):
        make_engine("bookkeeping", network, binary_loss, record_shape=(6,), classes=1)
    data = people((6,), 1, records=3)
    assert_same(made(*data, clip_norm=0.1)[0], by_hand(network, binary_loss, data, 0.1)[0])


class Centred(nn.Module):
    """Subtracts the batch's mean: everybody's record is in everybody's output."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(x - x.mean(0))
        return out


class Counting(nn.Module):
    """Keeps a running mean of what passes."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 1)
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        out: Tensor = self.last(x)
        return out


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), "BatchNorm1d"),
        (
            lambda: nn.Sequential(
                nn.Unflatten(1, (2, 3)),
                nn.InstanceNorm1d(2, track_running_stats=True),
                nn.Flatten(),
                nn.Linear(6, 1),
            ),
            "InstanceNorm1d",
        ),
        (Centred, "people mix"),
        (Counting, "'mean'"),
        (lambda: nn.Sequential(nn.Embedding(5, 2, max_norm=1.0)), "Embedding"),
        (nn.Identity, "no trainable parameter"),
    ],
)
def test_a_model_that_cannot_be_clipped_per_person_is_refused_by_name(
    model: Callable[[], nn.Module], said: str
) -> None:
    with pytest.raises(TrainingRefused, match=said):
        make_engine("auto", model(), binary_loss, record_shape=(6,), classes=1)


def test_ghost_refuses_several_records_where_it_would_clip_each_record() -> None:
    with pytest.raises(TrainingRefused, match="several records a person"):
        OpacusGhostEngine(_image(), class_loss)(*people((1, 8, 8), 3, records=2), clip_norm=1.0)


def test_a_loss_that_averages_over_people_is_refused() -> None:
    def mean(outputs: Tensor, labels: Tensor) -> Tensor:
        return binary_loss(outputs, labels).mean()

    with pytest.raises(TrainingRefused, match="one number"):
        BookkeepingEngine(_mlp(), mean)(*people((6,), 1, records=2), clip_norm=1.0)


def test_frozen_parameters_have_no_place_in_the_sum() -> None:
    network = _frozen()
    sums, _ = PlainEngine(network, binary_loss)(*people((6,), 1, records=2), clip_norm=1.0)
    assert [t.shape for t in sums] == [p.shape for p in trainable_parameters(network)]


class _Wide(nn.Module):
    """Takes float32 records, and computes with other numbers."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.kind = kind
        self.layer = nn.Linear(6, 1).to(kind)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.to(self.kind)).float()


@pytest.mark.parametrize(
    "model",
    [
        _Wide(torch.float64),
        _Wide(torch.bfloat16),
        nn.Linear(6, 1).double(),
        nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 1).half()),
        nn.Linear(5, 1),
    ],
)
def test_a_model_of_other_numbers_or_records_is_refused(model: nn.Module) -> None:
    with pytest.raises(TrainingRefused, match=r"float(32|64|16)"):
        make_engine("auto", model, binary_loss, record_shape=(6,), classes=1)
