"""One run, examined in a process of its own: `python -m lethe.attacks.run QUESTION ANSWER`.

Guarantee: the process imports nothing that trains: no training loop, optimizer or engine. It has
    no keys, and begins in an empty folder, where no file of people could be read by its name.

It is asked by a JSON file, and answers checks by another: a network of one's own may print.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from pydantic import ConfigDict, JsonValue, TypeAdapter, with_config
from safetensors.torch import load
from torch import nn

from lethe.attacks.run import draws, noise_law, residuals
from lethe.attacks.run.fresh import check_fresh
from lethe.attacks.run.recompute import Recomputation
from lethe.attacks.run.recorded import Recorded, Unrecorded
from lethe.attacks.run.steps import RunStep
from lethe.attacks.run.sums import PersonSums
from lethe.attacks.statistics import Check, holds
from lethe.config.training import Training
from lethe.core.errors import ParamsInvalid
from lethe.core.files import parse_people, write_whole
from lethe.data.batches import PersonData, person_data
from lethe.data.encoding import Encoder
from lethe.data.shards import held_out_people
from lethe.privacy.plan import Plan
from lethe.training.description import Architecture
from lethe.training.models import LossFn, build_model, loss_for

RECORDED = "run.recorded"
_NETWORK = "the declared network is made anew of code and a public seed alone"
_GONE = (
    "there is a whole transcript of this run's steps. It is {what}: audited before with other "
    "weights, made elsewhere, or taken away. Train again (lethe run --force); that is charged"
)


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Question:
    """What is examined: files by their paths, and what is declared.

    Attributes:
        transcript: its folder, which need not be there.
        weights, manifest, shards: files: the released weights, who trained, and the records.
        root: of the workspace, where a module of the user's own lies.
        drawn_before: a folder of digests of what was drawn in this workspace's runs.
        operations: that sums of steps may cost.
    """

    run_id: str
    transcript: str
    weights: str
    manifest: str
    shards: tuple[str, ...]
    root: str
    drawn_before: str
    operations: float
    plan: dict[str, JsonValue]
    encoder: dict[str, JsonValue]
    training: Training

    def to_bytes(self) -> bytes:
        training = _TRAINING.dump_python(self.training, mode="json")
        return json.dumps({**vars(self), "training": training}).encode()


_QUESTION: TypeAdapter[Question] = TypeAdapter(Question)
_TRAINING: TypeAdapter[Training] = TypeAdapter(Training)


@dataclass(frozen=True)
class Examined:
    """What a look at the run is given.

    Attributes:
        recorded: clips and draws of every step.
        recomputation: `steps()` gives those whose releases are kept, with the weights before each.
    """

    question: Question
    plan: Plan
    encoder: Encoder
    recorded: Recorded
    recomputation: Recomputation

    @property
    def loss_fn(self) -> LossFn:
        return loss_for(self.encoder.outputs)

    @cached_property
    def data(self) -> PersonData:
        """Who trained, in the order that draws are positions in."""
        manifest = Path(self.question.manifest).read_bytes()
        return person_data(
            [Path(path) for path in self.question.shards],
            self.encoder,
            admitted=parse_people(manifest, of="The manifest"),
            records_per_person=self.plan.records_per_person,
        )

    def model(self) -> nn.Module:
        """A new one with the run's first weights."""
        return _built(self.question, self.plan, self.encoder)


def _noise(examined: Examined) -> list[Check]:
    """Of steps that nobody knew while it trained."""
    plan, recorded, again = examined.plan, examined.recorded, examined.recomputation
    random = np.random.default_rng()  # from the operating system's randomness
    model = examined.model()
    sums = PersonSums(model, examined.loss_fn, examined.data, seed=plan.initial_seed)
    first = RunStep(0, plan.clip_norm, recorded.draws[0], model.state_dict(), ())
    operations = examined.question.operations
    affordable = residuals.affordable_steps(sums, first, recorded.draws, operations)
    numbers = residuals.steps_to_look_at(plan, again.coordinates, affordable, again.kept, random)
    return residuals.check_residuals(plan, sums, again.steps(numbers), random=random)


def _draws(examined: Examined) -> list[Check]:
    paths = [Path(path) for path in examined.question.shards]
    return draws.check_draws(
        examined.plan,
        examined.data,
        held_out_people(paths),
        examined.recorded.draws,
        random=np.random.default_rng(),
    )


def _fresh(examined: Examined) -> list[Check]:
    asked, plan = examined.question, examined.plan
    found = check_fresh(
        Path(asked.drawn_before),
        asked.run_id,
        examined.recorded.draws,
        people=len(examined.data),
        rate=plan.sample_rate,
    )
    return [found]


Look = Callable[[Examined], Iterable[Check]]
# At the run's own steps, beside what recomputes its weights.
LOOKS: tuple[Look, ...] = (_draws, _fresh, _noise)
COVERS = ("run", draws.PREFIX, noise_law.PREFIX)


def main(asked: str, answer: str) -> None:
    question = _QUESTION.validate_json(Path(asked).read_bytes())
    checks = [check.to_data() for check in examine(question)]
    write_whole(Path(answer), json.dumps(checks, allow_nan=False).encode(), private=True)


def examine(question: Question) -> list[Check]:
    """The run's checks; where there is no whole transcript, that one alone."""
    plan, encoder = Plan.from_data(question.plan), Encoder.from_data(question.encoder)
    try:
        recorded = _recorded(question, plan)
        try:
            model = _built(question, plan, encoder)
        except ParamsInvalid as refusal:
            return [holds("run.network", False, meaning=f"{_NETWORK}. {refusal}")]
        released = load(Path(question.weights).read_bytes())
        again = Recomputation(recorded, plan, question.training.optimizer, model, released)
        examined = Examined(question, plan, encoder, recorded, again)
        looked = [check for look in LOOKS for check in look(examined)]
        checks = again.checks()  # of the one pass that the looks took
    except Unrecorded as error:
        return [holds(RECORDED, False, meaning=_GONE.format(what=error))]
    whole = holds(RECORDED, True, meaning="there is a whole transcript of this run's steps")
    network = holds("run.network", True, meaning=_NETWORK)
    return [whole, network, *checks, *looked]


def _recorded(question: Question, plan: Plan) -> Recorded:
    """Raises: Unrecorded: of another run or plan, or not whole."""
    if not Path(question.transcript).is_dir():
        raise Unrecorded("gone")
    recorded = Recorded(Path(question.transcript))
    if (recorded.about.run_id, recorded.about.plan) != (question.run_id, plan.digest):
        raise Unrecorded("of another run or plan")
    if recorded.about.steps != plan.steps:
        raise Unrecorded(f"of {recorded.about.steps} steps where the plan has {plan.steps}")
    if recorded.about.arithmetic is not None:  # how a sum is split decides how it is rounded
        torch.set_num_threads(recorded.about.arithmetic.threads)
    return recorded


def _built(question: Question, plan: Plan, encoder: Encoder) -> nn.Module:
    shape = Architecture.of(question.training, features=len(encoder.names), outputs=encoder.outputs)
    return build_model(shape, root=Path(question.root), seed=plan.initial_seed)
