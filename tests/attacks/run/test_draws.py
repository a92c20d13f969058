"""Honest draws pass with the rates that are stated; other ways to draw are named by a check."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from pyroaring import BitMap

from lethe.attacks.run.draws import check_draws
from lethe.attacks.statistics import ALPHA
from lethe.data.batches import PersonData
from tests.attacks.run import honest

Draws = list[npt.NDArray[np.int64]]
PEOPLE, STEPS, RATE = 4_000, 300, 0.1
SEED = 20_261_130
RANDOM = np.random.default_rng(SEED)
DATA = honest.people(PEOPLE, features=6)
PLAN = honest.plan_of(sample_rate=RATE, steps=STEPS)
PLACE = np.arange(PEOPLE)
RECORDS = DATA.mask.sum(1).numpy()
LABELLED = (DATA.labels.numpy() > 0).any(1)


@pytest.fixture(autouse=True)
def _the_same_numbers_in_any_order() -> None:
    """Each test draws from the seed on, whichever ran before it, and in whatever process."""
    RANDOM.bit_generator.state = np.random.default_rng(SEED).bit_generator.state


def _by(rates: npt.NDArray[np.float64] | float) -> Draws:
    return [np.flatnonzero(RANDOM.random(PEOPLE) < rates) for _ in range(STEPS)]


def _of(marks: Sequence[npt.NDArray[np.bool_]]) -> Draws:
    return [np.flatnonzero(mark) for mark in marks]


def a_hundredth_more() -> Draws:
    return _by(RATE * 1.05)


def one_record_twice_as_often() -> Draws:
    return _by(np.where(RECORDS == 1, 2 * RATE, RATE * 0.6))


def one_label_more_often() -> Draws:
    return _by(np.where(LABELLED, RATE * 1.1, RATE * 0.9))


def a_feature_more_often() -> Draws:
    first = (DATA.features[:, :, 3].sum(1) > 0).numpy()
    return _by(np.where(first, RATE * 1.15, RATE * (1 - 0.15 * first.mean() / (1 - first.mean()))))


def a_feature_only_late() -> Draws:
    """Over the whole run, everybody as often as anybody."""
    first = (DATA.features[:, :, 3].sum(1) > 0).numpy()
    early, late = (_by(np.where(first == side, RATE * 1.4, RATE * 0.6)) for side in (False, True))
    return early[: STEPS // 2] + late[STEPS // 2 :]


def shuffled_epochs() -> Draws:
    made: Draws = []
    while len(made) < STEPS:
        made += [np.sort(part) for part in RANDOM.permutation(PEOPLE).reshape(10, -1)]
    return made[:STEPS]


def fixed_sizes() -> Draws:
    return [np.sort(RANDOM.choice(PEOPLE, 400, replace=False)) for _ in range(STEPS)]


def one_batch_again_and_again() -> Draws:
    return [_by(RATE)[0]] * STEPS


def one_draw_twice() -> Draws:
    made = _by(RATE)
    return [*made[:120], made[7], *made[121:]]


def every_second_the_complement() -> Draws:
    """At a rate of a half; see the test."""
    made = [RANDOM.random(PEOPLE) < 0.5 for _ in range(STEPS // 2)]
    return _of([mark for one in made for mark in (one, ~one)])


def nobody_twice_in_a_row() -> Draws:
    made, before = [], np.zeros(PEOPLE, dtype=bool)
    for _ in range(STEPS):
        before = (RANDOM.random(PEOPLE) < RATE / (1 - RATE)) & ~before
        made.append(before)
    return _of(made)


def again_after_nine_steps() -> Draws:
    marks = [RANDOM.random(PEOPLE) < RATE for _ in range(STEPS)]
    for step in range(9, STEPS):
        kept = RANDOM.random(PEOPLE) < 0.05
        marks[step] = np.where(kept, marks[step - 9], marks[step])
    return _of(marks)


def the_first_half_only() -> Draws:
    return _by(np.where(PLACE < PEOPLE // 2, 2 * RATE, 0))


def halves_in_turn() -> Draws:
    halves = [np.where((PLACE < PEOPLE // 2) == bool(side), 2 * RATE, 0.0) for side in (0, 1)]
    return [np.flatnonzero(RANDOM.random(PEOPLE) < halves[step % 2]) for step in range(STEPS)]


def every_other_place() -> Draws:
    return _by(np.where(PLACE % 2, RATE * 1.2, RATE * 0.8))


def one_shard_more_often() -> Draws:
    return _by(np.where(PLACE * 16 // PEOPLE == 5, RATE * 1.3, RATE * 0.98))


def somebody_never() -> Draws:
    return _by(np.where(PLACE == 1234, 0, RATE))


def somebody_three_times_as_often() -> Draws:
    return _by(np.where(PLACE == 1234, 3.5 * RATE, RATE))


def neighbours_together() -> Draws:
    return _of([np.repeat(RANDOM.random(PEOPLE // 2) < RATE, 2) for _ in range(STEPS)])


def households_far_apart_together() -> Draws:
    return _of([np.tile(RANDOM.random(PEOPLE // 2) < RATE, 2) for _ in range(STEPS)])


def neighbours_never_together() -> Draws:
    marks = [RANDOM.random(PEOPLE) < RATE * 1.05 for _ in range(STEPS)]
    for mark in marks:
        mark[1::2] &= ~mark[0::2]
    return _of(marks)


def more_evenly_than_chance() -> Draws:
    """Everybody exactly thirty times."""
    marks = np.zeros((STEPS, PEOPLE), dtype=bool)
    for person in range(PEOPLE):
        marks[RANDOM.choice(STEPS, 30, replace=False), person] = True
    return _of(list(marks))


def sizes_that_repeat() -> Draws:
    made = []
    for _ in range(STEPS // 2):
        first = _by(RATE)[0]
        made += [first, np.sort(RANDOM.choice(PEOPLE, len(first), replace=False))]
    return made


def less_and_less() -> Draws:
    rates = np.linspace(1.2, 0.8, STEPS) * RATE
    return [np.flatnonzero(RANDOM.random(PEOPLE) < rate) for rate in rates]


def empty_ones_filled() -> Draws:
    """Of so few people that many draws are empty; see the test."""
    made = [np.flatnonzero(RANDOM.random(20) < RATE) for _ in range(STEPS)]
    return [draw if len(draw) else np.array([3]) for draw in made]


def somebody_twice() -> Draws:
    made = _by(RATE)
    return [np.append(made[0], made[0][0]), *made[1:]]


def somebody_unknown() -> Draws:
    return [*_by(RATE)[1:], np.array([PEOPLE])]


def a_step_too_many() -> Draws:
    return [*_by(RATE), np.array([1, 2])]


MUTATIONS: dict[Callable[[], Draws], str] = {
    a_hundredth_more: "rate",
    one_record_twice_as_often: "by_records",
    one_label_more_often: "by_label",
    a_feature_more_often: "by_feature",
    a_feature_only_late: "by_feature",
    shuffled_epochs: "again",
    fixed_sizes: "sizes",
    one_batch_again_and_again: "pairs",
    one_draw_twice: "pairs",
    every_second_the_complement: "again",
    nobody_twice_in_a_row: "again",
    again_after_nine_steps: "again",
    the_first_half_only: "by_place",
    halves_in_turn: "by_place",
    every_other_place: "by_place",
    one_shard_more_often: "by_place",
    somebody_never: "everybody",
    somebody_three_times_as_often: "everybody",
    neighbours_together: "together",
    households_far_apart_together: "together",
    neighbours_never_together: "together",
    more_evenly_than_chance: "people",
    sizes_that_repeat: "sizes",
    less_and_less: "sizes",
    empty_ones_filled: "empty",
    somebody_twice: "nobody_twice",
    somebody_unknown: "known",
    a_step_too_many: "steps",
}


def _failed(
    drawn: Draws, *, data: PersonData = DATA, rate: float = RATE, held_out: BitMap | None = None
) -> set[str]:
    plan = honest.plan_of(sample_rate=rate, steps=STEPS)
    found = check_draws(plan, data, held_out or BitMap(), drawn, random=RANDOM)
    return {check.name.partition(".")[2] for check in found if not check.passed}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.__name__)
def test_another_way_to_draw_is_named(mutation: Callable[[], Draws]) -> None:
    few = honest.people(20, features=6)
    given = {
        every_second_the_complement: {"rate": 0.5},
        empty_ones_filled: {"data": few},
    }.get(mutation, {})
    assert MUTATIONS[mutation] in _failed(mutation(), **given)  # type: ignore[arg-type]


def test_honest_draws_pass() -> None:
    assert _failed(_by(RATE)) == set()


def test_somebody_held_out_is_not_drawn() -> None:
    assert _failed(_by(RATE), held_out=BitMap([int(DATA.tokens[77]), 999_999])) == {"admitted"}
    assert _failed(_by(RATE), held_out=BitMap([999_998])) == set()


def test_everybody_in_every_step_is_honest_at_a_rate_of_one() -> None:
    assert _failed([PLACE] * STEPS, rate=1.0) == set()
    missing = [PLACE] * (STEPS - 1) + [PLACE[:-1]]
    assert {"rate", "everybody"} <= _failed(missing, rate=1.0)


def test_false_alarms_are_no_more_frequent_than_stated() -> None:
    """Of small runs: few people, one step, rates from a thousandth to one."""
    random = np.random.default_rng(18)
    crowds = {count: honest.people(count, features=3) for count in (1, 2, 7, 40)}
    found: dict[str, list[float]] = defaultdict(list)
    runs = 300
    for _ in range(runs):
        count, steps = int(random.choice(list(crowds))), int(random.choice([1, 2, 3, 30]))
        rate = float(random.choice([1e-3, 0.01, 0.1, 0.5, 0.97, 1.0]))
        drawn = [np.flatnonzero(random.random(count) < rate) for _ in range(steps)]
        plan = honest.plan_of(sample_rate=rate, steps=steps)
        for check in check_draws(plan, crowds[count], BitMap(), drawn, random=random):
            assert check.passed
            assert check.false_alarm_rate in (0.0, ALPHA)
            if check.kind == "p-value":
                found[check.name].append(check.statistic)
    for name, p_values in found.items():
        for level in (0.1, 0.01):
            assert sum(p < level for p in p_values) <= level * runs + 5 * (level * runs) ** 0.5, (
                name
            )
