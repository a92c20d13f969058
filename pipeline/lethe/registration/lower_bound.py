"""The epsilon that canaries showed at least, beside the claim: tags of a version, and its card.

It was measured on a plan and the code that trains. So it is of every version of that plan which
the same code trained, whenever it was measured.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lethe.config import workspace
from lethe.config.home import at_home
from lethe.config.params import Params
from lethe.core.files import read_json
from lethe.core.values import rounded_down, rounded_up
from lethe.registration.gate import CONTRADICTED
from lethe.stores.registry.registry import Registry, exists

REPORT = workspace.report_path("deep_audit")
_BEHAVIOUR = Path("behaviour.json")


def tags_of(report: Mapping[str, Any]) -> dict[str, str]:
    """What a version says of it; bounds rounded outwards."""
    failed = ", ".join(report["failed"])
    interval = report["interval_95"]
    return {
        "deep_audit": f"{CONTRADICTED}: {failed}" if failed else f"passed: {len(report['checks'])}",
        "deep_audit_at": report["at"],
        "epsilon_lower_bound": rounded_down(report["epsilon_lower_bound"]),
        "epsilon_lower_bound_confidence": str(report["confidence"]),
        "epsilon_shown_95": f"{rounded_down(interval['low'])} to {rounded_up(interval['high'])}",
    }


def known(params: Params, plan_digest: str) -> dict[str, str]:
    """The tags, if HOME has a deep audit of this very plan and of the code that trains; or none."""
    path, code = at_home(REPORT, params.root), params.at(_BEHAVIOUR)
    if not (path.exists() and code.exists()):
        return {}
    report = read_json(path)
    same = (plan_digest, read_json(code).get("train"))
    return (
        tags_of(report) if (report.get("plan_digest"), report.get("training_code")) == same else {}
    )


def tag(params: Params, report: Mapping[str, Any]) -> None:
    """Writes them to the version that came of the training, if one did."""
    url = params.address(params.stores.registry)
    if not exists(url):
        return
    registry = Registry.open(url)
    version = registry.of_run(params.registration.name, report["run_id"])
    if version is not None:
        for name, value in tags_of(report).items():
            registry.tag(version, name, value)
