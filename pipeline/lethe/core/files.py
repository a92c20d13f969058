"""How a file gets there whole or not at all, and what a full disk is called."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lethe.core.errors import DiskFull


@contextmanager
def disk_errors() -> Iterator[None]:
    """A full disk becomes the user's error of that name."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                "No space is left on the device that the run writes to. Free some; nothing "
                "half-written was kept."
            ) from None
        raise


def write_whole(target: Path, content: bytes, *, private: bool = False) -> None:
    """Writes a file so that it is there whole or not at all, even across a power cut."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with disk_errors():
            mode = 0o600 if private else 0o644
            descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            staging.replace(target)
    finally:
        staging.unlink(missing_ok=True)


def write_json(target: Path, content: Mapping[str, Any]) -> None:
    write_whole(target, json_bytes(content))


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Sorted, indented JSON, so that the same facts are the same bytes."""
    return f"{json.dumps(content, indent=2, sort_keys=True, allow_nan=False)}\n".encode()


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def md5(content: bytes) -> str:
    """The digest that DVC names an object by; nothing rests on its strength."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
