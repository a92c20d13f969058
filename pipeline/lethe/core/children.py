"""What a process that Lethe starts may know: everything but keys and stores' addresses.

git, its hooks and the helpers of a training need none of them. Only the stages do, which DVC
starts: it is handed the environment as it is.
"""

import os
from collections.abc import Iterable

_KEYS = {"LETHE_KEY", "LETHE_RECEIPT_KEY", "LETHE_NOTIFY_WEBHOOK"}
_ENDS = ("_KEY", "_URL")  # of Lethe's own names: `.env.sample`
_declared: set[str] = set()


def keep_from_children(names: Iterable[str]) -> None:
    """Notes variables that `params.yaml` names with `env:NAME`: they may hold passwords."""
    _declared.update(names)


def environment_without_keys() -> dict[str, str]:
    """This process's environment for a child that needs no key."""
    return {name: value for name, value in os.environ.items() if not _is_key(name)}


def drop_keys() -> None:
    """Forgets them here: for a child whose environment its parent cannot choose."""
    for name in filter(_is_key, list(os.environ)):
        del os.environ[name]


def _is_key(name: str) -> bool:
    return (
        name in _KEYS or name in _declared or (name.startswith("LETHE_") and name.endswith(_ENDS))
    )
