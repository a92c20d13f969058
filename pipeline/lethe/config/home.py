"""Where relative addresses lead: in a walk, to the workspace that it was opened from.

A walk is a git worktree of its own, `HOME/.lethe/walks/RUN`, in which the road is walked while HOME
stays as it is (`lethe.runs.worktree`). Its data is its own. The source, the vault, the
ledger, the registry, the keys and what a training keeps until it is released are HOME's: a ledger
of a walk's own would have forgotten what everybody has spent.

So a walk is known by where it lies, which nothing can lose or fail to write.
"""

import re
from pathlib import Path

WALKS = Path(".lethe/walks")
_FOLDERS = ("csv", "parquet")
_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)(file:)?([^/:?][^?]*)(.*)", re.DOTALL)


def home(root: Path | None = None) -> Path:
    """The workspace that a folder belongs to: HOME of a walk, any other is its own."""
    root = (root or Path.cwd()).absolute()
    parts = root.parts
    for at in range(len(parts) - len(WALKS.parts)):
        if parts[at : at + len(WALKS.parts)] == WALKS.parts:
            return Path(*parts[:at])
    return root


def in_walk(root: Path | None = None) -> bool:
    """Whether a folder is a walk's."""
    return home(root) != (root or Path.cwd()).absolute()


def at_home(path: Path) -> Path:
    """A relative path as HOME means it; unchanged outside of walks."""
    return home() / path if in_walk() and not path.is_absolute() else path


def address_at_home(address: str) -> str:
    """Likewise the address of a database or of a folder of files."""
    if not in_walk():
        return address
    kind, colon, folder = address.partition(":")
    if kind in _FOLDERS and colon:
        return f"{kind}:{at_home(Path(folder))}"
    if found := _SQLITE.fullmatch(address):
        scheme, uri, path, options = found.groups()
        return f"{scheme}{uri or ''}{at_home(Path(path))}{options}"
    return address
