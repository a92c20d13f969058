"""The requests as one of the stores that an erasure goes through: they lead to people too."""

from collections.abc import Callable, Iterator, Sequence

from lethe.core.outcomes import Outcome, Result
from lethe.stores.requests.database import REQUESTS
from lethe.stores.requests.requests import OPEN, Request, Requests
from lethe.stores.store import Held, Holds, Person, Store

KEPT = "an open request leads to its person; that is dropped in the step that signs the receipt"


class RequestsStore(Store):
    """What people asked for.

    Args:
        about: whose key a request's encrypted content leads to; None before it was looked up.
    """

    name = "requests"
    holds = Holds.COPIES

    def __init__(self, requests: Requests, about: Callable[[Request], str | None]) -> None:
        self._requests = requests
        self._about = about

    def forget(self, people: Sequence[Person]) -> Iterator[list[Outcome]]:
        """Nothing: closing a request drops what leads to its person, with its receipt."""
        for _ in people:
            yield [self._kept()]

    def _kept(self) -> Outcome:
        return Outcome(self.name, Result.KEPT, reason=KEPT)

    def look(self, people: Sequence[Person]) -> list[list[Outcome]]:
        """Whether a request that ended still leads to anybody: nobody can say to whom."""
        ended = [r for r in self._requests.all() if r.state != OPEN and r.encrypted is not None]
        if not ended:
            return [[self._kept()] for _ in people]
        reason = f"{len(ended)} requests that ended still lead to somebody"
        places = (REQUESTS.name,)
        seen = Outcome(self.name, Result.PRESENT, len(ended), places, reason)
        return [[seen] for _ in people]

    def export(self, person: Person) -> list[Held]:
        """The person's requests that are open; of others only a receipt is left, which names
        nobody."""
        theirs = tuple(
            {
                "request": each.request_id,
                "kind": each.kind,
                "purpose": each.purpose,
                "received_at": each.received_at.isoformat(),
                "due_at": each.due_at.isoformat(),
            }
            for each in self._requests.all(state=OPEN)
            if self._about(each) == person.traces.key
        )
        return [Held(REQUESTS.name, theirs)] if theirs else []

    def unseen(self) -> tuple[str, ...]:
        return ("backups of the ledger's database",)
