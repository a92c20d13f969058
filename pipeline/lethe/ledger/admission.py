"""Who may be in a run, by the budget and what everybody has spent."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import dp_accounting as dp
from pyroaring import BitMap

from lethe.config.sections import Budget
from lethe.core.behaviour import own_code
from lethe.core.errors import BudgetExceeded, TooFewSubjects, TrainingRefused
from lethe.ledger.book import canonical
from lethe.ledger.classes import Charge, over_budget
from lethe.privacy.accounting import epsilon_rdp

# From a row of the source to a person's charge; not what asks, shows or attacks afterwards.
_DECIDE = (
    *("lethe.config", "lethe.core", "lethe.data", "lethe.ledger", "lethe.people"),
    *("lethe.privacy", "lethe.registration", "lethe.stages", "lethe.stores", "lethe.training"),
)


class Chargeable(Protocol):
    """What the ledger needs to know of a plan: what it costs, and what it is."""

    @property
    def event(self) -> dp.DpEvent: ...
    @property
    def delta(self) -> float: ...
    @property
    def records_per_person(self) -> int: ...
    @property
    def digest(self) -> str: ...


def admit(
    plan: Chargeable, eligible: BitMap, charges: Sequence[Charge], budget: Budget
) -> tuple[BitMap, int]:
    """Who may be in a run, and how many are left out, by the budget's policy.

    Guarantees: whoever is admitted is within the budget after the run. Who is left out
        depends on that person's own history and public numbers alone.

    Raises:
        BudgetExceeded: the policy is `refuse` and somebody would be above; or everybody.
    """
    over, left, after = over_budget(
        eligible, charges, plan.event, epsilon=budget.epsilon, delta=budget.delta
    )
    admitted = eligible - over
    if over and (budget.over_budget == "refuse" or not admitted):
        need = epsilon_rdp([plan.event], budget.delta)
        raise BudgetExceeded(
            f"Run needs epsilon={need:.2f}; {len(over)} subjects have {left:.2f} left at "
            f"delta={budget.delta:g} and would be at {after:.2f} of {budget.epsilon:.2f} (RDP). "
            "Lower steps, raise noise_multiplier, or leave them out."
        )
    return admitted, len(over)


def code_digest() -> str:
    """SHA-256 over what the code does that decides a release and its price."""
    return own_code().digest(own_code().below(*_DECIDE))


def params_digest(plan: Chargeable, budget: Budget) -> str:
    """SHA-256 over what was declared: the plan and the budget it was held to."""
    declared = {
        "plan": plan.digest,
        "epsilon": budget.epsilon,
        "delta": budget.delta,
        "over_budget": budget.over_budget,
    }
    return hashlib.sha256(canonical(declared).encode()).hexdigest()


def check_subjects(plan: Chargeable, subjects: int, *, minimum: int) -> None:
    """Refuses a plan that so many people must not be trained with."""
    if subjects < minimum:
        raise TooFewSubjects(
            f"{subjects} people may train; subject.minimum is {minimum}. Bring more data, or "
            "lower it if fewer are safe."
        )
    if plan.delta >= 1 / subjects:
        raise TrainingRefused(
            f"budget.delta={plan.delta:g} must be below 1/subjects={1 / subjects:g}: a larger one "
            "allows to publish a person outright. Lower budget.delta."
        )
