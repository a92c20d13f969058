"""A workspace that has released a first version, and what a run made that is to be the second."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from lethe.stores.dvc.git import parse_lock
from lethe.stores.dvc.outputs import uncached_files
from tests.past_pipeline import ADA, BO, CLEO, commit, dvc, git, make_pipeline, people, run_pipeline
from tests.shared import made_once


@dataclass(frozen=True)
class Home:
    """`second` is a run's `dvc.lock` and reports by path; `half` likewise, before `register`."""

    root: Path
    second: dict[str, bytes]
    half: dict[str, bytes]


def made(root: Path) -> dict[str, bytes]:
    """The lock that lies in a folder, and the reports that it names."""
    lock = (root / "dvc.lock").read_bytes()
    return {"dvc.lock": lock, **uncached_files(root, parse_lock(lock))}


@pytest.fixture(scope="session")
def released_template(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = made_once(tmp_path_factory, "released", _release)
    kept = {name: _files(folder / name) for name in ("second", "half")}
    return Home(folder / "home", **kept)


def _files(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def _release(folder: Path) -> None:
    root = make_pipeline(folder / "home", registers=True)
    (root / "version").write_text("1")
    (root / "README.md").write_text("The ward.\n")
    people(root, ADA, BO)
    run_pipeline(root)
    commit(root, "First")
    first = made(root)
    (root / "version").write_text("2")
    people(root, ADA, BO, CLEO)
    run_pipeline(root, "train")
    half = made(root)
    run_pipeline(root)
    second = made(root)
    dvc(root, "push", "--quiet")
    git(root, "checkout", "--quiet", "--", ".")
    for path, content in first.items():
        (root / path).write_bytes(content)
    dvc(root, "checkout", "--quiet")
    for name, files in {"second": second, "half": half}.items():
        for path, content in files.items():
            target = folder / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


@pytest.fixture
def released(released_template: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy that a test may change; git knows no name of whoever runs the tests."""
    for level in ("GLOBAL", "SYSTEM"):
        monkeypatch.setenv(f"GIT_CONFIG_{level}", "/dev/null")
    root = tmp_path / "home"
    shutil.copytree(released_template.root, root, symlinks=True)
    return Home(root, released_template.second, released_template.half)
