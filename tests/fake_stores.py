"""Stores of an erasure in memory: a handful of people, and every way of failing."""

import datetime as dt
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from lethe.core.errors import LetheError
from lethe.core.outcomes import Outcome, Result, Traces
from lethe.people.references import Reference
from lethe.rights.services import Retraining, RetrainingCost
from lethe.stores.store import Held, Holds, Person, Store

NAME = "reading"
KEPT = ({"table": "invoices", "basis": "tax law", "until": "2036-01-01", "count": 2},)


class Killed(BaseException):
    """Stands for kill -9: nothing of the code under test may catch it."""


class FakeWorkspace:
    """Ada and Bo are in the model in use, Cleo in an older one alone, Dan in data alone."""

    def __init__(self) -> None:
        self.emails = {
            "ada": "ada@example.org",
            "bo": "bo@example.org",
            "cleo": "cleo@example.org",
            "dan": "dan@example.org",
            "twin": "bo@example.org ",
        }
        self.source = {"ada", "bo", "cleo", "dan", "twin"}
        self.rows: dict[str, int] = {}  # of who has more than one
        self.vault = {"ada": 1, "bo": 2, "cleo": 3, "dan": 4}
        self.data = {1, 2, 3, 4, 5}
        self.trained: dict[str, set[int]] = {f"{NAME}/1": {3, 5}, f"{NAME}/2": {1, 2, 5}}
        self.in_use = {f"{NAME}/2"}
        self.files = {f"{NAME}/1", f"{NAME}/2"}
        self.suppressed: dict[bytes, dt.datetime] = {}
        self.remembered: set[str] = set()
        self.trainings = 0
        self.refuses: str | None = None  # why no model can be trained
        self.fails: dict[str, LetheError] = {}  # by method
        self.remote: str | None = None  # why the remote does not answer
        self.before: Callable[[str], None] = lambda deed: None
        self.after: Callable[[str], None] = lambda deed: None
        self.deeds: list[str] = []
        self.stores: list[Store] = [Source(self), Vault(self), Data(self), Models(self)]

    def do(self, deed: str) -> None:
        self.before(deed)
        if deed in self.fails:
            raise self.fails[deed]
        self.deeds.append(deed)

    def encrypt(self, content: bytes, *, about: str) -> bytes:
        return json.dumps([about, content.hex()]).encode()

    def decrypt(self, encrypted: bytes, *, about: str) -> bytes:
        owner, content = json.loads(encrypted)
        if owner != about:
            raise ValueError("encrypted for another request")
        return bytes.fromhex(content)

    def people(self, references: Sequence[Reference]) -> list[list[str]]:
        self.do("people")
        return [
            [each.value]
            if each.column is None
            else [k for k in sorted(self.source) if self.emails[k].strip() == each.value.strip()]
            for each in references
        ]

    def entry(self, key: str, *, purpose: str | None) -> bytes:
        return f"{purpose}:{key[::-1]}".encode()

    def models_of(self, people: Sequence[Traces]) -> list[tuple[list[str], list[str]]]:
        self.do("models")
        held = [[v for v, them in self.trained.items() if each.token in them] for each in people]
        return [(found, [v for v in found if v in self.in_use]) for found in held]

    def suppress(self, entry: bytes, *, since: dt.datetime) -> None:
        self.do("suppress")
        self.suppressed[entry] = since
        self.after("suppress")

    def remember(self, traces: Traces, *, now: dt.datetime) -> None:
        self.do("remember")
        self.remembered.add(traces.key)
        self.after("remember")

    def cost(self, tokens: Sequence[int]) -> RetrainingCost | None:
        return RetrainingCost(3, 1.04, 0.9, 1e-5, self.refuses)

    def retrain(self) -> Retraining:
        self.do("retrain")
        if self.refuses:
            return Retraining(None, self.refuses)
        newest = max(self.trained, key=lambda v: int(v.rpartition("/")[2]))
        wanted = {t for t in self.data if t in (1, 2, 5)}
        if self.trained[newest] != wanted:
            self.trainings += 1
            newest = f"{NAME}/{len(self.trained) + 1}"
            self.trained[newest] = wanted
            self.files.add(newest)
            self.in_use = {newest}
        self.after("retrain")
        return Retraining(newest)


class Fake(Store):
    """One of the stores of a workspace in memory."""

    def __init__(self, home: Any) -> None:
        self.home = home

    def export(self, person: Person) -> list[Held]:
        return []


class Source(Fake):
    name = "source"

    def trace(self, people: Sequence[Traces]) -> list[Traces]:
        self.home.do("traces")
        return [
            Traces(p.key, p.token, (self.home.emails[p.key],) if p.key in self.home.source else ())
            for p in people
        ]

    def forget(self, people: Sequence[Person]) -> Iterator[list[Outcome]]:
        self.home.do("mentioned")
        for each in people:
            self.home.do("source")
            there = each.traces.key in self.home.source
            self.home.source.discard(each.traces.key)
            self.home.after("source")
            yield [done("source", ["people: 1 deleted"] if there else [], KEPT if there else ())]

    def overwrite(self, *, forgotten: bool) -> None:
        self.home.do("compact")

    def look(self, people: Sequence[Person]) -> list[list[Outcome]]:
        of = {who: self.home.rows.get(who, 1) for who in self.home.source}
        rows = [[1] * of.get(each.traces.key, 0) for each in people]
        return [[replace(seen("source", each), retained=KEPT if each else ())] for each in rows]


class Vault(Fake):
    name = "vault"

    def trace(self, people: Sequence[Traces]) -> list[Traces]:
        return [Traces(p.key, self.home.vault.get(p.key), p.identifiers) for p in people]

    def forget(self, people: Sequence[Person]) -> Iterator[list[Outcome]]:
        for each in people:
            self.home.do("forget")
            there = self.home.vault.pop(each.traces.key, None)
            self.home.after("forget")
            yield [done("vault", ["vault_subjects"] if there is not None else [])]

    def look(self, people: Sequence[Person]) -> list[list[Outcome]]:
        return [
            [seen("vault", [key] if (key := each.traces.key) in self.home.vault else [])]
            for each in people
        ]


class Data(Fake):
    name = "dvc"
    holds = Holds.COPIES

    def forget(self, people: Sequence[Person]) -> Iterator[list[Outcome]]:
        home = self.home
        tokens = {p.traces.token for p in people if p.traces.token is not None}
        ended = {version for p in people for version in p.ended}
        outcomes = []
        if tokens or ended:
            home.do("purge")
            gone = home.data & tokens
            home.data -= gone
            files = home.files & ended
            home.files -= files
            home.after("purge")
            outcomes = [done("cache", [*map(str, sorted(gone)), *sorted(files)])]
            if home.remote:
                outcomes.append(Outcome("remote local", Result.UNREACHABLE, reason=home.remote))
        for _ in people:
            yield outcomes

    def look(self, people: Sequence[Person]) -> list[list[Outcome]]:
        self.home.do("look")
        return [
            [seen("cache", [1] if each.traces.token in self.home.data else [])] for each in people
        ]


class Models(Fake):
    name = "registry"
    holds = Holds.MODELS

    def forget(self, people: Sequence[Person]) -> Iterator[list[Outcome]]:
        ended: dict[str, Outcome] = {}
        for each in people:
            for version in each.ended:
                if version not in ended:
                    ended[version] = self.end(version)
            yield [ended[version] for version in each.ended]

    def end(self, version: str) -> Outcome:
        self.home.do("retire")
        there = self.home.trained[version]
        self.home.trained[version] = set()
        self.home.in_use.discard(version)
        self.home.after("retire")
        return done("registry", [version] if there else [])

    def look(self, people: Sequence[Person]) -> list[list[Outcome]]:
        held = [
            [v for v, them in self.home.trained.items() if each.traces.token in them]
            for each in people
        ]
        return [[seen("registry", versions)] for versions in held]


def done(store: str, places: Sequence[str], retained: tuple[dict[str, Any], ...] = ()) -> Outcome:
    result = Result.ERASED if places else Result.ABSENT
    return Outcome(store, result, len(places), tuple(places), retained=retained)


def seen(store: str, found: Sequence[object]) -> Outcome:
    if found:
        return Outcome(store, Result.PRESENT, len(found), ("somewhere",), reason="still there")
    return Outcome(store, Result.ABSENT)
