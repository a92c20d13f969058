"""How a file gets there whole or not at all, and how one of Lethe's own is read back.

Whoever can write to a cache or a remote can write these files. So each is read against a closed
declaration of its fields, and nothing but JSON, safetensors, Parquet and bitmaps is read at all.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from lethe.core.errors import DiskFull, FileDamaged, ParamsInvalid
from lethe.core.reading import damage, parse_data

if TYPE_CHECKING:
    from pyroaring import BitMap

T = TypeVar("T")
_COMPLAINTS = 3


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
    """A JSON object of Lethe's own, as it stands.

    Raises:
        FileDamaged: it is not one.
        FileNotFoundError: there is none.
    """
    try:
        content = path.read_bytes()
    except (IsADirectoryError, NotADirectoryError):
        content = b""
    return parse_json(content, of=str(path))


def parse_json(content: str | bytes, *, of: str) -> dict[str, Any]:
    """Likewise of bytes; `of` names them in the message."""
    try:
        parsed = parse_data(content)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise FileDamaged(f"{of} is not a JSON object, as Lethe writes it. {RESTORE}")
    return parsed


def parse_people(content: bytes, *, of: str) -> "BitMap":
    """The tokens in a manifest or any other list of people.

    Raises:
        FileDamaged: it is none.
    """
    from pyroaring import BitMap  # a machine that serves a model has no lists of people

    with damage(lambda: FileDamaged(f"{of} is no list of people, as Lethe writes it. {RESTORE}")):
        return BitMap.deserialize(content)


def checked(kind: TypeAdapter[T], data: Mapping[str, Any], *, of: str) -> T:
    """A JSON object as the type that it must have; no value is taken for one of another type.

    Args:
        kind: of strict types that allow no further field.
        of: names the data in the message, which shows fields and no values.

    Raises:
        FileDamaged: a field is missing, unknown, of another type or impossible; names each.
    """
    try:
        return kind.validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        complaints = [
            f"{'.'.join(str(part)[:40] for part in each['loc']) or 'it'}: {each['msg']}"
            for each in found[:_COMPLAINTS]
        ]
        reason = "; ".join(complaints)
    except (ParamsInvalid, ValueError, RecursionError) as error:
        reason = str(error)
    raise FileDamaged(f"{of} is not as Lethe writes it ({reason}). {RESTORE}")


RESTORE = "Restore it (git, or dvc pull), or make it anew with lethe run."


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder, by its path in it."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def md5(content: bytes) -> str:
    """The digest that DVC names an object by; nothing rests on its strength."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
