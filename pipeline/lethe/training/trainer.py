"""A way to train: a plan that says what it releases, a fit under a reservation, checks.

`lethe.stages.train` reserves, fits, settles and publishes by this alone. A trainer sees
tensors and a reservation: no database, no ledger, no key. DP-SGD is one; another is a class
of its own and one line in `TRAINERS` of `lethe.training.trainers`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from lethe.config.params import Params
from lethe.config.training import Training
from lethe.data.encoding import Encoder
from lethe.privacy.release import Release

if TYPE_CHECKING:  # torch is loaded by who trains, not by who plans
    from lethe.data.batches import PersonData, RecordData

Progress = Callable[[int, int], None]


class Reserved(Protocol):
    """What the ledger gives out: a run that is paid for, and for whom."""

    @property
    def run_id(self) -> str: ...
    @property
    def admitted(self) -> BitMap: ...


class Planned(Protocol):
    """All that decides the privacy of a training, in public numbers."""

    @property
    def records_per_person(self) -> int: ...
    @property
    def noise(self) -> str:
        """Of which law the noise is, in a word; the claim says it."""

    def release(self, subjects: BitMap) -> Release:
        """What is charged; its digest is of the whole plan and of the kind of mechanism."""

    def settings(self) -> Mapping[str, object]:
        """What else a reader asks of it, as a version's tags and card say it: name → number."""

    def to_data(self) -> dict[str, Any]:
        """As `data/plan.json` has it; `Trainer.read_plan` gives the equal plan back."""


P = TypeVar("P", bound=Planned)


@dataclass(frozen=True, kw_only=True)
class Shards:
    """What a training reads: who trains, whom it is measured on, and how records are numbers.

    `people` are the admitted people of the reservation, each with one place and at most the
    plan's records; nobody of `held_out` is among them.
    """

    people: "PersonData"
    held_out: "RecordData"
    encoder: Encoder
    declared: Training


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a fit may use besides: a place for its checkpoint, and who helps it.

    Attributes:
        checkpoint: private to the run; the stage removes it once the model is whole.
        progress: called with (step, steps) alone; a loss or a batch's size would leak.
        helpers: what `Trainer.helped` gave.
        root: of the workspace, where a module of the user's own lies.
        transcript: a folder for what the audit looks at, private and there until then; a trainer
            whose steps nobody recomputes leaves it empty. At most `transcript_bytes` of releases.
    """

    checkpoint: Path
    progress: Progress | None = None
    helpers: Any = None
    root: Path = Path()
    transcript: Path | None = None
    transcript_bytes: int = 2**30


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What leaves: files of the model's folder by name, and facts to report.

    `facts` are what the trainer knows of it: of a fit they lack what follows from the release
    and the reservation, which the stage adds. Of a published training they are the whole report.
    No fact is counted or measured on people, but for what the release pays for. `predicted` stays
    with the stage, which has it counted for the figures that are charged for: for each record of
    `Shards.held_out` the probability of the positive class, or of each class.
    """

    model: Mapping[str, bytes] = field(repr=False)  # as `lethe.training.models` reads and serves it
    facts: Mapping[str, Any]
    predicted: npt.NDArray[np.float64] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Bound:
    """What a sound training keeps: `value` is at most `limit`. For NaN it does not hold."""

    name: str
    value: float
    limit: float
    meaning: str

    @property
    def passed(self) -> bool:
        return bool(self.value <= self.limit)


class Trainer(ABC, Generic[P]):
    """One kind of training. It has no state: what it needs, it is given.

    Attributes:
        facts: every field that `Trained.facts` of a fit may have, dotted, `*` for a name that is
            data. `reports/train.json` is committed, and has no field that nobody declared.
    """

    facts: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def plan(self, params: Params) -> P:
        """The plan of what is declared; the same declarations give the same plan."""

    @abstractmethod
    def read_plan(self, data: Mapping[str, Any]) -> P:
        """The plan that was written as `data`.

        Raises:
            ParamsInvalid: it is of another kind, or impossible.
        """

    def rehearse(self, params: Params, *, plan: P, encoder: Encoder) -> None:
        """Refuses, before anything is reserved, what no guarantee could be given for.

        Nothing of people is read.

        Raises:
            TrainingRefused: names the fact and the next step. Nothing was spent.
        """

    @abstractmethod
    def fit(self, shards: Shards, reservation: Reserved, *, plan: P, session: Session) -> Trained:
        """Trains on `shards.people` and nobody else.

        Guarantee: what is returned is an outcome of the mechanism that
            `plan.release(reservation.admitted).event` describes, or post-processing of it.
            Called again for the same reservation after a kill, it goes on, or starts anew
            with fresh noise; nothing of the first attempt was seen.

        Raises:
            NotFinite: it ended by what it drew: the run is spent, to try again is another one.
        """

    @abstractmethod
    def checks(self, trained: Trained) -> Sequence[Bound]:
        """What can be seen in a published training without its people's data.

        It costs nothing, draws nothing and attacks nothing; attacks are the audit's own.
        """

    def assists(self, params: Params) -> bool:
        """Whether this process only helped another one's training, which is over now."""
        return False

    @contextmanager
    def helped(self, params: Params) -> Iterator[Any]:
        """Further processes, there before anything is reserved and gone afterwards."""
        yield None
