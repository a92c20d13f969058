"""A real PostgreSQL server for tests, started from Debian's package on a free port.

A test module takes the fixtures by importing them:

    from tests.postgres import postgres_url, postgres_urls  # noqa: F401
"""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psycopg
import pytest

PASSWORD = "invented-for-tests"  # also what no error message may show
_SECONDS = 60


@dataclass(frozen=True)
class Server:
    """A running server with the superuser `lethe`."""

    port: int
    binaries: Path
    folder: Path
    as_owner: tuple[str, ...]

    def url(self, database: str) -> str:
        return f"postgresql://lethe:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def own(self, name: str) -> str:
        """The URL of a new database that belongs to a new role, which may do nothing else."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
            connection.execute(f"CREATE DATABASE {name} OWNER {name}")
            connection.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
        return f"postgresql+psycopg://{name}:{PASSWORD}@127.0.0.1:{self.port}/{name}"

    def dump(self, database: str) -> str:
        """Every row of a database as text, its statistics included; bytes as hexadecimals."""
        done = subprocess.run(
            [str(self.binaries / "pg_dump"), "--inserts", self.url(database)],
            check=True,
            capture_output=True,
            text=True,
        )
        with psycopg.connect(self.url(database)) as connection:
            seen = connection.execute("SELECT s::text FROM pg_stats AS s").fetchall()
        return "\n".join([done.stdout, *(row for (row,) in seen)])

    def files(self, database: str) -> list[Path]:
        """The files of a database as they lie on disk now, dead rows included; not its log."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute("CHECKPOINT")
            found = connection.execute(
                "SELECT oid FROM pg_database WHERE datname = %s", (database,)
            ).fetchone()
        if found is None:
            raise LookupError(database)
        return [p for p in (self.folder / "data/base" / str(found[0])).rglob("*") if p.is_file()]

    def start(self) -> None:
        """Not as a child of the tests' process: a pod that a test runs ends all its children."""
        settings = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 "
            f"-c unix_socket_directories={self.folder} "
            "-c fsync=off -c full_page_writes=off -c timezone=Asia/Tokyo"
        )
        self._control("start", "--log", str(self.folder / "log"), "--options", settings)

    def stop(self) -> None:
        self._control("stop", "--mode", "fast")  # clients are cut off
        shutil.rmtree(self.folder, ignore_errors=True)

    def _control(self, what: str, *words: str) -> None:
        control = (str(self.binaries / "pg_ctl"), what, "--pgdata", str(self.folder / "data"))
        done = subprocess.run(
            [*self.as_owner, *control, "--wait", "--timeout", str(_SECONDS), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # no pipe: the server would keep it open
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        if done.returncode != 0:
            log = (self.folder / "log").read_text() if (self.folder / "log").exists() else ""
            raise RuntimeError(f"PostgreSQL did not {what}: {log}")


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def _start(binaries: Path) -> Server:
    folder = Path(tempfile.mkdtemp(prefix="lethe-postgres-"))
    as_owner: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        as_owner = [
            *("setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups")
        ]
    with tempfile.NamedTemporaryFile("w") as password:
        password.write(PASSWORD)
        password.flush()
        Path(password.name).chmod(0o644)
        data = folder / "data"
        subprocess.run(
            [
                *as_owner,
                *(str(binaries / "initdb"), "--pgdata", str(data), "--username", "lethe"),
                *("--auth", "scram-sha-256", "--pwfile", password.name),
                *("--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
            ],
            check=True,
            capture_output=True,
            cwd="/",
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(port, binaries, folder, tuple(as_owner))
    server.start()
    return server


@cache  # one server, however many modules import the fixtures
def _server() -> Server:
    binaries = _binaries()
    if binaries is None:
        reason = "PostgreSQL's server is not installed (apt-get install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return _start(binaries)


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> Server:
    """The server, stopped when pytest ends."""
    started = _server.cache_info().currsize
    server = _server()
    if not started:
        pytestconfig.add_cleanup(server.stop)
    return server


@pytest.fixture
def postgres_urls(postgres_server: Server) -> Iterator[Callable[[], str]]:
    """Makes fresh databases; each is dropped after the test."""
    made: list[str] = []

    def fresh() -> str:
        name = f"t{secrets.token_hex(8)}"
        with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        made.append(name)
        return postgres_server.url(name)

    yield fresh
    with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as connection:
        for name in made:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_url(postgres_urls: Callable[[], str]) -> str:
    """The URL of a fresh database."""
    return postgres_urls()
