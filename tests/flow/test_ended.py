"""A run that is ended from outside ends its children, and leaves nothing that has subject keys."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from lethe.config.workspace import CONSENTED, MINIMIZED, TEMPORARY
from tests.conftest import BIN, Workspace, make_workspace
from tests.shared import made_once
from tests.signals import listening

PAUSE = str(Path(__file__).parent / "pause")
LETHE, DVC = str(BIN / "lethe"), str(BIN / "dvc")
BOUND_S = 300.0  # for a machine that is ten times slower; nothing waits that long otherwise


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    def make(folder: Path) -> None:
        made = make_workspace(folder)
        made.lethe("key")
        made.lethe("sample", "--patients", "1500")

    made = made_once(tmp_path_factory, "to be ended", make)
    own = (
        tmp_path_factory.mktemp("ended") / "workspace"
    )  # each worker's: one run holds it at a time
    shutil.copytree(made, own, symlinks=True)
    return Workspace(own)


@contextmanager
def _held(place: Workspace, words: tuple[str, ...], stage: str) -> Iterator[subprocess.Popen[str]]:
    """A command, once the stage that it runs stands before it writes its first file."""
    message = place.root / "paused"
    message.unlink(missing_ok=True)
    environment = {"PYTHONPATH": PAUSE, "PAUSE_STAGE": stage, "PAUSE_FILE": str(message)}
    process = subprocess.Popen(
        words,
        cwd=place.root,
        env=place.environment() | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=listening,
    )
    try:
        _until(lambda: message.exists() or process.poll() is not None)
        assert message.exists(), process.stderr and process.stderr.read()
        yield process
    finally:
        for each in _family(place):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.communicate()


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + BOUND_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def _family(place: Workspace) -> list[psutil.Process]:
    """What works in the workspace."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and Path(process.cwd()) == place.root and process.pid != os.getpid():
                found.append(process)
    return found


def _with_keys(place: Workspace) -> list[Path]:
    return [path for path in (MINIMIZED, CONSENTED, TEMPORARY) if (place.root / path).exists()]


@pytest.mark.parametrize(
    ("number", "stage"),
    [
        (signal.SIGTERM, "minimize"),
        (signal.SIGHUP, "consent"),
        (signal.SIGINT, "pseudonymize"),
        (signal.SIGTERM, "train"),
    ],
)
def test_a_run_that_is_ended_leaves_no_process_and_no_keys(
    place: Workspace, number: int, stage: str
) -> None:
    with _held(place, (LETHE, "run"), stage) as run:
        run.send_signal(number)
        _, said = run.communicate(timeout=BOUND_S)
        assert run.returncode == 128 + number
        assert not _family(place)
        assert not _with_keys(place)
        assert f"ended by {signal.Signals(number).name}." in said
        assert said.count("lethe:") == 1
        assert "`lethe run` goes on" in said


def test_a_stage_alone_says_how_it_ended(place: Workspace) -> None:
    with _held(place, (LETHE, "minimize"), "minimize") as stage:
        stage.send_signal(signal.SIGTERM)
        _, said = stage.communicate(timeout=BOUND_S)
        assert stage.returncode == 143
        assert said.startswith("lethe: ended by SIGTERM.")
        assert not _with_keys(place)


def test_a_stage_does_not_outlive_the_dvc_that_runs_it(place: Workspace) -> None:
    with _held(place, (DVC, "repro"), "consent") as repro:
        assert _with_keys(place)
        repro.terminate()  # DVC alone: it dies at once
        _until(lambda: not _family(place))
        assert not _with_keys(place)


def test_nor_the_run_that_was_killed_and_the_next_command_removes_the_rest(
    place: Workspace,
) -> None:
    with _held(place, (LETHE, "run"), "consent") as run:
        run.kill()
        _until(lambda: not _family(place))
    assert not _with_keys(place)


def test_what_a_power_cut_leaves_the_next_command_removes(place: Workspace) -> None:
    with _held(place, (LETHE, "run"), "consent"):
        for each in _family(place):
            with suppress(psutil.NoSuchProcess):
                each.kill()
    assert _with_keys(place)
    done = place.lethe("budget", "--json", check=False)
    assert not _with_keys(place)
    assert "Removed what has subject keys" in done.stderr


def test_a_stage_of_a_run_of_its_own_keeps_what_the_next_one_reads(place: Workspace) -> None:
    """A scheduler's task is tried again where it was ended."""
    root = Path(place.lethe("worktree", "open", "nightly").stdout.strip())
    run = Workspace(root)
    run.run(DVC, "repro", "--single-item", "minimize")
    with _held(run, (DVC, "repro", "--single-item", "consent"), "consent") as task:
        os.killpg(task.pid, signal.SIGTERM)
        task.communicate(timeout=BOUND_S)
        _until(lambda: not _family(run))
    assert (root / MINIMIZED).exists()
    place.lethe("worktree", "close", "nightly")
    assert not root.exists()


def test_after_all_of_them_a_run_ends_well_and_was_charged_once(place: Workspace) -> None:
    done = place.lethe("run")
    lines = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
    assert lines[:3] == ["minimize", "consent", "pseudonymize"]  # a line as each ends, into a pipe
    assert len(place.lethe("budget", "--json").stdout) > 2
    assert not _with_keys(place)
