"""Whether what a stage is about to read is what `dvc.lock` names: by content, before it is loaded.

Whoever can write to a cache or a remote can put other bytes there under a known name, and DVC takes
an object's name at its word unless its remote has `verify = true`; what it once took it remembers
as right. `dvc.lock` comes by git. So every file is hashed here anew, and a folder by the listing
that its files make, not by one that was found.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from lethe.core.errors import FileDamaged
from lethe.stores.dvc.git import LOCK, Made, parse_lock
from lethe.stores.dvc.graph import meets, read_stages
from lethe.stores.dvc.outputs import uncached
from lethe.stores.dvc.worktree import folder_object

_BLOCK = 1 << 20


def content_md5(path: Path) -> str:
    """The name that DVC has for a file or a folder, from its bytes alone."""
    if not path.is_dir():
        return _file_md5(path)
    entries = [
        {"md5": _file_md5(each), "relpath": each.relative_to(path).as_posix()}
        for each in path.rglob("*")
        if each.is_file()
    ]
    return folder_object(entries)[0]


def verify_inputs(root: Path, stage: str) -> None:
    """Compares every input of a stage that DVC keeps with `dvc.lock`.

    An input that is not there, and one that no lock names yet, is left to the stage. Reports are
    not compared: git has them, and no cache.

    Raises:
        FileDamaged: names each input that has other bytes; nothing of them was loaded.
    """
    pipeline = root / "dvc.yaml"
    try:
        made = parse_lock((root / LOCK).read_bytes())
        needs = read_stages(pipeline).get(stage, {}).get("deps", ())
    except FileNotFoundError:
        return  # nothing was ever pulled without the two
    left_out = uncached(pipeline)
    for path, md5, maker in _named(made):
        place = root / path
        read = path not in left_out and any(meets(need, path) for need in needs)
        if read and place.exists() and content_md5(place) != md5:
            raise FileDamaged(
                f"{path} is not what {LOCK} names, so nothing of it was loaded. If you ran "
                f"lethe {maker} by hand, take it over with `dvc commit {maker}`. If not, remove "
                f"{path} and object {md5} of the cache, pull with `verify = true`, and find out "
                "who can write to the cache and the remotes."
            )


def unverified_remotes(root: Path) -> list[str]:
    """The remotes whose objects DVC would take at their word when it pulls."""
    from dvc.config import Config

    remotes = Config(str(root / ".dvc")).get("remote", {}) if (root / ".dvc").is_dir() else {}
    return sorted(name for name, options in remotes.items() if not options.get("verify"))


def _named(made: tuple[Made, ...]) -> Iterator[tuple[str, str, str]]:
    """(path, md5, stage that made it) of every output in a lock."""
    for each in made:
        for path, md5 in each.outs.items():
            yield path, md5, each.stage


def _file_md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
