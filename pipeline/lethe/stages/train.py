"""train: reserve the plan's spend, train with person-level DP, settle, publish.

The order is the guarantee. Nothing is drawn before the ledger has the reservation, and
nothing leaves `.lethe/` before it is settled. A run that was killed goes on where it
was: what was trained but not published is published as it is, and no second model is
ever made for one charge.

With `parallel.processes`, or under `torchrun`, the training runs over several processes.
The first of them is this stage; the others compute, and never see ledger, keys or noise.
"""

import hashlib
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter
from pyroaring import BitMap
from safetensors.torch import save_file

from lethe.config import workspace
from lethe.config.home import at_home, in_experiment
from lethe.config.params import Params
from lethe.config.sections import Budget
from lethe.config.training import Training
from lethe.core.errors import (
    NotFinite,
    NotFound,
    TooFewSubjects,
    TrainingRefused,
)
from lethe.core.files import read_json, write_json, write_whole
from lethe.data.batches import held_out_records, person_data
from lethe.data.encoding import Encoder
from lethe.data.shards import eligible_people, shard_paths
from lethe.privacy.accounting import epsilon_pld, epsilon_rdp
from lethe.privacy.plan import ADJACENCY, SAMPLING, UNIT, Plan
from lethe.registration.rollback import refuse_rolled_back
from lethe.stages.behaviour import training_digest
from lethe.stores.opening import open_ledger
from lethe.training import parallel
from lethe.training.evaluate import evaluate
from lethe.training.locks import alone
from lethe.training.loop import Progress, train
from lethe.training.models import Architecture, build_model, loss_for
from lethe.training.processes import leading, resolve_device
from lethe.training.wire import Place, device_of, joined

STAGING = workspace.STATE / "staging"
WORKSPACE_ID = workspace.STATE / "workspace"
WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.json"
_TRAINING: TypeAdapter[Training] = TypeAdapter(Training)


class Reservation(Protocol):
    @property
    def run_id(self) -> str: ...
    @property
    def admitted(self) -> BitMap: ...
    @property
    def left_out(self) -> int: ...
    @property
    def resumed(self) -> bool: ...


class Record(Protocol):
    @property
    def state(self) -> str: ...


class Spending(Protocol):
    """What this stage needs of the ledger."""

    def reserve(
        self, plan: Plan, eligible: BitMap, *, budget: Budget, request: str, now: datetime
    ) -> Reservation: ...
    def settle(self, run_id: str) -> object: ...
    def run(self, run_id: str) -> Record: ...


def run(params: Params, *, now: datetime, progress: Progress | None = None) -> dict[str, Any]:
    """Trains, or publishes what an interrupted run had trained; writes `reports/train.json`.

    Raises:
        NotFound: no plan or no shards yet.
        TooFewSubjects: fewer people than `subject.minimum` may train.
        BudgetExceeded: of the ledger; nothing was drawn.
        LedgerInvalid: the ledger lacks the training of a registered model: it was rolled back.
        NotFinite: the training diverged. Its spend is settled; the same request again is
            another run, and another charge.
        Busy: another training runs in this workspace.
        ProcessLost: of several processes, one is gone; run again to go on.
    """
    place = Place.here()
    if place.rank:
        assist(params.training.device)
        return {}
    with alone(), open_ledger(params) as ledger:
        refuse_rolled_back(params, ledger)
        with leading(place, params) as others:
            return train_reserved(params, ledger, now=now, progress=progress, others=others)


def train_reserved(
    params: Params,
    ledger: Spending,
    *,
    now: datetime,
    progress: Progress | None = None,
    others: parallel.Leader | None = None,
) -> dict[str, Any]:
    """The stage, given its ledger."""
    for path in (workspace.PLAN, workspace.ENCODING):
        if not path.exists():
            raise NotFound(f"{path} does not exist. Run the road up to budget first.")
    plan = Plan.from_data(read_json(workspace.PLAN))
    paths = shard_paths(workspace.SHARDS)
    eligible = eligible_people(paths)
    if len(eligible) < params.subject.minimum:
        raise TooFewSubjects(
            f"{len(eligible)} people may train; subject.minimum is {params.subject.minimum}."
        )
    request = request_digest(plan, eligible, paths, params.training)
    reservation = _reserve(ledger, plan, eligible, params.budget, request, now)
    staged = at_home(STAGING) / reservation.run_id
    if not staged.exists():
        _train_into(staged, params, plan, paths, reservation, ledger, progress, others)
    _checkpoint(staged).unlink(missing_ok=True)
    ledger.settle(reservation.run_id)
    return _publish(staged)


def request_digest(plan: Plan, eligible: BitMap, paths: Sequence[Path], training: Training) -> str:
    """What makes two requests the same run: asked again, it is not charged again.

    Another workspace is another request, even with all else equal: it would train, and
    release, a model of its own. So is other code, that of the user's own model included: a
    training that one code began is not another's to end.
    """
    digest = hashlib.sha256()
    for part in (
        plan.digest.encode(),
        hashlib.sha256(eligible.serialize()).digest(),
        *(hashlib.sha256(path.read_bytes()).digest() for path in paths),
        _TRAINING.dump_json(training),
        training_digest(training).encode(),
        _workspace_id(),
    ):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _reserve(
    ledger: Spending, plan: Plan, eligible: BitMap, budget: Budget, request: str, now: datetime
) -> Reservation:
    """This request's reservation, or a new one where the old one's model was released.

    A settled run without its staged model has been published: to train once more is a
    second release, and costs a second time.
    """
    attempt = 0
    while True:
        reservation = ledger.reserve(
            plan, eligible, budget=budget, request=f"{request}-{attempt}", now=now
        )
        if not reservation.resumed or (at_home(STAGING) / reservation.run_id).exists():
            return reservation
        if ledger.run(reservation.run_id).state == "reserved":
            return reservation
        attempt += 1


def _train_into(
    staged: Path,
    params: Params,
    plan: Plan,
    paths: Sequence[Path],
    reservation: Reservation,
    ledger: Spending,
    progress: Progress | None,
    others: parallel.Leader | None,
) -> None:
    """Trains and leaves everything that is to be published in `staged`, whole or not at all."""
    if others:
        settings = _TRAINING.dump_python(params.training, mode="json")
        words = {"run_id": reservation.run_id, "training": settings}
        others.begin(words, reservation.admitted)
    with others.together() if others else nullcontext():
        encoder = Encoder.from_data(read_json(workspace.ENCODING))
        task, architecture = _task(params.training, plan, encoder, paths, reservation.admitted)
    if others:
        others.agree(task)
    data = task.data
    held_out = held_out_records(paths, encoder)
    with _spent_if_it_diverges(ledger, reservation.run_id, _checkpoint(staged)):
        trained = train(
            plan,
            data,
            task.model,
            task.loss_fn,
            reservation=reservation,
            optimizer=params.training.optimizer,
            engine=task.engine,
            classes=task.classes,
            device=others.device if others else resolve_device(params.training.device),
            physical_batch=task.physical_batch,
            checkpoint=_checkpoint(staged),
            progress=progress,
            others=others,
        )
        evaluation = evaluate(trained.model, held_out, classes=len(encoder.classes))
    manifest = reservation.admitted.serialize()
    description = {
        "architecture": architecture.to_data(),
        "classes": list(encoder.classes),
        "encoder": encoder.to_data(),
        "plan": plan.to_data(),
        "run_id": reservation.run_id,
    }
    report = {
        "adjacency": ADJACENCY,
        "clip_norm": trained.clips[-1] if trained.clips else plan.clip_norm,
        "delta": plan.delta,
        "device": trained.device,
        "engine": trained.engine,
        "epsilon": epsilon_pld([plan.event], plan.delta),
        "epsilon_rdp": epsilon_rdp([plan.event], plan.delta),
        "experiment": in_experiment(),
        "features": len(encoder.names),
        "left_out": reservation.left_out,
        "manifest_md5": hashlib.md5(manifest, usedforsecurity=False).hexdigest(),
        "metrics": evaluation.marked(),
        "noise": plan.noise,
        "not_private": ["left_out", "records", "subjects"],
        "plan": plan.to_data(),
        "processes": others.size if others else 1,
        "records": data.records,
        "run_id": reservation.run_id,
        "sampling": SAMPLING,
        "steps": trained.steps,
        "subjects": len(data),
        "unit": UNIT,
    }
    with workspace.whole_directory(staged, private=True) as folder:
        (folder / "model").mkdir()
        (folder / "plots").mkdir()
        weights = {n: t.detach().cpu().contiguous() for n, t in trained.model.state_dict().items()}
        save_file(weights, folder / "model" / WEIGHTS)
        write_json(folder / "model" / DESCRIPTION, description)
        (folder / "manifest.roaring").write_bytes(manifest)
        curves = {"roc": evaluation.roc, "calibration": evaluation.calibration}
        for name, curve in curves.items():  # computed without noise, and every row says so
            marked = curve.assign(private=False)[["private", *curve.columns]]  # DVC draws the last
            marked.to_csv(folder / "plots" / f"{name}.csv", index=False)
        write_json(folder / "report.json", report)


@contextmanager
def _spent_if_it_diverges(ledger: Spending, run_id: str, checkpoint: Path) -> Iterator[None]:
    """A run that ends by what it drew is over: to try again until one ends well would be to choose.

    So it is settled, which nobody can void, and the same request again is another run.
    """
    try:
        yield
    except NotFinite:
        ledger.settle(run_id)
        checkpoint.unlink(missing_ok=True)
        raise


def _publish(staged: Path) -> dict[str, Any]:
    """Copies the staged run to where the road expects it; the copy in `.lethe/` goes last."""
    report = read_json(staged / "report.json")
    with workspace.whole_directory(workspace.MODEL) as folder:
        for path in (staged / "model").iterdir():
            shutil.copyfile(path, folder / path.name)
    for path in (staged / "plots").iterdir():
        write_whole(workspace.PLOTS / path.name, path.read_bytes())
    write_whole(workspace.MANIFEST, (staged / "manifest.roaring").read_bytes())
    write_json(workspace.report_path("train"), report)
    shutil.rmtree(staged)
    return report


def _checkpoint(staged: Path) -> Path:
    return staged.with_suffix(".checkpoint")


def _task(
    training: Training, plan: Plan, encoder: Encoder, paths: Sequence[Path], admitted: BitMap
) -> tuple[parallel.Task, Architecture]:
    """What is trained and on whom, as each process makes it from the workspace's files."""
    architecture = Architecture.of(training, features=len(encoder.names), outputs=encoder.outputs)
    task = parallel.Task(
        plan=plan,
        data=person_data(
            paths, encoder, admitted=admitted, records_per_person=plan.records_per_person
        ),
        model=build_model(architecture),
        loss_fn=loss_for(encoder.outputs),
        engine=training.engine,
        classes=encoder.outputs,
        physical_batch=training.physical_batch,
    )
    return task, architecture


def assist(declared_device: str) -> None:
    """One of the further processes of a training, until its leader lets it go.

    Raises:
        ProcessLost: the leader is gone.
        TrainingRefused: nobody has started this process for that.
    """
    place = Place.here()
    if not place.rank:
        raise TrainingRefused("This process assists nobody. Run lethe train; it starts the others.")
    device = device_of(declared_device, place)

    def make_task(words: Mapping[str, Any], admitted: BitMap) -> parallel.Task:
        training = _TRAINING.validate_python(words["training"])
        plan = Plan.from_data(read_json(workspace.PLAN))
        encoder = Encoder.from_data(read_json(workspace.ENCODING))
        return _task(training, plan, encoder, shard_paths(workspace.SHARDS), admitted)[0]

    with joined(place, device) as wire:
        parallel.assist(wire, make_task, device=device)


def _workspace_id() -> bytes:
    """HOME's in a walk: what a walk began, the next goes on with, and is charged once."""
    path = at_home(WORKSPACE_ID)
    if not path.exists():
        write_whole(path, secrets.token_bytes(16), private=True)
    return path.read_bytes()
