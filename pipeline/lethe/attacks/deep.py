"""The deep look at a plan: which epsilon do canaries show at least? As a report."""

from collections.abc import Mapping
from typing import Any

from lethe.attacks.canaries import KINDS, VIEWS, Measured, Twin, checks, measured
from lethe.attacks.statistics import FALSE_ALARMS
from lethe.config.training import Optimizer
from lethe.privacy.plan import Plan

TRIALS = 40_000  # coins for each adversary: minutes on two cores for some hundred steps


def look_deep(
    plan: Plan, optimizer: Optimizer, *, engine: str, claimed: float, trials: int = TRIALS
) -> dict[str, Any]:
    """JSON-ready; nobody's data is in it.

    Args:
        claimed: epsilon at the plan's delta.
        trials: coins for each of two adversaries; fewer where that would take too many steps.

    Guarantees: a sound mechanism is contradicted with the stated `false_alarm_rate` at most;
        its `epsilon_lower_bound` is above the true epsilon no more often.
    """
    twin = Twin.of(plan, optimizer, engine=engine, trials=trials)
    found = measured(twin)
    looked = checks(found, plan, claimed=claimed)
    failed = [check.name for check in looked if not check.passed]
    alarms = sum(check.false_alarm_rate for check in looked)
    if alarms > FALSE_ALARMS:
        raise ValueError("the checks of one audit alarm more often than it says")
    return {
        "canaries": {name: _shown(each) for name, each in found.items()},
        "checks": [check.to_data() for check in looked],
        "confidence": 1 - alarms,
        "delta": plan.delta,
        "epsilon_claimed": claimed,
        "epsilon_lower_bound": max(
            max(each.rates.epsilon, each.rates.epsilon_by_tradeoff) for each in found.values()
        ),
        "failed": failed,
        "false_alarm_rate": alarms,
        "interval_95": _interval(found),
        "passed": not failed,
        "plan_digest": plan.digest,
        "private": True,
        "runs": twin.runs,
        "steps": twin.plan.steps,
        "trials": twin.runs * twin.canaries,
    }


def _shown(each: Measured) -> dict[str, Any]:
    return {**each.rates.to_data(), "one_run_95": each.guessed.to_data()}


def _interval(found: Mapping[str, Measured]) -> dict[str, float]:
    """Around the most that any adversary sees of any canary; all intervals hold at once."""
    ends = [each.rates.interval(0.05 / len(VIEWS) / len(KINDS)) for each in found.values()]
    return {"high": max(high for _, high in ends), "low": max(low for low, _ in ends)}
