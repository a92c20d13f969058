"""Fetching from DVC's remotes, sending to them, and removing what no lock names any more.

Only what a `dvc.lock` names is fetched or sent, and DVC caches all of it: what still has subject
keys is declared `cache: false`, so nothing of that is ever on its way.
"""

import configparser
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from lethe.core.errors import ParamsInvalid, StoreUnavailable
from lethe.stores.dvc.git import LOCK, parse_lock, reachable_locks, worktrees
from lethe.stores.dvc.library import opened_repo
from lethe.stores.dvc.objects import FolderObjects, Object, key_of, open_remote, remote_names
from lethe.stores.dvc.settings import cache_folder
from lethe.stores.dvc.survey import entries_of, md5_of

_HELD = ("rwlock", "lock")  # DVC's notes of who is at work


def refuse_relative_remote(root: Path) -> None:
    """A remote named from where the workspace lies is another, empty one where a pod lies.

    Raises:
        ParamsInvalid: the default remote is such a one, or there is none.
    """
    written = configparser.ConfigParser(interpolation=None, strict=False)
    written.read([root / ".dvc" / "config", root / ".dvc" / "config.local"])
    name = written.get("core", "remote", fallback="")
    url = written.get(f"'remote \"{name}\"'", "url", fallback="")
    if "://" not in url and not Path(url).is_absolute():
        raise ParamsInvalid(
            f".dvc/config: the default remote {name!r} is at {url!r}, which in a pod is nowhere. "
            "Give it an address that is the same on every machine, and commit that."
        )


def pull(root: Path, paths: Collection[str]) -> set[str]:
    """Fetches what `dvc.lock` names at these paths, and puts it there.

    Returns:
        The hashes that no remote has; the paths that need them are not complete.

    Raises:
        StoreUnavailable: a remote does not answer; then nothing says that it is not there.
    """
    return missing(root, paths) if paths and not _pulled(root, paths) else set()


def push(root: Path, paths: Collection[str]) -> None:
    """Gives the remote what `dvc.lock` names at these paths, and nothing else.

    Raises:
        StoreUnavailable: it does not take it.
    """
    from dvc.exceptions import DvcException

    if not paths:
        return
    refused = StoreUnavailable("DVC's remote does not take the outputs. The stage may be retried.")
    with opened_repo(root) as repo:
        try:
            repo.push(targets=_below(root, paths))
        except (DvcException, OSError):
            raise refused from None
    if missing(root, paths):
        raise refused


def missing(root: Path, paths: Collection[str]) -> set[str]:
    """The hashes that `dvc.lock` has for these paths, files of folders too, that no remote has.

    Raises:
        StoreUnavailable: a remote does not answer.
    """
    wanted = {md5 for made in _lock(root) for path, md5 in made.items() if path in paths}
    for name in remote_names(root):
        store = open_remote(root, name)
        stored = {each.md5: each for each in store.objects() if each.md5 and not each.marker}
        have = set(stored)
        for folder in [md5 for md5 in wanted & stored.keys() if md5.endswith(".dir")]:
            entries = entries_of(store.read(stored[folder]), folder)
            if entries is None:  # damaged there
                have.discard(folder)
            wanted |= {str(entry.get("md5")) for entry in entries or ()}
        wanted -= have
    return wanted


def forget_unnamed(root: Path, lock: bytes) -> int:
    """Takes from the remotes what one lock names and no other does; how many objects.

    A model is found by whom it was trained on only through a lock that names both. So what a
    run left on the remotes goes when the last lock goes that names it.

    Raises:
        StoreUnavailable: a remote does not answer.
    """
    named = {md5 for made in reachable_locks(root) for md5 in made.outs.values()}
    for place in worktrees(root):
        named |= {md5 for made in _lock(place) for md5 in made.values()}
    doomed = {md5 for made in parse_lock(lock) for md5 in made.outs.values()} - named
    count = 0
    for name in remote_names(root) if doomed else ():
        store = open_remote(root, name)
        stored = [each for each in store.objects() if each.md5 and not each.marker]
        kept, own = set(named), set(doomed)
        for each in stored:
            if each.md5 is not None and each.md5.endswith(".dir"):
                entries = {str(e.get("md5")) for e in entries_of(store.read(each), each.md5) or ()}
                kept, own = (kept, own | entries) if each.md5 in doomed else (kept | entries, own)
        goes = sorted(
            (each for each in stored if each.md5 in own - kept),
            key=lambda each: not (each.md5 or "").endswith(".dir"),  # folders before their files
        )
        store.remove(goes)
        count += len(goes)
    return count


def fetch_into_cache(root: Path, lock: bytes) -> int:
    """Brings what a lock names from the remotes into the workspace's cache; how many objects.

    What no remote has stays missing: whoever needs it finds that out.

    Raises:
        StoreUnavailable: a remote or the cache does not answer.
    """
    cache = FolderObjects("cache", cache_folder(root))
    have = {each.md5 for each in cache.objects()}
    wanted = [md5 for made in parse_lock(lock) for md5 in made.outs.values()]
    count = 0
    for name in remote_names(root):
        store = open_remote(root, name)
        stored = {each.md5: each for each in store.objects() if each.md5 and not each.marker}
        waiting = list(wanted)
        while waiting:
            md5 = waiting.pop()
            if md5 not in have and md5 in stored:
                content = store.read(stored[md5])
                if md5_of(content) != md5.removesuffix(".dir"):
                    continue  # damaged there
                cache.write(key_of(md5), content)
                have.add(md5)
                count += 1
            if md5.endswith(".dir") and md5 in have:
                content = cache.read(Object(key_of(md5)))
                waiting += [str(entry.get("md5")) for entry in entries_of(content, md5) or ()]
    return count


def content_of(root: Path, md5: str) -> bytes | None:
    """An object's bytes from a remote; None if none has it.

    Raises:
        StoreUnavailable: a remote does not answer.
    """
    for name in remote_names(root):
        store = open_remote(root, name)
        found: Object | None = next(
            (each for each in store.objects() if each.md5 == md5 and not each.marker), None
        )
        if found is not None:
            return store.read(found)
    return None


def clear_held(root: Path) -> None:
    """Removes DVC's notes of a pod that is gone: process numbers there mean nothing here.

    Only for who holds the folder alone.
    """
    for name in _HELD:
        (root / ".dvc" / "tmp" / name).unlink(missing_ok=True)


def _pulled(root: Path, paths: Collection[str]) -> bool:
    from dvc.exceptions import DvcException

    with opened_repo(root) as repo, suppress(DvcException, OSError):
        repo.pull(targets=_below(root, paths))
        return True
    return False


def _below(root: Path, paths: Collection[str]) -> list[str]:
    """As DVC finds them from whatever folder this process is in."""
    return [str(root.absolute() / path) for path in sorted(paths)]


def _lock(root: Path) -> list[dict[str, str]]:
    try:
        return [dict(made.outs) for made in parse_lock((root / LOCK).read_bytes())]
    except FileNotFoundError:
        return []
