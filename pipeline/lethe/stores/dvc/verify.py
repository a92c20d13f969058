"""A fresh look for people in everything that DVC keeps, and in the worktrees around it.

Opens every object of every cache and remote, every version of it in a bucket that keeps them,
and every file of the worktrees, and knows nothing of what a purge says that it did.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyroaring import BitMap

from lethe.config import workspace
from lethe.config.home import experiments
from lethe.config.transcripts import TRANSCRIPTS
from lethe.core.errors import LetheError, StoreUnavailable
from lethe.core.outcomes import Outcome, Result, Traces
from lethe.stores.dvc.content import Unreadable, everybody_in, held_of, texts
from lethe.stores.dvc.git import (
    Made,
    committed_locks,
    git_objects,
    only_below,
    parse_run,
    tracked,
    worktrees,
)
from lethe.stores.dvc.objects import FolderObjects, Object, Objects
from lethe.stores.dvc.purge import open_stores
from lethe.stores.dvc.survey import entries_of
from lethe.stores.dvc.worktree import STAGING, Worktree
from lethe.stores.search.needles import TextSearch, needles

_SQLITE = b"SQLite format 3\0"  # databases are stores of their own, which look by themselves
_LEFT_OUT = (".git", ".venv", ".venv-airflow", "__pycache__")
_TEMPORARY = (
    Path(".dvc/tmp"),
    workspace.TEMPORARY,
    STAGING,
    TRANSCRIPTS,
    workspace.MINIMIZED,
    workspace.CONSENTED,
)
_UNKNOWN = (
    "these files have tokens that the vault does not know, so nobody can say whose they are: a "
    "copy with a vault of its own made them, or this vault is an older one. Restore the newest "
    "vault, or delete the files"
)


@dataclass(frozen=True)
class LookedFor:
    """Whom to look for: their tokens, key and identifiers, and models that must be gone."""

    tokens: BitMap
    traces: Traces | None = None
    models: frozenset[str] = frozenset()


@dataclass
class _Look:
    """What one store showed; who was found by their place among those looked for."""

    store: str
    found: dict[int, list[str]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)  # what has tokens of which no vault knows
    failed: str | None = None

    def note(self, number: int, place: str) -> None:
        self.found.setdefault(number, []).append(place)

    def outcome(self, number: int) -> Outcome:
        places = tuple(sorted(self.found.get(number, ())))
        if places:
            reason = f"the person is still in {len(places)} places"
            return Outcome(self.store, Result.PRESENT, len(places), places, reason)
        if self.failed is not None:
            return Outcome(self.store, Result.UNREACHABLE, reason=self.failed)
        if self.unreadable:
            reason = f"{len(self.unreadable)} damaged files cannot be looked into"
            return Outcome(
                self.store, Result.UNREACHABLE, reason=reason, places=tuple(sorted(self.unreadable))
            )
        if self.unknown:
            places = tuple(sorted(self.unknown))
            return Outcome(self.store, Result.PRESENT, len(places), places, _UNKNOWN)
        return Outcome(self.store, Result.ABSENT)


def verify_history(
    root: Path,
    tokens: BitMap,
    *,
    traces: Traces | None = None,
    models: Collection[str] = (),
    serving: Collection[str] = (),
    skip: Iterable[Path] = (),
    code: Collection[str] = (),
) -> list[Outcome]:
    """Looks for one person, or for several as if they were one: see `verify_histories`."""
    sought = LookedFor(tokens, traces, frozenset(models))
    (outcomes,) = verify_histories(root, [sought], serving=serving, skip=skip, code=code)
    return outcomes


def verify_histories(
    root: Path,
    people: Sequence[LookedFor],
    *,
    serving: Collection[str] = (),
    known: BitMap | None = None,
    skip: Iterable[Path] = (),
    code: Collection[str] = (),
) -> list[list[Outcome]]:
    """Looks for people in every store of DVC and in every worktree; of each, one outcome a store.

    `absent` is what an erasure waits for. Whatever is still there is `present`, and what could
    not be looked into is `unreachable`, with a count, the places and the reason.

    Guarantees: however many people there are, each object and each file is read once.

    Args:
        root: the workspace.
        people: whom. Key and identifiers are looked for in all bytes.
        serving: hashes of models that may be there although their manifests are not.
        known: every token of the vault; a shard or manifest with any other is reported to all.
        skip: files and folders of other stores, which look for themselves (a source in files).
        code: folders of which git's files, and their versions in git's history, are not searched
            for keys and identifiers. Tokens are looked for there too.
    """
    return Verification(root, people, set(serving), known, code).outcomes(skip)


class Verification:
    """One look for several people; `who_is_in` says what of a file is looked at first."""

    def __init__(
        self,
        root: Path,
        people: Sequence[LookedFor],
        serving: set[str],
        known: BitMap | None = None,
        code: Collection[str] = (),
    ) -> None:
        self.root = root
        self.code = code
        self.people = people
        self.tokens = BitMap().union(*(each.tokens for each in people))
        self.known = None if known is None else known | self.tokens
        self.search = TextSearch([needles(each.traces) for each in people])
        self.serving = serving
        self.roots = worktrees(root)
        self.stores = open_stores(root, self.roots)

    def outcomes(self, skip: Iterable[Path]) -> list[list[Outcome]]:
        """Of each of the people, one a store."""
        looks = [*self.at_stores(), *self.at_worktrees([path.resolve() for path in skip])]
        git = self.at_git() if self.search else None
        self.search.flush()
        return [
            [each.outcome(number) for each in looks]
            + ([git.outcome(number)] if git is not None and needles(each.traces) else [])
            for number, each in enumerate(self.people)
        ]

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
            runs = look if store.run_cache is None else _Look(store.run_cache)
            looks += [look] if runs is look else [look, runs]
            try:
                for stored in store.objects():
                    self._look_at(store, stored, runs if stored.is_run else look)
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
        content, md5 = store.read(stored), stored.md5
        if md5 is not None and md5.endswith(".dir") and entries_of(content, md5) is None:
            look.unreadable.append(md5)  # nobody can say what it is to hide, or to lead to
        self._look_into(content, md5 or stored.key, look)

    def _models(self, stages: list[Made], held: dict[str, list[tuple[_Look, str]]]) -> None:
        """Models that must be gone; and any whose manifest is nowhere, so that nobody can say.

        A purge takes a model before its manifest; so one that has lost it was left behind.
        """
        orphans = set()
        for made in stages:
            model, manifest = made.out(workspace.MODEL), made.out(workspace.MANIFEST)
            if model is not None and model not in self.serving:
                orphans |= {model} if manifest is not None and manifest not in held else set()
        for number, each in enumerate(self.people):
            for model in each.models | orphans:
                for look, name in held.get(model, ()):
                    look.note(number, name)

    def who_is_in(self, content: bytes) -> set[int]:
        """Whose token, or whose value in a compressed column, a file has in it.

        Raises:
            Unreadable: it is a damaged Parquet file.
        """
        found = self.with_tokens(content)
        for name, column in texts(content) if self.search else ():
            found |= self.search.in_column(column, of_subjects=name == "subject")
        return found

    def with_tokens(self, content: bytes) -> set[int]:
        """Whose token a file has in it.

        Raises:
            Unreadable: it is a damaged Parquet file.
        """
        held = held_of(content, self.tokens)
        return {number for number, each in enumerate(self.people) if each.tokens & held}

    def _look_into(self, content: bytes, name: str, look: _Look, *, code: bool = False) -> None:
        """Notes who is in a file; whose values are in its bytes is noted when the search ends."""
        try:
            found = self.with_tokens(content) if code else self.who_is_in(content)
            if self.known is not None and everybody_in(content) - self.known:
                look.unknown.append(name)
        except Unreadable:
            look.unreadable.append(name)
            return
        for number in found:
            look.note(number, name)
        if not code:
            self._sweep(content, name, look, found)

    def _sweep(self, content: bytes, name: str, look: _Look, known: set[int]) -> None:
        def found_in(number: int) -> None:
            if number not in known:
                known.add(number)
                look.note(number, name)

        self.search.add(content, found_in)

    def at_worktrees(self, skip: list[Path]) -> list[_Look]:
        looks = []
        temporary = _Look("temporary folders")
        own = [s.base.resolve() for s in self.stores if isinstance(s, FolderObjects)]
        for place in self.roots:
            name = "workspace" if place == self.root.resolve() else f"worktree {place.name}"
            look = _Look(name)
            looks.append(look)
            away = [*own, *skip, *(other for other in self.roots if other != place)]
            code = tracked(place, self.code)
            for path in _files(place, away):
                below = path.relative_to(place)
                where = temporary if any(below.is_relative_to(t) for t in _TEMPORARY) else look
                self._look_in(path, below.as_posix(), where, code=path in code)
        return [*looks, temporary]

    def _look_in(self, path: Path, name: str, look: _Look, *, code: bool) -> None:
        try:
            with path.open("rb") as file:
                if file.read(len(_SQLITE)) != _SQLITE:
                    file.seek(0)
                    self._look_into(file.read(), name, look, code=code)
        except FileNotFoundError:
            return  # went while we looked: a run's own temporary file
        except OSError:
            look.unreadable.append(name)

    def at_git(self) -> _Look:
        """Every object of git, reachable or not; names of what is in them are hashes."""
        look = _Look("git history")
        # An experiment in a folder of its own is a repository of its own as well.
        apart = [each for place in self.roots for each in experiments(place)]
        for repository in (self.root, *apart):
            code = only_below(repository, self.code)
            for name, content in git_objects(repository):
                if name not in code:
                    self._sweep(content, name, look, set())
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
