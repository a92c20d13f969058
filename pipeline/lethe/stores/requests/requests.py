"""What people asked for: requests, the marks of their steps, and the receipts.

In the ledger's database, so that they are backed up and lost together. Nothing here names a
person: ids are random, and what leads to somebody is keyed or encrypted by the vault, and
dropped in the transaction that closes the request and adds its receipt.
"""

import datetime as dt
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sa

from lethe.core.errors import Busy, LedgerInvalid, NotFound, ParamsInvalid
from lethe.core.locks import held as held_file
from lethe.core.reading import damage, parse_data
from lethe.ledger.database import open_engine, transact
from lethe.stores.requests.database import MARKS, RECEIPTS, REQUESTS, bring_up
from lethe.stores.search.postgres import write_anew

RETENTION = "retention"  # nobody asked: what a day's rows past their time came to
OPEN, JOINED, CLOSED = "open", "joined", "closed"
DROPPED = "dropped"  # mark: no file of the database has what the request dropped
GENESIS = "0" * 64  # stands for the receipt before the first
_RUN_LOCK = 0x1E7E5


@dataclass(frozen=True)
class Mark:
    """A step that was done, and what came of it."""

    at: dt.datetime
    content: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it stands.

    `encrypted` is what leads to the person, encrypted by the vault; None once closed.
    `entry` stands for the person in a suppression; None until it was looked up, and of what
    nobody asked for.
    """

    request_id: str
    kind: str
    purpose: str | None
    received_at: dt.datetime
    due_at: dt.datetime
    extension: str | None
    state: str
    joined_to: str | None
    problem: str | None
    closed_at: dt.datetime | None
    encrypted: bytes | None = field(repr=False)
    entry: bytes | None = field(repr=False)
    marks: Mapping[str, Mark] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredReceipt:
    number: int
    request_id: str
    text: str
    hash: str


class Requests:
    """Opens by `Requests.open(url)`; safe between processes and machines."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> "Requests":
        """Opens the requests in the ledger at a URL, and makes their tables if need be.

        Raises:
            LedgerInvalid: of a newer schema, or damaged.
            SourceUnavailable: the database does not answer.
        """
        engine = open_engine(url)
        bring_up(engine)
        return cls(engine)

    def __enter__(self) -> "Requests":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._engine.dispose()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Held by the one process that works on requests; freed when it ends, however it does.

        Raises:
            Busy: another process works on them.
        """
        busy = (
            "Another `lethe erase run`, `lethe retain` or publication is under way. What was asked "
            "meanwhile is taken up by it or by the next run."
        )
        if self._engine.dialect.name == "postgresql":
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as held:
                if not held.execute(sa.select(sa.func.pg_try_advisory_lock(_RUN_LOCK))).scalar():
                    raise Busy(busy)
                yield  # the lock ends with the connection
            return
        database = self._engine.url.database
        if database in (None, "", ":memory:"):
            yield
            return
        path = Path(str(database))
        with held_file(path.with_name(f"{path.name}.erase.lock"), busy=busy):
            yield

    def receive(
        self,
        request_id: str,
        *,
        kind: str,
        purpose: str | None,
        reference: bytes,
        encrypted: bytes,
        received_at: dt.datetime,
        due_at: dt.datetime,
    ) -> Request:
        """Records a request, unless one with the same reference is open: then gives that one."""

        def work(connection: sa.Connection) -> Request:
            same = sa.select(REQUESTS.c.request_id).where(
                REQUESTS.c.reference == reference, REQUESTS.c.state == OPEN
            )
            there = connection.execute(same).scalars().first()
            if there is None:
                connection.execute(
                    REQUESTS.insert().values(
                        request_id=request_id,
                        kind=kind,
                        purpose=purpose,
                        received_at=_iso(received_at),
                        due_at=_iso(due_at),
                        state=OPEN,
                        reference=reference,
                        encrypted=encrypted,
                    )
                )
            return _find(connection, there or request_id)

        return transact(self._engine, work, write=True)

    def find(self, request_id: str) -> Request:
        """One request.

        Raises:
            NotFound: there is none by that id.
        """
        return transact(self._engine, lambda c: _find(c, request_id), write=False)

    def all(self, *, state: str | None = None) -> list[Request]:
        """Every request, or those of a state; the oldest first."""

        def work(connection: sa.Connection) -> list[Request]:
            query = sa.select(REQUESTS).order_by(REQUESTS.c.received_at, REQUESTS.c.request_id)
            if state is not None:
                query = query.where(REQUESTS.c.state == state)
            return [_request(connection, row) for row in connection.execute(query)]

        return transact(self._engine, work, write=False)

    def extend(self, request_id: str, *, due_at: dt.datetime, reason: str) -> Request:
        """Sets a later deadline, once, with its reason.

        Raises:
            NotFound, ParamsInvalid: no such request; closed, extended before, or no reason.
        """
        if not reason.strip():
            raise ParamsInvalid("An extension needs its reason: you must say it to the person.")

        def work(connection: sa.Connection) -> Request:
            request = _find(connection, request_id)
            if request.state != OPEN or request.extension is not None:
                what = request.state if request.state != OPEN else "extended already"
                raise ParamsInvalid(f"Request {request_id} is {what}; nothing was changed.")
            _set(connection, request_id, due_at=_iso(due_at), extension=reason.strip())
            return _find(connection, request_id)

        return transact(self._engine, work, write=True)

    def resolve(
        self,
        request_id: str,
        *,
        encrypted: bytes,
        entry: bytes | None,
        found: Mapping[str, Any],
        now: dt.datetime,
    ) -> None:
        """Replaces what the request says of its person by what was found, and marks that."""

        def work(connection: sa.Connection) -> None:
            _set(connection, request_id, encrypted=encrypted, entry=entry)
            _mark(connection, request_id, "found", found, now)

        transact(self._engine, work, write=True)

    def mark(
        self, request_id: str, step: str, content: Mapping[str, Any], *, now: dt.datetime
    ) -> None:
        """Notes that a step is done; the same step again replaces its mark."""
        transact(self._engine, lambda c: _mark(c, request_id, step, content, now), write=True)

    def unmark(self, request_id: str, *steps: str) -> None:
        """Makes steps be done again."""

        def work(connection: sa.Connection) -> None:
            for step in steps:
                _unmark(connection, request_id, step)

        transact(self._engine, work, write=True)

    def stays_open(self, request_id: str, problem: str | None) -> None:
        """Notes why a request is still open; None once nothing stands in its way."""
        transact(self._engine, lambda c: _set(c, request_id, problem=problem), write=True)

    def join(self, request_id: str, to: str, *, now: dt.datetime) -> None:
        """Ends a request that turned out to be about the person of another open one."""
        values = {"state": JOINED, "joined_to": to, "closed_at": _iso(now), **_NOTHING}
        transact(self._engine, lambda c: _set(c, request_id, **values), write=True)

    def close(
        self,
        request_id: str,
        receipt: Callable[[int, str], tuple[str, str]],
        *,
        verified: Mapping[str, Any],
        now: dt.datetime,
        verified_at: dt.datetime | None = None,
    ) -> StoredReceipt:
        """Closes a request with its receipt, and drops what leads to the person.

        Guarantees: one transaction; a request has one receipt, and receipts one chain.

        Args:
            verified: what the last look saw; its mark is set with the rest.
            verified_at: when that was; now by default.
            receipt: (number, hash of the receipt before) → (text, its hash).
        """

        def work(connection: sa.Connection) -> StoredReceipt:
            done = connection.execute(
                sa.select(RECEIPTS).where(RECEIPTS.c.request_id == request_id)
            ).first()
            if done is not None:
                return StoredReceipt(*done)
            last = connection.execute(
                sa.select(RECEIPTS).order_by(RECEIPTS.c.number.desc()).limit(1)
            ).first()
            number = 1 if last is None else last.number + 1
            text, digest = receipt(number, GENESIS if last is None else last.hash)
            made = StoredReceipt(number, request_id, text, digest)
            connection.execute(RECEIPTS.insert().values(**vars(made)))
            _mark(connection, request_id, "verified", verified, verified_at or now)
            _set(
                connection,
                request_id,
                state=CLOSED,
                closed_at=_iso(now),
                problem=None,
                **_NOTHING,
            )
            return made

        return transact(self._engine, work, write=True)

    def overwrite(self, *, now: dt.datetime) -> None:
        """Leaves nothing of what closed requests dropped in PostgreSQL's files; SQLite never does.

        Each request is marked when it was done, so whatever ends this, the next call does it.

        Raises:
            Busy, SourceUnavailable: see `write_anew`.
        """
        if self._engine.dialect.name != "postgresql":
            return
        ended = [r.request_id for r in self.all() if r.state != OPEN and DROPPED not in r.marks]
        if ended:
            write_anew(self._engine.url.render_as_string(hide_password=False), [REQUESTS.name])
        for request_id in ended:
            self.mark(request_id, DROPPED, {}, now=now)

    def receipts(self) -> list[StoredReceipt]:
        """Every receipt, in the order of their chain."""

        def work(connection: sa.Connection) -> list[StoredReceipt]:
            rows = connection.execute(sa.select(RECEIPTS).order_by(RECEIPTS.c.number))
            return [StoredReceipt(*row) for row in rows]

        return transact(self._engine, work, write=False)


_NOTHING: dict[str, Any] = {"reference": None, "encrypted": None}


def _find(connection: sa.Connection, request_id: str) -> Request:
    row = connection.execute(sa.select(REQUESTS).where(REQUESTS.c.request_id == request_id)).first()
    if row is None:
        raise NotFound(f"There is no request {request_id!r}. `lethe erase status` lists them.")
    return _request(connection, row)


def _request(connection: sa.Connection, row: Any) -> Request:
    marks = connection.execute(sa.select(MARKS).where(MARKS.c.request_id == row.request_id)).all()
    with damage(_damaged):
        return _read_request(row, marks)


class _Content(dict[str, Any]):
    """What a mark holds; what it should hold and does not was damaged."""

    def __missing__(self, key: str) -> Any:
        raise _damaged()


def _damaged() -> LedgerInvalid:
    return LedgerInvalid(
        "The requests are damaged: a value is of another kind than was written. Restore the "
        "ledger's database from a copy."
    )


def _read_request(row: Any, marks: Sequence[Any]) -> Request:
    return Request(
        request_id=row.request_id,
        kind=row.kind,
        purpose=row.purpose,
        received_at=dt.datetime.fromisoformat(row.received_at),
        due_at=dt.datetime.fromisoformat(row.due_at),
        extension=row.extension,
        state=row.state,
        joined_to=row.joined_to,
        problem=row.problem,
        closed_at=dt.datetime.fromisoformat(row.closed_at) if row.closed_at else None,
        encrypted=None if row.encrypted is None else bytes(row.encrypted),
        entry=None if row.entry is None else bytes(row.entry),
        marks={
            mark.step: Mark(dt.datetime.fromisoformat(mark.at), _Content(parse_data(mark.content)))
            for mark in marks
        },
    )


def _set(connection: sa.Connection, request_id: str, **values: Any) -> None:
    connection.execute(
        sa.update(REQUESTS).where(REQUESTS.c.request_id == request_id).values(**values)
    )


def _mark(
    connection: sa.Connection,
    request_id: str,
    step: str,
    content: Mapping[str, Any],
    now: dt.datetime,
) -> None:
    _unmark(connection, request_id, step)
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    connection.execute(
        MARKS.insert().values(request_id=request_id, step=step, at=_iso(now), content=text)
    )


def _unmark(connection: sa.Connection, request_id: str, step: str) -> None:
    connection.execute(
        sa.delete(MARKS).where(MARKS.c.request_id == request_id, MARKS.c.step == step)
    )


def _iso(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).isoformat()
