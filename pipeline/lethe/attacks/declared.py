"""What `params.yaml` alone makes, which the files of a run must equal: no data decides them."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from lethe.config.params import Params
from lethe.config.training import Training
from lethe.core.errors import LetheError
from lethe.data.encoding import Encoder
from lethe.training.description import Architecture, Description
from lethe.training.trainer import Planned
from lethe.training.trainers import trainer_of

_NOWHERE = Path(os.devnull) / "nothing"  # no file is found from there


@dataclass(frozen=True)
class Declared:
    """Encoding and plan by the functions that budget uses, called where no data can be found."""

    training: Training
    encoder: Encoder
    plan: Planned

    @classmethod
    def of(cls, params: Params) -> "Declared | None":
        """None where they cannot be made of the declarations alone."""
        bare = replace(params, root=_NOWHERE)
        try:
            plan = trainer_of(bare.training).plan(bare)
            return cls(bare.training, Encoder.from_params(bare), plan)
        except (LetheError, OSError):
            return None

    def description(self, run_id: str) -> Description:
        """`model.json` of a run: nothing but its id is of the run."""
        encoder = self.encoder
        architecture = Architecture.of(
            self.training, features=len(encoder.names), outputs=encoder.outputs
        )
        return Description(architecture, encoder.classes, encoder, self.plan.to_data(), run_id)
