"""A run's transcript, read back as `lethe.training.transcript` wrote it; where it is whole."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from lethe.training import begins, transcript
from lethe.training.arithmetic import Arithmetic
from lethe.training.transcript import FLOAT, POSITION

Positions = npt.NDArray[np.int64]


class Unrecorded(Exception):
    """There is no transcript, or not the whole of it; says what is wrong."""


class Recorded:
    """The transcript in a folder.

    Attributes:
        about: the run, as it was recorded.
        clips: of each step.
        segments: those whose releases are kept, in their order; the last is always among them.

    Raises:
        Unrecorded: a part is missing, or not as it was written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self.about = transcript.ABOUTS.validate_json(self._bytes(transcript.ABOUT))
            lines = self._bytes(transcript.STEPS).splitlines()
            self._lines = [transcript.LINES.validate_json(line) for line in lines]
        except ValidationError:
            raise Unrecorded("damaged") from None
        if self.about.version != transcript.VERSION:
            raise Unrecorded("of another version")
        if len(self._lines) != self.about.steps:
            raise Unrecorded(f"of {len(self._lines)} steps, not of {self.about.steps}")
        self.clips = [line.clip for line in self._lines]
        self._ends = np.cumsum([0, *(line.draw for line in self._lines)])
        if self._mapped(transcript.DRAWN).size != int(self._ends[-1]):
            raise Unrecorded("without all draws")
        self._last = (self.about.steps - 1) // self.about.segment
        found = (transcript.release_file(folder, n) for n in range(self._last + 1))
        self.segments = [n for n, path in enumerate(found) if path.exists()]
        if self._last not in self.segments:
            raise Unrecorded("without its last steps")

    @cached_property
    def begun_again(self) -> int:
        """How often it was begun with steps that had been drawn to their end, or by one process."""
        try:
            journal = begins.Journal(self._folder)
        except (OSError, ValueError):
            raise Unrecorded(f"damaged in {begins.BEGINS}") from None
        if not journal.begins or not journal.begins[-1].ended:
            raise Unrecorded(f"without its end in {begins.BEGINS}")
        return begins.again(self.about.steps, journal.begins)

    @cached_property
    def draws(self) -> list[Positions]:
        """int64 [drawn] of every step, kept or not: positions in the run's people."""
        whole = self._mapped(transcript.DRAWN)
        pairs = zip(self._ends[:-1], self._ends[1:], strict=True)
        try:
            found = [transcript.unpacked_draw(whole[start:end].tobytes()) for start, end in pairs]
        except ValueError:
            raise Unrecorded("damaged in its draws") from None
        if [len(each) for each in found] != [line.people for line in self._lines]:
            raise Unrecorded("without all draws")
        return found

    def unchained(self) -> int:
        """Segments before which another state was there than when the one before was over."""
        if self.about.whole:
            return 0
        broken = 0
        for segment in range(self._last + 1):
            line = self._lines[self.numbers(segment)[0]]
            path = transcript.state_file(self._folder, segment)
            kept = transcript.digest_of_state(path.read_bytes()) if path.exists() else line.over
            broken += not line.over or not line.over == line.begun == kept
        return broken

    @property
    def same_build(self) -> bool:
        """Whether this process makes the first weights that its training made, to the last bit."""
        made_by = self.about.arithmetic
        return made_by is not None and replace(made_by, device="cpu") == Arithmetic.here("cpu")

    @property
    def same_arithmetic(self) -> bool:
        """Whether this process rounds as the training did."""
        made_by = self.about.arithmetic
        return self.same_build and made_by is not None and made_by.device == "cpu"

    @property
    def rounded_otherwise(self) -> str:
        """By what this process rounds otherwise than the training did, in words; or empty."""
        made_by = self.about.arithmetic
        if made_by is None:
            return "machines that went on with each other's training"
        return made_by.apart(Arithmetic.here("cpu"))

    def numbers(self, segment: int) -> range:
        """The steps of a segment."""
        start = segment * self.about.segment
        return range(start, min(start + self.about.segment, self.about.steps))

    def releases(self, segment: int) -> Iterator[tuple[int, Tensor]]:
        """(step, float32 [numbers]) of a kept segment, each held against its digest."""
        numbers = self.numbers(segment)
        path = transcript.release_file(self._folder, segment)
        content = self._mapped(str(path.relative_to(self._folder)))
        if content.size != len(numbers) * self.about.numbers * FLOAT.itemsize:
            raise Unrecorded(f"without all releases of segment {segment}")
        rows = content.view(FLOAT)
        for number, row in zip(numbers, rows.reshape(len(numbers), -1), strict=True):
            line = self._lines[number]
            drawn = self.draws[number].astype(POSITION).tobytes()
            if transcript.digest_of(number, line.clip, drawn, row.tobytes()) != line.digest:
                raise Unrecorded(f"damaged in step {number}")
            yield number, torch.from_numpy(np.array(row, dtype=np.float32))

    def start(self) -> dict[str, Tensor]:
        """Every parameter and buffer before the first step, as the training had it."""
        return self._tensors(transcript.START)

    def state(self, segment: int) -> dict[str, Tensor] | None:
        """What was recorded before a segment; None if nothing was."""
        path = transcript.state_file(self._folder, segment)
        return self._tensors(str(path.relative_to(self._folder))) if path.exists() else None

    def _tensors(self, name: str) -> dict[str, Tensor]:
        try:
            found: dict[str, Tensor] = load(self._bytes(name))
        except (SafetensorError, ValueError, LookupError, TypeError):
            raise Unrecorded(f"damaged in {name}") from None
        return found

    def _bytes(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except OSError:
            raise Unrecorded(f"without {name}") from None

    def _mapped(self, name: str) -> npt.NDArray[np.uint8]:
        path = self._folder / name
        try:
            if not path.stat().st_size:
                return np.zeros(0, dtype=np.uint8)
            return np.memmap(path, dtype=np.uint8, mode="r")
        except OSError:
            raise Unrecorded(f"without {name}") from None
