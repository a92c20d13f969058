"""A child process that needs no key is given none."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lethe.config.params import parse_params
from lethe.core.children import drop_keys, environment_without_keys
from lethe.stores.dvc.git import git, git_objects
from lethe.stores.dvc.repro import History
from lethe.training.wire import started
from tests import trained_run

SOURCES = sorted((Path(__file__).parents[2] / "pipeline" / "lethe").rglob("*.py"))
KEYS = {
    "LETHE_KEY": "master",
    "LETHE_RECEIPT_KEY": "receipts",
    "LETHE_LEDGER_URL": "postgresql://ledger:word@host/ledger",
    "LETHE_NOTIFY_WEBHOOK": "token",
    "CLINIC_DATABASE": "postgresql://reader:word@host/clinic",
}


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LETHE_HOME", "/here")
    raw = trained_run.raw()
    raw["source"]["url"] = "env:CLINIC_DATABASE"
    parse_params(raw)


def test_keys_and_declared_addresses_stay_and_everything_else_goes_along(keys: None) -> None:
    made = environment_without_keys()
    assert not KEYS.keys() & made.keys()
    assert made == {name: value for name, value in os.environ.items() if name not in KEYS}
    assert made["LETHE_HOME"] == "/here"


def _ask(root: Path) -> object:
    return git(root, "status", more={"MORE": "1"})


def _objects(root: Path) -> object:
    return list(git_objects(root))


def _state(root: Path) -> object:
    return History(root).git_state()


@pytest.mark.parametrize("ask", [_ask, _objects, _state])
def test_git_and_its_hooks_see_no_key(
    keys: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Path], object]
) -> None:
    fake = tmp_path / "git"
    fake.write_text(f"#!/bin/sh\nenv >> {tmp_path / 'seen'}\n")
    fake.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    ask(tmp_path)
    seen = (tmp_path / "seen").read_text()
    assert "PATH=" in seen
    assert [value for value in KEYS.values() if value in seen] == []


def test_the_helpers_of_a_training_see_no_key(
    keys: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = "import os, pathlib; pathlib.Path('seen').write_text(repr(dict(os.environ)))"
    with started(2, [sys.executable, "-c", message], Path()):
        pass
    seen = Path("seen").read_text()
    assert "WORLD_SIZE" in seen
    assert [value for value in KEYS.values() if value in seen] == []


def test_a_pool_of_workers_forgets_them(keys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    drop_keys()
    assert not KEYS.keys() & os.environ.keys()


def test_every_child_of_the_product_is_started_so() -> None:
    """Only what runs the stages, which need the keys, hands them on."""
    found = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in _STARTERS:
                words = {each.arg: ast.unparse(each.value) for each in node.keywords}
                chosen = words.get("env", words.get("initializer", "inherited"))
                found[f"{path.name}:{node.lineno}"] = chosen
    handed = {place: env for place, env in found.items() if not _without(env)}
    assert list(handed.values()) == ["_environment()"], handed


_STARTERS = {
    *(f"subprocess.{name}" for name in ("run", "Popen", "call", "check_call", "check_output")),
    *("ProcessPoolExecutor", "os.system", "os.popen", "os.execve", "os.execv", "Process"),
}


def _without(env: str) -> bool:
    return "environment_without_keys()" in env or env in ("words", "drop_keys")


def test_subprocess_is_called_by_its_name_only() -> None:
    assert subprocess.run.__module__ == "subprocess"
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert "from subprocess import" not in text, path
