"""Places of an erasure in memory: a handful of people, and every way of failing."""

import datetime as dt
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from lethe.core.errors import LetheError
from lethe.core.outcomes import Outcome, Traces
from lethe.people.references import Reference
from lethe.rights.stores import LEAVES, Cost, Sought, Training
from lethe.stores.requests.requests import Kind
from lethe.stores.source.mentions import Mentioned

NAME = "reading"
KEPT = ({"table": "invoices", "basis": "tax law", "until": "2036-01-01", "count": 2},)


class Killed(BaseException):
    """Stands for kill -9: nothing of the code under test may catch it."""


class FakePlaces:
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

    def _do(self, deed: str) -> None:
        self.before(deed)
        if deed in self.fails:
            raise self.fails[deed]
        self.deeds.append(deed)

    def seal(self, content: bytes, *, about: str) -> bytes:
        return json.dumps([about, content.hex()]).encode()

    def unseal(self, sealed: bytes, *, about: str) -> bytes:
        owner, content = json.loads(sealed)
        if owner != about:
            raise ValueError("sealed for another request")
        return bytes.fromhex(content)

    def people(self, references: Sequence[Reference]) -> list[list[str]]:
        self._do("people")
        return [
            [each.value]
            if each.column is None
            else [k for k in sorted(self.source) if self.emails[k].strip() == each.value.strip()]
            for each in references
        ]

    def traces_of(self, keys: Sequence[str]) -> list[Traces]:
        self._do("traces")
        return [
            Traces(key, self.vault.get(key), (self.emails[key],) if key in self.source else ())
            for key in keys
        ]

    def entry(self, key: str, *, purpose: str | None) -> bytes:
        return f"{purpose}:{key[::-1]}".encode()

    def models_of(self, people: Sequence[Traces]) -> list[tuple[list[str], list[str]]]:
        self._do("models")
        held = [[v for v, them in self.trained.items() if each.token in them] for each in people]
        return [(found, [v for v in found if v in self.in_use]) for found in held]

    def suppress(self, entry: bytes, *, since: dt.datetime) -> None:
        self._do("suppress")
        self.suppressed[entry] = since
        self.after("suppress")

    def remember(self, traces: Traces, *, now: dt.datetime) -> None:
        self._do("remember")
        self.remembered.add(traces.key)
        self.after("remember")

    def mentioned(self, people: Sequence[Traces]) -> dict[str, Mentioned]:
        self._do("mentioned")
        return {each.key: {} for each in people}

    def erase_source(
        self, traces: Traces, *, now: dt.datetime, mentioned: Mentioned | None
    ) -> Outcome:
        self._do("source")
        there = traces.key in self.source
        self.source.discard(traces.key)
        self.after("source")
        return _outcome("source", ["people: 1 deleted"] if there else [], KEPT if there else ())

    def compact(self, *, vault: bool) -> None:
        self._do("compact")

    def forget(self, traces: Traces) -> Outcome:
        self._do("forget")
        there = self.vault.pop(traces.key, None)
        self.after("forget")
        return _outcome("vault", ["vault_subjects"] if there is not None else [])

    def purge(
        self, tokens: Sequence[int], *, serving: Sequence[str], retired: Sequence[str]
    ) -> list[Outcome]:
        self._do("purge")
        gone = self.data & set(tokens)
        self.data -= gone
        files = self.files & set(retired)
        self.files -= files
        self.after("purge")
        done = [_outcome("cache", [*map(str, sorted(gone)), *sorted(files)])]
        if self.remote:
            done.append(Outcome("remote local", "not attempted", reason=self.remote))
        return done

    def cost(self, tokens: Sequence[int]) -> Cost | None:
        return Cost(3, 1.04, 0.9, 1e-5, self.refuses)

    def retrain(self) -> Training:
        self._do("retrain")
        if self.refuses:
            return Training(None, self.refuses)
        newest = max(self.trained, key=lambda v: int(v.rpartition("/")[2]))
        wanted = {t for t in self.data if t in (1, 2, 5)}
        if self.trained[newest] != wanted:
            self.trainings += 1
            newest = f"{NAME}/{len(self.trained) + 1}"
            self.trained[newest] = wanted
            self.files.add(newest)
            self.in_use = {newest}
        self.after("retrain")
        return Training(newest)

    def retire(
        self, version: str, *, replaced_by: str | None, reason: str | None, now: dt.datetime
    ) -> Outcome:
        self._do("retire")
        there = self.trained[version]
        self.trained[version] = set()
        self.in_use.discard(version)
        self.after("retire")
        return _outcome("registry", [version] if there else [])

    def look(self, people: Sequence[Sought]) -> list[list[Outcome]]:
        self._do("look")
        return [self._seen(each.traces, each.kind) for each in people]

    def _seen(self, traces: Traces, kind: Kind) -> list[Outcome]:
        in_source = [traces.key] if traces.key in self.source else []
        in_vault = [traces.key] if traces.key in self.vault else []
        held = [v for v, people in self.trained.items() if traces.token in people]
        seen = [
            _seen("cache", [1] if traces.token in self.data else []),
            _seen("registry", held),
        ]
        if kind == "erase":
            source = _seen("source", in_source)
            source = replace(source, retained=KEPT if in_source else ())
            return [source, _seen("vault", in_vault), *seen]
        left = [Outcome(s, "not attempted", reason=LEAVES) for s in ("source", "vault")]
        return [*left, *seen]


def _outcome(store: str, places: list[str], retained: tuple = ()) -> Outcome:
    result = "erased" if places else "nothing found"
    return Outcome(store, result, len(places), tuple(places), retained=retained)


def _seen(store: str, found: list) -> Outcome:
    if found:
        return Outcome(store, "not attempted", len(found), ("somewhere",), reason="still there")
    return Outcome(store, "nothing found")
