"""budget: make the plan, say what it costs everybody, and refuse it before it runs.

The price is that of the training and of its figures. How many people have which history is for the
operator's private file; what leaves is the plan and its price.

Nothing is reserved here; train does that, by the same rules, before it draws anything.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from lethe.config import private_reports, workspace
from lethe.config.params import Params
from lethe.config.sections import Budget
from lethe.core.errors import AuditContradiction
from lethe.core.files import write_json
from lethe.data.encoding import Encoder
from lethe.data.shards import eligible_people, held_out_people, shard_paths
from lethe.ledger.admission import check_subjects
from lethe.ledger.classes import ClassPrice
from lethe.privacy.bounds import ROUNDING, least_price
from lethe.privacy.claim import Claim
from lethe.privacy.figures import FiguresPlan, figures_plan, with_figures
from lethe.privacy.plan import Plan
from lethe.privacy.release import Release
from lethe.stores.opening import open_ledger
from lethe.training.trainer import Planned
from lethe.training.trainers import trainer_of

_CLASSES = 100  # listed one by one; the rest are summed up as one


def run(params: Params, *, now: datetime) -> dict[str, Any]:
    """Plans the training and prices it; writes `data/plan.json` and `reports/budget.json`.

    Guarantees: reads who may train and nothing else of them; the ledger stays as it is.

    Raises:
        NotFound: there are no shards yet.
        TooFewSubjects: fewer than `subject.minimum` may train.
        TrainingRefused: delta is not below 1/subjects.
        BudgetExceeded: the run would bring somebody above the budget, and the policy is
            `refuse`; or everybody.
        AuditContradiction: what the plan is priced at is below what it costs.
    """
    paths = shard_paths(params.at(workspace.SHARDS))
    eligible, held_out = eligible_people(paths), held_out_people(paths)
    encoder = Encoder.from_params(params)
    plan = trainer_of(params.training).plan(params)
    release = plan.release(eligible)
    check_subjects(release, minimum=params.subject.minimum)
    if isinstance(plan, Plan):  # of other plans there is no bound from below
        _refuse_underpriced(plan, release)
    figures = figures_plan(
        params, records_per_person=plan.records_per_person, outputs=encoder.outputs
    )
    both = with_figures(release, figures)
    with open_ledger(params) as ledger:
        prices = ledger.price(both, params.budget)
        _, left_out = ledger.admissible(both, params.budget)
        if figures is not None and held_out:
            ledger.admissible(figures.release(held_out), params.budget)
    report = budget_report(plan, release, figures, budget=params.budget)
    exact = exact_report(prices, left_out=left_out, subjects=len(eligible))
    private_reports.write(params.root, "budget", exact)
    private_reports.write_file(params.root, "budget.csv", plot(prices).encode())
    write_json(params.at(workspace.ENCODING), encoder.to_data())
    write_json(params.at(workspace.PLAN), plan.to_data())
    write_json(params.at(workspace.report_path("budget")), report)
    return exact | report


def _refuse_underpriced(plan: Plan, release: Release) -> None:
    """What the audit would contradict after the training is refused before it is paid for."""
    claim = Claim.of(release, noise=plan.noise)
    rdp, pld = least_price(plan, near=claim.epsilon_pld)
    for name, least, priced in (("RDP", rdp, claim.epsilon_rdp), ("PLD", pld, claim.epsilon_pld)):
        if not least <= priced * (1 + ROUNDING):
            raise AuditContradiction(
                f"By {name} the plan is priced at epsilon {priced:g} and costs at least {least:g}. "
                f"Nothing was trained or charged. Please report this plan: {plan.to_data()}."
            )


def budget_report(
    plan: Planned, release: Release, figures: FiguresPlan | None, *, budget: Budget
) -> dict[str, Any]:
    """What the run costs alone; nothing of it is counted."""
    return {
        **Claim.of(release, noise=plan.noise).to_data(),
        "budget_epsilon": budget.epsilon,
        "figures": "none: reporting.epsilon is 0" if figures is None else figures.price(),
        "over_budget": budget.over_budget,
        "plan": plan.to_data(),
        "plan_digest": release.digest,
    }


def exact_report(prices: Sequence[ClassPrice], *, left_out: int, subjects: int) -> dict[str, Any]:
    """How many people it concerns, and what it brings each class of them to: for the operator."""
    return {
        "classes": [asdict(price) for price in _summed_up(prices)],
        "left_out": left_out,
        "remaining": min(price.remaining for price in prices),
        "subjects": subjects,
    }


def plot(prices: Sequence[ClassPrice]) -> str:
    """The classes before and after the run, as CSV."""
    lines = ["class,subjects,when,epsilon_rdp,epsilon_pld"]
    for number, price in enumerate(_summed_up(prices), start=1):
        for when in ("before", "after"):
            rdp, pld = getattr(price, f"epsilon_rdp_{when}"), getattr(price, f"epsilon_pld_{when}")
            lines.append(f"{number},{price.subjects},{when},{rdp:.6f},{pld:.6f}")
    return "\n".join(lines) + "\n"


def _summed_up(prices: Sequence[ClassPrice]) -> list[ClassPrice]:
    """The largest classes, and the others as one with the worst of their numbers."""
    listed, rest = list(prices[:_CLASSES]), prices[_CLASSES:]
    if rest:
        listed.append(
            ClassPrice(
                subjects=sum(price.subjects for price in rest),
                runs=max(price.runs for price in rest),
                epsilon_rdp_before=max(price.epsilon_rdp_before for price in rest),
                epsilon_pld_before=max(price.epsilon_pld_before for price in rest),
                epsilon_rdp_after=max(price.epsilon_rdp_after for price in rest),
                epsilon_pld_after=max(price.epsilon_pld_after for price in rest),
                remaining=min(price.remaining for price in rest),
            )
        )
    return listed
