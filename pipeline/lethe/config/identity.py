"""Which workspace this is: a random name in a committed file, `lethe.id`, that names nobody.

The ledger, the vault and the requests carry the same name. So a copy of a workspace, which git
makes in a second, cannot begin with an empty ledger as if nobody had ever been charged, and a
workspace cannot be given another's stores (`lethe.stores.opening`).
"""

import re
import secrets
from pathlib import Path

from lethe.config.home import IDENTITY, home
from lethe.core.errors import ParamsInvalid
from lethe.core.files import write_whole

_FORM = re.compile(r"[0-9a-f]{32}")


def new_identity() -> str:
    return secrets.token_hex(16)


def identity_file(root: Path) -> Path:
    """Where the file is, or will be: HOME's in a copy that belongs to it."""
    return home(root) / IDENTITY


def read_identity(root: Path) -> str | None:
    """The workspace's identity; None as long as it has none.

    Raises:
        ParamsInvalid: the file is damaged.
    """
    try:
        found = identity_file(root).read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    if not _FORM.fullmatch(found):
        raise ParamsInvalid(
            f"{IDENTITY} does not hold an identity (32 hexadecimal digits). Restore it: "
            f"`git restore {IDENTITY}`."
        )
    return found


def write_identity(identity: str, root: Path) -> None:
    write_whole(identity_file(root), f"{identity}\n".encode())
