"""The master key: where it comes from, and what is derived from it.

It lies in `$LETHE_KEY` or in a file that its owner alone can read, and is written to by
`create_key_file` alone. Nothing else of Lethe ever stores it.
"""

import base64
import binascii
import errno
import hashlib
import hmac
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lethe.config.home import at_home
from lethe.config.params import Stores
from lethe.core.errors import KeyInvalid

KEY_BYTES = 32
ENVIRONMENT = "LETHE_KEY"
RECEIPT_ENVIRONMENT = "LETHE_RECEIPT_KEY"


def load_key(stores: Stores, root: Path) -> bytes:
    """The master key, from `$LETHE_KEY` if it is set, else from the workspace's `stores.key_file`.

    Raises:
        KeyInvalid: absent, not 32 bytes in base64url, or a file that others can read.
    """
    given = os.environ.get(ENVIRONMENT)
    if given is not None:
        return _decode(given, f"${ENVIRONMENT}")
    return read_key_file(at_home(Path(stores.key_file), root))


def receipt_key_file(stores: Stores, root: Path) -> Path:
    """Where the key that signs receipts lies: beside the master key."""
    return at_home(Path(stores.key_file), root).with_name("receipts.key")


def load_receipt_key(stores: Stores, root: Path) -> bytes:
    """The seed of the Ed25519 key that signs receipts, from `$LETHE_RECEIPT_KEY` or its file.

    Raises:
        KeyInvalid: as `load_key`.
    """
    given = os.environ.get(RECEIPT_ENVIRONMENT)
    if given is not None:
        return _decode(given, f"${RECEIPT_ENVIRONMENT}")
    path = receipt_key_file(stores, root)
    if not path.exists():
        raise KeyInvalid(
            f"No key to sign receipts with: {path} does not exist and ${RECEIPT_ENVIRONMENT} is "
            "not set. Run lethe key, or restore the key of the earlier receipts."
        )
    return read_key_file(path)


def read_key_file(path: Path) -> bytes:
    """The key in a file that must be regular, the caller's own, and closed to all others.

    Guarantees: what was checked is what is read (one descriptor, links not followed).
    Raises:
        KeyInvalid: see `load_key`.
    """
    try:
        # Without O_NONBLOCK the opening of a pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise KeyInvalid(
            f"No key: {path} does not exist and ${ENVIRONMENT} is not set. Run lethe key for a "
            "new vault, or restore the key of the old one."
        ) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise KeyInvalid(f"{path} is a symbolic link; the key must be a file itself.") from None
        raise KeyInvalid(f"{path} cannot be read: {os.strerror(error.errno or 0)}.") from None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise KeyInvalid(f"{path} is not a regular file. Run lethe key for a new vault.")
        if facts.st_uid != os.geteuid():
            raise KeyInvalid(
                f"{path} belongs to user {facts.st_uid}, not to you ({os.geteuid()}): whoever "
                "owns it can read and replace the key. Take a copy of your own."
            )
        if facts.st_mode & 0o077:
            raise KeyInvalid(
                f"{path} has mode {stat.S_IMODE(facts.st_mode):04o}: others can read or change "
                f"the key. Run chmod 600 {path}; if others had access, rotate the key."
            )
        content = os.read(descriptor, 1024)
    finally:
        os.close(descriptor)
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    return _decode(text, str(path))


def _decode(text: str, where: str) -> bytes:
    stripped = text.strip()
    try:
        key = base64.b64decode(stripped + "=" * (-len(stripped) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise KeyInvalid(
            f"{where} does not hold a key: {KEY_BYTES} bytes in base64url, "
            f"{(KEY_BYTES * 8 + 5) // 6} characters. Run lethe key for a new vault, or bring "
            "back the key of the old one."
        )
    return key


def create_key_file(path: Path) -> None:
    """Writes a new random key to a new file of mode 0600.

    Guarantees: never overwrites; the key comes from the operating system's generator.
    Raises:
        KeyInvalid: there is something at `path`, or the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
    except FileExistsError:
        raise KeyInvalid(
            f"{path} exists and is kept: a vault may depend on it. Move it away first."
        ) from None
    except PermissionError:
        raise KeyInvalid(f"{path} cannot be created: its folder is not yours to write.") from None
    written = False
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).rstrip(b"=") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        written = True
    finally:
        if not written:  # half a key would stand in the way of a whole one
            path.unlink(missing_ok=True)


def derive(key: bytes, purpose: str) -> bytes:
    """A 32-byte key for one purpose: HKDF-SHA256 (RFC 5869) of the master key.

    Guarantees: keys of different purposes reveal nothing of one another or of the master key.
    """
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=f"lethe/{purpose}".encode()).derive(
        key
    )


def key_id(key: bytes) -> str:
    """A public name of a key, 16 hexadecimal digits, by which to distinguish keys and no more."""
    return hmac.digest(key, b"lethe/key-id", "sha256")[:8].hex()


def keyed_hashes(key: bytes, values: Iterable[bytes]) -> list[bytes]:
    """HMAC-SHA256 of every value.

    The padded key is hashed once and copied, twice the speed of `hmac.digest` for many
    short values. Source: RFC 2104; equal to `hmac.digest` by test.
    """
    padded = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))
    hashes = []
    for value in values:
        within = inner.copy()
        within.update(value)
        around = outer.copy()
        around.update(within.digest())
        hashes.append(around.digest())
    return hashes
