"""Registrations in one process: two at once do not mix, and MLflow's own settings stay as set."""

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.tracking._model_registry import utils as registry_utils
from mlflow.tracking._tracking_service import utils as tracking_utils

from lethe.core.errors import NotFound
from lethe.stores.registry.registry import NewVersion, Registry
from lethe.stores.registry.tags import RUN_ID
from tests.stores.registry.test_registry import here, prepared, release

__all__ = ["here", "prepared", "release"]


def _workspaces(release: NewVersion, here: Path) -> dict[str, NewVersion]:
    """URL → what is to be registered there, of two workspaces in one process."""
    made = {}
    for name in ("one", "other"):
        root = here.parent / name
        shutil.copytree(here, root)
        made[f"sqlite:///{root / 'mlflow.db'}"] = replace(
            release,
            root=root,
            folder=root / "model",
            tags={**release.tags, RUN_ID: f"run-{name}", "subjects": name},
        )
    return made


def test_two_registries_that_are_written_at_once_do_not_mix(
    release: NewVersion, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = _workspaces(release, here)
    inside, most = set[str](), list[int]()
    log = Registry._log_model

    def slow(self: Registry, *words: Any) -> str:
        inside.add(self.url)
        time.sleep(0.5)  # so that the other comes in, if it can
        most.append(len(inside))
        inside.remove(self.url)
        return log(self, *words)

    monkeypatch.setattr(Registry, "_log_model", slow)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda each: Registry.open(each[0]).register(each[1]), wanted.items()))
    assert most == [1, 1]
    for url, asked in wanted.items():
        (version,) = Registry.open(url).versions()
        assert version.tags[RUN_ID] == asked.tags[RUN_ID]
        client = Registry.open(url).client
        (run,) = client.search_runs(["1"])
        (logged,) = client.search_logged_models(["1"])
        assert (version.run, version.logged_model) == (run.info.run_id, logged.model_id)
        place = asked.root / "mlruns"
        assert logged.artifact_location.startswith(str(place))
        assert list(place.rglob("MLmodel"))


def _settings() -> tuple[Any, ...]:
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    here = (tracking_utils._tracking_uri, registry_utils._registry_uri)
    return (*here, *(os.environ.get(name) for name in names))


@pytest.fixture
def of_a_notebook(here: Path) -> Any:
    """MLflow as a notebook set it, in a store of its own; afterwards as it was before."""
    was = _settings()
    mlflow.set_tracking_uri(f"sqlite:///{here.parent / 'own.db'}")
    yield
    tracking_utils.set_tracking_uri(was[0])
    registry_utils.set_registry_uri(was[1])


@pytest.mark.parametrize("fails", [False, True])
def test_mlflow_is_set_afterwards_as_it_was_before(
    release: NewVersion, here: Path, of_a_notebook: None, fails: bool
) -> None:
    before = _settings()
    registry = Registry.open(f"sqlite:///{here / 'mlflow.db'}")
    if fails:
        with pytest.raises(NotFound, match="made for this test"):
            registry.register(replace(release, inputs=_Broken()))  # type: ignore[arg-type]
    else:
        registry.register(release)
    assert _settings() == before
    mlflow.set_tracking_uri(f"sqlite:///{here.parent / 'next.db'}")
    assert mlflow.get_registry_uri().endswith("next.db"), "the registry follows, as MLflow says"


class _Broken:
    def __iter__(self) -> Any:
        raise NotFound("made for this test")


def test_where_nothing_was_set_nothing_is_set(release: NewVersion, here: Path) -> None:
    before = _settings()
    Registry.open(f"sqlite:///{here / 'mlflow.db'}").register(release)
    assert _settings() == before


def test_a_run_that_a_notebook_has_open_stays_its_own(
    release: NewVersion, here: Path, of_a_notebook: None
) -> None:
    mlflow.set_experiment("mine")
    with mlflow.start_run() as run:
        registry = Registry.open(f"sqlite:///{here / 'mlflow.db'}")
        made = registry.register(release)
        active = mlflow.active_run()
        assert active is not None and active.info.run_id == run.info.run_id
        assert made.run != run.info.run_id
        assert mlflow.get_run(run.info.run_id).data.tags.get(RUN_ID) is None
