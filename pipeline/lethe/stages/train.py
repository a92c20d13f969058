"""train: reserve the plan's spend, train with person-level DP, settle, publish.

The order is the guarantee. Nothing is drawn before the ledger has the reservation, and
nothing leaves `.lethe/` before it is settled. A run that was killed goes on where it
was: what was trained but not published is published as it is, and no second model is
ever made for one charge.

How it is trained is a `Trainer`'s, by `training.method`; this stage knows none of them.

What is said of it in figures is a release of its own (`lethe.privacy.figures`), reserved right
after the training's and before anything is drawn: where people cannot pay for both, neither runs.
"""

import hashlib
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pyroaring import BitMap

from lethe.config import transcripts, workspace
from lethe.config.home import in_experiment
from lethe.config.params import Params
from lethe.config.report_fields import unknown_fields
from lethe.config.training import Training
from lethe.core.errors import (
    BudgetExceeded,
    NotFinite,
    NotFound,
    TooFewSubjects,
    TrainingRefused,
)
from lethe.core.files import read_json, write_json, write_whole
from lethe.core.shown import about
from lethe.data.batches import held_out_records, person_data
from lethe.data.encoding import Encoder
from lethe.data.shards import eligible_people, held_out_people, shard_paths
from lethe.ledger.ledger import Ledger, Reservation
from lethe.privacy.claim import Claim
from lethe.privacy.figures import FiguresPlan, figures_plan
from lethe.privacy.release import Release
from lethe.registration.rollback import refuse_rolled_back
from lethe.stages.behaviour import training_digest
from lethe.stores.opening import open_ledger
from lethe.training.begins import BegunAgain
from lethe.training.figured import Figured, figures_of, keep_exact
from lethe.training.locks import alone
from lethe.training.trainer import Planned, Progress, Session, Shards, Trained, Trainer
from lethe.training.trainers import trainer_of

STAGING = workspace.STATE / "staging"
WORKSPACE_ID = workspace.STATE / "workspace"
_TRAINING: TypeAdapter[Training] = TypeAdapter(Training)


def run(params: Params, *, now: datetime, progress: Progress | None = None) -> dict[str, Any]:
    """Trains, or publishes what an interrupted run had trained; writes `reports/train.json`.

    Raises:
        NotFound: no plan or no shards yet.
        TooFewSubjects: fewer people than `subject.minimum` may train.
        TrainingRefused: the model cannot be clipped by person, as tried on made-up records.
        BudgetExceeded: of the ledger; nothing was drawn.
        LedgerInvalid: the ledger lacks the training of a registered model: it was rolled back.
        NotFinite: the training diverged. Its spend is settled; the same request again is
            another run, and another charge.
        RunSpent: as a `BegunAgain`: it was trained before under its charge, or its transcript is
            gone; the spend is settled, as of one that diverged.
        DiskFull, NotRecorded: run again to go on, under the same charge.
        Busy: another training runs in this workspace.
        ProcessLost: of several processes, one is gone; run again to go on.
    """
    trainer = trainer_of(params.training)
    if trainer.assists(params):
        return {}
    with alone(params.root), open_ledger(params) as ledger:
        refuse_rolled_back(params, ledger)
        with trainer.helped(params) as helpers:
            return train_reserved(
                params, ledger, trainer, now=now, progress=progress, helpers=helpers
            )


def train_reserved(
    params: Params,
    ledger: Ledger,
    trainer: Trainer[Any],
    *,
    now: datetime,
    progress: Progress | None = None,
    helpers: Any = None,
) -> dict[str, Any]:
    """The stage, given its ledger and its trainer."""
    for path in (workspace.PLAN, workspace.ENCODING):
        if not params.at(path).exists():
            raise NotFound(f"{path} does not exist. Run the pipeline up to budget first.")
    plan = trainer.read_plan(read_json(params.at(workspace.PLAN)))
    paths = shard_paths(params.at(workspace.SHARDS))
    eligible = eligible_people(paths)
    if len(eligible) < params.subject.minimum:
        raise TooFewSubjects(
            f"{about(len(eligible), params.reporting.granularity)} people may train; "
            f"subject.minimum is {params.subject.minimum}."
        )
    release = plan.release(eligible)
    encoder = Encoder.from_data(read_json(params.at(workspace.ENCODING)))
    trainer.rehearse(params, plan=plan, encoder=encoder)
    request = request_digest(release, paths, params)
    reservation = _reserve(ledger, release, params, request, now)
    figures = figures_plan(
        params, records_per_person=plan.records_per_person, outputs=encoder.outputs
    )
    said = _reserve_figures(ledger, figures, reservation, held_out_people(paths), params, now)
    staged = params.at_home(STAGING) / reservation.run_id
    if not staged.exists():
        session = Session(
            checkpoint=_checkpoint(staged),
            progress=progress,
            helpers=helpers,
            root=params.root,
            transcript=transcripts.begin(
                params.root,
                reservation.run_id,
                reservation.admitted.serialize(),
                days=params.audit.transcript_days,
            ),
            transcript_bytes=params.audit.transcript_megabytes * 2**20,
        )
        shards = _read(params, plan, paths, reservation)
        with _spent_if_it_diverges(params, ledger, reservation, said, session.checkpoint):
            trained = trainer.fit(shards, reservation, plan=plan, session=session)
        figured = figures_of(figures, shards, said, trained)
        report = _report(params, plan, reservation, trained) | figured.report
        _refuse_undeclared(report, trainer)
        keep_exact(params, shards, reservation, trained, left_out=reservation.left_out)
        _stage(params, staged, trained, figured, report, reservation.admitted)
    else:
        transcripts.take_over(params.root, reservation.run_id, days=params.audit.transcript_days)
    _checkpoint(staged).unlink(missing_ok=True)
    ledger.settle(reservation.run_id)
    if said is not None:
        ledger.settle(said.run_id)
    return _publish(params, staged)


def request_digest(release: Release, paths: Sequence[Path], params: Params) -> str:
    """What makes two requests the same run: asked again, it is not charged again.

    `training.method` is in the release's digest, and is left out of the settings: so a
    request of before there was a choice of methods is still the same one.

    Another workspace is another request, even with all else equal: it would train, and
    release, a model of its own. So is other code, that of the user's own model included: a
    training that one code began is not another's to end. And so is another price of figures:
    those that are reserved for one price are not drawn at another.
    """
    digest = hashlib.sha256()
    for part in (
        release.digest.encode(),
        hashlib.sha256(release.subjects.serialize()).digest(),
        *(hashlib.sha256(path.read_bytes()).digest() for path in paths),
        _TRAINING.dump_json(params.training, exclude={"method"}),
        training_digest(params).encode(),
        repr(params.reporting.epsilon).encode(),
        _workspace_id(params),
    ):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _reserve(
    ledger: Ledger, release: Release, params: Params, request: str, now: datetime
) -> Reservation:
    """This request's reservation, or a new one where the old one's model was released.

    A settled run without its staged model has been published: to train once more is a
    second release, and costs a second time.
    """
    attempt = 0
    while True:
        reservation = ledger.reserve(
            release, budget=params.budget, request=f"{request}-{attempt}", now=now
        )
        if not reservation.resumed or (params.at_home(STAGING) / reservation.run_id).exists():
            return reservation
        if ledger.run(reservation.run_id).state == "reserved":
            return reservation
        attempt += 1


def _reserve_figures(
    ledger: Ledger,
    figures: FiguresPlan | None,
    training: Reservation,
    held_out: BitMap,
    params: Params,
    now: datetime,
) -> Reservation | None:
    """The figures' reservation, for everybody who may move them; None where none leave.

    Raises:
        BudgetExceeded: somebody cannot pay for them; the training's reservation is given back.
    """
    if figures is None:
        return None
    try:
        return ledger.reserve(
            figures.release(training.admitted | held_out),
            budget=params.budget,
            request=f"figures-{training.run_id}",
            now=now,
        )
    except BudgetExceeded:
        if ledger.run(training.run_id).state == "reserved":
            ledger.void(training.run_id, "its figures are above somebody's budget", now=now)
        raise


def _read(params: Params, plan: Planned, paths: Sequence[Path], reservation: Reservation) -> Shards:
    """What there is to train on; nothing is drawn, so what is wrong with it spends nothing."""
    encoder = Encoder.from_data(read_json(params.at(workspace.ENCODING)))
    return Shards(
        people=person_data(
            paths,
            encoder,
            admitted=reservation.admitted,
            records_per_person=plan.records_per_person,
        ),
        held_out=held_out_records(paths, encoder),
        encoder=encoder,
        declared=params.training,
    )


def _report(
    params: Params, plan: Planned, reservation: Reservation, trained: Trained
) -> dict[str, Any]:
    """What the trainer says of its model, and what follows from its release."""
    admitted = reservation.admitted
    release = plan.release(admitted)
    md5 = hashlib.md5(admitted.serialize(), usedforsecurity=False).hexdigest()
    return {
        **trained.facts,
        **Claim.of(release, noise=plan.noise).to_data(),
        "experiment": in_experiment(params.root),
        "manifest_md5": md5,
        "plan": plan.to_data(),
        "run_id": reservation.run_id,
    }


def _refuse_undeclared(report: Mapping[str, Any], trainer: Trainer[Any]) -> None:
    """Before it is anywhere but in memory."""
    if unknown := unknown_fields(report, "train", also=trainer.facts):
        raise TrainingRefused(
            f"The trainer reports {', '.join(unknown[:3])}, which {type(trainer).__name__}.facts "
            "does not declare; reports are committed and have no further field. Nothing was "
            "released. Declare it, if it may be read by everybody, or leave it out."
        )


def _stage(
    params: Params,
    staged: Path,
    trained: Trained,
    figured: Figured,
    report: Mapping[str, Any],
    admitted: BitMap,
) -> None:
    """Leaves everything that is to be published in `staged`, whole or not at all."""
    with workspace.whole_directory(params.root, staged, private=True) as folder:
        for name, files in (("model", trained.model), ("plots", figured.plots)):
            (folder / name).mkdir()
            for file, content in files.items():
                (folder / name / file).write_bytes(content)
        (folder / "manifest.roaring").write_bytes(admitted.serialize())
        write_json(folder / "report.json", report)


@contextmanager
def _spent_if_it_diverges(
    params: Params,
    ledger: Ledger,
    reservation: Reservation,
    figures: Reservation | None,
    checkpoint: Path,
) -> Iterator[None]:
    """A run that ends by what it drew is over: to try again until one ends well would be to choose.

    So is one that is begun again after it was trained, or without what its first steps left.
    It is settled, which nobody can void, and the same request again is another run. Of its
    figures nothing was drawn.
    """
    try:
        yield
    except (NotFinite, BegunAgain):
        ledger.settle(reservation.run_id)
        if figures is not None:
            ledger.void(figures.run_id, "the training ended without figures")
        checkpoint.unlink(missing_ok=True)
        transcripts.remove(params.root, reservation.run_id)
        raise


def _publish(params: Params, staged: Path) -> dict[str, Any]:
    """Copies the staged run to where the pipeline expects it; the copy in `.lethe/` goes last."""
    report = read_json(staged / "report.json")
    with workspace.whole_directory(params.root, workspace.MODEL) as folder:
        for path in (staged / "model").iterdir():
            shutil.copyfile(path, folder / path.name)
    for path in (staged / "plots").iterdir():
        write_whole(params.at(workspace.PLOTS / path.name), path.read_bytes())
    write_whole(params.at(workspace.MANIFEST), (staged / "manifest.roaring").read_bytes())
    write_json(params.at(workspace.report_path("train")), report)
    shutil.rmtree(staged)
    return report


def _checkpoint(staged: Path) -> Path:
    return staged.with_suffix(".checkpoint")


def _workspace_id(params: Params) -> bytes:
    """HOME's in a run in a worktree: what one began, the next goes on with, and is charged once."""
    path = params.at_home(WORKSPACE_ID)
    if not path.exists():
        write_whole(path, secrets.token_bytes(16), private=True)
    return path.read_bytes()
