"""What is claimed of a training: one object, whatever carries it.

A report, a version's tags, a model card and a lineage hold the same fields under the same names.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lethe.core.errors import FileDamaged
from lethe.core.files import RESTORE
from lethe.core.values import rounded_up
from lethe.privacy.accounting import epsilon_pld, epsilon_rdp
from lethe.privacy.release import Release


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What one person may lose by a training, and what that rests on.

    Attributes:
        epsilon_pld: at `delta`, by PLD.
        epsilon_rdp: at `delta`, by RDP; what the budget is held to.
        delta: the chance that is left out.
        unit: who is protected as one.
        adjacency: which two data sets must look alike.
        sampling: who is drawn in a step, and how.
        noise: of which law it is.
    """

    epsilon_pld: float
    epsilon_rdp: float
    delta: float
    unit: str
    adjacency: str
    sampling: str
    noise: str

    @classmethod
    def of(cls, release: Release, *, noise: str) -> "Claim":
        """The claim of what is released, as the accountants price it."""
        return cls(
            epsilon_pld=epsilon_pld([release.event], release.delta),
            epsilon_rdp=epsilon_rdp([release.event], release.delta),
            delta=release.delta,
            unit=release.unit,
            adjacency=release.adjacency,
            sampling=release.sampling,
            noise=noise,
        )

    def to_data(self) -> dict[str, Any]:
        """JSON-ready, by the names of reports and tags."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Claim":
        """The claim in a report or in a version's tags, among other facts.

        Versions of before discrete noise do not name their noise; it was Gaussian. Reports
        of the version before call the PLD epsilon `epsilon`.

        Raises:
            FileDamaged: a fact is missing or of another kind; a claim is not guessed.
        """
        older = "epsilon" in data and "epsilon_pld" not in data
        named = "epsilon" if older else "epsilon_pld"
        try:
            return cls(
                epsilon_pld=_number(data[named]),
                epsilon_rdp=_number(data["epsilon_rdp"]),
                delta=_number(data["delta"]),
                unit=_word(data["unit"]),
                adjacency=_word(data["adjacency"]),
                sampling=_word(data["sampling"]),
                noise=_word(data.get("noise", "gaussian")),
            )
        except (KeyError, ValueError, OverflowError) as error:
            raise FileDamaged(f"A privacy claim lacks or garbles {error}. {RESTORE}") from None

    def __str__(self) -> str:
        """The price in a line; never below what was paid."""
        return (
            f"epsilon {rounded_up(self.epsilon_pld)} (PLD), {rounded_up(self.epsilon_rdp)} (RDP) "
            f"at delta {self.delta:g} per {self.unit}"
        )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("a number")
    return float(value)


def _word(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a word")
    return value
