"""The pipeline's stages, one file each; they never import each other."""

import importlib
from datetime import datetime
from typing import Any

from lethe.config import workspace
from lethe.config.home import of_a_run
from lethe.config.params import Params
from lethe.core.ends import Ended, ended_with_starters

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
    """Runs a stage on what the pipeline left for it in the workspace of `params`.

    Guarantee: nothing that DVC keeps is loaded before its bytes are those that `dvc.lock` names,
        also where somebody else's remote or cache gave them. Ended by a signal, it leaves nothing
        that has subject keys, unless the folder is a run's own.

    Raises:
        FileDamaged: an input has other bytes.
        LetheError: of the stage.
        Ended: a signal came, or the DVC that started it is gone.
    """
    # Not at the top: the command line asks for the names alone.
    from lethe.stores.dvc.inputs import verify_inputs

    root = params.root
    with workspace.working(root):
        try:
            with ended_with_starters():
                verify_inputs(root, name)
                stage = importlib.import_module(f"lethe.stages.{name}")
                made: dict[str, Any] = stage.run(params, now=now)
        except Ended:
            if not of_a_run(root):  # a run of its own goes on with it, or removes it
                workspace.remove_scratch(root)
            raise
    return made
