"""Run by Airflow's own Python: the pods of every task, as the cluster would be asked for them.

No cluster is asked. Templates are rendered as Airflow renders them before a task runs.
"""

import json
import logging
import sys
from types import SimpleNamespace
from typing import Any

import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kubernetes import client as kubernetes
from kubernetes.client import ApiException

logging.disable()

from dags import pods  # noqa: E402
from dags.place import DAGS, PIPELINE, PROJECT  # noqa: E402

HEAVY = ("torch", "pandas", "numpy", "lethe", "dvc", "mlflow", "sklearn", "pyarrow")


def asked(task: pods.LethePod, dag: DAG) -> dict[str, Any]:
    """The task's pod, and everything of the task that Airflow renders and keeps."""
    context: Any = {
        "dag": dag,
        "run_id": "run_7",
        "ti": SimpleNamespace(dag_id=dag.dag_id, task_id=task.task_id, try_number=1, map_index=-1),
    }
    task.render_template_fields(context)
    made = task.build_pod_request_obj(context, dry_run=True)
    return {
        "pod": kubernetes.ApiClient().sanitize_for_serialization(made),
        "rendered": {name: repr(getattr(task, name)) for name in task.template_fields},
        "xcom": task.do_xcom_push,
        "retries": task.retries,
        "pool": task.pool,
        "deferrable": task.deferrable,
        "finish": str(task.on_finish_action.value),
        "logs_spec": task.log_pod_spec_on_failure,
    }


class Cluster:
    """Notes what it is asked; says that a claim is there, or is gone, the second time."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.claims: set[str] = set()
        self.ending = 0  # how often a pod of the run is still seen

    def create_namespaced_persistent_volume_claim(self, namespace: str, body: Any) -> None:
        self.asked.append(kubernetes.ApiClient().sanitize_for_serialization(body))
        if body.metadata.name in self.claims:
            raise ApiException(status=409)
        self.claims.add(body.metadata.name)

    def delete_namespaced_persistent_volume_claim(self, name: str, namespace: str) -> None:
        assert self.ending < 0, "a claim went before the last pod that had it"
        if name not in self.claims:
            raise ApiException(status=404)
        self.claims.remove(name)

    def list_namespaced_pod(self, namespace: str, label_selector: str) -> Any:
        self.ending -= 1
        return SimpleNamespace(items=["a stage that is ending"] * (self.ending >= 0))

    def delete_collection_namespaced_pod(self, namespace: str, label_selector: str) -> None:
        self.asked.append(label_selector)


def verdict(code: int | None) -> str:
    """What becomes of a task whose container ended so: "final", or "again"."""
    terminated = SimpleNamespace(exit_code=code) if code is not None else None
    status = SimpleNamespace(name="base", state=SimpleNamespace(terminated=terminated))
    task = pods.home_pod("one", "erase", "run")
    task.remote_pod = SimpleNamespace(status=SimpleNamespace(container_statuses=[status]))

    def ended(*_: object) -> None:
        raise AirflowException("Pod lethe-one returned a failure.")

    task.execute_sync = ended  # type: ignore[method-assign]
    try:
        task.execute({})
    except AirflowFailException:
        return "final"
    except AirflowException:
        return "again"
    return "passed"


def refused(status: int) -> bool:
    """Whether an answer of the cluster that is no 409 or 404 is passed on."""

    class Refusing(Cluster):
        def create_namespaced_persistent_volume_claim(self, namespace: str, body: Any) -> None:
            raise ApiException(status=status)

        delete_namespaced_persistent_volume_claim = create_namespaced_persistent_volume_claim

    passed_on = 0
    for deed in (pods.make_volumes, pods.remove_volumes):
        try:
            deed(Refusing(), "lethe", "run-7")
        except ApiException:
            passed_on += 1
    return passed_on == 2


def manifests() -> list[Any]:
    """The example as the client's own models have it, written out again."""
    client = kubernetes.ApiClient()
    kept = []
    for each in yaml.safe_load_all((PROJECT / "infra" / "kubernetes" / "example.yaml").read_text()):
        answer = SimpleNamespace(data=json.dumps(each))
        model = client.deserialize(answer, f"V1{each['kind']}")
        kept.append(client.sanitize_for_serialization(model))
    return kept


cluster = Cluster()
for _ in range(2):
    pods.make_volumes(cluster, "lethe", "run-7")
made = sorted(cluster.claims)
pods.time = SimpleNamespace(monotonic=iter(range(10_000)).__next__, sleep=lambda _: None)
stuck = Cluster()
stuck.ending = 1_000
try:
    pods.remove_volumes(stuck, "lethe", "run-7")
except AirflowException as error:
    stayed = str(error)
cluster.ending = 3
for _ in range(2):
    pods.remove_volumes(cluster, "lethe", "run-7")

bag = DagBag(str(DAGS))
train, erase, retain, deep = (bag.dags[name] for name in ("train", "erase", "retain", "deep_audit"))

sys.stdout.write(
    "LOOK"
    + json.dumps(
        {
            "errors": {str(path): error for path, error in bag.import_errors.items()},
            "heavy": [name for name in HEAVY if name in sys.modules],
            "stages": {
                s["name"]: asked(train.get_task(s["name"]), train) for s in PIPELINE["stages"]
            },
            "home": {
                name: asked(dag.get_task(task), dag)
                for dag in (train, erase, retain, deep)
                for task in dag.task_ids
                if task not in {each["name"] for each in PIPELINE["stages"]}
                and isinstance(dag.get_task(task), pods.LethePod)
                for name in (f"{dag.dag_id}.{task}",)
            },
            "volumes": {
                t.task_id: [t.makes_volumes, t.removes_volumes]
                for t in train.tasks
                if isinstance(t, pods.LethePod) and (t.makes_volumes or t.removes_volumes)
            },
            "claims": {"made": made, "left": sorted(cluster.claims), "asked": cluster.asked},
            "verdicts": {str(code): verdict(code) for code in (1, 11, 23, 29, 32, 35, 137, None)},
            "refused": refused(403),
            "stayed": stayed,
            "manifests": manifests(),
        }
    )
    + "\n"
)
