"""Receipts: what was done about a request, chained to the receipt before and signed.

A receipt names nobody. It is JSON: `receipt` and the `signature` over its canonical form
(keys sorted, no spaces, UTF-8) by Ed25519 (RFC 8032). `previous` is the SHA-256 of the whole
receipt before, signature included, in canonical form; the first has 64 zeros.

What the chain shows, with the public key alone: that no receipt was changed, reordered, taken
out of the middle or put in. What it cannot show by itself: that the newest were cut off, since
a shorter chain is a valid one. Against that whoever checks gives the number and hash of a
receipt that they hold (`head`): people's own copies, or what the last check printed.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from lethe.core.errors import KeyInvalid, ReceiptInvalid
from lethe.core.reading import parse_data
from lethe.stores.requests.requests import GENESIS

FORMAT = "lethe receipt 2"
_FORMATS = ("lethe receipt 1", FORMAT)  # the first knew three results of a store, not five


@dataclass(frozen=True)
class Checked:
    """What a check found sound: which receipts, and the hash of the last."""

    first: int
    last: int
    head: str


class Signer:
    """Signs receipts; `seed` is 32 secret bytes."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)

    @property
    def public_pem(self) -> bytes:
        """The public key, as OpenSSL reads it too."""
        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def key_id(self) -> str:
        return public_key_id(self._key.public_key())

    def sign(self, facts: Mapping[str, Any], *, number: int, previous: str) -> tuple[str, str]:
        """A receipt's text, and its hash.

        Args:
            facts: what was done; JSON without floats, whose spelling others may not share.
        """
        receipt = {
            **facts,
            "format": FORMAT,
            "number": number,
            "previous": previous,
            "signing_key": self.key_id,
        }
        signature = base64.b64encode(self._key.sign(canonical(receipt))).decode()
        whole = {"receipt": receipt, "signature": signature}
        text = json.dumps(whole, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        return text, digest(whole)


def canonical(content: Any) -> bytes:
    """The one form that is signed and hashed."""
    return json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(whole: Mapping[str, Any]) -> str:
    """What the next receipt names this one by."""
    return hashlib.sha256(canonical(whole)).hexdigest()


def public_key_id(key: Ed25519PublicKey) -> str:
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def read_public_key(path: Path) -> Ed25519PublicKey:
    """An Ed25519 public key in PEM.

    Raises:
        KeyInvalid: it is none.
    """
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise KeyInvalid(f"{path} is no public key in PEM ({type(error).__name__}).") from None
    if not isinstance(key, Ed25519PublicKey):
        raise KeyInvalid(f"{path} is a public key of another kind; receipts need Ed25519.")
    return key


def check(
    texts: Iterable[str],
    keys: Sequence[Ed25519PublicKey],
    *,
    head: tuple[int, str] | None = None,
) -> Checked:
    """Checks receipts and their chain, with public keys alone; in any order.

    Guarantees: what is returned was signed by one of the keys as it stands, and has every
        receipt between the first and the last.

    Args:
        head: number and hash of a receipt that must be among them: nothing up to it was cut.

    Raises:
        ReceiptInvalid: a receipt was changed, is missing, or is signed by none of the keys.
    """
    wholes = sorted(map(_parsed, texts), key=lambda whole: whole["receipt"]["number"])
    if not wholes:
        raise ReceiptInvalid("There are no receipts to check.")
    known = {public_key_id(key): key for key in keys}
    hashes: dict[int, str] = {}
    for whole in wholes:
        receipt = whole["receipt"]
        number, before = receipt["number"], receipt["number"] - 1
        _check_signature(whole, known)
        if number in hashes:
            raise ReceiptInvalid(f"Two receipts have number {number}.")
        if hashes and before not in hashes:
            raise ReceiptInvalid(
                f"Receipt {before} is missing: receipt {number} follows receipt {max(hashes)}."
            )
        expected = GENESIS if number == 1 else hashes.get(before)
        if expected is not None and receipt["previous"] != expected:
            raise ReceiptInvalid(f"Receipt {number} does not follow from the receipt before it.")
        hashes[number] = digest(whole)
    if head is not None and hashes.get(head[0]) != head[1]:
        raise ReceiptInvalid(
            f"Receipt {head[0]} is not the one with hash {head[1]}, or is not there: the chain "
            f"given ends at {max(hashes)}. Receipts were cut off or made anew."
        )
    return Checked(min(hashes), max(hashes), hashes[max(hashes)])


def hash_of(text: str) -> str:
    """The hash of a receipt; unchecked."""
    return digest(_parsed(text))


def facts_of(text: str) -> dict[str, Any]:
    """What a receipt says; unchecked."""
    receipt: dict[str, Any] = _parsed(text)["receipt"]
    return receipt


def _parsed(text: str) -> dict[str, Any]:
    """A receipt that every reader of JSON reads alike.

    Raises:
        ReceiptInvalid: it is none, or says something twice, of which a reader may take either.
    """
    try:
        whole = parse_data(text, once=_once)
        number = whole["receipt"]["number"]
        format_ = str(whole["receipt"].get("format"))
    except (ValueError, LookupError, TypeError, AttributeError):
        whole, number, format_ = None, None, ""
    if (
        type(number) is not int
        or set(whole) != {"receipt", "signature"}
        or format_ not in _FORMATS
        or not isinstance(whole["receipt"].get("previous"), str)
        or number < 1
    ):
        raise ReceiptInvalid("A file is no receipt, or one of another format.")
    found: dict[str, Any] = whole
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({repr(name) for name in names if names.count(name) > 1})
        raise ReceiptInvalid(
            f"A receipt says {', '.join(twice)} twice, so that readers may see another value than "
            "the signed one. It was changed."
        )
    return found


def _check_signature(whole: Mapping[str, Any], known: Mapping[str, Ed25519PublicKey]) -> None:
    receipt = whole["receipt"]
    key = known.get(str(receipt.get("signing_key")))
    if key is None:
        raise ReceiptInvalid(
            f"Receipt {receipt['number']} is signed by key {receipt.get('signing_key')}; given: "
            f"{', '.join(sorted(known)) or 'none'}."
        )
    try:
        signature = base64.b64decode(str(whole["signature"]), validate=True)
        key.verify(signature, canonical(receipt))
    except (InvalidSignature, binascii.Error, ValueError):
        raise ReceiptInvalid(
            f"Receipt {receipt['number']} was changed: its signature does not hold."
        ) from None
