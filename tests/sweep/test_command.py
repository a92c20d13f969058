"""`lethe sweep`: free on people who are nobody, charged on people who are."""

import dataclasses
import io
import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from pyroaring import BitMap
from rich.console import Console
from typer.testing import CliRunner

from lethe.cli.main import app
from lethe.config import private_reports, workspace
from lethe.config.params import Params
from lethe.core.errors import (
    FileDamaged,
    NotFound,
    ParamsInvalid,
    TrainingRefused,
)
from lethe.core.files import read_json, write_json, write_whole
from lethe.ledger.ledger import Ledger
from lethe.stores.dvc.inputs import content_md5
from lethe.sweep import run as sweeping
from lethe.sweep.grid import grid
from lethe.training.trainer import Reserved
from tests.conftest import PROJECT
from tests.stages.test_budget import declared
from tests.sweep.fakes import NOW, FakeTrainer, states

QUIET = Console(quiet=True)


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


TAKEN = (workspace.SHARDS, workspace.SUBJECTS)


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


@pytest.mark.parametrize("output", [workspace.SHARDS, workspace.SUBJECTS])
def test_shards_that_somebody_else_put_there_are_neither_read_nor_charged(
    ready: Params, ledger: Ledger, output: Path
) -> None:
    shutil.copyfile(PROJECT / "dvc.yaml", "dvc.yaml")
    outs = [{"path": str(each), "md5": content_md5(each)} for each in TAKEN]
    Path("dvc.lock").write_text(json.dumps({"stages": {"pseudonymize": {"outs": outs}}}))
    charge(ready, lambda price: None)
    path = next(iter(sorted(output.glob("*.parquet"))), output)
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(FileDamaged, match=f"^{output} is not what dvc.lock names"):
        charge(ready, lambda price: None)
    assert len(ledger.runs()) == 2


def test_into_a_log_each_training_says_a_line_when_it_ends(
    ready: Params, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = io.StringIO()
    lines: list[list[str]] = []
    written = sweeping._written

    def seen(*words: Any) -> dict[str, Any]:
        lines.append([line for line in log.getvalue().splitlines() if "sweep" not in line])
        return written(*words)

    monkeypatch.setattr(sweeping, "_written", seen)
    budget = dataclasses.replace(ready.budget, epsilon=1.5)
    plans = grid(ready, noise_multipliers=[8.0, 0.8], clips=[0.7])
    sweeping.sweep_charged(
        dataclasses.replace(ready, budget=budget),
        plans,
        repeats=2,
        now=NOW,
        console=Console(file=log, force_terminal=False, width=80),
        agree=lambda price: None,
    )
    first = ["trained: noise 8.00 clip 0.7 #1", "trained: noise 8.00 clip 0.7 #2"]
    assert lines == [first, [*first, "budget refused: noise 0.80 clip 0.7"]]


def test_who_does_not_agree_spends_nothing(ready: Params, ledger: Ledger) -> None:
    def disagree(price: str) -> None:
        raise ParamsInvalid("Nothing was spent.")

    with pytest.raises(ParamsInvalid):
        charge(ready, disagree)
    assert ledger.runs() == []
    assert not workspace.report_path("sweep").exists()
    assert private_reports.read(Path(), "sweep") == {}


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
    with pytest.raises(TrainingRefused, match=r"^fewer than 100 people in the shards"):
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
    kept = private_reports.read(Path(), "sweep")
    assert [point["auc"]["value"] for point in kept["points"]] == [0.6]


def test_what_a_charged_sweep_measured_on_people_is_in_private_files_alone(
    ready: Params, ledger: Ledger
) -> None:
    shown: list[str] = []
    before = {path for path in Path().rglob("*") if path.is_file()}
    report = charge(ready, shown.append)
    assert private_reports.read(Path(), "sweep") == report
    written = {path for path in Path().rglob("*") if path.is_file()} - before
    names = {path for path in written if "sweep" in path.name}
    assert names == {private_reports.REPORTS / f"sweep.{kind}" for kind in ("json", "csv", "png")}
    assert {stat.S_IMODE(path.stat().st_mode) for path in names} == {0o600}
    assert not workspace.REPORTS.exists() or not (written & set(workspace.REPORTS.rglob("*")))
    assert "charged to about 400 people:" in shown[0]


def test_the_command_names_the_private_files_of_a_charged_sweep(
    ready: Params, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lethe.cli.sweep.load_params", lambda path: ready)
    words = ["sweep", "--charged", "--noise-multiplier", "8", "--clip", "0.7", "--yes"]
    done = CliRunner().invoke(app, words)
    named = [line for line in done.stdout.splitlines() if line.endswith(("json", "csv", "png"))]
    assert named == [f".lethe/private/reports/sweep.{kind}" for kind in ("json", "csv", "png")]
