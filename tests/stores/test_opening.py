"""A workspace's stores are its own: no copy begins anew unnoticed, no foreign store is taken."""

import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from lethe.cli.main import app
from lethe.config.home import IDENTITY, home, in_experiment
from lethe.config.identity import read_identity
from lethe.config.params import Params
from lethe.config.sections import Subject
from lethe.core.errors import LedgerInvalid, LetheError, NotFound, ParamsInvalid, VaultMismatch
from lethe.ledger.ledger import Ledger
from lethe.registration.spending import render_budget, spending
from lethe.stores import opening
from lethe.stores.opening import begin_anew, open_ledger, open_requests, open_vault
from lethe.stores.vault.vault import Vault
from tests import studio
from tests.asked import ask
from tests.library import declare
from tests.past_pipeline import commit, git
from tests.postgres import postgres_server, postgres_url, postgres_urls  # noqa: F401

KEY = b"k" * 32
TRAINED = """schema: '2.0'
stages:
  pseudonymize:
    cmd: lethe pseudonymize
    outs:
    - {path: data/subjects.roaring, md5: 0123456789abcdef0123456789abcdef}
  train:
    cmd: lethe train
    outs:
    - {path: model, md5: 0123456789abcdef0123456789abcdef.dir}
"""
STORES = {"ledger": "sqlite:///.lethe/ledger.db", "vault": "sqlite:///.lethe/vault.db"}


@pytest.fixture
def params() -> Params:
    return declare("csv:data", stores=STORES)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace in git in which nothing was opened yet."""
    place = tmp_path / "original"
    (place / ".dvc").mkdir(parents=True)
    (place / ".gitignore").write_text("/.lethe/\n/mlflow.db\n")
    git(place, "init", "--quiet", "--initial-branch=main")
    commit(place, "Nothing yet")
    monkeypatch.chdir(place)
    monkeypatch.setenv("LETHE_KEY", "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s")
    for name in ("DVC_EXP_BASELINE_REV", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    return place


@pytest.fixture
def used(root: Path, params: Params) -> Path:
    """The same after its first run, everything committed."""
    open_everything(params)
    (root / "dvc.lock").write_text(TRAINED)
    commit(root, "Trained")
    return root


def open_everything(params: Params) -> None:
    with open_vault(params), open_ledger(params), open_requests(params):
        pass


def test_the_first_opening_names_the_workspace_and_its_stores(
    root: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    open_everything(params)
    line = f"lethe: Wrote {IDENTITY}, which names this workspace. Commit it.\n"
    assert capsys.readouterr().err == line
    identity = (root / IDENTITY).read_text().strip()
    assert len(identity) == 32 and read_identity(Path()) == identity
    for name, stores in (("ledger", {"ledger", "vault"}), ("vault", {"vault"})):
        with sqlite3.connect(root / ".lethe" / f"{name}.db") as database:
            rows = database.execute("SELECT store, identity FROM workspace_identity").fetchall()
        assert dict(rows) == dict.fromkeys(stores, identity)
    before = (root / IDENTITY).stat().st_mtime_ns
    open_everything(params)
    assert (root / IDENTITY).stat().st_mtime_ns == before


def test_a_look_alone_names_nothing_and_makes_nothing(root: Path, params: Params) -> None:
    with pytest.raises(NotFound):
        open_ledger(params, create=False)
    with pytest.raises(NotFound):
        open_vault(params, create=False)
    assert not (root / IDENTITY).exists() and not (root / ".lethe").exists()


def test_a_clone_with_its_own_stores_is_refused_and_cannot_say_that_nobody_was_charged(
    used: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "clone", "--quiet", str(used), "clone")
    monkeypatch.chdir(tmp_path / "clone")
    for opened in (open_ledger, open_requests, open_vault):
        with pytest.raises(LedgerInvalid, match=r"point stores\.ledger and stores.vault at them"):
            opened(params)
    monkeypatch.delenv("LETHE_KEY")
    with pytest.raises(LedgerInvalid, match="cannot be known"):
        ask(spending, params)
    assert not Path(".lethe").exists()


def test_a_clone_that_reaches_the_shared_stores_works_on_them(
    used: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "clone", "--quiet", str(used), "clone")
    monkeypatch.chdir(tmp_path / "clone")
    shared = {name: f"sqlite:///{used}/.lethe/{name}.db" for name in STORES}
    params = declare("csv:data", stores=shared)
    open_everything(params)
    assert "Nobody has been charged in this workspace's ledger" in render_budget(
        ask(spending, params)
    )


def _no_identity(root: Path) -> None:
    git(root, "rm", "--quiet", IDENTITY)
    commit(root, "Without a name")


GONE: dict[str, Callable[[Path], object]] = {
    "its file was deleted": lambda root: None,
    "the identity went as well": lambda root: (root / IDENTITY).unlink(),
    "only a commit has the lock": lambda root: (
        (root / IDENTITY).unlink(),
        (root / "dvc.lock").unlink(),
    ),
    "the lock was removed in a commit": lambda root: (
        git(root, "rm", "--quiet", IDENTITY, "dvc.lock"),
        commit(root, "Away"),
    ),
}


@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("vault", [False, True], ids=["and the vault's", "the vault is there"])
def test_a_new_ledger_is_refused_where_there_was_one(
    used: Path, params: Params, gone: str, vault: bool
) -> None:
    GONE[gone](used)
    (used / ".lethe" / "ledger.db").unlink()
    if not vault:
        (used / ".lethe" / "vault.db").unlink()
    for create in (True, False):
        with pytest.raises(LedgerInvalid, match="it is not here"):
            open_ledger(params, create=create)
    with pytest.raises(LedgerInvalid, match="it is not here"):
        open_vault(params)
    assert not (used / ".lethe" / "ledger.db").exists(), "nothing was made"


def test_a_ledger_that_was_emptied_is_as_good_as_none(used: Path, params: Params) -> None:
    (used / ".lethe" / "ledger.db").write_bytes(b"")
    with pytest.raises(LedgerInvalid, match="it is not here"):
        open_ledger(params)


def test_a_registered_version_says_that_there_was_a_ledger(
    root: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_is_registered", lambda params: True)
    with pytest.raises(LedgerInvalid, match="it is not here"):
        open_ledger(params)


def test_a_new_vault_is_refused_where_there_was_one(used: Path, params: Params) -> None:
    (used / ".lethe" / "vault.db").unlink()
    with pytest.raises(VaultMismatch, match="has a vault, and it is not here"):
        open_vault(params)
    (used / "dvc.lock").unlink()  # the ledger alone says so
    git(used, "update-ref", "-d", "HEAD")
    with pytest.raises(VaultMismatch, match="has a vault, and it is not here"):
        open_vault(params)


@pytest.fixture
def other(used: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another workspace, with stores of its own."""
    place = tmp_path / "other"
    place.mkdir()
    with monkeypatch.context() as there:
        there.chdir(place)
        open_everything(params)
    return place


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize(("store", "error"), [("ledger", LedgerInvalid), ("vault", VaultMismatch)])
def test_another_workspaces_store_is_refused(
    used: Path, other: Path, params: Params, store: str, error: type[LetheError], create: bool
) -> None:
    shutil.copy(other / ".lethe" / f"{store}.db", used / ".lethe" / f"{store}.db")
    opened: Callable[..., Any] = open_ledger if store == "ledger" else open_vault
    with pytest.raises(error, match="belongs to another workspace"):
        opened(params, create=create)
    if store == "ledger":
        with pytest.raises(error, match="belongs to another workspace"):
            open_requests(params)


@pytest.mark.parametrize(("store", "error"), [("ledger", LedgerInvalid), ("vault", VaultMismatch)])
def test_a_copy_from_before_the_identity_is_refused(
    used: Path, params: Params, store: str, error: type[LetheError]
) -> None:
    _forget_names(used, store)
    with pytest.raises(error, match="older copy, or another's"):
        open_vault(params)


def _forget_names(root: Path, *stores: str) -> None:
    for store in stores:
        with sqlite3.connect(root / ".lethe" / f"{store}.db") as database:
            database.execute("DROP TABLE workspace_identity")


def test_a_workspace_of_the_version_before_is_adopted_once_with_one_line(
    used: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    _forget_names(used, "ledger", "vault")
    (used / IDENTITY).unlink()
    with open_vault(params, create=False), open_ledger(params, create=False):
        assert not (used / IDENTITY).exists(), "a look adopts nothing"
    capsys.readouterr()
    open_everything(params)
    open_everything(params)
    line = f"lethe: Wrote {IDENTITY}, which says whose stores these are. Commit it.\n"
    assert capsys.readouterr().err == line
    assert read_identity(Path())


def test_the_newest_that_is_left_can_be_taken_as_it_is(used: Path, params: Params) -> None:
    named = read_identity(Path())
    _forget_names(used, "ledger")
    (used / IDENTITY).unlink()
    open_everything(params)
    assert read_identity(Path()) == named, "the vault knew"


@pytest.mark.parametrize("step", ["open_engine", "_claim", "write_identity", "Vault.open"])
@pytest.mark.parametrize("times", [1, 2])
def test_an_end_at_any_step_is_only_continued(
    root: Path, params: Params, monkeypatch: pytest.MonkeyPatch, step: str, times: int
) -> None:
    class Killed(BaseException):
        pass

    place, _, name = f"opening.{step}".rpartition(".")
    target: Any = {"opening": opening, "opening.Vault": Vault}[place]
    real, calls = getattr(target, name), []

    def dies(*words: Any, **options: Any) -> Any:
        made = real(*words, **options)
        calls.append(1)
        if len(calls) >= times:
            raise Killed
        return made

    with monkeypatch.context() as killing:
        killing.setattr(target, name, dies)
        for attempt in (open_vault, open_ledger):
            with suppress(Killed), attempt(params):
                pass
    open_everything(params)
    identity = read_identity(Path())
    with sqlite3.connect(root / ".lethe" / "ledger.db") as database:
        rows = database.execute("SELECT DISTINCT identity FROM workspace_identity").fetchall()
    assert rows == [(identity,)]


def test_a_new_identity_is_given_knowingly_and_only_to_empty_stores(
    used: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = read_identity(Path())
    git(tmp_path, "clone", "--quiet", str(used), "clone")
    monkeypatch.chdir(tmp_path / "clone")
    begin_anew(params)
    assert read_identity(Path()) not in (None, named)
    open_everything(params)
    with open_vault(params) as vault:
        vault.tokens(["ada"])
    with pytest.raises(VaultMismatch, match="knows people already"):
        begin_anew(params)
    monkeypatch.chdir(used)
    with Ledger.open(params.stores.ledger) as ledger:
        ledger.remember(b"x", 1)
        monkeypatch.setattr(Ledger, "head", lambda self: (3, ""))
    with pytest.raises(LedgerInvalid, match="3 entries"):
        begin_anew(params)
    assert read_identity(Path()) == named


def test_the_command_begins_a_workspace_of_its_own_and_never_over_somebodys(
    used: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lethe.cli.keys.load_params", lambda path: params)
    named = read_identity(Path())
    git(tmp_path, "clone", "--quiet", str(used), "clone")
    monkeypatch.chdir(tmp_path / "clone")
    refused = CliRunner().invoke(app, ["key"])
    assert "is left to the first run: " in refused.output or refused.exception is not None
    assert read_identity(Path()) == named
    done = CliRunner().invoke(app, ["key", "--new-identity"])
    assert done.exit_code == 0, done.output
    assert f"Wrote a new {IDENTITY}: nobody has been charged in this workspace." in done.output
    assert read_identity(Path()) not in (None, named)
    open_everything(params)
    with open_vault(params) as vault:
        vault.tokens(["ada"])
    again = CliRunner().invoke(app, ["key", "--new-identity"])
    assert isinstance(again.exception, VaultMismatch)


def test_stores_on_postgresql_carry_the_identity_and_take_no_other(
    root: Path,
    postgres_urls: Callable[[], str],  # noqa: F811
) -> None:
    stores = {name: postgres_urls().replace("://", "+psycopg://") for name in STORES}
    params = declare("csv:data", stores=stores)
    open_everything(params)
    identity = read_identity(Path())
    assert identity is not None
    for name, carried in (("ledger", {"ledger", "vault"}), ("vault", {"vault"})):
        with psycopg.connect(stores[name].replace("+psycopg", "")) as database:
            rows = database.execute("SELECT store, identity FROM workspace_identity").fetchall()
        assert dict(rows) == dict.fromkeys(carried, identity)
    open_everything(params)
    (root / IDENTITY).write_text("0" * 32 + "\n")
    for opened in (open_ledger, open_requests, open_vault):
        with pytest.raises(LedgerInvalid, match="belongs to another workspace"):
            opened(params)
    (root / IDENTITY).write_text(identity + "\n")
    foreign = declare("csv:data", stores=stores | {"vault": postgres_urls()})
    with pytest.raises(VaultMismatch, match="and it is not here"):
        open_vault(foreign)
    empty = declare("csv:data", stores=stores | {"ledger": postgres_urls()})
    with pytest.raises(LedgerInvalid, match="it is not here: what people spent cannot be known"):
        open_ledger(empty)


def test_two_that_begin_at_once_on_postgresql_agree_on_one_identity(
    root: Path,
    postgres_url: str,  # noqa: F811
) -> None:
    url = postgres_url.replace("://", "+psycopg://")
    with ThreadPoolExecutor(4) as threads:
        claimed = list(threads.map(lambda n: opening._claim(url, "ledger", f"{n:032x}"), range(4)))
    assert len(set(claimed)) == 1


def test_a_damaged_identity_is_named(used: Path, params: Params) -> None:
    (used / IDENTITY).write_text("not one\n")
    with pytest.raises(ParamsInvalid, match=r"git restore lethe\.id"):
        open_ledger(params)


# ------------------------------------------------------------------ copies of a known workspace


def test_a_linked_worktree_uses_the_stores_of_the_main_one(
    used: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(used, "worktree", "add", "--quiet", "--detach", str(tmp_path / "linked"))
    monkeypatch.chdir(tmp_path / "linked")
    assert home(Path()) == used
    open_everything(params)
    assert not Path(".lethe").exists()
    Path(IDENTITY).write_text("0" * 32)  # a branch that began anew
    assert home(Path()) == tmp_path / "linked"
    with pytest.raises(LedgerInvalid, match="it is not here"):
        open_ledger(params)


def test_a_linked_worktree_of_a_commit_before_the_identity_is_still_homes(
    used: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(used, "worktree", "add", "--quiet", "--detach", str(tmp_path / "linked"), "HEAD~1")
    monkeypatch.chdir(tmp_path / "linked")
    assert not Path(IDENTITY).exists() and home(Path()) == used
    open_everything(params)
    assert not Path(".lethe").exists()


@pytest.mark.parametrize("below", ["", "clinic"])
@pytest.mark.parametrize("folder", ["standalone/tmpa", "tmpb"])
def test_an_experiments_folder_uses_the_stores_of_its_workspace(
    used: Path, params: Params, monkeypatch: pytest.MonkeyPatch, folder: str, below: str
) -> None:
    copy = used / ".dvc/tmp/exps" / folder / below
    copy.mkdir(parents=True)
    assert not in_experiment(Path())
    monkeypatch.chdir(copy)
    assert in_experiment(Path()) and home(Path()) == used
    open_everything(params)
    assert list(Path().iterdir()) == []


def test_an_experiment_in_the_workspace_is_known_by_what_dvc_gives_its_stages(
    used: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not in_experiment(Path())
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "0" * 40)
    assert in_experiment(Path()) and home(Path()) == used


def test_no_other_module_opens_a_store_without_asking_whose_it_is() -> None:
    source = Path(opening.__file__).parents[1]
    words = r"\b(Ledger|Vault|Requests)\.open\("
    found = subprocess.run(
        ["grep", "-rnE", words, str(source), "--include=*.py"], capture_output=True, text=True
    ).stdout.splitlines()
    outside = [
        line
        for line in found
        if "stores/opening.py" not in line
        and "Opens by" not in line
        and 'open("sqlite://")' not in line
    ]
    assert outside == []


def test_a_key_of_several_columns_keeps_its_columns_and_their_order(root: Path) -> None:
    """In another order the same texts would be other people, with what those have spent."""
    first = studio.declare("csv:data")
    second = studio.declare("csv:data", key=("number", "studio"))
    alone = replace(
        first,
        subject=Subject(table="members", key="number"),
        consent=replace(first.consent, subject="number"),
    )
    with open_vault(first) as vault:
        vault.tokens(['("1","2")'])
    for other in (second, alone):
        for create in (True, False):
            with pytest.raises(VaultMismatch, match=r"subject\.key \(.*number.*\) is not the one"):
                open_vault(other, create=create)
    with open_vault(first) as vault:
        assert vault.lookup(['("1","2")'])[0] >= 0


def test_people_of_one_column_do_not_become_people_of_several(root: Path, params: Params) -> None:
    with open_vault(params) as vault:
        vault.tokens(["1"])
    with sqlite3.connect(root / ".lethe" / "vault.db") as database:
        noted = database.execute("SELECT store FROM workspace_identity").fetchall()
    database.close()
    assert noted == [("vault",)]  # of a key of one column nothing is noted
    with pytest.raises(VaultMismatch, match="is not the one"):
        open_vault(studio.declare("csv:data"))
    with open_vault(params) as vault:
        assert vault.lookup(["1"])[0] >= 0


def test_an_empty_vault_is_anybodys(root: Path, params: Params) -> None:
    open_vault(params).close()
    open_vault(studio.declare("csv:data")).close()
    with pytest.raises(VaultMismatch, match="is not the one"):
        open_vault(params)
