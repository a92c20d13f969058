"""The registered model takes the source's own values, on a machine that has only the model."""

import io
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.models import ModelSignature
from mlflow.types.schema import AnyType, ColSpec, Schema
from safetensors.torch import save_file

from lethe.config.tables import Column, Generalization
from lethe.core.errors import FileDamaged, NotFinite, SchemaMismatch, ValueOutsideDomain
from lethe.core.files import digests
from lethe.data.encoding import Encoder
from lethe.data.generalize import generalize
from lethe.registration.predicting import Predictor, input_columns, output_columns
from lethe.registration.serving import LetheModel
from lethe.stores.registry.registry import NewVersion, Registry, quiet
from lethe.training.description import Architecture, Description
from lethe.training.models import build_model
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


def test_an_age_counts_at_a_time_of_the_declared_format_in_serving_too(tmp_path: Path) -> None:
    declared = Column(role="timestamp", type="timestamp", format="%d/%m/%Y", why="order")
    encoder = replace(_encoder(), times={"seen": declared})
    _written(tmp_path / "model", encoder=encoder)
    predictor = Predictor.load(tmp_path / "model", model="logistic", hidden=())
    raw = _raw()
    written = raw.assign(seen=["01/01/2020"] * 3)
    _written(tmp_path / "iso")
    iso = Predictor.load(tmp_path / "iso", model="logistic", hidden=()).predict(raw)
    assert predictor.predict(written).equals(iso)
    with pytest.raises(ValueOutsideDomain, match="'seen'"):
        predictor.predict(raw)


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


def _written(
    folder: Path,
    positive: tuple[str, ...] | None = ("<30",),
    *,
    model: str = "logistic",
    encoder: Encoder | None = None,
) -> tuple[Encoder, Any]:
    encoder = encoder or _encoder(positive)
    architecture = Architecture(model, (), len(encoder.names), encoder.outputs)
    network = build_model(architecture)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    folder.mkdir()
    save_file(network.state_dict(), folder / "weights.safetensors")
    described = Description(architecture, encoder.classes, encoder, {}, "run-1")
    (folder / "model.json").write_bytes(described.to_bytes())
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


def test_a_version_of_the_version_before_still_loads(tmp_path: Path) -> None:
    assert _saved(tmp_path).predict(_raw()).shape == (3, 1)


def _saved(tmp_path: Path) -> mlflow.pyfunc.PyFuncModel:
    """A model with the signature that a version of 0.1.0 has, loaded by MLflow."""
    folder = tmp_path / "model"
    _written(folder)
    entry = tmp_path / "served.py"
    entry.write_text(
        "from mlflow.models import set_model\n"
        "from lethe.registration.serving import LetheModel\n"
        f"set_model(LetheModel(model='logistic', hidden=(), sha256={digests(folder)!r}))\n"
    )
    any_type = Schema([ColSpec(AnyType(), name) for name in ("insulin", "stay", "born", "seen")])
    with quiet():
        mlflow.pyfunc.save_model(
            tmp_path / "saved",
            python_model=str(entry),
            artifacts={"model": str(folder)},
            pip_requirements=[f"mlflow=={mlflow.__version__}"],
            signature=ModelSignature(inputs=any_type),
        )
    return mlflow.pyfunc.load_model(str(tmp_path / "saved"))


def test_another_model_of_the_process_is_served_as_mlflow_serves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own imports
        from mlflow.pyfunc import scoring_server
    for name in ("invocations", "parse_csv_input", "_parse_json_data"):
        monkeypatch.setattr(scoring_server, name, getattr(scoring_server, name))  # put back then
    entry = tmp_path / "other.py"
    entry.write_text(
        "from mlflow.models import set_model\n"
        "from mlflow.pyfunc import PythonModel\n"
        "class Other(PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        "        return [str(each) for each in model_input['insulin']]\n"
        "set_model(Other())\n"
    )
    with quiet():
        mlflow.pyfunc.save_model(tmp_path / "other", python_model=str(entry), pip_requirements=[])
    lethe = _saved(tmp_path)
    other = mlflow.pyfunc.load_model(str(tmp_path / "other"))
    mlflow.pyfunc.load_model(str(tmp_path / "saved"))
    table = "insulin,stay,born,seen\nNo,03,1950-05-01,2020-01-01\n"
    numbers = table.replace("No", "01")
    records = pd.read_csv(io.StringIO(numbers)).to_dict("records")
    split = json.dumps({"dataframe_records": records})

    def asked(content: str, kind: str, model: Any) -> Any:
        answer = scoring_server.invocations(content.encode(), kind, model, None)
        assert answer.status == 200, answer
        return json.loads(answer.response)["predictions"]

    def predicted(content: str, kind: str, saved: str) -> Any:
        (tmp_path / "in").write_text(content)
        scoring_server._predict(
            str(tmp_path / saved), str(tmp_path / "in"), str(tmp_path / "out"), kind
        )
        return json.loads((tmp_path / "out").read_text())["predictions"]

    for _ in range(2):  # in turns
        ours = asked(table, "text/csv", lethe)
        assert list(ours[0]) == ["probability"]
        assert predicted(table, "csv", "saved") == ours
        assert asked(numbers, "text/csv", other) == ["1"]  # as MLflow reads it
        assert asked(split, "application/json", other) == ["1"]
        assert predicted(numbers, "csv", "other") == ["1"]
        assert predicted(split, "json", "other") == ["1"]
    assert scoring_server.parse_csv_input(io.StringIO("a\n01\n"))["a"].tolist() == [1]
    with pytest.raises(ValueOutsideDomain, match="insulin"):  # which MLflow's reader would not
        predicted(table.replace("No", "None"), "csv", "saved")
    with pytest.raises(SchemaMismatch, match="not JSON"):
        predicted("{", "json", "saved")


def test_a_network_of_the_users_own_is_served_by_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ours.py").write_text(
        "from torch import nn\n\n\ndef net(features, outputs):\n"
        "    return nn.Sequential(nn.Linear(features, 2), nn.ReLU(), nn.Linear(2, outputs))\n"
    )
    monkeypatch.chdir(tmp_path)
    encoder, network = _written(tmp_path / "model", model="ours:net")
    raw = _raw()
    encoded = encoder.encode(generalize(raw, encoder.features, at={"born": raw["seen"]}).frame)
    with torch.no_grad():
        expected = network(torch.from_numpy(encoded)).sigmoid()[:, 0].double().numpy()
    served = Predictor.load(tmp_path / "model", model="ours:net", hidden=()).predict(raw)
    np.testing.assert_allclose(served["probability"], expected, atol=1e-6)


def test_a_machine_without_lethe_can_serve_it(
    here: Path, release: NewVersion, tmp_path: Path
) -> None:
    registry = Registry.open(f"sqlite:///{here / 'mlflow.db'}")
    registry.alias(registry.register(release), "candidate")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    pd.DataFrame([RECORD, RECORD]).to_json(elsewhere / "rows.json", orient="records")
    program = (
        "import os, sys, json\n"
        # As on a machine where the package was never installed.
        "sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in repr(f)]\n"
        f"sys.path[:] = [p for p in sys.path if not p.startswith({str(PROJECT / 'pipeline')!r})]\n"
        "import importlib.util\n"
        "assert importlib.util.find_spec('lethe') is None\n"
        # Nor anything that is only there to train, to keep or to erase.
        "sys.modules.update(dict.fromkeys(('torch', 'dvc', 'sklearn', 'great_expectations',"
        " 'presidio_analyzer', 'opacus', 'ruamel', 'pyroaring', 'pyarrow.dataset')))\n"
        "import pandas as pd, mlflow\n"
        f"mlflow.set_tracking_uri('sqlite:///{here / 'mlflow.db'}')\n"
        "model = mlflow.pyfunc.load_model('models:/readmission@candidate')\n"
        "import lethe\n"
        f"assert not lethe.__file__.startswith({str(PROJECT)!r}), lethe.__file__\n"
        "rows = pd.DataFrame(json.load(open('rows.json')))\n"
        "assert rows['time_in_hospital'].dtype == 'int64'\n"
        "assert len(model.predict(rows)) == 2\n"  # MLflow itself takes no int64 for double
        "from mlflow.pyfunc import scoring_server\n"
        "os.environ['__pyfunc_model_path__'] = 'served'\n"
        "served = scoring_server.load_model('models:/readmission@candidate')\n"
        "def ask(kind, content):\n"
        "    return scoring_server.invocations(content, kind, served, None)\n"
        "table = rows.to_csv(index=True).encode()\n"
        "answers = [ask('text/csv', table), ask('application/json', json.dumps("
        "{'dataframe_split': rows.to_dict(orient='split')}).encode())]\n"
        "assert [each.status for each in answers] == [200, 200], answers\n"
        "assert answers[0].response == answers[1].response\n"
        "refused = ask('text/csv', table.replace(b'Up', b'Quillfeather'))\n"
        "assert refused.status == 400 and 'insulin (2)' in refused.response, refused\n"
        "assert 'Quillfeather' not in refused.response\n"
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
