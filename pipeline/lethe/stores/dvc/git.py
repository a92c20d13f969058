"""What every `dvc.lock` says was made of what: of each commit of each branch, of the worktrees.

Locks of commits never change, so what was read of one is kept by its git blob in
`.lethe/locks.json`: hashes and paths, nothing of a person. As long as no branch moved, not
even git's log is asked again.
"""

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lethe.config import workspace
from lethe.config.home import experiments
from lethe.core.children import environment_without_keys
from lethe.core.errors import FileDamaged, LetheError
from lethe.core.files import read_json, write_whole
from lethe.core.reading import damage, parse_yaml

LOCK = Path("dvc.lock")
INDEX = workspace.STATE / "locks.json"
_FORMAT = 1
_SECONDS = 120
_MESSAGE = "Name the shards that an erasure rewrote"
_TO_INDEX = ("update-index", "-z", "--add", "--index-info")
_COMMITTER = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "lethe"), ("EMAIL", "lethe@localhost"))
}


@dataclass(frozen=True)
class Made:
    """What one stage made, by path → md5, and from what; of a lock or of the run-cache."""

    stage: str
    outs: Mapping[str, str]
    deps: Mapping[str, str]

    def out(self, path: Path) -> str | None:
        return self.outs.get(path.as_posix())


@dataclass(frozen=True)
class Lock:
    """One version of `dvc.lock`, and the first commit that has it."""

    commit: str
    stages: tuple[Made, ...]

    def out(self, path: Path) -> str | None:
        return next((md5 for made in self.stages if (md5 := made.out(path))), None)


def parse_lock(content: bytes) -> tuple[Made, ...]:
    """The stages of a lock.

    Raises:
        FileDamaged: it is no YAML, as a merge conflict leaves it, or no lock.
    """
    parsed = read_lock(content)
    stages = parsed.get("stages") if isinstance(parsed, dict) else None
    if not isinstance(stages, dict):
        return ()
    return tuple(_made(name, stage) for name, stage in stages.items() if isinstance(stage, dict))


def parse_run(content: bytes) -> Made:
    """An entry of the run-cache.

    Raises:
        FileDamaged: it is no YAML.
    """
    parsed = read_lock(content)
    return _made("", parsed if isinstance(parsed, dict) else {})


def _made(name: str, stage: dict[str, Any]) -> Made:
    def hashes(kind: str) -> dict[str, str]:
        return {
            str(each["path"]): str(each["md5"])
            for each in stage.get(kind) or ()
            if isinstance(each, dict) and each.get("md5") and each.get("path")
        }

    with damage(no_lock):
        return Made(name, hashes("outs"), hashes("deps"))


def read_lock(content: bytes) -> Any:
    """What a lock says, as it stands.

    Raises:
        FileDamaged: it is no YAML.
    """
    with damage(no_lock):
        return parse_yaml(content)


def no_lock() -> FileDamaged:
    return FileDamaged(
        f"{LOCK} is not YAML, as DVC writes it. Resolve it, or delete it and run `dvc commit`."
    )


def committed_locks(root: Path) -> list[Lock]:
    """Every different lock of every commit that a branch, tag, experiment or worktree leads to.

    Each once, oldest first. Commits that only a reflog knows, such as older stashes and what
    DVC's queue holds, count too, and those that nothing leads to any more, such as a removed
    experiment's: their objects may still be in a cache.
    """
    refs = git(root, "for-each-ref", "--format=%(objectname) %(refname)") or b""
    heads = git(root, "worktree", "list", "--porcelain") or b""
    moves = git(root, "log", "--walk-reflogs", "--all", "--format=%H") or b""
    state = hashlib.sha256(refs + heads + moves).hexdigest()
    index = _read_index(root)
    if index.get("state") != state:
        index = _indexed(root, index.get("blobs", {}), state)
    return _locks_of(index)


def _locks_of(index: dict[str, Any]) -> list[Lock]:
    blobs = index["blobs"]
    return [Lock(commit, _from_data(blobs[blob])) for blob, commit in index["order"]]


def every_lock(root: Path) -> Iterator[Made]:
    """What is in the folder's own lock and in those of git, read anew; no index is written."""
    with suppress(FileNotFoundError):
        yield from parse_lock((root / LOCK).read_bytes())
    for _, content in _contents(root, [blob for blob, _ in _lock_blobs(root)]):
        yield from _lenient(content)


def reachable_locks(root: Path) -> Iterator[Made]:
    """What is in the locks that a branch, tag, other ref or reflog leads to: still in use."""
    for _, content in _contents(root, [blob for blob, _ in _lock_blobs(root, lost=False)]):
        yield from _lenient(content)


def _indexed(root: Path, known: dict[str, Any], state: str) -> dict[str, Any]:
    order = list(_lock_blobs(root))
    wanted = [blob for blob, _ in order if blob not in known]
    blobs = {blob: known[blob] for blob, _ in order if blob in known}
    for blob, content in _contents(root, wanted):
        blobs[blob] = [[m.stage, dict(m.outs), dict(m.deps)] for m in _lenient(content)]
    index = {"format": _FORMAT, "state": state, "blobs": blobs, "order": order}
    if order:
        write_whole(root / INDEX, json.dumps(index).encode(), private=True)
    return index


def _lenient(content: bytes) -> tuple[Made, ...]:
    """A committed lock that is no YAML names nothing; it cannot be corrected any more."""
    try:
        return parse_lock(content)
    except LetheError:
        return ()


def _from_data(stages: list[Any]) -> tuple[Made, ...]:
    return tuple(Made(stage, outs, deps) for stage, outs, deps in stages)


def _read_index(root: Path) -> dict[str, Any]:
    """The index of committed locks; empty where it is damaged, since it can be made anew."""
    try:
        index = read_json(root / INDEX)
        if index.get("format") != _FORMAT:
            return {}
        with damage(no_lock):
            for lock in _locks_of(index):
                for made in lock.stages:
                    made.outs.items(), made.deps.items()
    except (OSError, FileDamaged):
        return {}
    return index


def _lock_blobs(root: Path, *, lost: bool = True) -> Iterator[tuple[str, str]]:
    """(blob, first commit) of each different lock, oldest first.

    Args:
        lost: those of commits that nothing leads to any more, too.
    """
    log = git(
        root,
        *("log", "--all", "--reflog", "--stdin", "--reverse", "--topo-order", "--full-history"),
        *("-m", "--raw", "--no-abbrev", "--no-renames", "--format=%H", "--", str(LOCK)),
        stdin=_unreachable(root) if lost else b"",
    )
    commit, seen = "", set()
    for line in (log or b"").decode().splitlines():
        if not line.startswith(":"):
            commit = line.strip() or commit
            continue
        blob = line.split()[3]
        if blob not in seen and set(blob) != {"0"}:
            seen.add(blob)
            yield blob, commit


def _unreachable(root: Path) -> bytes:
    """The commits that no branch, reflog or other ref leads to, one a line."""
    words = ("fsck", "--unreachable", "--connectivity-only", "--no-progress", "--no-dangling")
    listed = git(root, *words) or b""
    found = [line.split()[-1] for line in listed.splitlines() if b" commit " in line]
    return b"".join(commit + b"\n" for commit in found)


def _contents(root: Path, blobs: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The contents of git's blobs, by one process."""
    wanted = list(blobs)
    if not wanted:
        return
    out = git(root, "cat-file", "--batch", stdin="\n".join(wanted).encode() + b"\n") or b""
    at = 0
    while at < len(out):
        end = out.index(b"\n", at)
        words = out[at:end].split()
        if len(words) != 3:  # missing
            at = end + 1
            continue
        size = int(words[2])
        yield words[0].decode(), out[end + 1 : end + 1 + size]
        at = end + 1 + size + 1


def git_objects(root: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every object in git's store, whether anything leads to it or not."""
    try:
        process = subprocess.Popen(
            ["git", "cat-file", "--batch", "--batch-all-objects"],
            cwd=root,
            env=environment_without_keys(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        return
    with process:
        stream = process.stdout
        while stream is not None and (header := stream.readline().split()):
            content = stream.read(int(header[2]))
            stream.read(1)
            yield header[0].decode(), content


def tracked(root: Path, folders: Collection[str]) -> set[Path]:
    """The files below some folders of a worktree that git has; none where no folder is given."""
    words = ("--literal-pathspecs", "ls-files", "-z", "--", *folders)
    listed = git(root, *words) if folders else None
    # No link is followed: where it leads to is no code.
    return {root.resolve() / os.fsdecode(name) for name in (listed or b"").split(b"\0") if name}


def only_below(root: Path, folders: Collection[str]) -> set[str]:
    """The blobs, by name, that in all of git's history were files below these folders alone.

    A content that any commit had elsewhere too, or that no commit has, is none of them.
    """
    if not folders:
        return set()
    log = git(
        root,
        *("-c", "log.showRoot=true", "log", "--all", "--reflog", "--stdin", "-m", "--raw", "-z"),
        *("--full-history", "--no-abbrev", "--no-renames", "--format="),
        stdin=_unreachable(root),
    )
    prefix = (git(root, "rev-parse", "--show-prefix") or b"").strip()
    below = tuple(prefix + os.fsencode(PurePosixPath(each)) + b"/" for each in folders)
    inside: set[str] = set()
    outside: set[str] = set()
    words = iter((log or b"").split(b"\0"))
    for word in words:
        if (change := word.strip()).startswith(b":"):
            (inside if next(words).startswith(below) else outside).add(change.split()[3].decode())
    return inside - outside


def worktrees(root: Path) -> list[Path]:
    """The folders that stand where `root` does, in every worktree of git and every experiment
    of DVC that runs in a folder of its own; root first. One that is gone is left out.
    """
    listed = git(root, "worktree", "list", "--porcelain") or b""
    below = (git(root, "rev-parse", "--show-prefix") or b"").decode().strip()
    found = [root.resolve()]
    for line in listed.decode().splitlines():
        if line.startswith("worktree "):
            place = (Path(line.removeprefix("worktree ")) / below).resolve()
            if place not in found and (place / ".dvc").is_dir():
                found.append(place)
    return found + [each for place in found for each in experiments(place)]


def branch_locks(root: Path) -> dict[str, bytes]:
    """The lock at the tip of each local branch that no worktree has checked out, by full name."""
    checked_out = {
        line.removeprefix("branch ")
        for line in (git(root, "worktree", "list", "--porcelain") or b"").decode().splitlines()
        if line.startswith("branch ")
    }
    names = (git(root, "for-each-ref", "--format=%(refname)", "refs/heads") or b"").decode()
    found = {}
    for name in names.split():
        content = git(root, "cat-file", "blob", f"{name}:./{LOCK}")
        if name not in checked_out and content is not None:
            found[name] = content
    return found


def commit_files(
    root: Path, branch: str, files: Mapping[str, bytes | None], *, message: str = _MESSAGE
) -> bool:
    """Puts one commit on top of a branch that changes these files alone; whether that was done.

    No worktree, index or other file is touched and no hook runs; a branch that moved meanwhile is
    left to the next time. The committer is git's own, if it knows one, and else `lethe`.

    Args:
        files: contents by path from `root`; None for a file that goes.
    """
    tip = (git(root, "rev-parse", f"{branch}^{{commit}}") or b"").decode().strip()
    entries = index_entries(root, files)
    if not tip or entries is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        alone = {"GIT_INDEX_FILE": str(Path(folder) / "index"), **committer(root)}
        git(root, "read-tree", tip, more=alone)
        git(root, *_TO_INDEX, stdin=entries, more=alone)
        tree = (git(root, "write-tree", more=alone) or b"").decode().strip()
        made = git(root, "commit-tree", tree, "-p", tip, "-m", message, more=alone) or b""
    commit = made.decode().strip()
    turn = ("update-ref", branch, commit, tip)
    return bool(commit) and git(root, *turn, more=committer(root)) is not None


def index_entries(root: Path, files: Mapping[str, bytes | None]) -> bytes | None:
    """Some files as git's index takes them in, their contents written to its store.

    None where git does not take them.
    """
    below = (git(root, "rev-parse", "--show-prefix") or b"").decode().strip()
    entries = []
    for path, content in files.items():
        blob = b"0" * 40
        if content is not None:
            blob = (git(root, "hash-object", "-w", "--stdin", stdin=content) or b"").strip()
        if not blob:
            return None
        mode = b"0" if content is None else b"100644"
        entries.append(b"%b %b\t%b\0" % (mode, blob, os.fsencode(f"{below}{path}")))
    return b"".join(entries)


def to_index(root: Path, files: Mapping[str, bytes | None]) -> bool:
    """Puts some files, and nothing else, into the index of a worktree; whether that was done."""
    entries = index_entries(root, files)
    return entries is not None and git(root, *_TO_INDEX, stdin=entries) is not None


def ignored(root: Path, paths: Iterable[str]) -> set[str]:
    """Which paths git ignores, and does not have all the same."""
    asked = b"".join(os.fsencode(path) + b"\0" for path in paths)
    found = git(root, "check-ignore", "-z", "--stdin", stdin=asked) or b""
    return {os.fsdecode(path) for path in found.split(b"\0") if path}


def committer(root: Path) -> Mapping[str, str]:
    """What git needs to know of who commits; nothing where its settings say so."""
    known = all(git(root, "config", "--get", f"user.{each}") for each in ("name", "email"))
    return {} if known else _COMMITTER


def git(
    root: Path, *words: str, stdin: bytes | None = None, more: Mapping[str, str] | None = None
) -> bytes | None:
    """What git answers; None where there is no git, no repository or no such thing."""
    try:
        done = subprocess.run(
            ["git", *words],
            cwd=root,
            env=environment_without_keys() | dict(more or {}),
            input=stdin,
            capture_output=True,
            check=False,
            timeout=_SECONDS,
        )
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None
