"""What people have spent, what is left, and what the next run would cost: for a person to read.

Only looks: nothing is reserved, no file is written, and no store that is not there is made.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from typing import Any, Protocol

from pyroaring import BitMap

from lethe.config import workspace
from lethe.config.params import Params
from lethe.config.sections import Budget
from lethe.core.errors import NotFound
from lethe.core.shown import about
from lethe.data.encoding import Encoder
from lethe.ledger.classes import ClassPrice, SpendClass
from lethe.ledger.ledger import Ledger
from lethe.privacy.claim import Claim
from lethe.privacy.figures import FiguresPlan, figures_plan, with_figures
from lethe.privacy.release import ADJACENCIES, UNITS, Release
from lethe.registration.rollback import refuse_rolled_back
from lethe.stores.opened import OpenStores
from lethe.training.trainer import Planned
from lethe.training.trainers import trainer_of

_BAR = 24  # characters that stand for the whole budget
_LISTED = 20  # classes of a table; the rest are one line
_EXACT = 256  # classes whose PLD is worked out; for the rest RDP, which is never less


class LedgerView(Protocol):
    """What this needs of a ledger."""

    def classes(
        self, tokens: BitMap | None = None, *, delta: float | None = None
    ) -> list[SpendClass]: ...
    def price(self, release: Release, budget: Budget) -> list[ClassPrice]: ...


def spending(stores: OpenStores, *, key: str | None = None) -> dict[str, Any]:
    """Everybody's spending as the ledger has it now, or one person's, and the next run's price.

    Guarantees: changes no file and makes none. A key that is not known is answered as a
        person who was never charged.

    Args:
        key: of one person, as the source has it; it is looked up in the vault and not shown.

    Raises:
        LedgerInvalid: the ledger is damaged, of a newer schema, or was rolled back.
        KeyInvalid, VaultMismatch: `key` is given, and the vault cannot be opened.
    """
    params = stores.params
    plan = trainer_of(params.training).plan(params)
    with ExitStack() as own:
        ledger = _ledger(stores, own)
        refuse_rolled_back(params, ledger, stores.find_registry())
        drawn = _drawn_next(params)
        if key is None:
            people = None
        else:
            token = _token(stores, key)
            people = BitMap([_never_charged(ledger, drawn) if token is None else token])
        outputs = Encoder.from_params(params).outputs
        figures = figures_plan(params, records_per_person=plan.records_per_person, outputs=outputs)
        return budget_report(
            ledger, params.budget, people=people, plan=plan, drawn=drawn, figures=figures
        )


def budget_report(
    ledger: LedgerView,
    budget: Budget,
    *,
    people: BitMap | None = None,
    plan: Planned | None = None,
    drawn: BitMap | None = None,
    figures: FiguresPlan | None = None,
) -> dict[str, Any]:
    """Classes of people with the same history, the largest first.

    Args:
        people: whose histories; if not given, everybody's who was ever charged or would be next.
        plan: the next run, for what it would bring each class to.
        drawn: from whom the next run would draw; from all of `people` if not given.
        figures: of the next run, which are charged beside it.

    Returns:
        JSON-ready: `classes` of `subjects, runs, epsilon_rdp, epsilon_pld, remaining`; with a
        plan also `in_next_run`, and where that is true `epsilon_rdp_after` and
        `epsilon_pld_after`; `delta`, `budget_epsilon`, and `next` (the plan's own price,
        and how many of the people it would bring above the budget).
    """
    if people is None:
        people = BitMap.union(drawn or BitMap(), *(each.members for each in ledger.classes()))
    report: dict[str, Any] = {
        "adjacency": ADJACENCIES[0],
        "delta": budget.delta,
        "budget_epsilon": budget.epsilon,
        "not_private": ["classes.subjects", "next.over_budget", "next.subjects"],
        "unit": UNITS[0],
    }
    if plan is None:
        return report | {
            "classes": _as_they_are(ledger.classes(people, delta=budget.delta), budget)
        }
    inside = people if drawn is None else people & drawn
    classes = [
        _with_next(each)
        for each in ledger.price(with_figures(plan.release(inside), figures), budget)
    ]
    outside = _as_they_are(ledger.classes(people - inside, delta=budget.delta), budget)
    classes += [each | {"in_next_run": False} for each in outside]
    over = [each for each in classes if not each.get("epsilon_rdp_after", 0.0) <= budget.epsilon]
    return report | {
        "classes": sorted(classes, key=lambda each: -int(each["subjects"])),
        "next": {
            **_next_run(plan, plan.release(inside)),
            "subjects": len(inside),
            "over_budget": sum(each["subjects"] for each in over),
            "policy": budget.over_budget,
        },
    }


def _next_run(plan: Planned, release: Release) -> dict[str, Any]:
    """Its price by itself, and what it depends on."""
    claim, declared = Claim.of(release, noise=plan.noise).to_data(), plan.to_data()
    numbers = ("steps", "sample_rate", "noise_multiplier")
    return {
        **{name: claim[name] for name in ("epsilon_rdp", "epsilon_pld", "noise")},
        **{name: declared[name] for name in numbers if name in declared},
    }


def render_budget(report: Mapping[str, Any], *, granularity: int | None = None) -> str:
    """The report as a table with a bar for each class: spent █, the next run ▒, left ·.

    Args:
        granularity: counts of people are rounded to multiples of it; exact if not given, for the
            operator alone.
    """

    def some(people: int) -> str:
        return f"{people:,}" if granularity is None else about(people, granularity)

    width = 9 if granularity is None else max(15, len(some(10**6)))
    limit, classes = float(report["budget_epsilon"]), list(report["classes"])
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
    if not any(each["runs"] for each in classes):
        lines.append("Nobody has been charged in this workspace's ledger.")
    if not classes:
        return "\n".join(lines)
    titles = ["subjects", "runs", "RDP", "PLD", "left"] + (["after"] if ahead else [])
    lines += ["", "  ".join([f"{titles[0]:>{width}}", *(f"{each:>9}" for each in titles[1:])])]
    for each in classes[:_LISTED]:
        after = each.get("epsilon_rdp_after")
        cells = [
            f"{some(each['subjects']):>{width}}",
            f"{each['runs']:>9}",
            *(f"{each[name]:>9.3f}" for name in ("epsilon_rdp", "epsilon_pld", "remaining")),
            *([f"{'-' if after is None else format(after, '.3f'):>9}"] if ahead else []),
            _bar(each["epsilon_rdp"], after, limit),
        ]
        lines.append("  ".join(cells) + (" over" if after is not None and after > limit else ""))
    rest: Sequence[Mapping[str, Any]] = classes[_LISTED:]
    if rest:
        lines.append(
            f"and {some(sum(each['subjects'] for each in rest))} people in {len(rest)} more "
            f"classes, with at least {min(each['remaining'] for each in rest):.3f} left"
        )
    if ahead and any(each.get("in_next_run") is False for each in classes):
        lines.append("after -: not in the next run (withdrawn, erased, held out, or unknown)")
    if ahead and ahead["over_budget"]:
        what = "leaves them out" if ahead["policy"] == "leave_out" else "is refused"
        one = ahead["over_budget"] == 1 and granularity is None
        who = "1 person" if one else f"{some(ahead['over_budget'])} people"
        lines.append(f"{who} would be above the budget: the next run {what}.")
    return "\n".join(lines)


def _with_next(price: ClassPrice) -> dict[str, Any]:
    return {
        "subjects": price.subjects,
        "runs": price.runs,
        "epsilon_rdp": price.epsilon_rdp_before,
        "epsilon_pld": price.epsilon_pld_before,
        "remaining": price.remaining,
        "in_next_run": True,
        "epsilon_rdp_after": price.epsilon_rdp_after,
        "epsilon_pld_after": price.epsilon_pld_after,
    }


def _as_they_are(classes: Sequence[SpendClass], budget: Budget) -> list[dict[str, Any]]:
    return [
        {
            "subjects": each.subjects,
            "runs": len(each.run_ids),
            "epsilon_rdp": each.epsilon_rdp,
            "epsilon_pld": each.epsilon_pld if rank < _EXACT else each.epsilon_rdp,
            "remaining": max(0.0, budget.epsilon - each.epsilon_rdp),
        }
        for rank, each in enumerate(classes)
    ]


def _bar(spent: float, after: float | None, limit: float) -> str:
    filled = min(_BAR, round(_BAR * spent / limit))
    coming = 0 if after is None else min(_BAR, round(_BAR * after / limit)) - filled
    return "█" * filled + "▒" * coming + "·" * (_BAR - filled - coming)


def _ledger(stores: OpenStores, own: ExitStack) -> Ledger:
    try:
        return stores.ledger
    except NotFound:
        return own.enter_context(Ledger.open("sqlite://"))  # an empty one, in memory


def _drawn_next(params: Params) -> BitMap | None:
    from lethe.data.shards import eligible_people, shard_paths

    shards = params.at(workspace.SHARDS)
    if not any(shards.glob("shard-*.parquet")):
        return None
    return eligible_people(shard_paths(shards))


def _token(stores: OpenStores, key: str) -> int | None:
    try:
        token = int(stores.vault.lookup([key])[0])
    except NotFound:
        return None  # no vault: nobody is known
    return token if token >= 0 else None


def _never_charged(ledger: LedgerView, drawn: BitMap | None) -> int:
    """A number that stands for nobody, so that who is unknown is looked at like anybody else."""
    used = BitMap.union(drawn or BitMap(), *(each.members for each in ledger.classes()))
    return next(number for number in count() if number not in used)
