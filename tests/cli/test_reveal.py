"""`lethe reveal`: who asks is who runs it, and the log is looked at by the same command."""

import getpass
import os
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lethe.cli.main import app
from lethe.config.keys import create_key_file, load_key
from lethe.config.params import load_params
from lethe.core.errors import VaultMismatch
from lethe.stores.opening import open_vault
from tests.conftest import make_workspace


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    make_workspace(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LETHE_KEY", raising=False)
    params = load_params()
    create_key_file(Path(params.stores.key_file))
    with open_vault(params, key=load_key(params.stores, params.root)) as vault:
        return int(vault.tokens(["ann-1"])[0])


def lethe(*words: str) -> Result:
    return CliRunner().invoke(app, ["reveal", *words])


def test_who_asks_is_who_runs_it_whatever_the_environment_says(
    token: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody.else")
    assert getpass.getuser() == "somebody.else"
    assert lethe(str(token), "--reason", "complaint of 3 May").stdout.strip() == "ann-1"
    log = lethe("--log").stdout
    assert f"uid {os.getuid()}" in log
    assert "somebody.else" not in log
    assert "complaint of 3 May" in log
    assert "ann-1" not in log


def test_what_was_typed_as_a_reason_sends_nothing_to_the_terminal(token: int) -> None:
    lethe(str(token), "--reason", "a\x1b[31mred\nline \u202e")
    (line,) = lethe("--log").stdout.splitlines()
    assert "\x1b" not in line
    assert "\u202e" not in line


def test_the_log_of_an_erased_person_says_when_and_who_alone(token: int) -> None:
    lethe(str(token), "--reason", "Ann of Exeter wrote")
    with open_vault(load_params()) as vault:
        vault.forget(["ann-1"])
    (line,) = lethe("--log").stdout.splitlines()
    assert line.endswith("erased")
    assert "Ann" not in line


@pytest.mark.parametrize(
    "words", [(), ("--reason", "x"), ("4711",), ("4711", "--reason", "x", "--log"), ("--log", "1")]
)
def test_half_a_question_is_none(token: int, words: tuple[str, ...]) -> None:
    assert lethe(*words).exit_code == 2


def test_a_log_that_was_cut_is_said(token: int) -> None:
    lethe(str(token), "--reason", "x")
    with sqlite3.connect(load_params().stores.vault.removeprefix("sqlite:///")) as database:
        database.execute("DELETE FROM vault_reveals")
    assert isinstance(lethe("--log").exception, VaultMismatch)
