"""The registry: one version a training, found again by everything that names it."""

import ast
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.models import Model
from packaging.utils import canonicalize_name
from safetensors.torch import save_file

from lethe.config.home import address_at_home
from lethe.config.params import load_params
from lethe.core.errors import NotFound, ParamsInvalid, RegistrationRefused
from lethe.data.encoding import Encoder
from lethe.registration.facts import inputs_of
from lethe.registration.predicting import output_columns
from lethe.stores.registry.bundle import at_import, carry_code, own_packages, requirements
from lethe.stores.registry.registry import NOT_PRIVATE, NewVersion, Registry, Version
from lethe.stores.registry.tags import RUN_ID
from lethe.stores.registry.unchanged import refuse_changed
from lethe.training.description import Architecture, Description
from lethe.training.models import build_model
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
    described = Description(architecture, encoder.classes, encoder, {}, "run-1")
    (folder / "model.json").write_bytes(described.to_bytes())
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
        inputs=inputs_of(encoder),
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
        "lethe/training/description.py",
    } <= carried
    assert not [
        path
        for path in carried
        if re.search(r"stores|stages|attacks|training/models|own_network|params|__main__", path)
    ]


def test_a_version_asks_for_what_predicting_needs_and_pins_all_of_it() -> None:
    needed = {line.partition("==")[0]: line.partition("==")[2] for line in requirements()}
    assert {"mlflow-skinny", "numpy", "pandas", "pydantic", "safetensors", "uvicorn"} <= set(needed)
    assert all(needed.values()) and len(needed) <= 50
    large = {"torch", "mlflow", "dvc", "pyarrow", "scikit-learn", "sqlalchemy", "matplotlib"}
    assert not large & set(needed)
    assert "torch" in {line.partition("==")[0] for line in requirements(own_network=True)}


@pytest.mark.parametrize("own", [None, "ours"])
def test_what_travels_imports_nothing_that_its_requirements_lack(
    own: str | None, tmp_path: Path
) -> None:
    (tmp_path / "ours.py").write_text("import torch\n")
    code = tmp_path / "code"
    carry_code(code, root=tmp_path, own_module=own)
    pinned = {line.partition("==")[0] for line in requirements(own_network=own is not None)}
    there = packages_distributions()
    here = {path.name.removesuffix(".py") for path in code.iterdir()} | sys.stdlib_module_names
    lacking = {
        (path.relative_to(code).as_posix(), name)
        for path in code.rglob("*.py")
        for name in _outermost(path) - here
        if not {canonicalize_name(each) for each in there.get(name, ())} & pinned
    }
    assert not lacking


def _outermost(path: Path) -> set[str]:
    """The first words of what a module imports when it is imported."""
    found = set()
    for node in at_import(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_the_signature_has_types_that_take_gaps(release: NewVersion) -> None:
    registry = Registry.open(URL)
    made = registry.register(release)
    stored = registry.client.get_logged_model(made.logged_model).artifact_location
    inputs = Model.load(stored.removeprefix("file://")).signature.inputs.to_dict()
    types = {each["name"]: (each["type"], each["required"]) for each in inputs}
    assert types["time_in_hospital"] == ("double", True)
    assert types["discharge_disposition_id"] == ("string", True)
    assert types["diag_1"] == ("string", False)  # its gaps are declared


def test_a_module_of_the_users_own_travels_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ours.py").write_text("x = 1\n")
    carry_code(tmp_path / "code", root=tmp_path, own_module="ours")
    assert (tmp_path / "code" / "ours.py").read_text() == "x = 1\n"
    with pytest.raises(ParamsInvalid, match="absent_module"):
        carry_code(tmp_path / "other", root=tmp_path, own_module="absent_module")


def test_all_that_a_module_of_ones_own_imports_travels_or_is_pinned(tmp_path: Path) -> None:
    (tmp_path / "ours.py").write_text("import helper\nfrom nets.parts import layer\nimport scipy\n")
    (tmp_path / "helper.py").write_text(
        "def late():\n    import yaml\n    import json, deeper.one\n"
    )
    (tmp_path / "unrelated.py").write_text("import sklearn\n")
    for name, text in {"nets": "import dateutil\n", "deeper": "from deeper import two\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)
        (tmp_path / name / "data.csv").write_text("nobody's\n")
    (tmp_path / "nets" / "parts.py").write_text("from . import more\nlayer = 1\n")
    (tmp_path / "nets" / "more.py").write_text(
        "try:\n    import absent_x\nexcept ImportError: ...\n"
    )
    (tmp_path / "deeper" / "one.py").write_text("")
    (tmp_path / "deeper" / "two.py").write_text("from lethe.config import training\n")
    code = tmp_path / "code"
    carry_code(code, root=tmp_path, own_module="ours")
    own = {path.relative_to(code).as_posix() for path in code.rglob("*") if path.is_file()}
    assert {path for path in own if not path.startswith("lethe/")} == {
        *("ours.py", "helper.py", "nets/__init__.py", "nets/parts.py", "nets/more.py"),
        *("deeper/__init__.py", "deeper/one.py", "deeper/two.py"),
    }
    carry_code(tmp_path / "whole", root=tmp_path, own_module="nets.parts")
    assert (tmp_path / "whole" / "nets" / "data.csv").exists(), "which the package may read"
    found = own_packages(tmp_path, "ours")
    assert found == {"scipy", "pyyaml", "python-dateutil"}
    pinned = {line.partition("==")[0] for line in requirements(own_network=True, also=found)}
    assert {"torch", *found} <= pinned


def test_a_module_that_can_neither_travel_nor_be_pinned_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "loose_module.py").write_text("x = 1\n")
    (tmp_path / "ours.py").write_text("import loose_module\n")
    monkeypatch.syspath_prepend(tmp_path / "away")
    with pytest.raises(ParamsInvalid, match="loose_module"):
        own_packages(tmp_path, "ours")
    with pytest.raises(ParamsInvalid, match="loose_module"):
        own_packages(tmp_path, "loose_module")
    assert own_packages(tmp_path, "scipy.special") == {"scipy"}


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


ARTIFACTS = "mlruns/readmission/models/*/artifacts"
AMONG = {
    "artifacts/model/weights.safetensors": lambda content: content + b"4711",
    "artifacts/model/notes.txt": lambda content: b"4711",
    "code/lethe/core/version.py": lambda content: content + b"\n# 4711\n",
    "code/lethe/more.py": lambda content: b"x = 4711\n",
    "served.py": lambda content: content + b"# 4711\n",
    "requirements.txt": lambda content: content + b"\nmore==1\n",
    "conda.yaml": lambda content: content + b"# 4711\n",
    "python_env.yaml": lambda content: content.replace(b"- wheel", b"- wheel\n- more"),
    "MLmodel": lambda content: content + b"metadata:\n  people: 4711\n",
    "input_example.json": lambda content: b"[[4711]]",
    "__pycache__/served.cpython-311.pyc": lambda content: b"4711",
    "code/lethe/core/__pycache__/values.cpython-311.pyc": lambda content: b"4711",
    "code/lethe/core/more.pyc": lambda content: b"4711",
    "registered_model_meta": lambda content: b"model_name: 4711\n",
}


def _of(name: str) -> Callable[[bytes], bytes]:
    """Another value of a key of `MLmodel`, wherever it is."""

    def changed(content: bytes) -> bytes:
        data = yaml.safe_load(content)
        place = data if name in data else data["flavors"]["python_function"]
        place[name] = OTHER[name]
        return yaml.safe_dump(data, sort_keys=True).encode()

    return changed


OTHER: dict[str, Any] = {
    "artifact_path": "elsewhere",
    "artifacts": {"model": {"path": "artifacts/model", "uri": "/people/4711"}},
    "cloudpickle_version": "4711",
    "code": "code/lethe",
    "env": {"conda": "conda.yaml", "virtualenv": "other.yaml"},
    "is_signature_from_type_hint": 0,
    "loader_module": "lethe_other",
    "mlflow_version": "4711",
    "model_code_path": "/tmp/other/served.py",
    "model_id": "m-4711",
    "model_size_bytes": 4711.0,
    "model_uuid": "4711",
    "prompts": ["4711"],
    "python_version": "3.11.4711",
    "run_id": "4711",
    "signature": None,
    "streamable": True,
    "type_hint_from_example": True,
    "utc_time_created": "4711",
}


def _write_among(name: str, change: Callable[[bytes], bytes]) -> None:
    (place,) = Path().glob(ARTIFACTS)
    path = place / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(change(path.read_bytes() if path.exists() else b""))


def test_the_files_of_a_version_are_those_that_were_registered(release: NewVersion) -> None:
    registry = Registry.open(URL)
    made = registry.register(release)
    refuse_changed(registry, made)
    with pytest.raises(RegistrationRefused, match="no tag package_sha256"):
        refuse_changed(registry, replace(made, tags={}))
    before = {name: next(Path().glob(f"{ARTIFACTS}/{name}"), None) for name in AMONG}
    for name, change in AMONG.items():
        if "__pycache__" in name:
            continue
        there = before[name]
        content = None if there is None else there.read_bytes()
        _write_among(name, change)
        with pytest.raises(RegistrationRefused, match="readmission/1 are not those"):
            refuse_changed(registry, made)
        (place,) = Path().glob(ARTIFACTS)
        if content is None:
            (place / name).unlink()
        else:
            (place / name).write_bytes(content)
    refuse_changed(registry, made)


def test_what_was_compiled_beside_the_files_of_a_version_is_removed_and_nothing_else(
    release: NewVersion,
) -> None:
    """Whoever loads it in place may leave that; what nobody compiled there is refused."""
    registry = Registry.open(URL)
    made = registry.register(release)
    for name in (each for each in AMONG if "__pycache__" in each):
        _write_among(name, AMONG[name])
    refuse_changed(registry, made)
    (place,) = Path().glob(ARTIFACTS)
    assert list(place.rglob("*.pyc")) == []
    _write_among("code/lethe/core/__pycache__/nobody.cpython-311.pyc", lambda content: b"4711")
    with pytest.raises(RegistrationRefused, match="readmission/1 are not those"):
        refuse_changed(registry, made)


@pytest.mark.parametrize("name", AMONG)
def test_a_file_that_was_not_meant_is_not_registered(
    name: str, release: NewVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Model.log

    def logged(*words: Any, **others: Any) -> Any:
        made = log(*words, **others)
        _write_among(name, AMONG[name])
        return made

    monkeypatch.setattr(Model, "log", logged)
    registry = Registry.open(URL)
    with pytest.raises(RegistrationRefused, match=rf"Nothing was registered: .*\({name}\)"):
        registry.register(release)
    assert registry.versions() == []


@pytest.mark.parametrize("key", OTHER)
def test_each_value_of_mlmodel_is_the_one_that_was_meant(
    key: str, release: NewVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Model.log

    def logged(*words: Any, **others: Any) -> Any:
        made = log(*words, **others)
        _write_among("MLmodel", _of(key))
        return made

    monkeypatch.setattr(Model, "log", logged)
    with pytest.raises(RegistrationRefused, match=r"\(MLmodel\)"):
        Registry.open(URL).register(release)


def test_a_version_that_was_loaded_is_unchanged_and_nothing_compiled_is_left(
    here: Path, release: NewVersion
) -> None:
    registry = Registry.open(URL)
    made = registry.register(release)
    (place,) = here.glob(ARTIFACTS)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    registry.client.set_registered_model_alias(made.model, "other", str(made.version))
    for name in ("readmission/1", "readmission/1", "readmission@other"):  # where it lies
        code = (
            "import mlflow, sys; "
            f"mlflow.set_registry_uri({URL!r}); mlflow.set_tracking_uri({URL!r});"
            f"mlflow.pyfunc.load_model('models:/{name}');"
            "import lethe.registration.serving as s; print(s.__file__)"
        )
        loaded = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env=environment,
            capture_output=True,
            check=True,
            text=True,
        )
        assert str(place) in loaded.stdout
        refuse_changed(registry, made)
    assert list(place.rglob("*.pyc")) == []


def test_a_module_of_ones_own_is_registered_with_its_files(here: Path, release: NewVersion) -> None:
    (here / "nets").mkdir()
    (here / "nets" / "__init__.py").write_text("import torch\n")
    (here / "nets" / "table.csv").write_text("1,2\n")
    registry = Registry.open(URL)
    made = registry.register(replace(release, network="nets:build", root=here))
    refuse_changed(registry, made)
    assert len(list(here.glob(f"{ARTIFACTS}/code/nets/table.csv"))) == 1
