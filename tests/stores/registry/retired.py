"""What the tests of retired versions share: a registry of two versions, and who is looked for."""

import datetime as dt
import shutil
from pathlib import Path

import pytest

from lethe.core.outcomes import Traces
from lethe.registration.facts import inputs_of
from lethe.registration.predicting import output_columns
from lethe.stores.registry.registry import NewVersion, Registry, Version
from lethe.stores.registry.tags import RUN_ID
from lethe.training.description import Description
from tests.stores.registry.test_registry import URL, write_model

ADA = Traces(key="P-0004711", token=12, identifiers=("Ada Quill",))
NOW = dt.datetime(2026, 11, 24, 9, 30, tzinfo=dt.UTC)
FACTS = {
    RUN_ID: "run-1",
    "subjects": "812",
    "records": "1999",
    "epsilon_pld": "0.97",
    "delta": "1e-05",
    "manifest_md5": "a" * 32,
    "model_md5": f"{'b' * 32}.dir",
    "git_commit": "c" * 40,
    "gate": "open",
    "not_private": "records, subjects",
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and an empty registry, whose tables take seconds to make."""
    root = tmp_path_factory.mktemp("registry")
    write_model(root / "model")
    Registry.open(f"sqlite:///{root / 'mlflow.db'}").versions()
    return root


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "here"
    shutil.copytree(prepared, root)
    monkeypatch.chdir(root)
    return root


def register(registry: Registry, **tags: str) -> Version:
    encoder = Description.read(Path("model")).encoder
    return registry.register(
        NewVersion(
            name="readmission",
            folder=Path("model"),
            inputs=inputs_of(encoder),
            outputs=output_columns(encoder),
            network="logistic",
            hidden=(64,),
            tags={**FACTS, **tags},
            parameters={"steps": 20},
            metrics={"epsilon_pld": 0.97},
            files={"dvc.lock": b"stages: {}\n", "card.md": b"# Card of run-1\n"},
            description="# Card",
        )
    )


@pytest.fixture
def registry(here: Path) -> Registry:
    """Two versions, of which the first is champion and candidate."""
    registry = Registry.open(URL)
    first = register(registry)
    for alias in ("champion", "candidate"):
        registry.alias(first, alias)
    register(registry, run_id="run-2")
    return registry
