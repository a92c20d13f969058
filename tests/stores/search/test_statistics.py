"""What PostgreSQL's planner knows of a table that has no rows any more, and what it costs."""

import threading
import time
from collections.abc import Callable

import psycopg
import pytest
import sqlalchemy as sa

from lethe.stores.search import statistics
from lethe.stores.search.statistics import LOCK_S, forget_statistics_if_empty
from tests.postgres import postgres_server, postgres_url, postgres_urls

__all__ = ["postgres_server", "postgres_url", "postgres_urls"]

Run = Callable[..., list[tuple[object, ...]]]


@pytest.fixture
def run(postgres_url: str) -> Run:
    def done(*statements: str) -> list[tuple[object, ...]]:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            for each in statements:
                made = connection.execute(each.encode())
            return made.fetchall() if made.description else []

    return done


@pytest.fixture
def forget(postgres_url: str) -> Callable[..., None]:
    engine = sa.create_engine(
        postgres_url.replace("postgresql:", "postgresql+psycopg:"),
        poolclass=sa.NullPool,
        isolation_level="AUTOCOMMIT",
    )

    def done(*tables: str) -> None:
        with engine.connect() as connection:
            for each in tables:
                forget_statistics_if_empty(connection, each)

    return done


def known(run: Run) -> set[str]:
    """The columns of which the planner knows something of Ada."""
    found = run(
        "SELECT tablename || '.' || attname FROM pg_stats WHERE schemaname = 'public' AND "
        "concat(most_common_vals::text, histogram_bounds::text) LIKE '%ada%'"
    )
    return {str(each) for (each,) in found}


COLLATIONS = {
    "plain": 'COLLATE "C"',
    "of any order": "COLLATE public.anyhow",
    "quoted": 'COLLATE odd."My ""own"""',
    "default": "",
}


@pytest.mark.parametrize("collated", COLLATIONS.values(), ids=COLLATIONS)
@pytest.mark.parametrize("kind", ["varchar(9)", "text[]", "wordy"])
@pytest.mark.parametrize("parted", [False, True])
def test_a_column_keeps_its_collation(
    run: Run, forget: Callable[..., None], collated: str, kind: str, parted: bool
) -> None:
    run(
        "CREATE SCHEMA odd",
        "CREATE DOMAIN wordy AS text COLLATE \"POSIX\" CHECK (value <> '')",
        "CREATE COLLATION anyhow (provider = icu, locale = 'und-u-ks-level2', "
        "deterministic = false)",
        'CREATE COLLATION odd."My ""own""" FROM "C"',
        f'CREATE TABLE t (id int, "na""me" {kind} {collated}) '
        + ("PARTITION BY LIST (id)" if parted else ""),
        *(["CREATE TABLE a PARTITION OF t FOR VALUES IN (1)"] if parted else []),
        *(["CREATE TABLE b PARTITION OF t FOR VALUES IN (2)"] if parted else []),
        "INSERT INTO t SELECT 1, '{ada}' FROM generate_series(1, 20)",
        *(["INSERT INTO t SELECT 2, '{bo}' FROM generate_series(1, 20)"] if parted else []),
        'CREATE INDEX ON t ("na""me")',
        "ANALYZE",
        "DELETE FROM t WHERE id = 1",
        "VACUUM ANALYZE t",
    )
    assert known(run) == ({'a.na"me'} if parted else {'t.na"me'})
    shape = (
        "SELECT attrelid::regclass::text, attname, atttypid, atttypmod, attcollation "
        "FROM pg_attribute WHERE attnum > 0 AND attrelid IN (SELECT oid FROM pg_class "
        "WHERE relnamespace = 'public'::regnamespace) ORDER BY 1, 2"
    )
    before = run(shape)
    forget("a" if parted else "t")
    assert known(run) == set()
    assert run(shape) == before


HEIRS = (
    "CREATE TABLE elder (name text, year int)",
    "CREATE TABLE heir (more int) INHERITS (elder)",
    "CREATE TABLE grandchild () INHERITS (heir)",
)


def filled(*tables: str, name: str = "ada") -> list[str]:
    return [
        f"INSERT INTO {each} (name) SELECT '{name}' FROM generate_series(1, 20)" for each in tables
    ]


@pytest.mark.parametrize("empty", ["elder", "heir", "grandchild"])
def test_an_emptied_table_of_a_family_is_forgotten_and_the_others_are_known_as_before(
    run: Run, forget: Callable[..., None], empty: str
) -> None:
    family = ("elder", "heir", "grandchild")
    others = [each for each in family if each != empty]
    run(*HEIRS, *filled(empty), *filled(*others, name="bo"), "ANALYZE")
    run(f"DELETE FROM ONLY {empty}", *(f"VACUUM ANALYZE {each}" for each in family))
    assert known(run) == {f"{empty}.name"}
    local = "SELECT attrelid::regclass::text, attname, attislocal, attinhcount FROM pg_attribute"
    standing = run(f"{local} WHERE attnum > 0 AND attrelid > 16000 ORDER BY 1, 2")
    forget(*family)
    assert known(run) == set()
    others_known = run(
        "SELECT DISTINCT tablename FROM pg_stats WHERE most_common_vals::text = '{bo}'"
    )
    assert {each for (each,) in others_known} >= set(others)
    assert run(f"{local} WHERE attnum > 0 AND attrelid > 16000 ORDER BY 1, 2") == standing


def test_a_table_with_rows_of_its_own_is_left_as_it_is(
    run: Run, forget: Callable[..., None]
) -> None:
    run(*HEIRS, *filled("elder", "heir"), "ANALYZE")
    before = run("SELECT * FROM pg_stats WHERE schemaname = 'public' ORDER BY tablename, attname")
    forget("elder", "heir")
    assert before == run(
        "SELECT * FROM pg_stats WHERE schemaname = 'public' ORDER BY tablename, attname"
    )


PARTS = (
    "CREATE TABLE t (name text, day date, kind text) PARTITION BY LIST (name)",
    "CREATE TABLE a PARTITION OF t FOR VALUES IN ('ada')",
    "CREATE TABLE b PARTITION OF t FOR VALUES IN ('bo')",
)


def test_a_partition_is_attached_again_with_the_switches_of_its_triggers(
    run: Run, forget: Callable[..., None]
) -> None:
    """Attached again, a trigger that was off there would be on."""
    run(
        *PARTS,
        *filled("t"),
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
        "CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
        "ANALYZE",
        "DELETE FROM t",
        "VACUUM ANALYZE t",
    )
    states = "SELECT tgrelid::regclass::text, tgenabled FROM pg_trigger ORDER BY 1"
    for switch in ("DISABLE TRIGGER g", "ENABLE REPLICA TRIGGER g", "ENABLE ALWAYS TRIGGER g"):
        run(f"ALTER TABLE a {switch}")
        before = run(states)
        forget("a")
        assert run(states) == before
        assert "a.name" in known(run)
    run("ALTER TABLE a ENABLE TRIGGER g")
    before = run(states)
    forget("a")
    assert run(states) == before
    assert "a.name" not in known(run)


def test_a_partition_stays_attached_where_rows_of_another_would_be_read(
    run: Run, forget: Callable[..., None]
) -> None:
    run(*PARTS, "CREATE TABLE rest PARTITION OF t DEFAULT", *filled("t"), "ANALYZE")
    run("DELETE FROM t", "VACUUM ANALYZE t", *filled("t", name="cy"))
    forget("a")
    assert "a.name" in known(run)
    run("DELETE FROM t", "VACUUM t")
    forget("a")
    assert "a.name" not in known(run)


def test_nobody_waits_long_behind_what_waits_for_a_table(
    run: Run, forget: Callable[..., None], postgres_url: str
) -> None:
    run(*PARTS, *filled("t"), "ANALYZE", "DELETE FROM t", "VACUUM ANALYZE t")
    with psycopg.connect(postgres_url) as reader:
        reader.execute("SELECT * FROM t")
        forgetting = threading.Thread(target=forget, args=["a"])
        forgetting.start()
        time.sleep(LOCK_S / 4)
        begun = time.monotonic()
        run("SELECT * FROM t")
        assert time.monotonic() - begun < 2 * LOCK_S
        forgetting.join()
    assert "a.name" in known(run)
    forget("a")
    assert "a.name" not in known(run)


def test_nobody_waits_long_while_rows_are_checked(
    run: Run, forget: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "WORK_S", 1)
    made = "CREATE OR REPLACE FUNCTION checked(t text) RETURNS bool LANGUAGE sql AS"
    run(
        f"{made} 'SELECT true'",
        *HEIRS,
        "ALTER TABLE elder ADD CHECK (checked(name))",
        *filled("heir"),
        *filled("elder", name="bo"),
        "ANALYZE",
        "DELETE FROM heir",
        "VACUUM ANALYZE elder",
        f"{made} 'SELECT pg_sleep(0.5) IS NOT NULL'",
    )
    begun = time.monotonic()
    forget("heir")
    assert time.monotonic() - begun < 8
    assert "heir.name" in known(run)
    run(f"{made} 'SELECT true'")
    forget("heir")
    assert "heir.name" not in known(run)


def test_all_columns_of_a_partition_are_changed_while_it_is_detached_once(
    run: Run, forget: Callable[..., None]
) -> None:
    run(
        *PARTS,
        "INSERT INTO t SELECT 'ada', now(), 'ada' FROM generate_series(1, 20)",
        "ANALYZE",
        "DELETE FROM t",
        "VACUUM ANALYZE t",
        "CREATE VIEW v AS SELECT kind FROM t",  # its type cannot be given in the whole table
        "CREATE TABLE detached (made int)",
        "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF position('DETACH' in current_query()) > 0 THEN INSERT INTO detached VALUES (1); "
        "END IF; END $$",
        "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f()",
    )
    assert known(run) >= {"a.name", "a.kind"}
    forget("a")
    assert not {"a.name", "a.kind"} & known(run)
    assert run("SELECT count(*) FROM detached") == [(1,)]


def test_what_cannot_be_forgotten_stays_and_changes_nothing(
    run: Run, forget: Callable[..., None]
) -> None:
    """The root, and a partition of partitions, by the key that parts them."""
    run(
        "CREATE TABLE t (name text, kind text) PARTITION BY LIST (name)",
        "CREATE TABLE s PARTITION OF t FOR VALUES IN ('ada') PARTITION BY LIST (name)",
        "CREATE TABLE a PARTITION OF s DEFAULT",
        "INSERT INTO t SELECT 'ada', 'ada' FROM generate_series(1, 20)",
        "ANALYZE",
        "DELETE FROM t",
        "VACUUM ANALYZE t",
    )
    before = run("SELECT relname, pg_get_expr(relpartbound, oid) FROM pg_class ORDER BY 1")
    forget("t", "s", "a")
    assert known(run) == {"t.name", "s.name"}
    assert before == run("SELECT relname, pg_get_expr(relpartbound, oid) FROM pg_class ORDER BY 1")
