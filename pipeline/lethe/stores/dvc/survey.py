"""What of an erased person DVC keeps: looked up by content, in every cache and remote at once.

A file is held if it has one of the tokens. From that follows what else must go: a folder that
names a held file, a model whose manifest was held, its files, and every run-cache entry that
names any of these. What a remaining folder or lock still names stays.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyroaring import BitMap

from lethe.config import workspace
from lethe.core.errors import LetheError, StoreUnavailable
from lethe.core.reading import parse_data
from lethe.stores.dvc.content import Unreadable, holds
from lethe.stores.dvc.git import Made, parse_run
from lethe.stores.dvc.objects import FolderObjects, Object, Objects

Entries = list[dict[str, Any]]  # of a folder: {md5, relpath} each


@dataclass
class StoreSurvey:
    """One store as it was found; `failed` says why it could not be looked through."""

    store: Objects
    objects: list[Object] = field(default_factory=list)
    runs: dict[Object, Made] = field(default_factory=dict)
    stray: list[Object] = field(default_factory=list)  # not stored by hash, yet holds somebody
    unreadable: list[Object] = field(default_factory=list)
    failed: str | None = None
    removed: list[str] = field(default_factory=list)

    def having(self, md5: str) -> list[Object]:
        return [each for each in self.objects if each.md5 == md5 and not each.marker]


@dataclass
class Survey:
    """Hashes by what is to become of them."""

    stores: list[StoreSurvey]
    held: set[str] = field(default_factory=set)  # files that have a token
    folders: dict[str, Entries] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)  # model outputs that go
    withheld: set[str] = field(default_factory=set)  # that may be in use, which nobody can say
    gone: set[str] = field(default_factory=set)  # everything that goes

    def fetch(self, md5: str) -> bytes | None:
        """An object's bytes from wherever they are."""
        for surveyed in self.stores:
            for stored in surveyed.having(md5):
                content = surveyed.store.read(stored)
                if md5_of(content) == md5.removesuffix(".dir"):  # else it is damaged there
                    return content
        return None

    def touched(self, md5: str) -> bool:
        """Whether an output has, or is, something held."""
        return md5 in self.held or any(e.get("md5") in self.held for e in self.folders.get(md5, ()))


def survey(
    stores: Iterable[Objects | tuple[str, str]],
    tokens: BitMap,
    made: Iterable[Made],
    *,
    models: Collection[str] = (),
    serving: Collection[str] | None = (),
    before: Collection[str] = (),
    holding: Callable[[bytes | Path, str | None], bool] | None = None,
) -> Survey:
    """Looks through every store.

    Args:
        stores: what to look through.
        made: every stage of every lock; the run-caches' are added.
        models: further `model` outputs that are to go.
        serving: `model` outputs that stay for now although their manifests are held; None where
            nobody can say which they are: each that might go is `withheld`.
        before: hashes that an interrupted purge had already found to go.
        holding: whether a file is held, by its bytes and hash; by default one with a token.
    """
    judged = holding or (lambda source, md5: holds(source, tokens))
    found = Survey([])
    verdicts: dict[str, bool] = {}
    for store in stores:
        if isinstance(store, tuple):
            found.stores.append(StoreSurvey(_Closed(store[0]), failed=store[1]))
            continue
        surveyed = StoreSurvey(store)
        found.stores.append(surveyed)
        try:
            _look(surveyed, judged, verdicts, found.folders)
        except StoreUnavailable as error:
            surveyed.failed = str(error)
    found.held = {md5 for md5, held in verdicts.items() if held}
    stages = [*made, *(run for surveyed in found.stores for run in surveyed.runs.values())]
    learned = {
        model
        for stage in stages
        if (model := stage.out(workspace.MODEL))
        and stage.out(workspace.MANIFEST) in found.held | set(before)
    }
    if serving is None:
        found.withheld = (learned | set(models)) - {""}
    else:
        found.models = (learned - set(serving)) | set(models)
    decide(found, stages, before)
    return found


def decide(found: Survey, stages: Iterable[Made], before: Collection[str]) -> None:
    """What goes, once it is known which files are held and which models must go."""
    stages = list(stages)
    folders = {m for m in found.folders if found.touched(m)} | (found.models | set(before)) & set(
        found.folders
    )
    remaining = {
        str(entry.get("md5"))
        for md5, entries in found.folders.items()
        if md5 not in folders
        for entry in entries
    } | {
        md5
        for stage in stages
        for path, md5 in stage.outs.items()
        if path != workspace.MODEL.as_posix()
    }
    doomed = {
        str(entry.get("md5"))
        for md5 in found.models & set(found.folders)
        for entry in found.folders[md5]
    }
    found.gone = found.held | folders | found.models | (doomed - remaining) | set(before)


def _look(
    surveyed: StoreSurvey,
    judged: Callable[[bytes | Path, str | None], bool],
    verdicts: dict[str, bool],
    folders: dict[str, Entries],
) -> None:
    surveyed.objects = surveyed.store.objects()
    for stored in surveyed.objects:
        md5 = stored.md5
        if stored.marker or md5 in verdicts:
            continue
        if stored.is_half_written:
            surveyed.stray.append(stored)
            continue
        if stored.is_run:
            try:
                surveyed.runs[stored] = parse_run(surveyed.store.read(stored))
            except LetheError as error:
                if isinstance(error, StoreUnavailable):
                    raise
                surveyed.unreadable.append(stored)
        elif md5 is not None and md5.endswith(".dir"):
            entries = entries_of(surveyed.store.read(stored), md5)  # in each store: each may lie
            if entries is None:
                surveyed.unreadable.append(stored)
            else:
                folders[md5] = entries
        else:
            try:
                held = judged(_source(surveyed.store, stored), md5)
            except Unreadable:
                surveyed.unreadable.append(stored)
                continue
            if md5 is not None:
                verdicts[md5] = held
            elif held:
                surveyed.stray.append(stored)


def _source(store: Objects, stored: Object) -> bytes | Path:
    """The file where there is one: then only what is asked for is read of it."""
    return store.path(stored) if isinstance(store, FolderObjects) else store.read(stored)


def entries_of(content: bytes, md5: str) -> Entries | None:
    """What a folder's object lists; None unless it is the listing that its name says.

    Whoever can write to a cache or a remote could otherwise hide a shard from an erasure, by a
    listing without it, or have others' files removed, by one that has them.
    """
    if md5_of(content) != md5.removesuffix(".dir"):
        return None
    try:
        entries = parse_data(content)
    except ValueError:
        return None
    sound = isinstance(entries, list) and all(isinstance(each, dict) for each in entries)
    return entries if sound else None


def md5_of(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class _Closed:
    """A store that could not even be opened."""

    run_cache = None

    def __init__(self, name: str) -> None:
        self.name = name

    def objects(self) -> list[Object]:
        return []

    def read(self, stored: Object) -> bytes:
        raise StoreUnavailable(f"{self.name} is closed.")

    def write(self, key: str, content: bytes) -> None:
        raise StoreUnavailable(f"{self.name} is closed.")

    def remove(self, stored: Iterable[Object]) -> None:
        raise StoreUnavailable(f"{self.name} is closed.")
