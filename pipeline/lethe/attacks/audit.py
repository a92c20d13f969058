"""One audit: every registered attack on one model, and what came of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

# These register what Lethe brings.
from lethe.attacks import (  # noqa: F401
    claims,
    independence,
    mechanism,
    membership,
    own_checks,
    own_run,
    separation,
)
from lethe.attacks.attack import Attack, Target, registered
from lethe.attacks.statistics import FALSE_ALARMS

MEMBERSHIP = "membership"  # what it measured stands in the report as `attack`


@dataclass(frozen=True)
class Audited:
    """The report, JSON-ready, and the curves of attacks that have one, by name."""

    report: dict[str, Any]
    curves: dict[str, pd.DataFrame]


def attacks() -> tuple[type[Attack], ...]:
    """Every attack that an audit runs, Lethe's own first."""
    return registered()


def audit(target: Target, kinds: Sequence[type[Attack]] | None = None) -> Audited:
    """Runs the attacks; a claim has passed if every check was made and held.

    Args:
        kinds: those to run, where they know the kind of mechanism; every registered one by default.

    Raises:
        NotFinite: the model gives losses that are not numbers.
        ValueError: the attacks' false alarms add up to more than an audit promises.
    """
    released = target.release.mechanism
    made = [
        kind()
        for kind in (attacks() if kinds is None else kinds)
        if not kind.mechanisms or released in kind.mechanisms
    ]
    checks = [check for attack in made for check in attack.run(target)]
    alarms = sum(check.false_alarm_rate for check in checks)
    if not 0 <= alarms <= FALSE_ALARMS:
        raise ValueError(
            "The checks of one audit would contradict a sound model with probability "
            f"{alarms:.1e}; at most {FALSE_ALARMS:.0e} is promised. Lower the rates of the attacks "
            "that are registered."
        )
    failed = [check.name for check in checks if check.contradicts]
    unknown = [check.name for check in checks if not check.passed and not check.contradicts]
    measured = {each.name: dict(each.measured) for each in made if each.measured is not None}
    report = {
        "attack": measured.pop(MEMBERSHIP, {"attempted": False, "private": False}),
        "checks": [check.to_data() for check in checks],
        "failed": failed,
        "false_alarm_rate": alarms,
        "not_looked_at": unknown,
        "passed": bool(checks) and not failed and not unknown,
        "private": False,
        "run_id": target.described.run_id,
    }
    if measured:
        report["measured"] = measured
    return Audited(report, {each.name: each.curve for each in made if each.curve is not None})
