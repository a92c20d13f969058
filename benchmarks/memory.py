"""Peak memory of a private step beside a plain one, each in a process of its own.

On a CPU: by how much the resident memory rose above what it was before the first of three
steps, as Linux counts it (VmHWM, reset at that moment). On a GPU: what torch's allocator
had given out at most, above what it had given out before.
"""

import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.tasks import PARTS, TASKS, plain_step, private_step
from benchmarks.timing import Row

_STATUS = Path("/proc/self/status")
_WAYS = ("plain", "parts", "private")


def measure(device: str = "cpu") -> list[Row]:
    if device == "cpu" and not _STATUS.exists():
        return [("peak memory", "not measured: needs Linux", "≤ 1.2")]
    rows: list[Row] = []
    for task in TASKS:
        peak = {way: _in_a_process(task, way, device) for way in _WAYS}
        where = f"{task}, {device}"
        rows += [
            (
                f"peak memory, DP step / plain step, {where}",
                f"{peak['private'] / peak['plain']:.3f}",
                "≤ 1.2",
            ),
            (
                f"peak memory, MiB: plain, plain in {PARTS} parts, DP, {where}",
                ", ".join(f"{peak[way] / 2**20:.0f}" for way in _WAYS),
                "",
            ),
        ]
    return rows


def _in_a_process(task: str, way: str, device: str) -> int:
    command = [sys.executable, "-m", "benchmarks.memory", task, way, device]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True
    )
    return int(done.stdout.split()[-1])


def _peak(task: str, way: str, device: str) -> int:
    """Bytes above the start."""
    if way == "private":
        step = private_step(TASKS[task], device)
    else:
        step = plain_step(TASKS[task], device, parts=PARTS if way == "parts" else 1)
    if device != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")
        before = _kib("VmRSS")
    for _ in range(3):
        step()
    if device != "cpu":
        return torch.cuda.max_memory_allocated() - before
    return (_kib("VmHWM") - before) * 1024


def _kib(name: str) -> int:
    line = next(each for each in _STATUS.read_text().splitlines() if each.startswith(name))
    return int(line.split()[1])


if __name__ == "__main__":
    print(_peak(*sys.argv[1:4]))
