"""Where a training that was killed goes on.

A checkpoint is private state of one reserved run: it stays in `.lethe/`, readable by its
owner, and goes when the run's model is complete. It holds weights and the optimizer's
state, no key; steps after it are done again, with new draws and new noise.

Why that costs nothing more: of the steps that are done again only one telling is released,
since the other died with its process. What is left of the other is that it was killed. So
a run may be killed for any reason that does not depend on its draws or noise: power, an
operator, memory (which `physical_batch` bounds, however many people are drawn). A training
that ends by what it drew, that is by `NotFinite`, is not gone on with: it is settled, and
another attempt is another run, charged for itself.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from lethe.core.errors import TrainingRefused
from lethe.core.files import write_whole
from lethe.privacy.plan import Plan
from lethe.training.optimizer import Updater

_MAGIC = b"lethe checkpoint 1\n"
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Resumed:
    """Steps done, and the clip of the next."""

    step: int
    clip_norm: float


class Checkpoint:
    """The state of one run's training at one file."""

    def __init__(self, path: Path, plan: Plan, run_id: str) -> None:
        self._path, self._of = path, {"plan": plan.digest, "run_id": run_id}

    def save(self, step: int, model: nn.Module, updater: Updater, *, clip_norm: float) -> None:
        """Whole or not at all: a kill while writing leaves the checkpoint before."""
        buffer = io.BytesIO()
        state = {
            "step": step,
            "clip_norm": clip_norm,
            "model": model.state_dict(),
            "updater": updater.state(),
        }
        torch.save({**self._of, **state}, buffer)
        content = buffer.getvalue()
        whole = _MAGIC + hashlib.sha256(content).digest() + content
        write_whole(self._path, whole, private=True)

    def resume(self, model: nn.Module, updater: Updater) -> "Resumed | None":
        """Puts the saved state back and says where it stood; None without a checkpoint.

        Raises:
            TrainingRefused: the checkpoint is of another plan, run or model, or damaged.
        """
        if not self._path.exists():
            return None
        state = self._read()
        if {name: state.get(name) for name in self._of} != self._of:
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
        return Resumed(int(state["step"]), float(state["clip_norm"]))

    def _read(self) -> dict[str, Any]:
        content = self._path.read_bytes()
        start = len(_MAGIC) + _DIGEST_BYTES
        digest, payload = content[len(_MAGIC) : start], content[start:]
        if not content.startswith(_MAGIC) or hashlib.sha256(payload).digest() != digest:
            raise TrainingRefused(
                f"The checkpoint {self._path} is damaged or of another version, and cannot be "
                "read. Remove it to start this run's training from its first step; that is not "
                "charged again."
            )
        try:
            # weights_only: tensors and plain values, no code.
            state: dict[str, Any] = torch.load(io.BytesIO(payload), weights_only=True)
        except (RuntimeError, UnpicklingError) as error:
            raise TrainingRefused(
                f"The checkpoint {self._path} cannot be read ({type(error).__name__}): it holds "
                "what no checkpoint holds. Remove it, and find out who wrote it."
            ) from None
        return state
