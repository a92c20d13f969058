"""The stores of one workspace, as rows past their retention are taken out of them."""

import datetime as dt
from collections.abc import Iterable, Sequence

import numpy as np
from pyroaring import BitMap

from lethe.config import workspace
from lethe.core.outcomes import Outcome, Result, Traces
from lethe.people.references import Expiry
from lethe.rights.workspace_stores import WorkspaceStores
from lethe.stores.dvc.expire import purge_versions, verify_versions
from lethe.stores.dvc.repro import History
from lethe.stores.dvc.verify import verify_history
from lethe.stores.registry.store import name_of
from lethe.stores.registry.tags import RUN_ID
from lethe.stores.source.expire import ExpiredRows, erase_expired, look_for_expired, verify_expired
from lethe.stores.store import Ending, Holds, Person, Store


class RetentionStores(WorkspaceStores):
    """What `lethe.rights.retention` asks of the stores beside what an erasure does."""

    @property
    def rows(self) -> Store:
        return self.source

    def expired(self, *, as_of: dt.datetime) -> ExpiredRows:
        return look_for_expired(self._params, as_of=as_of)

    def expiry(self, expired: ExpiredRows) -> Expiry:
        """Whom it is about: by token who stays, with all that leads to them who leaves."""
        tokens = self._vault.lookup(sorted(expired.keys - set(expired.people)))
        people = [Traces(key, None) for key in expired.people]
        for store in self.stores if people else ():
            people = store.trace(people)
        return Expiry(BitMap(tokens[tokens >= 0].astype(np.uint32)), tuple(people))

    def erase_expired(self, expired: ExpiredRows, *, as_of: dt.datetime, about: str) -> Outcome:
        return erase_expired(self._params, as_of=as_of, known=expired.keys, about=about)

    def remake(self) -> None:
        """Makes the current shards anew, from a source that has lost what is past its time.

        Raises:
            StageFailed, Busy: as `Runner.run`.
        """
        self._runner.run(["pseudonymize"])

    def outdated(self, expiry: Expiry) -> list[str]:
        """Versions whose training charged any of these people, on other shards than today's."""
        data = History(self._root).out_md5(workspace.SHARDS)
        runs = self._charged()
        found = []
        for version in self.registry.versions():
            learned = runs.get(str(version.tags.get(RUN_ID)), BitMap())
            older = version.tags.get("data_md5") != data
            if learned & expiry.leaving or (older and learned & expiry.tokens):
                found.append(name_of(version))
        return found

    def in_use(self) -> list[str]:
        """Versions with an alias."""
        return [name_of(version) for version in self.registry.in_use()]

    def _serving(self) -> set[str]:
        """The hashes of models in use."""
        return self.registry.model_hashes(self.in_use())

    def end(self, version: str, ending: Ending) -> Outcome:
        return self.registry.end(version, ending)

    def purge_expired(self, expiry: Expiry, *, retired: Sequence[str]) -> list[Outcome]:
        """Takes older versions of these people's shards, and people who leave, out of DVC."""
        done: list[Outcome] = []
        if expiry.leaving:
            ended = {version: Ending() for version in retired}
            serving = tuple(self.in_use())
            people = [Person(each, serving=serving, ended=ended) for each in expiry.people]
            for store in self.stores:
                if store.holds is Holds.COPIES:
                    done += _once(store.forget(people))
        return done + purge_versions(
            self._root,
            expiry.tokens | expiry.leaving,
            models=self.registry.ended_hashes(retired),
            serving=self._serving(),
        )

    def look_expired(
        self, expiry: Expiry, *, as_of: dt.datetime, about: Sequence[str], models: Sequence[str]
    ) -> list[Outcome]:
        """A fresh look into every store; what is still there has a count, or a reason.

        Args:
            models: versions that must be gone.
        """
        seen = [verify_expired(self._params, as_of=as_of, about=each) for each in about]
        people = [Person(each) for each in expiry.people]
        if people:
            for store in self.stores:
                if store.holds is Holds.PEOPLE:
                    seen += [outcome for theirs in store.look(people) for outcome in theirs]
            seen += verify_history(
                self._root,
                expiry.leaving,
                traces=_all_of(expiry.people),
                models=self.registry.ended_hashes(models),
                serving=self._serving(),
                skip=self._other_stores(),
                code=self._params.erasure.code,
            )
        if expiry.tokens:
            seen += verify_versions(
                self._root,
                expiry.tokens,
                models=self.registry.ended_hashes(models),
                serving=self._serving(),
                skip=self._other_stores(),
            )
        there = {name_of(version) for version in self.registry.versions()}
        left = tuple(version for version in models if version in there)
        if left:
            reason = f"{len(left)} versions were trained on what is gone"
            return [*seen, Outcome("registry", Result.PRESENT, len(left), left, reason)]
        return [*seen, Outcome("registry", Result.ABSENT)]


def _once(answers: Iterable[list[Outcome]]) -> list[Outcome]:
    """What a store that works on all at once did, which it says of each of them."""
    found: list[Outcome] = []
    for theirs in answers:
        found += [outcome for outcome in theirs if outcome not in found]
    return found


def _all_of(people: Iterable[Traces]) -> Traces:
    """What leads to any of them; keys of digits alone are in any file by chance."""
    identifying = []
    for each in people:
        identifying += [*each.identifiers, *([] if each.key.isdigit() else [each.key])]
    return Traces("", None, tuple(identifying))
