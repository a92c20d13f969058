"""Who must not come back: keyed entries, each with the moment that it answers.

An entry says that no answer up to `since` counts, whatever a stale source or a restored
backup still holds. It is never removed. An answer given after it lifts it, and is kept as
`answered`; an entry that is written again, for a later erasure, is in force again. Both
moments only ever grow, so doing either twice changes nothing.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from lethe.core.errors import VaultMismatch
from lethe.core.reading import damage
from lethe.core.text import normal_forms
from lethe.stores.vault.database import LIFTS, SUPPRESSIONS, count, matching


def suppress(connection: sa.Connection, entries: Mapping[bytes, dt.datetime]) -> None:
    """Puts every entry in force for answers up to its moment."""
    _raise(connection, SUPPRESSIONS.c.entry, SUPPRESSIONS.c.since, entries)


def lift(connection: sa.Connection, answered: Mapping[bytes, dt.datetime]) -> None:
    """Notes a fresh answer for every entry."""
    _raise(connection, LIFTS.c.entry, LIFTS.c.answered, answered)


def since(connection: sa.Connection, entries: Sequence[bytes]) -> dict[bytes, dt.datetime]:
    """Up to when answers do not count, for those of the entries that are there; lifted or not."""
    if not count(connection, SUPPRESSIONS):
        return {}
    found = matching(connection, SUPPRESSIONS.c.entry, entries, SUPPRESSIONS.c.since)
    return _read(found)


def in_force(connection: sa.Connection, entries: Sequence[bytes]) -> set[bytes]:
    """Those of the entries that no later answer has lifted."""
    there = since(connection, entries)
    lifted = matching(connection, LIFTS.c.entry, list(there), LIFTS.c.answered)
    answered = _read(lifted)
    return {entry for entry, moment in there.items() if answered.get(entry, moment) <= moment}


def everything(connection: sa.Connection) -> dict[bytes, dt.datetime]:
    """Every entry and its moment."""
    rows = connection.execute(sa.select(SUPPRESSIONS.c.entry, SUPPRESSIONS.c.since))
    return _read(rows)


def _read(rows: Iterable[Any]) -> dict[bytes, dt.datetime]:
    with damage(lambda: VaultMismatch("A moment in the vault is damaged. Restore its backup.")):
        return {bytes(entry): dt.datetime.fromisoformat(moment) for entry, moment in rows}


def _raise(
    connection: sa.Connection,
    key: sa.Column[bytes],
    column: sa.Column[str],
    moments: Mapping[bytes, dt.datetime],
) -> None:
    """Sets every entry's moment, unless it has a later one."""
    table = key.table
    there = _read(matching(connection, key, list(moments), column))
    new = [entry for entry in moments if entry not in there]
    later = [entry for entry in there if moments[entry] > there[entry]]
    if new:
        connection.execute(
            sa.insert(table), [{key.name: e, column.name: _utc(moments[e])} for e in new]
        )
    for entry in later:
        connection.execute(
            sa.update(table).where(key == entry).values({column.name: _utc(moments[entry])})
        )


def _utc(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).isoformat()


def in_any_form(keys: Iterable[str]) -> list[tuple[str, str]]:
    """(key, form): a suppression may stand for words that nobody had when they were asked about,
    and that were typed in another Unicode form than the key that came later."""
    return [(key, form) for key in keys for form in normal_forms(key)]
