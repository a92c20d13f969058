"""Every test of the audit passes what is sound and alarms at what is not."""

import math

import numpy as np
import pytest
from scipy import stats

from lethe.attacks import statistics as s

SEED = 20_260_101
NOISE = np.random.default_rng(SEED).standard_normal(20_000)
RANDOM = np.random.default_rng(SEED + 1)


@pytest.fixture(autouse=True)
def _the_same_numbers_in_any_order() -> None:
    """Each test draws from the seed on, whichever ran before it, and in whatever process."""
    RANDOM.bit_generator.state = np.random.default_rng(SEED + 1).bit_generator.state


def test_clopper_pearson_reproduces_its_published_bounds() -> None:
    # 95 % bounds on 4 of 20: (0.0573, 0.4366), Newcombe (1998), Stat. Med. 17, method 5, as in
    # any table of exact binomial limits.
    lower, upper = s.clopper_pearson(4, 20, alpha=0.025)
    assert (round(lower, 4), round(upper, 4)) == (0.0573, 0.4366)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (0, 0)])
def test_clopper_pearson_keeps_the_ends(successes: int, trials: int) -> None:
    lower, upper = s.clopper_pearson(successes, trials, alpha=1e-7)
    assert (lower == 0) == (successes == 0)
    assert (upper == 1) == (successes == trials)


def test_a_bound_is_wrong_no_more_often_than_stated() -> None:
    draws = RANDOM.binomial(40, 0.3, size=4_000)
    missed = sum(s.clopper_pearson(int(k), 40, alpha=0.05)[0] > 0.3 for k in draws)
    assert missed / 4_000 <= 0.05 + 0.012


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    area, error = s.auc(np.array([3.0, 2.0, 2.0]), np.array([1.0, 2.0]))
    # pairs: 3>1, 3>2, 2>1, 2=2, 2>1, 2=2 → (4 + 2 / 2) / 6
    assert area == pytest.approx(5 / 6)
    assert 0 < error < 1


def test_the_standard_error_of_auc_is_how_much_it_varies() -> None:
    found = [
        s.auc(RANDOM.standard_normal(60) + 0.5, RANDOM.standard_normal(90)) for _ in range(400)
    ]
    areas, errors = np.array(found).T
    assert errors.mean() == pytest.approx(areas.std(), rel=0.15)


def test_roc_ends_at_the_corners_and_rises() -> None:
    fpr, tpr = s.roc(np.array([0.9, 0.4]), np.array([0.5, 0.1]))
    assert fpr.tolist() == [0.0, 0.0, 0.5, 0.5, 1.0]
    assert tpr.tolist() == [0.0, 0.5, 0.5, 1.0, 1.0]
    assert s.tpr_at(fpr, tpr, 0.1) == 0.5


def test_standard_normal_values_pass_every_test() -> None:
    rows = NOISE.reshape(40, -1)
    assert min(s.variance_p(NOISE), s.mean_p(NOISE), s.shape_p(NOISE)) > 1e-4
    assert s.pairwise_correlation_p(rows) > 1e-4


def test_the_wrong_scale_is_caught() -> None:
    for scale in (0.5, 0.9, 1.1):
        assert s.variance_p(NOISE * scale) < s.ALPHA
    assert s.variance_p(np.zeros(100)) < s.ALPHA


def test_a_shifted_mean_is_caught() -> None:
    assert s.mean_p(NOISE + 0.1) < s.ALPHA


def test_uniform_noise_of_the_right_variance_is_caught() -> None:
    uniform = RANDOM.uniform(-math.sqrt(3), math.sqrt(3), size=20_000)
    assert s.variance_p(uniform) > s.ALPHA
    assert s.shape_p(uniform) < s.ALPHA


def test_equal_opposite_and_dead_rows_are_correlated() -> None:
    rows = NOISE.reshape(40, -1)
    for row in (rows[0], -rows[0], np.zeros_like(rows[0])):
        assert s.pairwise_correlation_p(np.vstack([rows, row])) < s.ALPHA


def test_binomial_counts_become_standard_normal() -> None:
    for trials, rate in ((50_000, 0.1), (20, 0.02), (5, 1.0)):
        counts = RANDOM.binomial(trials, rate, size=5_000)
        scores = s.normal_scores(counts, trials, rate, random=RANDOM)
        assert min(s.variance_p(scores), s.mean_p(scores), s.shape_p(scores)) > 1e-4


def test_counts_that_never_vary_are_not_binomial() -> None:
    scores = s.normal_scores(np.full(200, 100), 1_000, 0.1, random=RANDOM)
    assert s.variance_p(scores) < s.ALPHA


def test_an_impossible_count_is_caught() -> None:
    scores = s.normal_scores(np.array([3, 11]), 10, 0.3, random=RANDOM)
    assert s.variance_p(scores) < s.ALPHA


def test_binomial_p_is_two_sided() -> None:
    assert s.binomial_p(500, 1_000, 0.5) == 1.0
    assert s.binomial_p(300, 1_000, 0.5) == pytest.approx(
        stats.binomtest(300, 1_000, 0.5).pvalue, rel=1e-6
    )


def test_p_values_are_those_of_the_false_alarm_rate() -> None:
    p_values = [s.variance_p(RANDOM.standard_normal(50)) for _ in range(2_000)]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-4


def test_many_p_values_share_one_false_alarm_rate() -> None:
    alone = s.improbable("x", 5e-9, meaning="")
    assert not alone.passed
    assert s.improbable("x", [0.5, 2e-8], meaning="").statistic == pytest.approx(4e-8)
    assert not s.improbable("x", [0.5, 4e-9], meaning="").passed
    assert alone.false_alarm_rate == s.ALPHA


def test_nan_never_passes() -> None:
    assert not s.improbable("x", float("nan"), meaning="").passed
    assert not s.improbable("x", [0.9, float("nan")], meaning="").passed
    assert not s.at_most("x", float("nan"), 1.0, meaning="").passed


def test_a_check_is_json_even_if_its_statistic_is_infinite() -> None:
    assert s.at_most("x", math.inf, 1.0, meaning="m").to_data() == {
        "name": "x",
        "passed": False,
        "statistic": None,
        "threshold": 1.0,
        "false_alarm_rate": 0.0,
        "kind": "at most",
        "meaning": "m",
    }
