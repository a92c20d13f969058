"""Audits of honest runs by the benchmark that counts false alarms; and that it would see them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import audit_rates, audits

# Of those that are unlike: a rate, a law of noise, a moving clip, an optimizer, an engine, dropout.
FEW = (
    "half of everybody",
    "one step",
    "a clip that moves",
    "discrete noise",
    "Adam",
    "functional",
    "dropout",
)


def made(p_values: Any, *, failed: tuple[str, ...] = (), rate: float = 5e-7) -> dict[str, Any]:
    named = {f"check.{number}": float(p) for number, p in enumerate(p_values)}
    return {
        "variant": "as it is",
        "failed": list(failed),
        "facts": 40,
        "limits": 2,
        "p_values": named,
        "rate": rate,
        "seconds": 1.0,
    }


def uniform(count: int, power: float = 1.0) -> list[dict[str, Any]]:
    random = np.random.default_rng(5)
    return [made(random.uniform(size=30) ** power) for _ in range(count)]


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(audits, "VARIANTS", {name: audits.VARIANTS[name] for name in FEW})
    file = tmp_path / "audits.jsonl"
    audits.measure(file, len(FEW))
    audits.measure(file, len(FEW))  # there are so many already
    found = audits.read(file)
    assert [each["variant"] for each in found] == list(FEW)
    return found


def test_honest_runs_of_every_kind_are_not_contradicted(few: list[dict[str, Any]]) -> None:
    """At 1e-6 each at most, as the page of the documentation says."""
    assert [each["failed"] for each in few] == [[]] * len(FEW)
    assert all(0 < each["rate"] <= 1e-6 and len(each["p_values"]) > 20 for each in few)
    assert "| contradicted | 0 |" in audit_rates.report(few)


def test_every_kind_of_run_can_be_declared() -> None:
    for variant in audits.VARIANTS:
        assert audits.declared(variant).training


def test_what_is_stated_is_not_suspected() -> None:
    assert audit_rates.suspicious(uniform(300)) == []
    assert audit_rates.suspicious([made([1.0] * 30)] * 300) == []  # a bound is larger


@pytest.mark.parametrize(
    ("found", "named"),
    [
        ([*uniform(300), made([0.5], failed=("noise.scale",))], "contradicted: noise.scale"),
        ([*uniform(300), made([0.5], rate=2e-6)], "stated"),
        (uniform(300, 2.0), "too many audits"),
        ([made([*([1.0] * 29), 0.5 * u]) for u in np.linspace(0, 1, 300)], "too small: check.29"),
    ],
    ids=["a contradiction", "a rate", "all p-values", "one check"],
)
def test_what_is_not_true_is_suspected(found: list[dict[str, Any]], named: str) -> None:
    assert any(named in each for each in audit_rates.suspicious(found))
