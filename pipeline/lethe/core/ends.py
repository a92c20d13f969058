"""How a command ends when somebody else ends it: everything is unwound, as after an error.

A signal that would kill the process at once becomes an exception in the main thread, so that
children are ended and waited for, files with keys are removed, and locks are let go of. What no
process can do for itself, after SIGKILL or a power cut, the next command does
(`lethe.config.workspace.remove_leftovers`).
"""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE_S = 8.0  # what children may take to end; Docker sends SIGKILL after ten seconds
_POLL_S = 0.05
_WATCH_S = 1.0
_STARTERS = {"dvc", "lethe"}
_last_raised = -PATIENCE_S


class Ended(BaseException):
    """A signal, or an output that nobody reads any more, ends this command.

    No `Exception`: nothing that handles errors may take it for one.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name

    @property
    def exit_code(self) -> int:
        return 128 + self.number


def raise_on_signals() -> None:
    """Makes each of `SIGNALS` raise `Ended` in the main thread.

    One that is ignored stays so: `nohup` and a shell's background jobs ask for that.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)


def _raise(number: int, _: FrameType | None) -> None:
    """A second signal must not cut short what the first made the command do, unless that hangs."""
    global _last_raised
    if time.monotonic() - _last_raised < PATIENCE_S + 2:
        return
    _last_raised = time.monotonic()
    raise Ended(number)


def end_group(process: "subprocess.Popen[str]") -> None:
    """Ends a process that leads a group of its own, with all that it started.

    Guarantee: none of the group runs any more. They are asked first, and waited for.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not _runs(process):
            break  # the number of a group that is gone may be another's by now
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        until = time.monotonic() + PATIENCE_S
        while _runs(process) and time.monotonic() < until:
            time.sleep(_POLL_S)
    process.wait()


def _runs(leader: "subprocess.Popen[str]") -> bool:
    leader.poll()  # or it would stay a zombie, and its group with it
    for each in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(each.pid) == leader.pid and each.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


@contextmanager
def ended_with_starters() -> Iterator[None]:
    """Ends this process when the `dvc` or `lethe` that it runs for has ended.

    DVC dies of SIGTERM at once, and no process outlives its SIGKILL: without this a training would
    go on, unseen, for hours. Does nothing unless `raise_on_signals` was called.
    """
    starters = [each for each in psutil.Process().parents() if _is_starter(each)]
    if not starters or signal.getsignal(signal.SIGTERM) is not _raise:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_WATCH_S):
            if not all(map(_lives, starters)):
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _is_starter(process: psutil.Process) -> bool:
    """Whether it is `dvc …`, `lethe …`, or Python that runs one of them."""
    try:
        words = process.cmdline()[:4]
    except psutil.Error:
        return False
    return any(Path(word).name in _STARTERS for word in words)


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@contextmanager
def ended_with_output() -> Iterator[None]:
    """Takes an output that nobody reads any more, as under `| head`, for a signal to end.

    Raises:
        Ended: with SIGPIPE.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        if not _output_is_broken():
            raise
        raise Ended(signal.SIGPIPE) from None


def _output_is_broken() -> bool:
    """Whether the pipe is the output's, and no other; then nothing more is written to it."""
    broken = [each for each in (sys.stdout, sys.stderr) if _has_no_reader(each.fileno())]
    for stream in broken:
        # The interpreter flushes at its end: what is left must go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(broken)


def _has_no_reader(descriptor: int) -> bool:
    asked = select.poll()
    asked.register(descriptor, 0)  # an error is reported unasked
    return any(event & select.POLLERR for _, event in asked.poll(0))
