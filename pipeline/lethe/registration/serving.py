"""The registered model, as MLflow loads and serves it.

It carries its declarations and this package's code with it, so a machine that serves it needs
neither Lethe nor `params.yaml`.

A registered model is code (this package's, and an own network's) with data beside it: whoever
may write to MLflow's artifacts runs code where it is served. What is data stays data: the code
names the network and the digests of its files, and loads nothing else.

MLflow's own way from a request to a model reads a CSV's `01` as 1 and its `None` as nothing,
takes no whole numbers where a column has gaps, and puts the caller's rows into its errors. So
this model reads what it is given itself (`entrance`).
"""

import json
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd

from lethe.core.errors import FileDamaged, LetheError, SchemaMismatch
from lethe.core.files import digests
from lethe.registration import rows
from lethe.registration.predicting import Predictor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of MLflow's own imports
    from mlflow.pyfunc import PyFuncModel, PythonModel, PythonModelContext

_SERVER = "mlflow.pyfunc.scoring_server"
_log = logging.getLogger(__name__)


class LetheModel(PythonModel):
    """The MLflow face of `Predictor`.

    Args:
        model, hidden: the network, as `params.yaml` declared it at registration.
        sha256: name → digest of the model's files, as they were registered.
    """

    def __init__(self, *, model: str, hidden: Sequence[int], sha256: Mapping[str, str]) -> None:
        self._model, self._hidden, self._sha256 = model, tuple(hidden), dict(sha256)

    def load_context(self, context: PythonModelContext) -> None:
        """Raises: FileDamaged: a file is not the one that was registered."""
        folder = Path(context.artifacts["model"])
        if digests(folder) != self._sha256:
            raise FileDamaged(
                "The model's files are not those that were registered. Nothing of them was "
                "loaded; find out who can write to MLflow's artifacts."
            )
        self._predictor = Predictor.load(folder, model=self._model, hidden=self._hidden)
        entrance()

    def predict(
        self,
        context: PythonModelContext | None,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        return self.probabilities(model_input)

    def probabilities(self, given: Any) -> pd.DataFrame:
        """Of a frame, of objects one a row, or of columns by name; see `Predictor.predict`."""
        return self._predictor.predict(rows.from_values(given))


def entrance() -> None:
    """Leads rows to this model without MLflow's reading and checking; other models keep it."""
    if not getattr(PyFuncModel._predict, "of_lethe", False):
        _enter_by_predict(PyFuncModel._predict)
    server = sys.modules.get(_SERVER)
    if server is not None and not getattr(server.invocations, "of_lethe", False):
        _enter_by(server)


def _enter_by_predict(before: Any) -> None:
    def predict(self: Any, data: Any, params: Any = None) -> Any:
        own = _own_of(self)
        return before(self, data, params) if own is None else own.probabilities(data)

    predict.of_lethe = True  # type: ignore[attr-defined]
    PyFuncModel._predict = predict


def _enter_by(server: Any) -> None:
    """By the server's requests, and by `mlflow models predict`, which calls its readers itself."""
    answer, read_csv, read_json = (
        server.invocations,
        server.parse_csv_input,
        server._parse_json_data,
    )

    def invocations(data: bytes, content_type: str, model: Any, input_schema: Any) -> Any:
        own = _own_of(model)
        if own is None:
            return answer(data, content_type, model, input_schema)
        return server.InvocationsResponse(*answered(data, content_type or "", own))

    def parse_csv_input(csv_input: Any, schema: Any = None) -> Any:
        own = _predicting(server, sys._getframe(1))
        return read_csv(csv_input, schema) if own is None else _csv_of(csv_input)

    def parse_json_data(data: Any, metadata: Any, input_schema: Any) -> Any:
        if _predicting(server, sys._getframe(1)) is None:
            return read_json(data, metadata, input_schema)
        return server.ParsedJsonInput(rows.from_json(data), None, False)

    invocations.of_lethe = True  # type: ignore[attr-defined]
    server.invocations, server.parse_csv_input = invocations, parse_csv_input
    server._parse_json_data = parse_json_data


def _predicting(server: Any, caller: FrameType) -> LetheModel | None:
    """The model of Lethe's that `mlflow models predict` reads rows for, if it is one.

    MLflow's readers are not given the model, so it is looked up where they are called.
    """
    if caller.f_code is not server._predict.__code__:
        return None
    return _own_of(caller.f_locals.get("pyfunc_model"))


def answered(data: bytes, content_type: str, model: LetheModel) -> tuple[str, int, str]:
    """Answers one request: what is sent back, the status, and its type.

    Guarantee: whatever goes wrong, the answer and the log have no value of a request.
    """
    kind, _, rest = content_type.partition(";")
    readers = {"text/csv": rows.from_csv, "application/json": rows.from_json}
    reader = readers.get(kind.strip().lower())
    if reader is None or (rest.strip() and rest.strip().lower() not in ("charset=utf-8",)):
        return _refused(f"This model takes {' and '.join(readers)}, in UTF-8.", 415)
    try:
        made = model.probabilities(reader(data.decode("utf-8-sig")))
    except UnicodeDecodeError:
        return _refused("The request is not UTF-8.", 400)
    except LetheError as error:
        return _refused(str(error), 400)
    except Exception as error:  # noqa: BLE001 - a message or a trace may hold the caller's row
        return _refused(
            f"The rows cannot be predicted ({type(error).__name__}). Compare them with the "
            "model's signature.",
            400,
        )
    answer = {"predictions": made.to_dict(orient="records")}
    return json.dumps(answer), 200, "application/json"


def _refused(why: str, status: int) -> tuple[str, int, str]:
    _log.warning("Refused a request: %s", why)
    return json.dumps({"error_code": "BAD_REQUEST", "message": why}), status, "application/json"


def _csv_of(given: Any) -> pd.DataFrame:
    """What `mlflow models predict` names: a file, or an open one."""
    try:
        if hasattr(given, "read"):
            return rows.from_csv(given.read())
        return rows.from_csv(Path(given).read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise SchemaMismatch("The CSV is not UTF-8.") from None


def _own_of(model: Any) -> LetheModel | None:
    own = getattr(getattr(model, "_model_impl", None), "python_model", None)
    return own if isinstance(own, LetheModel) else None
