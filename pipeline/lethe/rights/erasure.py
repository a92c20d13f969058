"""erase, withdraw, object: takes everybody who asked out of every store, and proves it.

The steps: look up → suppress → remember the spend → each store of people → history →
retrain → retire → verify → receipt; `lethe.rights.case` says how they resume. What has to be looked
through is looked through for all at once; up to the last store of people everybody is alone; then
all open requests are one batch, with one retraining. Requests that come in meanwhile join it
until the retraining begins.

Whoever is unknown takes the same steps and is answered with the rest of the batch.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lethe.config.params import Params
from lethe.core.errors import LetheError, RequestsOpen
from lethe.core.outcomes import Outcome, Result
from lethe.people.suppression import concerns
from lethe.rights.case import Case, CaseSummary
from lethe.rights.lookup import LookUp
from lethe.rights.receipt_facts import what_became
from lethe.rights.receipts import Signer
from lethe.rights.right import EACH_STORE, Right, Step
from lethe.rights.services import ErasureServices, Retraining
from lethe.stores.requests.requests import Request, Requests
from lethe.stores.store import Holds, Person

LAST_DAYS = dt.timedelta(days=3)  # before a deadline no model waits for a retraining any more


@dataclass
class ErasureSummary(CaseSummary):
    """What a run came to, by request id."""

    joined: dict[str, str] = field(default_factory=dict)  # → the request that answers it
    waiting: dict[str, dt.datetime] = field(default_factory=dict)  # → until when


class Erasure(Case[ErasureServices, ErasureSummary]):
    """Works on the open requests of people; `run` once, or again after anything."""

    def __init__(
        self,
        params: Params,
        services: ErasureServices,
        requests: Requests,
        signer: Signer,
        *,
        clock: Callable[[], dt.datetime],
        report: Callable[[str], None],
    ) -> None:
        rights = list(ASKED.values())
        summary = ErasureSummary()
        super().__init__(rights, services, requests, signer, summary, clock=clock, report=report)
        self._params = params
        self._look_up = LookUp(services, requests, ASKED, clock=clock)

    def run(self) -> ErasureSummary:
        """Drains the open requests, those that come in meanwhile too.

        Raises:
            Busy: another process works on them.
        """
        with self.requests.alone():
            tried: set[str] = set()
            while fresh := [r for r in self.open() if r.request_id not in tried]:
                while fresh:  # who comes in while others are looked up joins them
                    tried |= {each.request_id for each in fresh}
                    # All are found before any is erased: two requests may be one person's.
                    self.carry(fresh, self._alone())
                    fresh = [r for r in self.open() if r.request_id not in tried]
                self._together()
        return self.summary

    def open(self) -> list[Request]:
        return [r for r in super().open() if concerns(r, self._params)]

    def _alone(self) -> list[Step]:
        """The steps in which everybody is alone."""
        steps = self.steps()
        return steps[: steps.index(HISTORY)]

    def _through(self) -> list[Request]:
        """Everybody who came through those."""
        return [r for r in self.open() if self.has_come_to(HISTORY.name, r)]

    # ------------------------------------------------------------------ one by one

    def find(self, requests: Sequence[Request]) -> None:
        """Who they are. One look for all; for fewer, if somebody stands in its way."""
        try:
            known = self._look_up.who(requests)
        except LetheError as error:
            if len(requests) == 1:
                self.problem(requests[0], str(error))
                return
            half = len(requests) // 2
            self.find(requests[:half])
            self.find(self.anew(requests[half:]))
            return
        self.summary.problems |= known.ambiguous
        self.summary.joined |= known.joined

    def suppress(self, requests: Sequence[Request]) -> None:
        for request in requests:
            try:
                entry = self.services.entry(self.traces(request).key, purpose=request.purpose)
                self.services.suppress(entry, since=request.received_at)
                self.mark(request, "suppressed")
            except LetheError as error:
                self.problem(request, str(error))

    def remember(self, requests: Sequence[Request]) -> None:
        for request in requests:
            person = self.person(request)
            try:
                if not person.keeps_records and person.traces.token is not None:
                    self.services.remember(person.traces, now=self.clock())
                self.mark(request, "remembered")
            except LetheError as error:
                self.problem(request, str(error))

    # ------------------------------------------------------------------ all together

    def _together(self) -> None:
        """The rest, for everybody who came through the steps before.

        A store that cannot be purged now keeps requests open, but no model in use.
        """
        batch = self._through()
        if not batch:
            return
        for request in batch:
            self.solved(request)
        try:
            self.overwrite(forgotten=any("history" not in r.marks for r in batch))
            self.carry(batch, [HISTORY])
            starts = min(waits_until(request, self._params) for request in batch)
            if starts > self.clock():
                self.summary.waiting |= dict.fromkeys((r.request_id for r in batch), starts)
                return
            self.carry(batch, [RETRAINED, RETIRED])
        except LetheError as error:
            for request in batch:
                self.problem(request, str(error))
            return
        self.prove([r for r in self.anew(batch) if {"history", "retired"} <= set(r.marks)])

    def purge(self, waiting: Sequence[Request]) -> None:
        """Takes everybody out of every store of copies."""
        serving = _named([r for r in self._through() if "retired" not in r.marks], "live")
        people = [replace(self.person(r), serving=tuple(serving)) for r in waiting]
        done = self._forget_copies(waiting, people)
        for request, outcomes in zip(waiting, done, strict=True):
            self.mark_or_report(request, "history", outcomes)

    def _forget_copies(
        self, requests: Sequence[Request], people: Sequence[Person]
    ) -> list[list[Outcome]]:
        found: list[list[Outcome]] = [[] for _ in requests]
        tokens = {person.traces.token for person in people} - {None}
        for store in self.services.stores:
            if store.holds is Holds.COPIES:
                answers = store.forget(people)
                for n, done in enumerate(answers):
                    alone = {people[n].traces.token} - {None} == tokens
                    found[n] += done if alone else _theirs(requests[n], done)
        return found

    def retrain(self, waiting: Sequence[Request]) -> None:
        """One retraining for everybody whose models are in use and were not replaced yet."""
        training = Retraining(None)
        if _named(waiting, "live"):
            training = self._train(waiting)
        if training.version in _named(self._through(), "models"):
            raise RequestsOpen(
                f"the pipeline ended with {training.version}, which somebody who asked is in. "
                "Look at `lethe run` and try again."
            )
        for request in waiting:
            became: dict[str, str | None] = {"replaced_by": None, "reason": None}
            if request.marks["found"].content["live"]:
                became = {"replaced_by": training.version, "reason": training.reason}
            self.mark(request, "retrained", more=became)

    def _train(self, waiting: Sequence[Request]) -> Retraining:
        if self._params.erasure.retrain == "manual":
            return Retraining(None, "params.yaml leaves retraining to a person")
        cost = self.services.cost(self._tokens(waiting))
        if cost is not None:
            self.report(f"Training without those who asked costs {cost}.")
        try:
            training = self.services.retrain()
        except LetheError as error:
            if self.clock() < min(request.due_at for request in waiting) - LAST_DAYS:
                raise
            training = Retraining(None, f"no retraining by the deadline: {error}")
        if training.version is None:
            why = str(training.reason).rstrip(".")
            self.report(f"No new model: {why}. The models are retired.")
        return training

    def _tokens(self, requests: Iterable[Request]) -> list[int]:
        tokens = (self.traces(request).token for request in requests)
        return sorted({token for token in tokens if token is not None})

    def retire(self, waiting: Sequence[Request]) -> None:
        """Ends the models that learned from them, then takes out what the models leave."""
        people = [replace(self.person(r), ended=what_became(r)) for r in waiting]
        ends: list[list[Outcome]] = [[] for _ in waiting]
        if any(person.ended for person in people):
            for store in self.services.stores:
                if store.holds is Holds.MODELS:
                    for theirs, done in zip(ends, store.forget(people), strict=True):
                        theirs += done
            left = self._forget_copies(waiting, people)
            for theirs, done in zip(ends, left, strict=True):
                theirs += done
        for request, outcomes in zip(waiting, ends, strict=True):
            self.mark_or_report(request, "retired", outcomes)

    def done_again(self) -> list[str]:
        people = [s.name for s in self.services.stores if s.holds is Holds.PEOPLE]
        return [*people, "history", "retired"]


HISTORY = Step("history", Erasure.purge, lags=True)
RETRAINED = Step("retrained", Erasure.retrain)
RETIRED = Step("retired", Erasure.retire)
_STEPS = (
    Step("found", Erasure.find),
    Step("suppressed", Erasure.suppress),
    Step("remembered", Erasure.remember),
    EACH_STORE,
    HISTORY,
    RETRAINED,
    RETIRED,
)
ERASE = Right("erase", "to be erased", "erased", _STEPS)
WITHDRAW = Right(
    "withdraw", "to withdraw consent", "left out of training", _STEPS, keeps_records=True
)
OBJECT = Right("object", "to object to the use", "left out of training", _STEPS, keeps_records=True)
ASKED: Mapping[str, Right] = {right.kind: right for right in (ERASE, WITHDRAW, OBJECT)}


def waits_until(request: Request, params: Params) -> dt.datetime:
    """When the retraining that ends a request may start; others join it until then."""
    return request.received_at + dt.timedelta(days=params.erasure.delay_days)


def _theirs(request: Request, done: Sequence[Outcome]) -> list[Outcome]:
    """Of what was done for several people at once, what was about this one."""
    there = {each["store"]: each["count"] for each in request.marks["found"].content["stores"]}
    return [
        outcome
        if outcome.result != Result.ERASED or there.get(outcome.store)
        else Outcome(outcome.store, Result.ABSENT)
        for outcome in done
    ]


def _named(requests: Iterable[Request], what: str) -> list[str]:
    """The versions that the look-up of any of these requests named."""
    return sorted({each for request in requests for each in request.marks["found"].content[what]})
