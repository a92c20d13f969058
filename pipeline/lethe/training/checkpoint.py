"""Where a training that was killed goes on.

A checkpoint is private state of one reserved run: it stays in `.lethe/`, readable by its
owner, and goes when the run's model is complete. It holds weights and the optimizer's
state, as JSON and safetensors, and no key; steps after it are done again, with new draws and
new noise.

Why that costs nothing more: of the steps that are done again only one result is released,
since the other died with its process. What is left of the other is that it was killed. So
a run may be killed for any reason that does not depend on its draws or noise: power, an
operator, memory (which `physical_batch` bounds, however many people are drawn). A training
that ends by what it drew, that is by `NotFinite`, is not gone on with: it is settled, and
another attempt is another run, charged for itself.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict, JsonValue, TypeAdapter, with_config
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from lethe.core.errors import FileDamaged, TrainingRefused
from lethe.core.files import checked, parse_json, write_whole
from lethe.privacy.plan import Plan
from lethe.training.optimizer import Updater

_MAGIC = b"lethe checkpoint 2\n"
_DIGEST_BYTES = 32
_LENGTH_BYTES = 8
_REMOVE = (
    "Remove it to start this run's training from its first step. That is not charged again, unless "
    "its last step had been taken: then the run is over, and the next is another charge."
)


@with_config(ConfigDict(extra="forbid", strict=True))
@dataclass(frozen=True)
class _Words:
    """What a checkpoint says beside its tensors."""

    plan: str
    run_id: str
    step: int
    clip_norm: float
    updater: dict[str, JsonValue]


_WORDS = TypeAdapter(_Words)


@dataclass(frozen=True)
class Resumed:
    """Steps done, and the clip of the next."""

    step: int
    clip_norm: float


class Checkpoint:
    """The state of one run's training at one file."""

    def __init__(self, path: Path, plan: Plan, run_id: str) -> None:
        self._path, self._of = path, (plan.digest, run_id)

    def save(self, step: int, model: nn.Module, updater: Updater, *, clip_norm: float) -> None:
        """Whole or not at all: a kill while writing leaves the checkpoint before."""
        kept, said = updater.state()
        words = json.dumps(asdict(_Words(*self._of, step, clip_norm, said))).encode()
        tensors = {
            **{f"model.{name}": tensor for name, tensor in model.state_dict().items()},
            **{f"updater.{name}": tensor for name, tensor in kept.items()},
        }
        content = len(words).to_bytes(_LENGTH_BYTES, "little") + words
        content += save({n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()})
        whole = _MAGIC + hashlib.sha256(content).digest() + content
        write_whole(self._path, whole, private=True)

    def resume(self, model: nn.Module, updater: Updater) -> "Resumed | None":
        """Puts the saved state back and says where it stood; None without a checkpoint.

        Raises:
            TrainingRefused: the checkpoint is of another plan, run or model, or damaged.
        """
        if not self._path.exists():
            return None
        words, tensors = self._read()
        if (words.plan, words.run_id) != self._of:
            raise TrainingRefused(
                f"The checkpoint {self._path} is of another plan or run. {_REMOVE}"
            )
        try:
            model.load_state_dict(_under("model.", tensors))
            updater.restore(_under("updater.", tensors), words.updater)
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError):
            raise TrainingRefused(
                f"The checkpoint {self._path} is of another model or optimizer. {_REMOVE}"
            ) from None
        return Resumed(words.step, words.clip_norm)

    def _read(self) -> tuple[_Words, dict[str, Tensor]]:
        content = self._path.read_bytes()
        start = len(_MAGIC) + _DIGEST_BYTES
        digest, payload = content[len(_MAGIC) : start], content[start:]
        if not content.startswith(_MAGIC) or hashlib.sha256(payload).digest() != digest:
            raise TrainingRefused(
                f"The checkpoint {self._path} is damaged or of another version, and cannot be "
                f"read. {_REMOVE}"
            )
        end = _LENGTH_BYTES + int.from_bytes(payload[:_LENGTH_BYTES], "little")
        try:
            words = parse_json(payload[_LENGTH_BYTES:end], of=str(self._path))
            return checked(_WORDS, words, of=str(self._path)), load(payload[end:])
        except (FileDamaged, SafetensorError, ValueError, LookupError) as error:
            raise TrainingRefused(
                f"The checkpoint {self._path} cannot be read ({type(error).__name__}): it holds "
                "what no checkpoint holds. Remove it, and find out who wrote it."
            ) from None


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
