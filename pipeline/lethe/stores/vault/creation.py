"""Making a vault where there is none."""

import os

import sqlalchemy as sa

from lethe.config.keys import key_id
from lethe.stores.vault import database
from lethe.stores.vault.database import KEYS, VAULT
from lethe.stores.vault.keys import DATA_KEYS, SCHEMA, wrapped


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
