"""What decides how float32 is rounded: by it a run is recomputed to the last bit, or nearly."""

import hashlib
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import ConfigDict, with_config

_CPUINFO = Path("/proc/cpuinfo")
_OF_PROCESSOR = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features")


@with_config(ConfigDict(extra="forbid", strict=True))
@dataclass(frozen=True)
class Arithmetic:
    """With all of it equal, results are equal to the last bit.

    `capability` is the instruction set that PyTorch's own code uses; MKL and oneDNN choose theirs
    by the `processor`. How many threads there are decides how a sum is split.
    """

    device: str
    torch: str
    numpy: str
    capability: str
    processor: str
    libraries: str
    threads: int

    @classmethod
    def here(cls, device: str) -> "Arithmetic":
        return cls(
            device=device,
            torch=torch.__version__,
            numpy=np.__version__,
            capability=torch.backends.cpu.get_cpu_capability(),
            processor=_processor(),
            libraries=_libraries(),
            threads=torch.get_num_threads(),
        )

    def apart(self, other: "Arithmetic") -> str:
        """In what two differ, in words; empty if in nothing."""
        mine, its = asdict(self), asdict(other)
        return ", ".join(f"{n} {mine[n]} and {its[n]}" for n in mine if mine[n] != its[n])


def _processor() -> str:
    """Its name, and a digest of all that it can do: a virtual machine may hide some of that."""
    said: dict[str, str] = {}
    with suppress(OSError, ValueError):
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            said.setdefault(name.strip(), value.strip())
    known = {name: said.get(name, "") for name in _OF_PROCESSOR}
    whole = repr((platform.machine(), platform.processor(), sorted(known.items())))
    name = known["model name"] or platform.machine()
    return f"{name} {hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _libraries() -> str:
    """Which libraries multiply, and how PyTorch was built; a digest of the latter."""
    backends = torch.backends
    used = {
        "mkl": backends.mkl.is_available(),
        "onednn": backends.mkldnn.is_available() and backends.mkldnn.enabled,
        "openmp": backends.openmp.is_available(),
    }
    built = hashlib.sha256(torch.__config__.show().encode()).hexdigest()[:8]
    return " ".join([*(name for name, there in used.items() if there), built])
