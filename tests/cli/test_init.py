"""`lethe init`: from nothing to a workspace that says what to decide next."""

import sqlite3
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lethe.cli.main import app
from lethe.core.errors import ParamsInvalid
from lethe.stages import behaviour
from lethe.stores.source.connect import has_secret
from tests.conftest import PROJECT

TEMPLATE = PROJECT / "pipeline/lethe/stores/dvc/template"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    with sqlite3.connect("x.db") as connection:
        connection.execute("CREATE TABLE people (id INTEGER PRIMARY KEY, email TEXT)")
        connection.execute("INSERT INTO people VALUES (1, 'zoe@example.org')")
    connection.close()
    return tmp_path


def lethe(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_from_an_empty_folder_to_the_first_decision(here: Path) -> None:
    said = lethe("init", "sqlite:///x.db")
    assert "zoe" not in said + (here / "params.yaml").read_text()
    assert "1 tables, 2 columns" in said
    assert "Decide next, in params.yaml: purpose (line 5)" in said
    for name in (".git", ".dvc/config", ".dvcignore", ".gitignore", "dvc.yaml", "behaviour.json"):
        assert (here / name).exists(), name
    assert "/x.db*" in (here / ".gitignore").read_text().splitlines(), "people's data is not code"
    with pytest.raises(ParamsInvalid, match="line 5: decide purpose"):
        lethe("check")


@pytest.mark.parametrize(
    "name", ["a[1].db", "*.db", "#x.db", "!x.db", "x\\y.db", "x.db ", " x.db", "é ü.db"]
)
def test_git_never_keeps_the_sources_file(here: Path, name: str) -> None:
    (here / "x.db").rename(here / name)
    lethe("init", name)
    subprocess.run(["git", "add", "-A"], cwd=here, check=True)
    kept = subprocess.run(["git", "ls-files", "-z"], cwd=here, check=True, capture_output=True)
    assert name.encode() not in kept.stdout.split(b"\0")


@pytest.mark.parametrize("folder", [".", "a[1]", "files*", "#f", "f "])
def test_git_never_keeps_the_sources_folder(here: Path, folder: str) -> None:
    (here / folder).mkdir(exist_ok=True)
    (here / folder / "people.csv").write_text("id,email\n1,zoe@example.org\n")
    lethe("init", f"csv:{folder}")
    subprocess.run(["git", "add", "-A"], cwd=here, check=True)
    kept = subprocess.run(["git", "ls-files", "-z"], cwd=here, check=True, capture_output=True)
    assert b"people.csv" not in kept.stdout


def test_a_file_that_git_would_keep_is_no_source(here: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=here, check=True)
    subprocess.run(["git", "add", "x.db"], cwd=here, check=True)
    with pytest.raises(ParamsInvalid, match=r"git does not leave out x\.db"):
        lethe("init", "x.db")
    assert not (here / "params.yaml").exists()
    subprocess.run(["git", "rm", "-q", "--cached", "x.db"], cwd=here, check=True)
    lethe("init", "x.db")
    assert (here / "params.yaml").exists()


def test_what_is_not_ignored_for_any_reason_is_refused(here: Path) -> None:
    (here / ".gitignore").write_text("/x.db*\n!x.db\n")
    with pytest.raises(ParamsInvalid, match=r"git does not leave out x\.db"):
        lethe("init", "x.db")
    assert not (here / "params.yaml").exists()


def test_the_users_own_files_are_kept(here: Path) -> None:
    (here / "behaviour.json").write_text("mine")
    with pytest.raises(ParamsInvalid, match=r"behaviour\.json is there already"):
        lethe("init", "x.db")
    assert (here / "behaviour.json").read_text() == "mine"
    assert not (here / ".git").exists()


def test_a_gitignore_of_any_encoding_is_kept(here: Path) -> None:
    own = "caf\xe9\r\n/mine".encode("latin-1")
    (here / ".gitignore").write_bytes(own)
    lethe("init", "x.db")
    content = (here / ".gitignore").read_bytes()
    assert content.startswith(own + b"\n")
    assert b"/x.db*" in content.splitlines()


def test_a_gitignore_that_is_no_file_is_refused_before_anything_is_written(here: Path) -> None:
    (here / ".gitignore").mkdir()
    with pytest.raises(ParamsInvalid, match=r"\.gitignore is no file"):
        lethe("init", "x.db")
    assert not (here / ".git").exists() and not (here / "dvc.yaml").exists()


@pytest.mark.parametrize("writes", range(7))
def test_an_init_that_was_killed_can_be_run_again(
    here: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    from lethe.core import files

    left, replace = [writes], Path.replace

    def killed(self: Path, target: Path) -> Path:
        if self.name.startswith("."):  # of `write_whole`
            left[0] -= 1
            if left[0] < 0:
                raise RuntimeError("killed")
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(files.Path, "replace", killed)
        with pytest.raises(RuntimeError, match="killed"):
            lethe("init", "x.db")
    assert not (here / "params.yaml").exists()
    lethe("init", "x.db")
    assert (here / "params.yaml").exists()


def test_names_only_reads_no_row(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lethe.stores.source.files import FolderCopy

    (here / "files").mkdir()
    (here / "files" / "people.csv").write_text("id,email\n1,zoe@example.org\n")
    monkeypatch.setattr(FolderCopy, "_chunks", lambda *_: pytest.fail("a row was read"))
    assert "no row was read" in lethe("init", "files", "--names-only", "--header")


@pytest.mark.parametrize(
    "address",
    [
        "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BUID%3Du%3BPWD%3Dhunter2",
        "mysql+pymysql://u@h/d?pwd=hunter2",
        "postgresql://u@h/d?options=-cpassword%3Dhunter2",
        "postgresql://u@h/d?PASSWORD=hunter2",
        "oracle://u@h/d?wallet=hunter2",
        "postgresql://u:hunter2@h/d",
    ],
)
def test_an_address_that_may_have_a_secret_has_one(address: str) -> None:
    assert has_secret(address)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://u@h/d?sslmode=verify-full&connect_timeout=5",
        "mysql+pymysql://u@h/d?charset=utf8mb4",
        "sqlite:///x.db",
        "csv:files",
    ],
)
def test_an_address_of_harmless_words_stands_in_the_file(address: str) -> None:
    assert not has_secret(address)


def test_the_code_of_a_new_workspace_is_the_code_that_runs(here: Path) -> None:
    lethe("init", "x.db")
    (here / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    from lethe.config.params import load_params

    behaviour.refuse_changed(load_params())


def test_a_workspace_and_another_pipeline_are_kept(here: Path) -> None:
    (here / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(ParamsInvalid, match=r"dvc\.yaml is there already"):
        lethe("init", "x.db")
    (here / "params.yaml").write_text("mine\n")
    with pytest.raises(ParamsInvalid, match=r"params\.yaml is there already"):
        lethe("init", "x.db")
    assert (here / "params.yaml").read_text() == "mine\n"
    assert not (here / ".git").exists()


@pytest.mark.parametrize("command", ["run", "check", "minimize", "budget", "key", "retain"])
def test_outside_a_workspace_a_command_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsInvalid, match="Change into one, make one here with `lethe init"):
        lethe(command)


def test_a_password_stays_out_of_the_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lethe.stores.source import survey

    found = survey.survey(f"sqlite:///{here / 'x.db'}", root=here)
    monkeypatch.setattr(survey, "survey", lambda *_, **__: found)
    said = lethe("init", "postgresql://reader:hunter2@db.example.org/clinic")
    text = (here / "params.yaml").read_text()
    assert "hunter2" not in text + said
    assert 'url: "env:LETHE_SOURCE_URL"' in text
    assert "export it" in said


def test_people_that_are_no_table_are_refused(here: Path) -> None:
    with pytest.raises(ParamsInvalid, match="it has people"):
        lethe("init", "x.db", "--people", "peple")
    assert not (here / "params.yaml").exists()


def test_the_pipeline_of_a_new_workspace_is_the_projects() -> None:
    for name, template in (
        ("dvc.yaml", "pipeline.yaml"),
        (".dvcignore", "dvcignore"),
        (".dvc/config", "config"),
        (".dvc/.gitignore", "dvc-gitignore"),
        (".dvc/plots/page.html", "plots.html"),
    ):
        same = (PROJECT / name).read_bytes() == (TEMPLATE / template).read_bytes()
        assert same, f"copy {name} to {TEMPLATE.relative_to(PROJECT) / template}"
    ignored = set((PROJECT / ".gitignore").read_text().splitlines())
    assert set((TEMPLATE / "gitignore").read_text().splitlines()) <= ignored
