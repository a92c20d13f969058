"""The ledger on SQLite: who is charged, who is refused, and what a file can reveal."""

import datetime as dt
import json
import multiprocessing
import os
import sqlite3
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from pyroaring import BitMap

from lethe.config.sections import Budget
from lethe.core.errors import LedgerInvalid, SourceUnavailable
from lethe.ledger import database
from lethe.ledger.classes import Charge, histories, over_budget, spend_classes
from lethe.ledger.ledger import Ledger
from lethe.ledger.owner import Owner, _started
from lethe.privacy.accounting import epsilon_rdp
from tests.ledger.older import write_schema_1
from tests.plans import CHARGED as PLAN

NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
BUDGET = Budget(epsilon=2.0, delta=1e-5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stores" / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Ledger:
    return Ledger.open(f"sqlite:///{path}")


def spend(ledger: Ledger, request: str, *tokens: int) -> str:
    return ledger.reserve(
        PLAN.release(BitMap(tokens)), budget=BUDGET, request=request, now=NOW
    ).run_id


def change(path: Path, *statements: str) -> None:
    """Changes the file behind the ledger's back, its triggers taken out of the way."""
    with sqlite3.connect(path) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='trigger'"):
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
    connection.close()


# --- the file


def test_file_is_its_owners_alone(ledger: Ledger, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_file_that_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(LedgerInvalid, match="damaged, or no ledger"):
        Ledger.open(f"sqlite:///{path}")


@pytest.mark.parametrize(
    "url", ["", "nonsense", "mysql+nosuch://host/x", "sqlite:////proc/no/l.db"]
)
def test_url_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(SourceUnavailable, match=r"stores\.ledger"):
        Ledger.open(url)


def test_newer_schema_is_refused_and_left_alone(ledger: Ledger, path: Path) -> None:
    spend(ledger, "a", 1, 2)
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO ledger_schema VALUES (99)")
    before = path.read_bytes()
    with pytest.raises(LedgerInvalid, match="schema 99"):
        Ledger.open(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_the_first_schema_is_migrated_and_keeps_every_run(path: Path) -> None:
    with Ledger.open(write_schema_1(path)) as migrated:
        rows, chain = migrated.head()
        assert (rows, chain[:8]) == (6, "c05f4982")
        assert [run.state for run in migrated.runs()] == ["settled", "void", "settled"]
        assert migrated.runs()[0].eligible == BitMap(range(1, 9))
        migrated.remember(b"entry", 1)
    with sqlite3.connect(path) as connection:
        versions = connection.execute("SELECT version FROM ledger_schema").fetchall()
    assert sorted(versions) == [(1,), (database.SCHEMA,)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_spends SET records_per_person = 1",
        "DELETE FROM ledger_spends",
        "UPDATE ledger_entries SET kind = 'void' WHERE position = 1",
        "DELETE FROM ledger_entries WHERE position = 1",
        "UPDATE ledger_schema SET version = 1",
        "INSERT OR REPLACE INTO ledger_entries SELECT * FROM ledger_entries",
    ],
)
def test_rows_cannot_be_changed_or_removed(ledger: Ledger, path: Path, statement: str) -> None:
    spend(ledger, "a", 1, 2)
    with (
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
        sqlite3.connect(path) as connection,
    ):
        connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_spends SET delta = 0.1",
        "UPDATE ledger_spends SET event = replace(event, '6.6', '66.6')",
        "UPDATE ledger_spends SET subjects = 1",
        "UPDATE ledger_entries SET kind = 'void' WHERE position = 1",
        "UPDATE ledger_entries SET position = 9 WHERE position = 2",
        "DELETE FROM ledger_entries WHERE position = 2",
        "DELETE FROM ledger_entries",
        "DELETE FROM ledger_spends",
        "INSERT INTO ledger_spends SELECT 'other', request, event, plan_digest, unit, adjacency,"
        " sampling, records_per_person, delta, subjects, left_out, eligible, manifest_sha256,"
        " manifest_md5, params_digest, code_digest, mechanism FROM ledger_spends LIMIT 1",
    ],
)
def test_row_changed_behind_its_back_is_noticed(ledger: Ledger, path: Path, statement: str) -> None:
    spend(ledger, "a", 1, 2)
    spend(ledger, "b", 1, 2)
    change(path, statement)
    with pytest.raises(LedgerInvalid, match="chain is broken"):
        Ledger.open(f"sqlite:///{path}").head()


def test_changed_manifest_is_noticed(ledger: Ledger, path: Path) -> None:
    spend(ledger, "a", 1, 2)
    with sqlite3.connect(":memory:") as scratch:
        nobody = scratch.execute("SELECT ?", (BitMap([9]).serialize(),)).fetchone()[0].hex()
    change(path, f"UPDATE ledger_spends SET eligible = x'{nobody}'")
    with pytest.raises(LedgerInvalid, match="manifest"):
        Ledger.open(f"sqlite:///{path}").classes()


def test_rolled_back_ledger_is_detected(ledger: Ledger, path: Path) -> None:
    first = spend(ledger, "a", 1, 2)
    backup = path.read_bytes()
    second = spend(ledger, "b", 1, 2)
    rows, chain = ledger.head()
    ledger.check_contains_all([(second, rows, chain)])
    ledger.close()

    path.write_bytes(backup)
    rolled_back = Ledger.open(f"sqlite:///{path}")
    with pytest.raises(LedgerInvalid, match="rolled back"):
        rolled_back.check_contains_all([(second, rows, chain)])
    spend(rolled_back, "c", 1, 2)  # as many entries again, but others
    with pytest.raises(LedgerInvalid, match="rolled back"):
        rolled_back.check_contains_all([(first, rows, chain)])


def test_replaced_ledger_is_detected(ledger: Ledger, tmp_path: Path) -> None:
    run_id = spend(ledger, "a", 1, 2)
    other = Ledger.open(f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(LedgerInvalid, match="rolled back or replaced"):
        other.check_contains_all([(run_id, *ledger.head())])


def test_what_is_stored_is_data_and_names_nobody(ledger: Ledger, path: Path) -> None:
    run_id = spend(ledger, "a", 1, 2)
    with sqlite3.connect(path) as connection:
        connection.row_factory = sqlite3.Row
        (row,) = connection.execute("SELECT * FROM ledger_spends")
    assert json.loads(row["event"]) == {
        "kind": "self_composed",
        "count": 300,
        "event": {
            "kind": "poisson_sampled",
            "sampling_probability": 0.1,
            "event": {"kind": "gaussian", "noise_multiplier": 6.6},
        },
    }
    assert (row["run_id"], row["unit"], row["records_per_person"]) == (run_id, "person", 4)
    assert BitMap.deserialize(row["eligible"]) == BitMap([1, 2])


def test_tokens_are_not_shown_in_a_reservation(ledger: Ledger) -> None:
    reserved = ledger.reserve(PLAN.release(BitMap([123_456])), budget=BUDGET, request="a", now=NOW)
    assert "123456" not in repr(reserved)
    assert "123456" not in repr(ledger.run(reserved.run_id))


# --- whose process it is


def test_process_that_ended_is_known_to_have_ended() -> None:
    context = multiprocessing.get_context("spawn")
    inside, outside = context.Pipe()
    child = context.Process(target=_send_owner, args=(outside,))
    child.start()
    owner = inside.recv()
    assert owner.may_live()
    inside.send("end")
    child.join()
    assert not owner.may_live()


def _send_owner(pipe: object) -> None:
    pipe.send(Owner.current())  # type: ignore[attr-defined]
    pipe.recv()  # type: ignore[attr-defined]


def test_process_that_was_killed_and_not_yet_waited_for_has_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = replace(Owner.current(), pid=child.pid, process_start=_started(child.pid) or "")
    assert owner.may_live()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
    assert not owner.may_live()
    child.communicate()


def test_number_given_to_a_later_process_is_not_the_same_process() -> None:
    mine = Owner.current()
    assert mine.may_live()
    assert not replace(mine, process_start="1").may_live()


def test_process_elsewhere_counts_as_alive() -> None:
    mine = Owner.current()
    name, machine, boot, namespace = mine.host.split("/")
    for host in (
        f"other-host/{machine}/{boot}/{namespace}",
        f"{name}/other/{boot}/{namespace}",
        f"{name}/{machine}/{boot}/pid:[1]",
        "unreadable",
    ):
        assert Owner(host, 1, "1").may_live()


def test_process_before_a_restart_of_the_machine_has_ended() -> None:
    mine = Owner.current()
    name, _, _, namespace = mine.host.split("/")
    host = f"{name}/machine-a/boot-1/{namespace}"
    before = Owner(host, mine.pid, mine.process_start)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lethe.ledger.owner._host", lambda: host.replace("1/", "2/"))
        assert not before.may_live()


# --- classes


def charge(name: str, *tokens: int, delta: float = 1e-5) -> Charge:
    return Charge(name, PLAN.event, BitMap(tokens), delta)


def test_people_with_the_same_runs_are_one_class() -> None:
    charges = [charge("a", 1, 2, 3), charge("b", 2, 3), charge("c", 3, 9)]
    found = spend_classes(BitMap([1, 2, 3, 4, 5, 9]), charges, delta=1e-5)
    assert [(set(c.members), c.run_ids) for c in found] == [
        ({4, 5}, ()),
        ({1}, ("a",)),
        ({2}, ("a", "b")),
        ({3}, ("a", "b", "c")),
        ({9}, ("c",)),
    ]
    assert found[0].epsilon_rdp == found[0].epsilon_pld == 0.0
    assert found[3].epsilon_rdp == pytest.approx(epsilon_rdp([PLAN.event] * 3, 1e-5))
    assert found[1].epsilon_pld < found[1].epsilon_rdp


def test_nobody_is_no_class() -> None:
    assert spend_classes(BitMap(), [charge("a", 1)], delta=1e-5) == []
    assert over_budget(BitMap(), [], PLAN.event, epsilon=0.1, delta=1e-5)[0] == BitMap()


@pytest.mark.parametrize("runs", [7, 62, 63, 130])  # one number distinguishes 62
def test_every_person_is_in_the_class_of_their_own_history(runs: int) -> None:
    tokens = BitMap(range(1, 1000, 3))
    charges = [
        charge(str(k), *(t for t in range(1000) if t % k == 0), delta=1e-5)
        for k in range(2, 2 + runs)
    ]
    charges[-1] = replace(charges[0], run_id="the same people again")
    grouped = histories(tokens, charges)
    for token, number in zip(grouped.tokens, grouped.class_of, strict=True):
        expected = [token in each.members for each in charges]
        assert grouped.runs[number].tolist() == expected
    assert len({tuple(row) for row in grouped.runs.tolist()}) == len(grouped.runs)


def test_only_those_above_the_budget_are_over_it() -> None:
    charges = [charge("a", 1, 2), charge("b", 2), charge("c", 2, 4)]
    limit = epsilon_rdp([PLAN.event] * 3, 1e-5) + 1e-9
    over, left, after = over_budget(
        BitMap([1, 2, 3, 4]), charges, PLAN.event, epsilon=limit, delta=1e-5
    )
    assert over == BitMap([2])  # three runs already; who comes up to the limit is within
    assert left == pytest.approx(0.0, abs=1e-8)
    assert after == pytest.approx(epsilon_rdp([PLAN.event] * 4, 1e-5))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 1.0])
def test_over_budget_agrees_with_pricing_every_class_in_full(share: float) -> None:
    # Runs of very different noise: the order that is best for one history is not for another.
    noises = [1.0, 3.0, 6.6, 20.0, 60.0]
    charges = [
        Charge(
            str(place),
            replace(PLAN, noise_multiplier=noise).event,
            BitMap(t for t in range(64) if t >> place & 1),
            1e-5,
        )
        for place, noise in enumerate(noises)
    ]
    tokens = BitMap(range(64))
    before, then = {}, {}
    for token in tokens:
        own = [each.event for each in charges if token in each.members]
        before[token] = epsilon_rdp(own, 1e-5)
        then[token] = epsilon_rdp([*own, PLAN.event], 1e-5)
    limit = sorted(then.values())[int(share * 63)] - 1e-9  # the run itself takes somebody over
    over, left, after = over_budget(tokens, charges, PLAN.event, epsilon=limit, delta=1e-5)
    expected = {token for token in tokens if then[token] > limit}
    assert set(over) == expected
    if expected:
        assert left == pytest.approx(max(0.0, limit - max(before[t] for t in expected)))
        assert after == pytest.approx(max(then[t] for t in expected))


@pytest.mark.parametrize(("margin", "over"), [(1e-9, []), (-1e-9, [1])])
def test_limit_is_sharp(margin: float, over: list[int]) -> None:
    limit = epsilon_rdp([PLAN.event] * 2, 1e-5) + margin
    found, left, after = over_budget(
        BitMap([1, 2]), [charge("a", 1), charge("b", 9)], PLAN.event, epsilon=limit, delta=1e-5
    )
    assert found == BitMap(over)
    if over:
        assert left == pytest.approx(limit - epsilon_rdp([PLAN.event], 1e-5))
        assert after > limit


def test_million_people_with_few_histories_need_few_compositions() -> None:
    tokens = BitMap(range(0, 200_000, 2))
    charges = [Charge(str(n), PLAN.event, BitMap(range(n * 1000, 200_000)), 1e-5) for n in range(8)]
    assert len(histories(tokens, charges).runs) == 8


def test_migration_is_declared_for_every_table() -> None:
    assert set(database.METADATA.tables) == {
        "ledger_schema",
        "ledger_entries",
        "ledger_spends",
        "ledger_carried",
    }
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        database._migrate(connection)
        names = set(sa.inspect(connection).get_table_names())
    assert names == set(database.METADATA.tables)
