"""What every store that can hold somebody does: find, forget, look afresh, and show what it has.

An erasure knows no store by name. It goes through a list of them, suppresses people before the
first of them forgets anybody, and looks into all of them afresh at the end. So a new store is a
subclass of `Store` in the list that `lethe.rights.workspace_stores` opens, and a pass of the
contract suite in `tests/stores/test_store_contract.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from lethe.core.outcomes import Outcome, Traces


class Holds(Enum):
    """What a store has of people, which decides when it is asked to forget them."""

    PEOPLE = "their own records: forgotten first; kept where only a use for training ends"
    COPIES = "copies for training and work: forgotten for all at once, before a training"
    MODELS = "what learned from them: ended after the training that takes its place"


@dataclass(frozen=True)
class Ending:
    """What takes the place of a model version that ends; neither for one that nobody used."""

    replaced_by: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Person:
    """Whom a store is asked about, and which model versions go with them.

    `keeps_records`: the person's own records stay, and only what was made of them goes. `models`:
    versions (`NAME/NUMBER`) that learned from the person and must be gone in the end.
    `serving`: versions in use, which work on until they are ended; None where nobody can say, so
    that no model is touched. `ended`: versions that end now.
    """

    traces: Traces
    keeps_records: bool = False
    models: tuple[str, ...] = ()
    serving: tuple[str, ...] | None = ()
    ended: Mapping[str, Ending] = field(default_factory=dict)


@dataclass(frozen=True)
class Held:
    """What a store holds of one person in one place; personal, so for the person alone."""

    place: str
    records: tuple[Mapping[str, Any], ...] = field(repr=False)


class Store(ABC):
    """One store. Whatever it is asked may be asked again: what was done is found done.

    Guarantees (each held by the contract suite): what `look` calls absent leads to the person
        no more, as far as `unseen` says that it can see; nobody else is touched by `forget`;
        an outcome names nobody.

    Raises (every method):
        LetheError: the store cannot be worked on now. It is never taken for an empty one.
    """

    name: str
    holds: Holds = Holds.PEOPLE

    def trace(self, people: Sequence[Traces]) -> list[Traces]:
        """The same people, with what this store knows that leads to them."""
        return list(people)

    @abstractmethod
    def forget(self, people: Sequence[Person]) -> Iterator[list[Outcome]]:
        """Takes people out; of each in turn, what was done, once it is done.

        Whoever asks notes each answer before asking for the next. A store that works on all at
        once says the same of each. What it raises is about the person whose turn it is.
        """

    def overwrite(self, *, forgotten: bool) -> None:  # noqa: B027 - few stores leave anything
        """Overwrites what is left of deleted rows, once for all who were forgotten.

        Args:
            forgotten: whether somebody may have been forgotten since this was last done.
        """

    @abstractmethod
    def look(self, people: Sequence[Person]) -> list[list[Outcome]]:
        """A fresh look, which believes nothing that was done; of each person, in their order."""

    @abstractmethod
    def export(self, person: Person) -> list[Held]:
        """Everything that is held of one person."""

    def unseen(self) -> tuple[str, ...]:
        """What this store cannot look into, a phrase each, for receipts."""
        return ()
