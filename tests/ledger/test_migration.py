"""A ledger made by the version before: opened, checked, and charged further.

`schema_2.sql` was written by the last version whose ledger had schema 2, on SQLite: two
settled runs, a void one, a reserved one, and an erased person who came back. The epsilons
are what that version gave for it.
"""

import datetime as dt
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from pyroaring import BitMap

from lethe.config.sections import Budget
from lethe.core.errors import BudgetExceeded, LedgerInvalid
from lethe.ledger import database
from lethe.ledger.ledger import Ledger
from tests.ledger.older import DUMP, write_schema_2
from tests.plans import CHARGED as PLAN
from tests.postgres import postgres_server, postgres_urls  # noqa: F401

NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
HEAD = (9, "86545426c89c537b23f1df542f25bbe06a9962be86a9832a63465c329c7a0101")
FIRST, VOID, CHEAP, OPEN = (f"{n:032x}" for n in (1, 2, 3, 6))
SPENT = {  # token: epsilon by RDP and by PLD, of the version before
    6: (1.0924706137223126, 0.9975218763584908),
    3: (1.0991405323250678, 1.0038168299988652),
    1: (1.5876840364307538, 1.4551169991661377),
    77: (1.592685974823448, 1.4598108825016574),
}
BUDGET = Budget(epsilon=2.0, delta=1e-5)


def _in_postgres(url: str) -> str:
    """The same rows, in tables as that version made them there."""
    memory = sqlite3.connect(":memory:")
    memory.executescript(DUMP.read_text())
    memory.row_factory = sqlite3.Row
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for table in (database.VERSIONS, database.ENTRIES, database.SPENDS, database.CARRIED):
            older = sa.Table(
                table.name,
                sa.MetaData(),
                *(c._copy() for c in table.c if c.info.get("since", 1) <= 2),
            )
            older.create(connection)
            database.append_only(connection, older)
            rows = [dict(row) for row in memory.execute(f"SELECT * FROM {table.name}")]
            connection.execute(older.insert(), rows)
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return write_schema_2(tmp_path / "ledger.db")
    fresh: Callable[[], str] = request.getfixturevalue("postgres_urls")
    return _in_postgres(fresh())


def _spent(ledger: Ledger) -> dict[int, tuple[float, float]]:
    found = ledger.classes(delta=1e-5)
    return {
        token: next((c.epsilon_rdp, c.epsilon_pld) for c in found if token in c.members)
        for token in SPENT
    }


def _as_that_version_gave_it() -> object:
    return {token: pytest.approx(both, rel=1e-9) for token, both in SPENT.items()}


def _versions(url: str) -> list[int]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT version FROM ledger_schema ORDER BY version"))
        return [row.version for row in rows]


def test_opened_for_writing_it_is_migrated_with_one_line_and_nobodys_spend_changes(
    url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with Ledger.open(url) as ledger:
        assert ledger.head() == HEAD
        assert _spent(ledger) == _as_that_version_gave_it()
    (line,) = capfd.readouterr().err.splitlines()
    assert line == (
        "lethe: The ledger was migrated from schema 2 to 3. Nobody's spend changed; an earlier "
        "version of Lethe no longer opens it."
    )
    assert _versions(url) == [2, 3]
    Ledger.open(url).close()
    assert capfd.readouterr().err == ""  # once


def test_only_looked_at_it_is_read_as_it_is_and_stays_that(
    url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with Ledger.open(url, create=False) as ledger:
        assert ledger.head() == HEAD
        assert _spent(ledger) == _as_that_version_gave_it()
        assert ledger.run(FIRST).mechanism is None
    assert _versions(url) == [2]
    assert capfd.readouterr().err == ""


def test_runs_of_before_keep_what_was_recorded_of_them(url: str) -> None:
    with Ledger.open(url) as ledger:
        states = {run.run_id: run.state for run in ledger.runs()}
        assert states == {FIRST: "settled", VOID: "void", CHEAP: "settled", OPEN: "reserved"}
        record = ledger.run(FIRST)
        assert (record.unit, record.adjacency) == ("person", "add or remove one person")
        assert (record.sampling, record.records_per_person) == ("Poisson over persons", 4)
        assert record.mechanism is None  # was not recorded; nothing is made up
        assert record.event == PLAN.event
        assert record.plan_digest == PLAN.digest
        assert record.eligible == BitMap(range(1, 9))


def test_further_charges_compose_with_what_was_spent_before(url: str) -> None:
    with Ledger.open(url) as ledger:
        with pytest.raises(BudgetExceeded, match="fewer than 100 subjects"):
            ledger.reserve(
                PLAN.release(BitMap([1])),
                budget=Budget(epsilon=1.9, delta=1e-5),
                request="e",
                now=NOW,
            )
        run = ledger.reserve(PLAN.release(BitMap([1, 6])), budget=BUDGET, request="e", now=NOW)
        ledger.settle(run.run_id)
        assert ledger.run(run.run_id).mechanism == "dp-sgd"
        (once_more,) = ledger.classes(BitMap([1]), delta=1e-5)
        assert once_more.events == (PLAN.event,) * 3
    with Ledger.open(url) as again:  # the chain over rows of both schemas
        assert again.head()[0] == 11
        again.check_contains_all([(FIRST, *HEAD)])
        with pytest.raises(BudgetExceeded):
            again.reserve(PLAN.release(BitMap([1])), budget=BUDGET, request="f", now=NOW)


def test_a_request_of_before_is_not_charged_again(url: str) -> None:
    with Ledger.open(url) as ledger:
        again = ledger.reserve(
            PLAN.release(BitMap([1, 2, 77])), budget=BUDGET, request="a", now=NOW
        )
        assert (again.run_id, again.resumed, again.state) == (FIRST, True, "settled")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ledger_spends SET mechanism = 'dp-sgd' WHERE run_id = '{old}'",
        "UPDATE ledger_spends SET mechanism = NULL WHERE run_id = '{new}'",
        "UPDATE ledger_spends SET mechanism = 'none' WHERE run_id = '{new}'",
        "UPDATE ledger_spends SET sampling = 'everybody' WHERE run_id = '{old}'",
    ],
)
def test_facts_that_were_changed_behind_it_break_the_chain(tmp_path: Path, change: str) -> None:
    url = write_schema_2(tmp_path / "ledger.db")
    with Ledger.open(url) as ledger:
        new = ledger.reserve(PLAN.release(BitMap([6])), budget=BUDGET, request="e", now=NOW).run_id
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("DROP TRIGGER ledger_spends_no_update")
        connection.execute(change.format(old=FIRST, new=new))
    with Ledger.open(url) as ledger, pytest.raises(LedgerInvalid, match="chain is broken"):
        ledger.head()


def test_a_copy_of_before_the_migration_no_longer_has_what_was_charged_since(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.db"
    url = write_schema_2(path)
    backup = path.read_bytes()
    with Ledger.open(url) as ledger:
        run = ledger.reserve(PLAN.release(BitMap([6])), budget=BUDGET, request="e", now=NOW)
        head = ledger.head()
    path.write_bytes(backup)
    with Ledger.open(url) as ledger, pytest.raises(LedgerInvalid, match="rolled back"):
        ledger.check_contains_all([(run.run_id, *head)])


def test_migrated_rows_are_still_append_only(url: str) -> None:
    Ledger.open(url).close()
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(sa.text("UPDATE ledger_spends SET mechanism = 'dp-sgd'"))
