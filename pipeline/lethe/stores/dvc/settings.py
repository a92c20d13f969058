"""DVC's settings of a workspace: where its cache is, and sharing both with a worktree."""

from pathlib import Path
from typing import Any


def read_settings(root: Path) -> Any:
    """All levels of the settings, the nearest first; relative paths are made absolute."""
    from dvc.config import Config

    return Config(str(root / ".dvc"))


def cache_folder(root: Path) -> Path:
    """Where this machine's cache of the workspace is, whether or not it is there yet."""
    configured = read_settings(root).get("cache", {}).get("dir")
    return Path(str(configured)) if configured else root / ".dvc" / "cache"


def share_settings(home: Path, worktree: Path, *, temporary: Path) -> None:
    """Gives a worktree the settings of `home`, relative ones included: one cache, same remotes.

    Args:
        temporary: where DVC may keep what it notes about the worktree itself.
    """
    from dvc.config import Config, merge

    there = Config(str(home / ".dvc"), validate=False)
    settings: dict[str, dict[str, object]] = {}
    for level in ("repo", "local"):
        merge(settings, there.load_one(level))
    configured = there.get("cache", {}).get("dir")
    shared = Path(str(configured)) if configured else home / ".dvc" / "cache"
    settings["cache"]["dir"] = str(shared.resolve())
    settings["core"]["site_cache_dir"] = str(temporary.resolve())
    own = Config(str(worktree / ".dvc"), validate=False)
    with own.edit("local") as local:
        merge(local, settings)
    (worktree / ".dvc" / "config.local").chmod(0o600)  # a remote's password may stand there
