"""What it costs to say how many people a model has and how good it is: one charged release.

Whole numbers are counted, noise of the exact discrete Gaussian law is added to each, and all
figures that leave are worked out of those noisy counts. `lethe.training.figures` counts; this says
what one person can change, and the price.

A person counts as `unit` steps, however many records they have: a held-out person's records share
them, and so do a trained person's. In each group of counts that a person is in (the scores by
label, the held-out people, ...) the steps of one person add up to at most `unit`, so that their L2
norm is at most that, wherever their records fall. In `groups` groups they move the whole vector by
at most sqrt(groups) * unit. The noise has the parameter 2^24 steps, and `unit` is the largest whole
number for which that is at least the noise multiplier times what one person moves: so the release
is `GaussianDpEvent(noise_multiplier)`, by the proof in `lethe.privacy.noise.discrete`. There is
no rounding and no floating point in what is released.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import dp_accounting as dp
from pyroaring import BitMap

from lethe.config.params import Params
from lethe.core.errors import ParamsInvalid
from lethe.privacy.accounting import epsilon_pld, epsilon_rdp, solve_noise_multiplier
from lethe.privacy.plan import ADJACENCY, UNIT
from lethe.privacy.release import Release

MECHANISM = "figures"
_SAMPLING = "everybody, without sampling"
_SCALE = 1 << 24  # of the noise, in steps; a test compares it with the generator's
_SMOOTHING = 8  # as in lethe.privacy.noise.discrete


@dataclass(frozen=True, kw_only=True)
class FiguresPlan:
    """All that decides the privacy of the figures of one training, in public numbers.

    Attributes:
        noise_multiplier: the noise over what one person can move.
        delta: at which the claim is made.
        records_per_person: at most so many records of a person are counted.
        outputs: of the model; 1 where there are two classes.
    """

    noise_multiplier: float
    delta: float
    records_per_person: int
    outputs: int

    @property
    def groups(self) -> int:
        """In how many groups of counts one person is, at most.

        Held out: the scores by label (for several classes: those of each class, and who was
        right), and the people. Trained: the people, and the records.
        """
        return 2 if self.outputs == 1 else self.outputs + 2

    @property
    def unit(self) -> int:
        """As how many steps one person counts.

        Raises:
            ParamsInvalid: so much noise leaves nothing of a record.
        """
        room = math.sqrt(_SCALE**2 - _SMOOTHING**2)
        found = math.floor(room / (self.noise_multiplier * math.sqrt(self.groups)))
        if found < 16 * self.records_per_person:
            raise ParamsInvalid(
                f"reporting.epsilon asks for noise {self.noise_multiplier:g}, in which "
                f"{self.records_per_person} records of a person cannot be counted. Raise it, or "
                "declare 0: then no figure leaves."
            )
        return found

    @property
    def event(self) -> dp.DpEvent:
        return dp.GaussianDpEvent(self.noise_multiplier)

    def release(self, subjects: BitMap) -> Release:
        """The figures as what is charged to everybody who may move them, held out or trained."""
        declared = json.dumps([MECHANISM, asdict(self)], sort_keys=True)
        return Release(
            event=self.event,
            unit=UNIT,
            adjacency=ADJACENCY,
            sampling=_SAMPLING,
            mechanism=MECHANISM,
            digest=hashlib.sha256(declared.encode()).hexdigest(),
            delta=self.delta,
            records_per_person=self.records_per_person,
            subjects=subjects,
        )

    def price(self) -> dict[str, Any]:
        """What the figures alone cost each person whom they may be about."""
        return {
            "delta": self.delta,
            "epsilon_pld": epsilon_pld([self.event], self.delta),
            "epsilon_rdp": epsilon_rdp([self.event], self.delta),
            "noise_multiplier": self.noise_multiplier,
        }


def figures_plan(params: Params, *, records_per_person: int, outputs: int) -> FiguresPlan | None:
    """The plan of `reporting.epsilon`, by PLD at the budget's delta; None where no figure leaves.

    Raises:
        ParamsInvalid: no noise reaches the declared epsilon.
    """
    if not params.reporting.epsilon:
        return None
    delta = params.budget.delta
    return FiguresPlan(
        noise_multiplier=solve_noise_multiplier(1.0, 1, params.reporting.epsilon, delta, "pld"),
        delta=delta,
        records_per_person=records_per_person,
        outputs=outputs,
    )


def with_figures(release: Release, figures: FiguresPlan | None) -> Release:
    """A training's release together with that of its figures: what one training costs in all."""
    if figures is None:
        return release
    return replace(release, event=dp.ComposedDpEvent([release.event, figures.event]))
