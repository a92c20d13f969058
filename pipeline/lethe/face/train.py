"""`lethe.train`: one's own network, by the mechanism that a reservation of the ledger paid for."""

import copy
import threading
from dataclasses import replace

import numpy as np
from pyroaring import BitMap

from lethe.config.training import Optimizer
from lethe.core.errors import LedgerInvalid, TrainingRefused
from lethe.data.batches import PersonData
from lethe.ledger.book import RESERVED, RunRecord
from lethe.ledger.ledger import Reservation
from lethe.ledger.owner import Owner
from lethe.privacy.plan import Plan
from lethe.training import loop
from lethe.training.models import Model, loss_for
from lethe.training.processes import resolve_device
from lethe.training.rehearsal import refuse_unsound
from lethe.training.trainer import Progress

_TAKING = threading.Lock()  # of a reservation: two threads may not both find it unspent


def train(
    plan: Plan,
    data: PersonData,
    model: Model,
    reservation: Reservation,
    *,
    classes: int = 1,
    learning_rate: float = 0.5,
    optimizer: str = "sgd",
    device: str = "cpu",
    progress: Progress | None = None,
) -> Model:
    """Trains a copy of a network with person-level DP-SGD, on whom a reservation is for.

    What comes out is in no registry, and no manifest says who is in it: `lethe erase` does not
    find it. It is for study. A model that is to be kept is declared in `params.yaml` and comes
    from `lethe run`, with the same mechanism at the same price.

    Guarantees: nothing is drawn without a reservation that the ledger has for exactly this plan,
        for these people, made by this process and not used before. It is settled before the
        first draw: however the training ends it is spent, and a second call with the same
        reservation is refused. `model` stays as it is.

    >>> import datetime as dt, lethe, numpy, torch
    >>> from pyroaring import BitMap
    >>> plan = lethe.Plan(sample_rate=0.2, steps=5, records_per_person=2, clip_norm=1.0,
    ...                   noise_multiplier=4.0, expected_batch_size=10.0, delta=1e-3)
    >>> tokens = BitMap(range(50))
    >>> data = lethe.PersonData(
    ...     features=torch.zeros(50, 2, 3), mask=torch.ones(50, 2, dtype=torch.bool),
    ...     labels=torch.zeros(50, 2), tokens=numpy.array(tokens, dtype="uint32"))
    >>> with lethe.Ledger.open("sqlite://") as ledger:
    ...     reservation = ledger.reserve(
    ...         plan.release(tokens), budget=lethe.Budget(epsilon=6.0, delta=1e-3),
    ...         request="a first try", now=dt.datetime.now(dt.UTC))
    ...     model = lethe.train(plan, data, torch.nn.Linear(3, 1), reservation)
    ...     ledger.run(reservation.run_id).state
    'settled'

    Args:
        plan: all that decides the price.
        data: features float32 [people, K, features], mask bool [people, K], labels [people, K],
            tokens uint32 [people], rising; of admitted people alone. `Workspace.people` makes it.
        model: from records [n, features] to outputs [n, 1], or [n, classes]; each record by
            itself, so that it has no batch normalization.
        reservation: what `Ledger.reserve` or `Workspace.reserve` gave.
        classes: 1 for a yes or no; else the number of outputs.
        learning_rate: of the optimizer, which cannot change the guarantee.
        optimizer: `sgd` or `adam`.
        device: `cpu`, `cuda` or `auto`.
        progress: called with (step, steps) alone.

    Returns:
        The trained copy, in evaluation mode.

    Raises:
        LetheError: `TrainingRefused` before anything is spent, where a guarantee cannot be
            given; `NotFinite` where the training diverges, which is spent.
    """
    if not isinstance(reservation, Reservation) or reservation.ledger is None:
        raise TrainingRefused(
            "A training needs a reservation that a ledger gave: "
            "ledger.reserve(plan.release(people), …). Nothing was drawn."
        )
    data = replace(data, tokens=np.asarray(data.tokens, dtype=np.uint32))
    task = loop.Task(plan, data, copy.deepcopy(model), loss_for(classes), classes=classes)
    loop.refuse_unreserved(plan, data, reservation)
    execution = loop.Execution(device=resolve_device(device), progress=progress)
    refuse_unsound(task, device=execution.device)
    declared = Optimizer(name=optimizer, learning_rate=learning_rate)  # type: ignore[arg-type]
    with _TAKING:
        record = reservation.ledger.run(reservation.run_id)
        _refuse_unpaid(plan, data, record)
        reservation.ledger.settle(reservation.run_id)
    return loop.train(task, reservation, declared, execution).model


def _refuse_unpaid(plan: Plan, data: PersonData, record: RunRecord) -> None:
    """Holds the ledger's own row against what is to run: the reservation is only a paper."""
    if record.state != RESERVED:
        raise TrainingRefused(
            f"Reservation {record.run_id} is {record.state}: new noise under it would be a second "
            "release that nobody paid for. Reserve again, by another request."
        )
    if record.plan_digest != plan.digest:
        raise TrainingRefused(
            f"Reservation {record.run_id} was made for another plan. Nothing was drawn."
        )
    strangers = len(BitMap(data.tokens) - record.eligible)
    if strangers:
        raise TrainingRefused(
            f"{strangers} people in the data were not charged by {record.run_id}. Nothing was "
            "drawn."
        )
    if record.owner != Owner.current():
        raise LedgerInvalid(f"Run {record.run_id} is held by another process.")
