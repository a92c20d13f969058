"""A PostgreSQL server that freezes within a statement: noticed, and given up.

A statement may rightly take hours, and a frozen server's machine may still take packets: neither
a limit for statements nor TCP distinguishes the two. So where nothing came for `ASK_AGAIN_S`, the
server is asked for a second connection, and again after as long. If `ASK_TIMES` of them on end are
not answered either, the first is ended. One would not do: a pooler whose connections are all taken
lets a new one wait while the statements of the others go on.
"""

import time
from collections.abc import Generator
from functools import cache
from typing import Any

import sqlalchemy as sa

from lethe.core.notices import notice
from lethe.core.waiting import CONNECT_S, waiting

ASK_AGAIN_S = 60.0  # without a word of the server, before each time
ASK_TIMES = 3  # each is given `CONNECT_S`, or the address's connect_timeout where that is longer


def give_up_when_silent(engine: sa.Engine, what: str) -> None:
    """Lets no connection of an engine wait for ever; nothing where it is not PostgreSQL's.

    Whoever waits gets an error of the driver's, as of a connection that is lost. Whether a
    transaction that was to end then was done is not known.

    Args:
        what: as in "Waiting for …", which is said before the server is asked again.
    """

    def connect(_dialect: Any, _record: Any, words: Any, options: Any) -> Any:
        with waiting(what, at_most_s=CONNECT_S):
            made = _attentive().connect(*words, **options)
        made.lethe_what = what
        return made

    if engine.dialect.name == "postgresql":
        sa.event.listen(engine, "do_connect", connect)


@cache
def _attentive() -> Any:
    import psycopg  # not for those whose databases are all SQLite's

    class Attentive(psycopg.Connection[Any]):
        lethe_what = "the database"

        def wait(self, gen: Any, *words: Any, **options: Any) -> Any:
            """All that is waited for goes through here: statements, rows, and ends alike."""
            return super().wait(self._heeding(gen), *words, **options)

        def _heeding(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
            try:
                wanted = next(gen)
                heard = asked = time.monotonic()
                unanswered = 0
                while True:
                    ready = yield wanted
                    now = time.monotonic()
                    if ready:
                        heard, asked, unanswered = now, now, 0
                    elif now - asked > ASK_AGAIN_S:
                        notice(
                            f"Waiting for {self.lethe_what}, which has been silent for "
                            f"{now - heard:.0f} s."
                        )
                        unanswered = 0 if self._answers() else unanswered + 1
                        if unanswered >= ASK_TIMES:
                            self.pgconn.finish()
                            raise psycopg.OperationalError("the server has gone silent")
                        asked = time.monotonic()
                    wanted = gen.send(ready)
            except StopIteration as done:
                return done.value

        def _answers(self) -> bool:
            declared = int(self.info.get_parameters().get("connect_timeout", 0))
            try:
                psycopg.connect(
                    self.info.dsn,
                    password=self.info.password,
                    connect_timeout=max(declared, CONNECT_S),
                ).close()
            except psycopg.errors.ConnectionTimeout:
                return False
            except psycopg.OperationalError:
                pass  # it answered, if only to refuse
            return True

    return Attentive
