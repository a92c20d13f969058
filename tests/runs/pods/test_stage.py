"""What a pod refuses before it starts a stage, and what of the pipeline says what it is given."""

from pathlib import Path
from typing import Any

import pytest

from lethe.core.errors import Busy, NotFound, ParamsInvalid, RunEnded
from lethe.runs.pods import stage
from lethe.runs.pods.graph import Pipeline
from tests.conftest import PROJECT, Workspace

STORES = ("vault", "ledger", "registry")


@pytest.fixture
def reached(workspace: Workspace) -> Workspace:
    """A workspace whose DVC remote has an address for all."""
    config = workspace.root / ".dvc" / "config"
    config.write_text(config.read_text().replace("../remote", "s3://bucket/lethe"))
    return workspace


def _declare(workspace: Workspace, **addresses: str) -> None:
    def edit(raw: dict[str, Any]) -> None:
        raw["source"]["url"] = addresses.get("source", "env:LETHE_SOURCE_URL")
        for name in STORES:
            raw["stores"][name] = addresses.get(name, f"env:LETHE_{name.upper()}_URL")

    workspace.edit_params(edit)


def test_a_stage_is_given_what_it_reads_and_no_more() -> None:
    pipeline = Pipeline(PROJECT)
    assert pipeline.inputs("minimize") == ([], [])
    assert pipeline.inputs("consent") == ([], ["data/minimized"])
    assert pipeline.inputs("pseudonymize") == ([], ["data/consented"])
    assert pipeline.inputs("validate") == (["data/shards", "data/subjects.roaring"], [])
    assert pipeline.inputs("train") == (["data/encoding.json", "data/plan.json", "data/shards"], [])
    assert pipeline.inputs("register") == (["data/manifest.roaring", "data/plan.json", "model"], [])


def test_what_has_subject_keys_is_neither_sent_nor_on_the_ref() -> None:
    pipeline = Pipeline(PROJECT)
    assert pipeline.with_keys == ["minimize", "consent", "pseudonymize"]
    sent = {name: pipeline.cached(name) for name in pipeline.names if pipeline.cached(name)}
    assert sent == {
        "pseudonymize": ["data/shards", "data/subjects.roaring"],
        "budget": ["data/encoding.json", "data/plan.json"],
        "train": ["data/manifest.roaring", "model"],
    }
    assert all(path.startswith("reports/") for path in pipeline.reports())
    assert len(pipeline.reports()) == 13


def test_a_stage_that_the_pipeline_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(NotFound, match="no stage 'trian'; it has minimize, consent"):
        Pipeline(PROJECT).refuse_unknown("trian")


@pytest.mark.parametrize("name", ["source", *STORES])
@pytest.mark.parametrize("address", ["sqlite:///.lethe/one.db", "sqlite:////nowhere/one.db"])
def test_a_pod_refuses_a_database_that_would_be_its_own(
    reached: Workspace, name: str, address: str
) -> None:
    _declare(reached, **{name: address})
    with pytest.raises(ParamsInvalid, match=f"{name}.* is a file that this pod does not have"):
        stage._refuse_other_places(reached.root)


def test_a_pod_refuses_it_from_a_variable_too_and_never_says_the_address(
    reached: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    _declare(reached)
    stage._refuse_other_places(reached.root)  # a stage that is not given a store does not need it
    monkeypatch.setenv("LETHE_LEDGER_URL", "sqlite:////nowhere/secret.db")
    with pytest.raises(ParamsInvalid) as raised:
        stage._refuse_other_places(reached.root)
    assert "secret" not in str(raised.value)
    monkeypatch.setenv("LETHE_LEDGER_URL", "postgresql://ledger:secret@db.internal/ledger")
    stage._refuse_other_places(reached.root)


def test_a_pod_takes_a_database_file_that_is_there(reached: Workspace, tmp_path: Path) -> None:
    there = tmp_path / "ledger.db"
    there.touch()
    _declare(reached, ledger=f"sqlite:///{there}")
    stage._refuse_other_places(reached.root)


@pytest.mark.parametrize("what", ["changed", "added", "removed"])
def test_an_image_of_other_code_than_the_release_runs_nothing(
    workspace: Workspace, what: str
) -> None:
    file = workspace.root / "pipeline" / "lethe" / "privacy" / "noise" / "gaussian.py"
    file.write_text(file.read_text() + "\n# a remark\n")
    stage._refuse_other_code(workspace.root)
    if what == "changed":
        file.write_text(file.read_text() + "LOUDER = True\n")
    elif what == "added":
        file.with_name("louder.py").touch()
    else:
        file.unlink()
    with pytest.raises(
        RunEnded, match=r"1 files of pipeline/lethe/ differ, privacy/noise/\w+\.py among"
    ):
        stage._refuse_other_code(workspace.root)


@pytest.mark.parametrize("what", ["changed", "added", "removed"])
def test_an_image_of_other_templates_than_the_release_runs_nothing(
    workspace: Workspace, what: str
) -> None:
    file = workspace.root / "pipeline" / "lethe" / "reports" / "card.md.j2"
    (file.parent / "__pycache__").mkdir(exist_ok=True)
    (file.parent / "__pycache__" / "card.pyc").touch()
    stage._refuse_other_code(workspace.root)
    if what == "changed":
        file.write_text(file.read_text() + "Everybody agreed.\n")
    elif what == "added":
        file.with_name("other.md.j2").touch()
    else:
        file.unlink()
    with pytest.raises(RunEnded, match=r"1 files of .* differ, reports/\w+\.md\.j2 among"):
        stage._refuse_other_code(workspace.root)


def test_two_pods_do_not_share_a_folder_at_once(tmp_path: Path) -> None:
    with stage._alone(tmp_path / "work"), pytest.raises(Busy), stage._alone(tmp_path / "work"):
        pass
    with stage._alone(tmp_path / "work"):
        pass


def test_a_run_has_an_opaque_name(workspace: Workspace) -> None:
    said = workspace.lethe(
        *("pod", "open", "--run", "ada@example.org", "--remote", "nowhere"), check=False
    )
    assert said.returncode == 10
    assert "ada" not in said.stderr
