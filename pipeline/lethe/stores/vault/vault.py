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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

import numpy as np
import sqlalchemy as sa
from pyroaring import BitMap

from lethe.config.keys import derive, key_id, keyed_hashes
from lethe.core.closing import Closing
from lethe.core.errors import KeyInvalid, NotFound, ParamsInvalid, VaultMismatch
from lethe.stores.vault import database, reveals, suppressions
from lethe.stores.vault.creation import create_tables, exists, migrate, reveals_key
from lethe.stores.vault.database import KEYS, RETIRED, SUBJECTS, VAULT
from lethe.stores.vault.draw import draw
from lethe.stores.vault.keys import (
    ROTATED,
    SECRETS,
    check_identities,
    decrypt,
    encrypt,
    encrypt_identities,
    open_identity,
    renewed,
    token_bytes,
    unlock,
    wrapped,
)

CAPACITY = 2**24  # dense enough for Roaring bitmaps, and most of it never used
NO_TOKEN = 2**32 - 1  # in place of a suppressed subject's token; no capacity reaches it


class Vault(Closing):
    """Subject ↔ token, in SQLite or PostgreSQL; opened by `Vault.open`.

    Guarantees: a token is uniform over the capacity, independent of the subject and of the
        order of enrolment; a subject has one token, and a token one subject for all time;
        several processes may ask at once.
    """

    def __init__(self, engine: sa.Engine, key: bytes) -> None:
        self._engine = engine
        with database.transaction(engine, write=False) as connection:
            self._vault_id, self._capacity, self._keys = unlock(connection, key)
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
        engine = database.DATABASE.open(url, create=create)
        try:
            if exists(engine):
                migrate(engine, key)
            else:
                if not create:
                    raise NotFound(
                        "There is no vault yet. Run lethe pseudonymize, or check stores.vault."
                    )
                create_tables(engine, key, capacity)
            return cls(engine, key)
        except BaseException:
            engine.dispose()
            raise

    def close(self) -> None:
        self._engine.dispose()

    def secret(self, name: str) -> bytes:
        """The 32-byte secret `shard` or `holdout`, the same for the life of the vault."""
        if name not in SECRETS:
            raise ValueError(f"the vault gives out {SECRETS}, not {name!r}")
        return self._keys[name]

    def tokens(self, keys: Sequence[str], *, purpose: str | None = None) -> np.ndarray:
        """The token of every subject; who has none is given one.

        Guarantees: all or none are created; a suppressed subject is never given one, and has
            NO_TOKEN here even if an old one is left.
        Args:
            purpose: who is suppressed for this purpose counts as suppressed as well.
        Shapes: keys (n,) -> uint32 (n,).
        Raises:
            LetheError: more than half of the capacity would be in use.
        """
        distinct = list(dict.fromkeys(keys))
        hashes = self._hashes("lookup", distinct)
        with self._transaction() as connection:
            known = self._known(connection, distinct, hashes, purpose)
        missing = [
            (key, entry) for key, entry in zip(distinct, hashes, strict=True) if key not in known
        ]
        if missing:
            with self._transaction(write=True) as connection:
                # Another process may have been first.
                known |= self._known(
                    connection,
                    [key for key, _ in missing],
                    [entry for _, entry in missing],
                    purpose,
                )
                missing = [(key, entry) for key, entry in missing if key not in known]
                tokens = draw(connection, len(missing), self._capacity, self._retired).tolist()
                subjects = [key for key, _ in missing]
                encrypted = encrypt_identities(self._keys["identity"], tokens, subjects)
                lookups = [entry for _, entry in missing]
                database.insert_subjects(
                    connection, list(zip(tokens, lookups, encrypted, strict=True))
                )
            known.update(zip(subjects, tokens, strict=True))
        return np.fromiter(map(known.__getitem__, keys), dtype=np.uint32, count=len(keys))

    def lookup(self, keys: Sequence[str]) -> np.ndarray:
        """The token of every subject that has one, suppressed or not; -1 for who has none.

        Shapes: keys (n,) -> int64 (n,).
        Raises:
            VaultMismatch: what is found for a subject is another's.
        """
        distinct = list(dict.fromkeys(keys))
        hashes = self._hashes("lookup", distinct)
        with self._transaction() as connection:
            tokens = self._matching(connection, distinct, hashes)
        found = {key: tokens.get(entry, -1) for key, entry in zip(distinct, hashes, strict=True)}
        return np.fromiter(map(found.__getitem__, keys), dtype=np.int64, count=len(keys))

    def count(self) -> int:
        """How many subjects have a token."""
        with self._transaction() as connection:
            return database.count(connection, SUBJECTS)

    def everybody(self) -> BitMap:
        """Every token that stands for somebody."""
        with self._transaction() as connection:
            return BitMap(connection.execute(sa.select(SUBJECTS.c.token)).scalars())

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
            key = reveals_key(self._keys)
            reveals.log(connection, key, token, reason=reason.strip(), who=who.strip(), now=now)
        return open_identity(self._keys["identity"], token, bytes(identity))

    def reveals(self) -> list[dict[str, object]]:
        """The log of `reveal`, oldest first: id, at, who, reason, token; of an erased person
        neither reason nor token.

        Raises:
            VaultMismatch: an entry was changed, added or removed by another way than this.
        """
        with self._transaction() as connection:
            return reveals.read(connection, reveals_key(self._keys))

    def entries(self, keys: Sequence[str], *, purpose: str | None = None) -> list[bytes]:
        """What stands for each subject in a suppression: it reveals nothing without the key.

        Args:
            purpose: of a suppression for that purpose alone; None for all of them.
        """
        secret = self._keys["suppression"]
        if purpose is not None:
            secret = derive(secret, f"purpose/{purpose}")
        return keyed_hashes(secret, [key.encode() for key in keys])

    def suppress(
        self, keys: Sequence[str], *, now: dt.datetime, purpose: str | None = None
    ) -> None:
        """Keeps these subjects from being given a token, whether they have one or not.

        Guarantees: no answer of theirs up to `now` counts from now on, for good.
        """
        self.suppress_entries(dict.fromkeys(self.entries(keys, purpose=purpose), now))

    def suppress_entries(self, entries: Mapping[bytes, dt.datetime]) -> None:
        """The same by what stands for the subjects, which needs no subject key."""
        with self._transaction(write=True) as connection:
            suppressions.suppress(connection, entries)

    def suppressions(self) -> dict[bytes, dt.datetime]:
        """Every entry there is, lifted or not, and up to when answers do not count."""
        with self._transaction() as connection:
            return suppressions.everything(connection)

    def suppressed(self, keys: Sequence[str], *, purpose: str | None = None) -> np.ndarray:
        """Whether every subject is suppressed, and no later answer has lifted it.

        Shapes: keys (n,) -> bool (n,).
        """
        with self._transaction() as connection:
            there = self._suppressed_among(connection, list(dict.fromkeys(keys)), purpose)
        return np.fromiter((key in there for key in keys), dtype=np.bool_, count=len(keys))

    def not_before(self, keys: Sequence[str], *, purpose: str) -> dict[str, dt.datetime]:
        """Up to when the answers of these subjects do not count, for those who are or were
        suppressed, for this purpose or for all."""
        distinct = list(dict.fromkeys(keys))
        moments: dict[str, dt.datetime] = {}
        with self._transaction() as connection:
            if not database.count(connection, database.SUPPRESSIONS):
                return moments
            spelled = suppressions.in_any_form(distinct)
            for of in (None, purpose):
                entries = self.entries([form for _, form in spelled], purpose=of)
                found = suppressions.since(connection, entries)
                for (key, _), entry in zip(spelled, entries, strict=True):
                    if entry in found:
                        moments[key] = max(found[entry], moments.get(key, found[entry]))
        return moments

    def lift(self, answered: Mapping[str, dt.datetime], *, purpose: str) -> None:
        """Lets subjects who answered afresh come back; who answered before stays out.

        Args:
            answered: when each of them said yes to this purpose.
        """
        spelled = suppressions.in_any_form(answered)
        moments = [answered[key] for key, _ in spelled]
        with self._transaction(write=True) as connection:
            for of in (None, purpose):
                entries = self.entries([form for _, form in spelled], purpose=of)
                suppressions.lift(connection, dict(zip(entries, moments, strict=True)))

    def spend_entry(self, key: str) -> bytes:
        """What stands for a subject in the ledger's memory of what people who left had spent."""
        return self.spend_entries([key])[0]

    def spend_entries(self, keys: Sequence[str]) -> list[bytes]:
        """The same of many."""
        secret = derive(self._keys["suppression"], "spend")
        return keyed_hashes(secret, [key.encode() for key in keys])

    def reference(self, content: bytes) -> bytes:
        """What shows that two requests are about one person: it reveals nothing without the key."""
        return keyed_hashes(derive(self._keys["suppression"], "reference"), [content])[0]

    def encrypt(self, content: bytes, *, about: str) -> bytes:
        """Encrypts what a pending request must remember; it outlives a rotation."""
        return encrypt(derive(self._keys["suppression"], "request"), content, about.encode())

    def decrypt(self, encrypted: bytes, *, about: str) -> bytes:
        """What `encrypt` was given.

        Raises:
            VaultMismatch: it is about something else, changed, or of another vault.
        """
        key = derive(self._keys["suppression"], "request")
        return decrypt(
            key, encrypted, about.encode(), damage=f"what request {about} holds was changed"
        )

    def forget(self, keys: Sequence[str]) -> int:
        """Removes the subjects' rows, and them from the log of reveals, with the reasons.

        Guarantees: nobody is ever given their tokens again, though the tokens are not kept.
        Returns: how many rows there were.
        """
        distinct = list(dict.fromkeys(keys))
        hashes = self._hashes("lookup", distinct)
        with self._transaction(write=True) as connection:
            found = list(self._matching(connection, distinct, hashes).values())
            tokens = [{"gone": token} for token in found]
            if tokens:
                gone: sa.BindParameter[int] = sa.bindparam("gone")
                retired = self._retired(found)
                # A restored backup brings back rows whose tokens were retired before.
                there = {
                    bytes(row[0]) for row in database.matching(connection, RETIRED.c.entry, retired)
                }
                new = [{"entry": entry} for entry in retired if entry not in there]
                if new:
                    connection.execute(sa.insert(RETIRED), new)
                reveals.forget(connection, reveals_key(self._keys), found)
                connection.execute(sa.delete(SUBJECTS).where(SUBJECTS.c.token == gone), tokens)
        return len(found)

    def rotate(self, new_key: bytes) -> None:
        """Puts the vault under a new master key, with new lookup and identity keys.

        Guarantees: one transaction, so a crash leaves the old key or the new one valid and
            never both; tokens, shards and who is held out stay as they are.
        Raises:
            KeyInvalid: the new key is the old one.
            VaultMismatch: a row is damaged or another's; nothing was changed.
        """
        if key_id(new_key) == self._key_id:
            raise KeyInvalid("The new key is the vault's own. Rotate to a fresh one.")
        new = {**self._keys, **{name: os.urandom(32) for name in ROTATED}}

        old = self._keys
        with self._transaction(write=True) as connection:
            database.replace_subjects(connection, lambda rows: renewed(old, new, rows))
            connection.execute(sa.delete(KEYS))
            connection.execute(
                sa.insert(KEYS), wrapped(new_key, self._vault_id, self._capacity, new)
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

    def _matching(
        self, connection: sa.Connection, keys: Sequence[str], hashes: Sequence[bytes]
    ) -> dict[bytes, int]:
        """The token by lookup of those of these subjects who have one."""
        wanted = (SUBJECTS.c.token, SUBJECTS.c.identity)
        rows = database.matching(connection, SUBJECTS.c.lookup, hashes, *wanted)
        return check_identities(self._keys["identity"], keys, hashes, rows)

    def _retired(self, tokens: list[int]) -> list[bytes]:
        return keyed_hashes(
            derive(self._keys["suppression"], "retired-token"), map(token_bytes, tokens)
        )

    def _known(
        self,
        connection: sa.Connection,
        keys: list[str],
        hashes: list[bytes],
        purpose: str | None,
    ) -> dict[str, int]:
        tokens = self._matching(connection, keys, hashes)
        known = {
            key: tokens[entry] for key, entry in zip(keys, hashes, strict=True) if entry in tokens
        }
        return known | dict.fromkeys(self._suppressed_among(connection, keys, purpose), NO_TOKEN)

    def _suppressed_among(
        self, connection: sa.Connection, keys: list[str], purpose: str | None
    ) -> set[str]:
        if not database.count(connection, database.SUPPRESSIONS):
            return set()
        found: set[str] = set()
        spelled = suppressions.in_any_form(keys)
        for of in (None,) if purpose is None else (None, purpose):
            entries = self.entries([form for _, form in spelled], purpose=of)
            there = suppressions.in_force(connection, entries)
            found |= {k for (k, _), entry in zip(spelled, entries, strict=True) if entry in there}
        return found
