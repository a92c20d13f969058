"""Rings when somebody asked: Airflow's triggerer looks for new rows in the table of requests.

The bell carries nothing but how many requests there are. What is rung for is read by
`lethe erase run` from the table, so a bell that is lost, or rings twice, changes nothing: the
poll of `erase` finds what is open.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
import yaml
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

log = logging.getLogger(__name__)

_COUNT = sa.text(
    "SELECT count(*), coalesce(sum(CASE WHEN state = 'open' THEN 1 ELSE 0 END), 0) "
    "FROM rights_requests"
)
_SQLITE = "sqlite:///"


class Counted(NamedTuple):
    """How many requests there ever were, and how many of them are open."""

    total: int
    open: int


class Doorbell(BaseEventTrigger):
    """Fires once for what was open when it starts, then whenever requests were added.

    How many it has seen is its watermark: a request that stays open does not ring again.

    Args:
        home: the workspace; its params.yaml names the ledger's database. The address itself is
            not an argument, because Airflow keeps arguments in its database.
        every_seconds: how often it looks.
    """

    def __init__(self, *, home: str, every_seconds: float) -> None:
        super().__init__()
        self.home = home
        self.every_seconds = every_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            "dags.doorbell.Doorbell",
            {"home": self.home, "every_seconds": self.every_seconds},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        seen: int | None = None
        away = False
        while True:
            counted = await asyncio.to_thread(look, Path(self.home))
            if (counted is None) != away:
                away = counted is None
                log.info("The table of requests %s.", "is not to be read" if away else "is back")
            if counted is not None:
                if counted.open if seen is None else counted.total > seen:
                    yield TriggerEvent({"requests": counted.total})
                seen = counted.total
            await asyncio.sleep(self.every_seconds)


def look(home: Path) -> Counted | None:
    """One look, which writes nothing; None where the database cannot be read now.

    A database that is away or has no requests yet, or a params.yaml that is being edited, must
    not end the bell: it looks again.
    """
    try:
        engine = sa.create_engine(ledger_url(home), poolclass=sa.NullPool)
        with engine.connect() as connection:
            total, still_open = connection.execute(_COUNT).one()
    except (sa.exc.SQLAlchemyError, OSError, KeyError, yaml.YAMLError):
        return None
    return Counted(int(total), int(still_open))


def ledger_url(home: Path) -> sa.URL:
    """The address of the ledger's database as `params.yaml` declares it, for reading alone."""
    declared = str(yaml.safe_load((home / "params.yaml").read_text())["stores"]["ledger"])
    if declared.startswith("env:"):
        declared = os.environ[declared.removeprefix("env:")]
    if declared.startswith(_SQLITE):
        path = (home / declared.removeprefix(_SQLITE)).resolve()
        return sa.make_url(f"{_SQLITE}file:{path}?mode=ro&uri=true")
    url = sa.make_url(declared)
    if url.get_backend_name() == "postgresql":
        url = url.update_query_dict({"connect_timeout": "5"})
    return url
