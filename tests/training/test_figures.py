"""What one person can move in the counts, that each has its noise, and what is made of them."""

import itertools
import math
from collections.abc import Iterator

import dp_accounting as dp
import numpy as np
import pytest
import torch
from pyroaring import BitMap
from scipy.stats import norm

from lethe.core.errors import ParamsInvalid
from lethe.data.batches import RecordData
from lethe.privacy import figures as priced
from lethe.privacy.figures import FiguresPlan, with_figures
from lethe.privacy.noise.chacha import bits_on
from lethe.privacy.noise.discrete import SCALE
from lethe.privacy.noise.discrete_gaussian import DiscreteGaussian
from lethe.privacy.noise.sampling import Keystream
from lethe.training import figures
from lethe.training.figures import CLASSES, EDGES, Counted, Figures, count, release
from tests.plans import CHARGED

KEY = bytes(range(32))
NOBODY = np.zeros(0, dtype=np.int64)


def plan(
    noise_multiplier: float = 13.0, *, records_per_person: int = 3, outputs: int = 1
) -> FiguresPlan:
    return FiguresPlan(
        noise_multiplier=noise_multiplier,
        delta=1e-5,
        records_per_person=records_per_person,
        outputs=outputs,
    )


def held_out(
    records: list[tuple[int, float, int]], classes: int = 2
) -> tuple[RecordData, np.ndarray]:
    """Records of (token, score, label), and what a model predicts of them."""
    tokens = np.array([token for token, _, _ in records], dtype=np.uint32)
    labels = np.array([label for _, _, label in records], dtype=np.int64)
    scores = np.array([score for _, score, _ in records], dtype=float)
    if classes > 2:  # the score is of class 1, the others share the rest
        rest = (1 - scores)[:, None] * np.array([0.6, *[0.4 / (classes - 2)] * (classes - 2)])
        scores = np.insert(rest, 1, scores, axis=1)
    return RecordData(np.zeros((len(tokens), 1), dtype=np.float32), labels, tokens), scores


def vector(
    of: FiguresPlan, records: list[tuple[int, float, int]], trained: tuple[int, ...] = ()
) -> np.ndarray:
    classes = 2 if of.outputs == 1 else of.outputs
    data, scores = held_out(records, classes)
    found = count(of, scores, data, trained=np.array(trained, dtype=np.int64))
    return found.vector()


OTHERS = [(1, 0.2, 0), (1, 0.7, 1), (2, 0.5, 1), (4, 0.01, 0), (4, 0.01, 0), (4, 0.99, 1)]


def somebodys(labels: int, most: int) -> Iterator[list[tuple[int, float, int]]]:
    """All that a person's records can be, by class of scores and label, up to `most` of them."""
    kinds = list(itertools.product((0.01, 0.3, 0.5, 0.99), range(labels)))
    for number in range(1, most + 1):
        for chosen in itertools.combinations_with_replacement(kinds, number):
            yield [(3, score, label) for score, label in chosen]


@pytest.mark.parametrize(("outputs", "labels", "most"), [(1, 2, 4), (3, 3, 3), (5, 3, 2)])
@pytest.mark.parametrize("records_per_person", [1, 2, 3])
def test_no_held_out_person_moves_the_counts_further_than_is_charged(
    outputs: int, labels: int, most: int, records_per_person: int
) -> None:
    of = plan(records_per_person=records_per_person, outputs=outputs)
    without = vector(of, OTHERS)
    furthest = 0.0
    for records in somebodys(labels, most):
        for place in (0, len(OTHERS)):
            moved = vector(of, [*OTHERS[:place], *records, *OTHERS[place:]]) - without
            furthest = max(furthest, math.sqrt(float((moved.astype(float) ** 2).sum())))
    assert furthest <= math.sqrt(of.groups) * of.unit
    assert furthest > 0.99 * math.sqrt(of.groups) * of.unit, "nor is more charged than is moved"


@pytest.mark.parametrize("records", [0, 1, 2, 3, 4, 100])
@pytest.mark.parametrize("records_per_person", [1, 3])
def test_no_trained_person_moves_the_counts_further_than_is_charged(
    records: int, records_per_person: int
) -> None:
    of = plan(records_per_person=records_per_person)
    moved = vector(of, OTHERS, (1, 2, records)) - vector(of, OTHERS, (1, 2))
    assert math.sqrt(float((moved.astype(float) ** 2).sum())) <= math.sqrt(of.groups) * of.unit


@pytest.mark.parametrize("noise_multiplier", [0.3, 1.0, 13.2858, 400.0])
@pytest.mark.parametrize("outputs", [1, 3, 10])
def test_the_noise_is_what_the_price_says_of_what_a_person_moves(
    noise_multiplier: float, outputs: int
) -> None:
    of = plan(noise_multiplier, outputs=outputs)
    assert noise_multiplier * math.sqrt(of.groups) * of.unit <= math.sqrt(SCALE**2 - 64)
    assert priced._SCALE == SCALE
    assert of.event == dp.GaussianDpEvent(noise_multiplier)


def test_noise_in_which_a_record_is_nothing_is_refused() -> None:
    with pytest.raises(ParamsInvalid, match=r"reporting\.epsilon"):
        _ = plan(1e6).unit


def test_every_count_has_a_discrete_gaussian_number_of_its_own() -> None:
    data, scores = held_out(OTHERS)
    exact = count(plan(), scores, data, trained=np.array([1, 2]))
    noise = release(exact, Keystream(KEY)).vector() - exact.vector()
    drawn = DiscreteGaussian(bits_on(torch.device("cpu"), Keystream(KEY))).draw(len(noise))
    assert noise.tolist() == drawn.tolist()
    assert len(set(noise.tolist())) == len(noise) == 2 * CLASSES + 3
    other = release(exact, Keystream(KEY[::-1])).vector()
    assert not set(other.tolist()) & set((noise + exact.vector()).tolist())


def test_what_is_made_of_the_counts_is_made_of_the_noisy_ones_alone() -> None:
    """Two data sets whose noisy counts are equal have equal figures, to the last bit."""
    of = plan()
    data, scores = held_out(OTHERS)
    one = count(of, scores, data, trained=np.array([1, 2]))
    two = count(
        of,
        scores[:2],
        RecordData(*(x[:2] for x in (data.features, data.labels, data.tokens))),
        trained=NOBODY,
    )
    noisy = release(one, Keystream(KEY))
    same = two.of_vector(two.vector() + (noisy.vector() - two.vector()))
    found, again = Figures.of(noisy, of), Figures.of(same, of)
    assert found.metrics == again.metrics
    assert found.roc.equals(again.roc) and found.calibration.equals(again.calibration)


def test_an_attack_on_two_versions_around_an_erasure_gains_what_is_charged_at_most() -> None:
    """Who knows everybody else, and sees the figures before and after, guesses whether one was in.

    The best test between two Gaussians mu apart is right with probability Phi(mu / 2). In 2,000
    guesses it is right more often than that by 0.0635 with probability below exp(-2 * 2000 *
    0.0635^2) < 1e-7 (Hoeffding).
    """
    of, trials = plan(1.0), 2000
    person = [(3, 0.3, 1)] * 3
    without = count(of, *reversed(held_out(OTHERS)), trained=NOBODY)
    inside = count(of, *reversed(held_out([*OTHERS, *person])), trained=NOBODY)
    direction = (inside.vector() - without.vector()).astype(float)
    keystream, random = Keystream(KEY), np.random.default_rng(7)
    right = {"knows the others": 0, "compares the two": 0}
    for _ in range(trials):
        was_in = bool(random.integers(2))
        before = release(inside if was_in else without, keystream).vector()
        after = release(without, keystream).vector()  # erased, if there ever was anybody
        halfway = (direction**2).sum() / 2
        for attack, known in (("knows the others", without.vector()), ("compares the two", after)):
            says_in = bool(((before - known) * direction).sum() > halfway)
            right[attack] += says_in == was_in
    assert all(number / trials <= norm.cdf(0.5) + 0.0635 for number in right.values()), right
    assert right["knows the others"] / trials >= norm.cdf(0.5) - 0.0635, "it is the best attack"


def test_a_measure_lies_in_its_interval_as_often_as_it_says() -> None:
    """Of 100 releases of one data set, at most a quarter leaves an interval of 95 %.

    By the binomial law more do with probability below 1e-10 for each figure.
    """
    of, random = plan(2.0), np.random.default_rng(3)
    people = 3000
    labels = (random.random(people) < 0.3).astype(int)
    scores = 1 / (1 + np.exp(-(random.normal(size=people) - 0.8 + labels)))
    records = list(zip(range(people), scores.tolist(), labels.tolist(), strict=True))
    data, predicted = held_out(records)
    exact = count(of, predicted, data, trained=np.ones(2000, dtype=np.int64))
    noiseless = figures._measured(exact.scores / of.unit, exact.right)
    keystream, outside = Keystream(KEY), dict.fromkeys((*noiseless, "subjects"), 0)
    truth = noiseless | {"subjects": 2000}
    trials = 100
    for _ in range(trials):
        metrics = Figures.of(release(exact, keystream), of).metrics
        for name, true in truth.items():
            low, high = metrics[name]["low"], metrics[name]["high"]
            outside[name] += not low - 0.002 <= true <= high + 0.002
    assert all(number <= 0.25 * trials for number in outside.values()), outside
    plain = ((scores >= 0.5) == labels).mean()
    assert noiseless["accuracy"] == pytest.approx(plain, abs=1e-6)


def test_an_edge_of_the_scores_is_even_odds_and_a_person_counts_once() -> None:
    assert 0.5 in EDGES.tolist()
    of = plan()
    data, scores = held_out([(1, 0.9, 1), (1, 0.1, 1), (2, 0.9, 1)])
    exact = count(of, scores, data, trained=NOBODY)
    assert exact.held_out == 2 * of.unit
    assert figures._measured(exact.scores / of.unit, exact.right)["accuracy"] == pytest.approx(
        0.75, abs=1e-5
    )


def test_records_beyond_the_declared_ones_are_not_counted() -> None:
    of = plan(records_per_person=1)
    once, more = [(1, 0.9, 1)], [(1, 0.9, 1), (1, 0.1, 0)]
    assert vector(of, once).tolist() == vector(of, more).tolist()


def test_what_noise_would_drown_is_not_said() -> None:
    data, scores = held_out(OTHERS)
    of = plan()
    made = Figures.of(release(count(of, scores, data, trained=NOBODY), Keystream(KEY)), of)
    assert set(made.metrics) == {"held_out_subjects", "subjects", "records"}
    assert made.roc.empty and made.calibration.empty


def test_the_counts_of_a_model_that_measures_nothing_are_noisy_too() -> None:
    of = plan()
    data, _ = held_out(OTHERS)
    exact = count(of, None, data, trained=np.array([2]))
    assert exact.scores.sum() == 0 and exact.held_out == 3 * of.unit
    assert isinstance(release(exact, Keystream(KEY)), Counted)


def test_a_training_and_its_figures_are_one_price() -> None:
    people = BitMap([1, 2])
    alone = CHARGED.release(people)
    both = with_figures(alone, plan())
    assert both.event == dp.ComposedDpEvent([alone.event, plan().event])
    assert both.subjects == people
    assert with_figures(alone, None) is alone
