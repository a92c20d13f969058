"""One worktree as an erasure meets it: held against runs, rewritten, its lock updated.

Files are replaced, never written into: a hard link or reflink of the old file, in DVC's cache
or in another worktree, keeps its own bytes.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from pyroaring import BitMap

from lethe.config import workspace
from lethe.config.home import experiments
from lethe.config.transcripts import PEOPLE, TRANSCRIPTS
from lethe.core import locks
from lethe.core.errors import Busy, FileDamaged
from lethe.core.files import read_json, write_whole
from lethe.core.reading import TRIPPED, damage
from lethe.stores.dvc.content import Unreadable, holds, without
from lethe.stores.dvc.git import LOCK, Made, no_lock, parse_lock
from lethe.stores.dvc.settings import read_settings
from lethe.stores.dvc.survey import Entries, md5_of

STAGING = workspace.STATE / "staging"  # what train keeps until it is published
_TRAIN_LOCK = workspace.STATE / "train.lock"
_STAGING_LOCK = (
    workspace.STATE / "staging.lock"
)  # which trainings share, those in other worktrees too
_TEMPORARY = (workspace.MINIMIZED, workspace.CONSENTED, workspace.TEMPORARY)
_DVC_TEMPORARY = Path(".dvc/tmp")


@dataclass(frozen=True)
class Replacement:
    """What an output became: its new hash and size, in bytes with all of its files."""

    md5: str
    size: int


class Worktree:
    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the worktree, as DVC and train do.

        Raises:
            Busy: a run is under way in it.
        """
        busy = f"A run is under way in {self.root.name}. The next run continues."
        with ExitStack() as held:
            held.enter_context(_dvc_lock(self.root, busy))
            held.enter_context(locks.held(self.root / _TRAIN_LOCK, busy=busy))
            if _running(self.root):
                raise Busy(busy)
            yield

    def lock(self) -> tuple[Made, ...]:
        """The stages of its own `dvc.lock`; none before anything ran."""
        try:
            return parse_lock((self.root / LOCK).read_bytes())
        except FileNotFoundError:
            return ()

    def people_files(self) -> list[Path]:
        """The files of the pipeline that have tokens in them."""
        files = sorted((self.root / workspace.SHARDS).glob("*.parquet"))
        named = (workspace.SUBJECTS, workspace.MANIFEST)
        return files + [self.root / path for path in named if (self.root / path).is_file()]

    def held(self, tokens: BitMap) -> list[Path]:
        """Those that have one of these."""
        return [path for path in self.people_files() if holds(path, tokens)]

    def rewrite(
        self,
        tokens: BitMap,
        *,
        replaced: Mapping[str, Replacement],
        gone: set[str],
        models: set[str],
        serving: set[str],
    ) -> list[str]:
        """Takes people out of the files, then says so in the lock; what was changed, by path.

        Of a model with one of the people in it an empty folder and an empty manifest stay, unless
        it still serves: `dvc pull` finds what the lock names, and `dvc repro` trains anew.
        """
        changed: list[str] = []
        for folder in (workspace.SHARDS, workspace.SUBJECTS.parent, Path()):
            for half_written in (self.root / folder).glob(".*.tmp"):  # by a purge that was cut
                half_written.unlink()
        stages = self.lock()
        keeps = any(made.out(workspace.MODEL) in serving for made in stages)
        held = self.held(tokens)
        manifest = self.root / workspace.MANIFEST
        condemned = any(made.out(workspace.MODEL) in models for made in stages)
        drops = not keeps and (manifest in held or condemned)
        for path in held:
            if not (drops and path == manifest):
                content = without(path.read_bytes(), tokens)
                write_whole(path, content)
                changed.append(path.relative_to(self.root).as_posix())
        if drops:
            for path in (self.root / workspace.MODEL, manifest):
                if path.exists():
                    changed.append(path.relative_to(self.root).as_posix())
            # The lock, then the manifest, say that the model must go: they outlive it.
            self.empty(workspace.MODEL, workspace.MANIFEST)
        if self._update(replaced, gone, models):
            changed.append(LOCK.as_posix())
        return changed

    def empty(self, folder: Path, listed: Path) -> None:
        """Leaves an empty folder, and beside it a file that lists nobody."""
        place = self.root / folder
        if place.is_symlink():
            place.unlink()
        elif place.exists():
            shutil.rmtree(place)
        place.mkdir()
        write_whole(self.root / listed, NOBODY)

    def _update(
        self, replaced: Mapping[str, Replacement], gone: set[str], models: set[str]
    ) -> bool:
        try:
            content = (self.root / LOCK).read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        updated = updated_lock(content, replaced, gone=gone, models=models)
        if updated == content:
            return False
        write_whole(self.root / LOCK, updated.encode())
        return True

    def clear_temporary(self, tokens: BitMap) -> tuple[list[str], list[str]]:
        """(removed, unreadable) of what runs leave behind; only while nothing runs.

        Raises:
            Busy: a run trains, and keeps its checkpoint here; nothing was removed.
        """
        busy = "A run trains. The next run continues."
        with locks.held(self.root / _STAGING_LOCK, busy=busy):
            return self._clear_temporary(tokens)

    def _clear_temporary(self, tokens: BitMap) -> tuple[list[str], list[str]]:
        removed = [path for each in _TEMPORARY if (path := self.root / each).exists()]
        for run in sorted((self.root / STAGING).glob("*")):
            # A checkpoint does not say whose it is; no run goes on from it after an erasure,
            # which changes what is asked for.
            if run.is_file() or _any_holds(run, tokens):
                removed.append(run)
        for transcript in sorted((self.root / TRANSCRIPTS).glob("*")):
            if not (transcript / PEOPLE).exists() or _any_holds(transcript, tokens):
                removed.append(transcript)
        unreadable: list[str] = []
        apart = experiments(self.root)  # worktrees of their own
        for path in sorted((self.root / _DVC_TEMPORARY).rglob("*")):
            inside = any(path.is_relative_to(each) for each in apart)
            if path.is_file() and not path.is_symlink() and not inside:
                try:
                    if holds(path, tokens):
                        removed.append(path)
                except Unreadable:
                    unreadable.append(path.relative_to(self.root).as_posix())
        for path in removed:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return [path.relative_to(self.root).as_posix() for path in removed], unreadable


def updated_lock(
    content: str, replaced: Mapping[str, Replacement], *, gone: set[str], models: set[str]
) -> str:
    """`dvc.lock` with new hashes for old; without stages of which an output is lost.

    A stage whose model, or whole version of the shards, goes gets an empty one that lists
    nobody, and forgets what it came from, so that it is run again.
    """
    from dvc.utils.serialize import ParseError, parse_yaml_for_update

    parse_lock(
        content.encode()
    )  # what it refuses, the reader that keeps comments needs minutes for
    try:
        lock = parse_yaml_for_update(content, str(LOCK))
        with damage(no_lock):
            return _updated(content, lock, replaced, gone=gone, models=models)
    except ParseError:
        raise no_lock() from None


def _updated(
    content: str,
    lock: Any,
    replaced: Mapping[str, Replacement],
    *,
    gone: set[str],
    models: set[str],
) -> str:
    from dvc.utils.serialize import dumps_yaml

    stages = lock.get("stages", {})
    changed = False
    for name in list(stages):
        outs = stages[name].get("outs", ())
        if any(_is(out, *_FOLDERS) and out.get("md5") in models for out in outs):
            for out in outs:
                if _is(out, *_FOLDERS):
                    out["md5"], out["size"], out["nfiles"] = _EMPTY_FOLDER, 0, 0
                elif _is(out, workspace.MANIFEST, workspace.SUBJECTS):
                    out["md5"], out["size"] = md5_of(NOBODY), len(NOBODY)
            stages[name].pop("deps", None)
            changed = True
            continue
        if any(out.get("md5") in gone and out.get("md5") not in replaced for out in outs):
            del stages[name]
            changed = True
            continue
        for out in outs:
            if new := replaced.get(out.get("md5")):
                out["md5"], out["size"] = new.md5, new.size
                changed = True
    return str(dumps_yaml(lock)) if changed else content


def folder_object(entries: Entries) -> tuple[str, bytes]:
    """(md5, bytes) of the object by which DVC knows a folder."""
    content = json.dumps(
        sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True
    ).encode()
    return f"{md5_of(content)}.dir", content


def _is(out: Mapping[str, Any], *paths: Path) -> bool:
    return out.get("path") in {path.as_posix() for path in paths}


_FOLDERS = (workspace.MODEL, workspace.SHARDS)
NOBODY = BitMap().serialize()
_EMPTY_FOLDER, _EMPTY_FOLDER_BYTES = folder_object([])
EMPTIED = {md5_of(NOBODY): NOBODY, _EMPTY_FOLDER: _EMPTY_FOLDER_BYTES}  # objects by hash


def _any_holds(folder: Path, tokens: BitMap) -> bool:
    return any(path.is_file() and holds(path, tokens) for path in folder.rglob("*"))


@contextmanager
def _dvc_lock(root: Path, busy: str) -> Iterator[None]:
    from dvc.lock import LockError, make_lock

    folder = root / _DVC_TEMPORARY
    folder.mkdir(parents=True, exist_ok=True)
    hardlink = bool(read_settings(root)["core"].get("hardlink_lock", False))
    lock = make_lock(str(folder / "lock"), tmp_dir=str(folder), hardlink_lock=hardlink)
    try:
        lock.lock()
    except LockError:
        raise Busy(busy) from None
    try:
        yield
    finally:
        lock.unlock()


def _running(root: Path) -> bool:
    """Whether DVC runs a stage: meanwhile it lets go of its lock, but notes who reads what."""
    try:
        noted = read_json(root / _DVC_TEMPORARY / "rwlock")
    except (OSError, FileDamaged):
        return False
    with suppress(*TRIPPED):  # DVC's own file; it takes a damaged one for nobody's, too
        writers = list(noted.get("write", {}).values())
        readers = [each for infos in noted.get("read", {}).values() for each in infos]
        return any(psutil.pid_exists(int(each["pid"])) for each in [*writers, *readers])
    return False
