"""One stage of a run in a pod: an empty folder, the stage's inputs, the stage, its outputs.

What is between two pods is on two remotes: git's has the run's `dvc.lock` and reports, by one
ref a run (`lethe.runs.pods.refs`); DVC's has the objects that this lock names. What still has
subject keys is in neither: the stages that read or write it share one folder on a volume of the
run's own, and it is cleared as soon as the last of them has read it.

The order is the guarantee. The ref names objects before the first of them is on its way, so that
an erasure finds whatever a killed pod left; and a pod whose run was revoked meanwhile cannot name
anything, so it sends nothing.
"""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from lethe.config import workspace
from lethe.config.home import POD_LOCK
from lethe.config.params import Params, load_params, resolve_secret
from lethe.core.behaviour import OWN, differing
from lethe.core.children import environment_without_keys
from lethe.core.errors import LetheError, ParamsInvalid, RunEnded
from lethe.core.files import write_whole
from lethe.core.locks import held
from lethe.runs.pods.graph import PIPELINE, Pipeline, report_files
from lethe.runs.pods.refs import PodRun, Refs
from lethe.runs.runner import Report, Runner, WorkspaceRunner
from lethe.stores.dvc.git import LOCK
from lethe.stores.dvc.transfer import clear_held, pull, push, refuse_relative_remote

_LAID = Path(".git/lethe-laid")  # the ref that the folder was last brought to
_SQLITE = "sqlite:///"


class PodRunner(Runner):
    """In a pod: a folder of its own, and two remotes.

    Args:
        run: the run's opaque id.
        remote: the git remote that has the run's ref.
        folder: empty, or that of an earlier try; of a stage that sees subject keys, the one that
            these stages share.
        watch_seconds: how often to look whether the run was revoked while a stage runs.
    """

    def __init__(self, run: str, *, remote: str, folder: Path, watch_seconds: float) -> None:
        self.root = folder
        self._run = run
        self._folder = folder
        self._refs = Refs(folder, remote, depth=2)
        self._watch_seconds = watch_seconds

    def perform(self, targets: Sequence[str], *, force: bool, single: bool, report: Report) -> None:
        """As every runner; a stage that was killed goes on, and does nothing twice.

        Raises:
            RunEnded: the run was revoked or closed, or lacks what a stage starts from.
            ParamsInvalid: a store's address means another place in a pod.
            StoreUnavailable: a remote does not answer; the stage may be tried again.
            StageFailed, Busy: as of every runner; Busy if another pod holds the folder.
        """
        with _alone(self._folder):
            pod_run = _open_run(self._refs, self._run)
            self.root = _lay(self._folder, pod_run)
            pipeline = Pipeline(self.root)
            for stage in targets:
                pipeline.refuse_unknown(stage)
            _refuse_other_places(self.root)
            _refuse_other_code(self.root)
            for stage in targets if single else pipeline.up_to(targets):
                pod_run = self._perform(pod_run, pipeline, stage, force=force, report=report)

    def _perform(
        self, pod_run: PodRun, pipeline: Pipeline, stage: str, *, force: bool, report: Report
    ) -> PodRun:
        """One stage: its inputs, the stage, its outputs; the run as it is then."""
        refs, folder, root = self._refs, self._folder, self.root
        _bring_inputs(root, pipeline, stage)
        if stage in pipeline.with_keys:
            pod_run = _swap(refs, pod_run, folder, state="keys")
        with _watched(refs, pod_run, self._watch_seconds):
            WorkspaceRunner(root).perform([stage], force=force, single=True, report=report)
        return _publish(refs, pod_run, folder, root, pipeline, stage)


def _open_run(refs: Refs, run: str) -> PodRun:
    pod_run = refs.find(run)
    if pod_run is None or pod_run.state == "revoked":
        raise _over(run)
    return pod_run


def _over(run: str) -> RunEnded:
    return RunEnded(
        f"Run {run} is over: it was revoked because somebody in it was erased, or it was closed, "
        "or never opened. Nothing of this stage was kept. Start a new run."
    )


def _lay(folder: Path, pod_run: PodRun) -> Path:
    """Brings the folder to the run's release, lock and reports; the workspace in it.

    A folder that is there already is left as it is: it may have more than the ref, of a try that
    was killed.
    """
    root = folder / pod_run.below
    laid = folder / _LAID
    if laid.exists() and laid.read_bytes() == pod_run.commit.encode():
        clear_held(root)
        return root
    if (root / PIPELINE).exists():
        for path in Pipeline(root).reports():
            (root / path).unlink(missing_ok=True)
    _git(folder, "checkout", "--quiet", "--force", "--detach", pod_run.base)
    clear_held(root)
    for path, content in pod_run.files.items():
        write_whole(root / path, content)
    laid.write_text(pod_run.commit)
    return root


def _swap(
    refs: Refs,
    pod_run: PodRun,
    folder: Path,
    *,
    state: Any,
    files: Mapping[str, bytes] | None = None,
) -> PodRun:
    if pod_run.state == state and files in (None, pod_run.files):
        return pod_run
    after = refs.swap(pod_run, state, files)
    (folder / _LAID).write_text(after.commit)
    return after


def _bring_inputs(root: Path, pipeline: Pipeline, stage: str) -> None:
    remote, scratch = pipeline.inputs(stage)
    absent = [path for path in scratch if not (root / path).exists()]
    if absent:
        raise RunEnded(
            f"{stage} cannot begin: {', '.join(absent)} is not in the shared folder. It never "
            "leaves there; start again from the first stage, or a new run."
        )
    if (root / LOCK).exists():
        if lacking := pull(root, remote):
            raise RunEnded(
                f"{stage} cannot begin: {len(lacking)} of the objects that it reads are not on "
                "DVC's remote. Perhaps somebody was erased meanwhile. Start a new run."
            )
        own = pipeline.cached(stage)
        if pull(root, own):
            for path in own:  # a part of an output is no output
                gone = root / path
                shutil.rmtree(gone) if gone.is_dir() else gone.unlink(missing_ok=True)


def _publish(
    refs: Refs, pod_run: PodRun, folder: Path, root: Path, pipeline: Pipeline, stage: str
) -> PodRun:
    files = report_files(root, pipeline)
    outs = pipeline.cached(stage)
    waits = stage in pipeline.with_keys and stage != pipeline.with_keys[-1]
    after = "keys" if waits else "idle"
    if outs and (pod_run.state != after or files != pod_run.files):
        pod_run = _swap(refs, pod_run, folder, state="pushing", files=files)
        push(root, outs)
    if not waits and stage in pipeline.with_keys:
        workspace.remove_scratch(root)
    return _swap(refs, pod_run, folder, state=after, files=files)


@contextmanager
def _watched(refs: Refs, pod_run: PodRun, seconds: float) -> Iterator[None]:
    """Ends what runs inside when its run is revoked or closed: a training can take hours."""
    ended, lost = threading.Event(), threading.Event()

    def look() -> None:
        while not ended.wait(seconds):
            if refs.peek(pod_run.run) not in (None, pod_run.commit):
                lost.set()
                _end_children()
                return

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    except LetheError:
        if lost.is_set():
            raise _over(pod_run.run) from None
        raise
    finally:
        ended.set()
        watcher.join()
    if lost.is_set():
        raise _over(pod_run.run)


def _end_children() -> None:
    """DVC and the stage that it runs; the run itself ends by its own word."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.terminate()
    _, left = psutil.wait_procs(children, timeout=10)
    for child in left:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def _refuse_other_places(root: Path) -> None:
    """Stores of a pod's own would be empty; a ledger that forgot would charge everybody anew.

    Raises:
        ParamsInvalid: an address is relative, or a SQLite file or folder that is not there.
    """
    refuse_relative_remote(root)
    params = load_params(root / "params.yaml")
    for name, declared in _addresses(params).items():
        if declared.startswith("env:") and declared.removeprefix("env:") not in os.environ:
            continue  # this stage is not given it; one that needs it says so
        url = resolve_secret(declared)
        kind, _, rest = url.partition(":")
        if url.startswith(_SQLITE):
            path = Path(url.removeprefix(_SQLITE))
        elif kind in ("csv", "parquet"):
            path = Path(rest)
        else:
            continue
        if not path.is_absolute() or not path.exists():
            raise ParamsInvalid(
                f"params.yaml: {name} is a file that this pod does not have. In pods every store "
                "has an address that all of them reach; write env:NAME and give the variable."
            )


def _addresses(params: Params) -> dict[str, str]:
    stores = params.stores
    return {
        "source.url": params.source.url,
        "stores.vault": stores.vault,
        "stores.ledger": stores.ledger,
        "stores.registry": stores.registry,
    }


def _refuse_other_code(root: Path) -> None:
    """The registry names the release's commit: what runs must do what that code does.

    Raises:
        RunEnded: the image was built from code, or with templates, that do something else.
    """
    if differ := differing(OWN, root / "pipeline" / "lethe"):
        raise RunEnded(
            f"The image was built from other code than the release: {len(differ)} files of "
            f"pipeline/lethe/ differ, {differ[0]} among them. Build the image from the release."
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the folder against another pod on the same machine; the ref holds all others."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (folder / ".git").exists():
        _git(folder, "init", "--quiet")
    with held(folder / POD_LOCK, busy="Another pod holds this folder. Wait for it to end."):
        yield


def _git(folder: Path, *words: str) -> None:
    done = subprocess.run(
        ["git", *words],
        cwd=folder,
        env=environment_without_keys(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise RunEnded(
            f"git {words[0]} ended with {done.returncode} in the pod's folder. Start the stage in "
            "an empty folder."
        )
