"""audit: attacks the model, replays the mechanism, and compares what was written down.

A claim that one of them contradicts ends the pipeline: the report is written, then the stage
fails. What it measures is computed from people's data without noise, and goes to the operator's
private report alone; what leaves says which checks there were and whether they held. It draws no
noise that is released and charges nothing. When it ends, the transcript of the run is gone.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from lethe.attacks import verdicts
from lethe.attacks.attack import Charged, Target
from lethe.attacks.audit import MEMBERSHIP, audit
from lethe.attacks.declared import Declared
from lethe.config import private_reports, transcripts, workspace
from lethe.config.params import Params
from lethe.config.report_fields import closed
from lethe.core.errors import AuditContradiction, AuditIncomplete, FileDamaged, NotFound
from lethe.core.files import read_json, write_json
from lethe.data.shards import read_people, shard_paths
from lethe.ledger.ledger import Ledger
from lethe.stages.behaviour import audit_digest
from lethe.stores.dvc.inputs import content_md5
from lethe.stores.opening import open_ledger
from lethe.training.description import DESCRIPTION
from lethe.training.models import load_model
from lethe.training.trainers import trainer_of

# Of a check; limits may depend on how many people there are. It is enough for a `Verdict`.
_SAID = ("false_alarm_rate", "kind", "meaning", "name", "passed")


def run(params: Params, *, now: datetime) -> dict[str, Any]:
    """Audits the model in the workspace; writes `reports/audit.json`, and the operator's numbers.

    Raises:
        NotFound: there is no trained model.
        FileDamaged: a file is not as Lethe writes it, or of another model than is declared.
        NotFinite: the model gives losses that are not numbers.
        AuditContradiction: names the checks that contradict the claim.
        AuditIncomplete: none does, but a part of the claim could not be looked at.
    """
    _refuse_untrained(params)  # before a ledger is opened, which would be made
    with open_ledger(params) as ledger:
        target = load_target(params, ledger)
        with transcripts.audited(params.root, target.described.run_id):
            audited = audit(target)
            verdicts.keep(target, audited.report)
    exact = {**audited.report, "model_md5": content_md5(params.at(workspace.MODEL))}
    report = said_of(exact)
    curve = audited.curves.get(MEMBERSHIP)
    if curve is None:
        curve = pd.DataFrame({"fpr": [], "tpr": []}, dtype=float)
    private_reports.write_file(params.root, "audit_roc.csv", curve.to_csv(index=False).encode())
    private_reports.write(params.root, "audit", exact)
    write_json(params.at(workspace.report_path("audit")), report)
    if report["failed"]:
        raise AuditContradiction(
            f"{len(report['failed'])} of {len(report['checks'])} checks contradict the claim: "
            f"{', '.join(report['failed'])}. Do not release this model; reports/audit.json says "
            "what each of them means."
        )
    if not report["passed"]:
        unknown = ", ".join(report["not_looked_at"])
        raise AuditIncomplete(
            f"Nothing contradicts the claim, but {unknown} could not be looked at, so nothing is "
            "known of it and the model is not registered. reports/audit.json says what is missing."
        )
    return report


def said_of(exact: Mapping[str, Any]) -> dict[str, Any]:
    """What leaves of an audit: what was looked at, and whether it held; no measured value."""
    attack = exact.get("attack", {})
    run = exact.get("measured", {}).get("run")
    apart = ("attack", "checks", "measured")
    return {
        **{name: value for name, value in exact.items() if name not in apart},
        **({} if run is None else {"measured": {"run": run}}),
        "attack": {name: attack[name] for name in ("attempted", "kind", "why") if name in attack},
        "checks": [{name: check[name] for name in _SAID} for check in exact["checks"]],
    }


def load_target(params: Params, ledger: Ledger) -> Target:
    """What train left behind, read back from the workspace's files, and the ledger's run.

    Raises:
        NotFound: the pipeline has not run up to train.
        FileDamaged: a file is not as Lethe writes it, or of another model than is declared.
    """
    _refuse_untrained(params)
    declared = params.training
    trainer = trainer_of(declared)
    described, model = load_model(
        params.at(workspace.MODEL), model=declared.model, hidden=declared.hidden, root=params.root
    )
    record: Charged | None = None  # a run that the ledger does not know
    with suppress(NotFound):
        record = ledger.run(described.run_id)
    return Target(
        plan=trainer.read_plan(read_json(params.at(workspace.PLAN))),
        described=described,
        report=closed(
            read_json(params.at(workspace.report_path("train"))), "train", also=trainer.facts
        ),
        manifest=read_people(params.at(workspace.MANIFEST)),
        model=model,
        paths=[path.resolve() for path in shard_paths(params.at(workspace.SHARDS))],
        record=record,
        declared=params.audit,
        trainer=trainer,
        training=declared,
        root=params.root,
        files=_files(params.at(workspace.MODEL)),
        made=Declared.of(params),
        written={
            path.name: params.at(path).read_bytes() for path in (workspace.ENCODING, workspace.PLAN)
        },
        code=audit_digest(params),
        reported=_reported(params),
    )


def _reported(params: Params) -> dict[str, Any]:
    """DVC leaves the last report in its place (`persist`): the run's look is in it."""
    try:
        return read_json(params.at(workspace.report_path("audit")))
    except (FileNotFoundError, FileDamaged):
        return {}


def _files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, whatever it is: what is no plain file has no content."""
    return {
        f"{path.relative_to(folder).as_posix()}{'' if path.is_file() else '/'}": (
            path.read_bytes() if path.is_file() else b""
        )
        for path in sorted(folder.rglob("*"))
    }


def _refuse_untrained(params: Params) -> None:
    report = workspace.report_path("train")
    made = (workspace.ENCODING, workspace.PLAN)
    for path in (*made, workspace.MODEL / DESCRIPTION, workspace.MANIFEST, report):
        if not params.at(path).exists():
            raise NotFound(f"{path} does not exist. Run the pipeline up to train first.")
