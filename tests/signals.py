"""Signals of the processes that tests start."""

import signal


def listening() -> None:
    """For `preexec_fn`: no signal is ignored from the start, as under `nohup` or behind `&`."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
