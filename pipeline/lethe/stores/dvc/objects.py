"""Where DVC keeps bytes: its caches, and remotes in folders and in S3 buckets, all asked alike.

An object's key is its path below the store, `files/md5/ab/cdef…` or `runs/ab/…`; DVC 2 left
`ab/cdef…`. In a bucket that keeps versions, every version of a key is an object of its own, and
is read and removed as such: to delete a key there would only hide it.
"""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lethe.core.errors import StoreUnavailable
from lethe.core.waiting import CONNECT_S, waiting
from lethe.stores.dvc.settings import cache_folder, read_settings

_KEY = re.compile(r"(?:files/md5/)?([0-9a-f]{2})/([0-9a-f]{30}(?:\.dir)?)$")
_RUNS = "runs/"
_STAGED = ".lethe-"  # begins the name of what is being written


@dataclass(frozen=True)
class Object:
    """One stored object; `version` is the bucket's, `marker` a deletion that hides others."""

    key: str
    version: str | None = None
    marker: bool = False

    @property
    def md5(self) -> str | None:
        """Its hash (a folder's ends in `.dir`); None for what is not content by hash."""
        found = _KEY.fullmatch(self.key)
        return found[1] + found[2] if found else None

    @property
    def is_half_written(self) -> bool:
        """Whether a purge that was cut left it."""
        return self.key.rpartition("/")[2].startswith(_STAGED)

    @property
    def is_run(self) -> bool:
        """Whether it is an entry of the run-cache."""
        return self.key.startswith(_RUNS)


def key_of(md5: str) -> str:
    return f"files/md5/{md5[:2]}/{md5[2:]}"


class Objects(Protocol):
    """A cache or a remote. `run_cache` is what a cache's run-cache is called in receipts; None
    for a remote, which keeps its own among the rest.

    Raises (every method):
        StoreUnavailable: it does not answer, or refuses.
    """

    @property
    def name(self) -> str: ...
    @property
    def run_cache(self) -> str | None: ...
    def objects(self) -> list[Object]: ...
    def read(self, stored: Object) -> bytes: ...
    def write(self, key: str, content: bytes) -> None: ...
    def remove(self, stored: Iterable[Object]) -> None: ...


class FolderObjects:
    """A cache, or a remote in a folder."""

    def __init__(self, name: str, base: Path, *, run_cache: str | None = None) -> None:
        self.name = name
        self.run_cache = run_cache
        self.base = base

    def objects(self) -> list[Object]:
        with _as_users_error(self.name):
            return [
                Object(Path(folder, name).relative_to(self.base).as_posix())
                for folder, _, names in os.walk(self.base, onerror=_raise)
                for name in names
            ]

    def path(self, stored: Object) -> Path:
        return self.base / stored.key

    def read(self, stored: Object) -> bytes:
        with _as_users_error(self.name):
            return self.path(stored).read_bytes()

    def write(self, key: str, content: bytes) -> None:
        target = self.base / key
        with _as_users_error(self.name):
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=_STAGED, dir=target.parent)
            staged = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                staged.chmod(0o444)  # as DVC does: nobody edits an object in place
                staged.replace(target)
            finally:
                staged.unlink(missing_ok=True)

    def remove(self, stored: Iterable[Object]) -> None:
        with _as_users_error(self.name):
            for each in stored:
                self.path(each).unlink(missing_ok=True)
                for parent in self.path(each).parents:
                    if parent == self.base or any(parent.iterdir()):
                        break
                    parent.rmdir()

    def linked_elsewhere(self, stored: Iterable[Object], known: Iterable[Path] = ()) -> list[str]:
        """Objects whose bytes have a hard link that is neither here nor among the known."""
        links: dict[tuple[int, int], int] = {}  # as the disk counts them
        seen: dict[tuple[int, int], int] = {}
        names: dict[tuple[int, int], str] = {}
        ours = {self.path(each): each.key for each in stored}
        for path in [*ours, *known]:
            try:
                stat = path.lstat()
            except FileNotFoundError:
                continue
            inode = (stat.st_dev, stat.st_ino)
            links[inode] = stat.st_nlink
            seen[inode] = seen.get(inode, 0) + 1
            if path in ours:
                names[inode] = ours[path]
        return sorted(key for inode, key in names.items() if links[inode] > seen[inode])


class BucketObjects:
    """A remote in a bucket that speaks S3; opened with DVC's own settings of it."""

    run_cache = None

    def __init__(self, name: str, fs: Any, path: str) -> None:
        self.name = name
        self._fs = fs  # s3fs
        self._bucket, _, prefix = path.strip("/").partition("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._keeps_versions: bool | None = None

    def objects(self) -> list[Object]:
        with _as_users_error(self.name):
            return list(self._versions() if self._versioned() else self._latest())

    def read(self, stored: Object) -> bytes:
        from fsspec.asyn import sync

        version = {"VersionId": stored.version} if stored.version else {}
        key = f"{self._prefix}{stored.key}"

        async def get() -> bytes:
            # s3fs reads versions only of a file system that was opened for them.
            answer = await self._fs._call_s3("get_object", Bucket=self._bucket, Key=key, **version)
            async with answer["Body"] as body:
                content: bytes = await body.read()
            return content

        with _as_users_error(self.name):
            content: bytes = sync(self._fs.loop, get)
            return content

    def write(self, key: str, content: bytes) -> None:
        with _as_users_error(self.name):
            self._call("put_object", Key=f"{self._prefix}{key}", Body=content)

    def remove(self, stored: Iterable[Object]) -> None:
        with _as_users_error(self.name):
            for each in stored:
                version = {"VersionId": each.version} if each.version else {}
                self._call("delete_object", Key=f"{self._prefix}{each.key}", **version)

    def _versioned(self) -> bool:
        """Whether it has kept versions; also if it no longer makes new ones."""
        if self._keeps_versions is None:
            status = self._call("get_bucket_versioning").get("Status")
            self._keeps_versions = status in ("Enabled", "Suspended")
        return self._keeps_versions

    def _latest(self) -> Iterator[Object]:
        more: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=self._prefix, **more)
            for each in page.get("Contents", ()):
                yield Object(self._below(each["Key"]))
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _versions(self) -> Iterator[Object]:
        more: dict[str, str] = {}
        while True:
            page = self._call("list_object_versions", Prefix=self._prefix, **more)
            for each in page.get("Versions", ()):
                yield Object(self._below(each["Key"]), each["VersionId"])
            for each in page.get("DeleteMarkers", ()):
                yield Object(self._below(each["Key"]), each["VersionId"], marker=True)
            if not page.get("IsTruncated"):
                return
            more = {"KeyMarker": page["NextKeyMarker"]}
            if page.get("NextVersionIdMarker"):
                more["VersionIdMarker"] = page["NextVersionIdMarker"]

    def _below(self, key: str) -> str:
        return key.removeprefix(self._prefix)

    def _call(self, method: str, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._fs.call_s3(method, Bucket=self._bucket, **options)
        return answer


def open_caches(roots: Iterable[Path]) -> list[FolderObjects]:
    """The caches of some worktrees, each once; worktrees often share one."""
    found: dict[Path, FolderObjects] = {}
    for root in roots:
        base = cache_folder(root)
        if base.is_dir():
            whose = "" if not found else f" of {root.name}"
            made = FolderObjects(f"cache{whose}", base.resolve(), run_cache=f"run-cache{whose}")
            found.setdefault(base.resolve(), made)
    return list(found.values())


def remote_names(root: Path) -> list[str]:
    """Every remote that DVC is configured with, used by default or not."""
    return sorted(read_settings(root).get("remote", {}))


def open_remote(root: Path, name: str) -> Objects:
    """A remote by its name in DVC's settings.

    Raises:
        StoreUnavailable: it is of a kind that cannot be looked through whole.
    """
    from dvc.exceptions import DvcException
    from dvc.fs import get_cloud_fs

    store = f"remote {name}"
    settings = read_settings(root)
    options = settings["remote"][name]
    if options.get("version_aware") or options.get("worktree"):
        raise StoreUnavailable(
            f"{store} keeps files by their names and versions (version_aware or worktree), which "
            "an erasure cannot follow. Use a remote that stores by hash."
        )
    try:
        kind, config, path = get_cloud_fs(settings, name=name)
        if kind.protocol == "local":
            return FolderObjects(store, Path(path))
        if kind.protocol == "s3":
            # unless the remote's own settings say otherwise
            config = {"connect_timeout": CONNECT_S, "read_timeout": CONNECT_S} | config
            fs = kind(**config).fs
            fs.retries, fs.config_kwargs["retries"] = 1, {"total_max_attempts": 2}
            return BucketObjects(store, fs, path)
    except (DvcException, ImportError):
        raise StoreUnavailable(
            f"{store} needs a driver that is not installed, or its settings are off. "
            "See `dvc remote list` and `pip install dvc-s3`."
        ) from None
    raise StoreUnavailable(
        f"{store} is on {kind.protocol}; an erasure can look through folders and S3 alone."
    )


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # nothing was ever pushed there
        raise error


@contextmanager
def _as_users_error(name: str) -> Iterator[None]:
    """Whatever keeps a store from answering, by its kind: a message may hold a credential."""
    try:
        with waiting(name):
            yield
    except _failures() as error:
        raise StoreUnavailable(
            f"{name} does not answer ({_kind(error)}). The next run tries again."
        ) from None


def _failures() -> tuple[type[Exception], ...]:
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:  # no S3 here
        return (OSError,)
    return (OSError, BotoCoreError, ClientError)


def _kind(error: Exception) -> str:
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code", type(error).__name__))
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return type(error).__name__
