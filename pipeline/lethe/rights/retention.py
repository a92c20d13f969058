"""retain: what is past its retention leaves the way an erased person does; nobody asks.

Once a day, step by step, each of which leaves its mark before the next begins: look → remember
the spend of people who leave whole → source → vault → make the shards anew → history →
replace → retire → verify → receipt. What a day finds is one request of its own in the table of
requests, with one receipt; what finds nothing leaves nothing.

A model in use that learned from such rows is no row. By default it stays until the pipeline trains
the next one anyway, and the request waits for that: else a single row a day would spend
everybody's budget. See `params.ExpiredModels`.
"""

import datetime as dt
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lethe.config.params import Params
from lethe.core.errors import LetheError, RetentionOpen
from lethe.core.outcomes import Outcome, Result
from lethe.people.references import Expiry
from lethe.rights.case import Case, CaseSummary
from lethe.rights.receipt_facts import in_words
from lethe.rights.receipts import Signer
from lethe.rights.right import EACH_STORE, Right, Step
from lethe.rights.services import RetentionServices
from lethe.stores.requests.requests import RETENTION, Mark, Request, Requests
from lethe.stores.source.expire import ExpiredRows
from lethe.stores.store import Ending, Person, Store

IDLE = "rows that it was trained on passed their retention; it was not in use"


@dataclass
class RetentionSummary(CaseSummary):
    """What a run came to, by request id."""

    undated: dict[str, int] = field(default_factory=dict)  # by table
    waiting: dict[str, str] = field(default_factory=dict)  # → for what


class RetentionCase(Case[RetentionServices, RetentionSummary]):
    """Carries out what is past its time; `run` once, or again after anything.

    Guarantees: a request closes only after a fresh look found nothing of it in any store;
        no training is started, and nothing spent, unless `params.yaml` says `automatic`.
    """

    still_open = RetentionOpen

    def __init__(
        self,
        params: Params,
        services: RetentionServices,
        requests: Requests,
        signer: Signer,
        *,
        clock: Callable[[], dt.datetime],
        report: Callable[[str], None],
    ) -> None:
        summary = RetentionSummary()
        super().__init__([RETAIN], services, requests, signer, summary, clock=clock, report=report)
        self._models = params.erasure.retention
        self._expired = ExpiredRows()
        self._now = clock()

    def run(self) -> RetentionSummary:
        """Takes up what is past its time now, and goes on with what earlier runs took up.

        Raises:
            Busy: another process carries requests out.
            LetheError: the source cannot be looked through, or cannot lose the rows as declared.
        """
        with self.requests.alone():
            self._look()
            batch = [r for r in self.open() if self.has_come_to(REMADE.name, r)]
            try:
                if batch:
                    self._together(batch)
            except LetheError as error:
                for request in batch:
                    self.problem(request, str(error))
        return self.summary

    # ------------------------------------------------------------------ what is past its time

    def _look(self) -> None:
        """One request for what is found today, or for what a run that ended had found."""
        self._now = self.clock()
        self._expired = self.services.expired(as_of=self._now)
        self.summary.undated = self._expired.undated
        begun = [r for r in self.open() if not self.has_come_to(REMADE.name, r)]
        if not begun and not self._expired:
            return
        steps = self.steps()
        for request in begun or [self._receive()]:
            try:
                self._find(request)
                self.carry([request], steps[: steps.index(REMADE)])
            except LetheError as error:
                self.problem(request, str(error))
            else:
                self.solved(request)

    def _receive(self) -> Request:
        request_id = secrets.token_hex(16)
        return self.requests.receive(
            request_id,
            kind=RETENTION,
            purpose=None,
            reference=secrets.token_bytes(32),  # like no other: nobody asks for it twice
            encrypted=self.services.encrypt(Expiry().to_bytes(), about=request_id),
            received_at=self._now,
            due_at=RETAIN.deadline(self._now),
        )

    def _find(self, request: Request) -> None:
        """Notes whose rows are past, with what a run that ended may have deleted already."""
        if self.services.rows.name in request.marks:
            return  # what comes up from now on is the next request's
        known = self._expiry(request)
        expiry = known.joined(self.services.expiry(self._expired))
        if "found" in request.marks and expiry == known:
            return
        self.requests.unmark(request.request_id, "remembered")
        self.requests.resolve(
            request.request_id,
            encrypted=self.services.encrypt(expiry.to_bytes(), about=request.request_id),
            entry=None,
            found={
                "stores": [_there(request, self._expired).to_data()],
                "models": [],
                "live": [],
                "as_of": self._now.isoformat(),
                "people": len(expiry.people),
            },
            now=self._now,
        )

    def remember(self, batch: Sequence[Request]) -> None:
        for request in batch:
            for each in self._expiry(request).people:
                self.services.remember(each, now=self._now)
            self.mark(request, "remembered")

    def forget(self, store: Store, batch: Sequence[Request]) -> None:
        """Takes rows past their time, and people who leave whole, out of one store."""
        for request in batch:
            done: list[Outcome] = []
            if store is self.services.rows:
                done.append(
                    self.services.erase_expired(
                        self._expired, as_of=self._now, about=request.request_id
                    )
                )
            people = [Person(each) for each in self._expiry(request).people]
            for theirs in store.forget(people) if people else ():
                done += theirs
            self.mark_or_raise(request, store.name, done)

    def _anew(self, request: Request) -> Request:
        return self.requests.find(request.request_id)

    # ------------------------------------------------------------------ all together

    def _together(self, batch: Sequence[Request]) -> None:
        self.overwrite(forgotten=any("remade" not in r.marks for r in batch))
        steps = self.steps()
        self.carry(batch, steps[steps.index(REMADE) :])
        seen = [r for r in self.anew(batch) if "history" in r.marks]
        self._prove([r for r in seen if "retired" in r.marks or "seen" not in r.marks])

    def remake(self, waiting: Sequence[Request]) -> None:
        """New shards, before the old ones go; only then is it known which models are older."""
        expiries = {request.request_id: self._expiry(request) for request in waiting}
        if any(expiry.tokens or expiry.people for expiry in expiries.values()):
            self.services.remake()
        for request in waiting:
            expiry = expiries[request.request_id]
            models = self.services.outdated(expiry) if expiry.tokens or expiry.people else []
            live = [version for version in self.services.in_use() if version in models]
            self.mark(request, "remade", more={"models": models, "live": live})

    def purge(self, waiting: Sequence[Request]) -> None:
        """What DVC has of it, and the versions of it that are not in use."""
        for request in waiting:
            models, live = _models(request)
            idle = [version for version in models if version not in live]
            done = [self.services.end(version, Ending(reason=IDLE)) for version in idle]
            expiry = self._expiry(request)
            if expiry.tokens or expiry.people:
                done += self.services.purge_expired(expiry, retired=idle)
            self.mark_or_report(request, "history", done)

    def replace_models(self, waiting: Sequence[Request]) -> None:
        """What takes the place of models in use; one training at most, and only if declared."""
        serving = self.services.in_use()
        late: list[Request] = []
        for request in waiting:
            left = [version for version in _models(request)[1] if version in serving]
            if not left:
                models, live = _models(request)
                newer = next((v for v in serving if v not in models and _alike(v, live)), None)
                reason = None if newer or not live else "it is not in use any more"
                self.mark(request, "retrained", more={"replaced_by": newer, "reason": reason})
            elif self._models.retrain == "next_training":
                self.summary.waiting[request.request_id] = (
                    f"{', '.join(left)} stays until the pipeline trains the next model"
                )
            elif (until := self._until(request)) > self.clock():
                self.summary.waiting[request.request_id] = (
                    f"{', '.join(left)} is replaced from {until:%Y-%m-%d}, or by a training before"
                )
            else:
                late.append(request)
        if late:
            self._train(waiting)

    def _until(self, request: Request) -> dt.datetime:
        return request.received_at + dt.timedelta(days=self._models.delay_days)

    def _train(self, waiting: Sequence[Request]) -> None:
        """One training for all that wait, those that could wait longer too."""
        cost = self.services.cost([])
        if cost is not None:
            self.report(f"Training without what is past its retention costs {cost}.")
        training = self.services.retrain()
        if training.version is None:
            self.report(f"No new model: {training.reason}. The models are retired.")
        for request in waiting:
            if training.version in _models(request)[0]:
                raise RetentionOpen(
                    f"The pipeline ended with {training.version}, which learned from what is gone. "
                    "Look at `lethe run` and try again."
                )
            self.summary.waiting.pop(request.request_id, None)
            more: dict[str, Any] = {"replaced_by": training.version, "reason": training.reason}
            if "retrained" not in self._anew(request).marks:
                self.mark(request, "retrained", more=more)

    def retire(self, batch: Sequence[Request]) -> None:
        for request in batch:
            live = _models(request)[1]
            became = request.marks["retrained"].content
            ending = Ending(became["replaced_by"], became["reason"])
            done = [self.services.end(version, ending) for version in live]
            if live:
                done += self.services.purge_expired(self._expiry(request), retired=live)
            self.mark_or_report(request, "retired", done)

    # ------------------------------------------------------------------ proof

    def _prove(self, batch: Sequence[Request]) -> None:
        """One look for all: at what must be gone by now, and of models at what was retired."""
        if not batch:
            return
        expiry, ended = Expiry(), []
        for request in batch:
            own = self._expiry(request)
            if "seen" in request.marks:  # whoever left may be back, and may be
                own = Expiry(own.tokens | own.leaving)
            expiry = expiry.joined(own)
            models, live = _models(request)
            ended += [m for m in models if m not in live or "retired" in request.marks]
        as_of = max(_as_of(request) for request in batch)
        ids = [request.request_id for request in batch]
        seen = self.services.look_expired(expiry, as_of=as_of, about=ids, models=ended)
        if left := [outcome for outcome in seen if outcome.still_there]:
            self._do_again(batch, left)
            raise RetentionOpen(in_words(left))
        for request in batch:
            if "retired" in request.marks:
                self._receipt(request, seen)
            else:
                self.mark(request, "seen", seen)

    def _do_again(self, batch: Sequence[Request], left: Sequence[Outcome]) -> None:
        """What was taken for gone came back, or never went: it is done again."""
        people = [step.name for step in self.store_steps()]
        if not any(outcome.store == self.services.rows.name for outcome in left):
            people.remove(self.services.rows.name)
        for request in batch:
            steps = ["history", "retired", *([] if "seen" in request.marks else people)]
            self.requests.unmark(request.request_id, *steps)

    def _receipt(self, request: Request, seen: Sequence[Outcome]) -> None:
        before = request.marks["seen"].content["stores"] if "seen" in request.marks else []
        models, live = _models(request)
        content = request.marks["found"].content
        found = Mark(request.marks["found"].at, {**content, "models": models, "live": live})
        whole = replace(request, marks={**request.marks, "found": found})
        looks = [*map(Outcome.from_data, before), *seen]
        self.sign(whole, looks, at=self.clock(), more={"people": content["people"]})
        self.summary.waiting.pop(request.request_id, None)

    def problem(self, request: Request, problem: str) -> None:
        super().problem(request, problem)
        self.summary.waiting.pop(request.request_id, None)

    def _expiry(self, request: Request) -> Expiry:
        if request.encrypted is None:
            raise ValueError("an open request keeps what leads to its people")
        return Expiry.from_bytes(self.services.decrypt(request.encrypted, about=request.request_id))


REMADE = Step("remade", RetentionCase.remake)
RETAIN = Right(
    RETENTION,
    "to be taken out, its retention being over",
    "erased",
    (
        Step("remembered", RetentionCase.remember),  # after "found", which every day joins anew
        EACH_STORE,
        REMADE,
        Step("history", RetentionCase.purge),
        Step("retrained", RetentionCase.replace_models),
        Step("retired", RetentionCase.retire),
    ),
)


def _models(request: Request) -> tuple[list[str], list[str]]:
    """Versions that learned from what is gone, and which of them were in use."""
    remade = request.marks["remade"].content
    return list(remade["models"]), list(remade["live"])


def _alike(version: str, others: Iterable[str]) -> bool:
    """Whether a version is one of the same model."""
    return version.rpartition("/")[0] in {other.rpartition("/")[0] for other in others}


def _there(request: Request, expired: ExpiredRows) -> Outcome:
    """What the source has past its time, with what a run before had found."""
    before = request.marks.get("found")
    known = Outcome.from_data(before.content["stores"][0]) if before else None
    count = sum([*expired.rows.values(), *expired.blanked.values(), len(expired.people)])
    places = {*expired.rows, *expired.blanked}
    if known is not None:
        count, places = max(count, known.count), {*places, *known.places}
    if not count:
        return Outcome("source", Result.ABSENT)
    return Outcome("source", Result.PRESENT, count, tuple(sorted(places)), "past its retention")


def _as_of(request: Request) -> dt.datetime:
    return dt.datetime.fromisoformat(request.marks["found"].content["as_of"])
