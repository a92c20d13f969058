"""The model registry as one of the stores that an erasure goes through."""

import datetime as dt
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from pyroaring import BitMap

from lethe.core.errors import StoreUnavailable
from lethe.core.outcomes import Outcome, Result, Traces
from lethe.stores.registry.registry import Registry, Version
from lethe.stores.registry.remove import STORE, retire
from lethe.stores.registry.tags import RUN_ID
from lethe.stores.registry.tombstones import find_tombstone
from lethe.stores.registry.verify import Wanted, verify_registries
from lethe.stores.store import Ending, Held, Holds, Person, Store

_REST_S = 60.0
Charged = Callable[[], Mapping[str, BitMap]]  # run → everybody whom its training charged


class RegistryStore(Store):
    """The versions of models, and what MLflow keeps of their runs.

    Args:
        charged: by the ledger, whose manifests stay as they were when DVC's are rewritten.
    """

    name = STORE
    holds = Holds.MODELS

    def __init__(
        self, registry: Registry, charged: Charged, *, clock: Callable[[], dt.datetime]
    ) -> None:
        self._registry = registry
        self._charged = charged
        self._clock = clock
        self._away: tuple[str, float] | None = None  # why, and until when it is left alone

    def forget(self, people: Sequence[Person]) -> Iterator[list[Outcome]]:
        """Ends versions, each once, however many people it learned from."""
        done: dict[str, Outcome] = {}
        for each in people:
            for version, ending in each.ended.items():
                if version not in done:
                    done[version] = self.end(version, ending)
            yield [done[version] for version in each.ended]

    def end(self, version: str, ending: Ending) -> Outcome:
        """Ends one version, after its aliases went to the one that replaces it."""
        model, number = _parts(version)
        now = self._clock()
        with self._answering():
            if ending.replaced_by is not None and _parts(ending.replaced_by)[0] == model:
                new = _parts(ending.replaced_by)[1]
                return retire(self._registry, model, number, replaced_by=new, now=now)
            why = ending.reason or "somebody in it was erased; it was not in use"
            return retire(self._registry, model, number, replaced_by=None, reason=why, now=now)

    def look(self, people: Sequence[Person]) -> list[list[Outcome]]:
        """Versions that were trained on somebody, what is left of those that went, and traces."""
        models = {model for each in people for model in each.models}
        with self._answering():
            tombstones = {m: find_tombstone(self._registry, *_parts(m)) for m in models}
            looked = verify_registries(
                self._registry,
                [
                    Wanted(
                        tuple(
                            tombstone
                            for model in each.models
                            if (tombstone := tombstones[model]) is not None
                        ),
                        None if each.keeps_records else each.traces,
                    )
                    for each in people
                ],
            )
        held = self._held([each.traces for each in people])
        return [
            [_still_held([name_of(version) for version in versions]) if versions else outcome]
            for versions, outcome in zip(held, looked, strict=True)
        ]

    def export(self, person: Person) -> list[Held]:
        (versions,) = self._held([person.traces])
        records = tuple({"version": name_of(v), "status": v.status} for v in versions)
        return [Held("model versions", records)] if records else []

    def unseen(self) -> tuple[str, ...]:
        return ("models that were downloaded or are served elsewhere",)

    # ------------------------------------------------------------------ versions

    def models_of(self, people: Sequence[Traces]) -> list[tuple[list[str], list[str]]]:
        """Versions that learned from each person, and which of them are in use."""
        return [
            ([name_of(v) for v in held], [name_of(v) for v in held if v.aliases])
            for held in self._held(people)
        ]

    def _held(self, people: Sequence[Traces]) -> list[list[Version]]:
        """Versions in the registry whose training charged each person."""
        tokens = BitMap([each.token for each in people if each.token is not None])
        if not tokens:
            return [[] for _ in people]
        charged = self._charged()
        versions = [(v, charged.get(str(v.tags.get(RUN_ID)))) for v in self.versions()]
        return [
            [v for v, them in versions if them is not None and each.token in them]
            if each.token is not None
            else []
            for each in people
        ]

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """One that did not answer is not waited for again by each who asks, for a while."""
        if self._away is not None and time.monotonic() < self._away[1]:
            raise StoreUnavailable(self._away[0])
        try:
            yield
        except StoreUnavailable as error:
            self._away = (str(error), time.monotonic() + _REST_S)
            raise
        except MlflowException as error:  # something that must be there is not
            raise StoreUnavailable(
                f"The model registry refuses ({error.error_code}). Check stores.registry; the next "
                "run goes on."
            ) from None

    def versions(self) -> list[Version]:
        with self._answering():
            return self._registry.versions()

    def in_use(self) -> list[Version]:
        """Versions with an alias."""
        return [version for version in self.versions() if version.aliases]

    def model_hashes(self, versions: Collection[str]) -> set[str]:
        if not versions:
            return set()
        wanted = [v for v in self.versions() if name_of(v) in versions]
        return {version.tags["model_md5"] for version in wanted}

    def ended_hashes(self, versions: Collection[str]) -> set[str]:
        if not versions:
            return set()
        with self._answering():
            tombstones = [find_tombstone(self._registry, *_parts(version)) for version in versions]
        return {
            s.facts["model_md5"] for s in tombstones if s is not None and "model_md5" in s.facts
        }

    def manifest_became(self, versions: Collection[str], *, model: str, manifest: str) -> None:
        for version in self.versions():
            tags = version.tags
            if name_of(version) not in versions or tags["model_md5"] != model:
                continue
            if tags["manifest_md5"] != manifest:
                with self._answering():
                    self._registry.tag(version, "manifest_md5", manifest)


def name_of(version: Version) -> str:
    return f"{version.model}/{version.version}"


def _parts(version: str) -> tuple[str, int]:
    model, _, number = version.rpartition("/")
    return model, int(number)


def _still_held(versions: Sequence[str]) -> Outcome:
    reason = f"{len(versions)} versions were trained on the person"
    return Outcome(STORE, Result.PRESENT, len(versions), tuple(versions), reason)
