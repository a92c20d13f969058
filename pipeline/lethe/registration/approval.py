"""Promotion by a named person: which version waits, and what an approval changes.

`registration.promote: approval` leaves the version that the gate let in as
candidate. One of the declared approvers makes it champion, unless somebody in it has withdrawn
since, or it waits for more than a person's word.
"""

import datetime as dt
from dataclasses import dataclass

from lethe.config.params import Params
from lethe.core.errors import ApprovalRefused, NotFound, RegistrationRefused
from lethe.core.shown import about
from lethe.people.withdrawn import count_withdrawn
from lethe.privacy.claim import Claim
from lethe.registration.gate import CANDIDATE, CHAMPION, GATE, NO_GATE, Gate
from lethe.stores.dvc.repro import History
from lethe.stores.registry.registry import COMPLETE, Registry, Version
from lethe.stores.registry.unchanged import refuse_changed

APPROVED_BY = "approved_by"  # tags of a version; the approver is staff, named in params.yaml
APPROVED_AT = "approved_at"
APPROVAL_REASON = "approval_reason"


@dataclass(frozen=True)
class Waiting:
    """A version that waits for a person: its name, and what they should know in one line."""

    name: str
    facts: str


def waiting(params: Params) -> Waiting | None:
    """The candidate, if all it waits for is an approver's word; None if nothing does."""
    registry = Registry.open(params.address(params.stores.registry))
    try:
        version = registry.find(params.registration.name, f"@{CANDIDATE}")
    except NotFound:
        return None
    if CHAMPION in version.aliases or version.tags.get(COMPLETE) != "true":
        return None
    gate = _gate(version)
    if gate.reasons or not gate.waits_for:
        return None
    return Waiting(_name(version), _facts(registry, version))


def approve(params: Params, name: str, *, by: str, reason: str | None, now: dt.datetime) -> str:
    """Makes the waiting version champion; done again for the same version, it changes nothing.

    Args:
        name: `MODEL/VERSION`, as `waiting` says it: what was looked at is what is approved.
        by: one of `registration.approvers`.

    Returns:
        What came of it, in a sentence.

    Raises:
        ApprovalRefused: `by` may not approve, the version is not the candidate any more, people
            in it have withdrawn, its files are not those that were registered, or more than an
            approval stands in its way.
        NotFound: there is no such version, or its manifest is gone.
    """
    declared = params.registration
    if by not in declared.approvers:
        raise ApprovalRefused(
            f"{by!r} is not one of registration.approvers "
            f"({', '.join(declared.approvers) or 'there are none'}). Nothing was promoted."
        )
    registry = Registry.open(params.address(params.stores.registry))
    model, _, number = name.rpartition("/")
    if model != declared.name or not number.isdigit():
        raise NotFound(f"{name!r} is not a version of {declared.name}, such as {declared.name}/1.")
    version = registry.find(model, number)
    if CHAMPION in version.aliases and APPROVED_BY in version.tags:
        return f"{name} is champion; {version.tags[APPROVED_BY]} approved it."
    if reasons := _gate(version).reasons:
        raise ApprovalRefused(f"{name} cannot be promoted: {'; '.join(reasons)}.")
    if CANDIDATE not in version.aliases:
        raise ApprovalRefused(
            f"{name} is not the candidate any more. `lethe approve` says what waits now."
        )
    manifest = History(params.root).read_manifest(version.tags["manifest_md5"])
    withdrawn = count_withdrawn(params, manifest, now)
    if withdrawn:
        raise ApprovalRefused(
            f"{about(withdrawn)} people in {name} have withdrawn or were erased since it was "
            "trained. Train again without them: lethe run."
        )
    try:
        refuse_changed(registry, version)
    except RegistrationRefused as error:
        raise ApprovalRefused(f"{name} cannot be promoted: {error}") from None
    registry.tag(version, APPROVED_BY, by)
    registry.tag(version, APPROVED_AT, now.astimezone(dt.UTC).isoformat(timespec="seconds"))
    if reason:
        registry.tag(version, APPROVAL_REASON, reason)
    registry.tag(version, GATE, Gate().to_tag())
    registry.alias(version, CHAMPION)
    return f"{name} is champion now, approved by {by}."


def _gate(version: Version) -> Gate:
    return Gate.from_tag(version.tags.get(GATE, NO_GATE))


def _facts(registry: Registry, version: Version) -> str:
    """Prices and measures alone: Airflow keeps and shows them."""
    tags = version.tags
    measured = ", ".join(
        f"{name.replace('_', ' ')} {value:.4g}"
        for name, value in sorted(registry.metrics(version).items())
        if not name.startswith("epsilon")
    )
    return f"{_name(version)}: {Claim.from_data(tags)}; audit {tags['audit']}; {measured}"


def _name(version: Version) -> str:
    return f"{version.model}/{version.version}"
