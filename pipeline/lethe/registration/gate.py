"""What the registration gate looks at, and what it says about it; no store, no file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pyroaring import BitMap

from lethe.config.sections import Registration
from lethe.core.reading import parse_data

if TYPE_CHECKING:
    from lethe.training.trainer import Planned

CANDIDATE = "candidate"
CHAMPION = "champion"
GATE = "gate"  # tag: "open", or why the version was not promoted by itself, as `Gate` reads it
NO_GATE = f"it has no tag {GATE}, which somebody removed"  # no gate has let it in then
_EXPERIMENTAL = "it is an experiment's"  # which is not even a candidate, whoever approves
CONTRADICTED = "contradicted"  # how the tag `deep_audit` begins then
# What must have held of the run itself, by the kind of mechanism that trained.
LOOKS = {
    "dp-sgd": frozenset(
        ("run.recorded", "run.begun", "run.weights", "noise_of_run.looked_at", "draws_of_run.steps")
    )
}
WITHDRAWN = "withdrawn"  # tag: whether somebody in the version has withdrawn since


@dataclass(frozen=True)
class Evidence:
    """Everything that the gate looks at, gathered beforehand; counts, hashes and prices."""

    validation: Mapping[str, Any]
    audit: Mapping[str, Any]
    training: Mapping[str, Any]
    plan: "Planned"
    described_run: str
    run_state: str
    run_plan_digest: str
    run_manifest_md5: str
    largest_spend: float
    budget_epsilon: float
    manifest_md5: str
    subjects: int
    withdrawn: int
    recorded: Mapping[str, str | None]
    used: Mapping[str, str | None]
    model_is_recorded: bool
    audit_code: str  # the digest of the code that audits today
    figures_state: str = "none"  # of the ledger's run that the training's figures were charged as
    deep_audit: str = ""  # what is known of the plan and the code, as the tag of that name says it


def objections(evidence: Evidence) -> list[str]:
    """Every reason against registering; none if the gate is open.

    Default deny: what a report does not say is not so.
    """
    e = evidence
    run_id = e.training.get("run_id")
    found = {
        "validation did not pass (lethe validate)": e.validation.get("passed") is not True,
        "the audit did not pass (lethe audit)": e.audit.get("passed") is not True,
        "canaries contradict the claim of this plan and code (lethe audit --deep)": (
            e.deep_audit.startswith(CONTRADICTED)
        ),
        "the audit is of another training (lethe audit)": e.audit.get("run_id") != run_id,
        "the audit is of other weights (lethe audit)": (
            not e.recorded.get("model") or e.audit.get("model_md5") != e.recorded["model"]
        ),
        "the audit did not look at the run that made the model (lethe audit)": (
            not LOOKS.get(e.plan.release(BitMap()).mechanism, frozenset()) <= _passed(e.audit)
        ),
        "the run was looked at by another version of the audit, and its transcript is gone (lethe "
        "run --force trains again, which is charged)": _looked_by_other_code(e),
        "the model is of another training (lethe train)": e.described_run != run_id,
        f"the training's spend is {e.run_state}, not settled": e.run_state != "settled",
        "the ledger was charged for another plan": (
            e.run_plan_digest != e.plan.release(BitMap()).digest
        ),
        "the ledger was charged for other people": e.run_manifest_md5 != e.manifest_md5,
        "the training followed another plan": e.training.get("plan") != e.plan.to_data(),
        f"somebody in it has spent epsilon {e.largest_spend:.4g} of {e.budget_epsilon:g}": not (
            e.largest_spend <= e.budget_epsilon
        ),
        "a figure of people in reports/train.json is not charged (lethe train)": not all(
            isinstance(metric, dict) and metric.get("private") is True
            for metric in e.training.get("metrics", {}).values()
        ),
        f"the spend of the training's figures is {e.figures_state}, not settled": (
            bool(e.training.get("metrics")) and e.figures_state != "settled"
        ),
        "the manifest is not the one that was trained on": (
            e.training.get("manifest_md5") != e.manifest_md5
        ),
        "people in it have withdrawn, were erased or are unknown since": (e.withdrawn != 0),
        "dvc.lock does not name all of what is registered (dvc repro)": not all(
            e.recorded.values()
        ),
        "the manifest is not the one that dvc.lock names": (
            e.recorded.get("manifest") != e.manifest_md5
        ),
        "the data changed after the training": e.used.get("train") != e.recorded.get("data"),
        "the data changed after the validation": (e.used.get("validate") != e.recorded.get("data")),
        "the model's files are not those that dvc.lock names": not e.model_is_recorded,
    }
    return [reason for reason, holds in found.items() if holds]


def _looked_by_other_code(evidence: Evidence) -> bool:
    """An older audit may have passed what today's would not: its word registers nothing new."""
    if not LOOKS.get(evidence.plan.release(BitMap()).mechanism):
        return False
    measured = evidence.audit.get("measured")
    look = measured.get("run") if isinstance(measured, dict) else None
    return not isinstance(look, dict) or look.get("code") != evidence.audit_code


def _passed(audit: Mapping[str, Any]) -> frozenset[str]:
    """Names of the checks that held."""
    checks = audit.get("checks")
    return frozenset(
        str(check.get("name"))
        for check in (checks if isinstance(checks, list) else ())
        if isinstance(check, dict) and check.get("passed") is True
    )


@dataclass(frozen=True)
class Gate:
    """Whether a version is promoted by itself.

    Attributes:
        reasons: what stands in the way; a person's word does not remove it.
        waits_for: whose word it waits for; any one of them will do.
    """

    reasons: tuple[str, ...] = ()
    waits_for: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        return not self.reasons and not self.waits_for

    @property
    def sentences(self) -> list[str]:
        """Why it is closed, for a reader."""
        waits = [f"waits for approval by {' or '.join(self.waits_for)}"] if self.waits_for else []
        return [*waits, *self.reasons]

    def to_tag(self) -> str:
        return "open" if self.open else json.dumps(asdict(self))

    @classmethod
    def from_tag(cls, tag: str) -> "Gate":
        """Also as versions before this form have it: sentences, joined by `; `.

        What cannot be read stands in the way as it is: a gate is never open by mistake.
        """
        if tag == "open":
            return cls()
        try:
            data = parse_data(tag)
            return cls(tuple(data["reasons"]), tuple(data["waits_for"]))
        except (ValueError, KeyError, TypeError):
            parts = tag.split("; ")
        waits = [part for part in parts if part.startswith(_WAITED)]
        names = waits[0].removeprefix(_WAITED).split(" or ") if waits else []
        return cls(tuple(part for part in parts if part not in waits), tuple(names))


_WAITED = "waits for approval by "


def closed_gate(
    metrics: Mapping[str, Mapping[str, Any]], registration: Registration, *, experiment: bool
) -> Gate:
    """Whether a version is promoted by itself, and why not.

    Args:
        experiment: it was trained or registered in an experiment of DVC.
    """
    reasons = [_EXPERIMENTAL] if experiment else []
    if registration.promote not in ("automatic", "approval"):
        reasons.append(f"registration.promote is {registration.promote}")
    auc = metrics.get("auc", {}).get("value")
    if auc is None:
        if registration.min_auc > 0:
            reasons.append("no auc was measured")
    elif not auc >= registration.min_auc:
        reasons.append(f"auc {auc:.4f} is below min_auc {registration.min_auc:g}")
    asked = registration.approvers if registration.promote == "approval" else ()
    return Gate(tuple(reasons), tuple(asked))
