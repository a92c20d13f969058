"""Where approvers are declared, each new version waits for them, in a run of its own."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT
from tests.dags.conftest import Airflow


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The DAGs of a workspace whose params.yaml names Kim and Lou."""
    folder = tmp_path_factory.mktemp("approve")
    pipeline = json.loads((PROJECT / "dags" / "pipeline.json").read_text()) | {
        "approvers": ["kim", "lou"]
    }
    compiled = folder / "workspace" / "dags" / "pipeline.json"
    compiled.parent.mkdir(parents=True)
    compiled.write_text(json.dumps(pipeline))
    airflow = Airflow(folder / "airflow", folder / "workspace", LETHE_BIN="/opt/lethe/bin")
    said = airflow.run("python", str(Path(__file__).parent / "look.py"))
    found: dict[str, Any] = json.loads(said.partition("LOOK")[2])
    assert found["errors"] == {}
    dags: dict[str, Any] = found["dags"]
    return dags


def test_train_and_erase_ask_in_a_run_apart_and_do_not_wait(dags: dict[str, Any]) -> None:
    for name in ("train", "erase"):
        tasks = dags[name]["tasks"]
        assert tasks["candidate"]["command"].endswith("exec lethe approve --waiting")
        assert tasks["candidate"]["skips_on"] == [40], "nothing waits"
        assert tasks["ask"]["kind"] == "TriggerDagRunOperator"
        assert "candidate" in tasks["ask"]["before"]
    assert "register" in dags["train"]["tasks"]["candidate"]["before"]
    assert dags["erase"]["tasks"]["candidate"]["before"] == [], "an open request holds nobody up"


def test_a_person_stands_between_a_version_and_champion(dags: dict[str, Any]) -> None:
    approve = dags["approve"]
    assert list(approve["tasks"]) == ["show", "approve", "champion"]
    assert approve["tasks"]["approve"]["kind"] == "ApprovalOperator"
    assert approve["tasks"]["champion"]["before"] == ["approve", "show"]
    assert approve["tasks"]["approve"]["assigned"] == ["kim", "lou"]
    assert approve["schedule"] == "NoneType"
    assert "is red" in approve["doc"]


def test_what_a_person_typed_is_no_part_of_a_command(dags: dict[str, Any]) -> None:
    for task in dags["approve"]["tasks"].values():
        assert "{{" not in (task["command"] or "")


def test_what_is_kept_is_a_name_and_a_price(dags: dict[str, Any]) -> None:
    kept = {
        (name, task)
        for name, dag in dags.items()
        for task, facts in dag["tasks"].items()
        if facts["xcom"] and facts["kind"] == "BashOperator"
    }
    assert kept == {("train", "candidate"), ("erase", "candidate"), ("approve", "show")}


@pytest.fixture(scope="module")
def notified(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("notified")
    said = Airflow(folder, folder).run("python", str(Path(__file__).parent / "notified.py"))
    found: dict[str, Any] = json.loads(said.partition("NOTIFIED")[2])
    return found


def test_a_failure_is_reported_with_its_place_and_without_its_message(
    notified: dict[str, Any],
) -> None:
    text = (
        "Lethe: erase.run failed, attempt 1 of run sweep-1. What to do stands on the DAG's page; "
        "its log: http://127.0.0.1:8080/log"
    )
    assert notified["notified"]["success"] == notified["notified"]["None"] == [{"text": text}]
    assert "a-secret" not in notified["kept"]
    assert notified["mail"]["to"] == ["night@example.org", "dpo@example.org"]
    assert "exception" not in notified["mail"]["text"]


def test_an_outage_is_reported_once_and_what_is_not_known_is_reported(
    notified: dict[str, Any],
) -> None:
    assert notified["notified"]["failed"] == []
    assert len(notified["notified"]["unknown"]) == 1
