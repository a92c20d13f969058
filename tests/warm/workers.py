"""A plugin for whole runs: workers of pytest are forks of a process that has collected the tests.

Each would else import everything that any test imports, and compile every test. For coverage they
must be started truly, as it begins with an interpreter.
"""

import uuid
from collections.abc import Sequence

import execnet
import pytest

from tests.warm import worker_python


def pytest_xdist_setupnodes(config: pytest.Config, specs: Sequence[execnet.XSpec]) -> None:
    python = worker_python(config.option.testrunuid, config.args)
    for spec in specs:
        spec.python = str(python)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.getoption("testrunuid") is None:
        session.config.option.testrunuid = uuid.uuid4().hex
