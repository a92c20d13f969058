"""Making a vault where there is none, and bringing an older one to the present schema."""

import os

import sqlalchemy as sa

from lethe.config.keys import derive, key_id
from lethe.stores.vault import database, reveals
from lethe.stores.vault.database import KEYS, LIFTS, REVEALS, REVEALS_HEAD, VAULT
from lethe.stores.vault.keys import DATA_KEYS, SCHEMA, unlock, wrapped


def exists(engine: sa.Engine) -> bool:
    """Whether the database holds a vault."""
    with database.transaction(engine, write=False) as connection:
        return sa.inspect(connection).has_table(VAULT.name)


def create_tables(engine: sa.Engine, key: bytes, capacity: int) -> None:
    """Makes the tables and the vault's own keys, unless another process was first."""
    vault_id = os.urandom(16)
    keys = {name: os.urandom(32) for name in DATA_KEYS}
    with database.transaction(engine, write=True) as connection:
        if sa.inspect(connection).has_table(VAULT.name):
            return  # another process was first
        database.METADATA.create_all(connection)
        connection.execute(
            sa.insert(VAULT).values(
                vault_id=vault_id, schema=SCHEMA, capacity=capacity, key_id=key_id(key)
            )
        )
        connection.execute(sa.insert(KEYS), wrapped(key, vault_id, capacity, keys))
        reveals.begin(connection, reveals_key(keys))


def migrate(engine: sa.Engine, key: bytes) -> None:
    """Brings an older vault to the present schema; a newer one is left as it is.

    Raises:
        VaultMismatch: it belongs to another key, or is damaged; nothing was changed.
    """
    with database.transaction(engine, write=False) as connection:
        found = _schemas(connection)
    if not found or max(found) >= SCHEMA:
        return
    with database.transaction(engine, write=True) as connection:
        if max(_schemas(connection)) >= SCHEMA:
            return  # another process was first
        LIFTS.create(connection, checkfirst=True)
        REVEALS_HEAD.create(connection)
        for column in (REVEALS.c.content, REVEALS.c.chain, REVEALS.c.erased):
            kind = column.type.compile(connection.dialect)
            connection.exec_driver_sql(
                f"ALTER TABLE {REVEALS.name} ADD COLUMN {column.name} {kind}"
            )
        connection.execute(sa.update(VAULT).values(schema=SCHEMA))
        _, _, keys = unlock(connection, key)
        reveals.begin(connection, reveals_key(keys))


def reveals_key(keys: dict[str, bytes]) -> bytes:
    """The key of the log of reveals; it outlives a rotation."""
    return derive(keys["suppression"], "reveals")


def _schemas(connection: sa.Connection) -> list[int]:
    return list(connection.execute(sa.select(VAULT.c.schema)).scalars())
