"""A run in pods: folders that begin empty, two remotes in common, and what must never be there.

Each pod is a process with a folder, a cache and a HOME of its own. There is no Kubernetes here;
`tests/dags/test_pods.py` looks at the pods that it would be asked for.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from pyroaring import BitMap

from lethe.config.keys import read_key_file
from lethe.ledger.ledger import Ledger
from lethe.stages import STAGES
from lethe.stores.dvc.graph import compile_pipeline, read_stages
from lethe.stores.registry.registry import Registry
from lethe.stores.vault.vault import Vault
from tests.conftest import PROJECT, Workspace
from tests.pods import KEYS, Cluster, contents, make_cluster, people, unpacked, wait_for

RUN = "a1"


@dataclass
class PodRun:
    """What was seen while a run went through pods, and what is left of it."""

    cluster: Cluster
    release: str  # the commit that it began at
    listed: list[str] = field(default_factory=list)  # what its ref changes of that
    states: dict[str, str] = field(default_factory=dict)
    scratch: dict[str, bytes] = field(default_factory=dict)  # as it was with keys in it
    held: dict[str, bytes] = field(default_factory=dict)  # on the remotes after any stage
    left: dict[str, bytes] = field(default_factory=dict)  # the shared folder at its end
    published: tuple[str, str] = ("", "")  # what was said, the commit's subject
    again: tuple[str, str] = ("", "")  # closed twice
    status: dict[str, Any] = field(default_factory=dict)  # DVC's, of the workspace
    kept: dict[str, bytes] = field(default_factory=dict)  # remotes after the run was closed


@pytest.fixture(scope="module")
def pod_run(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> PodRun:
    cluster = make_cluster(finished, tmp_path_factory.mktemp("cluster"))
    made = PodRun(cluster, cluster.home.run("git", "rev-parse", "HEAD").stdout.strip())
    cluster.at_home("pod", "open", "--run", RUN)
    keys = cluster.work(RUN, "consent")
    for stage in STAGES:
        if stage == "train":  # the node goes while it trains, and a new pod goes on
            process = cluster.start(RUN, stage)
            wait_for(cluster.work(RUN, stage), ".lethe/staging/*.checkpoint", process)
            cluster.kill(RUN, stage, process)
        cluster.pod(RUN, stage)
        made.states[stage] = str((cluster.state(RUN) or {}).get("state"))
        made.held |= contents(cluster)
        if stage == "consent":
            for folder in ("minimized", "consented"):
                for path in sorted((keys / "data" / folder).rglob("*")):
                    made.scratch[path.relative_to(keys).as_posix()] = unpacked(path)
    made.left = {str(path): unpacked(path) for path in keys.parent.rglob("*") if path.is_file()}
    made.listed = cluster.home.run(
        *("git", "-C", str(cluster.git_remote), "diff", "--name-only"),
        *(f"refs/lethe/walks/{RUN}^", f"refs/lethe/walks/{RUN}"),
    ).stdout.split()
    said = cluster.at_home("pod", "publish", "--run", RUN).stdout
    made.published = (said, cluster.home.run("git", "log", "-1", "--format=%s").stdout.strip())
    one, other = (cluster.at_home("pod", "close", "--run", RUN).stdout for _ in range(2))
    made.again = (one, other)
    cluster.drop_volumes(RUN)
    made.kept = contents(cluster)
    made.status = json.loads(cluster.home.run("dvc", "status", "--json").stdout)
    return made


def test_the_stages_that_share_a_folder_are_those_that_meta_says() -> None:
    pipeline = compile_pipeline(read_stages(PROJECT / "dvc.yaml"))
    assert tuple(stage["name"] for stage in pipeline["stages"] if stage["subject_keys"]) == KEYS
    assert [stage["name"] for stage in pipeline["stages"] if stage["resumes"]] == ["train", "audit"]


def test_it_ends_with_a_registered_model_of_the_release(pod_run: PodRun) -> None:
    registry = Registry.open(pod_run.cluster.given["LETHE_REGISTRY_URL"])
    new = registry.find("readmission", "2")
    assert new.status == "ready"
    assert new.tags["git_commit"] == pod_run.release, "the run's own commit goes with its ref"
    assert new.tags["git_dirty"] == "false"


def test_a_training_that_was_killed_went_on_and_was_charged_once(pod_run: PodRun) -> None:
    with Ledger.open(pod_run.cluster.given["LETHE_LEDGER_URL"]) as ledger:
        runs = list(ledger.runs())
    assert [run.state for run in runs] == ["settled"] * 4, "the workspace's own, and this"
    assert [run.mechanism for run in runs][1::2] == ["figures"] * 2


def test_no_person_of_the_source_was_ever_on_a_remote(pod_run: PodRun) -> None:
    everybody = people(pod_run.cluster.home.root)
    assert len(everybody) == 1500
    together = b"\0".join(pod_run.held.values())
    assert [v for person in everybody for v in person if v and v.encode() in together] == []
    keys = b"\0".join(pod_run.scratch.values())
    assert sum(key.encode() in keys for key, *_ in everybody) > 1000, "they could be seen"


def test_what_had_subject_keys_was_only_ever_in_the_shared_folder(pod_run: PodRun) -> None:
    assert {name.split("/")[1] for name in pod_run.scratch} == {"minimized", "consented"}
    assert set(pod_run.scratch.values()) & set(pod_run.held.values()) == set()


def test_the_shared_folder_has_no_person_after_its_last_reader(pod_run: PodRun) -> None:
    together = b"\0".join(pod_run.left.values())
    assert len(pod_run.left) > 10
    everybody = people(pod_run.cluster.home.root)
    assert [v for person in everybody for v in person if v and v.encode() in together] == []


def test_the_ref_says_when_an_erasure_must_wait(pod_run: PodRun) -> None:
    keys = dict.fromkeys(("minimize", "consent"), "keys")
    assert pod_run.states == dict.fromkeys(STAGES, "idle") | keys


def test_reports_on_the_ref_are_counts_and_curves(pod_run: PodRun) -> None:
    pipeline = read_stages(PROJECT / "dvc.yaml")
    declared = {
        path
        for stage in pipeline.values()
        for kind in ("outs", "metrics", "plots")
        for entry in stage.get(kind, ())
        for path in ([entry] if isinstance(entry, str) else entry)
        if path.startswith("reports/")
    }
    assert set(pod_run.listed) <= {"dvc.lock", *declared}
    assert {"dvc.lock", "reports/train.json", "reports/register.json"} <= set(pod_run.listed)


def test_the_workspace_releases_it_and_closing_it_takes_nothing_that_was_released(
    pod_run: PodRun,
) -> None:
    assert "Released readmission/2" in pod_run.published[0]
    assert pod_run.published[1] == f"Release readmission/2 of {RUN}"
    assert pod_run.again == (
        f"Run {RUN} is closed; 0 objects that nothing else names went.\n",
        f"Run {RUN} is closed; 0 objects that nothing else names went.\n",
    )
    assert pod_run.cluster.state(RUN) is None
    assert {name for name in pod_run.held if "/" in name} <= pod_run.kept.keys()
    assert set(pod_run.status) <= {*KEYS}, "they look at the source, or at what is removed"


@dataclass
class Forgotten:
    """An erasure that came between two pods of a second run."""

    cluster: Cluster
    token: int
    person: tuple[str, ...]
    before: dict[str, bytes]
    waiting: tuple[int, str]  # the erasure's exit code and words
    state: str
    next_pod: tuple[int, str]
    after: dict[str, bytes]
    request: dict[str, str]


@pytest.fixture(scope="module")
def forgotten(pod_run: PodRun) -> Forgotten:
    cluster = pod_run.cluster
    cluster.at_home("pod", "open", "--run", "b2")
    cluster.pod("b2", "validate")
    token, person = _trained_on(cluster)
    before = contents(cluster)
    cluster.at_home("erase", "request", "--email", person[2])
    waiting = cluster.at_home("erase", "run", check=False)
    state = str((cluster.state("b2") or {}).get("state"))
    next_pod = cluster.pod("b2", "budget", check=False)
    cluster.at_home("pod", "close", "--run", "b2")
    cluster.at_home("erase", "run")
    (request,) = json.loads(cluster.at_home("erase", "status", "--json").stdout)
    return Forgotten(
        cluster,
        token,
        person,
        before,
        (waiting.returncode, waiting.stdout + waiting.stderr),
        state,
        (next_pod.returncode, next_pod.stdout),
        contents(cluster),
        request,
    )


def _trained_on(cluster: Cluster) -> tuple[int, tuple[str, ...]]:
    """Somebody whom both models were trained on."""
    key = read_key_file(cluster.home.root / "secrets" / "lethe.key")
    with (
        Vault.open(cluster.given["LETHE_VAULT_URL"], key) as vault,
        Ledger.open(cluster.given["LETHE_LEDGER_URL"]) as ledger,
    ):
        everybody = people(cluster.home.root)
        tokens = vault.lookup([person[0] for person in everybody]).tolist()
        one, _, other, _ = (run.eligible for run in ledger.runs())  # each with its figures
    return next(
        (token, person)
        for person, token in zip(everybody, tokens, strict=True)
        if token >= 0 and token in one & other
    )


def _holders(objects: dict[str, bytes], token: int) -> list[str]:
    """Objects of DVC's that have a token; shards were unpacked into words."""
    return [
        name
        for name, content in objects.items()
        if "/" in name
        and (
            f"\n{token}\n".encode() in content
            if content[:4] == b"PAR1"
            else content[:2] in (b":0", b";0") and token in BitMap.deserialize(content)
        )
    ]


def test_an_erasure_waits_for_runs_that_have_the_person(forgotten: Forgotten) -> None:
    code, said = forgotten.waiting
    assert code == 36, said
    assert "1 runs are under way" in said
    assert forgotten.state == "revoked"


def test_the_next_pod_of_such_a_run_ends_and_says_so(forgotten: Forgotten) -> None:
    code, said = forgotten.next_pod
    assert code == 35, said
    assert "Run b2 is over" in said


def test_once_they_are_closed_the_request_ends_and_nothing_is_on_the_remotes(
    forgotten: Forgotten,
) -> None:
    assert forgotten.request["state"] == "closed"
    assert len(_holders(forgotten.before, forgotten.token)) == 3, "shard, subjects, manifest"
    assert _holders(forgotten.after, forgotten.token) == []
    together = b"\0".join(forgotten.after.values())
    assert [v for v in forgotten.person if v and v.encode() in together] == []


def test_no_model_that_had_the_person_and_no_ref_stays_on_a_remote(forgotten: Forgotten) -> None:
    models = {n for n, c in forgotten.before.items() if "/" in n and b'"architecture"' in c}
    assert len(models) == 2, "the released one, and the one before it"
    assert models & forgotten.after.keys() == set()
    assert forgotten.cluster.state("b2") is None
