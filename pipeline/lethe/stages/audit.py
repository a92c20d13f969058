"""audit: attacks the model, replays the mechanism, and compares what was written down.

A claim that one of them contradicts ends the road: the report is written, then the stage
fails. None of its numbers is private: they are computed from people's data without noise,
and are for the operator, not for release. It draws no noise that is released and charges
nothing.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyroaring import BitMap

from lethe.attacks import membership
from lethe.attacks.claims import Charged, check_accounting, check_people
from lethe.attacks.mechanism import check_mechanism
from lethe.config import workspace
from lethe.config.params import Params
from lethe.config.sections import Audit
from lethe.core.errors import AuditContradiction, NotFound
from lethe.core.files import read_json, write_json, write_whole
from lethe.data.batches import PersonData, person_data
from lethe.data.encoding import Encoder
from lethe.data.shards import shard_paths
from lethe.privacy.plan import Plan
from lethe.stores.opening import open_ledger
from lethe.training.models import Model, load_model, loss_for
from lethe.training.processes import device_again

ROC = workspace.PLOTS / "audit_roc.csv"
_CURVE_POINTS = 200


@dataclass(frozen=True)
class Trained:
    """What train left behind, read back from the files."""

    plan: Plan
    described: dict[str, Any]
    report: dict[str, Any]
    manifest: BitMap
    encoder: Encoder
    model: Model
    paths: list[Path]

    @classmethod
    def load(cls) -> "Trained":
        """Raises: NotFound: the road was not walked up to train."""
        description = workspace.MODEL / "model.json"
        report = workspace.report_path("train")
        for path in (workspace.PLAN, description, workspace.MANIFEST, report):
            if not path.exists():
                raise NotFound(f"{path} does not exist. Run the road up to train first.")
        described = read_json(description)
        return cls(
            plan=Plan.from_data(read_json(workspace.PLAN)),
            described=described,
            report=read_json(report),
            manifest=BitMap.deserialize(workspace.MANIFEST.read_bytes()),
            encoder=Encoder.from_data(described["encoder"]),
            model=load_model(workspace.MODEL),
            paths=shard_paths(workspace.SHARDS),
        )

    def people(self, tokens: BitMap) -> PersonData:
        """These people as training takes them."""
        return person_data(
            self.paths,
            self.encoder,
            admitted=tokens,
            records_per_person=self.plan.records_per_person,
        )

    @property
    def device(self) -> str:
        """Where it was trained, if that is here."""
        return device_again(str(self.report.get("device", "cpu")))


def run(params: Params, *, now: datetime) -> dict[str, Any]:
    """Audits the model in the workspace; writes `reports/audit.json` and the attack's ROC.

    Raises:
        NotFound: there is no trained model.
        NotFinite: the model gives losses that are not numbers.
        AuditContradiction: names the checks that contradict the claim.
    """
    trained = Trained.load()
    with open_ledger(params) as ledger:
        record: Charged | None = None  # a run that the ledger does not know
        with suppress(NotFound):
            record = ledger.run(str(trained.described.get("run_id")))
    report, curve = audit(trained, params.audit, record=record)
    marked = curve.assign(private=False)[["private", *curve.columns]]  # DVC draws the last column
    write_whole(ROC, marked.to_csv(index=False).encode())
    write_json(workspace.report_path("audit"), report)
    if not report["passed"]:
        raise AuditContradiction(
            f"{len(report['failed'])} of {len(report['checks'])} checks contradict the claim: "
            f"{', '.join(report['failed'])}. Do not release this model; reports/audit.json says "
            "what each of them means."
        )
    return report


def audit(
    trained: Trained, declared: Audit, *, record: Charged | None
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The report and the ROC curve of the attack.

    Args:
        record: the ledger's run that made the model; None if there is none.
    """
    plan, manifest = trained.plan, trained.manifest
    checks = check_accounting(
        plan,
        described=trained.described,
        report=trained.report,
        record=record,
        manifest=manifest,
    )
    data = trained.people(manifest)
    checks += check_people(plan, data, manifest, paths=trained.paths, encoder=trained.encoder)
    checks += check_mechanism(
        plan,
        data,
        trained.model,
        loss_for(trained.encoder.outputs),
        engine=str(trained.report["engine"]),
        classes=trained.encoder.outputs,
        replays=declared.replays,
        random=np.random.default_rng(),  # from the operating system's randomness
        device=trained.device,
        processes=int(trained.report.get("processes", 1)),
    )
    found = attack_members(trained, data, people=declared.subjects)
    if found is None:
        attacked: dict[str, Any] = {
            "attempted": False,
            "private": False,
            "why": "too few people with records are in, or held out of, training",
        }
        curve = pd.DataFrame({"fpr": [], "tpr": []}, dtype=float)
    else:
        attacked = found.to_data()
        curve = _curve(found)
        checks.append(found.check(float(trained.report["epsilon_rdp"])))
    failed = [check.name for check in checks if not check.passed]
    report = {
        "attack": attacked,
        "checks": [check.to_data() for check in checks],
        "failed": failed,
        "false_alarm_rate": sum(check.false_alarm_rate for check in checks),
        "passed": not failed,
        "private": False,
        "run_id": trained.described.get("run_id"),
    }
    return report, curve


def attack_members(trained: Trained, data: PersonData, *, people: int) -> membership.Attack | None:
    """The loss attack on as many people inside as outside; None where there are too few.

    Whoever is attacked is chosen by the operating system's randomness.
    """
    held_out = _held_out(trained.paths) - trained.manifest
    size = min(people // 2, len(data), len(held_out))
    inside = BitMap(data.tokens[membership.chosen(len(data), size)])
    outside = BitMap(np.array(held_out, dtype=np.uint32)[membership.chosen(len(held_out), size)])
    loss_fn = loss_for(trained.encoder.outputs)
    random = np.random.default_rng()
    losses = [
        random.permutation(membership.person_losses(trained.model, loss_fn, trained.people(tokens)))
        for tokens in (inside, outside)
        if tokens
    ]
    if len(losses) < 2 or min(len(found) for found in losses) < 2:
        return None
    return membership.attack(losses[0], losses[1], delta=trained.plan.delta)


def _held_out(paths: list[Path]) -> BitMap:
    found = BitMap()
    for path in paths:
        frame = pd.read_parquet(path, columns=["token", "held_out"])
        found |= BitMap(frame.loc[frame["held_out"].astype(bool), "token"].to_numpy(np.uint32))
    return found


def _curve(found: membership.Attack) -> pd.DataFrame:
    """At most 200 points: a point for each person would show single people's losses."""
    grid = np.linspace(0, 1, _CURVE_POINTS)
    tpr = np.interp(grid, found.fpr_curve, found.tpr_curve)
    return pd.DataFrame({"fpr": grid, "tpr": tpr}).round(4)
