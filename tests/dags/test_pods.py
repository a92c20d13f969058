"""The pods that the cluster is asked for: what each stage is given, and what none ever is.

There is no cluster here: the requests are built by Airflow's operator, offline.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dags.place import run_for, run_name
from lethe.rights.erasure_steps import STEPS
from lethe.stages import STAGES
from tests.conftest import PROJECT
from tests.dags.conftest import Airflow

SECRET_VALUE = "never-in-airflow-6f1d"
MANIFESTS = PROJECT / "infra" / "kubernetes" / "example.yaml"
RUN, FOR_IT = run_name("train", "run_7"), run_for("erase", "run_7")
PIPELINE = {
    s["name"]: s for s in json.loads((PROJECT / "dags" / "pipeline.json").read_text())["stages"]
}


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("airflow")
    names = ("LETHE_KEY", "LETHE_SOURCE_URL", "LETHE_VAULT_URL", "LETHE_LEDGER_URL")
    airflow = Airflow(
        folder,
        folder / "workspace",
        LETHE_EXECUTION="pods",
        LETHE_IMAGE="registry.internal/lethe:abc",
        **dict.fromkeys((*names, "LETHE_GIT_REMOTE", "LETHE_REGISTRY_URL"), SECRET_VALUE),
    )
    said = airflow.run("python", str(Path(__file__).parent / "look_pods.py"))
    found: dict[str, Any] = json.loads(said.partition("LOOK")[2])
    return found


def _spec(asked: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = asked["pod"]["spec"]
    return found


def _container(asked: dict[str, Any]) -> dict[str, Any]:
    (found,) = _spec(asked)["containers"]
    return dict(found)


def _volume(asked: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [each for each in _spec(asked)["volumes"] if each["name"] == name]
    return dict(found)


def _every(looked: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [*looked["stages"].items(), *looked["home"].items()]


def test_every_stage_has_a_pod_of_the_image_that_runs_that_stage(looked: dict[str, Any]) -> None:
    assert list(looked["stages"]) == list(STAGES)
    for name, asked in looked["stages"].items():
        container = _container(asked)
        assert container["image"] == "registry.internal/lethe:abc"
        assert container["args"] == [
            *("pod", "stage", name, "--run", RUN, "--folder", "/srv/lethe/run")
        ]
        assert "command" not in container or container["command"] == [], "the image's entrypoint"
        assert asked["pool"] == PIPELINE[name]["pool"]


def test_only_stages_that_see_subject_keys_share_the_volume_that_has_them(
    looked: dict[str, Any],
) -> None:
    for name, asked in looked["stages"].items():
        work = _volume(asked, "work")
        if PIPELINE[name]["subject_keys"]:
            assert work["persistentVolumeClaim"]["claimName"] == f"lethe-{RUN}-keys", name
        elif PIPELINE[name]["resumes"]:
            assert work["persistentVolumeClaim"]["claimName"] == f"lethe-{RUN}-training", name
        else:
            assert work["emptyDir"] is not None, name
            assert "persistentVolumeClaim" not in work, name
        claims = json.dumps(asked["pod"]).count("-keys")
        assert claims == (1 if PIPELINE[name]["subject_keys"] else 0), name


def test_only_they_are_given_the_key_and_where_source_and_vault_are(
    looked: dict[str, Any],
) -> None:
    for name, asked in looked["stages"].items():
        given = [each["secretRef"]["name"] for each in _container(asked)["envFrom"]]
        sees = PIPELINE[name]["subject_keys"]
        assert given == (["lethe-stores", "lethe-identities"] if sees else ["lethe-stores"]), name
        assert asked["pod"]["metadata"]["labels"]["lethe-sees"] == ("keys" if sees else "tokens")


def test_a_gpu_is_asked_for_where_meta_says_so_and_nowhere_else(looked: dict[str, Any]) -> None:
    seen = set()
    for name, asked in _every(looked):
        resources = _container(asked)["resources"]
        gpu = name in PIPELINE and PIPELINE[name]["gpu"]
        assert ("nvidia.com/gpu" in resources["limits"]) is gpu, name
        assert ("nvidia.com/gpu" in resources["requests"]) is gpu, name
        assert bool(_spec(asked).get("nodeSelector")) is gpu, name
        assert bool(_spec(asked).get("tolerations")) is gpu, name
        assert resources["requests"]["memory"] == resources["limits"]["memory"], name
        seen.add(gpu)
    assert seen == {True, False}
    train = _spec(looked["stages"]["train"])
    assert train["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert train["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_no_pod_has_root_a_writable_root_or_a_token_of_the_cluster(
    looked: dict[str, Any],
) -> None:
    for name, asked in _every(looked):
        spec, container = _spec(asked), _container(asked)["securityContext"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert container["allowPrivilegeEscalation"] is False, name
        assert container["readOnlyRootFilesystem"] is True, name
        assert container["privileged"] is False, name
        assert container["capabilities"] == {"drop": ["ALL"]}, name
        mounts = {each["mountPath"] for each in _container(asked)["volumeMounts"]}
        assert mounts == {"/srv/lethe", "/tmp", "/var/run/lethe/remotes"}, name
        assert asked["pod"]["metadata"]["namespace"] == "lethe", name
        assert spec["serviceAccountName"] == "lethe-stage", name
        assert spec["restartPolicy"] == "Never", "Airflow is who starts again"
        assert spec["terminationGracePeriodSeconds"] == 60, name


def test_no_value_of_a_secret_and_no_result_is_in_what_airflow_keeps(
    looked: dict[str, Any],
) -> None:
    for name, asked in _every(looked):
        written = json.dumps(asked)
        assert SECRET_VALUE not in written, name
        assert "://" not in written, name
        assert asked["xcom"] is False, name
        assert asked["logs_spec"] is False, name
        assert asked["finish"] == "delete_pod", name
        assert asked["deferrable"] is False, name
        plain = {each["name"] for each in _container(asked)["env"]}
        assert plain == {"GIT_CONFIG_GLOBAL", "AWS_SHARED_CREDENTIALS_FILE"}, name


def test_a_command_of_the_workspace_has_the_workspaces_volume(looked: dict[str, Any]) -> None:
    words = {name: _container(asked)["args"] for name, asked in looked["home"].items()}
    assert words == {
        **{f"train.{n}": ["pod", n, "--run", RUN] for n in ("open", "publish", "close")},
        **{f"erase.{name}": ["erase", "step", name] for name in STEPS if name != "retrain"},
        "erase.retrain.needed": ["erase", "step", "retrain", "--needed", FOR_IT],
        "erase.retrain.take": ["erase", "step", "retrain", "--elsewhere"],
        "erase.publish": ["worktree", "publish"],
        "deep_audit.run": ["audit", "--deep"],
        "retain.run": ["retain"],
        "retain.publish": ["worktree", "publish"],
    }
    for name, asked in looked["home"].items():
        work = _volume(asked, "work")
        assert work["persistentVolumeClaim"]["claimName"] == "lethe-home", name
        given = [each["secretRef"]["name"] for each in _container(asked)["envFrom"]]
        assert given == ["lethe-stores", "lethe-identities", "lethe-receipts"], name


def test_the_dags_are_the_same_and_parse_without_what_is_heavy(looked: dict[str, Any]) -> None:
    assert looked["errors"] == {}
    assert looked["heavy"] == []


def test_opening_makes_the_runs_volumes_and_closing_alone_removes_them(
    looked: dict[str, Any],
) -> None:
    """`close` is a teardown of everything before it; tests/dags/test_parse.py holds it to that."""
    assert looked["volumes"] == {"open": [True, False], "close": [False, True]}


def test_volumes_are_made_once_and_are_gone_however_often_they_are_removed(
    looked: dict[str, Any],
) -> None:
    claims = looked["claims"]
    assert claims["made"] == ["lethe-run-7-keys", "lethe-run-7-training"]
    assert claims["left"] == []
    assert claims["asked"].count("lethe-run=run-7,lethe-role=stage") == 2, "its pods end first"
    assert looked["refused"], "what the cluster forbids is no success"
    assert "do not end" in looked["stayed"], "nor is a stage that stays"


def test_a_stages_own_word_is_final_and_a_pod_that_was_taken_away_is_tried_again(
    looked: dict[str, Any],
) -> None:
    assert looked["verdicts"] == {
        **dict.fromkeys(("23", "35"), "final"),
        **dict.fromkeys(("1", "11", "29", "32", "137", "None"), "again"),
    }
    for name, asked in looked["stages"].items():
        least = 2 if PIPELINE[name]["resumes"] else 0
        assert asked["retries"] == max(PIPELINE[name]["retries"], least), name


def _kinds(looked: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in looked["manifests"] if each["kind"] == kind}


def test_the_example_is_what_kubernetes_understands_whole(looked: dict[str, Any]) -> None:
    """A misspelt field is lost on the way through the client's models."""
    written = list(YAML(typ="safe", pure=True).load_all(MANIFESTS.read_text()))
    assert len(written) == 10
    assert looked["manifests"] == written


def test_the_example_has_every_name_that_pods_are_given(looked: dict[str, Any]) -> None:
    settings = json.loads((PROJECT / "infra" / "kubernetes" / "pods.json").read_text())
    assert set(_kinds(looked, "Secret")) == set(settings["secrets"].values())
    assert set(_kinds(looked, "PersistentVolumeClaim")) == {settings["home_claim"]}
    assert set(_kinds(looked, "ServiceAccount")) == {settings["service_account"]}
    namespace = _kinds(looked, "Namespace")[settings["namespace"]]
    level = namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert level == "restricted", "which the pods above keep to"


def test_the_example_holds_no_value_of_a_secret(looked: dict[str, Any]) -> None:
    for name, secret in _kinds(looked, "Secret").items():
        assert set(secret["stringData"].values()) == {""}, name
        assert "data" not in secret, name


def test_every_key_of_a_secret_is_documented(looked: dict[str, Any]) -> None:
    page = (PROJECT / "docs" / "kubernetes.md").read_text()
    for name, secret in _kinds(looked, "Secret").items():
        assert f"`{name}`" in page
        for key in secret["stringData"]:
            assert f"`{key}`" in page, key


def test_airflow_may_do_what_its_pods_need_and_read_no_secret(looked: dict[str, Any]) -> None:
    (role,) = _kinds(looked, "Role").values()
    may = {r: set(rule["verbs"]) for rule in role["rules"] for r in rule["resources"]}
    assert set(may) == {"pods", "pods/log", "events", "persistentvolumeclaims"}
    assert may["pods"] == {
        *["create", "get", "list", "watch", "patch", "delete", "deletecollection"]
    }
    assert may["persistentvolumeclaims"] == {"create", "delete"}
