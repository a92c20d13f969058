"""What MLflow has once a process: where its stores are, which model is being saved, warnings.

Parts of MLflow ask for the place, whatever client they were called on, so a registration has to
set it; nothing else in Lethe does.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.tracking._model_registry import utils as registry_utils
from mlflow.tracking._tracking_service import utils as tracking_utils

ALONE = threading.RLock()  # one thread at a time speaks to MLflow, in any number of workspaces
_INHERITED = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")  # set by MLflow for child processes


@contextmanager
def pointed_at(url: str) -> Iterator[None]:
    """Lets all of MLflow work on one registry.

    Guarantees: one thread at a time, so no two registrations mix; afterwards everything is as
        before, and what was not set is not set, in the environment as well.
    """
    with ALONE:
        tracking, registry = tracking_utils._tracking_uri, registry_utils._registry_uri
        inherited = {name: os.environ.get(name) for name in _INHERITED}
        try:
            tracking_utils.set_tracking_uri(url)
            registry_utils.set_registry_uri(url)
            yield
        finally:
            tracking_utils.set_tracking_uri(tracking)
            registry_utils.set_registry_uri(registry)
            for name, value in inherited.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
