"""erase: takes everybody who asked out of every store, trains without them, and proves it.

Step by step, each of which leaves its mark before the next begins, so that whatever ends a run
the next one goes on: look up → suppress → remember the spend → source → vault → history →
retrain → retire → verify → receipt. What has to be looked through is looked through for all at
once; from there up to the vault everybody is alone; then all open requests are one batch, with one
retraining. Requests that come in meanwhile join it until the retraining begins.

Whoever is unknown takes the same steps and is answered with the rest of the batch.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lethe.config.params import Params
from lethe.core.errors import LetheError, RequestsOpen
from lethe.core.outcomes import Outcome, Traces
from lethe.people.suppression import concerns
from lethe.rights.intake import waits_until
from lethe.rights.lookup import LookUp, about
from lethe.rights.receipt_facts import in_words, receipt_facts, still_there, what_became
from lethe.rights.receipts import Signer
from lethe.rights.stores import LEAVES, Places, Sought, Training
from lethe.stores.requests.requests import OPEN, Mark, Request, Requests
from lethe.stores.source.mentions import Mentioned

LAST_DAYS = dt.timedelta(days=3)  # before a deadline no model waits for a retraining any more


@dataclass
class Summary:
    """What a run came to, by request id."""

    closed: dict[str, int] = field(default_factory=dict)  # → number of the receipt
    joined: dict[str, str] = field(default_factory=dict)  # → the request that answers it
    waiting: dict[str, dt.datetime] = field(default_factory=dict)  # → until when
    problems: dict[str, str] = field(default_factory=dict)  # → why it is still open


class Erasure:
    """Works on open requests; `run` once, or again after anything.

    Guarantees: a request closes only after a fresh look found nothing in any store; what was
        not seen to be gone is not told as erased; each request that closes has one receipt.
    """

    def __init__(
        self,
        params: Params,
        places: Places,
        requests: Requests,
        signer: Signer,
        *,
        clock: Callable[[], dt.datetime],
        tell: Callable[[str], None],
    ) -> None:
        self._params = params
        self._places = places
        self._requests = requests
        self._signer = signer
        self._clock = clock
        self._tell = tell
        self._summary = Summary()
        self._look_up = LookUp(places, requests, clock=clock)

    def run(self) -> Summary:
        """Drains the open requests, those that come in meanwhile too.

        Raises:
            Busy: another process works on them.
        """
        with self._requests.alone():
            tried: set[str] = set()
            while fresh := [r for r in self._open() if r.request_id not in tried]:
                while fresh:  # who comes in while others are looked up joins them
                    tried |= {each.request_id for each in fresh}
                    # All are found before any is erased: two requests may be one person's.
                    found = self._found(fresh)
                    named = self._mentioned(found)
                    for request_id, traces in found.items():
                        self._erase(request_id, traces, named.get(traces.key))
                    fresh = [r for r in self._open() if r.request_id not in tried]
                self._together()
        return self._summary

    def _open(self) -> list[Request]:
        return [r for r in self._requests.all(state=OPEN) if concerns(r, self._params)]

    # ------------------------------------------------------------------ who they are

    def _found(self, requests: Sequence[Request]) -> dict[str, Traces]:
        """Who they are, by request; without whom that cannot be told of now, or who is answered
        by another request. One look for all; for fewer, if somebody stands in its way."""
        try:
            known = self._look_up.who(requests)
        except LetheError as error:
            if len(requests) == 1:
                self._problem(requests[0].request_id, str(error))
                return {}
            half = len(requests) // 2
            return self._found(self._anew(requests[:half])) | self._found(
                self._anew(requests[half:])
            )
        self._summary.problems |= known.ambiguous
        self._summary.joined |= known.joined
        return {r: traces for r, traces in known.people.items() if self._suppressed(r, traces)}

    def _suppressed(self, request_id: str, traces: Traces) -> bool:
        """Suppresses a person; whether that was done."""
        try:
            self._suppress(self._requests.find(request_id), traces)
        except LetheError as error:
            self._problem(request_id, str(error))
            return False
        return True

    def _suppress(self, request: Request, traces: Traces) -> None:
        if "suppressed" not in request.marks:
            entry = self._places.entry(traces.key, purpose=request.purpose)
            self._places.suppress(entry, since=request.received_at)
            self._mark(request, "suppressed")

    # ------------------------------------------------------------------ one by one

    def _mentioned(self, found: Mapping[str, Traces]) -> dict[str, Mentioned]:
        """Where others' texts name those who leave the source, in one look for all."""
        asked = [self._requests.find(request_id) for request_id in found]
        leave = [r for r in asked if r.kind == "erase" and "source" not in r.marks]
        try:
            people = [found[request.request_id] for request in leave]
            return self._places.mentioned(people) if len(people) > 1 else {}
        except LetheError:
            return {}  # who is erased is looked for alone, and the reason told of each

    def _erase(self, request_id: str, traces: Traces, named: Mentioned | None) -> None:
        """The steps up to the vault; what stands in the way of one is no reason for others."""
        try:
            self._remove(self._requests.find(request_id), traces, named)
            self._solved(request_id)
        except LetheError as error:
            self._problem(request_id, str(error))

    def _remove(self, request: Request, traces: Traces, named: Mentioned | None) -> None:
        erases = request.kind == "erase"
        if "remembered" not in request.marks:
            if erases and traces.token is not None:
                self._places.remember(traces, now=self._clock())
            self._mark(request, "remembered")
        if "source" not in request.marks:
            done = Outcome("source", "not attempted", reason=LEAVES)
            if erases:
                now = self._clock()
                done = self._places.erase_source(traces, now=now, mentioned=named)
            self._mark_or_raise(request, "source", [done])
        if "vault" not in request.marks:
            done = Outcome("vault", "not attempted", reason=LEAVES)
            if erases:
                done = self._places.forget(traces)
            self._mark_or_raise(request, "vault", [done])

    # ------------------------------------------------------------------ all together

    def _together(self) -> None:
        """The rest, for everybody who came through the steps before.

        A store that cannot be purged now keeps requests open, but no model in use.
        """
        batch = [r for r in self._open() if "vault" in r.marks]
        if not batch:
            return
        try:
            self._places.compact(vault=any("history" not in r.marks for r in batch))
            self._purge(batch)
            starts = min(waits_until(request, self._params) for request in batch)
            if starts > self._clock():
                self._summary.waiting |= dict.fromkeys((r.request_id for r in batch), starts)
                return
            self._retrain(self._anew(batch))
            self._retire(self._anew(batch))
        except LetheError as error:
            for request in batch:
                self._problem(request.request_id, str(error))
            return
        self._prove([r for r in self._anew(batch) if {"history", "retired"} <= set(r.marks)])

    def _anew(self, batch: Iterable[Request]) -> list[Request]:
        return [self._requests.find(request.request_id) for request in batch]

    def _purge(self, batch: Sequence[Request]) -> None:
        waiting = [request for request in batch if "history" not in request.marks]
        tokens = self._tokens(waiting)
        done: list[Outcome] = []
        if tokens:
            serving = _named([r for r in batch if "retired" not in r.marks], "live")
            done = self._places.purge(tokens, serving=serving, retired=[])
        for request in waiting:
            self._mark_or_tell(request, "history", self._theirs(request, done, among=tokens))

    def _retrain(self, batch: Sequence[Request]) -> None:
        """One retraining for everybody whose models are in use and were not replaced yet."""
        waiting = [request for request in batch if "retrained" not in request.marks]
        training = Training(None)
        if _named(waiting, "live"):
            training = self._train(waiting)
        if training.version in _named(batch, "models"):
            raise RequestsOpen(
                f"the road ended with {training.version}, which somebody who asked is in. Look at "
                "`lethe run` and try again."
            )
        for request in waiting:
            became: dict[str, str | None] = {"replaced_by": None, "reason": None}
            if request.marks["found"].content["live"]:
                became = {"replaced_by": training.version, "reason": training.reason}
            self._mark(request, "retrained", more=dict(became))

    def _train(self, waiting: Sequence[Request]) -> Training:
        if self._params.erasure.retrain == "manual":
            return Training(None, "params.yaml leaves retraining to a person")
        cost = self._places.cost(self._tokens(waiting))
        if cost is not None:
            self._tell(f"Training without those who asked costs {cost}.")
        try:
            training = self._places.retrain()
        except LetheError as error:
            if self._clock() < min(request.due_at for request in waiting) - LAST_DAYS:
                raise
            training = Training(None, f"no retraining by the deadline: {error}")
        if training.version is None:
            why = str(training.reason).rstrip(".")
            self._tell(f"No new model: {why}. The models are withdrawn.")
        return training

    def _retire(self, batch: Sequence[Request]) -> None:
        waiting = [request for request in batch if "retired" not in request.marks]
        ended: dict[str, Outcome] = {}
        for request in waiting:
            for version, became in what_became(request).items():
                if version not in ended:
                    ended[version] = self._places.retire(version, **became, now=self._clock())
        done: list[Outcome] = []
        tokens = self._tokens(waiting)
        if ended:
            done = self._places.purge(tokens, serving=[], retired=list(ended))
        for request in waiting:
            own = request.marks["found"].content["models"]
            ends = [outcome for version, outcome in ended.items() if version in own]
            theirs = self._theirs(request, done, among=tokens)
            self._mark_or_tell(request, "retired", [*ends, *theirs])

    def _theirs(
        self, request: Request, done: Sequence[Outcome], *, among: Sequence[int]
    ) -> list[Outcome]:
        """Of what was done for several people at once, what was about this one."""
        if among == self._tokens([request]):
            return list(done)
        there = {each["store"]: each["count"] for each in request.marks["found"].content["stores"]}
        return [
            outcome
            if outcome.result == "not attempted" or there.get(outcome.store)
            else Outcome(outcome.store, "nothing found")
            for outcome in done
        ]

    # ------------------------------------------------------------------ proof

    def _prove(self, requests: Sequence[Request]) -> None:
        """Closes those for whom one fresh look, after everything was done, finds nothing."""
        if not requests:
            return
        try:
            looks = self._places.look([self._sought(request) for request in requests])
        except LetheError as error:
            for request in requests:
                self._problem(request.request_id, str(error))
            return
        for request, seen in zip(requests, looks, strict=True):
            try:
                self._close(request, seen)
            except LetheError as error:
                self._problem(request.request_id, str(error))

    def _sought(self, request: Request) -> Sought:
        models = request.marks["found"].content["models"]
        return Sought(self._traces(request), request.kind, tuple(models))

    def _close(self, request: Request, seen: Sequence[Outcome]) -> None:
        left = [outcome for outcome in seen if still_there(outcome)]
        if left:
            # Everything is done again: what was taken for gone came back, or never went.
            self._requests.unmark(request.request_id, "source", "vault", "history", "retired")
            told = in_words(left)
            # A place may be a file that somebody named after the person: not for a log.
            raise RequestsOpen(f"{told}. `lethe erase verify {request.request_id}` says where")
        now = self._clock()
        verified = {"stores": [outcome.to_data() for outcome in seen]}
        marks = {**request.marks, "verified": Mark(now, verified)}
        facts = receipt_facts(replace(request, marks=marks), closed_at=now)
        stored = self._requests.close(
            request.request_id,
            lambda number, previous: self._signer.sign(facts, number=number, previous=previous),
            verified=verified,
            now=now,
        )
        self._solved(request.request_id)
        self._summary.closed[request.request_id] = stored.number

    # ------------------------------------------------------------------ marks

    def _traces(self, request: Request) -> Traces:
        found = about(self._places, request)
        if not isinstance(found, Traces):
            raise ValueError("a request is looked up before anything else")
        return found

    def _tokens(self, requests: Iterable[Request]) -> list[int]:
        tokens = (self._traces(request).token for request in requests)
        return sorted({token for token in tokens if token is not None})

    def _mark(
        self,
        request: Request,
        step: str,
        outcomes: Sequence[Outcome] = (),
        more: dict[str, object] | None = None,
    ) -> None:
        content = {"stores": [outcome.to_data() for outcome in outcomes], **(more or {})}
        self._requests.mark(request.request_id, step, content, now=self._clock())

    def _mark_or_raise(self, request: Request, step: str, outcomes: Sequence[Outcome]) -> None:
        """Marks a step that was done everywhere; otherwise it is tried again next time."""
        failed = [o for o in outcomes if o.result == "not attempted" and o.reason != LEAVES]
        if failed:
            raise RequestsOpen(in_words(failed))
        self._mark(request, step, outcomes)

    def _mark_or_tell(self, request: Request, step: str, outcomes: Sequence[Outcome]) -> None:
        try:
            self._mark_or_raise(request, step, outcomes)
        except RequestsOpen as error:
            self._problem(request.request_id, str(error))

    def _problem(self, request_id: str, problem: str) -> None:
        self._requests.stays_open(request_id, problem)
        self._summary.problems[request_id] = problem

    def _solved(self, request_id: str) -> None:
        self._requests.stays_open(request_id, None)
        self._summary.problems.pop(request_id, None)


def _named(requests: Iterable[Request], what: str) -> list[str]:
    """The versions that the look-up of any of these requests named."""
    return sorted({each for request in requests for each in request.marks["found"].content[what]})
