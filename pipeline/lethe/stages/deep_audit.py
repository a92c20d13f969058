"""`lethe audit --deep`: trains twins of the plan with canaries, and says which epsilon they show.

No stage of `dvc.yaml`: it looks at the plan and at the code that trains, not at a run, takes
minutes, and is for the night. It reads no record of a person, charges nothing, and what it writes
has nobody in it.
"""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lethe.attacks.deep import TRIALS, look_deep
from lethe.config import workspace
from lethe.config.params import Params
from lethe.config.report_fields import closed
from lethe.core.errors import AuditContradiction, FileDamaged, NotFound, ParamsInvalid
from lethe.core.files import RESTORE, read_json, write_json
from lethe.core.values import rounded_down, rounded_up
from lethe.privacy.claim import Claim
from lethe.privacy.plan import Plan
from lethe.registration import lower_bound
from lethe.training.trainers import trainer_of


def run(params: Params, *, now: dt.datetime, trials: int = TRIALS) -> dict[str, Any]:
    """Looks at the plan of the last training; writes `reports/deep_audit.json`, and the tags of
    the version that came of that training, if there is one.

    Raises:
        NotFound: nothing was trained.
        FileDamaged: the report of the training is not as Lethe writes it.
        ParamsInvalid: the declared kind of training is not DP-SGD.
        AuditContradiction: names the checks that contradict the claim.
    """
    path = params.at(workspace.report_path("train"))
    if not path.exists():
        raise NotFound(f"{path} does not exist. Run the pipeline up to train first.")
    trainer = trainer_of(params.training)
    training = closed(read_json(path), "train", also=trainer.facts)
    written = training.get("plan")
    if not isinstance(written, dict):
        raise FileDamaged(f"The report of the training has no plan. {RESTORE}")
    plan = trainer.read_plan(written)
    if not isinstance(plan, Plan):
        raise ParamsInvalid(
            "A deep audit knows the steps of DP-SGD alone; training.method is another one."
        )
    report = {
        **look_deep(
            plan,
            params.training.optimizer,
            engine=str(training.get("engine", "auto")),
            claimed=Claim.from_data(training).epsilon_pld,
            trials=trials,
        ),
        "at": now.astimezone(dt.UTC).isoformat(timespec="seconds"),
        "run_id": str(training.get("run_id", "")),
        "training_code": _training_code(params),
    }
    write_json(params.at(lower_bound.REPORT), report)
    lower_bound.tag(params, report)
    if not report["passed"]:
        raise AuditContradiction(
            f"{len(report['failed'])} of {len(report['checks'])} checks contradict the claim: "
            f"{', '.join(report['failed'])}. Withdraw the models of this plan; "
            f"{lower_bound.REPORT} says what each of them means."
        )
    return report


def render(report: Mapping[str, Any]) -> str:
    """What canaries showed, beside the claim."""
    shown = report["interval_95"]
    return (
        f"Canaries show epsilon {rounded_down(report['epsilon_lower_bound'])} at least "
        f"(confidence 1 - {report['false_alarm_rate']:.0e}), and at 95 % "
        f"{rounded_down(shown['low'])} to {rounded_up(shown['high'])}; claimed are "
        f"{rounded_up(report['epsilon_claimed'])} at delta {report['delta']:g}. "
        f"{report['trials']} coins in {report['runs']} trainings for each adversary."
    )


def _training_code(params: Params) -> str:
    """The digest of what trains, as every stage has compared it with the code that runs."""
    path = params.at(Path("behaviour.json"))
    return str(read_json(path).get("train", "")) if path.exists() else ""
