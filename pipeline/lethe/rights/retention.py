"""retain: what is past its retention leaves the way an erased person does; nobody asks.

Once a day, step by step, each of which leaves its mark before the next begins: look → remember
the spend of people who leave whole → source → vault → make the shards anew → history →
replace → retire → verify → receipt. What a day finds is one request of its own in the table of
requests, with one receipt; what finds nothing leaves nothing.

A model in use that learned from such rows is no row. By default it stays until the road trains
the next one anyway, and the request waits for that: else a single row a day would spend
everybody's budget. See `params.LapsedModels`.
"""

import datetime as dt
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lethe.config.params import Params
from lethe.core.errors import LetheError, RetentionOpen
from lethe.core.outcomes import Outcome
from lethe.people.references import Lapse
from lethe.rights.deadlines import due
from lethe.rights.receipt_facts import in_words, outcome_from, receipt_facts, still_there
from lethe.rights.receipts import Signer
from lethe.rights.stores import LapsingPlaces
from lethe.stores.requests.requests import OPEN, RETENTION, Mark, Request, Requests
from lethe.stores.source.expire import Lapsed

IDLE = "rows that it was trained on passed their retention; it was not in use"


@dataclass
class Summary:
    """What a run came to, by request id."""

    undated: dict[str, int] = field(default_factory=dict)  # by table
    closed: dict[str, int] = field(default_factory=dict)  # → number of the receipt
    waiting: dict[str, str] = field(default_factory=dict)  # → for what
    problems: dict[str, str] = field(default_factory=dict)  # → why it is still open


class Retention:
    """Carries out what is past its time; `run` once, or again after anything.

    Guarantees: a request closes only after a fresh look found nothing of it in any store;
        no training is started, and nothing spent, unless `params.yaml` says `automatic`.
    """

    def __init__(
        self,
        params: Params,
        places: LapsingPlaces,
        requests: Requests,
        signer: Signer,
        *,
        clock: Callable[[], dt.datetime],
        tell: Callable[[str], None],
    ) -> None:
        self._models = params.erasure.retention
        self._places = places
        self._requests = requests
        self._signer = signer
        self._clock = clock
        self._tell = tell
        self._summary = Summary()

    def run(self) -> Summary:
        """Takes up what is past its time now, and goes on with what earlier runs took up.

        Raises:
            Busy: another process carries requests out.
            LetheError: the source cannot be looked through, or cannot lose the rows as declared.
        """
        with self._requests.alone():
            self._look()
            batch = self._open("vault")
            try:
                if batch:
                    self._together(batch)
            except LetheError as error:
                for request in batch:
                    self._problem(request, str(error))
        return self._summary

    def _open(self, step: str | None = None) -> list[Request]:
        found = [r for r in self._requests.all(state=OPEN) if r.kind == RETENTION]
        return [r for r in found if step is None or step in r.marks]

    # ------------------------------------------------------------------ what is past its time

    def _look(self) -> None:
        """One request for what is found today, or for what a run that ended had found."""
        now = self._clock()
        lapsed = self._places.lapsed(as_of=now)
        self._summary.undated = lapsed.undated
        begun = [request for request in self._open() if "vault" not in request.marks]
        if not begun and not lapsed:
            return
        for request in begun or [self._receive(now)]:
            try:
                self._begin(request, lapsed, now)
                self._requests.stays_open(request.request_id, None)
            except LetheError as error:
                self._problem(request, str(error))

    def _receive(self, now: dt.datetime) -> Request:
        request_id = secrets.token_hex(16)
        return self._requests.receive(
            request_id,
            kind=RETENTION,
            purpose=None,
            reference=secrets.token_bytes(32),  # like no other: nobody asks for it twice
            sealed=self._places.seal(Lapse().to_bytes(), about=request_id),
            received_at=now,
            due_at=due(now),
        )

    def _begin(self, request: Request, lapsed: Lapsed, now: dt.datetime) -> None:
        if "source" not in request.marks:
            request = self._found(request, lapsed, now)
            lapse = self._lapse(request)
            if "remembered" not in request.marks:
                for each in lapse.people:
                    self._places.remember(each, now=now)
                self._mark(request, "remembered")
            done = [self._places.erase_lapsed(lapsed, as_of=now, about=request.request_id)]
            where = self._places.mentioned(lapse.people) if lapse.people else {}
            done += [
                self._places.erase_source(each, now=now, mentioned=where.get(each.key))
                for each in lapse.people
            ]
            self._mark_or_raise(request, "source", done)
        if "vault" not in request.marks:
            people = self._lapse(request).people
            self._mark_or_raise(request, "vault", [self._places.forget(p) for p in people])

    def _found(self, request: Request, lapsed: Lapsed, now: dt.datetime) -> Request:
        """Notes whose rows are past, with what a run that ended may have deleted already."""
        known = self._lapse(request)
        lapse = known.joined(self._places.lapse(lapsed))
        if "found" in request.marks and lapse == known:
            return request
        self._requests.unmark(request.request_id, "remembered")
        self._requests.resolve(
            request.request_id,
            sealed=self._places.seal(lapse.to_bytes(), about=request.request_id),
            entry=None,
            found={
                "stores": [_there(request, lapsed).to_data()],
                "models": [],
                "live": [],
                "as_of": now.isoformat(),
                "people": len(lapse.people),
            },
            now=now,
        )
        return self._anew(request)

    # ------------------------------------------------------------------ all together

    def _together(self, batch: Sequence[Request]) -> None:
        self._places.compact(vault=any("remade" not in r.marks for r in batch))
        self._remake([request for request in batch if "remade" not in request.marks])
        self._purge([r for r in map(self._anew, batch) if "history" not in r.marks])
        seen = [r for r in map(self._anew, batch) if "history" in r.marks]
        self._replace([request for request in seen if "retrained" not in request.marks])
        self._retire([r for r in map(self._anew, seen) if "retrained" in r.marks])
        done = map(self._anew, seen)
        self._close([r for r in done if "retired" in r.marks or "seen" not in r.marks])

    def _remake(self, waiting: Sequence[Request]) -> None:
        """New shards, before the old ones go; only then is it known which models are older."""
        lapses = {request.request_id: self._lapse(request) for request in waiting}
        if any(lapse.tokens or lapse.people for lapse in lapses.values()):
            self._places.remake()
        for request in waiting:
            lapse = lapses[request.request_id]
            models = self._places.outdated(lapse) if lapse.tokens or lapse.people else []
            live = [version for version in self._places.in_use() if version in models]
            self._mark(request, "remade", more={"models": models, "live": live})

    def _purge(self, waiting: Sequence[Request]) -> None:
        """What DVC has of it, and the versions of it that are not in use."""
        now = self._clock()
        for request in waiting:
            models, live = _models(request)
            idle = [version for version in models if version not in live]
            done = [
                self._places.retire(version, replaced_by=None, reason=IDLE, now=now)
                for version in idle
            ]
            lapse = self._lapse(request)
            if lapse.tokens or lapse.people:
                done += self._places.purge_lapsed(lapse, retired=idle)
            self._mark_or_tell(request, "history", done)

    def _replace(self, waiting: Sequence[Request]) -> None:
        """What takes the place of models in use; one training at most, and only if declared."""
        serving = self._places.in_use()
        late: list[Request] = []
        for request in waiting:
            left = [version for version in _models(request)[1] if version in serving]
            if not left:
                models, live = _models(request)
                newer = next((v for v in serving if v not in models and _alike(v, live)), None)
                reason = None if newer or not live else "it is not in use any more"
                self._mark(request, "retrained", more={"replaced_by": newer, "reason": reason})
            elif self._models.retrain == "next_training":
                self._summary.waiting[request.request_id] = (
                    f"{', '.join(left)} stays until the road trains the next model"
                )
            elif (until := self._until(request)) > self._clock():
                self._summary.waiting[request.request_id] = (
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
        cost = self._places.cost([])
        if cost is not None:
            self._tell(f"Training without what is past its retention costs {cost}.")
        training = self._places.retrain()
        if training.version is None:
            self._tell(f"No new model: {training.reason}. The models are withdrawn.")
        for request in waiting:
            if training.version in _models(request)[0]:
                raise RetentionOpen(
                    f"The road ended with {training.version}, which learned from what is gone. "
                    "Look at `lethe run` and try again."
                )
            self._summary.waiting.pop(request.request_id, None)
            more: dict[str, Any] = {"replaced_by": training.version, "reason": training.reason}
            if "retrained" not in self._anew(request).marks:
                self._mark(request, "retrained", more=more)

    def _retire(self, batch: Iterable[Request]) -> None:
        for request in batch:
            if "retired" in request.marks:
                continue
            live = _models(request)[1]
            became = request.marks["retrained"].content
            done = [
                self._places.retire(
                    version,
                    replaced_by=became["replaced_by"],
                    reason=became["reason"],
                    now=self._clock(),
                )
                for version in live
            ]
            if live:
                done += self._places.purge_lapsed(self._lapse(request), retired=live)
            self._mark_or_tell(request, "retired", done)

    # ------------------------------------------------------------------ proof

    def _close(self, batch: Sequence[Request]) -> None:
        """One look for all: at what must be gone by now, and of models at what was retired."""
        if not batch:
            return
        lapse, ended = Lapse(), []
        for request in batch:
            own = self._lapse(request)
            if "seen" in request.marks:  # whoever left may be back, and may be
                own = Lapse(own.tokens | own.leaving)
            lapse = lapse.joined(own)
            models, live = _models(request)
            ended += [m for m in models if m not in live or "retired" in request.marks]
        as_of = max(_as_of(request) for request in batch)
        ids = [request.request_id for request in batch]
        seen = self._places.look_lapsed(lapse, as_of=as_of, about=ids, models=ended)
        if left := [outcome for outcome in seen if still_there(outcome)]:
            # What was taken for gone came back, or never went: it is done again.
            source = any(outcome.store == "source" for outcome in left)
            for request in batch:
                steps = ["history", "retired"]
                if "seen" not in request.marks:
                    steps += ["vault", *(["source"] if source else [])]
                self._requests.unmark(request.request_id, *steps)
            raise RetentionOpen(in_words(left))
        for request in batch:
            if "retired" in request.marks:
                self._receipt(request, seen)
            else:
                self._mark(request, "seen", seen)

    def _receipt(self, request: Request, seen: Sequence[Outcome]) -> None:
        now = self._clock()
        before = request.marks["seen"].content["stores"] if "seen" in request.marks else []
        verified = {"stores": [*before, *(outcome.to_data() for outcome in seen)]}
        models, live = _models(request)
        content = request.marks["found"].content
        found = Mark(request.marks["found"].at, {**content, "models": models, "live": live})
        marks = {**request.marks, "verified": Mark(now, verified), "found": found}
        facts = receipt_facts(replace(request, marks=marks), closed_at=now)
        facts["people"] = content["people"]
        stored = self._requests.close(
            request.request_id,
            lambda number, previous: self._signer.sign(facts, number=number, previous=previous),
            verified=verified,
            now=now,
        )
        self._summary.closed[request.request_id] = stored.number
        self._summary.waiting.pop(request.request_id, None)

    # ------------------------------------------------------------------ marks

    def _anew(self, request: Request) -> Request:
        return self._requests.find(request.request_id)

    def _lapse(self, request: Request) -> Lapse:
        if request.sealed is None:
            raise ValueError("an open request keeps what leads to its people")
        return Lapse.from_bytes(self._places.unseal(request.sealed, about=request.request_id))

    def _mark(
        self,
        request: Request,
        step: str,
        outcomes: Sequence[Outcome] = (),
        more: dict[str, Any] | None = None,
    ) -> None:
        content = {"stores": [outcome.to_data() for outcome in outcomes], **(more or {})}
        self._requests.mark(request.request_id, step, content, now=self._clock())

    def _mark_or_raise(self, request: Request, step: str, outcomes: Sequence[Outcome]) -> None:
        if failed := [outcome for outcome in outcomes if outcome.result == "not attempted"]:
            raise RetentionOpen(in_words(failed))
        self._mark(request, step, outcomes)

    def _mark_or_tell(self, request: Request, step: str, outcomes: Sequence[Outcome]) -> None:
        try:
            self._mark_or_raise(request, step, outcomes)
        except RetentionOpen as error:
            self._problem(request, str(error))

    def _problem(self, request: Request, problem: str) -> None:
        self._requests.stays_open(request.request_id, problem)
        self._summary.problems[request.request_id] = problem
        self._summary.waiting.pop(request.request_id, None)


def _models(request: Request) -> tuple[list[str], list[str]]:
    """Versions that learned from what is gone, and which of them were in use."""
    remade = request.marks["remade"].content
    return list(remade["models"]), list(remade["live"])


def _alike(version: str, others: Iterable[str]) -> bool:
    """Whether a version is one of the same model."""
    return version.rpartition("/")[0] in {other.rpartition("/")[0] for other in others}


def _there(request: Request, lapsed: Lapsed) -> Outcome:
    """What the source has past its time, with what a run before had found."""
    before = request.marks.get("found")
    known = outcome_from(before.content["stores"][0]) if before else Outcome("", "nothing found")
    count = sum([*lapsed.rows.values(), *lapsed.blanked.values(), len(lapsed.people)])
    count = max(count, known.count)
    places = tuple(sorted({*known.places, *lapsed.rows, *lapsed.blanked}))
    if not count:
        return Outcome("source", "nothing found")
    return Outcome("source", "not attempted", count, places, "past its retention")


def _as_of(request: Request) -> dt.datetime:
    return dt.datetime.fromisoformat(request.marks["found"].content["as_of"])
