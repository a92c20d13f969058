"""Nothing is drawn from a notebook but under a reservation that the ledger has, unused."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pyroaring import BitMap

import lethe
from lethe.core.errors import LedgerInvalid, NotFinite, TrainingRefused
from lethe.face import train as module
from lethe.ledger.ledger import Reservation
from lethe.training.loop import DpStep

PEOPLE = BitMap(range(0, 120, 2))
NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
BUDGET = lethe.Budget(epsilon=20.0, delta=1e-3)
PLAN = lethe.Plan(
    sample_rate=0.2,
    steps=4,
    records_per_person=2,
    clip_norm=1.0,
    noise_multiplier=4.0,
    expected_batch_size=12.0,
    delta=1e-3,
)


def people(tokens: BitMap = PEOPLE, *, fill: float = 1.0) -> lethe.PersonData:
    shape = (len(tokens), 2)
    return lethe.PersonData(
        features=torch.full((*shape, 3), fill),
        mask=torch.ones(shape, dtype=torch.bool),
        labels=torch.zeros(shape),
        tokens=np.array(tokens, dtype=np.uint32),
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[lethe.Ledger]:
    with lethe.Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}") as opened:
        yield opened


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry a draw."""
    seen: list[int] = []
    real = DpStep.draw

    def draw(self: DpStep, subjects: int) -> object:
        seen.append(subjects)
        return real(self, subjects)

    monkeypatch.setattr(DpStep, "draw", draw)
    return seen


def reserve(
    ledger: lethe.Ledger, *, plan: lethe.Plan = PLAN, people: BitMap = PEOPLE, request: str = "a"
) -> Reservation:
    return ledger.reserve(plan.release(people), budget=BUDGET, request=request, now=NOW)


def network() -> torch.nn.Linear:
    made = torch.nn.Linear(3, 1)
    torch.nn.init.zeros_(made.weight)
    return made


def test_a_training_settles_before_it_draws_and_leaves_the_network_as_it_was(
    ledger: lethe.Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    reservation, given, states = reserve(ledger), network(), []
    real = DpStep.draw

    def draw(self: DpStep, subjects: int) -> object:
        states.append(ledger.run(reservation.run_id).state)
        return real(self, subjects)

    monkeypatch.setattr(DpStep, "draw", draw)
    made = lethe.train(PLAN, people(), given, reservation)
    assert states == ["settled"] * PLAN.steps
    assert not given.weight.any()
    assert made.weight.any()


@dataclass
class Paper:
    """Looks like a reservation."""

    run_id: str = "r"
    admitted: BitMap = PEOPLE
    state: str = "reserved"


@pytest.mark.parametrize("paper", [Paper(), None, Reservation("r", PEOPLE, 0, False)])
def test_without_a_reservation_of_a_ledger_nothing_is_drawn(
    drawn: list[int], paper: object
) -> None:
    with pytest.raises(TrainingRefused, match="needs a reservation that a ledger gave"):
        lethe.train(PLAN, people(), network(), paper)  # type: ignore[arg-type]
    assert drawn == []


def test_a_reservation_serves_once(ledger: lethe.Ledger, drawn: list[int]) -> None:
    reservation = reserve(ledger)
    lethe.train(PLAN, people(), network(), reservation)
    taken = len(drawn)
    for again in (reservation, reserve(ledger)):  # the same request is the same reservation
        with pytest.raises(TrainingRefused, match="is settled: new noise"):
            lethe.train(PLAN, people(), network(), again)
    assert len(drawn) == taken


def test_a_void_reservation_pays_for_nothing(ledger: lethe.Ledger, drawn: list[int]) -> None:
    reservation = reserve(ledger)
    ledger.void(reservation.run_id, "tried")
    with pytest.raises(TrainingRefused, match="is void"):
        lethe.train(PLAN, people(), network(), reservation)
    assert drawn == []


def test_a_reservation_of_a_cheaper_plan_pays_for_no_other(
    ledger: lethe.Ledger, drawn: list[int]
) -> None:
    reservation = reserve(ledger, plan=replace(PLAN, steps=1))
    with pytest.raises(TrainingRefused, match="another plan"):
        lethe.train(PLAN, people(), network(), reservation)
    assert drawn == []
    assert ledger.run(reservation.run_id).state == "reserved", "and is not used up"


def test_who_was_not_charged_is_not_trained_on_whatever_the_paper_says(
    ledger: lethe.Ledger, drawn: list[int]
) -> None:
    reservation = reserve(ledger, people=BitMap([0, 2, 4]))
    for paper in (reservation, replace(reservation, admitted=PEOPLE)):
        with pytest.raises(TrainingRefused, match="57 people in the data"):
            lethe.train(PLAN, people(), network(), paper)
    assert drawn == []
    assert ledger.run(reservation.run_id).state == "reserved"


def test_another_process_reservation_is_refused(
    ledger: lethe.Ledger, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reservation = reserve(ledger)
    here = module.Owner.current()
    other = type("Owner", (), {"current": staticmethod(lambda: replace(here, pid=here.pid + 1))})
    monkeypatch.setattr(module, "Owner", other)
    with pytest.raises(LedgerInvalid, match="held by another process"):
        lethe.train(PLAN, people(), network(), reservation)
    assert drawn == []


def test_a_network_that_cannot_be_clipped_by_person_spends_nothing(ledger: lethe.Ledger) -> None:
    reservation = reserve(ledger)
    mixed = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))
    with pytest.raises(TrainingRefused):
        lethe.train(PLAN, people(), mixed, reservation)
    assert ledger.run(reservation.run_id).state == "reserved"


def test_a_training_that_diverges_is_spent(ledger: lethe.Ledger) -> None:
    reservation = reserve(ledger)
    with pytest.raises(NotFinite):
        lethe.train(PLAN, people(fill=float("nan")), network(), reservation)
    assert ledger.run(reservation.run_id).state == "settled"


def test_an_error_of_a_price_names_this_functions_arguments() -> None:
    with pytest.raises(lethe.LetheError, match=r"Give subjects with batch_size, or sample_rate\."):
        lethe.epsilon(steps=3, noise_multiplier=1.0)
