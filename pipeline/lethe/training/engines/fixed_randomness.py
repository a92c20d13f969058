"""A pass in which every random number is the same constant, so that passes of two sizes compare.

With it dropout lets everything through, scaled as ever. What a random number was made of is not
seen so: passes of one size, seeded alike, show that.
"""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_SEED = 20_260_101
_ALONE = threading.RLock()  # there is one generator for all threads of a process


class FixedRandomness(TorchDispatchMode):
    """A context: bernoulli gives 1, uniform and normal numbers are 1/2, whole ones the least."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return made
        name = func.overloadpacket.__name__
        if name == "native_dropout":
            given, p, train = (*args, True)[:3]
            kept = torch.ones_like(given, dtype=torch.bool)
            return (given / (1 - p) if train and p < 1 else given.clone()), kept
        if isinstance(made, Tensor):
            _fix(name, func._overloadname, args, made)
        return made


def _fix(name: str, overload: str, args: Any, made: Tensor) -> None:
    if name == "randperm":
        made.copy_(torch.arange(made.numel() - 1, -1, -1, device=made.device))
    elif name.startswith("bernoulli"):
        made.fill_(1)
    elif made.is_floating_point():
        made.fill_(0.5)
    else:
        made.fill_(args[0] if overload.startswith("low") else 0)


@contextmanager
def seeded() -> Iterator[None]:
    """Public randomness, the same in every pass; what the process had before goes on after it."""
    with _ALONE:
        yield from _seeded()


def _seeded() -> Iterator[None]:
    numbers, others, own = np.random.get_state(), random.getstate(), torch.get_rng_state()
    on_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    # Not torch.manual_seed: without a GPU that leaves a note of itself for each call.
    torch.default_generator.manual_seed(_SEED)
    if on_cuda:
        torch.cuda.manual_seed_all(_SEED)
    np.random.seed(_SEED)
    random.seed(_SEED)
    try:
        yield
    finally:
        torch.set_rng_state(own)
        if on_cuda:
            torch.cuda.set_rng_state_all(on_cuda)
        np.random.set_state(numbers)
        random.setstate(others)
