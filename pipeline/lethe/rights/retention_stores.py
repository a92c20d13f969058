"""The real places of one workspace, as what is past its retention is taken out of them."""

import datetime as dt
from collections.abc import Iterable, Sequence

import numpy as np
from pyroaring import BitMap

from lethe.config import workspace
from lethe.core.outcomes import Outcome, Traces
from lethe.people.references import Lapse
from lethe.rights.workspace_stores import Stores, name_of
from lethe.stores.dvc.expire import purge_versions, verify_versions
from lethe.stores.dvc.repro import History
from lethe.stores.dvc.verify import verify_history
from lethe.stores.registry.registry import RUN_ID, Version
from lethe.stores.source.expire import Lapsed, erase_lapsed, look_for_lapsed, verify_lapsed
from lethe.stores.source.verify import verify_sources


class LapsingStores(Stores):
    """What `lethe.rights.retention` asks of the stores beside what an erasure does."""

    def lapsed(self, *, as_of: dt.datetime) -> Lapsed:
        return look_for_lapsed(self._params, as_of=as_of)

    def lapse(self, lapsed: Lapsed) -> Lapse:
        """Whom it is about: by token who stays, with all that leads to them who leaves."""
        tokens = self._vault.lookup(sorted(lapsed.keys - set(lapsed.people)))
        people = self.traces_of(lapsed.people) if lapsed.people else []
        return Lapse(BitMap(tokens[tokens >= 0].astype(np.uint32)), tuple(people))

    def erase_lapsed(self, lapsed: Lapsed, *, as_of: dt.datetime, about: str) -> Outcome:
        return erase_lapsed(self._params, as_of=as_of, known=lapsed.keys, about=about)

    def remake(self) -> None:
        """Makes the current shards anew, from a source that has lost what is past its time.

        Raises:
            StageFailed, Busy: see `walk`.
        """
        self.walk("pseudonymize")

    def outdated(self, lapse: Lapse) -> list[str]:
        """Versions whose training charged any of these people, on other shards than today's."""
        data = History(self._root).out_md5(workspace.SHARDS)
        with self._ledger() as ledger:
            runs = {run.run_id: run.eligible for run in ledger.runs()}
        found = []
        for version in self._registry.versions():
            learned = runs.get(str(version.tags.get(RUN_ID)), BitMap())
            older = version.tags.get("data_md5") != data
            if learned & lapse.leaving or (older and learned & lapse.tokens):
                found.append(name_of(version))
        return found

    def in_use(self) -> list[str]:
        """Versions with an alias."""
        return [name_of(version) for version in self._serving()]

    def still_there(self, versions: Iterable[str]) -> list[str]:
        there = {name_of(version) for version in self._registry.versions()}
        return [version for version in versions if version in there]

    def _serving(self) -> list[Version]:
        return [version for version in self._registry.versions() if version.aliases]

    def purge_lapsed(self, lapse: Lapse, *, retired: Sequence[str]) -> list[Outcome]:
        """Takes older versions of these people's shards, and people who leave, out of DVC."""
        done = []
        if leaving := lapse.leaving:
            done = self.purge(list(leaving), serving=self.in_use(), retired=retired)
        everybody = lapse.tokens | leaving
        return done + purge_versions(
            self._root,
            everybody,
            models=self._model_hashes(retired),
            serving={version.tags["model_md5"] for version in self._serving()},
        )

    def look_lapsed(
        self, lapse: Lapse, *, as_of: dt.datetime, about: Sequence[str], models: Sequence[str]
    ) -> list[Outcome]:
        """A fresh look into every store; what is still there has a count, or a reason.

        Args:
            models: versions that must be gone.
        """
        seen = [verify_lapsed(self._params, as_of=as_of, about=each) for each in about]
        if lapse.people:
            seen += verify_sources(self._params, lapse.people)
            seen += [self._look_in_vault(each) for each in lapse.people]
        serving = {version.tags["model_md5"] for version in self._serving()}
        if lapse.people:
            seen += verify_history(
                self._root,
                lapse.leaving,
                traces=_all_of(lapse.people),
                models=self._model_hashes(models),
                serving=serving,
                skip=self._other_stores(),
            )
        if lapse.tokens:
            seen += verify_versions(
                self._root,
                lapse.tokens,
                models=self._model_hashes(models),
                serving=serving,
                skip=self._other_stores(),
            )
        left = tuple(self.still_there(models))
        if left:
            reason = f"{len(left)} versions were trained on what is gone"
            return [*seen, Outcome("registry", "not attempted", len(left), left, reason)]
        return [*seen, Outcome("registry", "nothing found")]


def _all_of(people: Iterable[Traces]) -> Traces:
    """What leads to any of them; keys of digits alone are in any file by chance."""
    telling = []
    for each in people:
        telling += [*each.identifiers, *([] if each.key.isdigit() else [each.key])]
    return Traces("", None, tuple(telling))
