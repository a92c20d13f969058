"""What an erasure asks of the stores where a person can be.

`lethe.rights.workspace_stores` has them.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lethe.core.outcomes import Outcome, Traces
from lethe.people.references import Lapse, Reference
from lethe.stores.requests.requests import Kind
from lethe.stores.source.expire import Lapsed
from lethe.stores.source.mentions import Mentioned

LEAVES = "stays: only its use for this purpose ends"  # source and vault, of a withdrawal


@dataclass(frozen=True)
class Training:
    """What came of a retraining: the version that replaces others, or why there is none."""

    version: str | None
    reason: str | None = None


@dataclass(frozen=True)
class Cost:
    """What a retraining would charge to everybody who remains; `refused` if it may not."""

    people: int
    epsilon_rdp: float
    epsilon_pld: float
    delta: float
    refused: str | None = None

    def __str__(self) -> str:
        price = (
            f"epsilon {self.epsilon_pld:.3f} (PLD), {self.epsilon_rdp:.3f} (RDP) at delta "
            f"{self.delta:g} to each of about {self.people:,} people who remain"
        )
        return f"{price}; refused: {self.refused}" if self.refused else price


@dataclass(frozen=True)
class Sought:
    """Whom a fresh look is for, and the versions that must be gone."""

    traces: Traces
    kind: Kind
    models: tuple[str, ...] = ()


class Places(Protocol):
    """Every store that can hold somebody, and the road that trains anew.

    All of it may be done again: what was done already is found done. What is asked of many people
    at once goes through a store as often as for one of them.
    """

    def seal(self, content: bytes, *, about: str) -> bytes: ...

    def unseal(self, sealed: bytes, *, about: str) -> bytes: ...

    def people(self, references: Sequence[Reference]) -> list[list[str]]:
        """The keys of everybody to whom each reference leads; a key leads to itself."""
        ...

    def traces_of(self, keys: Sequence[str]) -> list[Traces]:
        """What leads to each person in every store."""
        ...

    def entry(self, key: str, *, purpose: str | None) -> bytes:
        """What stands for the person in a suppression."""
        ...

    def models_of(self, people: Sequence[Traces]) -> list[tuple[list[str], list[str]]]:
        """Versions (`NAME/NUMBER`) that were trained on each person, and which are in use."""
        ...

    def suppress(self, entry: bytes, *, since: dt.datetime) -> None: ...

    def remember(self, traces: Traces, *, now: dt.datetime) -> None:
        """Keeps what the person has spent, for when they come back."""
        ...

    def mentioned(self, people: Sequence[Traces]) -> dict[str, Mentioned]:
        """Where texts about others name each person, by their key."""
        ...

    def erase_source(
        self, traces: Traces, *, now: dt.datetime, mentioned: Mentioned | None
    ) -> Outcome:
        """Takes the person out of the source; looks by itself where they were not looked for."""
        ...

    def compact(self, *, vault: bool) -> None:
        """Overwrites what the source, and the vault if told to, still have of deleted rows."""
        ...

    def forget(self, traces: Traces) -> Outcome:
        """Takes the person out of the vault."""
        ...

    def purge(
        self, tokens: Sequence[int], *, serving: Sequence[str], retired: Sequence[str]
    ) -> list[Outcome]:
        """Takes people out of everything that DVC keeps.

        Args:
            serving: versions that stay until they are replaced.
            retired: versions whose files go as well.
        """
        ...

    def cost(self, tokens: Sequence[int]) -> Cost | None:
        """What training without these people would cost; None before anything was trained."""
        ...

    def retrain(self) -> Training:
        """Walks the road.

        Raises:
            LetheError: it could not be walked now; a later try may.
        """
        ...

    def retire(
        self, version: str, *, replaced_by: str | None, reason: str | None, now: dt.datetime
    ) -> Outcome:
        """Ends a version, after its aliases went to the one that replaces it."""
        ...

    def look(self, people: Sequence[Sought]) -> list[list[Outcome]]:
        """A fresh look into every store for each; what is still there has a count above zero."""
        ...


class LapsingPlaces(Protocol):
    """What retention asks of the stores; `lethe.rights.retention_stores` has them. All of it may be
    done again: what was done already is found done."""

    def seal(self, content: bytes, *, about: str) -> bytes: ...
    def unseal(self, sealed: bytes, *, about: str) -> bytes: ...
    def lapsed(self, *, as_of: dt.datetime) -> Lapsed: ...
    def lapse(self, lapsed: Lapsed) -> Lapse: ...
    def remember(self, traces: Traces, *, now: dt.datetime) -> None: ...
    def erase_lapsed(self, lapsed: Lapsed, *, as_of: dt.datetime, about: str) -> Outcome: ...
    def mentioned(self, people: Sequence[Traces]) -> dict[str, Mentioned]: ...
    def erase_source(
        self, traces: Traces, *, now: dt.datetime, mentioned: Mentioned | None
    ) -> Outcome: ...
    def forget(self, traces: Traces) -> Outcome: ...
    def compact(self, *, vault: bool) -> None: ...
    def remake(self) -> None: ...
    def outdated(self, lapse: Lapse) -> list[str]: ...
    def in_use(self) -> list[str]: ...
    def purge_lapsed(self, lapse: Lapse, *, retired: Sequence[str]) -> list[Outcome]: ...
    def cost(self, tokens: Sequence[int]) -> Cost | None: ...
    def retrain(self) -> Training: ...
    def retire(
        self, version: str, *, replaced_by: str | None, reason: str | None, now: dt.datetime
    ) -> Outcome: ...
    def look_lapsed(
        self, lapse: Lapse, *, as_of: dt.datetime, about: Sequence[str], models: Sequence[str]
    ) -> list[Outcome]: ...
