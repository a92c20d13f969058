"""What a cache or a remote gives is compared with dvc.lock before a stage loads it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from lethe.config import workspace
from lethe.config.params import load_params
from lethe.core.errors import FileDamaged, NotFound
from lethe.core.files import md5
from lethe.stages import run_stage
from lethe.stores.dvc.inputs import content_md5, unverified_remotes, verify_inputs
from tests.conftest import PROJECT
from tests.past_pipeline import dvc

_MAKE = (
    "import pathlib as p; p.Path('model').mkdir(exist_ok=True); "
    "p.Path('model/model.json').write_text('made'); p.Path('model/weights').write_text('1 2'); "
    "p.Path('data/plan.json').write_text('the plan'); p.Path('reports/train.json').write_text('r')"
)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of one stage that DVC ran, with its remote."""
    root = tmp_path_factory.mktemp("trained") / "here"
    for folder in (".dvc", "data", "reports"):
        (root / folder).mkdir(parents=True)
    for name in (".dvc/config", "params.yaml"):
        shutil.copyfile(PROJECT / name, root / name)
    (root / "make.py").write_text(_MAKE)
    stages = {
        "train": {
            "cmd": f"{sys.executable} make.py",
            "outs": ["data/plan.json", "model"],
            "metrics": [{"reports/train.json": {"cache": False}}],
        },
        "audit": {"cmd": "false", "deps": ["data/plan.json", "model", "reports/train.json"]},
    }
    with (root / "dvc.yaml").open("w") as file:
        YAML().dump({"stages": stages}, file)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    dvc(root, "repro", "train")
    dvc(root, "push")
    return root


@pytest.fixture
def here(trained_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained_once, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def _named(root: Path, path: str) -> str:
    lock = YAML(typ="safe").load((root / "dvc.lock").read_text())
    return next(o["md5"] for o in lock["stages"]["train"]["outs"] if o["path"] == path)


def _swap(store: Path, name: str, content: str) -> None:
    path = store / "files" / "md5" / name[:2] / name[2:]
    path.chmod(0o644)
    path.write_text(content)
    path.chmod(0o444)  # DVC hashes again what could be written to, and only that


def _pull_afresh(root: Path) -> None:
    """As a colleague has it who clones and pulls; their remote is not set to verify."""
    config = root / ".dvc" / "config"
    config.write_text(config.read_text().replace("verify = true", "verify = false"))
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(root / ".dvc" / "tmp", ignore_errors=True)
    shutil.rmtree(root / "model")
    (root / "data" / "plan.json").unlink()
    dvc(root, "pull", "train")


def test_what_was_made_here_or_pulled_as_it_was_passes(here: Path) -> None:
    verify_inputs(here, "audit")
    _pull_afresh(here)
    verify_inputs(here, "audit")


def test_dvc_has_the_same_names_for_files_and_folders(here: Path) -> None:
    for path in ("model", "data/plan.json"):
        assert content_md5(here / path) == _named(here, path)


def test_an_object_that_was_replaced_in_the_remote_before_a_plain_pull_is_refused(
    here: Path,
) -> None:
    _swap(here / "remote", _named(here, "data/plan.json"), "less noise")
    _pull_afresh(here)
    assert (here / "data" / "plan.json").read_text() == "less noise"  # DVC says nothing
    with pytest.raises(FileDamaged, match=r"data/plan\.json is not what dvc\.lock names"):
        verify_inputs(here, "audit")


def test_a_listing_in_the_remote_that_names_another_file_is_refused(here: Path) -> None:
    store = here / "remote"
    planted = md5(b"planted")
    (store / "files" / "md5" / planted[:2]).mkdir(parents=True, exist_ok=True)
    (store / "files" / "md5" / planted[:2] / planted[2:]).write_bytes(b"planted")
    name = _named(here, "model")
    listing = here / ".dvc" / "cache" / "files" / "md5" / name[:2] / name[2:]
    entries = json.loads(listing.read_text())
    entries[0]["md5"] = planted
    _swap(store, name, json.dumps(entries))
    _pull_afresh(here)
    assert b"planted" in [path.read_bytes() for path in (here / "model").iterdir()]
    with pytest.raises(FileDamaged, match=r"model is not what dvc\.lock names"):
        verify_inputs(here, "audit")


def test_weights_that_were_swapped_in_the_cache_are_refused(here: Path) -> None:
    _swap(here / ".dvc" / "cache", md5(b"1 2"), "3 4")
    shutil.rmtree(here / "model")
    shutil.rmtree(here / ".dvc" / "tmp")
    dvc(here, "checkout", "--force", "train")
    assert (here / "model" / "weights").read_text() == "3 4"
    with pytest.raises(FileDamaged, match=r"model is not what dvc\.lock names"):
        verify_inputs(here, "audit")


@pytest.mark.parametrize("change", ["edited", "added", "removed"])
def test_a_folder_with_other_files_is_refused(here: Path, change: str) -> None:
    path = here / "model" / "model.json"
    path.unlink()
    if change != "removed":
        path.write_text("made" if change == "added" else "other")
    if change == "added":
        (here / "model" / "more.json").write_text("{}")
    with pytest.raises(FileDamaged, match=r"model is not what dvc\.lock names"):
        verify_inputs(here, "audit")


def test_with_verify_as_committed_dvc_itself_refuses_to_pull_it(here: Path) -> None:
    _swap(here / "remote", _named(here, "data/plan.json"), "less noise")
    shutil.rmtree(here / ".dvc" / "cache")
    shutil.rmtree(here / ".dvc" / "tmp", ignore_errors=True)
    (here / "data" / "plan.json").unlink()
    with pytest.raises(AssertionError):
        dvc(here, "pull", "train")
    assert not (here / "data" / "plan.json").exists()


def test_reports_and_the_inputs_of_other_stages_are_not_looked_at(here: Path) -> None:
    (here / "reports" / "train.json").write_text("rewritten by hand")
    verify_inputs(here, "audit")
    (here / "data" / "plan.json").write_text("x")
    verify_inputs(here, "train")
    (here / "data" / "plan.json").unlink()
    verify_inputs(here, "audit")  # the stage says that it is not there
    (here / "dvc.lock").unlink()
    verify_inputs(here, "audit")


def test_every_stage_runs_behind_that_look(here: Path) -> None:
    """`run_stage` is what the commands call; nothing of the stage has begun."""
    params = load_params()
    (here / "data" / "plan.json").write_text("x")
    with pytest.raises(FileDamaged):
        run_stage("audit", params, now=None)  # type: ignore[arg-type]
    (here / "data" / "plan.json").write_text("the plan")
    with pytest.raises(NotFound):
        run_stage("audit", params, now=None)  # type: ignore[arg-type]
    assert not workspace.report_path("audit").exists()


def test_a_remote_that_is_taken_at_its_word_is_named(here: Path) -> None:
    assert unverified_remotes(here) == []
    dvc(here, "remote", "add", "bucket", "s3://somewhere")
    assert unverified_remotes(here) == ["bucket"]
    assert unverified_remotes(here.parent) == []
