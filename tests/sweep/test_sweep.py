"""Accuracy against epsilon: free on people who are nobody, charged on people who are."""

import dataclasses
import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyroaring import BitMap
from rich.console import Console
from typer.testing import CliRunner

from lethe.cli.main import app
from lethe.config import workspace
from lethe.config.params import Params, parse_params
from lethe.core.errors import (
    NotFinite,
    NotFound,
    ParamsInvalid,
    SchemaMismatch,
    TrainingRefused,
    ValueOutsideDomain,
)
from lethe.core.files import read_json, write_json, write_whole
from lethe.data.batches import PersonData, RecordData
from lethe.data.encoding import Encoder
from lethe.data.shards import eligible_people, shard_paths
from lethe.ledger.ledger import Ledger
from lethe.privacy.accounting import epsilon_pld, epsilon_rdp
from lethe.privacy.plan import Plan
from lethe.privacy.planning import plan_from
from lethe.sweep import run as sweeping
from lethe.sweep.grid import grid, numbers
from lethe.sweep.points import Network, Point, charged_points, free_points
from lethe.sweep.report import render_sweep, sweep_csv, sweep_report
from lethe.sweep.stand_in import from_files, generated
from lethe.training.trainer import Progress, Reserved
from tests import trained_run
from tests.stages.test_budget import declared

NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def params() -> Params:
    return trained_run.params()


def unwatched(plan: Plan, number: int) -> Progress | None:
    return None


# The grid


def test_targets_are_solved_for_and_the_cheapest_point_comes_first(params: Params) -> None:
    plans = grid(params, epsilons=[2.0, 0.5], clips=[0.3, 1.2])
    prices = [epsilon_pld([plan.event], 1e-5) for plan in plans]
    assert prices == sorted(prices)
    assert prices[0] == prices[1] <= 0.5 < prices[2] == prices[3] <= 2.0
    assert min(prices[0] / 0.5, prices[2] / 2.0) > 0.99
    assert [plan.clip_norm for plan in plans] == [0.3, 1.2, 0.3, 1.2]
    assert {plan.records_per_person for plan in plans} == {3}


def test_all_else_of_a_point_is_as_declared(params: Params) -> None:
    (plan,) = grid(params, noise_multipliers=[1.5], clips=[0.7])
    assert plan == trained_run.plan_of(params)


ADAPTIVE = {"quantile": 0.4, "learning_rate": 0.1}


def _declaring(**mechanism: Any) -> Params:
    raw = trained_run.raw()
    raw["training"]["mechanism"].update(mechanism)
    return parse_params(raw)


@pytest.mark.parametrize(
    "declared",
    [
        {"noise": "discrete"},
        {"adaptive": ADAPTIVE},
        {"adaptive": ADAPTIVE | {"count_noise": 9.0}},
        {"records_per_person": 7, "sample_rate": 0.3, "steps": 33},
    ],
)
def test_a_point_runs_the_declared_mechanism_whatever_it_is(declared: dict[str, Any]) -> None:
    """Else a sweep would choose an epsilon for another training than the one that then runs."""
    ready = _declaring(**declared)
    (point,) = grid(ready, noise_multipliers=[1.5], clips=[0.7])
    assert point == plan_from(ready)
    (scaled,) = grid(ready, noise_multipliers=[1.5], clips=[0.7], people=4500)
    batch = ready.training.mechanism.sample_rate * 4500
    assert scaled.expected_batch_size == pytest.approx(batch)
    if declared.get("adaptive") == ADAPTIVE:  # a twentieth of the batch that is expected
        assert scaled.adaptive is not None
        assert scaled.adaptive.count_noise == pytest.approx(batch / 20)


def test_a_clip_that_cannot_be_paid_at_a_point_is_refused_before_anything_runs() -> None:
    ready = _declaring(adaptive=ADAPTIVE | {"count_noise": 1.0})
    with pytest.raises(ParamsInvalid, match="Raise count_noise"):
        grid(ready, noise_multipliers=[1.5, 2.5], clips=[0.7])


def test_one_price_decides_the_other(params: Params) -> None:
    with pytest.raises(ParamsInvalid, match="either --epsilon or --noise-multiplier"):
        grid(params, epsilons=[1.0], noise_multipliers=[1.0])


def test_a_grid_has_an_end(params: Params) -> None:
    with pytest.raises(ParamsInvalid, match="more than 200"):
        grid(params, noise_multipliers=range(1, 203), clips=[1.0])


@pytest.mark.parametrize("text", ["", "1,", "a", "0", "-1", "nan", "inf,1", "1;2"])
def test_lists_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ParamsInvalid, match="--clip takes numbers above 0"):
        numbers(text, option="--clip")


def test_lists_are_rising_and_have_each_once() -> None:
    assert numbers("2,0.5, 2", option="--clip") == (0.5, 2.0)


# Invented people


def test_invented_people_follow_the_declarations_and_no_store_is_opened(folder: Path) -> None:
    own = declared(folder)
    before = sorted(folder.rglob("*"))
    tried = generated(own, people=600, auc=0.75, base_rate=0.2, seed=3)
    assert sorted(folder.rglob("*")) == before
    assert (len(tried.people), len(np.unique(tried.held_out.tokens))) == (600, 150)
    assert not set(tried.people.tokens) & set(tried.held_out.tokens)
    assert tried.people.features.shape[1:] == (4, len(Encoder.from_params(own).names))
    assert bool(tried.people.mask[:, 0].all())  # everybody has a record
    assert 0 < int(tried.people.mask[:, 3].sum()) < 600


def test_the_same_seed_invents_the_same_people(params: Params) -> None:
    first, again, other = (
        generated(params, people=200, auc=0.7, base_rate=0.3, seed=seed) for seed in (1, 1, 2)
    )
    assert bool((first.people.features == again.people.features).all())
    assert not bool((first.people.labels == other.people.labels).all())


def test_the_planted_signal_has_the_strength_and_base_rate_asked_for(params: Params) -> None:
    shares = {}
    for auc in (0.6, 0.9):
        tried = generated(params, people=2000, auc=auc, base_rate=0.2, seed=1)
        found = Network(params.training, Encoder.from_params(params), "cpu").auc_without_privacy(
            dataclasses.replace(trained_run.plan_of(params), steps=100, expected_batch_size=200.0),
            tried,
        )
        assert found is not None
        assert abs(found - auc) < 0.04
        shares[auc] = float(tried.people.labels[tried.people.mask].mean())
    assert all(abs(share - 0.2) < 0.02 for share in shares.values())


@pytest.mark.parametrize(("auc", "base_rate"), [(0.5, 0.2), (1.0, 0.2), (0.7, 0.0), (0.7, 1.0)])
def test_impossible_signals_are_refused(params: Params, auc: float, base_rate: float) -> None:
    with pytest.raises(ParamsInvalid, match="must lie between"):
        generated(params, people=200, auc=auc, base_rate=base_rate, seed=1)


def test_labels_of_several_classes_are_invented_too(folder: Path) -> None:
    own = declared(folder)
    columns = own.tables["encounters"].columns
    label = dataclasses.replace(columns["readmitted"], positive=None)
    tables = own.tables | {
        "encounters": dataclasses.replace(
            own.tables["encounters"], columns={**columns, "readmitted": label}
        )
    }
    tried = generated(
        dataclasses.replace(own, tables=tables), people=300, auc=0.8, base_rate=0.2, seed=1
    )
    assert set(np.unique(tried.held_out.labels)) == {0, 1, 2}


# A stand-in that is declared public


def _rows() -> pd.DataFrame:
    random = np.random.default_rng(2)
    return pd.DataFrame(
        {
            "id": np.repeat([f"p{number}" for number in range(50)], 4),
            "stay": random.integers(0, 11, size=200),
            "ward": random.choice(["north", "south", "east"], size=200),
            "returned": random.choice(["no", "yes"], size=200),
        }
    )


@pytest.mark.parametrize("name", ["public.parquet", "public.csv", "public.csv.gz"])
def test_records_of_one_person_stay_together(params: Params, name: str) -> None:
    rows = _rows()
    rows.to_parquet(name) if name.endswith("parquet") else rows.to_csv(name, index=False)
    tried = from_files(params, Path(name), seed=1)
    assert (len(tried.people), tried.people.records) == (40, 40 * 3)  # three records at most
    assert len(np.unique(tried.held_out.tokens)) == 10
    assert not set(tried.people.tokens) & set(tried.held_out.tokens)
    assert "declared public" in tried.words


def test_rows_without_a_person_are_each_one(params: Params, folder: Path) -> None:
    (folder / "public").mkdir()
    _rows().drop(columns="id").to_parquet("public/a.parquet")
    assert len(from_files(params, Path("public"), seed=1).people) == 160


def test_the_column_that_says_whose_a_row_is_can_be_named(params: Params) -> None:
    _rows().rename(columns={"id": "who"}).to_parquet("a.parquet")
    assert len(from_files(params, Path("a.parquet"), person="who", seed=1).people) == 40


def test_a_stand_in_that_lacks_columns_or_is_not_there_says_so(params: Params) -> None:
    _rows().drop(columns=["ward", "returned"]).to_parquet("a.parquet")
    with pytest.raises(SchemaMismatch, match=r"\['returned', 'ward'\]"):
        from_files(params, Path("a.parquet"), seed=1)
    with pytest.raises(NotFound, match="none"):
        from_files(params, Path("none.csv"), seed=1)
    _rows().assign(ward="west").to_parquet("b.parquet")
    with pytest.raises(ValueOutsideDomain, match="ward"):
        from_files(params, Path("b.parquet"), seed=1)


# Points


class FakeTrainer:
    """Trains nothing; says what it was asked, and looks at the ledger meanwhile."""

    def __init__(self, params: Params, look: Callable[[Reserved], float]) -> None:
        self.encoder = Encoder.from_params(params)
        self.look = look
        self.plans: list[Plan] = []

    def auc(
        self,
        plan: Plan,
        people: PersonData,
        held_out: RecordData,
        reservation: Reserved,
        progress: Progress | None,
    ) -> float:
        self.plans.append(plan)
        assert set(people.tokens) <= set(reservation.admitted)
        return self.look(reservation)


@pytest.fixture
def ledger(params: Params) -> Ledger:
    trained_run.write_people(params)
    return Ledger.open(params.stores.ledger)


def points_of(
    params: Params, ledger: Ledger, trainer: Any, plans: list[Plan], repeats: int = 1
) -> list[Point]:
    paths = shard_paths(workspace.SHARDS)
    eligible = eligible_people(paths)
    return list(
        charged_points(
            trainer,
            plans,
            ledger,
            paths,
            eligible,
            params=params,
            repeats=repeats,
            now=NOW,
            watch=unwatched,
        )
    )


def states(ledger: Ledger) -> list[str]:
    return [run.state for run in ledger.runs()]


def test_each_training_is_reserved_before_and_settled_after(params: Params, ledger: Ledger) -> None:
    seen = []

    def look(reservation: Reserved) -> float:
        seen.append(ledger.run(reservation.run_id).state)
        return 0.6

    plans = grid(params, noise_multipliers=[2.0, 4.0], clips=[1.0])
    points = points_of(params, ledger, FakeTrainer(params, look), plans, repeats=2)
    assert seen == ["reserved"] * 4
    assert states(ledger) == ["settled"] * 4
    charged = [run.plan_digest for run in ledger.runs()]
    assert charged == [plans[0].digest] * 2 + [plans[1].digest] * 2
    assert [run for point in points for run in point.runs] == [r.run_id for r in ledger.runs()]
    (spent,) = ledger.classes(delta=1e-5)
    assert spent.epsilon_rdp == epsilon_rdp([p.event for p in plans for _ in range(2)], 1e-5)
    assert spent.subjects == trained_run.PEOPLE


def test_a_point_over_the_budget_is_not_trained_and_not_charged(
    params: Params, ledger: Ledger
) -> None:
    tight = dataclasses.replace(params, budget=dataclasses.replace(params.budget, epsilon=1.0))
    plans = grid(params, noise_multipliers=[8.0, 0.5], clips=[1.0])
    trainer = FakeTrainer(params, lambda reservation: 0.6)
    cheap, dear = points_of(tight, ledger, trainer, plans)
    assert (cheap.problem, cheap.aucs) == (None, (0.6,))
    assert (dear.problem, dear.aucs, dear.runs) == ("budget refused", (), ())
    assert trainer.plans == [plans[0]]
    assert len(ledger.runs()) == 1


def test_an_interrupted_training_is_given_back_and_nothing_after_it_runs(
    params: Params, ledger: Ledger
) -> None:
    def interrupted(reservation: Reserved) -> float:
        raise KeyboardInterrupt

    plans = grid(params, noise_multipliers=[8.0, 4.0], clips=[1.0])
    with pytest.raises(KeyboardInterrupt):
        points_of(params, ledger, FakeTrainer(params, interrupted), plans)
    assert states(ledger) == ["void"]
    assert "before anything of this point was shown" in ledger.runs()[0].reason


def test_a_training_that_diverged_stays_charged(params: Params, ledger: Ledger) -> None:
    def diverging(reservation: Reserved) -> float:
        raise NotFinite("A gradient is NaN.")

    (point,) = points_of(
        params,
        ledger,
        FakeTrainer(params, diverging),
        grid(params, noise_multipliers=[8.0], clips=[1.0]),
        3,
    )
    assert (point.problem, point.aucs, len(point.runs)) == ("diverged", (), 1)
    assert states(ledger) == ["settled"]


def test_the_same_sweep_again_is_charged_again(params: Params, ledger: Ledger) -> None:
    plans = grid(params, noise_multipliers=[8.0], clips=[1.0])
    for _ in range(2):
        points_of(params, ledger, FakeTrainer(params, lambda r: 0.6), plans)
    assert states(ledger) == ["settled", "settled"]


def test_a_killed_sweeps_reservation_is_used_and_not_charged_again(
    params: Params, ledger: Ledger
) -> None:
    plans = grid(params, noise_multipliers=[8.0], clips=[1.0])

    def killed(reservation: Reserved) -> float:
        raise SystemExit

    class Dead:
        """The ledger of a process that is killed: nothing of it voids."""

        def __getattr__(self, name: str) -> Any:
            return (lambda *words: None) if name == "void" else getattr(ledger, name)

    dead: Any = Dead()
    with pytest.raises(SystemExit):
        points_of(params, dead, FakeTrainer(params, killed), plans)
    assert states(ledger) == ["reserved"]
    points_of(params, ledger, FakeTrainer(params, lambda r: 0.6), plans)
    assert states(ledger) == ["settled"]


def test_held_out_people_of_one_label_stop_a_sweep_before_it_costs(
    params: Params, ledger: Ledger
) -> None:
    for path in shard_paths(workspace.SHARDS):
        frame = pd.read_parquet(path)
        frame.loc[frame["held_out"], "returned"] = "no"
        frame.to_parquet(path)
    with pytest.raises(TrainingRefused, match="1 of 2 labels"):
        points_of(params, ledger, FakeTrainer(params, lambda r: 0.6), grid(params, clips=[1.0]))
    assert ledger.runs() == []


def test_people_are_never_trained_on_without_privacy(params: Params) -> None:
    tried = generated(params, people=200, auc=0.7, base_rate=0.3, seed=1)
    trainer = Network(params.training, Encoder.from_params(params), "cpu")
    with pytest.raises(TrainingRefused, match="never trained on without privacy"):
        trainer.auc_without_privacy(
            trained_run.plan_of(params), dataclasses.replace(tried, kind="charged")
        )


def test_a_free_point_that_diverges_says_so_and_the_next_one_runs(params: Params) -> None:
    tried = generated(params, people=200, auc=0.7, base_rate=0.3, seed=1)
    plans = grid(params, noise_multipliers=[8.0, 4.0], clips=[1.0])

    def look(reservation: Reserved) -> float:
        if len(trainer.plans) == 1:
            raise NotFinite("A weight is NaN.")
        return 0.6

    trainer: Any = FakeTrainer(params, look)
    first, second = free_points(trainer, plans, tried, repeats=1, watch=unwatched)
    assert (first.problem, second.problem, second.aucs) == ("diverged", None, (0.6,))


# What it shows


def _report(aucs: list[float], reference: float | None, kind: str = "generated") -> dict[str, Any]:
    params = trained_run.params()
    tried = generated(params, people=100, auc=0.7, base_rate=0.3, seed=1)
    plans = grid(params, noise_multipliers=[8.0, 4.0, 2.0][: len(aucs)], clips=[1.0])
    runs = ("run",) if kind == "charged" else ()
    points = [Point(plan, (auc,), runs=runs) for plan, auc in zip(plans, aucs, strict=True)]
    return sweep_report(
        points, dataclasses.replace(tried, kind=kind), accountant="pld", reference=reference
    )


def test_the_cheapest_point_near_the_reference_is_enough() -> None:
    report = _report([0.60, 0.6961, 0.70], 0.70)
    assert report["enough"] == report["points"][1]
    assert report["charged"] is None
    text = render_sweep(report)
    assert text.count("<- enough") == 1
    assert "the same network without privacy (0.7000)" in text


def test_without_a_reference_the_best_point_is_the_measure() -> None:
    report = _report([0.60, 0.6949, 0.70], None)
    assert report["enough"] == report["points"][2]
    assert "of the best point" in render_sweep(report)


def test_where_nothing_is_near_nothing_is_called_enough() -> None:
    report = _report([0.5, 0.6], 0.70)
    assert report["enough"] is None
    assert "No point is within 0.005" in render_sweep(report)


def test_a_point_that_failed_is_listed_and_never_enough(params: Params) -> None:
    tried = generated(params, people=100, auc=0.7, base_rate=0.3, seed=1)
    (plan,) = grid(params, noise_multipliers=[8.0], clips=[1.0])
    point = Point(plan, (0.7,), problem="diverged")
    report = sweep_report([point], tried, accountant="pld", reference=0.7)
    assert report["enough"] is None
    assert "diverged" in render_sweep(report)
    assert sweep_csv(report).splitlines()[1].endswith(",diverged")


def test_numbers_of_people_are_marked_not_private_and_of_nobody_are_not() -> None:
    charged, free = _report([0.6], None, "charged"), _report([0.6], 0.6)
    assert charged["points"][0]["auc"]["private"] is False
    assert charged["data"]["private"] is False
    assert "auc_not_private,auc_lowest_not_private" in sweep_csv(charged)
    assert "(not private)" in render_sweep(charged)
    assert free["points"][0]["auc"]["private"] is True
    assert "not_private" not in sweep_csv(free)


# The command


def test_a_free_sweep_writes_table_and_plots_and_makes_no_store(folder: Path) -> None:
    declared(folder)
    done = CliRunner().invoke(
        app, ["sweep", "--people", "400", "--noise-multiplier", "2,8", "--clip", "1", "--json"]
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report == read_json(workspace.report_path("sweep"))
    assert [point["noise_multiplier"] for point in report["points"]] == [8.0, 2.0]
    # So few people under so much noise may come to any AUC: their strength is tested elsewhere.
    assert all(0 < point["auc"]["value"] < 1 for point in report["points"])
    assert 0 < report["reference"]["auc"]["value"] < 1
    assert (workspace.PLOTS / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert not (folder / ".lethe").exists() and not (folder / "model").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stand-in", "generated", "--charged"], "either --stand-in or --charged"),
        (["--charged", "--people", "500"], "--people and --person are of a stand-in"),
        (["--epsilon", "1", "--noise-multiplier", "1"], "either --epsilon or --noise-multiplier"),
        (["--epsilon", "one"], "--epsilon takes numbers"),
        (["--noise", "1"], "`--noise` is called `--noise-multiplier` now"),
        (["--auc", "0.4"], "--auc 0.4"),
    ],
)
def test_options_that_contradict_are_refused(folder: Path, words: list[str], message: str) -> None:
    declared(folder)
    error = CliRunner().invoke(app, ["sweep", *words]).exception
    assert isinstance(error, ParamsInvalid)
    assert message in str(error)


@pytest.fixture
def ready(params: Params, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A workspace that was run up to validate, and nobody has withdrawn."""
    write_json(workspace.report_path("validate"), {"passed": True})
    write_whole(workspace.SUBJECTS, BitMap([1]).serialize())
    monkeypatch.setattr(sweeping, "count_withdrawn", lambda params, people, now: 0)
    return params


def charge(params: Params, agree: sweeping.Agree, **wanted: Any) -> dict[str, Any]:
    plans = grid(params, **(wanted or {"noise_multipliers": [8.0, 4.0], "clips": [0.7]}))
    return sweeping.sweep_charged(params, plans, repeats=1, now=NOW, console=QUIET, agree=agree)


def test_a_charged_sweep_shows_its_price_charges_it_and_keeps_no_model(
    ready: Params, ledger: Ledger
) -> None:
    shown: list[str] = []

    def agree(price: str) -> None:
        assert ledger.runs() == []
        shown.append(price)

    report = charge(ready, agree)
    assert states(ledger) == ["settled", "settled"]
    (spent,) = ledger.classes(delta=1e-5)
    assert report["charged"]["epsilon_rdp"] == pytest.approx(spent.epsilon_rdp)
    assert f"would be at {spent.epsilon_rdp:.3f} of 50" in shown[0]
    assert f"Together epsilon {spent.epsilon_rdp:.3f} (RDP)" in shown[0]
    assert report["reference"] is None
    assert not workspace.MODEL.exists() and not workspace.MANIFEST.exists()
    assert not list(workspace.STATE.rglob("*.safetensors"))


def test_who_does_not_agree_spends_nothing(ready: Params, ledger: Ledger) -> None:
    def disagree(price: str) -> None:
        raise ParamsInvalid("Nothing was spent.")

    with pytest.raises(ParamsInvalid):
        charge(ready, disagree)
    assert ledger.runs() == []
    assert not workspace.report_path("sweep").exists()


def test_the_command_spends_nothing_unless_asked_to(
    ready: Params, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lethe.cli.sweep.load_params", lambda path: ready)
    words = ["sweep", "--charged", "--noise-multiplier", "8", "--clip", "0.7"]
    asked = CliRunner().invoke(app, words)
    assert "Nothing was spent" in str(asked.exception)
    assert ledger.runs() == []
    message = CliRunner().invoke(app, [*words, "--yes"])
    assert message.exit_code == 0, message.output
    assert states(ledger) == ["settled"]


def test_nobody_who_withdrew_is_swept(
    ready: Params, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "count_withdrawn", lambda params, people, now: 2)
    with pytest.raises(TrainingRefused, match="2 people in the shards have withdrawn"):
        charge(ready, lambda price: None)
    assert ledger.runs() == []


def test_data_that_did_not_pass_validation_is_not_swept(ready: Params, ledger: Ledger) -> None:
    write_json(workspace.report_path("validate"), {"passed": False})
    with pytest.raises(NotFound, match="validation"):
        charge(ready, lambda price: None)
    assert ledger.runs() == []


def test_what_was_paid_for_is_kept_when_a_later_point_is_interrupted(
    ready: Params, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(reservation: Reserved) -> float:
        if len(trainer.plans) == 2:
            raise KeyboardInterrupt
        return 0.6

    trainer = FakeTrainer(ready, look)
    monkeypatch.setattr(sweeping, "_network", lambda params: trainer)
    with pytest.raises(KeyboardInterrupt):
        charge(ready, lambda price: None)
    assert states(ledger) == ["settled", "void"]
    kept = read_json(workspace.report_path("sweep"))
    assert [point["auc"]["value"] for point in kept["points"]] == [0.6]
