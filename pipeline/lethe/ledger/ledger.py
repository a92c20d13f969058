"""The ledger: what every person has spent, and the only way to spend more.

A run is *reserved* before any noise is drawn, *settled* before anything of it is
released, or *void* with a reason where nothing was. Reserved and settled runs count.
Rows are only ever added, and chained by hash: a ledger that was rolled back to an older
copy no longer contains what a model's record says it contained.

Whoever releases must settle first. Settling and voiding are transactions that exclude one
another and look at who holds the run, so a run that was voided, or that another process
took over, can no longer be released by the first.
"""

import datetime as dt
import hashlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from pyroaring import BitMap

from lethe.config.sections import Budget
from lethe.core.closing import Closing
from lethe.core.errors import Busy, LedgerInvalid, ParamsInvalid, TooFewSubjects
from lethe.core.reading import parse_data
from lethe.ledger.admission import admit, code_digest, params_digest
from lethe.ledger.book import (
    CARRY,
    COUNTS,
    RESERVED,
    SETTLED,
    VOID,
    Book,
    RunRecord,
    append,
    canonical,
    digest_of,
    read_book,
)
from lethe.ledger.classes import ClassPrice, SpendClass, class_prices, spend_classes
from lethe.ledger.database import CARRIED, SPENDS, open_engine, transact
from lethe.ledger.owner import Owner
from lethe.privacy.events import event_to_data
from lethe.privacy.release import Release


@dataclass(frozen=True)
class Reservation:
    """A run that is paid for, and for whom.

    `resumed`: the same request had been granted before and is not charged again. Where
    `state` is settled as well, what came of it may have been released: to draw new noise
    under it would be a second release that nobody paid for. `ledger` is the one that gave it.
    """

    run_id: str
    admitted: BitMap = field(repr=False)
    left_out: int
    resumed: bool
    state: str = RESERVED
    ledger: "Ledger | None" = field(default=None, repr=False, compare=False)


class Ledger(Closing):
    """What people have spent, and the only way to spend more; safe between processes and machines.

    >>> import lethe
    >>> with lethe.Ledger.open("sqlite://") as ledger:  # in memory; `lethe.train` reserves in one
    ...     ledger.runs()
    []
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._bitmaps: dict[str, BitMap] = {}  # by hash: rows never change
        self._seen_settled: set[str] = set()

    @classmethod
    def open(cls, url: str, *, create: bool = True) -> "Ledger":
        """Opens a ledger, creates it if there is none, migrates an older one.

        Args:
            create: without it a ledger can be looked at alone, and nothing is changed by it.

        Raises:
            LedgerInvalid: of a newer schema, or damaged.
            NotFound: there is none, and `create` is false.
            SourceUnavailable: the database does not answer.
        """
        return cls(open_engine(url, create=create))

    def close(self) -> None:
        self._engine.dispose()

    def reserve(
        self,
        release: Release,
        *,
        budget: Budget,
        request: str,
        now: dt.datetime,
    ) -> Reservation:
        """Charges a release to everybody who may be in it, before anything of it is drawn.

        Guarantees: in one serializable transaction; afterwards nobody's RDP epsilon over all
            reserved and settled runs is above `budget.epsilon` at `budget.delta` because of
            this run; who is left out is not charged. The same request is not charged again
            while its run is reserved or settled: it is given back with `resumed`.

        Args:
            release: what will leave; its `subjects` are charged, drawn or not.
            request: what makes two requests the same run.

        Raises:
            BudgetExceeded: somebody would be above the budget and the policy is `refuse`, or
                everybody would be. Nothing is charged.
            Busy: the process that reserved this request still runs.
            TooFewSubjects: the release has no subjects.
        """
        if not release.subjects:
            raise TooFewSubjects("Nobody is eligible for this run; nothing was reserved.")
        owner = Owner.current()

        def work(connection: sa.Connection) -> Reservation:
            book = self._read(connection)
            same = [r for r in book.runs.values() if r.request == request and r.state in COUNTS]
            if same:
                return self._again(connection, book, same[-1], release, owner, now)
            admitted, left_out = admit(release, book.charges(), budget)
            values = _row(release, admitted, left_out, budget, request)
            connection.execute(SPENDS.insert().values(values))
            append(
                connection, book, RESERVED, values["run_id"], owner, now, content=digest_of(values)
            )
            return Reservation(values["run_id"], admitted, left_out, resumed=False, ledger=self)

        return transact(self._engine, work, write=True)

    def _again(
        self,
        connection: sa.Connection,
        book: Book,
        run: RunRecord,
        release: Release,
        owner: Owner,
        now: dt.datetime,
    ) -> Reservation:
        if run.plan_digest != release.digest:
            raise LedgerInvalid(
                f"Run {run.run_id} was reserved by the same request for another plan. A request "
                "must name its plan."
            )
        if run.state == SETTLED:
            self._seen_settled.add(run.run_id)
        elif run.owner != owner:
            if run.owner.may_live():
                raise Busy(
                    f"Run {run.run_id} is reserved by process {run.owner.pid} on "
                    f"{run.owner.host.partition('/')[0]}, which still runs or is out of sight. "
                    "Wait for it, or void its reservation if it is gone."
                )
            append(connection, book, RESERVED, run.run_id, owner, now, reason="taken over")
        return Reservation(
            run.run_id, run.eligible, run.left_out, resumed=True, state=run.state, ledger=self
        )

    def settle(self, run_id: str, *, now: dt.datetime | None = None) -> None:
        """Marks a run as about to be released; before this nothing of it may leave.

        Guarantees: only the process that holds the reservation can settle it, once; again is
            no change.

        Raises:
            NotFound: no such run.
            LedgerInvalid: it is void, or another process has taken it over.
        """
        owner = Owner.current()

        def work(connection: sa.Connection) -> None:
            book = self._read(connection)
            run = book.find(run_id)
            if run.state == VOID:
                raise LedgerInvalid(f"Run {run_id} is void ({run.reason}); it cannot be released.")
            if run.state == SETTLED and run_id in self._seen_settled:
                return
            if run.owner != owner:
                raise LedgerInvalid(
                    f"Run {run_id} is held by another process; this one may not release it."
                )
            if run.state == RESERVED:
                append(connection, book, SETTLED, run_id, owner, now)

        transact(self._engine, work, write=True)

    def void(
        self, run_id: str, reason: str, *, force: bool = False, now: dt.datetime | None = None
    ) -> None:
        """Gives a reservation back, where nothing of the run was released.

        Guarantees: the run can no longer be settled, so neither released.

        Args:
            force: also where the process that holds it may still run.

        Raises:
            NotFound: no such run.
            LedgerInvalid: it is settled or void already.
            ParamsInvalid: no reason is given.
            Busy: another process that may still run holds it.
        """
        if not reason.strip():
            raise ParamsInvalid("Voiding a run needs a reason; it is kept in the ledger.")
        owner = Owner.current()

        def work(connection: sa.Connection) -> None:
            book = self._read(connection)
            run = book.find(run_id)
            if run.state != RESERVED:
                raise LedgerInvalid(
                    f"Run {run_id} is {run.state}; only a reservation of which nothing was "
                    "released can be voided."
                )
            if not force and run.owner != owner and run.owner.may_live():
                raise Busy(f"Run {run_id} is held by a process that may still run. Wait for it.")
            append(connection, book, VOID, run_id, owner, now, reason=reason.strip())

        transact(self._engine, work, write=True)

    def run(self, run_id: str) -> RunRecord:
        """One run.

        Raises:
            NotFound: no such run.
        """
        return self._book().find(run_id)

    def runs(self) -> list[RunRecord]:
        """Every run there was, the oldest first; void ones too."""
        return list(self._book().runs.values())

    def classes(
        self, tokens: BitMap | None = None, *, delta: float | None = None
    ) -> list[SpendClass]:
        """People by what they were charged for; everybody who ever was, or just `tokens`.

        Args:
            delta: what the epsilons are at; the smallest that any run declared if not given.
        """
        charges = self._book().charges()
        if tokens is None:
            tokens = BitMap.union(BitMap(), *(charge.members for charge in charges))
        if delta is None:
            delta = min((charge.delta for charge in charges), default=1e-5)
        return spend_classes(tokens, charges, delta=delta)

    def price(self, release: Release, budget: Budget) -> list[ClassPrice]:
        """What a release would bring its subjects to, by class; nothing is reserved."""
        return class_prices(
            release.subjects,
            self._book().charges(),
            release.event,
            epsilon=budget.epsilon,
            delta=budget.delta,
        )

    def admissible(self, release: Release, budget: Budget) -> tuple[BitMap, int]:
        """Who a reservation would admit now, and how many it would leave out.

        Raises:
            BudgetExceeded: as `reserve` would.
        """
        return admit(release, self._book().charges(), budget)

    def head(self) -> tuple[int, str]:
        """How many entries there are, and the hash of the last, which covers all of them."""
        return self._book().head

    def check_contains_all(self, records: Iterable[tuple[str, int, str]]) -> None:
        """Checks that the ledger still has what it had when models were recorded.

        Args:
            records: (run, entries, hash of the last) as each model recorded them.

        Raises:
            LedgerInvalid: it has fewer entries, others, or not this run: it was rolled back
                or replaced, and spend is missing from it.
        """
        book = self._book()
        for run_id, rows, chain in records:
            found = book.chains[rows - 1] if 1 <= rows <= len(book.chains) else None
            if found != chain or run_id not in book.runs:
                raise LedgerInvalid(
                    f"The ledger has {len(book.chains)} entries and no longer contains run "
                    f"{run_id} as of entry {rows}: it was rolled back or replaced. Restore the "
                    "newest copy."
                )

    def remember(self, entry: bytes, token: int, *, now: dt.datetime | None = None) -> None:
        """Keeps what an erased person had spent under an entry that only a key leads to.

        Args:
            entry: a keyed hash of the person's key; neither the key nor the token is kept.
        """
        self._carry(entry, None, lambda book: _runs_of(book, token), now)

    def remembered(self) -> set[bytes]:
        """Every entry that `remember` was given."""
        return {bytes(row.entry) for row in self._book().carried}

    def carry_over(self, entry: bytes, token: int, *, now: dt.datetime | None = None) -> int:
        """Charges a person who returns under a new token with what `remember` kept.

        Returns:
            How many runs were carried over; the same call again adds nothing.
        """

        def remembered(book: Book) -> list[str]:
            rows = [row for row in book.carried if bytes(row.entry) == entry]
            if any(row.token == token for row in rows):
                return []
            return sorted({run for row in rows for run in parse_data(row.runs)})

        return self._carry(entry, token, remembered, now)

    def _carry(
        self,
        entry: bytes,
        token: int | None,
        runs_in: Callable[[Book], list[str]],
        now: dt.datetime | None,
    ) -> int:
        owner = Owner.current()

        def work(connection: sa.Connection) -> int:
            book = self._read(connection)
            runs = runs_in(book)
            if not runs:
                return 0
            values: dict[str, Any] = {
                "carried_id": secrets.token_hex(16),
                "entry": entry,
                "token": token,
                "runs": canonical(runs),
            }
            connection.execute(CARRIED.insert().values(values))
            append(
                connection, book, CARRY, values["carried_id"], owner, now, content=digest_of(values)
            )
            return len(runs)

        return transact(self._engine, work, write=True)

    def _read(self, connection: sa.Connection) -> Book:
        return read_book(connection, self._bitmaps)

    def _book(self) -> Book:
        return transact(self._engine, self._read, write=False)


def _runs_of(book: Book, token: int) -> list[str]:
    return [charge.run_id for charge in book.charges() if token in charge.members]


def _row(
    release: Release, admitted: BitMap, left_out: int, budget: Budget, request: str
) -> dict[str, Any]:
    """What is written of a release that is charged to `admitted`."""
    manifest = admitted.serialize()
    return {
        "run_id": secrets.token_hex(16),
        "request": request,
        "event": canonical(event_to_data(release.event)),
        "plan_digest": release.digest,
        "unit": release.unit,
        "adjacency": release.adjacency,
        "sampling": release.sampling,
        "mechanism": release.mechanism,
        "records_per_person": release.records_per_person,
        "delta": release.delta,
        "subjects": len(admitted),
        "left_out": left_out,
        "eligible": manifest,
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        "manifest_md5": hashlib.md5(manifest, usedforsecurity=False).hexdigest(),
        "params_digest": params_digest(release, budget),
        "code_digest": code_digest(),
    }
