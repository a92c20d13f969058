"""A PostgreSQL server that freezes within a statement is given up; a slow one is waited for."""

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from lethe.core import silence
from lethe.core.errors import LetheError, SourceUnavailable
from lethe.core.silence import give_up_when_silent
from lethe.ledger.ledger import Ledger
from lethe.stores.requests.requests import Requests
from lethe.stores.source import connect
from lethe.stores.source.writer import open_writer
from lethe.stores.vault.vault import Vault
from tests.freezing import Freezing, freezing
from tests.postgres import Server, postgres_server, postgres_urls
from tests.traps import Parish, declare

__all__ = ["postgres_server", "postgres_urls"]
# Of a cursor whose server is gone.
pytestmark = pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "ASK_AGAIN_S", 0.4)
    monkeypatch.setattr(silence, "ASK_TIMES", 1)
    monkeypatch.setattr(silence, "CONNECT_S", 2)
    # Set by whoever imports the registry; a declared time-out is waited for.
    monkeypatch.delenv("PGCONNECT_TIMEOUT", raising=False)


@pytest.fixture
def server(postgres_server: Server, hasty: None) -> Iterator[Freezing]:
    with freezing(postgres_server.port) as made:
        yield made


@pytest.fixture
def url(postgres_urls: Callable[[], str], postgres_server: Server, server: Freezing) -> str:
    """Of a fresh database, by way of what may freeze."""
    behind = postgres_urls().replace(f":{postgres_server.port}/", f":{server.port}/")
    return behind.replace("postgresql:", "postgresql+psycopg:")


def engine_of(url: str) -> sa.Engine:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    give_up_when_silent(engine, "the books")
    return engine


@pytest.mark.parametrize("deed", ["statement", "rows", "commit"])
def test_a_server_that_freezes_is_given_up(
    url: str, server: Freezing, deed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = 0.0

    def freeze() -> None:
        nonlocal begun
        begun = time.monotonic()
        server.freeze()

    with pytest.raises(sa.exc.OperationalError), engine_of(url).begin() as connection:
        streamed = connection.execution_options(stream_results=True, yield_per=10)
        numbers = streamed.execute(sa.text("SELECT generate_series(1, 100000)"))
        assert next(numbers) == (1,)
        if deed == "rows":
            freeze()
            list(numbers)
        numbers.close()
        freeze()
        if deed == "statement":
            connection.execute(sa.text("SELECT 1"))
    assert time.monotonic() - begun < 60
    gc.collect()
    assert "Waiting for the books, which has been silent" in capsys.readouterr().err


def test_a_slow_statement_of_a_server_that_answers_is_waited_for(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "ASK_TIMES", 5)  # on a slow machine an answer may come late
    with engine_of(url).connect() as connection:
        slept = connection.execute(sa.text("SELECT pg_sleep(3), 7")).one()
    assert slept[1] == 7
    assert "Waiting for the books" in capsys.readouterr().err


def test_a_pooler_that_lets_new_connections_wait_is_asked_again(
    url: str, server: Freezing, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two more than are ignored: on a slow machine an answer, too, may come late.
    monkeypatch.setattr(silence, "ASK_TIMES", 4)
    with engine_of(url).connect() as connection:
        for _ in range(2):  # what was answered in between begins the count anew
            server.ignore(2)
            assert connection.execute(sa.text("SELECT pg_sleep(15), 7")).one()[1] == 7
            assert capsys.readouterr().err.count("which has been silent for") > 2
        server.ignore(1000)
        with pytest.raises(sa.exc.OperationalError, match="silent"):
            connection.execute(sa.text("SELECT pg_sleep(300)"))


def test_an_address_cannot_shorten_how_long_a_second_connection_is_waited_for(
    url: str, server: Freezing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "CONNECT_S", 4)
    monkeypatch.setattr(silence, "ASK_TIMES", 1)
    with engine_of(f"{url}?connect_timeout=1").connect() as connection:
        server.freeze()
        begun = time.monotonic()
        with pytest.raises(sa.exc.OperationalError, match="silent"):
            connection.execute(sa.text("SELECT 1"))
        assert time.monotonic() - begun > 4


def test_nobody_is_given_up_before_three_tries_over_some_minutes() -> None:
    assert silence.ASK_TIMES >= 3
    assert silence.ASK_TIMES * silence.ASK_AGAIN_S >= 120


OWN: dict[str, tuple[Callable[[str], object], str]] = {
    "ledger": (lambda url: Ledger.open(url), "head"),
    "requests": (lambda url: Requests.open(url), "all"),
    "vault": (lambda url: Vault.open(url, b"k" * 32), "count"),
}


@pytest.mark.parametrize("what", OWN)
def test_a_store_of_lethes_own_that_freezes_is_named(url: str, server: Freezing, what: str) -> None:
    opened, asked = OWN[what]
    with opened(url) as store:  # type: ignore[attr-defined]
        getattr(store, asked)()
        server.freeze()
        begun = time.monotonic()
        with pytest.raises(LetheError, match=r"does not answer|did not answer"):
            getattr(store, asked)()
        assert time.monotonic() - begun < 60
    with pytest.raises(LetheError, match="did not answer in time"):
        opened(f"{url}?connect_timeout=2")


def test_a_source_that_freezes_while_it_is_written_to_says_what_is_known(
    url: str,
    server: Freezing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connect, "WAIT_SECONDS", 2)
    parish = Parish.build(url)
    params = declare(url.replace("+psycopg", ""))
    with (
        pytest.raises(SourceUnavailable, match="done whole or not at all"),
        open_writer(params, writing=True) as writer,
    ):
        writer.delete("letters", list(writer.where(writer.table("letters"), sa.true())))
        server.freeze()
    server.thaw()
    assert len(parish.rows("letters")) == 4
