"""What decides how numbers are rounded is recorded, compared and named."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lethe.attacks.run.recorded import Recorded
from lethe.training import arithmetic
from lethe.training.arithmetic import Arithmetic
from tests.attacks.recorded_run import Run, run

HERE = Arithmetic.here("cpu")
OTHER: dict[str, Any] = {
    "capability": "AVX9",
    "device": "cuda",
    "libraries": "mkl 00000000",
    "numpy": "1.0",
    "processor": "Another 00000000",
    "threads": 97,
    "torch": "1.0",
}


def _trained_by(made: Run, **facts: Any) -> None:
    path = made.folder / "about.json"
    about = json.loads(path.read_bytes())
    about["arithmetic"] |= facts
    path.write_text(json.dumps(about))


def _weights(made: Run) -> str:
    (check,) = (c for c in made.recomputation().checks() if c.name == "run.weights")
    return check.meaning


def test_every_fact_is_changed_below() -> None:
    assert OTHER.keys() == asdict(HERE).keys()


def test_the_same_processor_is_one_to_the_last_bit(tmp_path: Path) -> None:
    made = run(tmp_path / "run")
    assert Recorded(made.folder).same_arithmetic
    assert _weights(made).endswith("to the last bit")
    name = next(iter(made.released))
    nearly = made.released[name] * (1 + 2.0**-22)
    assert made.with_released(**{name: nearly}).failed() == ["run.weights"]


@pytest.mark.parametrize("name", OTHER)
def test_another_one_is_compared_within_its_roundings_and_named(name: str, tmp_path: Path) -> None:
    made = run(tmp_path / "run")
    _trained_by(made, **{name: OTHER[name]})
    recorded = Recorded(made.folder)
    assert not recorded.same_arithmetic
    assert recorded.same_build is (name == "device")
    assert made.failed() == []
    assert f"{name} {OTHER[name]} and {asdict(HERE)[name]}" in _weights(made)
    first = next(iter(made.released))
    moved = made.released[first] + 0.05 * made.released[first].abs().max()
    assert made.with_released(**{first: moved}).failed() == ["run.weights"]


def test_a_processor_is_known_by_what_it_can_do(tmp_path: Path, monkeypatch: Any) -> None:
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(arithmetic, "_CPUINFO", info)
    seen = set()
    for model, flags in (("17", "avx2"), ("17", "avx2 avx512f"), ("18", "avx2")):
        info.write_text(f"model\t: {model}\nmodel name\t: Invented\nflags\t: {flags}\n\n")
        seen.add(Arithmetic.here("cpu").processor)
    assert len(seen) == 3 and all(each.startswith("Invented ") for each in seen)
    info.unlink()
    assert Arithmetic.here("cpu").processor  # a system without that file


def test_a_library_that_is_not_used_is_another_arithmetic(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.backends.openmp, "is_available", lambda: False)
    assert Arithmetic.here("cpu").apart(replace(HERE, libraries="")).startswith("libraries")
    assert "openmp" not in Arithmetic.here("cpu").libraries
