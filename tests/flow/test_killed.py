"""A power cut at any stage: no half-written output, nothing spent twice, and it ends well."""

import sqlite3
from pathlib import Path

from lethe.stages import STAGES
from tests.conftest import Workspace, make_workspace

KILL = str(Path(__file__).parent / "kill" / "stage_dies.py")


# The second writes of train are exact numbers of the operator's: later ones stage and publish.
AT = dict.fromkeys(STAGES, ("1", "2")) | {"train": ("1", "2", "4", "6", "8")}


def _states(workspace: Workspace) -> list[tuple[str | None, str]]:
    """Mechanism and latest state of every reservation in the ledger."""
    from lethe.ledger.ledger import Ledger

    path = workspace.root / ".lethe" / "ledger.db"
    if not path.exists():
        return []
    with Ledger.open(f"sqlite:///{path}") as ledger:
        return sorted((run.mechanism, run.state) for run in ledger.runs())


def _versions(workspace: Workspace) -> int:
    path = workspace.root / "mlflow.db"
    if not path.exists():
        return 0
    with sqlite3.connect(path) as registry:
        tables = {row[0] for row in registry.execute("SELECT name FROM sqlite_master")}
        if "model_versions" not in tables:
            return 0
        return int(registry.execute("SELECT count(*) FROM model_versions").fetchone()[0])


def test_killed_at_every_stage_in_turn_the_pipeline_ends_as_if_it_never_was(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    workspace.lethe("key")
    workspace.lethe("sample", "--patients", "1500")
    for stage in STAGES:
        for at in AT[stage]:
            ended = workspace.lethe(
                *("run",), check=False, WARM_FIRST=KILL, KILL_STAGE=stage, KILL_AT=at
            )
            assert ended.returncode != 0, f"{stage} was not killed at write {at}"
            assert f"{stage}:" in ended.stderr
            assert not list((workspace.root / "data").glob("**/.*.tmp"))
            assert _versions(workspace) <= (1 if stage == "register" else 0)
            charged = [mechanism for mechanism, _ in _states(workspace)]
            assert charged in ([], ["dp-sgd"], ["dp-sgd", "figures"]), "nothing is charged twice"
    workspace.lethe("run")
    assert _states(workspace) == [("dp-sgd", "settled"), ("figures", "settled")]
    assert _versions(workspace) == 1
