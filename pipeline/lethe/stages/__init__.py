"""The pipeline's stages, one file each; they never import each other."""

import importlib
from datetime import datetime
from pathlib import Path
from typing import Any

from lethe.config.params import Params

STAGES = (
    "minimize",
    "consent",
    "pseudonymize",
    "validate",
    "budget",
    "train",
    "audit",
    "register",
)


def run_stage(name: str, params: Params, *, now: datetime) -> dict[str, Any]:
    """Runs a stage on what the pipeline left for it in the working directory.

    Guarantee: nothing that DVC keeps is loaded before its bytes are those that `dvc.lock` names,
        also where somebody else's remote or cache gave them.

    Raises:
        FileDamaged: an input has other bytes.
        LetheError: of the stage.
    """
    # Not at the top: the command line asks for the names alone.
    from lethe.stores.dvc.inputs import verify_inputs

    verify_inputs(Path.cwd(), name)
    made: dict[str, Any] = importlib.import_module(f"lethe.stages.{name}").run(params, now=now)
    return made
