"""What an audit found of a run, kept when the transcript goes: it cannot be looked at twice.

It lies in two places: `.lethe/verdicts/RUN.json`, which stays on the machine that looked, and
`reports/audit.json`, which is committed and goes where the model goes. A verdict is of one run, one
plan and these weights, and names the code that looked. It has checks and digests, and nobody.

The report is as true as those who may commit it. So what is known by it alone is named so, and is
not copied to where this machine keeps what it saw itself.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lethe.attacks.attack import Target
from lethe.attacks.run.examine import COVERS
from lethe.attacks.statistics import Check
from lethe.config import transcripts
from lethe.core.errors import FileDamaged
from lethe.core.files import json_bytes, read_json, write_whole
from lethe.training.description import WEIGHTS

_FACTS = ("code", "model", "plan", "run_id")


class Looked(StrEnum):
    """When the steps of a run were looked at, as the report of an audit says it."""

    NOW = "now"
    BEFORE = "before"  # here, by the code that audits now
    ELSEWHERE = "before, as the committed report says"
    BY_OTHER_CODE = "before, by another version of the audit"
    NOT = "not"


@dataclass(frozen=True)
class Verdict:
    """Checks of a run, and `code`: the digest of the audit's code that made them.

    `here`: this machine made them.
    """

    here: bool
    code: str
    checks: list[Check]


def find(target: Target, *, code: str | None = None) -> Verdict | None:
    """What an audit found of this very run and these weights; None if nothing is known.

    Args:
        code: of the audit that must have looked; of any by default.
    """
    sources = {True: _of_this_machine(target), False: _of_the_report(target.reported)}
    for here, source in sources.items():
        try:
            checks = [Check.from_data(each) for each in source["checks"]]
            found = {name: source[name] for name in _FACTS}
        except (LookupError, TypeError, ValueError):
            continue
        wanted = facts(target, found["code"] if code is None else code)
        if checks and found == wanted and isinstance(found["code"], str) and found["code"]:
            return Verdict(here, found["code"], checks)
    return None


def keep(target: Target, report: Mapping[str, Any]) -> None:
    """Writes what this audit found of the run, if it looked; before its transcript goes."""
    if _look(report).get("looked") == Looked.NOW:
        content = {**facts(target, target.code), "checks": _own(report["checks"])}
        path = transcripts.verdict_of(target.root, target.described.run_id)
        write_whole(path, json_bytes(content), private=True)


def facts(target: Target, code: str) -> dict[str, str]:
    """What a verdict is of, and by what code."""
    return {
        "code": code,
        "model": hashlib.sha256(target.files.get(WEIGHTS, b"")).hexdigest(),
        "plan": target.release.digest,
        "run_id": target.described.run_id,
    }


def _of_this_machine(target: Target) -> Mapping[str, Any]:
    try:
        return read_json(transcripts.verdict_of(target.root, target.described.run_id))
    except (OSError, FileDamaged):
        return {}


def _of_the_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict in `reports/audit.json`; one that was not looked at has none."""
    look = _look(report)
    if look.get("looked") not in set(Looked) - {Looked.NOT}:
        return {}
    return {**look, "run_id": report.get("run_id"), "checks": _own(report.get("checks"))}


def _look(report: Mapping[str, Any]) -> Mapping[str, Any]:
    measured = report.get("measured")
    look = measured.get("run") if isinstance(measured, dict) else None
    return look if isinstance(look, dict) else {}


def _own(checks: Any) -> Sequence[Mapping[str, Any]]:
    """Those of the checks that are of the run's own steps."""
    return [
        dict(each)
        for each in (checks if isinstance(checks, list) else ())
        if isinstance(each, dict) and str(each.get("name")).partition(".")[0] in COVERS
    ]
