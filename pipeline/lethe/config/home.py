"""Which workspace a folder belongs to: the stores, the source and the keys are that one's.

Some folders are copies of a workspace that come and go, with data of their own:

- a worktree of a run, `HOME/.lethe/worktrees/RUN` (`lethe.runs.worktree`);
- an experiment of DVC, `HOME/.dvc/tmp/exps/…`, where `dvc exp run --temp` and the queue run;
- a linked git worktree (`git worktree add`) of a workspace that has stores.

The source, the vault, the ledger, the registry, the keys and what a training keeps until it is
released are HOME's: a ledger of a copy's own would have forgotten what everybody has spent.
The first two are known by where they lie, the last by what git itself left in it: nothing that
could be lost or not be written. Any other copy, such as a clone, is a workspace of its own, which
its identity keeps from beginning anew unnoticed (`lethe.config.identity`).
"""

import os
import re
from pathlib import Path

WORKTREES = Path(".lethe/worktrees")
OLD_WORKTREES = Path(".lethe/walks")  # of the version before; what is there is only closed
EXPERIMENTS = Path(".dvc/tmp/exps")
POD_LOCK = Path(".git/lethe-pod.lock")  # in the folder that a pod works in
IDENTITY = Path("lethe.id")  # committed: which workspace this is
_STATE = Path(".lethe")
_FOLDERS = ("csv", "parquet")
_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)(file:)?([^/:?][^?]*)(.*)", re.DOTALL)
_EXPERIMENT = ("DVC_EXP_BASELINE_REV", "DVC_EXP_NAME")  # DVC sets them for an experiment's stages


def home(root: Path) -> Path:
    """The workspace that a folder belongs to; most are their own."""
    root = root.absolute()
    return _main_worktree(_outside(root, WORKTREES, OLD_WORKTREES, EXPERIMENTS))


def is_copy(root: Path) -> bool:
    """Whether a folder belongs to another one's workspace."""
    return home(root) != root.absolute()


def in_experiment(root: Path) -> bool:
    """Whether this is an experiment of DVC: by the folder, or by what DVC gives its stages."""
    root = root.absolute()
    return _outside(root, EXPERIMENTS) != root or any(map(os.environ.get, _EXPERIMENT))


def of_a_run(root: Path) -> bool:
    """Whether a folder is a run's own, a worktree or a pod's: what is in it ends with that run."""
    root = root.absolute()
    return _outside(root, WORKTREES, OLD_WORKTREES) != root or (_top(root) / POD_LOCK).exists()


def experiments(root: Path) -> list[Path]:
    """Where DVC's experiments stand in for this workspace, running or left behind."""
    below = root.relative_to(_top(root))
    folders = [*_subfolders(root / EXPERIMENTS), *_subfolders(root / EXPERIMENTS / "standalone")]
    return sorted(place for each in folders if ((place := each / below) / ".dvc").is_dir())


def at_home(path: Path, root: Path) -> Path:
    """A path as the workspace of `root` means it: that of HOME in a copy."""
    return (home(root) if is_copy(root) else root) / path


def address_at_home(address: str, root: Path) -> str:
    """Likewise the address of a database or of a folder of files."""
    kind, colon, folder = address.partition(":")
    if kind in _FOLDERS and colon:
        return f"{kind}:{at_home(Path(folder), root)}"
    if found := _SQLITE.fullmatch(address):
        scheme, uri, path, options = found.groups()
        return f"{scheme}{uri or ''}{at_home(Path(path), root)}{options}"
    return address


def _outside(root: Path, *inner: Path) -> Path:
    """What holds the first of these folders on the way to `root`; `root` if there is none."""
    parts = root.parts
    for at in range(len(parts)):
        for folder in inner:
            end = at + len(folder.parts)
            if parts[at:end] == folder.parts and end < len(parts):
                return Path(*parts[:at])
    return root


def _main_worktree(root: Path) -> Path:
    """The same folder in git's main worktree, if that one is this workspace and has stores."""
    top = _top(root)
    try:
        admin = (top / ".git").read_text().removeprefix("gitdir:").strip()
        shared = top / admin / (top / admin / "commondir").read_text().strip()
    except OSError:
        return root  # its `.git` is a folder: no linked worktree; or a submodule's
    main = shared.resolve().parent / root.relative_to(top)
    known = main.is_dir() and ((main / IDENTITY).is_file() or (main / _STATE).is_dir())
    return main if known and _identity(root) in (None, _identity(main)) else root


def _top(root: Path) -> Path:
    """Where the git worktree of a folder begins; the folder itself outside of git."""
    return next((each for each in (root, *root.parents) if (each / ".git").exists()), root)


def _identity(root: Path) -> str | None:
    try:
        return (root / IDENTITY).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _subfolders(place: Path) -> list[Path]:
    return [each for each in place.iterdir() if each.is_dir()] if place.is_dir() else []
