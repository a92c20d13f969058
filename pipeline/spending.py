"""What people have spent, what is left, and what the next run would cost: for a person to read."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pyroaring import BitMap

from pipeline.params import Budget
from pipeline.stores.ledger_history import ClassPrice, SpendClass
from pipeline.training.accounting import epsilon_pld, epsilon_rdp
from pipeline.training.plan import ADJACENCY, UNIT, Plan

_BAR = 24  # characters that stand for the whole budget
_LISTED = 20  # classes of a table; the rest are one line


class Book(Protocol):
    """What this needs of a ledger."""

    def classes(
        self, tokens: BitMap | None = None, *, delta: float | None = None
    ) -> list[SpendClass]: ...
    def price(self, plan: Plan, eligible: BitMap, budget: Budget) -> list[ClassPrice]: ...


def budget_report(
    ledger: Book, budget: Budget, *, people: BitMap | None = None, plan: Plan | None = None
) -> dict[str, Any]:
    """Classes of people with the same history, the largest first.

    Args:
        people: whose histories; everybody who was ever charged if not given.
        plan: the next run, for what it would bring each class to.

    Returns:
        JSON-ready: `classes` of `subjects, runs, epsilon_rdp, epsilon_pld, remaining`, with
        `epsilon_rdp_after` and `epsilon_pld_after` where there is a plan; `delta`, `epsilon`
        (the budget), and `next` (the plan's own price).
    """
    if people is None:
        people = BitMap.union(BitMap(), *(each.members for each in ledger.classes()))
    report: dict[str, Any] = {
        "adjacency": ADJACENCY,
        "classes": [],
        "delta": budget.delta,
        "epsilon": budget.epsilon,
        "unit": UNIT,
    }
    if plan is None:
        report["classes"] = [
            {
                "subjects": each.subjects,
                "runs": len(each.run_ids),
                "epsilon_rdp": each.epsilon_rdp,
                "epsilon_pld": each.epsilon_pld,
                "remaining": max(0.0, budget.epsilon - each.epsilon_rdp),
            }
            for each in ledger.classes(people, delta=budget.delta)
        ]
        return report
    report["classes"] = [
        {
            "subjects": each.subjects,
            "runs": each.runs,
            "epsilon_rdp": each.epsilon_rdp_before,
            "epsilon_pld": each.epsilon_pld_before,
            "remaining": each.remaining,
            "epsilon_rdp_after": each.epsilon_rdp_after,
            "epsilon_pld_after": each.epsilon_pld_after,
        }
        for each in ledger.price(plan, people, budget)
    ]
    report["next"] = {
        "epsilon_rdp": epsilon_rdp([plan.event], budget.delta),
        "epsilon_pld": epsilon_pld([plan.event], budget.delta),
        "steps": plan.steps,
        "sample_rate": plan.sample_rate,
        "noise": plan.noise,
        "noise_multiplier": plan.noise_multiplier,
    }
    return report


def subject_report(
    ledger: Book, budget: Budget, token: int, *, plan: Plan | None = None
) -> dict[str, Any]:
    """The same for one person, who is a class of one."""
    return budget_report(ledger, budget, people=BitMap([token]), plan=plan)


def render_budget(report: Mapping[str, Any]) -> str:
    """The report as a table with a bar for each class: spent █, the next run ▒, left ·."""
    limit, classes = float(report["epsilon"]), list(report["classes"])
    lines = [
        f"Budget: epsilon {limit:g} at delta {report['delta']:g} per {report['unit']} (RDP is what "
        "it is held to; PLD beside it)."
    ]
    ahead = report.get("next")
    if ahead:
        lines.append(
            f"The next run costs epsilon {ahead['epsilon_rdp']:.3f} (RDP), "
            f"{ahead['epsilon_pld']:.3f} (PLD) by itself."
        )
    if not classes:
        return "\n".join([*lines, "Nobody has been charged for anything."])
    titles = ["subjects", "runs", "RDP", "PLD", "left"] + (["after"] if ahead else [])
    lines += ["", "  ".join(f"{title:>9}" for title in titles)]
    for each in classes[:_LISTED]:
        after = each.get("epsilon_rdp_after")
        cells = [
            f"{each['subjects']:>9,}",
            f"{each['runs']:>9}",
            *(f"{each[name]:>9.3f}" for name in ("epsilon_rdp", "epsilon_pld", "remaining")),
            *([f"{after:>9.3f}"] if ahead else []),
            _bar(each["epsilon_rdp"], after, limit),
        ]
        lines.append("  ".join(cells) + (" over" if ahead and after > limit else ""))
    rest: Sequence[Mapping[str, Any]] = classes[_LISTED:]
    if rest:
        lines.append(
            f"and {sum(each['subjects'] for each in rest):,} people in {len(rest)} more classes, "
            f"with at least {min(each['remaining'] for each in rest):.3f} left"
        )
    return "\n".join(lines)


def _bar(spent: float, after: float | None, limit: float) -> str:
    filled = min(_BAR, round(_BAR * spent / limit))
    coming = 0 if after is None else min(_BAR, round(_BAR * after / limit)) - filled
    return "█" * filled + "▒" * coming + "·" * (_BAR - filled - coming)
