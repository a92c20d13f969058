"""Parts of an audit, for tests of one thing: the look that must see it, and others only once.

An audit is the list of what its looks found: what one finds is as probable with the others as
without them, though they share their draws. That an audit has them all
is what the tests of a sound run say, and some of each kind of mutation go through a whole one.
"""

import pickle
from typing import Any

import pytest
from torch import nn

from lethe.attacks import (
    adaptive,
    claims,
    independence,
    mechanism,
    membership,
    own_checks,
    own_run,
    separation,
)
from lethe.attacks.statistics import Check
from lethe.config import private_reports, workspace
from lethe.config.params import Params
from lethe.data.batches import PersonData
from lethe.privacy.plan import Plan
from lethe.stages import audit
from tests import trained_run

# By what the names of its checks begin with, as `Attack.covers` has it.
LOOKS: dict[str, tuple[Any, str]] = {
    "accounting": (claims.Accounting, "run"),
    "people": (claims.People, "run"),
    "membership": (membership.Membership, "run"),
    "training": (own_checks.OwnChecks, "run"),
    "run": (own_run.OwnRun, "run"),
    "noise_of_run": (own_run.OwnRun, "run"),
    "draws_of_run": (own_run.OwnRun, "run"),
    "independence": (independence.Independence, "run"),
    "separation": (separation.Separation, "run"),
    "sampling": (mechanism, "check_sampling"),
    "clipping": (mechanism, "check_clipping"),
    "noise": (mechanism, "check_noise"),
    "loop": (mechanism, "check_loop"),
    "refusal": (mechanism, "check_refusals"),
    "count": (adaptive, "check_count"),
}


def look(check: str) -> str:
    """The look that a check belongs to."""
    return check.partition(".")[0]


def only(patch: pytest.MonkeyPatch, one: str) -> None:
    """From now on an audit looks at nothing else."""
    assert one in LOOKS
    for owner, function in LOOKS.values():
        if (owner, function) != LOOKS[one]:
            patch.setattr(owner, function, lambda *words, **others: [])


def examine_run(params: Params) -> None:
    """The look at the run alone, by its own process, in the workspace as train left it.

    For workspaces that are copied then: its verdict serves every copy whose weights stay.
    """
    with pytest.MonkeyPatch.context() as patch:
        only(patch, "run")
        # Nor is it remembered by `replay_once` that nothing was replayed here.
        patch.setattr(mechanism, "check_mechanism", lambda *words, **others: [])
        assert audit.run(params, now=trained_run.NOW)["passed"]
    workspace.report_path("audit").unlink()
    for name in ("audit.json", "audit_roc.csv"):
        (private_reports.REPORTS / name).unlink()


def replay_once(patch: pytest.MonkeyPatch) -> None:
    """The mechanism is replayed anew for another plan, model, people or setting, and not else.

    For tests of what stands around it, which break none of the code that trains.
    """
    replay = mechanism.check_mechanism
    known: dict[bytes, list[Check]] = {}

    def once(
        plan: Plan, data: PersonData, model: nn.Module, *words: Any, **others: Any
    ) -> list[Check]:
        weights = {name: part.numpy() for name, part in model.state_dict().items()}
        people = [data.features.numpy(), data.mask.numpy(), data.labels.numpy(), data.tokens]
        settings = {name: value for name, value in others.items() if name != "random"}
        key = pickle.dumps((plan.to_data(), people, str(model), weights, words, settings))
        if key not in known:
            known[key] = replay(plan, data, model, *words, **others)
        return known[key]

    patch.setattr(mechanism, "check_mechanism", once)
