"""Where a training computes: its device, and the further processes that it starts."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

from lethe.config.params import Params
from lethe.core.ends import Ended
from lethe.core.errors import ProcessLost
from lethe.training import parallel
from lethe.training.wire import Place, device_of, joined, started


def resolve_device(declared: str) -> str:
    """Where a training in this process alone runs; see `wire.device_of`."""
    return device_of(declared, Place(0, 1, 0))


def device_again(trained_on: str) -> str:
    """The device that a model was trained on, if this machine has such a one; else the CPU."""
    return trained_on if device_of("auto", Place(0, 1, 0)) != "cpu" else "cpu"


@contextmanager
def leading(place: Place, params: Params) -> Iterator[parallel.Leader | None]:
    """The further processes of this training; None where it runs in this one alone."""
    processes = params.parallel.processes
    if place.size == 1 and processes == 1:
        yield None
        return
    declared = params.training.device
    command = (sys.executable, "-P", "-m", "lethe", "assist", declared)
    with nullcontext(place) if place.size > 1 else started(processes, command, params.root) as here:
        device = device_of(declared, here)
        with joined(here, device) as wire, _led(parallel.Leader(wire, device)) as leader:
            yield leader


@contextmanager
def _led(leader: parallel.Leader) -> Iterator[parallel.Leader]:
    try:
        yield leader
    except Ended:  # in the middle of a message: no other can be sent, so `started` ends them
        raise
    except BaseException:
        _let_go(leader)
        raise
    _let_go(leader)


def _let_go(leader: parallel.Leader) -> None:
    with suppress(ProcessLost):  # then there is nobody to let go
        leader.end()
