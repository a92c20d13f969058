"""Random numbers of a network's own (dropout), so that whoever knows the step can make them again.

In a pass in which a network trains, what it draws is a function of public numbers: the plan's
seed, the step, the person, which draw of the pass it is, and the place in it. So a step's sum can
be computed anew, on any processor, in any parts, person by person.

Guarantee: what is drawn for one person does not depend on who else is in the step. That the
    numbers are public costs nothing: people are clipped and noised whatever a dropout lets through,
    and these numbers have no part in draws and noise.

The numbers are those of SplitMix64 (Steele, Lea and Flood 2014, OOPSLA), whole ones, alike on all
processors.
"""

import hashlib
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lethe.core.errors import TrainingRefused

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_ROWS = (
    "Let it draw a row for each record, records along the first axis (batch_first=True), by "
    "torch's dropout, rand, randn, bernoulli or exponential; or leave it out"
)

Tokens = npt.NDArray[np.uint32]


class PersonRandomness(TorchDispatchMode):
    """A context of one step's passes.

    Args:
        seed: public, of the plan.
        number: of the step.
        tokens: of the people who pass, in their order; `part_of_people` says who of them do now.

    Raises, in a pass:
        TrainingRefused: the network draws by what cannot be made again, or no row a record.
    """

    def __init__(self, seed: int, number: int, tokens: Tokens) -> None:
        super().__init__()
        digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
        first = int.from_bytes(digest[:8], "little")
        own = torch.from_numpy(tokens.astype(np.int64)) ^ _signed(first)
        self._keys = self._passing = _mixed(own)
        self._draws = 0

    def __enter__(self) -> "PersonRandomness":
        _stack().append(self)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _stack().pop()

    @contextmanager
    def only(self, part: slice) -> Iterator[None]:
        """A pass of some of the people."""
        before = self._passing, self._draws
        self._passing, self._draws = self._keys[part], 0
        try:
            yield
        finally:
            self._passing, self._draws = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return made
        name = func.overloadpacket.__name__.removesuffix("_").removesuffix("_like")
        if name == "native_dropout":
            given, p, train = (*args, True)[:3]
            if not train or not 0 < p < 1:
                return made
            kept = self.bernoulli(given, 1 - p)  # a GPU's dropout is what a CPU's is
            return given * kept / (1 - p), kept
        if not isinstance(made, Tensor) or name not in _LAWS:
            raise TrainingRefused(f"The model draws by torch's {name}. {_ROWS}.")
        if name == "normal" and isinstance(args[-1], Tensor):
            name = "normal of other numbers"
        others = [a for a in args[1:] if isinstance(a, float | int | Tensor)]
        if name == "bernoulli" and func._overloadname == "default":
            others = [args[0]]
        values = _LAWS[name](self, made, *(others if name not in ("rand", "randn") else ()))
        return made.copy_(values)

    def _bits(self, like: Tensor) -> Tensor:
        """int64 in the shape of `like`: each person's own, whoever else passes."""
        people, draw = len(self._passing), self._draws
        self._draws += 1
        if not like.ndim or (people and len(like) % people) or (like.numel() and not people):
            raise TrainingRefused(
                f"The model draws random numbers of shape {tuple(like.shape)}, not of its records. "
                f"{_ROWS}."
            )
        each = like.numel() // max(1, people)
        keys = _mixed(self._passing + _signed((draw + 1) * _GOLDEN)).to(like.device)
        places = torch.arange(1, each + 1, device=like.device).mul_(_signed(_GOLDEN))
        return _mixed(keys[:, None] + places).view(like.shape)

    def _uniform(self, like: Tensor) -> Tensor:
        """float64 in (0, 1)."""
        return _shift(self._bits(like), 11).double().add_(0.5).mul_(2.0**-53)

    def bernoulli(self, like: Tensor, p: float | Tensor = 0.5) -> Tensor:
        whole = _shift(self._bits(like), 11)
        if isinstance(p, Tensor):
            return whole.double().add_(0.5).mul_(2.0**-53) < p
        return whole < math.floor(p * 2.0**53)

    def uniform(self, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        short = _shift(self._bits(like), 40).double() * 2.0**-24  # whole as a float32, too
        return (low + (high - low) * short).float()

    def normal(self, like: Tensor, mean: float = 0.0, deviation: float = 1.0) -> Tensor:
        radius = self._uniform(like).log_().mul_(-2.0).sqrt_()
        turned = self._uniform(like).mul_(2.0 * math.pi).cos_()
        return (mean + deviation * radius * turned).float()

    def exponential(self, like: Tensor, rate: float = 1.0) -> Tensor:
        return (self._uniform(like).log_() / -rate).float()


_LAWS: dict[str, Any] = {
    "bernoulli": PersonRandomness.bernoulli,
    "exponential": PersonRandomness.exponential,
    "normal": PersonRandomness.normal,
    "rand": PersonRandomness.uniform,
    "randn": PersonRandomness.normal,
    "uniform": PersonRandomness.uniform,
}
_local = threading.local()


def _stack() -> list[PersonRandomness]:
    if not hasattr(_local, "stack"):
        _local.stack = []
    found: list[PersonRandomness] = _local.stack
    return found


@contextmanager
def part_of_people(part: slice) -> Iterator[None]:
    """In an engine, around each pass: which of the people it was given pass now."""
    stack = _stack()
    if not stack:
        yield
        return
    with stack[-1].only(part):
        yield


def draws_at_random(model: nn.Module, records: Tensor) -> bool:
    """Whether the model draws by torch as it trains, tried on some records."""
    seen = _Seen()
    was_training = model.training
    model.train()
    try:
        with torch.no_grad(), seen:
            model(records)
    finally:
        model.train(was_training)
    return seen.found


class _Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found |= torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def _signed(number: int) -> int:
    """Modulo 2^64, as int64 has it."""
    number %= 1 << 64
    return number - (1 << 64) if number >> 63 else number


def _shift(bits: Tensor, by: int) -> Tensor:
    """In place, to the right, zeros from the left."""
    return bits.bitwise_right_shift_(by).bitwise_and_((1 << (64 - by)) - 1)


def _mixed(bits: Tensor) -> Tensor:
    for by, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
        bits = _shift(bits.clone(), by).bitwise_xor_(bits).mul_(_signed(factor))
    return bits
