"""Fair times on a machine that others use as well: in alternation, ratios pair by pair."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping

import torch

Row = tuple[str, str, str]  # what, measured, target (≤ or ≥ a number, or nothing)
Step = Callable[[], object]
Seconds = dict[str, list[float]]


def interleaved(steps: Mapping[str, Step], *, rounds: int, warm: int = 2) -> Seconds:
    """Seconds of each step, round by round, so that a slow moment hits all alike."""
    seconds: Seconds = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(warm):
            step()
    gc.collect()
    for _ in range(rounds):
        for name, step in steps.items():
            _wait()
            start = time.perf_counter()
            step()
            _wait()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Seconds, name: str, base: str) -> float:
    """Median over rounds of what `name` took beside what `base` took in the same round."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[base], strict=True))


def fastest(seconds: Seconds, *names: str) -> str:
    return min(names, key=lambda name: statistics.median(seconds[name]))


def median_ms(seconds: Seconds, name: str) -> float:
    return 1e3 * statistics.median(seconds[name])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
