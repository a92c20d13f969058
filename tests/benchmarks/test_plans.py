"""Random plans against two other prices each, and that a wrong price would be seen."""

import math
from dataclasses import replace

import pytest

from benchmarks import plans


@pytest.mark.parametrize("part", range(4))
def test_forty_random_plans_agree_with_two_others_from_both_sides(part: int) -> None:
    for facts in plans.random_plans(40)[part::4]:
        assert plans.priced(facts).wrong == [], facts


def test_the_tutorials_plan_is_not_contradicted_and_below_the_coarse_grid() -> None:
    found = plans.priced(plans.TUTORIAL)
    assert found.wrong == []
    # By dp_accounting's PLD at its default grid, and at 5e-6.
    assert found.other_pld == pytest.approx(0.35664, abs=1e-4)
    assert found.pld == pytest.approx(0.35274, abs=2e-4)


def test_half_of_everybody_is_priced_by_the_best_order() -> None:
    found = plans.priced(plans.HALF)
    assert found.wrong == []
    # By quadrature with 30 digits at the best order; dp_accounting's RDP drops it.
    assert found.rdp == pytest.approx(4.58120413, abs=1e-7)
    assert found.renyi == pytest.approx(4.58120413, abs=1e-7)
    assert found.other_rdp == pytest.approx(4.5932, abs=1e-4)


def test_the_grid_is_of_294_plans() -> None:
    assert len(set(plans.grid_plans())) == 294
    assert len(plans.random_plans(500)) == 500


@pytest.mark.parametrize(
    ("field", "factor"),
    [("rdp", 0.999), ("pld", 0.99), ("rdp", 1.01), ("pld", 1.01)],
)
def test_a_price_that_is_off_is_seen(field: str, factor: float) -> None:
    found = plans.priced((0.1, 300, 6.5856, 1e-5))
    assert found.wrong == [] and math.isfinite(found.other_pld)
    assert replace(found, **{field: factor * getattr(found, field)}).wrong
