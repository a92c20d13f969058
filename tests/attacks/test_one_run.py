"""The bound of one training with canaries, against its paper's numbers and by brute force."""

import itertools
import math

import numpy as np
import pytest

from lethe.attacks.one_run import best_bound, epsilon_at_least, p_value, right_guesses


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "delta", "published"),
    [
        (100, 100, 75, 0.0, 0.702),  # Steinke et al. (2023), arXiv:2305.08846v1, appendix D, p. 45
        (100, 100, 75, 1e-4, 0.699),  # p. 46
        (1000, 100, 75, 1e-4, 0.673),  # p. 46: abstentions weigh delta by all canaries
        (100_000, 1510, 1439, 1e-5, 2.675),  # section 7, p. 28, figure 11
    ],
)
def test_the_bound_is_the_papers(
    canaries: int, guesses: int, correct: int, delta: float, published: float
) -> None:
    found = epsilon_at_least(correct, guesses=guesses, canaries=canaries, delta=delta, alpha=0.05)
    assert found == pytest.approx(published, abs=1e-3)  # printed digits, rounded or cut


def test_the_p_value_is_the_papers() -> None:
    found = p_value(75, guesses=100, canaries=100, epsilon=math.log(3), delta=0.0)
    assert found == pytest.approx(0.553, abs=5e-4)  # appendix D, p. 45


@pytest.mark.parametrize("guesses", [1, 16, 100])
@pytest.mark.parametrize("alpha", [0.05, 1e-8])
def test_of_right_guesses_alone_the_bound_has_a_closed_form(guesses: int, alpha: float) -> None:
    """P = (e^epsilon / (1 + e^epsilon))^guesses = alpha."""
    exact = max(0.0, -math.log(alpha ** (-1 / guesses) - 1))
    found = epsilon_at_least(guesses, guesses=guesses, canaries=guesses, delta=0.0, alpha=alpha)
    assert found == pytest.approx(exact, abs=2e-6)
    assert found <= exact + 1e-12


@pytest.mark.parametrize("epsilon", [0.0, 0.4, 2.0])
@pytest.mark.parametrize("delta", [0.0, 0.03])
@pytest.mark.parametrize("canaries", [1, 4, 7])
def test_no_mechanism_guesses_right_more_often(canaries: int, delta: float, epsilon: float) -> None:
    """Every outcome of randomized response, which the claim allows, counted one by one.

    With delta a canary's coin is published outright with that probability.
    """
    right = delta + (1 - delta) * math.exp(epsilon) / (1 + math.exp(epsilon))
    probability = np.zeros(canaries + 1)
    for outcome in itertools.product((False, True), repeat=canaries):
        probability[sum(outcome)] += math.prod(right if each else 1 - right for each in outcome)
    for correct in range(canaries + 1):
        reached = probability[correct:].sum()
        bound = p_value(correct, guesses=canaries, canaries=canaries, epsilon=epsilon, delta=delta)
        assert reached <= bound + 1e-12, correct
        if delta == 0:
            assert reached == pytest.approx(bound)  # and it is attained: nothing is given away


def test_few_right_guesses_refute_nothing() -> None:
    for correct in (0, 40, 50, 55):
        assert epsilon_at_least(correct, guesses=100, canaries=100, delta=0, alpha=0.05) == 0


def test_the_highest_are_guessed_in_and_the_lowest_out() -> None:
    scores = np.array([5.0, 1.0, 4.0, 2.0, 3.0])
    included = np.array([True, False, False, False, True])
    assert right_guesses(scores, included, 2) == 2  # 5 is in, 1 is out
    assert right_guesses(scores, included, 4) == 3  # 4 is not in
    assert right_guesses(-scores, included, 2) == 0


@pytest.mark.parametrize("separation", [0.0, 0.3])
def test_a_sound_mechanism_is_not_refuted_more_often_than_stated(separation: float) -> None:
    """Gaussian DP with mu = separation, 400 times at alpha = 0.05; the true epsilon is exceeded
    at most 47 times but for one in a million (binomial)."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    true = 0.0
    if separation:
        true = pld.from_gaussian_mechanism(1 / separation).get_epsilon_for_delta(1e-3)
    random, wrong = np.random.default_rng(11), 0
    for _ in range(400):
        included = random.random(300) < 0.5
        scores = separation * included + random.normal(size=300)
        wrong += best_bound(scores, included, delta=1e-3, alpha=0.05).epsilon > true
    assert wrong <= 47


@pytest.mark.parametrize("canaries", [100, 1000])
def test_what_shows_the_coins_is_refuted_as_far_as_so_many_canaries_can(canaries: int) -> None:
    included = np.random.default_rng(3).random(canaries) < 0.5
    found = best_bound(included.astype(float), included, delta=1e-12, alpha=1e-8)
    assert found.confidence == 1 - 1e-8
    assert found.epsilon > {100: 1.0, 1000: 3.5}[canaries]
    # Not above what all right guesses at all of alpha can show.
    assert found.epsilon < -math.log((1e-8) ** (-1 / canaries) - 1)


def test_confidence_costs_a_delta_far_below_it() -> None:
    """With probability delta the mechanism may show everything: that refutes nothing rarer."""
    included = np.random.default_rng(3).random(1000) < 0.5
    assert best_bound(included.astype(float), included, delta=1e-6, alpha=1e-8).epsilon == 0


@pytest.mark.parametrize("scores", [[0.0, math.nan], [1.0], []])
def test_a_canary_without_a_score_is_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="one score"):
        best_bound(np.array(scores), np.array([True, False]), delta=1e-5, alpha=0.05)
