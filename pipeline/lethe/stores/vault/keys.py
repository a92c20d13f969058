"""The vault's data keys: wrapped under the master key, and what they encrypt.

What is encrypted is bound to where it stands (AES-256-GCM's associated data): moved or
swapped, it does not open. Nonces are random, 96 bits.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lethe.config.keys import derive, key_id, keyed_hashes
from lethe.core.errors import VaultMismatch
from lethe.stores.vault.database import KEYS, VAULT

SCHEMA = 3
SECRETS = ("shard", "holdout")
ROTATED = ("lookup", "identity")
DATA_KEYS = (*SECRETS, "suppression", *ROTATED)
DAMAGED = "The vault is damaged: {}. Restore its backup; the key stays the same."
_NONCE = 12


def token_bytes(token: int) -> bytes:
    return token.to_bytes(4, "big")


def encrypt(key: bytes, content: bytes, about: bytes) -> bytes:
    """Encrypts under a data key, bound to what it is about."""
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, content, about)


def decrypt(key: bytes, encrypted: bytes, about: bytes, *, damage: str) -> bytes:
    """What `encrypt` was given.

    Raises:
        VaultMismatch: it was changed, is about something else or under another key; `damage`
            says what it was.
    """
    try:
        return AESGCM(key).decrypt(encrypted[:_NONCE], encrypted[_NONCE:], about)
    except (InvalidTag, ValueError):
        raise VaultMismatch(DAMAGED.format(damage)) from None


def encrypt_identities(key: bytes, tokens: list[int], subjects: list[str]) -> list[bytes]:
    """Encrypts every subject's key, bound to its token: swapped rows do not open."""
    encrypt = AESGCM(key).encrypt
    random = os.urandom(_NONCE * len(tokens))
    nonces = (random[at : at + _NONCE] for at in range(0, len(random), _NONCE))
    return [
        nonce + encrypt(nonce, subject.encode(), token_bytes(token))
        for nonce, token, subject in zip(nonces, tokens, subjects, strict=True)
    ]


def open_identity(key: bytes, token: int, identity: bytes) -> str:
    damage = f"token {token} is not as written"
    try:
        return decrypt(key, identity, token_bytes(token), damage=damage).decode()
    except UnicodeDecodeError:
        raise VaultMismatch(DAMAGED.format(damage)) from None


def check_identities(
    key: bytes, keys: Sequence[str], hashes: Sequence[bytes], rows: Sequence[Any]
) -> dict[bytes, int]:
    """The token by lookup, once each row is known to be the person's who was looked up.

    A lookup alone says so little: rows whose lookups were swapped would lead an erasure to another
    person.

    Args:
        keys, hashes: who was looked up, and their lookups.
        rows: (lookup, token, identity) of those who were found.

    Raises:
        VaultMismatch: a row is another's, or damaged.
    """
    owners = dict(zip(hashes, keys, strict=True))
    for lookup, token, identity in rows:
        if open_identity(key, token, bytes(identity)) != owners[bytes(lookup)]:
            raise _another_person(token)
    return {bytes(lookup): token for lookup, token, _ in rows}


def renewed(
    old: Mapping[str, bytes], new: Mapping[str, bytes], rows: Sequence[tuple[int, bytes, bytes]]
) -> list[tuple[int, bytes, bytes]]:
    """Rows (token, lookup, identity) under new keys, once each is known to be one person's.

    Raises:
        VaultMismatch: a row is damaged, or found as somebody else.
    """
    tokens = [token for token, _, _ in rows]
    people = [open_identity(old["identity"], token, identity) for token, _, identity in rows]
    words = [person.encode() for person in people]
    for (token, lookup, _), own in zip(rows, keyed_hashes(old["lookup"], words), strict=True):
        if lookup != own:
            raise _another_person(token)
    encrypted = encrypt_identities(new["identity"], tokens, people)
    return list(zip(tokens, keyed_hashes(new["lookup"], words), encrypted, strict=True))


def _another_person(token: int) -> VaultMismatch:
    return VaultMismatch(
        DAMAGED.format(f"the row of token {token} is found as one person and holds another")
    )


def _bound(vault_id: bytes, capacity: int, name: str) -> bytes:
    """What a wrapped key is bound to: moved, renamed or of another capacity, it does not open."""
    return b"|".join((vault_id, str(capacity).encode(), name.encode()))


def wrapped(
    key: bytes, vault_id: bytes, capacity: int, keys: dict[str, bytes]
) -> list[dict[str, str | bytes]]:
    """Rows of the data keys, encrypted under the master key."""
    wrap = derive(key, "vault/wrap")
    return [
        {"name": name, "wrapped": encrypt(wrap, value, _bound(vault_id, capacity, name))}
        for name, value in keys.items()
    ]


def unlock(connection: sa.Connection, key: bytes) -> tuple[bytes, int, dict[str, bytes]]:
    """The vault's id, capacity and data keys.

    Raises:
        VaultMismatch: the vault is another key's, damaged, or of a newer schema.
    """
    facts = connection.execute(sa.select(VAULT)).mappings().all()
    if len(facts) != 1:
        raise VaultMismatch(DAMAGED.format("its own row is gone or there are several"))
    vault_id, capacity = bytes(facts[0]["vault_id"]), int(facts[0]["capacity"])
    if facts[0]["schema"] != SCHEMA:
        raise VaultMismatch(
            f"The vault has schema {facts[0]['schema']}, this Lethe knows {SCHEMA}. Update Lethe."
        )
    if facts[0]["key_id"] != key_id(key):
        raise VaultMismatch(
            f"The vault belongs to key {facts[0]['key_id']}; the key given is {key_id(key)}. "
            "Restore the vault's key, or point stores.vault at the vault of this one."
        )
    wrapped_keys = {row.name: bytes(row.wrapped) for row in connection.execute(sa.select(KEYS))}
    wrap = derive(key, "vault/wrap")
    keys = {
        name: decrypt(
            wrap,
            wrapped_keys.get(name, b""),
            _bound(vault_id, capacity, name),
            damage=f"its key {name!r} does not open",
        )
        for name in DATA_KEYS
    }
    return vault_id, capacity, keys
