"""The attack finds what leaks, and does not find what does not."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lethe.attacks.membership import (
    CONTRADICTION_ALPHA,
    attack,
    chosen,
    empirical_epsilon,
    person_losses,
)
from lethe.core.errors import NotFinite
from lethe.data.batches import PersonData
from lethe.training.description import Architecture
from lethe.training.models import binary_loss, build_model, class_loss

SEED = 7
RANDOM = np.random.default_rng(SEED)


@pytest.fixture(autouse=True)
def _the_same_numbers_in_any_order() -> None:
    """Each test draws from the seed on, whichever ran before it, and in whatever process."""
    RANDOM.bit_generator.state = np.random.default_rng(SEED).bit_generator.state


def _people(features: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> PersonData:
    return PersonData(features, mask, labels, np.arange(len(mask), dtype=np.uint32))


def test_a_persons_loss_is_the_mean_over_their_records() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    people = _people(
        torch.tensor([[[0.0], [2.0]], [[1.0], [99.0]], [[0.0], [0.0]]]),
        torch.tensor([[True, True], [True, False], [False, False]]),
        torch.zeros(3, 2),
    )
    losses = person_losses(model, binary_loss, people, people=2)
    # ln(1 + e^x) for x = 0, 2 and x = 1; the third has no record, so no loss
    expected = [(math.log(2) + math.log1p(math.exp(2))) / 2, math.log1p(math.exp(1))]
    assert losses == pytest.approx(expected, rel=1e-6)


def test_classes_work_as_labels_do() -> None:
    model = build_model(Architecture("logistic", (), 3, 4))
    people = _people(
        torch.randn(5, 2, 3), torch.ones(5, 2, dtype=torch.bool), torch.ones(5, 2).long()
    )
    assert person_losses(model, class_loss, people) == pytest.approx([math.log(4)] * 5)


def test_a_model_that_diverged_cannot_be_audited() -> None:
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(math.nan)
    people = _people(torch.ones(1, 1, 1), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1))
    with pytest.raises(NotFinite, match="1 people"):
        person_losses(model, binary_loss, people)


def test_the_same_losses_inside_and_outside_give_nothing() -> None:
    found = attack(RANDOM.gamma(2, size=2_500), RANDOM.gamma(2, size=2_500), delta=1e-5)
    assert abs(found.auc - 0.5) < 5 * found.auc_standard_error
    assert found.epsilon_lower_bound == 0.0
    assert found.check(0.1).passed


def test_losses_that_show_every_member_contradict_a_small_epsilon() -> None:
    found = attack(np.zeros(1_000), np.ones(1_000), delta=1e-5)
    assert found.auc == 1.0
    assert found.tpr == {0.001: 1.0, 0.01: 1.0, 0.1: 1.0}
    assert 3.0 < found.epsilon_lower_bound < 4.0  # all that 500 people can show at 1e-7
    assert not found.check(1.0).passed
    assert found.check(8.0).passed


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_both_directions_are_attacked(sign: float) -> None:
    losses_in, losses_out = sign * np.zeros(1_000), sign * np.ones(1_000)
    assert attack(losses_in, losses_out, delta=1e-5).epsilon_lower_bound > 3.0


def test_the_bound_stays_below_a_mechanism_of_known_epsilon() -> None:
    # Randomized response at epsilon 1 answers truly with e / (1 + e): the exact worst case.
    truth = math.e / (1 + math.e)
    bounds = []
    for _ in range(50):
        inside = (RANDOM.uniform(size=4_000) < truth).astype(float)
        outside = (RANDOM.uniform(size=4_000) >= truth).astype(float)
        bounds.append(empirical_epsilon(inside, outside, delta=0.0, alpha=CONTRADICTION_ALPHA))
    assert max(bounds) <= 1.0
    assert np.mean(bounds) > 0.5  # and is not empty


def test_the_bound_is_too_high_no_more_often_than_stated() -> None:
    truth = math.e / (1 + math.e)
    wrong = 0
    for _ in range(400):
        inside = (RANDOM.uniform(size=400) < truth).astype(float)
        outside = (RANDOM.uniform(size=400) >= truth).astype(float)
        wrong += empirical_epsilon(inside, outside, delta=0.0, alpha=0.1) > 1.0
    assert wrong / 400 <= 0.1


def test_delta_is_taken_off() -> None:
    scores_in = np.concatenate([np.ones(100), np.zeros(900)])[RANDOM.permutation(1_000)]
    assert empirical_epsilon(scores_in, np.zeros(1_000), delta=1e-5, alpha=0.01) > 0
    assert empirical_epsilon(scores_in, np.zeros(1_000), delta=0.2, alpha=0.01) == 0.0


def test_two_people_show_nothing_and_break_nothing() -> None:
    assert attack(np.array([0.0, 0.1]), np.array([1.0, 2.0]), delta=1e-5).epsilon_lower_bound == 0


def test_an_overfitted_network_is_caught() -> None:
    torch.manual_seed(0)
    people, features = 300, 40
    x = torch.randn(2 * people, 1, features)
    y = torch.randint(0, 2, (2 * people, 1)).float()  # nothing to learn but the people
    model = nn.Sequential(nn.Linear(features, 256), nn.ReLU(), nn.Linear(256, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        binary_loss(model(x[:people, 0]), y[:people, 0]).mean().backward()
        optimizer.step()
    whole = _people(x, torch.ones(2 * people, 1, dtype=torch.bool), y)
    losses = person_losses(model, binary_loss, whole)
    found = attack(losses[:people], losses[people:], delta=1e-5)
    assert found.auc > 0.8
    assert not found.check(0.5).passed


def test_who_is_audited_is_drawn_without_anybody_twice() -> None:
    picked = chosen(1_000, 50)
    assert len(set(picked.tolist())) == 50
    assert set(chosen(5, 50).tolist()) == {0, 1, 2, 3, 4}
    assert chosen(1_000, 50).tolist() != picked.tolist()


def test_every_number_says_that_it_is_not_private() -> None:
    data = attack(np.zeros(100), np.ones(100), delta=1e-5).to_data()
    assert data["private"] is False
    assert data["tpr_at_fpr"] == {"0.001": 1.0, "0.01": 1.0, "0.1": 1.0}
