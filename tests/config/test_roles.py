"""What each role of a column allows; a new one is not read until somebody decides that it is."""

from typing import get_args

import pytest

from lethe.config.tables import READ, TRAINED, Column, Role
from lethe.stores.source.schema import may_be_read
from tests import trained_run

NEVER_BY_ITSELF = {"unused", "identifier", "text"}


def test_of_every_role_it_is_decided_whether_statements_may_read_it() -> None:
    assert set(get_args(Role)) == READ | NEVER_BY_ITSELF
    assert not READ & NEVER_BY_ITSELF
    assert TRAINED <= READ


@pytest.mark.parametrize("role", [*sorted(NEVER_BY_ITSELF), "a role of tomorrow"])
def test_what_is_not_allowed_is_not_read(role: str) -> None:
    column = Column(role="unused")
    object.__setattr__(column, "role", role)
    assert not may_be_read(trained_run.params(), column)
    assert not column.taken
