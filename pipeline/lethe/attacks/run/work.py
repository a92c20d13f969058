"""How much work a computation is, counted and not timed: the same on any machine, busy or not."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

CALL = 20_000  # of one call, however small: what a processor does in the meantime


class Work(TorchDispatchMode):
    """A context that counts operations: those of products, else a value read or written.

    Attributes:
        operations: so far, beside what each call costs, however small.
        calls: so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        formula = flop_registry.get(packet)
        if formula is not None:
            self.operations += int(formula(*args, **(kwargs or {}), out_val=made))
        # Of a part of something large, the large one is not read.
        partial = func.is_view or packet.__name__.startswith("index")
        values = tree_leaves(made if partial else (args, made))
        given = [t.numel() for t in values if isinstance(t, Tensor)]
        largest = max(given, default=0)
        if "rnn" in packet.__name__ and isinstance(args[0], Tensor):  # each weight for each row
            largest *= max(1, args[0].numel() // max(1, args[0].shape[-1]))
        self.operations += largest
        self.calls += 1
        return made


def counted(function: Any, *args: Any) -> Work:
    """Of one call."""
    with Work() as work, torch.enable_grad():
        function(*args)
    return work
