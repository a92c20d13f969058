"""Tasks as Kubernetes pods of the project's image; read only where `LETHE_EXECUTION=pods`.

A stage's `meta` decides what its pod is given. One that sees subject keys shares a volume of the
run's own with the others that do, and alone has the key and the addresses of source and vault. One
that goes on where it was killed keeps its folder on another. Every other begins with nothing and
leaves nothing. Commands of the workspace run in a pod that has the workspace's volume.

What is here are names: of the image, of secrets, of claims. No value of a secret is ever in a DAG,
in Airflow's database or in its logs. `docs/kubernetes.md` has it all.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.secret import Secret
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from kubernetes.client import ApiException
from kubernetes.client import models as k8s

from dags.place import PROJECT, is_final

WORK = "/srv/lethe"  # the image's own working folder
REMOTES = "/var/run/lethe/remotes"  # gitconfig, aws, and whatever these name
KEYS, TRAINING = "keys", "training"  # a run's volumes
_USER = 10001  # the image's
_ENDING_SECONDS = 60  # beyond their grace
_EVICTIONS = 2  # how often a stage that resumes is started again


def settings() -> dict[str, Any]:
    """`infra/kubernetes/pods.json`, or the file that `LETHE_PODS` names instead."""
    path = Path(os.environ.get("LETHE_PODS") or PROJECT / "infra" / "kubernetes" / "pods.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def stage_pod(stage: Mapping[str, Any], *, run: str, **options: Any) -> "LethePod":
    """A stage of a run, by its `meta`.

    Args:
        stage: as the compiled pipeline has it.
        run: a template of the run's opaque id.
        options: of the operator.
    """
    its = settings()
    sees_keys, gpu = stage["subject_keys"], stage["gpu"]
    if stage["resumes"]:
        options["retries"] = max(options.get("retries", 0), _EVICTIONS)
    words = ("pod", "stage", stage["name"], "--run", run, "--folder", f"{WORK}/run")
    return _pod(
        its,
        stage["name"],
        words,
        run=run,
        role="stage",
        claim=claim_of(run, stage),
        resources=_resources(its, stage["executor"], gpu=gpu),
        secrets=("stores", "identities") if sees_keys else ("stores",),
        node_selector=dict(its["gpu"]["node_selector"]) if gpu else {},
        tolerations=[_toleration(each) for each in its["gpu"]["tolerations"]] if gpu else [],
        **options,
    )


def run_pod(name: str, *, run: str, **options: Any) -> "LethePod":
    """What the workspace does for a run: `open`, which makes its volumes, `publish`, or `close`,
    which removes them."""
    words = ("pod", name, "--run", run)
    volumes = {"makes_volumes": name == "open", "removes_volumes": name == "close"}
    return home_pod(name, *words, run=run, **volumes, **options)


def home_pod(task_id: str, *words: str, run: str = "", **options: Any) -> "LethePod":
    """A command of the workspace; `words` follow `lethe`."""
    its = settings()
    return _pod(
        its,
        task_id,
        words,
        run=run,
        role="home",
        claim=its["home_claim"],
        resources=_resources(its, "home", gpu=False),
        secrets=("stores", "identities", "receipts"),
        **options,
    )


def _pod(
    its: Mapping[str, Any],
    task_id: str,
    words: Sequence[str],
    *,
    run: str,
    role: str,
    claim: str | None,
    resources: k8s.V1ResourceRequirements,
    secrets: Sequence[str],
    **options: Any,
) -> "LethePod":
    return LethePod(
        task_id=task_id,
        run=run,
        name=f"lethe-{task_id}".replace("_", "-"),
        arguments=list(words),
        image=os.environ["LETHE_IMAGE"],
        namespace=its["namespace"],
        service_account_name=its["service_account"],
        automount_service_account_token=False,
        container_resources=resources,
        volumes=[_work(claim), _empty("tmp"), _secret_volume(its["secrets"]["remotes"])],
        volume_mounts=[
            k8s.V1VolumeMount(name="work", mount_path=WORK),
            k8s.V1VolumeMount(name="tmp", mount_path="/tmp"),  # noqa: S108 - a volume of its own
            k8s.V1VolumeMount(name="remotes", mount_path=REMOTES, read_only=True),
        ],
        env_vars={
            "GIT_CONFIG_GLOBAL": f"{REMOTES}/gitconfig",
            "AWS_SHARED_CREDENTIALS_FILE": f"{REMOTES}/aws",
        },
        secrets=[Secret("env", None, its["secrets"][name]) for name in secrets],
        labels={
            "app.kubernetes.io/name": "lethe",
            "lethe-role": role,
            "lethe-sees": "keys" if "identities" in secrets else "tokens",
            **({"lethe-run": run} if run else {}),
        },
        security_context=_pod_security(),
        container_security_context=_container_security(),
        termination_grace_period=its["termination_seconds"],
        startup_timeout_seconds=its["startup_seconds"],
        # A pod that is followed to its end needs one slot of a worker, reports what it prints as it
        # goes, ends when the task is ended, and is found again by a worker that was restarted.
        deferrable=False,
        get_logs=True,
        do_xcom_push=False,
        log_pod_spec_on_failure=False,
        on_finish_action="delete_pod",
        **options,
    )


class LethePod(KubernetesPodOperator):
    """A pod whose own word is final, and which makes or removes its run's volumes.

    Args:
        run: a template of the run's id.
        makes_volumes, removes_volumes: before the pod starts; done again, they change nothing.
    """

    template_fields = (*KubernetesPodOperator.template_fields, "run")

    def __init__(
        self,
        *,
        run: str,
        makes_volumes: bool = False,
        removes_volumes: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.run = run
        self.makes_volumes = makes_volumes
        self.removes_volumes = removes_volumes

    def execute(self, context: Any) -> Any:
        if self.makes_volumes:
            make_volumes(self.client, self.namespace, self.run)
        if self.removes_volumes:
            remove_volumes(self.client, self.namespace, self.run)
        try:
            return super().execute(context)
        except AirflowSkipException:
            raise
        except AirflowException as error:
            code = exit_code(self.remote_pod, self.base_container_name)
            if is_final(code):
                raise AirflowFailException(
                    f"Ended with {code}, which trying again does not correct: docs/exit-codes.md."
                ) from error
            raise


def claim_of(run: str, stage: Mapping[str, Any]) -> str | None:
    """The claim that a stage's folder is on; None where it goes with the pod."""
    if stage["subject_keys"]:
        return claim_name(run, KEYS)
    return claim_name(run, TRAINING) if stage["resumes"] else None


def claim_name(run: str, volume: str) -> str:
    return f"lethe-{run}-{volume}"


def make_volumes(client: Any, namespace: str | None, run: str) -> None:
    """The run's claims; those that are there stay, with what is on them."""
    for volume, its in settings()["volumes"].items():
        body = k8s.V1PersistentVolumeClaim(
            api_version="v1",
            kind="PersistentVolumeClaim",
            metadata=k8s.V1ObjectMeta(
                name=claim_name(run, volume),
                labels={"app.kubernetes.io/name": "lethe", "lethe-run": run},
            ),
            spec=k8s.V1PersistentVolumeClaimSpec(
                access_modes=[its["access_mode"]],
                storage_class_name=its["storage_class"],
                resources=k8s.V1VolumeResourceRequirements(requests={"storage": its["size"]}),
            ),
        )
        try:
            client.create_namespaced_persistent_volume_claim(namespace, body)
        except ApiException as error:
            if error.status != 409:
                raise


def remove_volumes(client: Any, namespace: str | None, run: str) -> None:
    """Ends what is left of the run's stages, then its claims, and with them what is on them.

    Raises:
        AirflowException: a stage did not end; nothing of the run may be closed under it.
    """
    ours = f"lethe-run={run},lethe-role=stage"
    client.delete_collection_namespaced_pod(namespace, label_selector=ours)
    until = time.monotonic() + settings()["termination_seconds"] + _ENDING_SECONDS
    while client.list_namespaced_pod(namespace, label_selector=ours).items:
        if time.monotonic() > until:
            raise AirflowException("Pods of the run do not end. Look at their nodes; clear this.")
        time.sleep(2)
    for volume in settings()["volumes"]:
        try:
            client.delete_namespaced_persistent_volume_claim(claim_name(run, volume), namespace)
        except ApiException as error:
            if error.status != 404:
                raise


def exit_code(pod: Any, container: str) -> int | None:
    """What a container ended with; None where its pod was taken away before it could say."""
    statuses = (pod.status.container_statuses if pod and pod.status else None) or []
    state = next((each.state for each in statuses if each.name == container), None)
    return int(state.terminated.exit_code) if state and state.terminated else None


def _resources(its: Mapping[str, Any], executor: str, *, gpu: bool) -> k8s.V1ResourceRequirements:
    kind = its["executors"][executor]
    devices = its["gpu"]["devices"] if gpu else {}
    return k8s.V1ResourceRequirements(
        requests={**kind["requests"], **devices}, limits={**kind["limits"], **devices}
    )


def _toleration(its: Mapping[str, Any]) -> k8s.V1Toleration:
    return k8s.V1Toleration(
        key=its["key"], operator=its["operator"], value=its.get("value"), effect=its["effect"]
    )


def _work(claim: str | None) -> k8s.V1Volume:
    if claim is None:
        return _empty("work")
    source = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=claim)
    return k8s.V1Volume(name="work", persistent_volume_claim=source)


def _empty(name: str) -> k8s.V1Volume:
    return k8s.V1Volume(name=name, empty_dir=k8s.V1EmptyDirVolumeSource())


def _secret_volume(secret: str) -> k8s.V1Volume:
    source = k8s.V1SecretVolumeSource(secret_name=secret, default_mode=0o440)
    return k8s.V1Volume(name="remotes", secret=source)


def _pod_security() -> k8s.V1PodSecurityContext:
    return k8s.V1PodSecurityContext(
        run_as_non_root=True,
        run_as_user=_USER,
        run_as_group=_USER,
        fs_group=_USER,
        fs_group_change_policy="OnRootMismatch",
        seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
    )


def _container_security() -> k8s.V1SecurityContext:
    return k8s.V1SecurityContext(
        allow_privilege_escalation=False,
        privileged=False,
        read_only_root_filesystem=True,
        capabilities=k8s.V1Capabilities(drop=["ALL"]),
    )
