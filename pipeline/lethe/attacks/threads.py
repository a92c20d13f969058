"""The processes of a parallel training, played by threads of one, so that an audit can replay them.

What runs is the code of the parallel training itself, leader and helpers; only what carries
their words is another.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import replace

from torch import Tensor

from lethe.core.errors import ProcessLost
from lethe.training import parallel

_PATIENCE_SECONDS = 60.0


class Meeting:
    """Where the threads meet to exchange what they have."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=_PATIENCE_SECONDS)
        self.tensors: list[Tensor | None] = [None] * size
        self.numbers = [0] * size

    def wait(self) -> None:
        try:
            self.barrier.wait()
        except threading.BrokenBarrierError:
            raise ProcessLost("A thread of this replay ended.") from None


class ThreadWire:
    """A `Wire` between threads; nobody touches what was given before all have taken it."""

    def __init__(self, meeting: Meeting, rank: int, size: int) -> None:
        self._meeting, self.rank, self.size = meeting, rank, size

    @contextmanager
    def _exchanged(self, tensor: Tensor) -> Iterator[list[Tensor]]:
        self._meeting.tensors[self.rank] = tensor
        self._meeting.wait()
        yield [t for t in self._meeting.tensors if t is not None]
        self._meeting.wait()

    def broadcast(self, tensor: Tensor) -> None:
        with self._exchanged(tensor) as found:
            if self.rank:
                tensor.copy_(found[0])

    def reduce(self, tensor: Tensor) -> None:
        with self._exchanged(tensor) as found:
            if not self.rank:
                for other in found[1:]:
                    tensor.add_(other)

    def largest(self, number: int) -> int:
        self._meeting.numbers[self.rank] = number
        self._meeting.wait()
        found = max(self._meeting.numbers)
        self._meeting.wait()
        return found

    def gather(self, tensor: Tensor) -> list[Tensor]:
        with self._exchanged(tensor) as found:
            return [each.clone() for each in found]


@contextmanager
def helped(
    processes: int, task: parallel.Task, admission: parallel.Admission, *, device: str = "cpu"
) -> Iterator[parallel.Leader | None]:
    """The leader of `processes` - 1 threads that sum with it; None where there are none.

    Raises:
        ProcessLost: a thread ended by what is no error of the training's own.
    """
    if processes == 1:
        yield None
        return
    meeting = Meeting(processes)

    def help_out(rank: int, own: parallel.Task) -> None:
        done = False
        try:
            with suppress(ProcessLost):
                parallel.assist(ThreadWire(meeting, rank, processes), lambda *_: own, device=device)
            done = True
        finally:
            if not done:
                meeting.barrier.abort()

    leader = parallel.Leader(ThreadWire(meeting, 0, processes), device)
    with ThreadPoolExecutor(processes - 1) as pool:  # keeps what a helper raises to itself
        for rank in range(1, processes):
            pool.submit(help_out, rank, replace(task, model=deepcopy(task.model)))
        try:
            leader.begin({"run_id": admission.run_id}, admission.admitted)
            with leader.together():
                pass  # there is nothing to read: everybody has the task
            leader.agree(task)
            yield leader
        finally:
            with suppress(ProcessLost):
                leader.end()
            meeting.barrier.abort()
