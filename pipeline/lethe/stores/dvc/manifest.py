"""A manifest asked for one token where it lies: a few bytes are read, whatever its size.

A manifest is a Roaring bitmap in its portable form. Deserializing a million random tokens takes
tens of milliseconds; finding one needs the header and one container of at most 8 KiB, and an
erasure asks a thousand manifests about a handful of people.

Source: the Roaring format specification (cookies 12346 and 12347), github.com/RoaringBitmap.
"""

import bisect
import mmap
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

_NO_RUNS = 12346
_RUNS = 12347
_OFFSETS_FROM = 4  # containers, in the form that may have runs
_ARRAY_AT_MOST = 4096  # values in a container that is a sorted array
_BITSET_BYTES = 8192
_U16, _U32 = struct.Struct("<H"), struct.Struct("<I")


class NotAManifest(ValueError):
    """The bytes are no Roaring bitmap, or not a whole one."""


class Manifest:
    """A serialized set of tokens.

    Args:
        content: the bytes, or a map of the file that has them.

    Raises:
        NotAManifest: the bytes are no whole bitmap.
    """

    def __init__(self, content: bytes | mmap.mmap) -> None:
        self._bytes = content
        self._size = len(content)
        cookie = self._u32(0)
        self._flags: int | None = None  # where the marks of run containers begin
        if cookie & 0xFFFF == _RUNS:
            self._count = (cookie >> 16) + 1
            self._flags = 4
            self._described = 4 + (self._count + 7) // 8
        elif cookie == _NO_RUNS:
            self._count = self._u32(4)
            self._described = 8
        else:
            raise NotAManifest("no Roaring cookie")
        end = self._described + 4 * self._count
        if self._count > 1 << 16 or end > self._size:
            raise NotAManifest("it ends too early")
        self._offsets: int | None = None
        self._ends: list[int] = []
        if self._flags is None or self._count >= _OFFSETS_FROM:
            self._offsets = end
            end += 4 * self._count
            if self._count:
                end = self._start(self._count - 1) + self._length(self._count - 1)
        else:
            for container in range(self._count):
                self._ends.append(end)
                end += self._length(container)
        if end != self._size:
            raise NotAManifest("its length is not what its header says")

    @classmethod
    def opened(cls, path: Path) -> "Manifest":
        """The manifest in a file, mapped rather than read."""
        with path.open("rb") as file:
            try:
                return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            except ValueError as error:  # an empty file cannot be mapped
                raise NotAManifest(str(error)) from None

    def __bool__(self) -> bool:
        return True  # an empty manifest is one too

    def __contains__(self, token: int) -> bool:
        high, low = token >> 16, token & 0xFFFF
        described = self._words(self._described, 2 * self._count)
        place = bisect.bisect_left(range(self._count), high, key=lambda i: described[2 * i])
        if place == self._count or described[2 * place] != high:
            return False
        at = self._start(place)
        if self._is_run(place):
            runs = self._u16(at)
            pairs = self._words(at + 2, 2 * runs)
            after = bisect.bisect_right(range(runs), low, key=lambda i: pairs[2 * i])
            if after == 0:
                return False
            return low <= pairs[2 * after - 2] + pairs[2 * after - 1]
        card = self._card(place)
        if card > _ARRAY_AT_MOST:
            return bool(self._u16(at + 2 * (low >> 4)) >> (low & 15) & 1)
        values = self._words(at, card)
        found = bisect.bisect_left(values, low)
        return found < card and values[found] == low

    def any_of(self, tokens: Iterable[int]) -> bool:
        return any(token in self for token in tokens)

    def _is_run(self, container: int) -> bool:
        if self._flags is None:
            return False
        return bool(self._bytes[self._flags + (container >> 3)] >> (container & 7) & 1)

    def _card(self, container: int) -> int:
        return self._u16(self._described + 4 * container + 2) + 1

    def _start(self, container: int) -> int:
        if self._offsets is None:
            return self._ends[container]
        return self._u32(self._offsets + 4 * container)

    def _length(self, container: int) -> int:
        if self._is_run(container):
            return 2 + 4 * self._u16(self._start(container))
        card = self._card(container)
        return 2 * card if card <= _ARRAY_AT_MOST else _BITSET_BYTES

    def _u16(self, at: int) -> int:
        return self._number(_U16, at)

    def _u32(self, at: int) -> int:
        return self._number(_U32, at)

    def _words(self, at: int, count: int) -> Sequence[int]:
        """Two-byte numbers as they lie; of a mapped file only the pages looked at are read."""
        part = memoryview(self._bytes)[at : at + 2 * count]
        if len(part) < 2 * count:
            raise NotAManifest("it ends too early")
        if sys.byteorder == "little":
            return part.cast("H")
        return struct.unpack(f"<{count}H", part)

    def _number(self, kind: struct.Struct, at: int) -> int:
        try:
            (value,) = kind.unpack_from(self._bytes, at)
        except struct.error:
            raise NotAManifest("it ends too early") from None
        return int(value)
