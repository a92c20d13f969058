"""erase, withdraw, object: takes everybody who asked out of every store, and proves it.

The steps: look up → suppress → remember the spend → each store of people → overwrite what
they deleted → find the models → history → retrain → retire → verify → receipt;
`lethe.rights.case` says how they resume. What has to be looked through is looked through for all
at once; up to the last store of people everybody is alone; then all open requests are one batch,
with one retraining. Requests that come in meanwhile join it until the retraining begins.

Whoever is unknown takes the same steps and is answered with the rest of the batch: when an answer
comes must not say who is known. So receipts wait for the last of a batch to leave; nobody's data
does, since who has very much leaves only once the others are out of every store of people. The
retraining waits as well: it reads the source, and would learn texts that name who is still there.

A store that does not answer holds up its own step alone. Only what needs its answer waits: without
the registry nobody knows which models to replace, so none is trained; people leave the source,
the vault and the shards all the same. No request closes before every step is done.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lethe.config.params import Params
from lethe.core.errors import LetheError, RequestsOpen
from lethe.core.outcomes import Outcome, Result
from lethe.people.suppression import concerns
from lethe.rights.case import VERIFIED, Case, CaseSummary, found_in
from lethe.rights.lookup import LookUp
from lethe.rights.receipt_facts import versions_of, what_became
from lethe.rights.receipts import Signer
from lethe.rights.right import EACH_STORE, Right, Step
from lethe.rights.services import ErasureServices, Retraining, RetrainingCost
from lethe.stores.requests.requests import Request, Requests
from lethe.stores.store import Holds, Person

_NOT_APART = "of all who asked at once: it did not answer when each was looked for"
MANY = 10_000  # rows of one person: about a second
LAST_DAYS = dt.timedelta(days=3)  # before a deadline no model waits for a retraining any more


@dataclass
class ErasureSummary(CaseSummary):
    """What a run came to, by request id."""

    joined: dict[str, str] = field(default_factory=dict)  # → the request that answers it
    waiting: dict[str, dt.datetime] = field(default_factory=dict)  # → until when


class ErasureCase(Case[ErasureServices, ErasureSummary]):
    """Works on the open requests of people; `run` once, or again after anything."""

    people_lag = True

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
            while fresh := self._untried(tried):
                large: list[Request] = []
                while fresh or large:  # who comes in meanwhile joins them
                    large += self._begin(fresh)
                    fresh = self._untried(tried)
                    if large and not fresh:
                        self.carry(large, self.store_steps())
                        large, fresh = [], self._untried(tried)
                self._together()
        return self.summary

    def _untried(self, tried: set[str]) -> list[Request]:
        """Those that came in since, which count as tried from now on."""
        found = [r for r in self.open() if r.request_id not in tried]
        tried |= {each.request_id for each in found}
        return found

    def _begin(self, fresh: Sequence[Request]) -> list[Request]:
        """Finds these and takes them out of the stores of people, but for those with very much.

        Returns:
            Those, who are found and wait.
        """
        for request in fresh:
            self.solved(request)  # what a run before found is found out anew
        # All are found before any is erased: two requests may be one person's.
        self.carry(fresh, BEFORE)
        known = self.anew(fresh)
        large = [request for request in known if self.has_much(request)]
        self.carry([request for request in known if request not in large], self.store_steps())
        return large

    def has_much(self, request: Request) -> bool:
        people = (store.name for store in self.services.stores if store.holds is Holds.PEOPLE)
        return any(found_in(name, request) > MANY for name in people)

    def open(self) -> list[Request]:
        return [r for r in super().open() if concerns(r, self._params)]

    def through(self) -> list[Request]:
        """Everybody who came through the steps in which each is alone."""
        return [r for r in self.open() if self.has_come_to(OVERWRITTEN.name, r)]

    def done(self) -> list[Request]:
        """Everybody for whom every step is done."""
        steps = {step.name for step in self.steps()}
        return [request for request in self.through() if steps <= set(request.marks)]

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
        went = self.as_one(self.through(), [OVERWRITTEN, MODELS, HISTORY])
        if went and self.as_one(self.ready(), [RETRAINED, RETIRED]):
            self.prove(self.done())

    def as_one(self, batch: Sequence[Request], steps: Sequence[Step]) -> bool:
        """Takes these through some steps together; whether nothing stood in the way of all."""
        try:
            self.carry(batch, steps)
        except LetheError as error:
            for request in batch:
                self.problem(request, str(error))
            return False
        return True

    def ready(self) -> list[Request]:
        """Everybody whose models are known, once the first of them need wait no longer."""
        batch = self.through()
        starts = min((waits_until(r, self._params) for r in batch), default=self.clock())
        if starts > self.clock():
            self.summary.waiting |= dict.fromkeys((r.request_id for r in batch), starts)
            return []
        return [request for request in batch if MODELS.name in request.marks]

    def overwrite_deleted(self, waiting: Sequence[Request]) -> None:
        """What is left of their rows in files of databases."""
        failed: list[str] = []
        for store in self.services.stores:
            try:
                store.overwrite(forgotten=True)
            except LetheError as error:
                failed.append(str(error))
        for request in waiting:
            for each in failed:
                self.problem(request, each)
            done = {step.name for step in self.store_steps()} <= set(request.marks)
            if done and not failed:  # else there is more to come that must be overwritten
                self.mark(request, OVERWRITTEN.name)

    def find_models(self, waiting: Sequence[Request]) -> None:
        """Which versions learned from them, and which of those are in use."""
        try:
            found = self.services.models_of([self.traces(request) for request in waiting])
        except LetheError as error:
            for request in waiting:
                self.problem(request, str(error))
            return
        for request, (models, live) in zip(waiting, found, strict=True):
            before, used = versions_of(request)  # of a request that version 0.1 looked up
            content = {
                "models": [*before, *(each for each in models if each not in before)],
                "live": [*used, *(each for each in live if each not in before)],
            }
            self.mark(request, MODELS.name, more=content)

    def purge(self, waiting: Sequence[Request]) -> None:
        """Takes everybody out of every store of copies."""
        others = [r for r in self.through() if "retired" not in r.marks]
        serving = tuple(in_use(others)) if all(MODELS.name in r.marks for r in others) else None
        people = [replace(self.person(r), serving=serving) for r in waiting]
        done = self._forget_copies(waiting, people)
        for request, outcomes in zip(waiting, done, strict=True):
            self.mark_or_report(request, "history", outcomes)

    def _forget_copies(
        self, requests: Sequence[Request], people: Sequence[Person]
    ) -> list[list[Outcome]]:
        found: list[list[Outcome]] = [[] for _ in requests]
        tokens = {person.traces.token for person in people} - {None}
        failed: LetheError | None = None
        for store in self.services.stores:
            if store.holds is not Holds.COPIES:
                continue
            try:
                for n, done in enumerate(store.forget(people)):
                    alone = {people[n].traces.token} - {None} == tokens
                    found[n] += done if alone else _theirs(requests[n], done)
            except LetheError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return found

    def retrain(self, waiting: Sequence[Request]) -> None:
        """One retraining for everybody whose models are in use and were not replaced yet."""
        training = Retraining(None)
        if in_use(waiting):
            training = self._train(waiting)
        if training.version in {v for r in self.through() for v in versions_of(r)[0]}:
            raise RequestsOpen(
                f"the pipeline ended with {training.version}, which somebody who asked is in. "
                "Look at `lethe run` and try again."
            )
        for request in waiting:
            became: dict[str, str | None] = {"replaced_by": None, "reason": None}
            if versions_of(request)[1]:
                became = {"replaced_by": training.version, "reason": training.reason}
            self.mark(request, "retrained", more=became)

    def _train(self, waiting: Sequence[Request]) -> Retraining:
        if self._params.erasure.retrain == "manual":
            return Retraining(None, "params.yaml leaves retraining to a person")
        cost = self.cost_of(waiting)
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

    def cost_of(self, requests: Iterable[Request]) -> RetrainingCost | None:
        """What training without these people would cost; None before anything was trained."""
        tokens = (self.traces(request).token for request in requests)
        return self.services.cost(sorted({token for token in tokens if token is not None}))

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

    def do_again(self, request: Request, left: Sequence[Outcome]) -> None:
        """Models are looked up and replaced anew only where one was registered since.

        The versions that were ended before stay known, for the receipt.
        """
        stores = self.services.stores
        steps = [store.name for store in stores if store.holds is Holds.PEOPLE]
        steps += [OVERWRITTEN.name, HISTORY.name, RETIRED.name, VERIFIED]
        models, live = versions_of(request)
        registries = {store.name for store in stores if store.holds is Holds.MODELS}
        seen = {place for each in left if each.store in registries for place in each.places}
        if not seen <= set(models):
            found = request.marks["found"]
            known = {**found.content, "models": models, "live": live}
            self.requests.mark(request.request_id, "found", known, now=found.at)
            steps += [MODELS.name, RETRAINED.name]
        self.requests.unmark(request.request_id, *steps)


OVERWRITTEN = Step("overwritten", ErasureCase.overwrite_deleted, lags=True)
MODELS = Step("models", ErasureCase.find_models, lags=True)
HISTORY = Step("history", ErasureCase.purge, lags=True)
RETRAINED = Step("retrained", ErasureCase.retrain)
RETIRED = Step("retired", ErasureCase.retire)
_STEPS = (
    Step("found", ErasureCase.find),
    Step("suppressed", ErasureCase.suppress),
    Step("remembered", ErasureCase.remember),
    EACH_STORE,
    OVERWRITTEN,
    MODELS,
    HISTORY,
    RETRAINED,
    RETIRED,
)
BEFORE = _STEPS[: _STEPS.index(EACH_STORE)]  # these find people and erase nothing
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
    looked = [Outcome.from_data(each) for each in request.marks["found"].content["stores"]]
    there = {each.store for each in looked if each.count}
    known = {each.store for each in looked if each.result != Result.UNREACHABLE}
    return [
        outcome
        if outcome.result != Result.ERASED or outcome.store in there
        else Outcome(outcome.store, Result.ABSENT)
        if outcome.store in known
        else replace(outcome, reason=_NOT_APART)
        for outcome in done
    ]


def in_use(requests: Iterable[Request]) -> list[str]:
    """The versions in use that learned from anybody of these."""
    return sorted({each for request in requests for each in versions_of(request)[1]})
