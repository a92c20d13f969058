"""Carries rights out, step by step, and resumes: the one engine for all of them.

A step that is done for a request leaves its mark in the table of requests before the next begins.
So whatever ends a run, the next one goes on; what a step does is such that done again it is found
done. A request closes only with a last look, into every store afresh, and then with its receipt,
in one transaction.
"""

import datetime as dt
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from lethe.core.errors import (
    Busy,
    LetheError,
    RequestsOpen,
    SourceUnavailable,
    StoreUnavailable,
)
from lethe.core.outcomes import Outcome, Result, Traces
from lethe.core.waiting import SILENCE_S
from lethe.people.references import Reference, reference_from_bytes
from lethe.rights.receipt_facts import in_words, receipt_facts, versions_of
from lethe.rights.receipts import Signer
from lethe.rights.right import EACH_STORE, Do, Right, Step
from lethe.rights.services import CaseServices
from lethe.stores.requests.requests import OPEN, Mark, Request, Requests
from lethe.stores.store import Holds, Person, Store

_AWAY = (SourceUnavailable, StoreUnavailable, Busy)  # of the store, not of who is asked about
VERIFIED = "verified"  # mark: of a last look that found nothing
ONLY_USE_ENDS = "only its use for this purpose ends"


@dataclass
class CaseSummary:
    """What a run came to, by request id."""

    closed: dict[str, int] = field(default_factory=dict)  # → number of the receipt
    problems: dict[str, str] = field(default_factory=dict)  # → why it is still open


Services = TypeVar("Services", bound=CaseServices)
Summary = TypeVar("Summary", bound=CaseSummary)


class Case(Generic[Services, Summary]):
    """The open requests of some rights with the same steps, carried out as one batch.

    Guarantees: a request closes only after a fresh look found nothing open in any store; what
        was not seen to be gone is not reported as erased; each request that closes has one
        receipt.
    """

    still_open: type[LetheError] = RequestsOpen
    people_lag = False  # whether others are worked on where one store of people does not answer

    def __init__(
        self,
        rights: Sequence[Right],
        services: Services,
        requests: Requests,
        signer: Signer,
        summary: Summary,
        *,
        clock: Callable[[], dt.datetime],
        report: Callable[[str], None] = lambda said: None,
    ) -> None:
        self.rights = {right.kind: right for right in rights}
        self.services = services
        self.requests = requests
        self.summary = summary
        self.clock = clock
        self.report = report
        self._signer = signer
        self._noted: dict[str, str] = {}  # request id → why it was open when this began

    def run(self) -> Summary:
        """Takes every open request as far as it comes.

        Raises:
            Busy: another process works on them.
        """
        with self.requests.alone():
            batch = self.open()
            self.carry(batch, self.steps())
            done = {step.name for step in self.steps()}
            self.prove([r for r in self.anew(batch) if done <= set(r.marks)])
        return self.summary

    # ------------------------------------------------------------------ steps

    def steps(self) -> list[Step]:
        """The steps of these rights, with one for each store of people."""
        found: list[Step] = []
        for step in next(iter(self.rights.values())).steps:
            found += self.store_steps() if step is EACH_STORE else [step]
        return found

    def store_steps(self) -> list[Step]:
        return [
            Step(store.name, _forgetting(store), lags=self.people_lag)
            for store in self.services.stores
            if store.holds is Holds.PEOPLE
        ]

    def carry(self, requests: Iterable[Request], steps: Sequence[Step]) -> None:
        """Takes requests through some of the steps, each in its turn."""
        ids = [request.request_id for request in requests]
        for step in steps:
            batch = [
                request
                for request in map(self.requests.find, ids)
                if request.state == OPEN
                and step.name not in request.marks
                and self.has_come_to(step.name, request)
            ]
            if batch:
                step.do(self, batch)

    def has_come_to(self, name: str, request: Request) -> bool:
        """Whether every step before has its mark, but for those that may lag."""
        for step in self.steps():
            if step.name == name:
                return True
            if step.name not in request.marks and not step.lags:
                return False
        raise ValueError(f"{name} is no step")

    def open(self) -> list[Request]:
        return [r for r in self.requests.all(state=OPEN) if r.kind in self.rights]

    def anew(self, batch: Iterable[Request]) -> list[Request]:
        return [self.requests.find(request.request_id) for request in batch]

    # ------------------------------------------------------------------ stores

    def traces(self, request: Request) -> Traces:
        found = about(self.services, request)
        if not isinstance(found, Traces):
            raise ValueError("a request is looked up before anything else")
        return found

    def person(self, request: Request) -> Person:
        """Whom a request is about, as stores are asked about them."""
        keeps_records = self.rights[request.kind].keeps_records
        models = tuple(versions_of(request)[0])
        return Person(self.traces(request), keeps_records=keeps_records, models=models)

    def forget(self, store: Store, batch: Sequence[Request]) -> None:
        """Takes people out of one store; what stands in the way of one is no reason for others."""
        waiting: deque[tuple[Request, Person]] = deque()
        # Who has little there leaves first: nobody's size holds up others.
        for request in sorted(batch, key=lambda each: found_in(store.name, each)):
            person = self.person(request)
            if person.keeps_records:
                self.mark(request, store.name, [_kept(store)])
            else:
                waiting.append((request, person))
        while waiting:  # after a failure the rest is asked for again, without whom it failed for
            self._forget(store, waiting)

    def _forget(self, store: Store, waiting: deque[tuple[Request, Person]]) -> None:
        done = store.forget([person for _, person in waiting])
        while waiting:
            asked_at = time.monotonic()
            try:
                outcomes = next(done, None)
            except LetheError as error:
                self.problem(waiting.popleft()[0], str(error))
                if isinstance(error, _AWAY):
                    self._spare(waiting, str(error), asked_at)
                return
            if outcomes is None:
                raise ValueError(f"{store.name} was asked about more people than it answered")
            self.mark_or_report(waiting.popleft()[0], store.name, outcomes)
            if away := [each for each in outcomes if each.result == Result.UNREACHABLE]:
                self._spare(waiting, in_words(away), asked_at)

    def _spare(self, waiting: deque[tuple[Request, Person]], reason: str, asked_at: float) -> None:
        """Asks no more of a store that was silent for long: it would be so for each of the rest."""
        if time.monotonic() - asked_at > SILENCE_S:
            while waiting:
                self.problem(waiting.popleft()[0], reason)

    def overwrite(self, *, forgotten: bool) -> None:
        for store in self.services.stores:
            store.overwrite(forgotten=forgotten)

    # ------------------------------------------------------------------ proof

    def prove(self, requests: Sequence[Request]) -> None:
        """Closes those for whom one fresh look, after everything was done, finds nothing."""
        if not requests:
            return
        at = self.clock()
        try:
            looks = self.look(requests)
        except LetheError as error:
            for request in requests:
                self.problem(request, str(error))
            return
        for request, seen in zip(requests, looks, strict=True):
            try:
                self._close(request, seen, at=at)
            except LetheError as error:
                self.problem(request, str(error))

    def look(self, requests: Sequence[Request]) -> list[list[Outcome]]:
        looks: dict[str, list[Outcome]] = {}
        for right in self.rights.values():
            theirs = [r for r in requests if r.kind == right.kind]
            if right.look is not None and theirs:
                for request, seen in zip(theirs, right.look(self, theirs), strict=True):
                    looks[request.request_id] = seen
        rest = [r for r in requests if r.request_id not in looks]
        seen_of_rest = look_into(self.services.stores, [self.person(r) for r in rest])
        looks |= {r.request_id: seen for r, seen in zip(rest, seen_of_rest, strict=True)}
        return [looks[request.request_id] for request in requests]

    def _close(self, request: Request, seen: Sequence[Outcome], *, at: dt.datetime) -> None:
        left = [outcome for outcome in seen if outcome.still_there]
        if left:
            self.do_again(request, left)
            raise self.still_open(f"{in_words(left)}. {self.where(request)}")
        self.sign(request, seen, at=at)

    def where(self, request: Request) -> str:
        """A place may be a file that somebody named after the person: not for a log."""
        return f"`lethe erase verify {request.request_id}` says where"

    def do_again(self, request: Request, left: Sequence[Outcome]) -> None:
        """Everything, where a last look found something: it came back, or never went."""
        steps = (step.name for step in self.steps())
        self.requests.unmark(request.request_id, VERIFIED, *steps)

    def sign(
        self,
        request: Request,
        seen: Sequence[Outcome],
        *,
        at: dt.datetime,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Closes a request with its receipt.

        Args:
            seen: what the last look saw, in every store.
            at: when that look began.
        """
        now = self.clock()
        verified = {"stores": [outcome.to_data() for outcome in seen]}
        marks = {**request.marks, VERIFIED: Mark(at, verified)}
        facts = receipt_facts(
            replace(request, marks=marks),
            self.rights[request.kind],
            unseen={store.name: store.unseen() for store in self.services.stores},
            closed_at=now,
        )
        facts |= more or {}
        stored = self.requests.close(
            request.request_id,
            lambda number, previous: self._signer.sign(facts, number=number, previous=previous),
            verified=verified,
            verified_at=at,
            now=now,
        )
        self.solved(request)
        self.summary.closed[request.request_id] = stored.number

    # ------------------------------------------------------------------ marks

    def mark(
        self,
        request: Request,
        step: str,
        outcomes: Sequence[Outcome] = (),
        more: Mapping[str, Any] | None = None,
        at: dt.datetime | None = None,
    ) -> None:
        content = {"stores": [outcome.to_data() for outcome in outcomes], **(more or {})}
        self.requests.mark(request.request_id, step, content, now=at or self.clock())

    def mark_or_raise(self, request: Request, step: str, outcomes: Sequence[Outcome]) -> None:
        """Marks a step that was done everywhere; otherwise it is tried again next time."""
        if failed := [outcome for outcome in outcomes if outcome.is_open]:
            raise self.still_open(in_words(failed))
        self.mark(request, step, outcomes)

    def mark_or_report(self, request: Request, step: str, outcomes: Sequence[Outcome]) -> None:
        try:
            self.mark_or_raise(request, step, outcomes)
        except self.still_open as error:
            self.problem(request, str(error))

    def problem(self, request: Request, problem: str) -> None:
        """Notes what a request stays open for, beside whatever else this run found."""
        asked = request.request_id
        self.summary.problems[asked] = _joined(self.summary.problems.get(asked, ""), problem)
        noted = _joined(self._noted.get(asked, ""), self.summary.problems[asked])
        self.requests.stays_open(asked, noted)

    def note_problems(self) -> None:
        """Keeps what requests are open for beside what is found from now on."""
        self._noted = {r.request_id: r.problem for r in self.open() if r.problem}

    def solved(self, request: Request) -> None:
        self.requests.stays_open(request.request_id, None)
        self._noted.pop(request.request_id, None)
        self.summary.problems.pop(request.request_id, None)


def about(services: CaseServices, request: Request) -> Reference | Traces:
    """What an open request keeps of its person: what was said, or since then found."""
    if request.encrypted is None:
        raise ValueError("an open request keeps what leads to its person")
    return reference_from_bytes(services.decrypt(request.encrypted, about=request.request_id))


def look_into(stores: Sequence[Store], people: Sequence[Person]) -> list[list[Outcome]]:
    """A fresh look into every store, of each person one list; each store is asked once.

    One that does not answer holds up no other: it is `unreachable`, with its reason.
    """
    found: list[list[Outcome]] = [[] for _ in people]
    for store in stores:
        asked = [p for p in people if not (p.keeps_records and store.holds is Holds.PEOPLE)]
        try:
            seen = iter(store.look(asked) if asked else [])
        except LetheError as error:
            seen = iter([[away(store, error)] for _ in asked])
        for person, theirs in zip(people, found, strict=True):
            kept = person.keeps_records and store.holds is Holds.PEOPLE
            theirs += [_kept(store)] if kept else next(seen)
    return found


def _forgetting(store: Store) -> Do:
    def do(case: Any, batch: Sequence[Request]) -> None:
        case.forget(store, batch)

    return do


def away(store: Store, error: LetheError) -> Outcome:
    """What is known of a store that does not answer."""
    return Outcome(store.name, Result.UNREACHABLE, reason=str(error))


def _joined(before: str, problem: str) -> str:
    if not before:
        return problem
    return before if problem in before else f"{before.rstrip('.')}; {problem}"


def _kept(store: Store) -> Outcome:
    return Outcome(store.name, Result.KEPT, reason=ONLY_USE_ENDS)


def found_in(store: str, request: Request) -> int:
    """How much the first look found of a person in a store."""
    found = request.marks["found"].content.get("stores", ()) if "found" in request.marks else ()
    return sum(each["count"] for each in found if each["store"] == store)
