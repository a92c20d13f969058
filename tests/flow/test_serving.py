"""The registered model takes the source's own values, on a machine that has only the model."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from lethe.config.tables import Column, Generalization
from lethe.core.errors import FileDamaged, NotFinite, SchemaMismatch, ValueOutsideDomain
from lethe.core.files import digests
from lethe.data.encoding import Encoder
from lethe.data.generalize import generalize
from lethe.registration.serving import LetheModel, Predictor, input_columns, output_columns
from lethe.stores.registry.registry import NewVersion, Registry
from lethe.training.models import Architecture, build_model
from tests.stores.registry.test_registry import PROJECT, RECORD, here, prepared, release

__all__ = ["here", "prepared", "release"]


def test_columns_and_classes_are_those_of_the_declarations() -> None:
    assert input_columns(_encoder()) == ("insulin", "stay", "born", "seen")
    assert output_columns(_encoder()) == ("probability",)
    assert output_columns(_encoder(positive=None)) == ("NO", "<30", ">30")


def test_a_served_record_is_made_into_what_training_made_it(tmp_path: Path) -> None:
    encoder, network = _written(tmp_path / "model")
    raw = _raw()
    at = {"born": raw["seen"]}
    encoded = encoder.encode(generalize(raw, encoder.features, at=at).frame)
    with torch.no_grad():
        expected = network(torch.from_numpy(encoded)).sigmoid()[:, 0].double().numpy()
    served = Predictor.load(tmp_path / "model", model="logistic", hidden=()).predict(raw)
    assert list(served.columns) == ["probability"]
    assert list(served.index) == [7, 8, 9]
    np.testing.assert_allclose(served["probability"], expected, atol=1e-7)
    assert len(set(served["probability"].round(6))) == 3


def test_several_classes_have_a_column_each_that_sum_to_one(tmp_path: Path) -> None:
    _written(tmp_path / "model", positive=None)
    served = Predictor.load(tmp_path / "model", model="logistic", hidden=()).predict(_raw())
    assert list(served.columns) == ["NO", "<30", ">30"]
    np.testing.assert_allclose(served.sum(axis=1), 1.0, atol=1e-6)


def test_no_rows_give_no_rows(tmp_path: Path) -> None:
    _written(tmp_path / "model")
    assert Predictor.load(tmp_path / "model", model="logistic", hidden=()).predict(
        _raw().iloc[:0]
    ).shape == (0, 1)


def test_null_is_taken_and_an_absent_column_is_refused_by_name(tmp_path: Path) -> None:
    _written(tmp_path / "model")
    predictor = Predictor.load(tmp_path / "model", model="logistic", hidden=())
    nothing = pd.DataFrame({name: [None] for name in ("insulin", "stay", "born", "seen")})
    assert np.isfinite(predictor.predict(nothing)["probability"]).all()
    with pytest.raises(SchemaMismatch, match=r"\['seen'\]"):
        predictor.predict(_raw().drop(columns="seen"))


@pytest.mark.parametrize(
    ("column", "value", "error"),
    [("insulin", "Maybe", ValueOutsideDomain), ("stay", float("inf"), NotFinite)],
)
def test_a_value_that_training_would_refuse_is_refused_without_being_named(
    tmp_path: Path, column: str, value: Any, error: type[Exception]
) -> None:
    _written(tmp_path / "model")
    raw = _raw().astype({column: object})
    raw.loc[7, column] = value
    with pytest.raises(error, match=column) as caught:
        Predictor.load(tmp_path / "model", model="logistic", hidden=()).predict(raw)
    assert "Maybe" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change"),
    [("model.json", b" "), ("weights.safetensors", b"\0"), ("more.json", b"{}")],
)
def test_files_that_are_not_those_registered_are_not_served(
    tmp_path: Path, name: str, change: bytes
) -> None:
    folder = tmp_path / "model"
    _written(folder)
    served = LetheModel(model="logistic", hidden=(), sha256=digests(folder))
    context: Any = SimpleNamespace(artifacts={"model": str(folder)})
    served.load_context(context)
    assert served.predict(context, _raw()).shape == (3, 1)
    with (folder / name).open("ab") as file:
        file.write(change)
    with pytest.raises(FileDamaged, match="not those that were registered"):
        served.load_context(context)


def test_a_served_model_is_the_declared_one_whatever_its_description_names(tmp_path: Path) -> None:
    _written(tmp_path / "model")
    with pytest.raises(FileDamaged, match="not of the model that is declared"):
        Predictor.load(tmp_path / "model", model="mlp", hidden=())


def _encoder(positive: tuple[str, ...] | None = ("<30",)) -> Encoder:
    return Encoder(
        features={
            "insulin": Column(
                role="feature", type="category", domain=("No", "Up"), why="treatment"
            ),
            "stay": Column(role="feature", type="integer", bounds=(1, 14), why="gravity"),
            "born": Column(
                role="quasi_identifier",
                type="date",
                why="age",
                generalize=Generalization(age_at="seen", bins=(0, 50, 120)),
            ),
        },
        label="readmitted",
        label_column=Column(
            role="label",
            type="category",
            domain=("NO", "<30", ">30"),
            positive=positive,
            why="what is predicted",
        ),
    )


def _written(folder: Path, positive: tuple[str, ...] | None = ("<30",)) -> tuple[Encoder, Any]:
    encoder = _encoder(positive)
    architecture = Architecture("logistic", (), len(encoder.names), encoder.outputs)
    network = build_model(architecture)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    folder.mkdir()
    save_file(network.state_dict(), folder / "weights.safetensors")
    described = {
        "architecture": architecture.to_data(),
        "classes": list(encoder.classes),
        "encoder": encoder.to_data(),
        "plan": {},
        "run_id": "run-1",
    }
    (folder / "model.json").write_text(json.dumps(described))
    return encoder, network


def _raw() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "insulin": ["No", "Up", None],
            "stay": [3, 14, 1],
            "born": ["1950-05-01", "1990-01-01", "1980-01-01"],
            "seen": ["2020-01-01", "2020-01-01", "2020-01-01"],
        },
        index=[7, 8, 9],
    )


def test_a_machine_without_lethe_can_serve_it(
    here: Path, release: NewVersion, tmp_path: Path
) -> None:
    registry = Registry.open(f"sqlite:///{here / 'mlflow.db'}")
    registry.alias(registry.register(release), "candidate")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    pd.DataFrame([RECORD, RECORD]).to_json(elsewhere / "rows.json", orient="records")
    program = (
        "import sys, json\n"
        # As on a machine where the package was never installed.
        "sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in repr(f)]\n"
        f"sys.path[:] = [p for p in sys.path if not p.startswith({str(PROJECT / 'pipeline')!r})]\n"
        "import importlib.util\n"
        "assert importlib.util.find_spec('lethe') is None\n"
        "import pandas as pd, mlflow\n"
        f"mlflow.set_tracking_uri('sqlite:///{here / 'mlflow.db'}')\n"
        "model = mlflow.pyfunc.load_model('models:/readmission@candidate')\n"
        "import lethe\n"
        f"assert not lethe.__file__.startswith({str(PROJECT)!r}), lethe.__file__\n"
        "rows = pd.DataFrame(json.load(open('rows.json')))\n"
        "rows.loc[1, :] = None\n"
        "out = model.predict(rows)\n"
        "print(json.dumps(out['probability'].tolist()))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=elsewhere,
        env=environment | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [0.5, 0.5]
