"""Why a PostgreSQL source cannot be read or used: each reason in one line of its own."""

import socket
from collections.abc import Callable

import psycopg
import pytest

from lethe.core.errors import SchemaMismatch, SourceUnavailable, ValueOutsideDomain
from lethe.stores.source.connect import check_one_place
from lethe.stores.source.read import Source
from tests.library import NOW, build, declare, rows
from tests.postgres import PASSWORD, Server, postgres_server, postgres_url, postgres_urls

__all__ = ["postgres_server", "postgres_url", "postgres_urls"]

Made = Callable[..., str]


@pytest.fixture
def library_url(postgres_urls: Made, tmp_path_factory: pytest.TempPathFactory) -> str:
    return build("postgres", tmp_path_factory.mktemp("library"), rows(), postgres_urls)


def run(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


WRONG: dict[str, tuple[Callable[[str], str], str]] = {
    "database": (lambda url: f"{url}x", "has no such database"),
    "password": (lambda url: url.replace(PASSWORD, "hunter2"), "refuses the password"),
    "no password": (lambda url: url.replace(f":{PASSWORD}", ""), "refuses the password"),
    "role": (lambda url: url.replace("//lethe", "//hunter2"), "or has no such role"),
    "tls": (lambda url: f"{url}?sslmode=require", "offers no TLS"),
    "host": (lambda url: url.replace("127.0.0.1", "no.such.invalid"), "a host that nobody knows"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_an_address_is_distinguished_without_a_secret(
    postgres_server: Server, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSFILE", "/dev/null")
    spoil, why = WRONG[what]
    params = declare(spoil(postgres_server.url("postgres")))
    for reading in (Source.open, check_one_place):
        with pytest.raises(SourceUnavailable, match=why) as said:
            reading(params)
        assert "\n" not in str(said.value)
        assert not [secret for secret in (PASSWORD, "hunter2") if secret in str(said.value)]


def test_a_port_that_nobody_or_something_else_listens_at_is_distinguished() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(SourceUnavailable, match=rf"at 127.0.0.1:{port} is not there"):
            Source.open(declare(f"postgresql://a:hunter2@127.0.0.1:{port}/b"))
    with pytest.raises(SourceUnavailable) as said:  # of which the parser makes a host
        Source.open(declare(f"postgresql://a:hunter2@secret@127.0.0.1:{port}/b"))
    assert "secret" not in str(said.value)


def test_a_role_that_may_not_connect_is_said_to_need_a_grant(
    postgres_server: Server, library_url: str
) -> None:
    name = "narrow" + library_url.rsplit("/", 1)[1]
    plain = library_url.replace("+psycopg", "")
    run(
        plain,
        f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'",
        f"REVOKE ALL ON DATABASE {library_url.rsplit('/', 1)[1]} FROM PUBLIC",
    )
    try:
        with pytest.raises(SourceUnavailable, match="grant it CONNECT"):
            Source.open(declare(library_url.replace("//lethe:", f"//{name}:")))
    finally:
        run(plain, f"DROP ROLE {name}")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("integer[]", r"integer\[\]"), ("jsonb", "jsonb"), ("int4range", "int4range")),
        *(("point", "point"), ("interval", "interval"), ("bytea", "bytea"), ("xml", "xml")),
    ],
)
def test_a_type_that_can_be_no_feature_is_named_with_its_column(
    library_url: str, kind: str, name: str
) -> None:
    plain = library_url.replace("+psycopg", "")
    run(plain, f"ALTER TABLE loans ALTER days TYPE {kind} USING NULL")
    with (
        Source.open(declare(library_url)) as source,
        pytest.raises(SchemaMismatch, match=rf"loans\.days is {name}: "),
    ):
        source.check(declare(library_url))


def test_domains_enumerations_and_plain_types_are_features(library_url: str) -> None:
    plain = library_url.replace("+psycopg", "")
    run(
        plain,
        "CREATE DOMAIN span AS integer CHECK (value >= 0)",
        "ALTER TABLE loans ALTER days TYPE span",
        "CREATE TYPE shade AS ENUM ('yes', 'no', 'withdrawn')",
        "ALTER TABLE answers ALTER answer TYPE shade USING answer::text::shade",
        "ALTER TABLE loans ADD tags integer[]",
    )
    params = declare(library_url, tables__loans__unused=["secret", "tags"], subject__minimum=1)
    with Source.open(params) as source:
        source.check(params)


@pytest.mark.parametrize("odd", ["infinity", "-infinity", "0044-03-15 BC", "12026-01-01"])
def test_a_date_that_no_calendar_here_has_names_its_column(library_url: str, odd: str) -> None:
    plain = library_url.replace("+psycopg", "")
    run(plain, f"UPDATE answers SET answered_at = '{odd}' WHERE reader_id = 7")
    params = declare(library_url)
    with Source.open(params) as source, pytest.raises(ValueOutsideDomain) as said:
        source.answer_problems(params, NOW)
    assert "answers.answered_at (1)" in str(said.value)
    assert "BC" not in str(said.value)


def test_a_joined_table_is_named_too(library_url: str) -> None:
    plain = library_url.replace("+psycopg", "")
    run(plain, "UPDATE readers SET born = '0044-03-15 BC' WHERE reader_id = 7")
    params = declare(library_url)
    with Source.open(params) as source, pytest.raises(ValueOutsideDomain, match=r"readers\.born"):
        list(source.records(params, NOW))
