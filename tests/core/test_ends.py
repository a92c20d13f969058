"""A process that is ended unwinds, and takes its children with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lethe.core.ends import Ended, end_group
from tests.signals import listening

BOUND_S = 120.0

ENDING = """
import signal, sys, time
from lethe.core.ends import Ended, raise_on_signals
raise_on_signals()
try:
    print("ready", flush=True)
    time.sleep(600)
except Ended as ended:
    print(ended.name, flush=True)
    try:
        time.sleep(0.5)  # cleaning up
    except Ended:
        print("cut short", flush=True)
    sys.exit(ended.exit_code)
"""


def _started(code: str, *words: str, **options: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=listening,
        **options,  # type: ignore[call-overload]
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unwinds_and_a_second_one_does_not_cut_that_short(number: int) -> None:
    process = _started(ENDING)
    process.send_signal(number)
    assert process.stdout is not None
    assert process.stdout.readline() == f"{signal.Signals(number).name}\n"
    process.send_signal(number)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=BOUND_S)
    assert (process.returncode, out) == (128 + number, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_was_ignored_stays_so(number: int) -> None:
    """As under `nohup`, or in the background of a shell."""
    ignoring = f"import signal; signal.signal({int(number)}, signal.SIG_IGN)\n"
    process = _started(ignoring + ENDING)
    process.send_signal(number)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=BOUND_S)
    assert (process.returncode, out) == (143, "SIGTERM\n")


def test_no_handler_of_errors_takes_it_for_one() -> None:
    assert not issubclass(Ended, Exception)
    assert Ended(signal.SIGTERM).exit_code == 143


FAMILY = """
import subprocess, sys, time
child = "import signal, time; signal.signal(15, signal.{how}); print(1, flush=True); "
child += "time.sleep(600)"
started = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
started.stdout.readline()
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["SIG_DFL", "SIG_IGN"])
def test_a_group_is_ended_whole_also_what_does_not_listen(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lethe.core.ends.PATIENCE_S", 2.0)
    process = _started(FAMILY.format(how=how), start_new_session=True)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert len(family) == 2
    end_group(process)
    process.communicate()
    assert not [each for each in family if _works(each)]


def test_a_group_that_has_ended_is_fine() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True, text=True)
    process.wait()
    end_group(process)


STARTER = """
import subprocess, sys
stage = '''
import os, sys, time
from lethe.core.ends import Ended, ended_with_starters, raise_on_signals
raise_on_signals()
try:
    with ended_with_starters():
        print(os.getpid(), flush=True)
        time.sleep(600)
except Ended:
    open(sys.argv[1], "w").write("unwound")
'''
subprocess.run([sys.executable, "-c", stage, sys.argv[1]])
"""


@pytest.mark.parametrize("name", ["dvc", "lethe"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_ends_with_what_it_runs_for(name: str, number: int, tmp_path: Path) -> None:
    starter, message = tmp_path / name, tmp_path / "message"
    starter.write_text(STARTER)
    process = subprocess.Popen(
        [sys.executable, starter, str(message)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    stage = psutil.Process(int(process.stdout.readline()))
    process.send_signal(number)
    process.communicate(timeout=BOUND_S)  # its output is the stage's, too: it waits for that one
    _gone(stage)
    assert message.read_text() == "unwound"


def test_a_stage_outlives_any_other_parent(tmp_path: Path) -> None:
    starter = tmp_path / "shell"
    starter.write_text(STARTER)
    process = subprocess.Popen(
        [sys.executable, starter, str(tmp_path / "message")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    stage = psutil.Process(int(process.stdout.readline()))
    process.kill()
    time.sleep(3)
    try:
        assert _works(stage)
    finally:
        stage.kill()
        process.communicate(timeout=BOUND_S)


def _works(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _gone(process: psutil.Process) -> None:
    end = time.monotonic() + BOUND_S
    while _works(process):
        assert time.monotonic() < end
        time.sleep(0.05)


PIPED = """
import sys
from lethe.core.ends import Ended, ended_with_output
try:
    with ended_with_output():
        {what}
except Ended as ended:
    sys.exit(ended.exit_code)
"""


@pytest.mark.parametrize(
    "what",
    [
        "print('one line')",
        "[print('x' * 100, flush=True) for _ in range(100_000)]",
        "sys.stdout.write('x' * 10_000_000)",
        "print('error', file=sys.stderr)",
    ],
)
def test_an_output_that_nobody_reads_ends_the_command_without_a_trace(what: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [sys.executable, "-c", PIPED.format(what=what)], stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    _, said = process.communicate(timeout=BOUND_S)
    assert process.returncode == (0 if "stderr" in what else 141)
    assert said == (b"error\n" if "stderr" in what else b"")


def test_another_broken_pipe_is_an_error_as_ever() -> None:
    code = PIPED.format(what="raise BrokenPipeError")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=BOUND_S)
    assert done.returncode == 1
    assert b"BrokenPipeError" in done.stderr
