"""A trainer that trains nothing, and sweeps with it."""

import datetime as dt
from collections.abc import Callable
from typing import Any

from lethe.config import workspace
from lethe.config.params import Params
from lethe.data.batches import PersonData, RecordData
from lethe.data.encoding import Encoder
from lethe.data.shards import eligible_people, shard_paths
from lethe.ledger.ledger import Ledger
from lethe.privacy.plan import Plan
from lethe.sweep.points import Point, charged_points
from lethe.training.trainer import Progress, Reserved

NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)


def unwatched(plan: Plan, number: int) -> Progress | None:
    return None


class FakeTrainer:
    """Trains nothing; says what it was asked, and looks at the ledger meanwhile."""

    def __init__(self, params: Params, look: Callable[[Reserved], float]) -> None:
        self.encoder = Encoder.from_params(params)
        self.look = look
        self.plans: list[Plan] = []

    def auc(
        self,
        plan: Plan,
        people: PersonData,
        held_out: RecordData,
        reservation: Reserved,
        progress: Progress | None,
    ) -> float:
        self.plans.append(plan)
        assert set(people.tokens) <= set(reservation.admitted)
        return self.look(reservation)


def points_of(
    params: Params, ledger: Ledger, trainer: Any, plans: list[Plan], repeats: int = 1
) -> list[Point]:
    paths = shard_paths(workspace.SHARDS)
    eligible = eligible_people(paths)
    return list(
        charged_points(
            trainer,
            plans,
            ledger,
            paths,
            eligible,
            params=params,
            repeats=repeats,
            now=NOW,
            watch=unwatched,
        )
    )


def states(ledger: Ledger) -> list[str]:
    return [run.state for run in ledger.runs()]
