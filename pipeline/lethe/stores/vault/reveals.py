"""The log of who asked for whose identity: a chain, so that nothing leaves it unnoticed.

Each entry is bound to the one before it, and the last to the vault's own note of how many there
are, by HMAC-SHA256 under a key of the vault. So whoever can write to the database, and does not
have the key, can neither change, add nor remove an entry without it being seen, the last ones
included. Not seen: that the whole database is an older copy.

The person of an entry can be erased from it: the chain holds a keyed hash in place of token and
reason, and what was erased carries a mark that only the vault can make.
"""

import datetime as dt
import hmac
import json
from typing import Any

import sqlalchemy as sa

from lethe.core.errors import VaultMismatch
from lethe.stores.vault.database import REVEALS, REVEALS_HEAD

_GENESIS = b"\0" * 32


def log(
    connection: sa.Connection, key: bytes, token: int, *, reason: str, who: str, now: dt.datetime
) -> None:
    """Adds an entry, once what is there is found as it was written.

    Raises:
        VaultMismatch: the log was changed.
    """
    entries = read(connection, key)
    number = 1 + (entries[-1]["id"] if entries else 0)
    values = {"id": number, "at": now.isoformat(), "who": who, "reason": reason, "token": token}
    content = _content(key, values)
    chain = _link(key, _head(connection), values, content)
    connection.execute(sa.insert(REVEALS).values(**values, content=content, chain=chain))
    connection.execute(sa.update(REVEALS_HEAD).values(entries=len(entries) + 1, chain=chain))


def read(connection: sa.Connection, key: bytes) -> list[dict[str, Any]]:
    """The entries, oldest first: id, at, who, reason, token; of an erased person no reason and
    no token.

    Raises:
        VaultMismatch: the log was changed.
    """
    chain = _GENESIS
    found: list[dict[str, Any]] = []
    for row in connection.execute(sa.select(REVEALS).order_by(REVEALS.c.id)).mappings():
        chain = _link(key, chain, row, row["content"])
        if row["token"] is None:
            kept = (row["erased"], row["reason"]) == (_erased(key, row["id"]), "")
        else:
            kept = (row["erased"], row["content"]) == (None, _content(key, row))
        if not kept or row["chain"] != chain:
            raise _changed(f"entry {len(found) + 1} is not as written, or one before it is gone")
        found.append({name: row[name] for name in ("id", "at", "who", "reason", "token")})
    head = connection.execute(sa.select(REVEALS_HEAD)).mappings().all()
    if [(each["entries"], each["chain"]) for each in head] != [(len(found), chain)]:
        raise _changed(f"{len(found)} entries are there, and the last ones are gone")
    return found


def forget(connection: sa.Connection, key: bytes, tokens: list[int]) -> None:
    """Erases people from their entries: the token and the reason, which may name them."""
    wanted = sa.select(REVEALS.c.id).where(REVEALS.c.token == sa.bindparam("gone"))
    for token in tokens:
        for number in connection.execute(wanted, {"gone": token}).scalars().all():
            values = {"token": None, "reason": "", "erased": _erased(key, number)}
            connection.execute(sa.update(REVEALS).where(REVEALS.c.id == number).values(**values))


def begin(connection: sa.Connection, key: bytes) -> None:
    """Begins the chain; a log of the version before, which had none, is taken as it is."""
    chain, entries = _GENESIS, 0
    for row in connection.execute(sa.select(REVEALS).order_by(REVEALS.c.id)).mappings().all():
        values = dict(row) if row["token"] is not None else {**row, "reason": ""}
        content = _content(key, values)
        chain, entries = _link(key, chain, values, content), entries + 1
        erased = None if row["token"] is not None else _erased(key, row["id"])
        added = {"reason": values["reason"], "content": content, "chain": chain, "erased": erased}
        connection.execute(sa.update(REVEALS).where(REVEALS.c.id == row["id"]).values(**added))
    connection.execute(sa.insert(REVEALS_HEAD).values(entries=entries, chain=chain))


def _head(connection: sa.Connection) -> bytes:
    return bytes(connection.execute(sa.select(REVEALS_HEAD.c.chain)).scalar_one())


def _link(key: bytes, before: bytes, row: Any, content: bytes | None) -> bytes:
    said = [row["id"], row["at"], row["who"], before.hex(), (content or b"").hex()]
    return _keyed(key, "entry", said)


def _content(key: bytes, row: Any) -> bytes:
    return _keyed(key, "content", [row["id"], row["token"], row["reason"]])


def _erased(key: bytes, number: int) -> bytes:
    return _keyed(key, "erased", [number])


def _keyed(key: bytes, kind: str, said: list[Any]) -> bytes:
    return hmac.digest(key, json.dumps([kind, *said]).encode(), "sha256")


def _changed(what: str) -> VaultMismatch:
    return VaultMismatch(
        f"The vault's log of reveals was changed outside of Lethe: {what}. Find out who can write "
        "to the database of stores.vault, and compare with its backup."
    )
