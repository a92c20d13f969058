"""A network whose sums no audit could compute anew is refused before anything is paid for."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lethe.core.errors import ParamsInvalid, TrainingRefused
from lethe.training.engines.choose import make_engine, whole_numbers
from lethe.training.engines.separation import TriedRecords
from lethe.training.models import binary_loss
from lethe.training.person_randomness import PersonRandomness, draws_at_random
from lethe.training.rehearsal import (
    refuse_large_draws,
    refuse_short_numbers,
    refuse_unknown_sums,
)
from tests.plans import SMALL

TRIED = TriedRecords(whole_numbers((6,)), 1, (7, 40))
PEOPLE = np.array([3, 9, 12, 40, 77], dtype=np.uint32)


class Net(nn.Module):
    """Passes what `through` makes of the hidden values."""

    def __init__(self, through: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.through, self.first, self.last = through, nn.Linear(6, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.through(self.first(x).tanh()))
        return out


def _refuse(model: nn.Module) -> None:
    engine = make_engine("auto", model, binary_loss, record_shape=(6,), classes=1)
    refuse_short_numbers(model, TRIED)
    refuse_unknown_sums(engine, model, binary_loss, TRIED, SMALL, 20)


def _positions_first(hidden: Tensor) -> Tensor:
    turned = torch.stack([hidden, hidden, hidden])
    return nn.functional.dropout(turned, 0.5).mean(0)


def _in_bfloat16(hidden: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return (hidden @ torch.ones(8, 8)).float()


UNKNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "one number for all": lambda h: h * torch.rand(()),
    "NumPy's numbers": lambda h: h * float(np.random.random()),
    "whole numbers": lambda h: h * torch.randint(0, 2, h.shape),
    "a permutation": lambda h: h[:, torch.randperm(8)],
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_drawn_again_is_refused(name: str) -> None:
    with pytest.raises(TrainingRefused, match="records along the first axis"):
        _refuse(Net(UNKNOWN[name]))


KNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing at random": torch.relu,
    "dropout": nn.Dropout(0.5),
    "dropout of channels": lambda h: nn.functional.dropout1d(h.unflatten(1, (4, 2)), 0.3).flatten(
        1
    ),
    "alpha dropout": nn.AlphaDropout(0.5),
    "normal noise": lambda h: h + torch.randn_like(h) + torch.empty_like(h).normal_(1.0, 2.0),
    "uniform noise": lambda h: h + torch.rand(h.shape) + torch.empty_like(h).uniform_(-1.0, 1.0),
    "Gumbel's": lambda h: nn.functional.gumbel_softmax(h),
    "one mask for a person's records": lambda h: h * (torch.rand(8) < 0.5),
    "a mask along positions": _positions_first,
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_can_is_not(name: str) -> None:
    _refuse(Net(KNOWN[name]))


@pytest.mark.parametrize("short", [torch.bfloat16, torch.float16])
def test_a_pass_in_short_numbers_is_refused_by_name(short: torch.dtype) -> None:
    kind = str(short).removeprefix("torch.")
    with pytest.raises(TrainingRefused, match=f"computes in {kind}"):
        _refuse(Net(lambda h: (h.to(short) * 2).float()))


def test_so_is_autocast() -> None:
    with pytest.raises(TrainingRefused, match="computes in bfloat16"):
        refuse_short_numbers(Net(_in_bfloat16), TRIED)


def test_draws_that_have_no_place_in_the_transcript_are_refused_beforehand() -> None:
    long = replace(SMALL, steps=4_000, expected_batch_size=60_000.0)
    refuse_large_draws(long, 1_024)
    with pytest.raises(ParamsInvalid, match=r"declare 1008 or more"):
        refuse_large_draws(long, 500)


def test_what_is_drawn_for_somebody_does_not_depend_on_the_others() -> None:
    shape = (5, 300)
    with PersonRandomness(7, 3, PEOPLE):
        together = torch.rand(shape)
    for place, token in enumerate(PEOPLE):
        with PersonRandomness(7, 3, np.array([token, 5], dtype=np.uint32)):
            assert torch.equal(torch.rand(2, 300)[0], together[place])
    for seed, number in ((8, 3), (7, 4)):
        with PersonRandomness(seed, number, PEOPLE):
            other = torch.rand(shape)
            again = torch.rand(shape)
        assert not torch.isin(other, together).all()
        assert not torch.isclose(other, again).all()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_is_the_same_by_whichever_of_torchs_ways(p: float) -> None:
    ones, made = torch.ones(5, 200), []
    for way in (
        lambda: nn.functional.dropout(ones, p),
        lambda: torch.native_dropout(ones, p, True)[0],
        lambda: torch.bernoulli(torch.full_like(ones, 1 - p)) / (1 - p),
        lambda: torch.vmap(nn.Dropout(p), randomness="different")(ones),
        lambda: nn.functional.dropout(ones.double(), p).float(),
    ):
        with PersonRandomness(7, 3, PEOPLE):
            made.append(way())
    assert 0 < float((made[0] == 0).double().mean()) < 1
    for other in made[1:]:
        torch.testing.assert_close(made[0], other)


def test_the_numbers_are_of_their_laws() -> None:
    """Means of 1.2 million values: seven standard errors and more, once for all: they are fixed."""
    many = np.arange(3_000, dtype=np.uint32)
    with PersonRandomness(1, 1, many):
        uniform, normal = torch.rand(3_000, 400).double(), torch.randn(3_000, 400).double()
        coin = torch.empty(3_000, 400).bernoulli_(0.3).double()
        wait = torch.empty(3_000, 400).exponential_(2.0).double()
    assert abs(float(uniform.mean()) - 0.5) < 2e-3
    assert 0 <= float(uniform.min()) < float(uniform.max()) < 1
    assert abs(float(normal.mean())) < 7e-3
    assert abs(float(normal.std()) - 1) < 5e-3
    assert abs(float((normal**4).mean()) - 3) < 7e-2
    assert abs(float(coin.mean()) - 0.3) < 3e-3
    assert abs(float(wait.mean()) - 0.5) < 4e-3
    rows = torch.corrcoef(coin[:200])
    assert float((rows - torch.eye(200)).abs().max()) < 0.35


def test_whether_a_network_draws_is_known() -> None:
    records = torch.zeros(2, 6)
    assert draws_at_random(nn.Sequential(nn.Linear(6, 2), nn.Dropout(0.1)).eval(), records)
    assert not draws_at_random(nn.Linear(6, 2), records)
    assert not draws_at_random(nn.Dropout(0.0), records)
