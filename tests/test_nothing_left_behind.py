"""What one test does to the process that runs it, the next one does not meet."""

import os
import sys

LEFT = "/nowhere/a-model/artifacts/code"


def test_one_uses_a_model_and_an_experiment() -> None:
    sys.path.insert(0, LEFT)
    sys.excepthook = print  # type: ignore[assignment]
    os.environ["MLFLOW_EXPERIMENT_ID"] = "4711"


def test_the_next_meets_neither() -> None:
    assert LEFT not in sys.path
    assert sys.excepthook is not print
    assert os.environ.get("MLFLOW_EXPERIMENT_ID") != "4711"
