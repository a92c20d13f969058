"""Look up: who asks, where they are, and which requests are one person's; for all at once."""

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from lethe.core.outcomes import Traces
from lethe.people.references import Reference, read_sealed, traces_to_bytes
from lethe.rights.stores import Places, Sought
from lethe.stores.requests.requests import OPEN, Request, Requests


@dataclass
class Known:
    """Whom requests are about, by request id."""

    people: dict[str, Traces] = field(default_factory=dict)
    joined: dict[str, str] = field(default_factory=dict)  # → the request that answers it
    ambiguous: dict[str, str] = field(default_factory=dict)  # → why nobody is told by it


class LookUp:
    """Finds people once; what is found is kept with the request, sealed, until it is closed."""

    def __init__(
        self, places: Places, requests: Requests, *, clock: Callable[[], dt.datetime]
    ) -> None:
        self._places = places
        self._requests = requests
        self._clock = clock

    def who(self, requests: Sequence[Request]) -> Known:
        """Who they are; each store is gone through once for all of them.

        Raises:
            LetheError: somebody's store does not answer; nothing was resolved.
        """
        found = Known()
        known = self._identified([each for each in requests if each.state == OPEN], found)
        entries = {
            each.request_id: self._places.entry(known[each.request_id].key, purpose=each.purpose)
            for each in requests
            if each.request_id in known
        }
        opened = self._requests.all(state=OPEN)
        first = {(o.entry, o.kind): o.request_id for o in opened if "found" in o.marks}
        new: list[Request] = []
        twice: dict[str, str] = {}  # request → the one that answers it
        for each in requests:
            if each.request_id in known:
                person = (entries[each.request_id], each.kind)
                other = first.setdefault(person, each.request_id)
                if other != each.request_id:
                    twice[each.request_id] = other
                elif "found" not in each.marks:
                    new.append(each)
        self._resolve(new, known, entries)
        for request_id, other in twice.items():
            self._requests.join(request_id, other, now=self._clock())
        found.joined = twice
        found.people = {each: traces for each, traces in known.items() if each not in twice}
        return found

    def _identified(self, requests: Iterable[Request], found: Known) -> dict[str, Traces]:
        """What leads to each person; what leads to several of them is told, and left out."""
        known: dict[str, Traces] = {}
        asked: dict[str, Reference] = {}
        for request in requests:
            said = about(self._places, request)
            if isinstance(said, Traces):
                known[request.request_id] = said
            else:
                asked[request.request_id] = said
        keys: dict[str, str] = {}
        nobody: set[str] = set()
        people = self._places.people(list(asked.values())) if asked else []
        for (request_id, reference), theirs in zip(asked.items(), people, strict=True):
            if len(theirs) > 1:
                problem = (
                    f"what it names leads to {len(theirs)} people, all of whom are left out of "
                    "training until then. Ask for one of them by the subject's key."
                )
                self._requests.stays_open(request_id, problem)
                found.ambiguous[request_id] = problem
                continue
            keys[request_id] = theirs[0] if theirs else reference.value
            nobody |= set() if theirs else {request_id}
        for request_id, traces in zip(
            keys, self._places.traces_of(list(keys.values())) if keys else [], strict=True
        ):
            # Whoever is nobody's is looked for as well, by the very words of the request.
            words = (asked[request_id].value,) if request_id in nobody else traces.identifiers
            known[request_id] = Traces(traces.key, traces.token, words)
        return known

    def _resolve(
        self, requests: Sequence[Request], known: dict[str, Traces], entries: dict[str, bytes]
    ) -> None:
        """Looks where they are, and keeps what leads to them, their entry and what was seen."""
        if not requests:
            return
        people = [known[each.request_id] for each in requests]
        in_models = self._places.models_of(people)
        there = self._places.look(
            [
                Sought(traces, each.kind, tuple(models))
                for each, traces, (models, _) in zip(requests, people, in_models, strict=True)
            ]
        )
        for each, traces, (models, live), seen in zip(
            requests, people, in_models, there, strict=True
        ):
            sealed = self._places.seal(traces_to_bytes(traces), about=each.request_id)
            self._requests.resolve(
                each.request_id,
                sealed=sealed,
                entry=entries[each.request_id],
                found={
                    "stores": [outcome.to_data() for outcome in seen],
                    "models": models,
                    "live": live,
                },
                now=self._clock(),
            )


def about(places: Places, request: Request) -> Reference | Traces:
    """What an open request keeps of its person: what was said, or since then found."""
    if request.sealed is None:
        raise ValueError("an open request keeps what leads to its person")
    return read_sealed(places.unseal(request.sealed, about=request.request_id))
