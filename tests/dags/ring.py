"""Run by Airflow's own Python: the doorbell against a table of requests that changes under it.

Prints, for each change, what rang by the time that the doorbell had looked twice more.
"""

import asyncio
import json
import sqlite3
import sys
from pathlib import Path

import sqlalchemy as sa

from dags import doorbell
from dags.doorbell import Doorbell, ledger_url, look

HOME = Path(sys.argv[1])
CHANGES = {
    "a table": ["CREATE TABLE rights_requests (request_id TEXT PRIMARY KEY, state TEXT NOT NULL)"],
    "a request": ["INSERT INTO rights_requests VALUES ('a', 'open')"],
    "it stays open": [],
    "two more": ["INSERT INTO rights_requests VALUES ('b', 'open'), ('c', 'open')"],
    "all closed": ["UPDATE rights_requests SET state = 'closed'"],
    "a backup without them": ["DELETE FROM rights_requests WHERE request_id <> 'a'"],
    "one after that": ["INSERT INTO rights_requests VALUES ('d', 'open')"],
}


class Heard:
    """A doorbell that is listened to, and how often it has looked."""

    def __init__(self) -> None:
        self.looks = 0
        self.rang: list[object] = []
        self.task = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        async for event in Doorbell(home=str(HOME), every_seconds=0.01).run():
            self.rang.append(event.payload)

    async def after(self, statements: list[str]) -> list[object]:
        self.rang.clear()
        connection = sqlite3.connect(HOME / "ledger.db")
        with connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()
        until = self.looks + 3  # one may be under way
        while self.looks < until:
            if self.task.done():
                self.task.result()
            await asyncio.sleep(0.01)
        return list(self.rang)


async def heard() -> dict[str, list[object]]:
    bell = Heard()

    def counted(home: Path) -> doorbell.Counted | None:
        bell.looks += 1
        return look(home)

    doorbell.look = counted
    said = {"nothing there": await bell.after([])}
    for name, statements in CHANGES.items():
        said[name] = await bell.after(statements)
    bell.task.cancel()
    bell = Heard()
    said["started anew with one open"] = await bell.after([])
    bell.task.cancel()
    return said


def write_refused() -> bool:
    """Whether the address that the doorbell uses is for reading alone."""
    try:
        with sa.create_engine(ledger_url(HOME)).begin() as connection:
            connection.execute(sa.text("DELETE FROM rights_requests"))
    except sa.exc.OperationalError as error:
        return "readonly" in str(error)
    return False


(HOME / "params.yaml").write_text("stores: {ledger: 'sqlite:///ledger.db'}\n")
found = {"rang": asyncio.run(heard()), "write refused": write_refused()}
(HOME / "params.yaml").write_text("stores: {ledger: 'env:RING_LEDGER_URL'}\n")
found["elsewhere"] = look(HOME)
(HOME / "params.yaml").write_text("stores: {ledger: 'env:RING_NOT_SET'}\n")
found["no such variable"] = look(HOME)
(HOME / "params.yaml").write_text("stores: {ledger")
found["half-written"] = look(HOME)
sys.stdout.write("RANG" + json.dumps(found) + "\n")
