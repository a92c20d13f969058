"""Trains the points of a sweep: free on a stand-in, or reserved, settled and charged on people.

The order is the same as in train: nothing is drawn for a person before the ledger has the
reservation, and no number of a point is shown before it is settled.
"""

import datetime as dt
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter
from pyroaring import BitMap

from lethe.config.params import Params
from lethe.config.sections import Budget
from lethe.config.training import Training
from lethe.core.errors import BudgetExceeded, NotFinite, TrainingRefused
from lethe.data.batches import PersonData, RecordData, held_out_records, person_data
from lethe.data.encoding import Encoder
from lethe.ledger.ledger import Ledger, Reservation
from lethe.privacy.plan import Plan
from lethe.privacy.release import Release
from lethe.sweep.stand_in import Tried
from lethe.training.dpsgd_fit import task_of
from lethe.training.evaluate import evaluate
from lethe.training.loop import Execution, Task, train
from lethe.training.plain import train_plain
from lethe.training.trainer import Progress, Reserved

Watch = Callable[[Plan, int], Progress | None]  # called before each training begins


@dataclass(frozen=True)
class Point:
    """What came of one plan; `aucs` has one number a repeat that was trained to its end."""

    plan: Plan
    aucs: tuple[float, ...] = ()
    problem: str | None = None  # why not every repeat has a number
    left_out: int = 0
    runs: tuple[str, ...] = field(default=(), repr=False)  # that the ledger charged


@dataclass(frozen=True)
class _OfNobody:
    """Stands where the ledger's reservation stands, for people of whom nothing is private."""

    admitted: BitMap = field(repr=False)
    run_id: str = "stand-in"


@dataclass(frozen=True)
class Network:
    """The declared network, optimizer and engine, for whatever plan and people are given."""

    training: Training
    encoder: Encoder
    device: str
    root: Path = Path()  # of the workspace, where a module of the user's own lies

    def auc(
        self,
        plan: Plan,
        people: PersonData,
        held_out: RecordData,
        reservation: Reserved,
        progress: Progress | None,
    ) -> float:
        trained = train(
            self._task(plan, people),
            reservation,
            self.training.optimizer,
            Execution(device=self.device, progress=progress),
        )
        return evaluate(trained.model, held_out, classes=len(self.encoder.classes)).metrics["auc"]

    def auc_without_privacy(self, plan: Plan, tried: Tried) -> float | None:
        """Of the same network by the same steps; None where it diverges. Of a stand-in alone."""
        if tried.kind == "charged":
            raise TrainingRefused("People's data is never trained on without privacy.")
        try:
            model = train_plain(
                self._task(plan, tried.people), self.training.optimizer, device=self.device
            )
            found = evaluate(model, tried.held_out, classes=len(self.encoder.classes))
        except NotFinite:
            return None
        return found.metrics["auc"]

    def _task(self, plan: Plan, people: PersonData) -> Task:
        return task_of(self.training, plan, self.encoder, people, root=self.root)


def free_points(
    network: Network, plans: Sequence[Plan], tried: Tried, *, repeats: int, watch: Watch
) -> Iterator[Point]:
    """Trains each plan on a stand-in, as often as asked; nobody is charged."""
    refuse_unmeasurable(tried.held_out, network.encoder)
    nobody = _OfNobody(BitMap(tried.people.tokens))
    for plan in plans:
        point = Point(plan)
        for number in range(repeats):
            try:
                auc = network.auc(plan, tried.people, tried.held_out, nobody, watch(plan, number))
            except NotFinite:
                point = replace(point, problem="diverged")
                break
            point = replace(point, aucs=(*point.aucs, auc))
        yield point


def charged_points(
    network: Network,
    plans: Sequence[Plan],
    ledger: Ledger,
    paths: Sequence[Path],
    eligible: BitMap,
    *,
    params: Params,
    repeats: int,
    now: dt.datetime,
    watch: Watch,
) -> Iterator[Point]:
    """Trains each plan on the people in the shards, each time reserved before and settled after.

    Guarantees: what is refused by the budget draws nothing and is not charged; a training that
        ends before its number is known is voided, unless it diverged, which reveals something;
        no number is given before its run is settled.
    """
    held_out = held_out_records(paths, network.encoder)
    refuse_unmeasurable(held_out, network.encoder)
    data: PersonData | None = None
    admitted = BitMap()
    for plan in plans:
        point = Point(plan)
        for number in range(repeats):
            release = plan.release(eligible)
            request = _request(release, paths, params.training, number)
            try:
                reservation = _reserve(ledger, release, params.budget, request, now)
            except BudgetExceeded:
                point = replace(point, problem="budget refused")
                break
            if data is None or admitted != reservation.admitted:
                admitted = reservation.admitted
                data = person_data(
                    paths,
                    network.encoder,
                    admitted=admitted,
                    records_per_person=plan.records_per_person,
                )
            paid = (*point.runs, reservation.run_id)
            point = replace(point, left_out=reservation.left_out, runs=paid)
            try:
                with _voided_unless_shown(ledger, reservation.run_id):
                    auc = network.auc(plan, data, held_out, reservation, watch(plan, number))
            except NotFinite:
                ledger.settle(reservation.run_id)
                point = replace(point, problem="diverged")
                break
            ledger.settle(reservation.run_id)
            point = replace(point, aucs=(*point.aucs, auc))
        yield point


def refuse_unmeasurable(held_out: RecordData, encoder: Encoder) -> None:
    """Before anything is trained or charged: an AUC needs every label among the held-out people."""
    present, needed = len(np.unique(held_out.labels)), len(encoder.classes)
    if present < needed:
        raise TrainingRefused(
            f"The held-out people have {present} of {needed} labels, so an AUC cannot be measured. "
            "Raise training.held_out, or bring more people."
        )


def _reserve(
    ledger: Ledger, release: Release, budget: Budget, request: str, now: dt.datetime
) -> Reservation:
    """A reservation of which nothing was shown: a new one, or that of a sweep that was killed."""
    attempt = 0
    while True:
        reservation = ledger.reserve(
            release, budget=budget, request=f"{request}-{attempt}", now=now
        )
        if not reservation.resumed or reservation.state == "reserved":
            return reservation
        attempt += 1  # that one was settled and its number shown: this is a release of its own


@contextmanager
def _voided_unless_shown(ledger: Ledger, run_id: str) -> Iterator[None]:
    shown = False
    try:
        yield
        shown = True
    except NotFinite:
        shown = True  # that it diverged is shown
        raise
    finally:
        if not shown:
            ledger.void(run_id, "the sweep ended before anything of this point was shown")


def _request(release: Release, paths: Sequence[Path], training: Training, number: int) -> str:
    digest = hashlib.sha256()
    for part in (
        release.digest.encode(),
        release.subjects.serialize(),
        *(hashlib.sha256(path.read_bytes()).digest() for path in paths),
        TypeAdapter(Training).dump_json(training, exclude={"method"}),  # in the release
    ):
        digest.update(len(part).to_bytes(8, "little") + part)
    return f"sweep-{digest.hexdigest()}-{number}"
