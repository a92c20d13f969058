"""Which versions a person is in: every manifest that any lock names, asked for one token.

The locks of commits are kept in an index (`lethe.stores.dvc.git`), and a manifest is
asked where it lies in the cache (`lethe.stores.dvc.manifest`), so a thousand versions
of a million people are answered in tens of milliseconds, and no further copy of anybody's token
is made to get there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lethe.config import workspace
from lethe.core.errors import NotFound
from lethe.stores.dvc.git import Lock, Made, committed_locks, parse_run, worktrees
from lethe.stores.dvc.manifest import Manifest, NotAManifest
from lethe.stores.dvc.objects import FolderObjects, key_of, open_caches, open_remote, remote_names
from lethe.stores.dvc.worktree import Worktree

WORKSPACE = "workspace"  # stands for a commit where nothing is committed yet
RUN_CACHE = "run-cache"  # likewise for what only the run-cache names


@dataclass(frozen=True)
class Dataset:
    """A version of the shards with the person in it, and the first commit that names it."""

    data_md5: str
    subjects_md5: str
    commit: str


@dataclass(frozen=True)
class Found:
    """Where a person is: datasets, manifests of trainings, and the models these made.

    `missing` are manifests that could not be asked here: fetch them (`dvc fetch --all-commits`).
    """

    datasets: tuple[Dataset, ...]
    manifests: tuple[str, ...]
    models: tuple[str, ...]
    missing: tuple[str, ...]


class Lookup:
    """The manifests of one workspace's whole history, to be asked about any number of tokens."""

    def __init__(self, root: Path) -> None:
        self._root = root
        places = worktrees(root)
        self._caches = open_caches(places)
        locks = committed_locks(root)
        locks += [Lock(WORKSPACE, Worktree(place).lock()) for place in places]
        locks.append(Lock(RUN_CACHE, tuple(_runs(self._caches))))
        self._datasets: dict[tuple[str, str], str] = {}
        self._models: dict[str, set[str]] = {}  # manifest → models
        for lock in locks:
            for made in lock.stages:
                data, subjects = made.out(workspace.SHARDS), made.out(workspace.SUBJECTS)
                if data and subjects:
                    self._datasets.setdefault((data, subjects), lock.commit)
                if manifest := made.out(workspace.MANIFEST):
                    models = self._models.setdefault(manifest, set())
                    models |= {model} if (model := made.out(workspace.MODEL)) else set()
        self._opened: dict[str, Manifest | None] = {}

    def find(self, token: int) -> Found:
        """Every version that a token is in, current and past."""
        datasets = [
            Dataset(data, subjects, commit)
            for (data, subjects), commit in self._datasets.items()
            if self._has(subjects, token)
        ]
        manifests = [md5 for md5 in self._models if self._has(md5, token)]
        models = {model for md5 in manifests for model in self._models[md5]}
        return Found(
            tuple(datasets),
            tuple(manifests),
            tuple(sorted(models)),
            tuple(sorted(md5 for md5, opened in self._opened.items() if opened is None)),
        )

    def manifest(self, md5: str) -> Manifest | None:
        """A manifest in a cache here; None if it is in none."""
        if md5 not in self._opened:
            self._opened[md5] = self._open(md5)
        return self._opened[md5]

    def manifest_of(self, model: str | None) -> Manifest | None:
        """The manifest in a cache here that a lock names beside a model."""
        named = (md5 for md5, models in self._models.items() if model in models)
        return next((opened for md5 in named if (opened := self.manifest(md5))), None)

    def fetchable(self, missing: Iterable[str]) -> list[str]:
        """Which missing manifests a remote has; the others were erased, or never pushed.

        Raises:
            StoreUnavailable: a remote does not answer.
        """
        wanted = set(missing)
        if not wanted:
            return []
        known: set[str | None] = set()
        for name in remote_names(self._root):
            stored = open_remote(self._root, name).objects()
            known |= {each.md5 for each in stored if not each.marker}
        return sorted(wanted & known)

    def _has(self, md5: str, token: int) -> bool:
        manifest = self.manifest(md5)
        return manifest is not None and token in manifest

    def _open(self, md5: str) -> Manifest | None:
        for cache in self._caches:
            try:
                return Manifest.opened(cache.base / key_of(md5))
            except FileNotFoundError:
                continue
            except NotAManifest:
                raise NotFound(
                    f"Object {md5} in DVC's cache is damaged. Remove it and run `dvc pull`."
                ) from None
        return None


def look_up(root: Path, token: int) -> Found:
    """Every dataset, manifest and model, current and past, that a token is in.

    Asked of every commit of every branch, tag, experiment and worktree, of every worktree as it
    stands, and of the run-cache.

    Raises:
        NotFound: a manifest in the cache is damaged.
        LetheError: a worktree's `dvc.lock` is not YAML.
    """
    return Lookup(root).find(token)


def _runs(caches: list[FolderObjects]) -> Iterator[Made]:
    for cache in caches:
        for path in sorted((cache.base / "runs").glob("*/*/*")):
            if path.is_file():
                yield parse_run(path.read_bytes())
