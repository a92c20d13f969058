"""Erasing people from DVC: its workspaces, caches, run-caches, temporary folders and remotes.

The order is what makes a power cut harmless at any point. First the shards and manifests of
those who remain are written, to every store that had the old ones; then each worktree and its
lock turn to them, as do the tips of other branches; only then does anything go, folders before
the files they name. What goes is noted first in `.lethe/purge.json` (hashes alone), so that a
purge that was cut goes on where it was, and one that could not reach a remote remembers what
that remote must get.
"""

import json
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import psutil
from pyroaring import BitMap

from lethe.config import workspace
from lethe.core.errors import Busy, FileDamaged, StoreUnavailable
from lethe.core.files import read_json, write_whole
from lethe.core.outcomes import Outcome, Result
from lethe.core.reading import damage
from lethe.stores.dvc.content import without
from lethe.stores.dvc.git import (
    INDEX,
    LOCK,
    Made,
    branch_locks,
    commit_files,
    committed_locks,
    parse_lock,
    worktrees,
)
from lethe.stores.dvc.objects import (
    FolderObjects,
    Object,
    Objects,
    key_of,
    open_caches,
    open_remote,
    remote_names,
)
from lethe.stores.dvc.survey import StoreSurvey, Survey, md5_of, survey
from lethe.stores.dvc.worktree import EMPTIED, Replacement, Worktree, folder_object, updated_lock

JOURNAL = workspace.STATE / "purge.json"


def purge_history(
    root: Path,
    tokens: BitMap,
    *,
    models: Collection[str] = (),
    serving: Collection[str] | None = (),
) -> list[Outcome]:
    """Removes people from everything that DVC keeps of this workspace; one outcome a store.

    Shards in use are written anew without them, the other shards keep their bytes and hashes.
    Every older version that has them goes, and every model trained with them: of one in use an
    empty folder stays, and `dvc repro` trains anew. Done again, it finds nothing.

    Args:
        root: the workspace; its git worktrees are purged with it.
        tokens: whom.
        models: hashes (the registry's tag `model_md5`) of retired models that go as well,
            whatever their manifests say by now.
        serving: likewise of models that stay until they are retired; their manifests are
            rewritten all the same. None where the registry does not say: then every model stays,
            and those that would have gone are noted for the next purge.

    Raises:
        LetheError: a worktree's `dvc.lock` is not YAML; nothing was changed.
    """
    return purge_by(Purge, root, tokens, models=models, serving=serving)


def purge_by(
    kind: type["Purge"],
    root: Path,
    tokens: BitMap,
    *,
    models: Collection[str],
    serving: Collection[str] | None,
) -> list[Outcome]:
    """Purges in one way or another, with every worktree held in which nothing runs."""
    places = [Worktree(each) for each in worktrees(root)]
    with ExitStack() as held:
        busy: dict[Worktree, str] = {}
        for place in places:
            try:
                held.enter_context(place.alone())
            except Busy as error:
                busy[place] = str(error)
        return kind(root, tokens, places, busy, set(models), serving).run()


class Purge:
    """One purge of people; `lethe.stores.dvc.expire` has another, of older versions."""

    def __init__(
        self,
        root: Path,
        tokens: BitMap,
        places: list[Worktree],
        busy: dict[Worktree, str],
        models: set[str],
        serving: Collection[str] | None,
    ) -> None:
        self.root = root
        self.tokens = tokens
        self.places = places
        self.busy = busy
        self.serving = serving
        self.replaced, gone, self.withheld = _read_journal(root)
        self.locks = {place: place.lock() for place in places}
        committed = [made for lock in committed_locks(root) for made in lock.stages]
        self.branches = branch_locks(root)
        self.live = [
            made
            for stages in (*self.locks.values(), *map(parse_lock, self.branches.values()))
            for made in stages
        ]
        self.found = self.survey(
            [*committed, *self.live], models | self.withheld.difference(serving or ()), gone
        )
        self.written: dict[str, bytes] = {}

    def survey(self, made: list[Made], models: set[str], before: set[str]) -> Survey:
        return survey(
            self.stores(), self.tokens, made, models=models, serving=self.serving, before=before
        )

    def stores(self) -> list[Objects | tuple[str, str]]:
        return open_stores(self.root, [place.root for place in self.places])

    def run(self) -> list[Outcome]:
        self._remove_half_written()
        self.plan()
        self._write_journal(written=False)
        for surveyed in self.found.stores:
            self._write_new(surveyed)
        self._write_journal(written=True)
        outcomes = [self._rewritten(place) for place in self.places]
        if branches := self._turn_branches():
            outcomes.append(branches)
        outcomes.append(self._clear_temporary())
        self._remove_all()
        for surveyed in self.found.stores:
            outcomes += self._outcomes(surveyed)
        if withheld := self.found.withheld:
            reason = f"{len(withheld)} models stay, which may be in use: the registry did not say"
            outcomes.append(Outcome("models", Result.UNREACHABLE, 0, tuple(withheld), reason))
        if all(not each.is_open for each in outcomes):
            (self.root / JOURNAL).unlink(missing_ok=True)
        return outcomes

    def _write_journal(self, *, written: bool) -> None:
        if not (self.replaced or self.found.gone or self.found.withheld):
            return
        noted = {
            "replaced": {old: asdict(new) for old, new in self.replaced.items()},
            "gone": sorted(self.found.gone),
            # Those of before are among the gone, once it is written that those go.
            "withheld": sorted(self.found.withheld | (set() if written else self.withheld)),
            "written": written,
        }
        write_whole(self.root / JOURNAL, json.dumps(noted).encode(), private=True)

    def _remove_half_written(self) -> None:
        for path in (self.root / INDEX, self.root / JOURNAL):
            for staged in path.parent.glob(f".{path.name}.*.tmp"):
                if not psutil.pid_exists(int(staged.name.split(".")[-2])):
                    staged.unlink(missing_ok=True)

    def plan(self) -> None:
        """What each output in use becomes; made from the stores' own bytes."""
        for old, new in list(self.replaced.items()):  # of a purge that was cut
            if not any(surveyed.having(new.md5) for surveyed in self.found.stores):
                del self.replaced[old]
            elif self.found.touched(new.md5):
                self._replace(new.md5)
        for made in self.live:
            if made.out(workspace.MODEL) in self.found.models:
                continue  # an empty one takes its place, and its manifest's
            for md5 in made.outs.values():
                if md5 not in self.replaced and self.found.touched(md5):
                    self._replace(md5)
        for old in list(self.replaced):  # an earlier purge's new may have become an old
            while (later := self.replaced.get(self.replaced[old].md5)) is not None:
                self.replaced[old] = later

    def _replace(self, md5: str) -> Replacement | None:
        """A file without the people, or a folder with such files; None if its bytes are lost."""
        if md5 in self.replaced:
            return self.replaced[md5]
        if md5 in self.found.folders:
            return self._replace_folder(md5)
        content = self.found.fetch(md5)
        if content is None:
            return None
        new = without(content, self.tokens)
        return self._made(md5, md5_of(new), new, len(new))

    def _replace_folder(self, md5: str) -> Replacement | None:
        entries = []
        size = 0
        for entry in self.found.folders[md5]:
            old = str(entry["md5"])
            if old in self.found.held:
                new = self._replace(old)
                if new is None:
                    return None
                entries.append({**entry, "md5": new.md5})
                size += new.size
            else:
                entries.append(dict(entry))
                size += len(self.found.fetch(old) or b"")
        name, content = folder_object(entries)
        return self._made(md5, name, content, size)

    def _made(self, old: str, new: str, content: bytes, size: int) -> Replacement:
        self.written[new] = content
        self.replaced[old] = Replacement(new, size)
        return self.replaced[old]

    def _write_new(self, surveyed: StoreSurvey) -> None:
        """Gives a store the new for each old that it has: files first, then folders."""
        have = {each.md5 for each in surveyed.objects if not each.marker}
        pairs = sorted(self.replaced.items(), key=lambda pair: pair[1].md5.endswith(".dir"))
        try:
            if have & self.found.models:  # what a lock names in their place
                for md5, content in EMPTIED.items():
                    if md5 not in have:
                        surveyed.store.write(key_of(md5), content)
            for old, new in pairs:
                if old in have and new.md5 not in have:
                    made = self.written.get(new.md5) or self.found.fetch(new.md5)
                    if made is not None:
                        surveyed.store.write(key_of(new.md5), made)
        except StoreUnavailable as error:
            surveyed.failed = str(error)

    def _rewritten(self, place: Worktree) -> Outcome:
        store = "workspace" if place.root == self.root.resolve() else f"worktree {place.root.name}"
        if place in self.busy:
            return Outcome(store, Result.UNREACHABLE, reason=self.busy[place])
        return _outcome(store, self.rewrite(place, self.tokens))

    def rewrite(self, place: Worktree, tokens: BitMap) -> list[str]:
        """What a worktree has of these people; what was changed, by path."""
        return place.rewrite(
            tokens,
            replaced=self.replaced,
            gone=self.found.gone,
            models=self.found.models,
            serving=self.found.withheld.union(self.serving or ()),
        )

    def _turn_branches(self) -> Outcome | None:
        """Branches that nobody has checked out get a commit that names the rewritten shards."""
        turned: list[str] = []
        failed: list[str] = []
        for branch, content in self.branches.items():
            updated = updated_lock(
                content.decode(), self.replaced, gone=self.found.gone, models=self.found.models
            )
            if updated != content.decode():
                done = commit_files(self.root, branch, {str(LOCK): updated.encode()})
                (turned if done else failed).append(branch.removeprefix("refs/heads/"))
        if failed:
            reason = f"{len(failed)} branches moved meanwhile, or git refuses to commit"
            return Outcome("branches", Result.PRESENT, len(failed), tuple(failed), reason)
        return _outcome("branches", turned) if self.branches else None

    def _clear_temporary(self) -> Outcome:
        store = "temporary folders"
        removed, unreadable = [], []
        reasons = list(self.busy.values())
        for place in self.places:
            if place not in self.busy:
                try:
                    gone, damaged = place.clear_temporary(self.tokens)
                except Busy as error:
                    reasons.append(str(error))
                    continue
                removed += gone
                unreadable += damaged
        if reasons:
            reason = "; ".join(reasons)
            return Outcome(store, Result.UNREACHABLE, len(removed), tuple(removed), reason)
        return _outcome(store, removed, unreadable)

    def _remove_all(self) -> None:
        """Phase by phase over all stores, so that what names the rest goes last."""
        if self.busy:
            reason = "; ".join(self.busy.values())
            for surveyed in self.found.stores:
                surveyed.failed = surveyed.failed or reason
        self._leave_linked()
        for phase in range(3):
            for surveyed in self.found.stores:
                doomed = [o for o in self._doomed(surveyed) if self._phase(o) == phase]
                if surveyed.failed is None and doomed:
                    try:
                        surveyed.store.remove(doomed)
                        surveyed.removed += [each.md5 or each.key for each in doomed]
                    except StoreUnavailable as error:
                        surveyed.failed = str(error)

    def _doomed(self, surveyed: StoreSurvey) -> list[Object]:
        gone = self.found.gone
        runs = [
            stored
            for stored, made in surveyed.runs.items()
            if gone & {*made.outs.values(), *made.deps.values()}
        ]
        return [each for each in surveyed.objects if each.md5 in gone] + runs + surveyed.stray

    def _phase(self, stored: Object) -> int:
        """Run-cache entries and folders, then models' files, then what has the tokens."""
        if stored.is_run or (stored.md5 or "").endswith(".dir"):
            return 0
        return 2 if stored.md5 in self.found.held else 1

    def _leave_linked(self) -> None:
        """Leaves what has a hard link in an unknown place, where it could not be followed."""
        folders = [s for s in self.found.stores if isinstance(s.store, FolderObjects)]
        for surveyed in folders:
            if surveyed.failed is not None or not isinstance(surveyed.store, FolderObjects):
                continue
            others = [
                other.store.path(each)
                for other in folders
                if other is not surveyed and isinstance(other.store, FolderObjects)
                for each in self._doomed(other)
            ]
            linked = surveyed.store.linked_elsewhere(self._doomed(surveyed), others)
            if linked:
                surveyed.failed = (
                    f"{len(linked)} objects of {surveyed.store.name} have hard links outside of "
                    "the known worktrees, which would keep the person. Purge there, or remove "
                    "them: find -samefile names them."
                )

    def _outcomes(self, surveyed: StoreSurvey) -> Iterable[Outcome]:
        store = surveyed.store
        damaged = [
            each.key
            for each in surveyed.unreadable
            if (each.md5 or each.key) not in surveyed.removed  # by its name, which others bear out
        ]
        runs = [each for each in surveyed.removed if each.startswith("runs/")]
        rest = [each for each in surveyed.removed if not each.startswith("runs/")]
        if store.run_cache is None:
            return [_outcome(store.name, surveyed.removed, damaged, surveyed.failed)]
        return [
            _outcome(store.name, rest, damaged, surveyed.failed),
            _outcome(store.run_cache, runs, (), surveyed.failed),
        ]


def open_stores(root: Path, roots: list[Path]) -> list[Objects | tuple[str, str]]:
    """Every cache of the worktrees and every remote; (name, why) for one that cannot be opened."""
    stores: list[Objects | tuple[str, str]] = list(open_caches(roots))
    for name in remote_names(root):
        try:
            stores.append(open_remote(root, name))
        except StoreUnavailable as error:
            stores.append((f"remote {name}", str(error)))
    return stores


def _outcome(
    store: str, places: Collection[str], unreadable: Collection[str] = (), failed: str | None = None
) -> Outcome:
    if failed is None and unreadable:
        failed = f"{len(unreadable)} damaged objects cannot be looked into: {sorted(unreadable)}."
    if failed is not None:
        return Outcome(store, Result.UNREACHABLE, len(places), tuple(sorted(places)), failed)
    if not places:
        return Outcome(store, Result.ABSENT)
    return Outcome(store, Result.ERASED, len(places), tuple(sorted(places)))


def _read_journal(root: Path) -> tuple[dict[str, Replacement], set[str], set[str]]:
    """What became what, what goes, and models whose end waits for the registry."""
    try:
        noted = read_json(root / JOURNAL)
    except FileNotFoundError:
        return {}, set(), set()
    with damage(lambda: FileDamaged(f"{JOURNAL} is not as Lethe writes it. Restore it.")):
        withheld = set(noted.get("withheld", ()))
        if not noted["written"]:
            return {}, set(), withheld  # nothing turned to the new yet, and nothing went
        replaced = {old: Replacement(**new) for old, new in noted["replaced"].items()}
        return replaced, set(noted["gone"]), withheld
