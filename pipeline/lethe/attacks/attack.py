"""The seam of the audit: a way to contradict a claim is an `Attack`, registered by its name.

The audit runs every attack that is registered, and knows none of them. To add one, register a
class with `register`; nothing else is touched. `docs/training.md` shows one of ten lines.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import dp_accounting as dp
import pandas as pd
from pyroaring import BitMap

from lethe.attacks.declared import Declared
from lethe.attacks.statistics import Check
from lethe.config.sections import Audit
from lethe.config.training import Training
from lethe.core.errors import ParamsInvalid
from lethe.data.batches import PersonData, person_data
from lethe.data.encoding import Encoder
from lethe.data.shards import held_out_people
from lethe.privacy.release import Release
from lethe.training.description import Description
from lethe.training.engines.contract import LossFn
from lethe.training.models import Model, loss_for
from lethe.training.processes import device_again
from lethe.training.trainer import Planned, Trainer


class Charged(Protocol):
    """A run as the ledger has it: what was charged, and to whom."""

    @property
    def run_id(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def event(self) -> dp.DpEvent: ...
    @property
    def eligible(self) -> BitMap: ...
    @property
    def records_per_person(self) -> int: ...
    @property
    def delta(self) -> float: ...
    @property
    def unit(self) -> str: ...
    @property
    def adjacency(self) -> str: ...
    @property
    def sampling(self) -> str: ...


@dataclass(frozen=True)
class Target:
    """A trained model, what is claimed of it, and everything that the claim rests on.

    Attributes:
        plan: of `data/plan.json`.
        described: the model's `model.json`.
        report: of train: the claim.
        manifest: the tokens of who trained.
        paths: the shards.
        record: the ledger's run that made the model; None if it knows none.
        declared: how hard to look.
        trainer: of the declared kind of training.
        training: as `params.yaml` declares it.
        root: of the workspace.
        files: the model's folder, by path in it; a folder in it ends with `/`.
        made: what `params.yaml` alone makes; None if that cannot be made without data.
        written: `encoding.json` and `plan.json` of the workspace, as they lie there.
        code: the digest of the code that audits.
        reported: what the last audit here, or where the model comes from, has reported, if any.
    """

    plan: Planned
    described: Description
    report: Mapping[str, Any]
    manifest: BitMap
    model: Model
    paths: Sequence[Path]
    record: Charged | None
    declared: Audit
    trainer: Trainer[Any]
    files: Mapping[str, bytes]
    training: Training
    root: Path
    made: Declared | None
    written: Mapping[str, bytes]
    code: str
    reported: Mapping[str, Any]

    @cached_property
    def release(self) -> Release:
        """What the plan says that was released, about who trained."""
        return self.plan.release(self.manifest)

    @property
    def encoder(self) -> Encoder:
        return self.described.encoder

    @property
    def loss_fn(self) -> LossFn:
        return loss_for(self.encoder.outputs)

    @property
    def device(self) -> str:
        """Where it was trained, if that is here."""
        return device_again(str(self.report.get("device", "cpu")))

    @cached_property
    def data(self) -> PersonData:
        """Who trained, as training took them."""
        return self.people(self.manifest)

    def people(self, tokens: BitMap) -> PersonData:
        """These people as training takes them."""
        return person_data(
            list(self.paths),
            self.encoder,
            admitted=tokens,
            records_per_person=self.plan.records_per_person,
        )

    def held_out(self) -> BitMap:
        """Everybody in the shards who was held out of training."""
        return held_out_people(self.paths)


class Attack(ABC):
    """One way to contradict a claim; made anew for every audit.

    Guarantee: leaves the target as it is, draws no noise that is released, and charges nothing.
    Contract (`tests/attacks/contract.py`): every check has a name that begins with one of
        `covers`, and a rate of false alarms that is known beforehand; all rates of an audit
        together stay below `statistics.FALSE_ALARMS`.

    Attributes:
        name: by which it is registered.
        covers: what the names of its checks begin with, up to the first dot.
        mechanisms: of which kinds of `Release.mechanism` it knows the code; every kind if empty.
        measured: for the report, JSON-ready, if it measured something; with `private`.
        curve: for a plot, if it has one: `fpr` and `tpr`, without points of single people.
    """

    name: ClassVar[str]
    covers: ClassVar[tuple[str, ...]]
    mechanisms: ClassVar[tuple[str, ...]] = ()
    measured: Mapping[str, Any] | None = None
    curve: pd.DataFrame | None = None

    @abstractmethod
    def run(self, target: Target) -> list[Check]:
        """What was looked at. What cannot be looked at is a check that failed, not one less."""


_Kind = TypeVar("_Kind", bound=type[Attack])
_registered: dict[str, type[Attack]] = {}


def register(kind: _Kind) -> _Kind:
    """Adds an attack to every audit from now on; a class decorator.

    Raises:
        ParamsInvalid: another one has its name, or covers what it covers.
    """
    for other in _registered.values():
        if other.name == kind.name or set(other.covers) & set(kind.covers):
            raise ParamsInvalid(f"Attack {kind.name!r} meets {other.name!r}: give it another name.")
    _registered[kind.name] = kind
    return kind


def unregister(name: str) -> None:
    """Takes an attack out again."""
    del _registered[name]


def registered() -> tuple[type[Attack], ...]:
    """Every attack that is registered, in that order; `audit.attacks` knows Lethe's own too."""
    return tuple(_registered.values())
