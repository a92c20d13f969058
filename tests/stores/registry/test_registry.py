"""The registry: one version a training, found again by everything that names it."""

import json
import re
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file

from lethe.config.home import address_at_home
from lethe.config.params import load_params
from lethe.core.errors import NotFound, ParamsInvalid
from lethe.data.encoding import Encoder
from lethe.registration.serving import input_columns, output_columns
from lethe.stores.registry.bundle import carry_code
from lethe.stores.registry.registry import NOT_PRIVATE, NewVersion, Registry, Version
from lethe.stores.registry.tags import RUN_ID
from lethe.training.models import Architecture, Description, build_model
from tests.conftest import PROJECT

URL = "sqlite:///mlflow.db"
RECORD = {
    "age": "[70-80)",
    "discharge_disposition_id": 1,
    "admission_type_id": 1,
    "admission_source_id": 7,
    "medical_specialty": "?",
    "time_in_hospital": 3,
    "num_lab_procedures": 40,
    "num_procedures": 0,
    "num_medications": 12,
    "number_outpatient": 0,
    "number_emergency": 0,
    "number_inpatient": 1,
    "number_diagnoses": 9,
    "diag_1": "250.8",
    "diag_2": "401",
    "diag_3": "V45",
    "A1Cresult": ">8",
    "metformin": "No",
    "insulin": "Up",
    "change": "Ch",
    "diabetesMed": "Yes",
}


def write_model(folder: Path) -> Encoder:
    """A model as train leaves it: here one that gives everybody 0.5."""
    params = load_params(PROJECT / "params.yaml", root=Path())
    encoder = Encoder.from_params(params)
    architecture = Architecture.of(
        params.training, features=len(encoder.names), outputs=encoder.outputs
    )
    folder.mkdir(parents=True)
    save_file(build_model(architecture).state_dict(), folder / "weights.safetensors")
    described = {
        "architecture": architecture.to_data(),
        "classes": list(encoder.classes),
        "encoder": encoder.to_data(),
        "plan": {},
        "run_id": "run-1",
    }
    (folder / "model.json").write_text(json.dumps(described))
    return encoder


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
    root.mkdir()
    for source in prepared.rglob("*"):
        target = root / source.relative_to(prepared)
        if source.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(source.read_bytes())
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def release(here: Path) -> NewVersion:
    encoder = Description.read(here / "model").encoder
    return NewVersion(
        name="readmission",
        folder=Path("model"),
        inputs=input_columns(encoder),
        outputs=output_columns(encoder),
        network="logistic",
        hidden=(64,),
        tags={RUN_ID: "run-1", "subjects": "812", "manifest_md5": "0" * 32},
        parameters={"steps": 20},
        metrics={"epsilon_pld": 0.9, f"auc{NOT_PRIVATE}": 0.65},
        files={"dvc.lock": b"stages: {}\n", "card.md": b"# Card\n"},
        description="# Card",
    )


def test_a_version_carries_its_tags_and_is_found_by_number_alias_and_training(
    release: NewVersion,
) -> None:
    registry = Registry.open(URL)
    made = registry.register(release)
    registry.alias(made, "candidate")
    found = registry.find("readmission", "1")
    assert (found.version, found.status, found.aliases) == (1, "ready", ("candidate",))
    assert found.tags["subjects"] == "812"
    assert registry.find("readmission", "@candidate") == found
    assert registry.of_run("readmission", "run-1") == found
    assert registry.of_run("readmission", "run-2") is None
    assert registry.versions() == [found]
    assert registry.metrics(found) == {"epsilon_pld": 0.9, f"auc{NOT_PRIVATE}": 0.65}


def test_an_alias_moves_to_the_newer_version(release: NewVersion) -> None:
    registry = Registry.open(URL)
    first = registry.register(release)
    registry.alias(first, "champion")
    second = registry.register(replace(release, tags={**release.tags, RUN_ID: "run-2"}))
    registry.alias(second, "champion")
    assert [v.aliases for v in registry.versions("readmission")] == [(), ("champion",)]
    assert registry.find("readmission", "@champion").version == 2


def test_a_status_tag_says_more_than_mlflows_own(release: NewVersion) -> None:
    registry = Registry.open(URL)
    made = registry.register(release)
    registry.tag(made, "status", "retired")
    assert registry.find("readmission", "1").status == "retired"


def test_metrics_that_no_noise_protects_are_marked_in_name_and_tag(
    here: Path, release: NewVersion
) -> None:
    Registry.open(URL).register(release)
    with sqlite3.connect(here / "mlflow.db") as store:
        tags = dict(store.execute("SELECT key, value FROM tags"))
    assert tags[f"metric.auc{NOT_PRIVATE}.private"] == "false"
    assert tags["metric.epsilon_pld.private"] == "true"


def test_what_an_interrupted_attempt_left_is_replaced(
    release: NewVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry.open(URL)

    class PowerCut(Exception):
        pass

    def cut(name: str) -> None:
        raise PowerCut

    monkeypatch.setattr(registry, "_ensure_model", cut)
    with pytest.raises(PowerCut):
        registry.register(release)
    assert registry.versions() == []
    again = Registry.open(URL)
    made = again.register(release)
    client = again._client
    experiment = client.get_experiment_by_name("readmission").experiment_id
    assert [r.info.run_id for r in client.search_runs([experiment])] == [made.run]
    assert [m.model_id for m in client.search_logged_models([experiment])] == [made.logged_model]


def test_absent_names_versions_and_aliases_are_not_found(release: NewVersion) -> None:
    registry = Registry.open(URL)
    assert registry.versions("readmission") == []
    with pytest.raises(NotFound):
        registry.find("readmission", "1")
    registry.register(release)
    for version in ("2", "@champion"):
        with pytest.raises(NotFound):
            registry.find("readmission", version)
    with pytest.raises(NotFound):
        registry.find("other", "1")


def test_a_missing_model_registers_nothing(release: NewVersion) -> None:
    registry = Registry.open(URL)
    with pytest.raises(NotFound, match="lethe train"):
        registry.register(replace(release, folder=Path("nowhere")))
    assert registry.versions() == []


def test_a_quote_cannot_reach_into_a_filter() -> None:
    with pytest.raises(ParamsInvalid):
        Registry.open(URL).versions("x' OR name != '")


def test_no_example_dataset_or_operator_is_stored(here: Path, release: NewVersion) -> None:
    Registry.open(URL).register(release)
    names = {path.name for path in (here / "mlruns").rglob("*")}
    assert {"MLmodel", "dvc.lock", "card.md", "weights.safetensors"} <= names
    assert not [name for name in names if "example" in name]
    assert not [name for name in names if name.endswith(".pkl")]
    with sqlite3.connect(here / "mlflow.db") as store:
        assert store.execute(
            "SELECT count(*) FROM inputs WHERE source_type = 'DATASET'"
        ).fetchone() == (0,)
        tags = dict(store.execute("SELECT key, value FROM tags"))
    assert tags["mlflow.user"] == "lethe"


def test_the_code_that_travels_is_what_serving_imports_and_no_store(tmp_path: Path) -> None:
    carry_code(tmp_path / "code", root=tmp_path)
    carried = {str(p.relative_to(tmp_path / "code")) for p in (tmp_path / "code").rglob("*.py")}
    assert {
        "lethe/__init__.py",
        "lethe/registration/serving.py",
        "lethe/data/generalize.py",
        "lethe/data/encoding.py",
        "lethe/training/models.py",
    } <= carried
    assert not [path for path in carried if re.search(r"stores|stages|attacks|__main__", path)]


def test_a_module_of_the_users_own_travels_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ours.py").write_text("x = 1\n")
    carry_code(tmp_path / "code", root=tmp_path, own_module="ours")
    assert (tmp_path / "code" / "ours.py").read_text() == "x = 1\n"
    with pytest.raises(ParamsInvalid, match="absent_module"):
        carry_code(tmp_path / "other", root=tmp_path, own_module="absent_module")


def test_a_model_registered_in_a_worktree_lies_in_its_home_and_serves_when_that_is_gone(
    release: NewVersion, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worktree = here / ".lethe" / "walks" / "run-1"
    worktree.mkdir(parents=True)
    shutil.copytree(here / "model", worktree / "model")
    monkeypatch.chdir(worktree)
    made = Registry.open(address_at_home(URL, Path())).register(release)
    assert sorted(path.name for path in worktree.iterdir()) == ["model"], "nothing of MLflow's"
    monkeypatch.chdir(here)
    shutil.rmtree(worktree)
    folder = mlflow_folder(Registry.open(URL), made)
    assert folder.is_relative_to(here / "mlruns")
    assert (folder / "artifacts" / "model" / "weights.safetensors").exists()


def mlflow_folder(registry: Registry, version: Version) -> Path:
    """Where MLflow says that a version's files are."""
    place = registry.client.get_logged_model(version.logged_model).artifact_location
    return Path(str(place).removeprefix("file://"))
