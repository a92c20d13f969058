"""Where a training that was killed goes on.

A checkpoint is private state of one reserved run: it stays in `.lethe/`, readable by its
owner, and goes when the run's model is complete. What was done after the last one is
done again with new draws and new noise; since nothing of it was released, the run costs
what its plan says, once.
"""

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.errors import TrainingRefused
from pipeline.training.optimizing import Updater
from pipeline.training.plan import Plan
from pipeline.workspace import write_whole


class Checkpoint:
    """The state of one run's training at one file."""

    def __init__(self, path: Path, plan: Plan, run_id: str) -> None:
        self._path, self._of = path, {"plan": plan.digest, "run_id": run_id}

    def save(self, step: int, model: nn.Module, updater: Updater) -> None:
        """Whole or not at all: a kill while writing leaves the checkpoint before."""
        buffer = io.BytesIO()
        state = {"step": step, "model": model.state_dict(), "updater": updater.state()}
        torch.save({**self._of, **state}, buffer)
        write_whole(self._path, buffer.getvalue(), private=True)

    def resume(self, model: nn.Module, updater: Updater) -> int:
        """Puts the saved state back; the number of steps done, 0 without a checkpoint.

        Raises:
            TrainingRefused: the checkpoint is of another plan, run or model, or damaged.
        """
        if not self._path.exists():
            return 0
        try:
            # weights_only: tensors and plain values, no code.
            state: dict[str, Any] = torch.load(self._path, weights_only=True)
            of = {name: state[name] for name in self._of}
        except (RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
            raise TrainingRefused(
                f"The checkpoint {self._path} cannot be read ({type(error).__name__}). Remove it "
                "to start the run's training again."
            ) from None
        if of != self._of:
            raise TrainingRefused(
                f"The checkpoint {self._path} is of another plan or run. Remove it to start this "
                "run's training from its first step."
            )
        try:
            model.load_state_dict(state["model"])
            updater.restore(state["updater"])
        except (RuntimeError, KeyError, ValueError):
            raise TrainingRefused(
                f"The checkpoint {self._path} is of another model or optimizer. Remove it to "
                "start this run's training from its first step."
            ) from None
        return int(state["step"])
