"""Runs in pods as one of the stores that an erasure goes through: they carry copies around."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pyroaring import BitMap

from lethe.core.outcomes import Outcome
from lethe.runs.pods import home
from lethe.stores.store import Held, Holds, Person, Store


class PodRunsStore(Store):
    """Runs in pods that are under way; nothing where there never was one."""

    name = home.STORE
    holds = Holds.COPIES

    def __init__(self, root: Path) -> None:
        self._root = root

    def forget(self, people: Sequence[Person]) -> Iterator[list[Outcome]]:
        """Fences them off: what they send from now on is known here before it is purged."""
        yield from self.look(people)

    def look(self, people: Sequence[Person]) -> list[list[Outcome]]:
        tokens = BitMap(t for each in people if (t := each.traces.token) is not None)
        fenced = home.fence(self._root, tokens)  # once for all: nobody ends before a run did
        return [[fenced] if fenced else [] for _ in people]

    def export(self, person: Person) -> list[Held]:
        """Nothing of their own: what they send is in DVC's stores."""
        return []
