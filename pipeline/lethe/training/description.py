"""What a model is, as `model.json` says it; read without PyTorch.

Guarantee: what such a file says is compared with what is declared, not followed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, JsonValue, TypeAdapter, with_config

from lethe.config.training import Training
from lethe.core.errors import FileDamaged, NotFound
from lethe.core.files import RESTORE, checked, json_bytes, parse_json
from lethe.data.encoding import Encoder

DESCRIPTION = "model.json"  # in a model's folder
WEIGHTS = "weights.safetensors"
_CLOSED = ConfigDict(extra="forbid", strict=True)


@with_config(_CLOSED)
@dataclass(frozen=True)
class Architecture:
    """All that is needed to build the model again."""

    model: str
    hidden: tuple[int, ...]
    features: int
    outputs: int

    @classmethod
    def of(cls, training: Training, *, features: int, outputs: int) -> "Architecture":
        return cls(training.model, tuple(training.hidden), features, outputs)

    def to_data(self) -> dict[str, Any]:
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Architecture":
        """Raises: FileDamaged: a field is missing, unknown or of another type."""
        return checked(_ARCHITECTURE, data, of="The architecture")


_ARCHITECTURE = TypeAdapter(Architecture)


@with_config(_CLOSED)
@dataclass(frozen=True)
class _Described:
    architecture: Architecture
    classes: tuple[str, ...]
    encoder: dict[str, JsonValue]
    plan: dict[str, JsonValue]
    run_id: str


_DESCRIBED = TypeAdapter(_Described)


@dataclass(frozen=True)
class Description:
    """What `model.json` says of a model. `plan` is as it was written; `Plan.from_data` checks it.

    A machine that serves models reads this too, and has no accountant.
    """

    architecture: Architecture
    classes: tuple[str, ...]
    encoder: Encoder
    plan: Mapping[str, Any]
    run_id: str

    @classmethod
    def from_bytes(cls, content: bytes, *, of: str = DESCRIPTION) -> "Description":
        """Raises: FileDamaged: a field is missing, unknown, of another type, or contradicts."""
        found = checked(_DESCRIBED, parse_json(content, of=of), of=of)
        encoder = Encoder.from_data(found.encoder)
        sizes = (len(encoder.names), encoder.outputs, encoder.classes)
        if sizes != (found.architecture.features, found.architecture.outputs, found.classes):
            raise FileDamaged(f"{of} has an architecture for another encoding. {RESTORE}")
        return cls(found.architecture, found.classes, encoder, found.plan, found.run_id)

    def to_bytes(self) -> bytes:
        """As `from_bytes` reads it."""
        return json_bytes(
            {
                "architecture": self.architecture.to_data(),
                "classes": list(self.classes),
                "encoder": self.encoder.to_data(),
                "plan": dict(self.plan),
                "run_id": self.run_id,
            }
        )

    @classmethod
    def read(cls, folder: Path) -> "Description":
        """Raises: NotFound: the folder has none. FileDamaged: as `from_bytes`."""
        return cls.from_bytes(content(folder / DESCRIPTION), of=str(folder / DESCRIPTION))

    def require(self, model: str, hidden: Sequence[int]) -> None:
        """Compares with what is declared, before anything is built of it.

        Raises:
            FileDamaged: it is a description of another model.
        """
        if (self.architecture.model, self.architecture.hidden) != (model, tuple(hidden)):
            raise FileDamaged(
                f"{DESCRIPTION} is not of the model that is declared ({model!r}). Nothing of it "
                "was loaded. Train again (lethe run) if params.yaml changed; else find out who "
                "wrote it."
            )


def content(path: Path) -> bytes:
    """A file of a model's folder. Raises: NotFound: it is not there."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist. Run lethe train first.") from None
