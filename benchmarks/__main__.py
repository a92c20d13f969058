"""`make bench`: one table; ratios are taken within one run, in alternation.

`make bench ONLY=step` measures a part: step, memory, floats, proof, accounting, vault, source,
large, forgetting, serving, mnist, pipeline; several with commas between. On a machine with a CUDA
device, step and memory are measured there as well.

Looks for the real data in `../shared/data`, or where $LETHE_DATA points; what needs it is left
out, and said, where it is absent.
"""

import argparse
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import (
    accounting,
    float_safety,
    forgetting,
    memory,
    mnist,
    pipeline,
    proof,
    serving,
    source,
    step,
    vault,
)
from benchmarks.timing import Row

DATA = Path(os.environ.get("LETHE_DATA", Path(__file__).parents[2] / "shared" / "data"))
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def _on_devices(measure: Callable[[str], list[Row]]) -> list[Row]:
    return [row for device in DEVICES for row in measure(device)]


def _with(path: Path, measure: Callable[[Path], list[Row]], what: str) -> list[Row]:
    if path.exists():
        return measure(path)
    return [(what, f"not measured: {path.name} is absent", "")]


PARTS: Mapping[str, Callable[[], list[Row]]] = {
    "step": lambda: _on_devices(step.measure),
    "memory": lambda: _on_devices(memory.measure),
    "floats": float_safety.measure,
    "proof": proof.measure,
    "accounting": accounting.measure,
    "vault": vault.measure,
    "mnist": lambda: _with(DATA / "mnist", mnist.measure, "accuracy on MNIST"),
    "source": source.measure,
    "large": source.measure_large,
    "forgetting": forgetting.measure,
    "serving": serving.measure,
    # The place of "mnist": it takes the folder DATA / "mnist".
    "pipeline": lambda: _with(
        DATA / "diabetes130" / "diabetic_data.csv.gz",
        pipeline.measure,
        "the pipeline on real records",
    ),
}


def main() -> None:
    console = Console()
    table = Table("what", "measured", "target", "reached", title=machine())
    for part in chosen():
        start = time.perf_counter()
        for row in PARTS[part]():
            table.add_row(*row, reached(row))
        table.add_section()
        print(f"{part}: measured in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    console.print(table)


def chosen(arguments: Iterable[str] | None = None) -> list[str]:
    """The parts that the command line names; all of them if none."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measures, in one table.")
    parser.add_argument("--only", default="", help=f"of {', '.join(PARTS)}; commas between")
    only = [p for p in parser.parse_args(arguments).only.split(",") if p]
    unknown = sorted(set(only) - set(PARTS))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return only or list(PARTS)


def reached(row: Row) -> str:
    """Whether the first number measured is within the target; nothing where there is none."""
    _, measured, target = row
    wanted, found = re.match(r"([≤≥])\s*([\d.]+)", target), re.match(r"-?[\d.,]+", measured)
    if wanted is None:
        return ""
    if found is None:
        return "not measured"
    value, limit = float(found.group().rstrip(".,").replace(",", "")), float(wanted.group(2))
    within = value <= limit if wanted.group(1) == "≤" else value >= limit
    return "yes" if within else "NO"


def machine() -> str:
    """What the figures hold for."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{_processor()}, {os.cpu_count()} CPUs{gpu}; {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, Python {platform.python_version()}{load} at the start"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        if found:
            return found.group(1)
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
