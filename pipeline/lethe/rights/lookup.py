"""Look up: who asks, where they are, and which requests are one person's; for all at once."""

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lethe.core.outcomes import Traces
from lethe.people.references import Reference, traces_to_bytes
from lethe.rights.case import about, look_into
from lethe.rights.right import Right
from lethe.rights.services import ErasureServices
from lethe.stores.requests.requests import OPEN, Request, Requests
from lethe.stores.store import Person


@dataclass
class Known:
    """Whom requests are about, by request id."""

    people: dict[str, Traces] = field(default_factory=dict)
    joined: dict[str, str] = field(default_factory=dict)  # → the request that answers it
    ambiguous: dict[str, str] = field(default_factory=dict)  # → why it identifies nobody


class LookUp:
    """Finds people once; what is found is kept with the request, encrypted, until it is closed."""

    def __init__(
        self,
        services: ErasureServices,
        requests: Requests,
        rights: Mapping[str, Right],
        *,
        clock: Callable[[], dt.datetime],
    ) -> None:
        self._services = services
        self._requests = requests
        self._rights = rights
        self._clock = clock

    def who(self, requests: Sequence[Request]) -> Known:
        """Who they are; each store is gone through once for all of them.

        Raises:
            LetheError: what leads to somebody does not answer; nothing was resolved.
        """
        found = Known()
        known = self._identified([each for each in requests if each.state == OPEN], found)
        entries = {
            each.request_id: self._services.entry(known[each.request_id].key, purpose=each.purpose)
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
        """What leads to each person; what leads to several of them is reported, and left out."""
        known: dict[str, Traces] = {}
        asked: dict[str, Reference] = {}
        for request in requests:
            said = about(self._services, request)
            if isinstance(said, Traces):
                known[request.request_id] = said
            else:
                asked[request.request_id] = said
        keys: dict[str, str] = {}
        nobody: set[str] = set()
        people = self._services.people(list(asked.values())) if asked else []
        for (request_id, reference), theirs in zip(asked.items(), people, strict=True):
            if len(theirs) > 1:
                problem = (
                    f"what it names leads to {len(theirs)} people, all of whom are left out of "
                    "training until then. Ask for one of them by the subject's key."
                )
                self._requests.stays_open(request_id, problem)
                found.ambiguous[request_id] = problem
                continue
            keys[request_id] = theirs[0] if theirs else self._unknown(reference)
            nobody |= set() if theirs else {request_id}
        found_traces = self._traces_of(list(keys.values())) if keys else []
        for request_id, traces in zip(keys, found_traces, strict=True):
            # Unknown people are searched for too, by the identifier given.
            words = (asked[request_id].value,) if request_id in nobody else traces.identifiers
            known[request_id] = Traces(traces.key, traces.token, words)
        return known

    def _unknown(self, reference: Reference) -> str:
        """What stands for somebody whom nobody knows.

        Guarantees: an identifier that nobody has never becomes a key: the same value can be the
            key of somebody else, who would be suppressed and erased. What stands for it is one
            text for one reference, made by the vault's secret, so that no source has it.
        """
        if reference.column is None:
            return reference.value
        return f"nobody-{self._services.entry(reference.to_bytes().decode(), purpose=None).hex()}"

    def _traces_of(self, keys: Sequence[str]) -> list[Traces]:
        """What leads to each person, as all stores together know it."""
        people = [Traces(key, None) for key in keys]
        for store in self._services.stores:
            people = store.trace(people)
        return people

    def _resolve(
        self, requests: Sequence[Request], known: dict[str, Traces], entries: dict[str, bytes]
    ) -> None:
        """Looks where they are, and keeps what leads to them, their entry and what was seen."""
        if not requests:
            return
        people = [known[each.request_id] for each in requests]
        there = look_into(
            self._services.stores,
            [
                Person(traces, keeps_records=self._rights[each.kind].keeps_records)
                for each, traces in zip(requests, people, strict=True)
            ],
        )
        for each, traces, seen in zip(requests, people, there, strict=True):
            encrypted = self._services.encrypt(traces_to_bytes(traces), about=each.request_id)
            self._requests.resolve(
                each.request_id,
                encrypted=encrypted,
                entry=entries[each.request_id],
                found={"stores": [outcome.to_data() for outcome in seen]},
                now=self._clock(),
            )
