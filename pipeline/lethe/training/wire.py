"""How the processes of one training find and reach each other.

Two ways to start them, one to talk. Under `torchrun` the launcher has started them and its
store introduces them to each other. Else the leading process starts the others itself, on
this machine, and they meet at a file in a folder of the owner's alone and talk over the
loopback interface: no port is opened to the network.

What passes between them is not private: draws, exact sums, weights before release. Over
several machines it travels unencrypted, so their network must be the operator's own.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from lethe.config import workspace
from lethe.core.children import environment_without_keys
from lethe.core.ends import Ended
from lethe.core.errors import ProcessLost, TrainingRefused

# Longer than any step, and than reading the data. A process that hangs ends the training then;
# one that dies ends it at once.
PATIENCE = timedelta(minutes=10)
_GRACE_SECONDS = 10.0
_MEETING = "LETHE_MEETING"  # the file at which processes meet that a leader started


class Wire(Protocol):
    """What every process calls together with all others; `rank` 0 leads.

    Raises:
        ProcessLost: another process ended, or did not answer within `PATIENCE`.
    """

    rank: int
    size: int

    def broadcast(self, tensor: Tensor) -> None:
        """Rank 0's tensor, in place, to everybody."""

    def reduce(self, tensor: Tensor) -> None:
        """The sum over all processes, in place, to rank 0; elsewhere its content is lost."""

    def largest(self, number: int) -> int:
        """The largest of everybody's numbers, to everybody."""

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Everybody's tensor, in order, to everybody."""


class ProcessWire:
    """The processes of `torch.distributed`: gloo between CPUs, NCCL between GPUs."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def broadcast(self, tensor: Tensor) -> None:
        with _reached():
            dist.broadcast(tensor, src=0)

    def reduce(self, tensor: Tensor) -> None:
        with _reached():
            dist.reduce(tensor, dst=0)

    def largest(self, number: int) -> int:
        found = torch.tensor([number])
        with _reached():
            dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return int(found)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        with _reached():
            dist.all_gather(found, tensor)
        return found


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of gloo and NCCL: a connection closed, or timed out
        raise ProcessLost(
            "A process of this training ended or does not answer; if it said why, that is above. "
            "What was reserved stays so: run again, and the training goes on from its checkpoint."
        ) from error


@dataclass(frozen=True)
class Place:
    """Which of the processes this one is, by what its launcher put into the environment."""

    rank: int
    size: int
    local_rank: int

    @classmethod
    def here(cls) -> "Place":
        """Rank 0 of 1 where no launcher has started several."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size < 2 or "RANK" not in os.environ:
            return cls(0, 1, 0)
        rank = int(os.environ["RANK"])
        return cls(rank, size, int(os.environ.get("LOCAL_RANK", rank)))


def device_of(declared: str, place: Place) -> str:
    """`auto` is this process's own CUDA device if there is one, else the CPU.

    Raises:
        TrainingRefused: CUDA is declared and absent, or has fewer devices than there are
            processes on this machine.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if declared == "cpu" or (declared == "auto" and not found):
        return "cpu"
    if not found:
        raise TrainingRefused(
            "training.device is cuda, but PyTorch finds none. Use device: auto or cpu."
        )
    if place.size == 1:
        return "cuda"
    if place.local_rank >= found:
        raise TrainingRefused(
            f"Process {place.rank} has no CUDA device of its own: this machine has {found}. Start "
            "one process a device, or use device: cpu."
        )
    return f"cuda:{place.local_rank}"


@contextmanager
def joined(place: Place, device: str) -> Iterator[ProcessWire]:
    """Meets the other processes, for as long as the block lasts."""
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    meeting = os.environ.get(_MEETING)
    with _reached():
        if meeting is None:
            dist.init_process_group(backend, timeout=PATIENCE)
        else:
            dist.init_process_group(
                backend,
                store=dist.FileStore(meeting, place.size),
                rank=place.rank,
                world_size=place.size,
                timeout=PATIENCE,
            )
    try:
        yield ProcessWire()
    finally:
        with suppress(RuntimeError):  # a group that lost a process
            dist.destroy_process_group()


@contextmanager
def started(processes: int, command: Sequence[str], root: Path) -> Iterator[Place]:
    """Starts `processes` - 1 others on this machine by `command`, in the workspace's root;
    this one is rank 0.

    Whatever ends the block ends them: they are waited for a moment, then killed.
    """
    temporary = root / workspace.TEMPORARY
    temporary.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    share = max(1, threads // processes)
    with tempfile.TemporaryDirectory(dir=temporary, prefix="meeting-") as folder:
        shared = {
            _MEETING: str((Path(folder) / "store").resolve()),
            "WORLD_SIZE": str(processes),
            # Both are the launcher's own unless the operator said otherwise.
            "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", _LOOPBACK),
            "NCCL_SOCKET_IFNAME": os.environ.get("NCCL_SOCKET_IFNAME", _LOOPBACK),
        }
        running: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(1, processes):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": str(share)}
                words = {**environment_without_keys(), **shared, **own}
                running.append(subprocess.Popen(command, env=words, cwd=root))
            with _environment(shared):
                torch.set_num_threads(share)
                yield Place(0, processes, 0)
        except Ended:
            for process in running:
                process.terminate()
            raise
        finally:
            torch.set_num_threads(threads)
            for process in running:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE_SECONDS)
                process.kill()
                process.wait()


_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
