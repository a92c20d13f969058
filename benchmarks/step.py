"""What a step of person-level DP costs beside the same step without privacy, and Opacus."""

import torch

from benchmarks.tasks import (
    CNN,
    MLP,
    PARTS,
    SAMPLE_RATE,
    SUBJECTS,
    Task,
    dp_step,
    opacus_step,
    plain_step,
    private_step,
)
from benchmarks.timing import Row, fastest, interleaved, median_ms, ratio

_PLAIN = ("plain", "plain in parts")
_LIMITS = {"MLP": ("≤ 1.15", "≤ 0.6"), "CNN": ("≤ 1.4", "≤ 0.75")}


def measure(device: str = "cpu") -> list[Row]:
    """Both networks on 2,048 persons; against the faster of two plain steps."""
    return [*_task(MLP, device, rounds=15), *_task(CNN, device, rounds=7)]


def _task(task: Task, device: str, *, rounds: int) -> list[Row]:
    torch.manual_seed(0)
    steps = {
        "plain": plain_step(task, device),
        "plain in parts": plain_step(task, device, parts=PARTS),
        "private": private_step(task, device),
        "ghost": private_step(task, device, engine="opacus_ghost"),
    }
    others = ("hooks", "functorch", "ew") if task.records == 1 else ("hooks",)
    slow = {mode: opacus_step(task, device, mode=mode) for mode in others}
    if task.records == 1:
        seconds = interleaved(steps | slow, rounds=rounds)
        modes = ("ghost", *others)
    else:  # twenty times slower than ghost: a few rounds show that, and it is out
        few = interleaved({"ghost": steps["ghost"]} | slow, rounds=2, warm=1)
        modes = ("ghost",) if fastest(few, "ghost", *others) == "ghost" else others
        seconds = interleaved(steps | {m: slow[m] for m in modes if m in slow}, rounds=rounds)
    plain, opacus = fastest(seconds, *_PLAIN), fastest(seconds, *modes)
    where, (limit, beside) = f"{task.name}, {device}", _LIMITS[task.name]
    others_said = ", ".join(f"{m} {ratio(seconds, m, plain):.2f}" for m in modes)
    return [
        (
            f"DP step / plain step as written, {where}",
            _3(ratio(seconds, "private", "plain")),
            limit,
        ),
        (
            f"DP step / the fastest plain step ({plain}), {where}",
            _3(ratio(seconds, "private", plain)),
            limit,
        ),
        (
            f"DP step / the fastest Opacus mode ({opacus}), {where}",
            _3(ratio(seconds, "private", opacus)),
            beside,
        ),
        (f"Opacus / that plain step, {where}", others_said, ""),
        (f"noise and sampling, share of a DP step, {where}", _random_share(task, device), "≤ 5 %"),
        *(
            (f"{name} step, {where}, ms", f"{median_ms(seconds, name):.1f}", "")
            for name in (*_PLAIN, "private")
        ),
    ]


def _3(value: float) -> str:
    return f"{value:.3f}"


def _random_share(task: Task, device: str) -> str:
    step, _ = dp_step(task, device)
    people = task.people(device)
    sums = step.clipped_sum(*people)

    def random_part() -> None:
        step.draw(round(SUBJECTS / SAMPLE_RATE))
        step.noisy(sums)

    seconds = interleaved(
        {"random": random_part, "rest": lambda: step.clipped_sum(*people)}, rounds=11
    )
    share = ratio(seconds, "random", "rest")
    return f"{100 * share / (1 + share):.1f} %"
