"""What carrying a right out needs of a workspace: its stores, and what is none of theirs.

`lethe.rights.workspace_stores` and `lethe.rights.retention_stores` have it for a workspace.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lethe.core.errors import (
    AuditContradiction,
    AuditIncomplete,
    BudgetExceeded,
    NobodyConsents,
    TooFewSubjects,
    TrainingRefused,
)
from lethe.core.outcomes import Outcome, Traces
from lethe.people.references import Expiry, Reference
from lethe.stores.source.expire import ExpiredRows
from lethe.stores.store import Ending, Store

# What trying again does not correct: without a new model the old one is retired.
_FINAL = (
    *(TooFewSubjects, NobodyConsents, BudgetExceeded),
    *(AuditContradiction, AuditIncomplete, TrainingRefused),
)
FINAL_CODES = frozenset(error.exit_code for error in _FINAL)


@dataclass(frozen=True)
class Retraining:
    """What came of a training: the version that replaces others, or why there is none."""

    version: str | None
    reason: str | None = None


@dataclass(frozen=True)
class RetrainingCost:
    """What a training would charge to everybody who remains; `refused` if it may not."""

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


class CaseServices(Protocol):
    """What every case needs. All of it may be done again: what was done is found done."""

    @property
    def stores(self) -> Sequence[Store]:
        """Every store that can hold somebody, in the order in which they forget."""
        ...

    def encrypt(self, content: bytes, *, about: str) -> bytes:
        """Encrypts what leads to a person, for one request."""
        ...

    def decrypt(self, encrypted: bytes, *, about: str) -> bytes: ...

    def remember(self, traces: Traces, *, now: dt.datetime) -> None:
        """Keeps what the person has spent, for when they come back."""
        ...

    def cost(self, tokens: Sequence[int]) -> RetrainingCost | None:
        """What training without these people would cost; None before anything was trained."""
        ...

    def retrain(self) -> Retraining:
        """Runs the pipeline.

        Raises:
            LetheError: it could not be run now; a later try may.
        """
        ...


class ErasureServices(CaseServices, Protocol):
    """What requests of people need beside. What is asked of many people at once goes through a
    store as often as for one of them."""

    def people(self, references: Sequence[Reference]) -> list[list[str]]:
        """The keys of everybody to whom each reference leads; a key leads to itself."""
        ...

    def entry(self, key: str, *, purpose: str | None) -> bytes:
        """What stands for the person in a suppression."""
        ...

    def models_of(self, people: Sequence[Traces]) -> list[tuple[list[str], list[str]]]:
        """Versions (`NAME/NUMBER`) that were trained on each person, and which are in use."""
        ...

    def suppress(self, entry: bytes, *, since: dt.datetime) -> None: ...


class RetentionServices(CaseServices, Protocol):
    """What retention needs beside: it takes out rows whose time is over, not people."""

    @property
    def rows(self) -> Store:
        """The store that the rows are in."""
        ...

    def expired(self, *, as_of: dt.datetime) -> ExpiredRows: ...
    def expiry(self, expired: ExpiredRows) -> Expiry: ...
    def erase_expired(self, expired: ExpiredRows, *, as_of: dt.datetime, about: str) -> Outcome: ...
    def remake(self) -> None: ...
    def outdated(self, expiry: Expiry) -> list[str]: ...
    def in_use(self) -> list[str]: ...
    def purge_expired(self, expiry: Expiry, *, retired: Sequence[str]) -> list[Outcome]: ...
    def end(self, version: str, ending: Ending) -> Outcome: ...
    def look_expired(
        self, expiry: Expiry, *, as_of: dt.datetime, about: Sequence[str], models: Sequence[str]
    ) -> list[Outcome]: ...
