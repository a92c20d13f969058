"""MLflow's tables: its migrations make them once, and each new registry gets a copy of them."""

import os
import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa


def install(place: Path) -> None:
    """From now on this process takes the tables of a new SQLite registry from `place`.

    Whoever comes first makes them as MLflow does, which takes seconds, and leaves them there. A
    registry that has a version of its tables, or anything in it, is left to MLflow.
    """
    from mlflow.store.db import utils

    upgrade = utils._upgrade_db

    def copied(engine: Any) -> None:
        if engine.dialect.name != "sqlite" or not engine.url.database or _used(engine):
            upgrade(engine)
        elif place.exists():
            _copy(place, engine.url.database)
        else:
            upgrade(engine)
            own = place.with_suffix(f".{os.getpid()}")
            _copy(engine.url.database, own)
            own.rename(place)

    utils._upgrade_db = copied


def _used(engine: Any) -> bool:
    with engine.connect() as connection:
        if sa.inspect(connection).has_table("alembic_version"):
            return True
        return bool(connection.execute(sa.text("SELECT count(*) FROM experiments")).scalar())


def _copy(source: Any, target: Any) -> None:
    one, other = sqlite3.connect(source), sqlite3.connect(target, timeout=60)
    try:
        one.backup(other)
    finally:
        one.close()
        other.close()
