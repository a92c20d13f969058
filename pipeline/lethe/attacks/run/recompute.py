"""Are the released weights what the run's noisy releases make of public first weights?

From weights that are built anew of the public seed, what left in each step, and the declared
optimizer, the released weights are made once more. Whatever else touched them is a difference:
a step more or less, a tensor that was changed, an average or a momentum of what was not noised.

Where the same kind of processor trained and audits, nothing may differ, to the last bit. Elsewhere
(trained on a GPU, audited without) each float32 operation may round otherwise: in every step a
weight may be off by its own last bit and by a few of its update's. That is `OwnOptimizer.slack`.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from lethe.attacks.run.lengths import Lengths
from lethe.attacks.run.own_optimizer import EPSILON, OwnOptimizer
from lethe.attacks.run.recorded import Recorded, Unrecorded
from lethe.attacks.run.steps import RunStep
from lethe.attacks.statistics import Check, at_most
from lethe.config.training import Optimizer
from lethe.privacy.plan import Plan
from lethe.training.transcript import MODEL, UPDATER

_START_SLACK = 64 * EPSILON  # of the largest: a seed's first weights on another processor
_MEANS_SLACK = 2.0**-12  # likewise of the optimizer's moving means, the longest of 1,000 steps
_CLIP_SLACK = 1e-9  # exp() of another library
_CLIP_RANGE = 1e4  # how far an adaptive clip may go from the first: the plan's promise


@dataclass
class _Found:
    """What differs, counted: numbers of tensors, and steps."""

    weights: int = 0
    clips: int = 0
    slack: list[float] = field(default_factory=list)


class Recomputation:
    """One run, taken again from its transcript.

    Args:
        model: with the first weights, built anew.
        released: the weights and buffers in the model's folder, by name.
    """

    def __init__(
        self,
        recorded: Recorded,
        plan: Plan,
        optimizer: Optimizer,
        model: nn.Module,
        released: Mapping[str, Tensor],
    ) -> None:
        self._recorded, self._plan, self._optimizer = recorded, plan, optimizer
        self._first = {n: t.detach().clone() for n, t in model.state_dict().items()}
        self._names = [n for n, p in model.named_parameters() if p.requires_grad]
        self._place = _places(model, self._names)
        self._released = dict(released)
        self._found: _Found | None = None
        self._lengths = Lengths(plan, self.coordinates)
        count = plan.adaptive is not None
        if recorded.about.numbers != self.coordinates + count:
            raise Unrecorded("of another model")

    def checks(self) -> list[Check]:
        """What the steps make, taken once: here, if `steps` was not asked for to its end.

        Raises: Unrecorded: a part of the transcript is missing or damaged.
        """
        if self._found is None:
            for _ in self.steps(()):
                pass
        found = self._found or _Found()
        start = self._recorded.start()
        slack = 0.0 if self._recorded.same_build else _START_SLACK
        return [
            at_most(
                "run.start",
                _apart_by_name(self._first, start, slack),
                0,
                meaning="the first weights are those of the plan's public seed, built anew",
            ),
            at_most(
                "run.begun",
                self._recorded.begun_again,
                0,
                meaning="one training was begun under its charge, and begun again only where its "
                "process had been killed: nobody chose the best of several",
            ),
            at_most(
                "run.clip",
                found.clips + self._constant_clips(),
                0,
                meaning="every step clipped at the plan's norm, or where its noisy count moved it",
            ),
            at_most(
                "run.weights",
                found.weights,
                0,
                meaning="the released weights are what the noisy releases of the run's steps make "
                "of the first ones by the declared optimizer, and nothing else touched them"
                f"{self._how_exactly()}",
            ),
            at_most(
                "run.chained",
                self._recorded.unchained(),
                0,
                meaning="each part of the run, kept or not, began with the weights and the state "
                "with which the part before it ended",
            ),
            self._taken_again(),
            *self._lengths.checks(),
        ]

    def _taken_again(self) -> Check:
        recorded, kept = self._recorded, len(self.kept)
        others = (recorded.about.steps - 1) // recorded.about.segment
        missed = 1 - (len(recorded.segments) - 1) / others if others else 0.0
        return at_most(
            "run.taken_again",
            missed,
            1.0,
            meaning=f"of {recorded.about.steps} steps {kept} were kept and taken again; another "
            "part of the run, drawn after it was over, is missed with this probability",
        )

    def _how_exactly(self) -> str:
        other = self._recorded.rounded_otherwise
        if not other:
            return ", to the last bit"
        return f", but for float32's roundings: it was trained and recomputed by {other}"

    def steps(self, numbers: Collection[int] | None = None) -> Iterator[RunStep]:
        """Those of the steps whose releases are kept, in their order; all of them by default.

        To its end, the whole run is taken again; `checks` says what came of it.
        """
        found, self._lengths = _Found(), Lengths(self._plan, self.coordinates)
        yield from self._taken(found, keep=None if numbers is None else frozenset(numbers))
        self._found = found

    @property
    def coordinates(self) -> int:
        """The model's trainable numbers."""
        return sum(self._first[name].numel() for name in self._names)

    @property
    def kept(self) -> list[int]:
        """The steps whose releases are kept."""
        recorded = self._recorded
        return [number for each in recorded.segments for number in recorded.numbers(each)]

    def _taken(self, found: _Found, keep: Collection[int] | None) -> Iterator[RunStep]:
        recorded, again, after = self._recorded, None, -1
        last = recorded.segments[-1]
        for segment in recorded.segments:
            if again is None or segment != after:
                again = self._begun(segment)
            clip = recorded.clips[recorded.numbers(segment)[0]]
            for number, row in recorded.releases(segment):
                found.clips += not math.isclose(recorded.clips[number], clip, rel_tol=_CLIP_SLACK)
                step = self._step(number, row, again.weights)
                self._lengths.at(step)
                if keep is None or number in keep:
                    yield self._copied(step)
                again.step([each / self._plan.expected_batch_size for each in step.release])
                clip = self._next_clip(recorded.clips[number], step.count)
            after = segment + 1
            if segment != last:
                following = recorded.clips[recorded.numbers(after)[0]]
                found.clips += not math.isclose(following, clip, rel_tol=_CLIP_SLACK)
                found.weights += self._apart_at(after, again)
        if again is not None:
            found.weights += self._apart_at_end(again)

    def _begun(self, segment: int) -> OwnOptimizer:
        """Before a segment: of the first weights, or of what was recorded after a gap."""
        steps, slack = self._plan.steps, self._recorded.same_build
        if segment == 0:
            again = OwnOptimizer(self._optimizer, steps, [self._first[n] for n in self._names])
            if not slack:
                again.slack = [_START_SLACK * _largest(w) for w in again.weights]
            return again
        state = self._recorded.state(segment)
        if state is None:
            raise Unrecorded(f"without the state before segment {segment}")
        try:
            weights = [state[f"{MODEL}{name}"] for name in self._names]
            again = OwnOptimizer(self._optimizer, steps, weights)
            own = {n.removeprefix(UPDATER): t for n, t in state.items() if n.startswith(UPDATER)}
            again.restore(own, done=self._recorded.numbers(segment)[0])
        except LookupError:
            raise Unrecorded(f"with the state of another optimizer before {segment}") from None
        return again

    def _step(self, number: int, row: Tensor, weights: list[Tensor]) -> RunStep:
        sizes = [weight.numel() for weight in weights]
        parts = row[: sum(sizes)].split(sizes)
        release = tuple(p.view(w.shape) for p, w in zip(parts, weights, strict=True))
        count = float(row[-1]) if self._plan.adaptive is not None else None
        moved = {name: weights[place] for name, place in self._place.items()}
        clip, drawn = self._recorded.clips[number], self._recorded.draws[number]
        return RunStep(number, clip, drawn, {**self._first, **moved}, release, count)

    def _copied(self, step: RunStep) -> RunStep:
        """Of its own: the weights move on."""
        weights = {n: t.clone() if n in self._place else t for n, t in step.weights.items()}
        return RunStep(step.number, step.clip_norm, step.drawn, weights, step.release, step.count)

    def _constant_clips(self) -> int:
        """Steps, kept or not, whose clip the plan does not allow."""
        plan, clips = self._plan, self._recorded.clips
        if plan.adaptive is None:
            return sum(clip != plan.clip_norm for clip in clips)
        far = sum(
            not plan.clip_norm / _CLIP_RANGE <= c <= plan.clip_norm * _CLIP_RANGE for c in clips
        )
        return far + (clips[0] != plan.clip_norm)

    def _next_clip(self, clip: float, count: float | None) -> float:
        """Andrew et al. (2021), algorithm 1, of the count as it was released."""
        adaptive, first = self._plan.adaptive, self._plan.clip_norm
        if adaptive is None or count is None:
            return clip
        within = count / self._plan.expected_batch_size + 0.5
        moved = clip * math.exp(-adaptive.learning_rate * (within - adaptive.quantile))
        return min(max(moved, first / _CLIP_RANGE), first * _CLIP_RANGE)

    def _apart_at(self, segment: int, again: OwnOptimizer) -> int:
        """What differs before a segment, where its state was recorded."""
        state = self._recorded.state(segment)
        if state is None:
            raise Unrecorded(f"without the state before segment {segment}")
        exact, made = self._recorded.same_arithmetic, again.state()
        apart = 0
        for name, tensor in self._first.items():
            there = state.get(f"{MODEL}{name}")
            at = self._place.get(name)
            slack = 0.0 if exact else _START_SLACK * _largest(tensor)
            if at is not None:
                tensor, slack = again.weights[at], 0.0 if exact else again.slack[at]
            apart += _apart(tensor, there, slack)
        for name, tensor in made.items():
            slack = 0.0 if exact else _MEANS_SLACK * _largest(tensor)
            apart += _apart(tensor, state.get(f"{UPDATER}{name}"), slack)
        return apart

    def _apart_at_end(self, again: OwnOptimizer) -> int:
        """What differs between the recomputed weights and those in the model's folder."""
        expected, slack = dict(self._first), dict.fromkeys(self._first, 0.0)
        if not self._recorded.same_build:
            slack = {name: _START_SLACK * _largest(t) for name, t in self._first.items()}
        made, exact = again.released(), self._recorded.same_arithmetic
        for name, place in self._place.items():
            expected[name], slack[name] = made[place], 0.0 if exact else again.slack[place]
        strange = len(self._released.keys() - expected.keys())
        return strange + sum(
            _apart(tensor, self._released.get(name), slack[name])
            for name, tensor in expected.items()
        )


def _places(model: nn.Module, names: Sequence[str]) -> dict[str, int]:
    """Where each trained parameter is, by all of its names: tied weights have two."""
    at = {id(model.get_parameter(name)): place for place, name in enumerate(names)}
    every = model.named_parameters(remove_duplicate=False)
    return {name: at[id(p)] for name, p in every if id(p) in at}


def _apart_by_name(made: Mapping[str, Tensor], found: Mapping[str, Tensor], slack: float) -> int:
    """How many numbers differ by more than `slack` of the largest of their tensor."""
    strange = len(found.keys() - made.keys())
    return strange + sum(
        _apart(t, found.get(name), slack * _largest(t)) for name, t in made.items()
    )


def _apart(made: Tensor, found: Tensor | None, slack: float) -> int:
    if found is None or found.shape != made.shape or found.dtype != made.dtype:
        return max(1, made.numel())
    near = (found.double() - made.double()).abs() <= slack
    return int((~((found == made) | near)).sum())  # what is infinite is equal, and not near


def _largest(tensor: Tensor) -> float:
    """Of what is finite: a mask of a network may be infinite."""
    finite = tensor.double()[tensor.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0
