"""What tests share: a workspace of its own, with a small invented clinic in it."""

import copy
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from lethe.config.params import load_params
from lethe.stages import behaviour
from tests.past_pipeline import past, past_template  # noqa: F401
from tests.released_home import released, released_template  # noqa: F401
from tests.shared import for_all_workers, made_once
from tests.warm import BIN as BIN
from tests.warm import tables, warm_environment

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def registry_tables(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where tests of this process have imported MLflow, its tables are made once for all."""
    if "mlflow" in sys.modules:
        tables.install(for_all_workers(tmp_path_factory) / "registry-tables.db")


@pytest.fixture(scope="session")
def import_path() -> tuple[str, ...]:
    """Where modules are looked for before any test has run."""
    return tuple(sys.path)


_MLFLOWS = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID")


@pytest.fixture(autouse=True)
def nothing_left_behind(import_path: tuple[str, ...]) -> Iterator[None]:
    """Libraries change the process that uses them; each test ends with what all began with.

    MLflow puts the code of a model that it loads first on the path, and leaves it there: a process
    that a later test starts would import that part of `lethe` in place of the whole. It also writes
    the experiment that was used last into the environment.
    """
    hook = sys.excepthook  # PyTorch's processes leave one of theirs
    before = {name: os.environ.get(name) for name in _MLFLOWS}
    yield
    sys.path[:] = import_path
    sys.excepthook = hook
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@dataclass(frozen=True)
class Workspace:
    """A folder as a user has it: declarations, the pipeline, the code, and git."""

    root: Path

    def lethe(
        self, *words: str, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return self.run("lethe", *words, check=check, **environment)

    def run(
        self, *words: str, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        given = self.environment() | environment
        words = (str(shutil.which(words[0], path=given["PATH"])), *words[1:])
        done = subprocess.run(
            words,
            cwd=self.root,
            env=given,
            capture_output=True,
            text=True,
            timeout=600,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{words} ended with {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def environment(self) -> dict[str, str]:
        """Of a command in it; `lethe`, `dvc` and `python` are forks, as `tests.warm` says."""
        return warm_environment()

    def params(self) -> dict[str, Any]:
        loaded: dict[str, Any] = YAML(typ="safe", pure=True).load(
            (self.root / "params.yaml").read_text()
        )
        return loaded

    def edit_params(self, edit: Callable[[dict[str, Any]], object]) -> None:
        raw = copy.deepcopy(self.params())
        edit(raw)
        writer = YAML()
        with (self.root / "params.yaml").open("w") as file:
            writer.dump(raw, file)

    def compile(self) -> None:
        """What `lethe compile` writes for the stages, without a process."""
        with chdir(self.root):
            behaviour.write(load_params())


def _small(raw: dict[str, Any]) -> None:
    """A clinic that trains in seconds: the same pipeline, less of everything."""
    raw["subject"]["minimum"] = 50
    raw["shards"] = 4
    raw["training"]["mechanism"].update(expected_subjects=1000, sample_rate=0.1, steps=20)
    raw["audit"].update(subjects=400, replays=2)
    raw["registration"]["min_auc"] = 0.0


def make_workspace(root: Path) -> Workspace:
    """A git repository with the project's pipeline in it, and small declarations."""
    root.mkdir(parents=True, exist_ok=True)
    for name in ("params.yaml", "dvc.yaml", ".gitignore", ".dvcignore"):
        if (PROJECT / name).exists():
            shutil.copy(PROJECT / name, root / name)
    (root / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(PROJECT / ".dvc" / name, root / ".dvc" / name)
    shutil.copytree(PROJECT / ".dvc" / "plots", root / ".dvc" / "plots")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT / "pipeline", root / "pipeline", ignore=ignore)
    made = Workspace(root)
    made.edit_params(_small)
    made.compile()
    made.run("git", "init", "--quiet", "--initial-branch=main")
    made.run("git", "add", "--all")
    made.run(
        *("git", "-c", "user.name=test", "-c", "user.email=test@example.org"),
        *("commit", "--quiet", "--message", "A workspace"),
    )
    return made


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace, no source in it yet."""
    return make_workspace(tmp_path / "workspace")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace whose pipeline was run once; tests may look, not change."""

    def make(folder: Path) -> None:
        made = make_workspace(folder / "workspace")
        made.lethe("key")
        made.lethe("sample", "--patients", "1500")
        made.lethe("run")

    return Workspace(made_once(tmp_path_factory, "finished", make) / "workspace")


@pytest.fixture
def finished_copy(finished: Workspace, tmp_path: Path) -> Workspace:
    """A copy of it that a test may change."""
    return copy_workspace(finished, tmp_path / "copy")


_PLACES = (  # where MLflow keeps the places of artifacts, as absolute paths
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def copy_workspace(made: Workspace, root: Path) -> Workspace:
    """A copy with artifacts of its own: what a test retires there stays in the original."""
    shutil.copytree(made.root, root, symlinks=True)
    with sqlite3.connect(root / "mlflow.db") as registry:
        for table, column in _PLACES:
            registry.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                (str(made.root), str(root)),
            )
        assert str(made.root) not in "\n".join(registry.iterdump())
    registry.close()
    return Workspace(root)
