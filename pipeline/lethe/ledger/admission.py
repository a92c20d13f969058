"""Who may be in a run, by the budget and what everybody has spent."""

import hashlib
from collections.abc import Sequence

from pyroaring import BitMap

from lethe.config.sections import Budget
from lethe.core.behaviour import own_code
from lethe.core.errors import BudgetExceeded, TooFewSubjects, TrainingRefused
from lethe.core.shown import about
from lethe.ledger.book import canonical
from lethe.ledger.classes import Charge, over_budget
from lethe.privacy.accounting import epsilon_rdp
from lethe.privacy.release import Release

# From a row of the source to a person's charge; not what asks, shows or attacks afterwards.
_DECIDE = (
    *("lethe.config", "lethe.core", "lethe.data", "lethe.ledger", "lethe.people"),
    *("lethe.privacy", "lethe.registration", "lethe.stages", "lethe.stores", "lethe.training"),
)


def admit(release: Release, charges: Sequence[Charge], budget: Budget) -> tuple[BitMap, int]:
    """Who of a release's subjects may be in it, and how many are left out, by the budget's policy.

    Guarantees: whoever is admitted is within the budget after the release. Who is left out
        depends on that person's own history and public numbers alone.

    Raises:
        BudgetExceeded: the policy is `refuse` and somebody would be above; or everybody.
    """
    over, left, after = over_budget(
        release.subjects, charges, release.event, epsilon=budget.epsilon, delta=budget.delta
    )
    admitted = release.subjects - over
    if over and (budget.over_budget == "refuse" or not admitted):
        need = epsilon_rdp([release.event], budget.delta)
        raise BudgetExceeded(
            f"Run needs epsilon={need:.2f}; {about(len(over))} subjects have {left:.2f} left at "
            f"delta={budget.delta:g} and would be at {after:.2f} of {budget.epsilon:.2f} (RDP). "
            "Lower steps, raise noise_multiplier, or leave them out."
        )
    return admitted, len(over)


def code_digest() -> str:
    """SHA-256 over what the code does that decides a release and its price."""
    return own_code().digest(own_code().below(*_DECIDE))


def params_digest(release: Release, budget: Budget) -> str:
    """SHA-256 over what was declared: what is released and the budget it was held to."""
    declared = {
        "plan": release.digest,
        "epsilon": budget.epsilon,
        "delta": budget.delta,
        "over_budget": budget.over_budget,
    }
    return hashlib.sha256(canonical(declared).encode()).hexdigest()


def check_subjects(release: Release, *, minimum: int) -> None:
    """Refuses what must not be computed of so many people.

    Raises:
        TooFewSubjects: fewer than `minimum`.
        TrainingRefused: delta is not below one over their number.
    """
    subjects = len(release.subjects)
    if subjects < minimum:
        raise TooFewSubjects(
            f"{about(subjects)} people may train; subject.minimum is {minimum}. Bring more data, "
            "or lower it if fewer are safe."
        )
    if subjects and release.delta >= 1 / subjects:
        raise TrainingRefused(
            f"budget.delta={release.delta:g} must be below one over the number of people: a larger "
            "one allows to publish a person outright. Lower budget.delta."
        )
