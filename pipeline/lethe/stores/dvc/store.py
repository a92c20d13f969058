"""DVC's history as one of the stores that an erasure goes through."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from pyroaring import BitMap

from lethe.config import workspace
from lethe.core.errors import StoreUnavailable
from lethe.core.outcomes import Outcome, Traces
from lethe.stores.dvc.lookup import Lookup
from lethe.stores.dvc.purge import purge_history
from lethe.stores.dvc.repro import History
from lethe.stores.dvc.verify import LookedFor, verify_histories
from lethe.stores.store import Held, Holds, Person, Store


class ModelFiles(Protocol):
    """What the registry says of versions' files."""

    def model_hashes(self, versions: Collection[str]) -> set[str]:
        """Models of versions in the registry."""
        ...

    def ended_hashes(self, versions: Collection[str]) -> set[str]:
        """Models of versions that were ended, from what is kept of them."""
        ...

    def manifest_became(self, versions: Collection[str], *, model: str, manifest: str) -> None:
        """Names the new manifest where a version of this model names an older one."""
        ...


class DvcStore(Store):
    """Shards, manifests and models, in every cache, remote, branch and worktree.

    Args:
        known: every token of the vault; what has any other is reported.
        skip: files and folders of other stores, which look for themselves.
        code: folders of which git's files are declared to be code.
    """

    name = "dvc"
    holds = Holds.COPIES

    def __init__(
        self,
        root: Path,
        versions: ModelFiles,
        *,
        known: Callable[[], BitMap],
        skip: Callable[[], Sequence[Path]],
        code: Sequence[str] = (),
    ) -> None:
        self._root = root
        self._versions = versions
        self._known = known
        self._skip = skip
        self._code = code

    def forget(self, people: Sequence[Person]) -> Iterator[list[Outcome]]:
        """Rewrites what is in use without them, and removes the rest; for all at once."""
        tokens = BitMap(t for each in people if (t := each.traces.token) is not None)
        ended = {version for each in people for version in each.ended}
        done = []
        if tokens or ended:
            used = [each.serving for each in people]
            known = None not in used
            serving = {version for theirs in used for version in theirs or ()} if known else None
            done = self.purge(tokens, serving=serving, ended=ended)
        for _ in people:
            yield done

    def purge(
        self, tokens: BitMap, *, serving: Collection[str] | None, ended: Collection[str]
    ) -> list[Outcome]:
        models = self._versions.ended_hashes(ended)
        hashes = None
        if serving is not None:
            with suppress(StoreUnavailable):  # the shards do not wait for the registry
                hashes = self._versions.model_hashes(serving)
        outcomes = purge_history(self._root, tokens, models=models, serving=hashes)
        if serving is None or hashes is None:
            return outcomes
        history = History(self._root)
        model, manifest = (history.out_md5(w) for w in (workspace.MODEL, workspace.MANIFEST))
        if model and manifest:
            self._versions.manifest_became(serving, model=model, manifest=manifest)
        return outcomes

    def look(self, people: Sequence[Person]) -> list[list[Outcome]]:
        return verify_histories(
            self._root,
            [
                LookedFor(
                    BitMap() if each.traces.token is None else BitMap([each.traces.token]),
                    None if each.keeps_records else searchable(each.traces),
                    frozenset(self._versions.ended_hashes(each.models)),
                )
                for each in people
            ],
            known=self._known(),
            skip=self._skip(),
            code=self._code,
        )

    def export(self, person: Person) -> list[Held]:
        """The versions of the data that the person's rows are in; the rows are the source's."""
        if person.traces.token is None:
            return []
        found = Lookup(self._root).find(person.traces.token)
        versions = tuple(
            {"data_md5": each.data_md5, "commit": each.commit} for each in found.datasets
        )
        return [Held("shards", versions)] if versions else []

    def unseen(self) -> tuple[str, ...]:
        return (
            "clones and caches on other machines, and remotes that the settings do not name",
            *(
                f"git's files below {folder}, declared to be code (erasure.code): not searched for "
                "keys and identifiers"
                for folder in self._code
            ),
        )


def searchable(traces: Traces) -> Traces:
    """What to look for in any bytes. A number is in the digits of a measurement by chance, so
    a key of digits alone is looked for where keys are: in the source and in the vault."""
    return Traces("" if traces.key.isdigit() else traces.key, traces.token, traces.identifiers)
