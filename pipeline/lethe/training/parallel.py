"""One training over several processes, of which one alone draws, adds noise and learns.

Rank 0 leads: it has the reservation, the key, the optimizer and the checkpoint. In each
step it sends everybody the weights, the clip and the people it drew; each process sums the clipped
gradients of its part of them, and the leader gets the sum of the sums. Then it goes on as
if it had summed them by itself.

So over all ranks it is one mechanism by its build, not by agreement: one Poisson draw, and
noise added once. The others have neither key nor noise nor optimizer, they write nothing,
and their weights are the leader's, bit for bit, in every step.

An error of one process ends all of them: the leader raises it, by its own name. A process
that dies or hangs is `ProcessLost`. Either way the reservation stands.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pyroaring import BitMap
from torch import Tensor, nn

from lethe.core.errors import LetheError, ProcessLost, TrainingRefused
from lethe.privacy.noise.sampling import Keystream
from lethe.training.engines.contract import trainable_parameters
from lethe.training.loop import (
    DpStep,
    SumOf,
    Task,
    prepared_engine,
    refuse_unreserved,
    summed,
)
from lethe.training.wire import Wire

_END, _BEGIN, _STEP = 0, 1, 2
_MESSAGE_BYTES = 1024


@dataclass(frozen=True)
class Admission:
    """What a helper knows of the reservation."""

    run_id: str
    admitted: BitMap


class Leader:
    """Rank 0's end; an `Execution` of `lethe.training.loop` has it as `others`."""

    def __init__(self, wire: Wire, device: str = "cpu") -> None:
        self._wire, self.device = wire, device
        self._open, self._begun = True, False

    @property
    def size(self) -> int:
        """Processes that train together, this one included."""
        return self._wire.size

    def begin(self, words: Mapping[str, Any], admitted: BitMap) -> None:
        """Sends the helpers what is trained, and for whom it is reserved."""
        text, people = json.dumps(words).encode(), admitted.serialize()
        self._say(_BEGIN, len(text), len(people))
        for content in (text, people):
            self._wire.broadcast(_packed(content))

    @contextmanager
    def together(self) -> Iterator[None]:
        """An error in this block, on any process, is raised here and ends all of them."""
        failure: LetheError | None = None
        was_open, self._open = self._open, False  # whatever else ends the block cuts the line
        try:
            yield
        except ProcessLost:
            raise
        except LetheError as error:
            failure = error
        found = _agree(self._wire, failure)
        if found is not None:
            raise found
        self._open = was_open

    def agree(self, task: Task) -> None:
        """Refuses to begin where a process has another plan or other data.

        Raises:
            TrainingRefused: names the processes.
        """
        with self.together():
            own = task.digest
            apart = [rank for rank, other in enumerate(_digests(self._wire, own)) if other != own]
            if apart:
                raise TrainingRefused(
                    f"Processes {apart} read another plan or other data than the one that leads; "
                    "all of them must run in the same workspace. Nothing was drawn."
                )

    def summed(self, step: DpStep, drawn: Tensor, sum_of: SumOf) -> list[Tensor]:
        """The clipped sum over `drawn`, each process summing every `size`-th of them.

        Raises:
            ProcessLost: a process ended or does not answer.
            NotFinite, TrainingRefused: as `DpStep.clipped_sum`, on whichever process.
        """
        self._say(_STEP, len(drawn), step.number)
        with self.together():
            self._wire.broadcast(drawn)
            self._wire.broadcast(torch.tensor([step.clip_norm], dtype=torch.float64))
            _share_weights(self._wire, step.model, fixed=not self._begun)
            self._begun = True
            sums = sum_of(drawn[:: self._wire.size])
        for part in sums:
            self._wire.reduce(part)
        return sums

    def end(self) -> None:
        """Lets the others go; nothing where an error has done so."""
        if self._open:
            self._open = False
            self._say(_END)

    def _say(self, *numbers: int) -> None:
        self._wire.broadcast(torch.tensor([*numbers, 0, 0][:3]))


def assist(
    wire: Wire, make_task: Callable[[Mapping[str, Any], BitMap], Task], *, device: str
) -> None:
    """A helper's whole life: sums its part of what the leader draws, until it is let go.

    An error of its own is the leader's to raise; the helper then just ends.

    Args:
        make_task: from the leader's words and the people it admits, what to sum with.

    Raises:
        ProcessLost: the leader is gone.
    """
    kind, *sizes = _heard(wire)
    if kind != _BEGIN:
        return
    text, people = (_received(wire, size) for size in sizes)
    words, admitted = json.loads(text), BitMap.deserialize(people)
    prepared: list[tuple[Task, DpStep]] = []

    def prepare() -> None:
        task = make_task(words, admitted)
        refuse_unreserved(task.plan, task.data, Admission(str(words["run_id"]), admitted))
        model = task.model.to(device).train()
        engine = prepared_engine(task, model)
        prepared.append((task, DpStep(task.plan, model, engine, NoKeystream())))

    if not _went_well(wire, prepare):
        return
    task, step = prepared[0]
    if not _went_well(wire, partial(_digests, wire, task.digest)):
        return
    sum_of = partial(summed, step, task, device=device)
    begun = False
    while True:
        kind, count, step.number = _heard(wire)
        if kind != _STEP:
            return
        drawn = torch.empty(count, dtype=torch.int64)
        wire.broadcast(drawn)
        clip_norm = torch.empty(1, dtype=torch.float64)
        wire.broadcast(clip_norm)
        step.clip_norm = float(clip_norm)
        _share_weights(wire, step.model, fixed=not begun)
        begun = True
        sums: list[Tensor] = []
        own = partial(_collect, sums, sum_of, drawn[wire.rank :: wire.size])
        if not _went_well(wire, own):
            return
        for part in sums:
            wire.reduce(part)


class NoKeystream(Keystream):
    """A helper's: whatever asks it for a draw or for noise is at fault."""

    def __init__(self) -> None:
        pass

    def uint64(self, count: int) -> Any:
        raise TrainingRefused("Only the process that leads a training may draw.")


def _collect(sums: list[Tensor], sum_of: SumOf, positions: Tensor) -> None:
    sums += sum_of(positions)


def _heard(wire: Wire) -> list[int]:
    header = torch.zeros(3, dtype=torch.int64)
    wire.broadcast(header)
    found: list[int] = header.tolist()
    return found


def _received(wire: Wire, size: int) -> bytes:
    content = torch.empty(size, dtype=torch.uint8)
    wire.broadcast(content)
    return content.numpy().tobytes()


def _packed(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _share_weights(wire: Wire, model: nn.Module, *, fixed: bool) -> None:
    """The leader's weights to everybody; with `fixed` also what no step changes."""
    trained = trainable_parameters(model)
    rest = [p for p in model.parameters() if not p.requires_grad] + list(model.buffers())
    for tensor in (*trained, *(rest if fixed else ())):
        wire.broadcast(tensor.data)


def _digests(wire: Wire, own: bytes) -> list[bytes]:
    return [each.numpy().tobytes() for each in wire.gather(_packed(own))]


def _went_well(wire: Wire, work: Callable[[], object]) -> bool:
    """Whether this helper's work and everybody else's did."""
    failure: LetheError | None = None
    try:
        work()
    except ProcessLost:
        raise
    except LetheError as error:
        failure = error
    return _agree(wire, failure) is None


def _agree(wire: Wire, failure: LetheError | None) -> LetheError | None:
    """The error that ends all processes: one's own, or the first other one's by its name."""
    if not wire.largest(0 if failure is None else failure.exit_code):
        return None
    said = b"" if failure is None else f"{failure.exit_code} {failure}".encode()
    letters = [
        each.numpy().tobytes().rstrip(b"\0")
        for each in wire.gather(_packed(said[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b"\0")))
    ]
    if failure is not None:
        return failure
    rank, letter = next((rank, letter) for rank, letter in enumerate(letters) if letter)
    code, _, message = letter.decode(errors="ignore").partition(" ")
    kinds = {kind.exit_code: kind for kind in LetheError.__subclasses__()}
    return kinds.get(int(code), LetheError)(f"Process {rank}: {message}")
