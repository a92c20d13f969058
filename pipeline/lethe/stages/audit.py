"""audit: attacks the model, replays the mechanism, and compares what was written down.

A claim that one of them contradicts ends the pipeline: the report is written, then the stage
fails. None of its numbers is private: they are computed from people's data without noise,
and are for the operator, not for release. It draws no noise that is released and charges
nothing.
"""

from contextlib import suppress
from datetime import datetime
from typing import Any

import pandas as pd

from lethe.attacks.attack import Charged, Target
from lethe.attacks.audit import MEMBERSHIP, audit
from lethe.config import workspace
from lethe.config.params import Params
from lethe.core.errors import AuditContradiction, NotFound
from lethe.core.files import read_json, write_json, write_whole
from lethe.data.shards import read_people, shard_paths
from lethe.stores.opening import open_ledger
from lethe.training.models import DESCRIPTION, load_model
from lethe.training.trainers import trainer_of

ROC = workspace.PLOTS / "audit_roc.csv"


def run(params: Params, *, now: datetime) -> dict[str, Any]:
    """Audits the model in the workspace; writes `reports/audit.json` and the attack's ROC.

    Raises:
        NotFound: there is no trained model.
        FileDamaged: a file is not as Lethe writes it, or of another model than is declared.
        NotFinite: the model gives losses that are not numbers.
        AuditContradiction: names the checks that contradict the claim.
    """
    audited = audit(load_target(params))
    report = audited.report
    curve = audited.curves.get(MEMBERSHIP)
    if curve is None:
        curve = pd.DataFrame({"fpr": [], "tpr": []}, dtype=float)
    marked = curve.assign(private=False)[["private", *curve.columns]]  # DVC draws the last column
    write_whole(params.at(ROC), marked.to_csv(index=False).encode())
    write_json(params.at(workspace.report_path("audit")), report)
    if not report["passed"]:
        raise AuditContradiction(
            f"{len(report['failed'])} of {len(report['checks'])} checks contradict the claim: "
            f"{', '.join(report['failed'])}. Do not release this model; reports/audit.json says "
            "what each of them means."
        )
    return report


def load_target(params: Params) -> Target:
    """What train left behind, read back from the workspace's files, and the ledger's run.

    Raises:
        NotFound: the pipeline has not run up to train.
        FileDamaged: a file is not as Lethe writes it, or of another model than is declared.
    """
    report = workspace.report_path("train")
    for path in (workspace.PLAN, workspace.MODEL / DESCRIPTION, workspace.MANIFEST, report):
        if not params.at(path).exists():
            raise NotFound(f"{path} does not exist. Run the pipeline up to train first.")
    declared = params.training
    trainer = trainer_of(declared)
    described, model = load_model(
        params.at(workspace.MODEL), model=declared.model, hidden=declared.hidden, root=params.root
    )
    record: Charged | None = None  # a run that the ledger does not know
    with open_ledger(params) as ledger, suppress(NotFound):
        record = ledger.run(described.run_id)
    return Target(
        plan=trainer.read_plan(read_json(params.at(workspace.PLAN))),
        described=described,
        report=read_json(params.at(report)),
        manifest=read_people(params.at(workspace.MANIFEST)),
        model=model,
        paths=[path.resolve() for path in shard_paths(params.at(workspace.SHARDS))],
        record=record,
        declared=params.audit,
        trainer=trainer,
        files={
            path.name: path.read_bytes() for path in sorted(params.at(workspace.MODEL).iterdir())
        },
    )
