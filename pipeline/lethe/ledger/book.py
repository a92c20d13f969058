"""What the ledger's rows say, read as one state and checked against their hash chain."""

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import dp_accounting as dp
import sqlalchemy as sa
from pyroaring import BitMap

from lethe.core.errors import LedgerInvalid, NotFound
from lethe.core.files import parse_people
from lethe.core.reading import damage, parse_data
from lethe.ledger.classes import Charge
from lethe.ledger.database import CARRIED, ENTRIES, SPENDS, stored_columns
from lethe.ledger.owner import Owner
from lethe.privacy.events import event_from_data

GENESIS = "0" * 64
RESERVED, SETTLED, VOID, CARRY = "reserved", "settled", "void", "carried"
COUNTS = (RESERVED, SETTLED)  # the states in which a run is charged
_NEXT = {RESERVED: (RESERVED, SETTLED, VOID), SETTLED: (), VOID: ()}


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run as the ledger has it."""

    run_id: str
    state: str
    reason: str
    request: str
    event: dp.DpEvent = field(compare=False)
    plan_digest: str
    unit: str
    adjacency: str
    sampling: str
    mechanism: str | None  # None for a run of before this was recorded
    records_per_person: int
    delta: float
    subjects: int
    left_out: int
    eligible: BitMap = field(compare=False, repr=False)
    manifest_md5: str
    params_digest: str
    code_digest: str
    reserved_at: str
    owner: Owner


@dataclass(frozen=True)
class Book:
    """Everything that is in the ledger, checked against its chain."""

    chains: Sequence[str]
    runs: Mapping[str, RunRecord]
    carried: Sequence[Any]

    def charges(self) -> list[Charge]:
        """The runs that count, each with everybody who is charged for it.

        Somebody who was erased and came back is charged under the new token for the runs
        that they were in before.
        """
        back: dict[str, list[int]] = {}
        for row in self.carried:
            if row.token is not None:
                for run_id in parse_data(row.runs):
                    back.setdefault(run_id, []).append(row.token)
        return [
            Charge(
                run.run_id,
                run.event,
                run.eligible | BitMap(back[run.run_id]) if run.run_id in back else run.eligible,
                run.delta,
            )
            for run in self.runs.values()
            if run.state in COUNTS
        ]

    @property
    def head(self) -> tuple[int, str]:
        return len(self.chains), self.chains[-1] if self.chains else GENESIS

    def find(self, run_id: str) -> RunRecord:
        if run_id not in self.runs:
            raise NotFound(f"The ledger has no run {run_id!r}.")
        return self.runs[run_id]


def read_book(connection: sa.Connection, bitmaps: dict[str, BitMap]) -> Book:
    """Reads the whole ledger.

    Args:
        bitmaps: who is charged, by manifest hash, as read before; those not in it are added.

    Raises:
        LedgerInvalid: a row was changed, added or removed behind the ledger's back.
    """
    with damage(_damaged):
        return _read_book(connection, bitmaps)


def _damaged() -> LedgerInvalid:
    return LedgerInvalid(
        "The ledger is damaged: a value is of another kind than was written. Restore a backup."
    )


def _read_book(connection: sa.Connection, bitmaps: dict[str, BitMap]) -> Book:
    entries = connection.execute(sa.select(ENTRIES).order_by(ENTRIES.c.position)).all()
    stored = stored_columns(connection, SPENDS)
    columns = [column for column in stored if column.name != "eligible"]
    spends = {row.run_id: row for row in connection.execute(sa.select(*columns))}
    carried: dict[str, Any] = {}
    if sa.inspect(connection).has_table(CARRIED.name):  # not of schema 1, which is only looked at
        carried = {row.carried_id: row for row in connection.execute(sa.select(CARRIED))}
    for row in spends.values():
        if row.manifest_sha256 not in bitmaps:
            bitmaps[row.manifest_sha256] = _manifest(connection, row)
    runs: dict[str, RunRecord] = {}
    kept: list[Any] = []
    chains: list[str] = []
    for position, entry in enumerate(entries, start=1):
        chain = _link(chains[-1] if chains else GENESIS, entry._asdict())
        if entry.position != position or entry.chain != chain:
            raise _broken(position)
        chains.append(chain)
        known = runs.get(entry.about)
        if known is not None:
            if entry.kind not in _NEXT[known.state]:
                raise _broken(position)
            owner = Owner(entry.host, entry.pid, entry.process_start)
            runs[entry.about] = replace(known, state=entry.kind, reason=entry.reason, owner=owner)
            continue
        announced = (carried if entry.kind == CARRY else spends).pop(entry.about, None)
        if announced is None or digest_of(announced._asdict()) != entry.content:
            raise _broken(position)
        if entry.kind == CARRY:
            kept.append(announced)
        else:
            runs[entry.about] = _record(announced, entry, bitmaps[announced.manifest_sha256])
    if spends or carried:
        raise _broken(len(entries) + 1)
    return Book(chains, runs, kept)


def append(
    connection: sa.Connection,
    book: Book,
    kind: str,
    about: str,
    owner: Owner,
    now: dt.datetime | None,
    *,
    reason: str = "",
    content: str = "",
) -> None:
    """Adds the next entry to the chain, in the transaction that `book` was read in."""
    rows, chain = book.head
    values: dict[str, Any] = {
        "position": rows + 1,
        "kind": kind,
        "about": about,
        "reason": reason,
        "at": (now or dt.datetime.now(dt.UTC)).isoformat(),
        "host": owner.host,
        "pid": owner.pid,
        "process_start": owner.process_start,
        "content": content,
    }
    connection.execute(ENTRIES.insert().values(**values, chain=_link(chain, values)))


def digest_of(values: Mapping[str, Any]) -> str:
    """SHA-256 over a row's values; a bitmap is covered by the hash of it in its own column.

    A mechanism that is null is left out: it stands in rows of before there was the column, and
    their digests must stay. Nulled in a newer row, it still changes that row's digest.
    """
    plain = {
        name: bytes(value).hex() if isinstance(value, bytes | memoryview) else value
        for name, value in values.items()
        if name != "eligible" and not (name == "mechanism" and value is None)
    }
    return hashlib.sha256(canonical(plain).encode()).hexdigest()


def canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _link(chain: str, entry: Mapping[str, Any]) -> str:
    fields = {name: value for name, value in entry.items() if name != "chain"}
    return hashlib.sha256(f"{chain}{canonical(fields)}".encode()).hexdigest()


def _manifest(connection: sa.Connection, row: Any) -> BitMap:
    query = sa.select(SPENDS.c.eligible).where(SPENDS.c.run_id == row.run_id)
    stored = bytes(connection.execute(query).scalar_one())
    if hashlib.sha256(stored).hexdigest() != row.manifest_sha256:
        raise LedgerInvalid(f"The manifest of run {row.run_id} was changed. Restore a backup.")
    return parse_people(stored, of=f"The manifest of run {row.run_id}")


def _record(row: Any, entry: Any, eligible: BitMap) -> RunRecord:
    try:
        event = event_from_data(parse_data(row.event))
    except ValueError:
        raise LedgerInvalid(f"The event of run {row.run_id} is not JSON.") from None
    return RunRecord(
        run_id=row.run_id,
        state=entry.kind,
        reason=entry.reason,
        request=row.request,
        event=event,
        plan_digest=row.plan_digest,
        unit=row.unit,
        adjacency=row.adjacency,
        sampling=row.sampling,
        mechanism=row._mapping.get("mechanism"),
        records_per_person=row.records_per_person,
        delta=row.delta,
        subjects=row.subjects,
        left_out=row.left_out,
        eligible=eligible,
        manifest_md5=row.manifest_md5,
        params_digest=row.params_digest,
        code_digest=row.code_digest,
        reserved_at=entry.at,
        owner=Owner(entry.host, entry.pid, entry.process_start),
    )


def _broken(position: int) -> LedgerInvalid:
    return LedgerInvalid(
        f"The ledger's chain is broken at entry {position}: rows were changed, added or removed. "
        "Restore a backup."
    )
