"""What a version says of itself: the same fact by its present name, and by the one before."""

import pytest

from lethe.registration.facts import _epsilon_pld


@pytest.mark.parametrize("report", [{"epsilon_pld": 0.9}, {"epsilon": 0.9}])
def test_a_training_report_of_the_version_before_is_read(report: dict[str, float]) -> None:
    assert _epsilon_pld(report) == 0.9
