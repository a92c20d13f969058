"""`lethe compile`: what the scheduler knows of the pipeline is what `dvc.yaml` says."""

import json
from typing import Any

import pytest

from lethe.config.params import load_params
from lethe.core.errors import ParamsInvalid
from lethe.stages import STAGES
from lethe.stores.dvc.graph import COMPILED, compile_pipeline, read_stages
from tests.conftest import PROJECT, Workspace

META = {
    "pool": "cpu",
    "executor": "cpu",
    "gpu": False,
    "subject_keys": False,
    "resumes": False,
    "retries": 1,
}


def _stage(**parts: Any) -> dict[str, Any]:
    return {"cmd": "true", "meta": META} | parts


def _after(stages: dict[str, Any]) -> dict[str, list[str]]:
    return {stage["name"]: stage["after"] for stage in compile_pipeline(stages)["stages"]}


def test_the_checked_in_pipeline_is_that_of_dvc_yaml() -> None:
    compiled = json.loads((PROJECT / COMPILED).read_text())
    approvers = load_params(PROJECT / "params.yaml").registration.approvers
    stages = read_stages(PROJECT / "dvc.yaml")
    assert compiled == compile_pipeline(stages, approvers), "run: lethe compile"


def test_the_pipeline_has_the_stages_in_the_order_of_the_law() -> None:
    compiled = compile_pipeline(read_stages(PROJECT / "dvc.yaml"))
    assert [stage["name"] for stage in compiled["stages"]] == list(STAGES)
    assert compiled["scratch"] == ["data/consented", "data/minimized"]


def test_edges_follow_what_is_read_from_outputs_metrics_plots_and_folders() -> None:
    stages = {
        "last": _stage(deps=["reports/a.json", "code.py"], outs=["z"]),
        "maker": _stage(outs=[{"data": {"cache": False}}], metrics=["reports/a.json"]),
        "inner": _stage(deps=["data/part.csv"], plots=[{"roc.csv": {"cache": False}}]),
        "outer": _stage(deps=["roc.csv", "z"]),
        "neighbour": _stage(deps=["database"]),
    }
    assert _after(stages) == {
        "maker": [],
        "last": ["maker"],
        "inner": ["maker"],
        "outer": ["inner", "last"],
        "neighbour": [],
    }


@pytest.mark.parametrize(
    ("meta", "named"),
    [
        ({k: v for k, v in META.items() if k != "pool"}, "pool"),
        (META | {"retry": 1}, "retry"),
        (META | {"retries": "2"}, "retries"),
        (META | {"retries": True}, "retries"),
        (META | {"gpu": 1}, "gpu"),
    ],
)
def test_meta_that_says_too_little_or_something_else_is_refused(
    meta: dict[str, Any], named: str
) -> None:
    with pytest.raises(ParamsInvalid, match=f"stage one:.* look at {named}"):
        compile_pipeline({"one": _stage(meta=meta)})


def test_a_stage_without_meta_is_refused() -> None:
    with pytest.raises(
        ParamsInvalid, match="look at executor, gpu, pool, resumes, retries, subject_keys"
    ):
        compile_pipeline({"one": {"cmd": "true"}})


def test_stages_that_wait_for_one_another_are_refused() -> None:
    with pytest.raises(ParamsInvalid, match="a, b wait for one another"):
        compile_pipeline({"a": _stage(deps=["y"], outs=["x"]), "b": _stage(deps=["x"], outs=["y"])})


def test_the_command_writes_the_pipeline(workspace: Workspace) -> None:
    assert "Wrote 8 stages" in workspace.lethe("compile").stdout
    assert (workspace.root / COMPILED).read_bytes() == (PROJECT / COMPILED).read_bytes()
