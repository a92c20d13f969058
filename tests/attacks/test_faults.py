"""The documentation lists the faults that the tests put in, with the checks that name them."""

import pytest

from tests.attacks import faults


def test_the_page_has_the_tables_of_the_tests() -> None:
    """If not: python -m tests.attacks.faults"""
    assert faults.PAGE.read_text() == faults.written()


def test_at_least_forty_faults_are_named() -> None:
    """Through the audit stage, each named by a check of its own kind."""
    whole = [*faults.in_ordinary_runs(), *faults.in_replayed_code()]
    assert len(whole) >= 40
    assert len({name for name, _ in whole}) == len(whole)


@pytest.mark.parametrize("where", faults.SECTIONS)
def test_every_fault_has_a_check_with_a_name(where: str) -> None:
    found = faults.SECTIONS[where]()
    assert found and all("." in check and name for name, check in found)
