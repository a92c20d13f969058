"""A fresh look for people in everything that DVC keeps, and in the worktrees around it.

Opens every object of every cache and remote, every version of it in a bucket that keeps them,
and every file of the worktrees, and knows nothing of what a purge says that it did.
"""

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pyroaring import BitMap

from pipeline import workspace
from pipeline.errors import LetheError, StoreUnavailable
from pipeline.records import Outcome, Traces
from pipeline.stores.history_content import Unreadable, holds, texts
from pipeline.stores.history_locks import (
    Made,
    committed_locks,
    git_objects,
    parse_run,
    worktrees,
)
from pipeline.stores.history_objects import FolderObjects, Object, Objects
from pipeline.stores.history_purge import open_stores
from pipeline.stores.history_worktree import STAGING, Worktree
from pipeline.stores.searching import Needles, needles

_SQLITE = b"SQLite format 3\0"  # databases are stores of their own, which look by themselves
_LEFT_OUT = (".git", ".venv", ".venv-airflow", "__pycache__")
_TEMPORARY = (
    Path(".dvc/tmp"),
    workspace.TEMPORARY,
    STAGING,
    workspace.MINIMIZED,
    workspace.CONSENTED,
)


@dataclass
class _Look:
    """What one store showed."""

    store: str
    found: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    failed: str | None = None

    def outcome(self) -> Outcome:
        places = tuple(sorted(self.found))
        if places:
            reason = f"the person is still in {len(places)} places"
            return Outcome(self.store, "not attempted", len(places), places, reason)
        if self.failed is not None:
            return Outcome(self.store, "not attempted", reason=self.failed)
        if self.unreadable:
            reason = f"{len(self.unreadable)} damaged files cannot be looked into"
            return Outcome(
                self.store, "not attempted", reason=reason, places=tuple(sorted(self.unreadable))
            )
        return Outcome(self.store, "nothing found")


def verify_history(
    root: Path,
    tokens: BitMap,
    *,
    traces: Traces | None = None,
    models: Collection[str] = (),
    serving: Collection[str] = (),
    skip: Iterable[Path] = (),
) -> list[Outcome]:
    """Looks for people in every store of DVC and in every worktree; one outcome a store.

    "nothing found" is what an erasure waits for. Whatever is still there, or could not be looked
    into, is "not attempted", with a count, the places and the reason.

    Args:
        root: the workspace.
        tokens: whom.
        traces: key and identifiers to look for in all bytes as well.
        models: hashes of models that must be gone.
        serving: hashes of models that may be there although their manifests are not.
        skip: files and folders of other stores, which look for themselves (a source in files).
    """
    look = _Verification(root, tokens, needles(traces), set(models), set(serving))
    outcomes = [each.outcome() for each in look.at_stores()]
    for each in look.at_worktrees([path.resolve() for path in skip]):
        outcomes.append(each.outcome())
    if look.needles:
        outcomes.append(look.at_git().outcome())
    return outcomes


class _Verification:
    def __init__(
        self,
        root: Path,
        tokens: BitMap,
        sought: Needles,
        models: set[str],
        serving: set[str],
    ) -> None:
        self.root = root
        self.tokens = tokens
        self.needles = sought
        self.models = models
        self.serving = serving
        self.roots = worktrees(root)
        self.stores = open_stores(root, self.roots)

    def at_stores(self) -> list[_Look]:
        looks: list[_Look] = []
        held: dict[str, list[tuple[_Look, str]]] = {}  # md5 → where it lies
        stages: list[Made] = [made for lock in committed_locks(self.root) for made in lock.stages]
        for place in self.roots:
            stages += Worktree(place).lock()
        for store in self.stores:
            if isinstance(store, tuple):
                looks.append(_Look(store[0], failed=store[1]))
                continue
            look = _Look(store.name)
            runs = _Look(store.name.replace("cache", "run-cache", 1))
            remote = store.name.startswith("remote ")
            looks += [look] if remote else [look, runs]
            try:
                for stored in store.objects():
                    self._look_at(store, stored, look if remote or not stored.is_run else runs)
                    if stored.md5 is not None and not stored.marker:
                        held.setdefault(stored.md5, []).append((look, stored.md5))
                    if stored.is_run and not stored.marker:
                        stages.append(_run_of(store, stored))
            except StoreUnavailable as error:
                look.failed = runs.failed = str(error)
        self._models(stages, held)
        return looks

    def _look_at(self, store: Objects, stored: Object, look: _Look) -> None:
        if stored.marker:
            return
        content = store.read(stored)
        name = stored.md5 or stored.key
        try:
            if self._is_in(content):
                look.found.append(name)
        except Unreadable:
            look.unreadable.append(name)

    def _models(self, stages: list[Made], held: dict[str, list[tuple[_Look, str]]]) -> None:
        """Models that must be gone; and any whose manifest is nowhere, so that nobody can say.

        A purge takes a model before its manifest; so one that has lost it was left behind.
        """
        for made in stages:
            model, manifest = made.out(workspace.MODEL), made.out(workspace.MANIFEST)
            orphan = manifest is not None and manifest not in held and model not in self.serving
            if model is not None and (model in self.models or orphan):
                self.models.add(model)
        for model in self.models:
            for look, name in held.get(model, ()):
                look.found.append(name)

    def _is_in(self, content: bytes) -> bool:
        if holds(content, self.tokens):
            return True
        if not self.needles:
            return False
        return self.needles.in_bytes(content) or any(
            self.needles.in_column(column) for column in texts(content)
        )

    def at_worktrees(self, skip: list[Path]) -> list[_Look]:
        looks = []
        temporary = _Look("temporary folders")
        own = [s.base.resolve() for s in self.stores if isinstance(s, FolderObjects)]
        for place in self.roots:
            name = "workspace" if place == self.root.resolve() else f"worktree {place.name}"
            look = _Look(name)
            looks.append(look)
            away = [*own, *skip, *(other for other in self.roots if other != place)]
            for path in _files(place, away):
                below = path.relative_to(place)
                where = temporary if any(below.is_relative_to(t) for t in _TEMPORARY) else look
                self._look_in(path, below.as_posix(), where)
        return [*looks, temporary]

    def _look_in(self, path: Path, name: str, look: _Look) -> None:
        try:
            content = path.read_bytes()
            if not content.startswith(_SQLITE) and self._is_in(content):
                look.found.append(name)
        except FileNotFoundError:
            return  # went while we looked: a run's own temporary file
        except (Unreadable, OSError):
            look.unreadable.append(name)

    def at_git(self) -> _Look:
        """Every object of git, reachable or not; names of what is in them are hashes."""
        look = _Look("git history")
        for name, content in git_objects(self.root):
            if self.needles.in_bytes(content):
                look.found.append(name)
        return look


def _run_of(store: Objects, stored: Object) -> Made:
    try:
        return parse_run(store.read(stored))
    except StoreUnavailable:
        raise
    except LetheError:
        return Made("", {}, {})


def _files(root: Path, away: Collection[Path]) -> Iterator[Path]:
    """Every file below a worktree; links are not followed, what they lead to is elsewhere."""

    def inside(path: Path) -> bool:
        return path.resolve() in away

    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = [f for f in folders if f not in _LEFT_OUT and not inside(here / f)]
        for name in names:
            path = here / name
            if name != ".git" and not path.is_symlink() and not inside(path):
                yield path
