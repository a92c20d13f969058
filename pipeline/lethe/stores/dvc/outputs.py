"""The outputs that a lock names: which of them are in DVC's cache, and putting them in place."""

import warnings
from pathlib import Path

from lethe.core.errors import Busy, LetheError
from lethe.stores.dvc.git import Made
from lethe.stores.dvc.graph import read_stages
from lethe.stores.dvc.library import opened_repo
from lethe.stores.dvc.objects import FolderObjects, key_of, open_caches
from lethe.stores.dvc.survey import entries_of, md5_of


def outputs(pipeline: Path) -> set[str]:
    """Everything that the stages of a `dvc.yaml` make, by path."""
    return {
        path
        for stage in read_stages(pipeline).values()
        for kind in ("outs", "metrics", "plots")
        for entry in stage.get(kind, ())
        for path in ([entry] if isinstance(entry, str) else entry)
    }


def uncached(pipeline: Path) -> set[str]:
    """The outputs of a `dvc.yaml` that DVC does not keep, by path."""
    return {
        path
        for stage in read_stages(pipeline).values()
        for kind in ("outs", "metrics", "plots")
        for entry in stage.get(kind, ())
        if isinstance(entry, dict)
        for path, options in entry.items()
        if (options or {}).get("cache") is False
    }


def uncached_files(root: Path, made: tuple[Made, ...]) -> dict[str, bytes]:
    """The reports and the like that are as the lock has them, by path; they are in no cache."""
    found = {}
    for path in uncached(root / "dvc.yaml"):
        md5 = next((known for each in made if (known := each.outs.get(path))), None)
        try:
            content = (root / path).read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            continue  # the folders with subject keys are never taken anywhere
        if md5_of(content) == md5:
            found[path] = content
    return found


def check_out(root: Path, made: tuple[Made, ...]) -> None:
    """Puts what the lock names and the cache has in its place.

    Raises:
        Busy: another run holds the folder.
        LetheError: DVC gives up.
    """
    left_out = uncached(root / "dvc.yaml")
    targets = sorted({path for each in made for path in each.outs if path not in left_out})
    if not targets:
        return
    from dvc.exceptions import DvcException
    from dvc.lock import LockError

    try:
        with warnings.catch_warnings(), opened_repo(root) as repo:
            warnings.simplefilter("ignore")  # of DVC's own
            repo.checkout([str(root.resolve() / path) for path in targets], force=True)
    except LockError:
        raise Busy(f"Another run holds {root}. Try again when it has ended.") from None
    except DvcException as error:
        raise LetheError(f"dvc checkout in {root}: {error}. Run it by hand to see more.") from None


def missing_objects(home: Path, made: tuple[Made, ...]) -> list[str]:
    """Paths whose objects, or some file of theirs, the cache of `home` does not have.

    A folder whose listing is not what its name says is one of them.
    """
    left_out = uncached(home / "dvc.yaml")
    caches = open_caches([home])
    stored = {each.md5 for cache in caches for each in cache.objects()}
    missing = []
    for path, md5 in sorted({pair for each in made for pair in each.outs.items()}):
        if path in left_out:
            continue
        members = _members(caches, md5) if md5.endswith(".dir") else []
        if members is None or not {md5, *members} <= stored:
            missing.append(path)
    return missing


def _members(caches: list[FolderObjects], md5: str) -> list[str] | None:
    """The files of a folder by hash; None where no cache has the listing that its name says."""
    for cache in caches:
        path = cache.base / key_of(md5)
        entries = entries_of(path.read_bytes(), md5) if path.is_file() else None
        if entries is not None:
            return [str(entry.get("md5")) for entry in entries]
    return None
