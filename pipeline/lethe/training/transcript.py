"""What a training leaves for its audit: every step as it was taken, private, and not for long.

A folder of one run (`lethe.config.transcripts` says where, and when it goes):

- `about.json`: the run, its plan, the shapes, and what computed;
- `start.safetensors`: every parameter and buffer before the first step;
- `steps.jsonl`: of each step the clip, how many people were drawn, and a SHA-256 digest over
  step, clip, draw and release; where a segment begins, also digests of the state when the segment
  before it was over and now, which must be one and the same, whether they are kept or not;
- `drawn.zlib`: the drawn positions, one step after the other, each compressed;
- `releases/N.f32`: what left in the steps of segment N, noise included and not yet divided: a row
  of float32 a step, the trainable parameters in the model's order, an adaptive clip's count last;
- `states/N.safetensors`: weights and the optimizer's state before segment N.

Below `limit` bytes the whole run is one segment, and there are no states: what the releases make of
the first weights is all that there is. Above, segments are short, and a random subset of them
is kept whole. Whether one is kept is drawn from the operating system's randomness when its last
step is over. That is as good as a draw after the training: no step could know whether it would be
looked at, since nothing that decides it existed. The last segment is always kept.

The draws are always whole, and are counted in `limit`: one or two bytes for each drawn person.
Where they would take more than half of it, the training is refused beforehand (`rehearsal`).

- `begins.json`: how often it was begun (`lethe.training.begins`).

What cannot be written stops the training, which goes on later under the same charge: without its
transcript nothing would be known of the run. One whose transcript is gone or another's than its
checkpoint's is over: to train on would leave half of a transcript, and to train anew a choice.
"""

import hashlib
import json
import math
import os
import random
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ConfigDict, TypeAdapter, with_config
from safetensors.torch import save
from torch import Tensor, nn

from lethe.core.errors import NotRecorded
from lethe.core.files import disk_errors, json_bytes, write_whole
from lethe.training.arithmetic import Arithmetic
from lethe.training.begins import BegunAgain, Journal

VERSION = 2
ABOUT, START, STEPS, DRAWN = "about.json", "start.safetensors", "steps.jsonl", "drawn.zlib"
RELEASES, STATES = "releases", "states"
MODEL, UPDATER = "model.", "updater."  # what the names of a state's tensors begin with
FLOAT, POSITION = np.dtype("<f4"), np.dtype("<u4")
_SHORTEST, _LONGEST = 3, 50  # steps of a segment where not all are kept; the noise needs some
_DRAWN_BYTES = 2.2  # for each person in a draw; 1.3 where one in 20 is drawn
_STATE_ROWS = 8  # a segment's two states, each of weights, average and two moments, in releases

State = Callable[[], Mapping[str, Tensor]]


@with_config(ConfigDict(extra="forbid", strict=True))
@dataclass(frozen=True)
class About:
    """`arithmetic` is None where a run was gone on with by another one's."""

    version: int
    run_id: str
    plan: str
    steps: int
    numbers: int
    segment: int
    whole: bool
    arithmetic: Arithmetic | None


@with_config(ConfigDict(extra="forbid", strict=True))
@dataclass(frozen=True)
class StepLine:
    """`draw`: bytes in the file of draws. `over`, `begun`: digests, where a segment begins."""

    clip: float
    people: int
    draw: int
    digest: str
    over: str = ""
    begun: str = ""


ABOUTS = TypeAdapter(About)
LINES = TypeAdapter(StepLine)


def digest_of(number: int, clip: float, drawn: bytes, release: bytes) -> str:
    found = hashlib.sha256(f"{number} {clip!r} {len(drawn)} ".encode())
    found.update(drawn)
    found.update(release)
    return found.hexdigest()


def digest_of_state(packed_state: bytes) -> str:
    return hashlib.sha256(packed_state).hexdigest()


def packed_draw(drawn: npt.NDArray[np.int64]) -> bytes:
    """Any positions below 2^32 in any order, as the distances between them, by their bytes."""
    distances = np.diff(drawn.astype(POSITION), prepend=POSITION.type(0))
    return zlib.compress(distances.view(np.uint8).reshape(-1, POSITION.itemsize).T.tobytes(), 1)


def unpacked_draw(content: bytes) -> npt.NDArray[np.int64]:
    """Raises: ValueError: the content is damaged."""
    try:
        planes = np.frombuffer(zlib.decompress(content), dtype=np.uint8)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    distances = np.ascontiguousarray(planes.reshape(POSITION.itemsize, -1).T).view(POSITION)
    return np.cumsum(distances.ravel(), dtype=POSITION).astype(np.int64)


def draws_size(steps: int, drawn: float) -> int:
    """Bytes that the draws of a run take, of so many people a step; generously."""
    return math.ceil(steps * (_DRAWN_BYTES * drawn + 64))


def release_file(folder: Path, segment: int) -> Path:
    return folder / RELEASES / f"{segment}.f32"


def state_file(folder: Path, segment: int) -> Path:
    return folder / STATES / f"{segment}.safetensors"


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    return save({n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()})


class Recorder:
    """Writes one run's transcript; what the training loop calls.

    Args:
        folder: of the run, there already and its owner's alone.
        limit: bytes of draws, releases and states that may be kept.
    """

    def __init__(self, folder: Path, *, run_id: str, plan: str, limit: int) -> None:
        self._folder, self._run, self._limit = folder, (run_id, plan), limit
        self._about: About | None = None
        self._kept: list[int] = []
        self._unsafe: set[Path] = set()  # what a power cut would take
        self._state: State = dict
        self._over = ""  # digest of the state when the last segment was over
        self._random = random.SystemRandom()

    def begin(
        self,
        model: nn.Module,
        state: State,
        *,
        done: int,
        steps: int,
        drawn: float,
        count: bool,
        device: str,
    ) -> None:
        """Before the first step that this process takes.

        Args:
            state: gives weights and the optimizer's state, as they are now.
            done: steps that a checkpoint has; what was recorded after them is forgotten.
            steps: of the whole run.
            drawn: people that a step draws, on average.
            count: whether a step's release has an adaptive clip's count.
        """
        numbers = sum(p.numel() for p in model.parameters() if p.requires_grad) + count
        row = numbers * FLOAT.itemsize
        limit = max(self._limit - draws_size(steps, drawn), self._limit // 2)
        whole = steps * row <= limit or steps <= _SHORTEST
        parted = max(_SHORTEST, min(_LONGEST, limit // (2 * row) - _STATE_ROWS))
        segment = steps if whole else parted
        self._state = state
        about = About(VERSION, *self._run, steps, numbers, segment, whole, Arithmetic.here(device))
        with self._written():
            try:
                self._journal = Journal(self._folder)
                self._journal.begin(done, steps)
                if done:
                    self._continue(about, done, state)
                else:
                    self._first(about, model)
                self._places = self._places_for(limit // row, done)
            except (FileNotFoundError, ValueError, LookupError):
                raise BegunAgain(
                    f"The transcript of run {self._run[0]} is gone, damaged or another run's than "
                    f"its checkpoint of step {done}: nobody could look at the steps before. The "
                    "run's spend is settled and nothing was released; the same request again is "
                    "another run, and another charge."
                ) from None
        if self._about and not self._about.whole and done % self._about.segment == 0:
            self._over = digest_of_state(packed(state()))

    def _first(self, about: About, model: nn.Module) -> None:
        for name in (RELEASES, STATES):
            shutil.rmtree(self._folder / name, ignore_errors=True)
            (self._folder / name).mkdir(mode=0o700)
        for name in (STEPS, DRAWN):
            (self._folder / name).unlink(missing_ok=True)
        write_whole(self._folder / START, packed(model.state_dict()), private=True)
        self._say(about)

    def _say(self, about: About) -> None:
        write_whole(self._folder / ABOUT, json_bytes(asdict(about)), private=True)
        self._about = about

    def _places_for(self, rows: int, done: int) -> int:
        """How many segments may be kept beside the last, by `rows` of releases that have room.

        Where some are gone already there are no more places than are taken: a segment that found
        one free would be kept for sure, and those before it were not.
        """
        about = self._about
        if about is None or about.whole:
            return 1
        places = max(1, rows // (about.segment + _STATE_ROWS) - 1)
        gone = len(self._kept) < done // about.segment
        return max(1, min(places, len(self._kept))) if gone else places

    def _continue(self, about: About, done: int, state: State) -> None:
        """Goes back to where the checkpoint is. Raises: ValueError: there is less than that.

        How a run is parted stays what it was when it began, whatever `limit` is now.
        """
        found = ABOUTS.validate_json((self._folder / ABOUT).read_bytes())
        same = found.arithmetic if found.arithmetic == about.arithmetic else None
        parted = {"segment": found.segment, "whole": found.whole, "arithmetic": same}
        about = About(**{**vars(about), **parted})
        if vars(found) | {"arithmetic": same} != vars(about):
            raise ValueError("of another run")
        lines = (self._folder / STEPS).read_bytes().splitlines(keepends=True)[:done]
        draws = sum(LINES.validate_json(line).draw for line in lines)
        if len(lines) != done:
            raise ValueError("shorter than the checkpoint")
        _cut(self._folder / STEPS, sum(map(len, lines)))
        _cut(self._folder / DRAWN, draws)
        current, rows = divmod(done, about.segment)
        for name in (RELEASES, STATES):
            for path in (self._folder / name).iterdir():
                if int(path.stem) > current:
                    path.unlink()
        files = (self._folder / RELEASES).iterdir()
        self._kept = sorted(n for path in files if (n := int(path.stem)) < current)
        begun = release_file(self._folder, current)
        if rows and begun.exists():  # else it was not kept, before the training went back
            _cut(begun, rows * about.numbers * FLOAT.itemsize)
        elif not rows:
            begun.unlink(missing_ok=True)
            before = state_file(self._folder, current)
            if not about.whole and not before.exists():  # gone with a segment that was not kept
                write_whole(before, packed(state()), private=True)
        self._say(about)

    def step(
        self, number: int, clip: float, drawn: npt.NDArray[np.int64], noisy: Sequence[Tensor]
    ) -> None:
        """What a step drew and what left of it, before anything is made of that."""
        if self._about is None:
            return
        people = np.ascontiguousarray(drawn, dtype=POSITION).tobytes()
        draw = packed_draw(drawn)
        flat = torch.cat([t.detach().flatten().to("cpu", torch.float32) for t in noisy])
        left = flat.numpy().astype(FLOAT, copy=False).tobytes()
        digest = digest_of(number, clip, people, left)
        segment, row = divmod(number, self._about.segment)
        chain = ("", "")
        if row == 0 and not self._about.whole:
            chain = (self._over, digest_of_state(packed(self._state())))
        line = StepLine(clip, len(drawn), len(draw), digest, *chain)
        path = release_file(self._folder, segment)
        with self._written():
            if row == 0 or path.exists():
                self._append(path, left)
            self._append(self._folder / DRAWN, draw)
            self._append(self._folder / STEPS, json.dumps(asdict(line)).encode() + b"\n")

    def stepped(self, number: int) -> None:
        """After a step's weights are there."""
        about = self._about
        if about is None or about.whole:
            return
        over, rest = divmod(number + 1, about.segment)
        if rest and number + 1 != about.steps:
            return
        if number + 1 < about.steps:  # the state before the next; the last has the average's
            with self._written():
                content = packed(self._state())
                self._over = digest_of_state(content)
                write_whole(state_file(self._folder, over), content, private=True)
                self._draw_kept(over - 1)

    def end(self) -> None:
        """After the last step, once the checkpoint has it."""
        with self._written():
            self._journal.end()

    def _draw_kept(self, segment: int) -> None:
        """Keeps the segment that is over, or not; of all that are over each is as probable."""
        if release_file(self._folder, segment).exists():  # else a training went back into it
            self._kept.append(segment)
        while len(self._kept) > self._places + 1:  # room for fewer than when it began
            self._forget(self._random.randrange(len(self._kept) - 1))
        if len(self._kept) > self._places:
            chance = self._random.randrange(segment + 1)
            self._forget(self._random.randrange(self._places) if chance < self._places else -1)
        needed = {n + after for n in self._kept for after in (0, 1)} | {segment + 1}
        for path in (self._folder / STATES).iterdir():
            if int(path.stem) not in needed:
                path.unlink()

    def _forget(self, at: int) -> None:
        release_file(self._folder, self._kept.pop(at)).unlink(missing_ok=True)

    def flush(self) -> None:
        """To the disk: a checkpoint may not know of steps that a power cut took from here."""
        with self._written():
            while self._unsafe:
                path = self._unsafe.pop()
                if path.exists():  # else not kept
                    with path.open("rb") as file:
                        os.fsync(file.fileno())

    def _append(self, path: Path, content: bytes) -> None:
        with open(path, "ab", opener=_private) as file:
            file.write(content)
        self._unsafe.add(path)

    @contextmanager
    def _written(self) -> Iterator[None]:
        """What cannot be written ends the training, and not the run.

        Raises: DiskFull, NotRecorded.
        """
        try:
            with disk_errors():
                yield
        except OSError as error:
            raise NotRecorded(
                f"The transcript of run {self._run[0]} cannot be written ({error.strerror}), and "
                "without it nobody could look at the run. Correct that and run again: it goes on "
                "under the same charge."
            ) from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _cut(path: Path, size: int) -> None:
    """Raises: ValueError: it is shorter."""
    if path.stat().st_size < size:
        raise ValueError("shorter than the checkpoint")
    os.truncate(path, size)
