"""The vault: which token stands for which subject, and the keys that hold it together.

The one place where a token leads back to a person. What lies in the database is either
keyed (HMAC-SHA256) or encrypted (AES-256-GCM) under data keys of the vault, and those lie
there wrapped under the master key (envelope encryption): the database without the master
key names nobody.

Data keys: `shard` and `holdout` (which group a person is in) and `suppression` (who must
not come back) stay for the life of the vault, rewrapped; `lookup` and `identity` change
with every rotation. Nonces are random, 96 bits: a key encrypts fewer than 2**24 identities,
far below the 2**32 that NIST SP 800-38D allows.
"""

import datetime as dt
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import numpy as np
import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipeline.errors import KeyInvalid, LetheError, NotFound, ParamsInvalid, VaultMismatch
from pipeline.keys import derive, key_id, keyed_hashes
from pipeline.stores import vault_database as database
from pipeline.stores.vault_database import KEYS, RETIRED, REVEALS, SUBJECTS, SUPPRESSIONS, VAULT

SCHEMA = 1
CAPACITY = 2**24  # dense enough for Roaring bitmaps, and most of it never used
NO_TOKEN = 2**32 - 1  # in place of a suppressed subject's token; no capacity reaches it
SECRETS = ("shard", "holdout")
_ROTATED = ("lookup", "identity")
_DATA_KEYS = (*SECRETS, "suppression", *_ROTATED)
_NONCE = 12
_DAMAGED = "The vault is damaged: {}. Bring back its backup; the key stays the same."


class Vault:
    """Subject ↔ token, in SQLite or PostgreSQL; opened by `Vault.open`.

    Guarantees: a token is uniform over the capacity, independent of the subject and of the
        order of enrolment; a subject has one token, and a token one subject for all time;
        several processes may ask at once.
    """

    def __init__(self, engine: sa.Engine, key: bytes) -> None:
        self._engine = engine
        with database.transaction(engine, write=False) as connection:
            self._vault_id, self._capacity, self._keys = _unlock(connection, key)
        self._key_id = key_id(key)

    @classmethod
    def open(cls, url: str, key: bytes, *, create: bool = True, capacity: int = CAPACITY) -> Self:
        """Opens the vault at a SQLAlchemy URL, or makes one.

        Args:
            key: the master key, 32 bytes.
            create: make a vault where there is none.
            capacity: number of tokens, fixed when a vault is made.

        Raises:
            VaultMismatch: it belongs to another key, is damaged, or of a newer schema.
            NotFound: there is none, and `create` is false.
            SourceUnavailable: its database does not answer.
        """
        engine = database.open_engine(url, create=create)
        try:
            if not _exists(engine):
                if not create:
                    raise NotFound(
                        "There is no vault yet. Run lethe pseudonymize, or check stores.vault."
                    )
                _create(engine, key, capacity)
            return cls(engine, key)
        except BaseException:
            engine.dispose()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    def secret(self, name: str) -> bytes:
        """The 32-byte secret `shard` or `holdout`, the same for the life of the vault."""
        if name not in SECRETS:
            raise ValueError(f"the vault gives out {SECRETS}, not {name!r}")
        return self._keys[name]

    def tokens(self, keys: Sequence[str]) -> np.ndarray:
        """The token of every subject; who has none is given one.

        Guarantees: all or none are created; a suppressed subject is never given one, and has
            NO_TOKEN here even if an old one is left.
        Shapes: keys (n,) -> uint32 (n,).
        Raises:
            LetheError: more than half of the capacity would be in use.
        """
        distinct = list(dict.fromkeys(keys))
        hashes = self._hashes("lookup", distinct)
        with self._transaction() as connection:
            known = self._known(connection, distinct, hashes)
        missing = [
            (key, entry) for key, entry in zip(distinct, hashes, strict=True) if key not in known
        ]
        if missing:
            with self._transaction(write=True) as connection:
                # Another process may have been first.
                known |= self._known(connection, *map(list, zip(*missing, strict=True)))
                missing = [(key, entry) for key, entry in missing if key not in known]
                tokens = self._draw(connection, len(missing)).tolist()
                subjects = [key for key, _ in missing]
                sealed = _seal(self._keys["identity"], tokens, subjects)
                lookups = [entry for _, entry in missing]
                database.insert_subjects(
                    connection, list(zip(tokens, lookups, sealed, strict=True))
                )
            known.update(zip(subjects, tokens, strict=True))
        return np.fromiter(map(known.__getitem__, keys), dtype=np.uint32, count=len(keys))

    def lookup(self, keys: Sequence[str]) -> np.ndarray:
        """The token of every subject that has one, suppressed or not; -1 for who has none.

        Shapes: keys (n,) -> int64 (n,).
        """
        distinct = list(dict.fromkeys(keys))
        hashes = self._hashes("lookup", distinct)
        with self._transaction() as connection:
            rows = database.matching(connection, SUBJECTS.c.lookup, hashes, SUBJECTS.c.token)
        tokens = dict(rows)
        found = {key: tokens.get(entry, -1) for key, entry in zip(distinct, hashes, strict=True)}
        return np.fromiter(map(found.__getitem__, keys), dtype=np.int64, count=len(keys))

    def count(self) -> int:
        """How many subjects have a token."""
        with self._transaction() as connection:
            return database.count(connection, SUBJECTS)

    def reveal(self, token: int, *, reason: str, who: str, now: dt.datetime) -> str:
        """The subject's key behind a token.

        Guarantees: who asked, when and why is committed to the vault before it is answered.
        Raises:
            ParamsInvalid: no reason, or nobody asks.
            NotFound: no subject has that token.
            VaultMismatch: what is stored is not what was stored for this token.
        """
        if not reason.strip() or not who.strip():
            raise ParamsInvalid("A reveal needs a reason and a name: it is logged in the vault.")
        with self._transaction(write=True) as connection:
            identity = (
                connection.execute(
                    sa.select(SUBJECTS.c.identity).where(SUBJECTS.c.token == token)
                ).scalar_one_or_none()
                if 0 <= token < self._capacity
                else None
            )
            if identity is None:
                raise NotFound(f"No subject has token {token}.")
            connection.execute(
                sa.insert(REVEALS).values(
                    at=now.isoformat(), who=who.strip(), reason=reason.strip(), token=token
                )
            )
        return self._open_identity(token, bytes(identity))

    def reveals(self) -> list[dict[str, object]]:
        """The log of `reveal`, oldest first: at, who, reason, token."""
        wanted = sa.select(REVEALS.c.at, REVEALS.c.who, REVEALS.c.reason, REVEALS.c.token)
        with self._transaction() as connection:
            rows = connection.execute(wanted.order_by(REVEALS.c.id)).mappings().all()
        return [dict(row) for row in rows]

    def suppress(self, keys: Sequence[str], *, now: dt.datetime) -> None:
        """Keeps these subjects from being given a token, whether they have one or not."""
        entries = self._hashes("suppression", list(dict.fromkeys(keys)))
        with self._transaction(write=True) as connection:
            there = {row[0] for row in database.matching(connection, SUPPRESSIONS.c.entry, entries)}
            new = [{"entry": e, "since": now.isoformat()} for e in entries if e not in there]
            if new:
                connection.execute(sa.insert(SUPPRESSIONS), new)

    def suppressed(self, keys: Sequence[str]) -> np.ndarray:
        """Whether every subject is suppressed.

        Shapes: keys (n,) -> bool (n,).
        """
        with self._transaction() as connection:
            there = self._suppressed_among(connection, list(dict.fromkeys(keys)))
        return np.fromiter((key in there for key in keys), dtype=np.bool_, count=len(keys))

    def forget(self, keys: Sequence[str]) -> int:
        """Removes the subjects' rows, and their tokens from the log of reveals.

        Guarantees: nobody is ever given their tokens again, though the tokens are not kept.
        Returns: how many rows there were.
        """
        hashes = self._hashes("lookup", list(dict.fromkeys(keys)))
        with self._transaction(write=True) as connection:
            rows = database.matching(connection, SUBJECTS.c.lookup, hashes, SUBJECTS.c.token)
            tokens = [{"gone": token} for _, token in rows]
            if tokens:
                gone: sa.BindParameter[int] = sa.bindparam("gone")
                connection.execute(
                    sa.insert(RETIRED),
                    [{"entry": entry} for entry in self._retired([t for _, t in rows])],
                )
                connection.execute(
                    sa.update(REVEALS).where(REVEALS.c.token == gone).values(token=None), tokens
                )
                connection.execute(sa.delete(SUBJECTS).where(SUBJECTS.c.token == gone), tokens)
        return len(rows)

    def rotate(self, new_key: bytes) -> None:
        """Puts the vault under a new master key, with new lookup and identity keys.

        Guarantees: one transaction, so a crash leaves the old key or the new one valid and
            never both; tokens, shards and who is held out stay as they are.
        Raises:
            KeyInvalid: the new key is the old one.
            VaultMismatch: a row is damaged; nothing was changed.
        """
        if key_id(new_key) == self._key_id:
            raise KeyInvalid("The new key is the vault's own. Rotate to a fresh one.")
        new = {**self._keys, **{name: os.urandom(32) for name in _ROTATED}}

        def renew(rows: list[tuple[int, bytes]]) -> list[database.SubjectRow]:
            tokens = [token for token, _ in rows]
            subjects = [self._open_identity(token, identity) for token, identity in rows]
            lookups = keyed_hashes(new["lookup"], [subject.encode() for subject in subjects])
            identities = _seal(new["identity"], tokens, subjects)
            return list(zip(tokens, lookups, identities, strict=True))

        with self._transaction(write=True) as connection:
            database.replace_subjects(connection, renew)
            connection.execute(sa.delete(KEYS))
            connection.execute(
                sa.insert(KEYS), _wrapped(new_key, self._vault_id, self._capacity, new)
            )
            connection.execute(sa.update(VAULT).values(key_id=key_id(new_key)))
        self._keys, self._key_id = new, key_id(new_key)

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[sa.Connection]:
        with database.transaction(self._engine, write=write) as connection:
            # What is keyed with a key from before a rotation would be lost among the rest.
            if connection.execute(sa.select(VAULT.c.key_id)).scalar_one() != self._key_id:
                raise VaultMismatch("The vault's key was rotated meanwhile. Run with the new one.")
            yield connection

    def _hashes(self, name: str, keys: list[str]) -> list[bytes]:
        return keyed_hashes(self._keys[name], [key.encode() for key in keys])

    def _retired(self, tokens: list[int]) -> list[bytes]:
        return keyed_hashes(
            derive(self._keys["suppression"], "retired-token"), map(_token_bytes, tokens)
        )

    def _known(
        self, connection: sa.Connection, keys: list[str], hashes: list[bytes]
    ) -> dict[str, int]:
        tokens = dict(database.matching(connection, SUBJECTS.c.lookup, hashes, SUBJECTS.c.token))
        known = {
            key: tokens[entry] for key, entry in zip(keys, hashes, strict=True) if entry in tokens
        }
        return known | dict.fromkeys(self._suppressed_among(connection, keys), NO_TOKEN)

    def _suppressed_among(self, connection: sa.Connection, keys: list[str]) -> set[str]:
        if not database.count(connection, SUPPRESSIONS):
            return set()
        entries = self._hashes("suppression", keys)
        there = {row[0] for row in database.matching(connection, SUPPRESSIONS.c.entry, entries)}
        return {key for key, entry in zip(keys, entries, strict=True) if entry in there}

    def _draw(self, connection: sa.Connection, wanted: int) -> np.ndarray:
        """Unused tokens, uniform without replacement, in random order."""
        retired = database.count(connection, RETIRED)
        used = database.count(connection, SUBJECTS) + retired
        if used + wanted > self._capacity // 2:
            raise LetheError(
                f"The vault has {self._capacity} tokens and {used} in use; {wanted} more would be "
                "over half, where tokens stop hiding who came when. Start a vault of more capacity."
            )
        drawn: list[np.ndarray] = []
        seen = np.zeros(self._capacity, dtype=np.bool_)
        while wanted:
            fresh = _distinct(_uniform_below(self._capacity, wanted))
            fresh = fresh[~seen[fresh]]
            seen[fresh] = True
            taken = database.matching(connection, SUBJECTS.c.token, fresh.tolist())
            free = np.ones(self._capacity, dtype=np.bool_)
            free[[token for (token,) in taken]] = False
            fresh = fresh[free[fresh]]
            if retired:
                entries = self._retired(fresh.tolist())
                old = {row[0] for row in database.matching(connection, RETIRED.c.entry, entries)}
                fresh = fresh[[entry not in old for entry in entries]]
            drawn.append(fresh)
            wanted -= len(fresh)
        return np.concatenate(drawn) if drawn else np.empty(0, dtype=np.int64)

    def _open_identity(self, token: int, identity: bytes) -> str:
        try:
            return (
                AESGCM(self._keys["identity"])
                .decrypt(identity[:_NONCE], identity[_NONCE:], _token_bytes(token))
                .decode()
            )
        except (InvalidTag, ValueError):
            raise VaultMismatch(_DAMAGED.format(f"token {token} is not as written")) from None


def _token_bytes(token: int) -> bytes:
    return token.to_bytes(4, "big")


def _seal(key: bytes, tokens: list[int], subjects: list[str]) -> list[bytes]:
    """Encrypts every subject's key, bound to its token: swapped rows do not open."""
    encrypt = AESGCM(key).encrypt
    random = os.urandom(_NONCE * len(tokens))
    nonces = (random[at : at + _NONCE] for at in range(0, len(random), _NONCE))
    return [
        nonce + encrypt(nonce, subject.encode(), _token_bytes(token))
        for nonce, token, subject in zip(nonces, tokens, subjects, strict=True)
    ]


def _uniform_below(limit: int, count: int) -> np.ndarray:
    """Uniform integers in [0, limit) of the operating system's generator, by rejection."""
    mask = (1 << (limit - 1).bit_length()) - 1
    accepted = np.empty(0, dtype=np.int64)
    while len(accepted) < count:
        random = np.frombuffer(os.urandom(4 * count), dtype="<u4").astype(np.int64) & mask
        accepted = np.concatenate([accepted, random[random < limit]])
    return accepted[:count]


def _distinct(values: np.ndarray) -> np.ndarray:
    """Each value once, in the order of first occurrence: sorted tokens would tell who came when."""
    _, first = np.unique(values, return_index=True)
    return values[np.sort(first)]


def _exists(engine: sa.Engine) -> bool:
    with database.transaction(engine, write=False) as connection:
        return sa.inspect(connection).has_table(VAULT.name)


def _create(engine: sa.Engine, key: bytes, capacity: int) -> None:
    vault_id = os.urandom(16)
    keys = {name: os.urandom(32) for name in _DATA_KEYS}
    with database.transaction(engine, write=True) as connection:
        if sa.inspect(connection).has_table(VAULT.name):
            return  # another process was first
        database.METADATA.create_all(connection)
        connection.execute(
            sa.insert(VAULT).values(
                vault_id=vault_id, schema=SCHEMA, capacity=capacity, key_id=key_id(key)
            )
        )
        connection.execute(sa.insert(KEYS), _wrapped(key, vault_id, capacity, keys))


def _bound(vault_id: bytes, capacity: int, name: str) -> bytes:
    """What a wrapped key is bound to: moved, renamed or of another capacity, it does not open."""
    return b"|".join((vault_id, str(capacity).encode(), name.encode()))


def _wrapped(
    key: bytes, vault_id: bytes, capacity: int, keys: dict[str, bytes]
) -> list[dict[str, str | bytes]]:
    wrap = AESGCM(derive(key, "vault/wrap"))
    rows: list[dict[str, str | bytes]] = []
    for name, value in keys.items():
        nonce = os.urandom(_NONCE)
        sealed = nonce + wrap.encrypt(nonce, value, _bound(vault_id, capacity, name))
        rows.append({"name": name, "wrapped": sealed})
    return rows


def _unlock(connection: sa.Connection, key: bytes) -> tuple[bytes, int, dict[str, bytes]]:
    facts = connection.execute(sa.select(VAULT)).mappings().all()
    if len(facts) != 1:
        raise VaultMismatch(_DAMAGED.format("its own row is gone or there are several"))
    vault_id, capacity = bytes(facts[0]["vault_id"]), int(facts[0]["capacity"])
    if facts[0]["schema"] != SCHEMA:
        raise VaultMismatch(
            f"The vault has schema {facts[0]['schema']}, this Lethe knows {SCHEMA}. Update Lethe."
        )
    if facts[0]["key_id"] != key_id(key):
        raise VaultMismatch(
            f"The vault belongs to key {facts[0]['key_id']}; the key given is {key_id(key)}. "
            "Bring back the vault's key, or point stores.vault at the vault of this one."
        )
    wrapped = {row.name: bytes(row.wrapped) for row in connection.execute(sa.select(KEYS))}
    unwrap = AESGCM(derive(key, "vault/wrap"))
    keys = {}
    for name in _DATA_KEYS:
        sealed = wrapped.get(name, b"")
        try:
            keys[name] = unwrap.decrypt(
                sealed[:_NONCE], sealed[_NONCE:], _bound(vault_id, capacity, name)
            )
        except (InvalidTag, ValueError):
            raise VaultMismatch(_DAMAGED.format(f"its key {name!r} does not open")) from None
    return vault_id, capacity, keys
