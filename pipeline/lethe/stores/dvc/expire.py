"""Older versions of shards leave DVC: they may hold rows whose time is over.

A shard does not say when its rows expire. So once the pipeline has made the current version without
them, every other version that has one of the people whose rows expired goes, out of every cache,
run-cache, temporary folder, worktree and remote, and with it every model that learned from one
and does not serve. Another branch or worktree has empty shards then, and makes them anew when
its pipeline is run. Manifests stay as they are: the people are still known, and a model that stays
must name exactly whom it learned from.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from pyroaring import BitMap

from lethe.config import workspace
from lethe.core.errors import NotFound
from lethe.core.outcomes import Outcome
from lethe.stores.dvc.content import PARQUET, holds
from lethe.stores.dvc.git import Made
from lethe.stores.dvc.manifest import Manifest, NotAManifest
from lethe.stores.dvc.purge import Purge, purge_by
from lethe.stores.dvc.repro import History
from lethe.stores.dvc.survey import Survey, decide, entries_of, md5_of, survey
from lethe.stores.dvc.verify import LookedFor, Verification
from lethe.stores.dvc.worktree import Worktree


def purge_versions(
    root: Path,
    tokens: BitMap,
    *,
    models: Collection[str] = (),
    serving: Collection[str] = (),
) -> list[Outcome]:
    """Removes every version but the workspace's current one of the shards of these people.

    One outcome a store, in the order that makes a power cut harmless; done again, it finds
    nothing. See `lethe.stores.dvc.purge`.

    Args:
        root: the workspace, whose shards were made after the rows went.
        tokens: whose rows expired.
        models: hashes (the registry's tag `model_md5`) of retired models that go as well.
        serving: likewise of models that stay until they are replaced.

    Raises:
        NotFound: DVC's cache does not have the current shards.
    """
    return purge_by(_Versions, root, tokens, models=models, serving=serving)


def verify_versions(
    root: Path,
    tokens: BitMap,
    *,
    models: Collection[str] = (),
    serving: Collection[str] = (),
    skip: Iterable[Path] = (),
) -> list[Outcome]:
    """A fresh look for other versions of the shards of these people; see `verify_history`."""
    people = [LookedFor(tokens, models=frozenset(models))]
    look = _VersionsLook(root, people, set(serving))
    look.kept = current_files(root)
    (outcomes,) = look.outcomes(skip)
    return outcomes


def current_files(root: Path) -> frozenset[str]:
    """The hashes of the workspace's current shards: the folder's, and each file's.

    Raises:
        NotFound: DVC's cache does not have them.
    """
    md5 = History(root).out_md5(workspace.SHARDS)
    if md5 is None:
        return frozenset()
    entries = entries_of(History(root).cached(md5).read_bytes(), md5)
    if entries is None:
        raise NotFound(f"Object {md5} in DVC's cache is damaged. Remove it and run `dvc pull`.")
    return frozenset({md5, *(str(entry["md5"]) for entry in entries)})


class _Versions(Purge):
    def survey(self, made: list[Made], models: set[str], before: set[str]) -> Survey:
        kept = current_files(self.root)
        before = before - kept

        def other_version(source: bytes | Path, md5: str | None) -> bool:
            return md5 not in kept and _has_rows(source, self.tokens)

        found = survey(
            self.stores(),
            self.tokens,
            made,
            models=models,
            serving=self.serving,
            before=before,
            holding=other_version,
        )
        stages = [*made, *(run for surveyed in found.stores for run in surveyed.runs.values())]
        found.models |= {
            model
            for stage in stages
            if (model := stage.out(workspace.MODEL)) is not None
            and model not in (self.serving or ())
            and self._learned(found, stage, before)
        }
        found.models |= {md5 for md5 in found.folders if found.touched(md5)}  # likewise emptied
        decide(found, stages, before)
        found.gone -= kept
        return found

    def _learned(self, found: Survey, stage: Made, before: set[str]) -> bool:
        """Whether a model learned from one of these people in a version that goes."""
        data = stage.deps.get(workspace.SHARDS.as_posix())
        manifest = stage.out(workspace.MANIFEST)
        if data is None or manifest is None:
            return False
        if not found.touched(data) and data not in before:
            return False
        content = found.fetch(manifest)
        try:
            return content is None or Manifest(content).any_of(self.tokens)
        except NotAManifest:
            return True  # nobody can say

    def plan(self) -> None:
        """Nothing takes the place of what goes: the current version is there already."""

    def rewrite(self, place: Worktree, tokens: BitMap) -> list[str]:
        changed = []
        if place.root != self.root.resolve() and self._is_old(place):
            place.empty(workspace.SHARDS, workspace.SUBJECTS)
            changed = [workspace.SHARDS.as_posix(), workspace.SUBJECTS.as_posix()]
        return [*changed, *super().rewrite(place, BitMap())]

    def _is_old(self, place: Worktree) -> bool:
        kept = current_files(self.root)
        return any(
            md5_of(path.read_bytes()) not in kept and _has_rows(path, self.tokens)
            for path in (place.root / workspace.SHARDS).glob("*.parquet")
        )


class _VersionsLook(Verification):
    kept: frozenset[str] = frozenset()

    def who_is_in(self, content: bytes) -> set[int]:
        old = _has_rows(content, self.tokens) and md5_of(content) not in self.kept
        return {0} if old else set()


def _has_rows(source: bytes | Path, tokens: BitMap) -> bool:
    """Whether a file is a shard with rows of these people; a manifest has none."""
    if isinstance(source, bytes):
        return source[:4] == PARQUET and holds(source, tokens)
    with source.open("rb") as file:
        head = file.read(4)
    return head == PARQUET and holds(source, tokens)
