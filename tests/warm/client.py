"""A command of this environment, run by the warm process where there is one for it.

Started as `lethe`, `dvc` or `python`: whoever starts it sees one process like any other. It hands
on its words, folder, environment and open streams, passes on the signals that ask a process to end,
and ends as the other one did. Imports as little as it can: it is started thousands of times.
"""

# ruff: noqa: PTH109, PTH118, PTH119, PTH123
import os
import signal
import socket
import sys

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
# A fork may have others than its server; of PYTHONPATH its server makes what an interpreter does.
_ALIKE = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH")


def main(folder: str, binaries: str, server: str = "") -> None:
    """By the server of that name, which is no matter of PYTHONPATH; else by what this names."""
    name = os.path.basename(sys.argv[0])
    real = os.path.join(binaries, name)
    words = [name, *sys.argv[1:]]
    if (name == "python" and not _known(sys.argv[1:])) or not _same_start(folder):
        os.execv(real, [real, *sys.argv[1:]])
    warm = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        own_modules = "bare" if os.environ.get("PYTHONPATH") else "socket"
        warm.connect(os.path.join(folder, server or own_modules))
    except OSError:  # the warm process is gone: started truly, the command does the same
        os.execv(real, [real, *sys.argv[1:]])
    for each in PASSED_ON:
        signal.signal(each, lambda number, _frame: warm.send(bytes([number])))
    asked = repr((words, os.getcwd(), dict(os.environ))).encode()
    with open(os.memfd_create("asked"), "w+b") as file:
        file.write(asked)
        file.flush()
        socket.send_fds(warm, [b"run"], [0, 1, 2, file.fileno()])
    answer = warm.recv(16)
    if answer == b"anew":  # the server has imported what is to be looked for elsewhere
        os.execv(real, [real, *sys.argv[1:]])
    status = int(answer or b"9")  # without an answer the warm process is gone
    if os.WIFSIGNALED(status):
        ended = os.WTERMSIG(status)
        if ended != signal.SIGKILL:
            signal.signal(ended, signal.SIG_DFL)
        os.kill(os.getpid(), ended)
    os._exit(os.WEXITSTATUS(status))


def _same_start(folder: str) -> bool:
    """Whether a new process would begin as the warm one did."""
    with open(os.path.join(folder, "environment")) as file:
        return file.read() == decided_at_start(dict(os.environ))


def decided_at_start(environment: "dict[str, str]") -> str:
    """What an interpreter reads before its first line runs."""
    return repr(
        sorted(
            (name, value)
            for name, value in environment.items()
            if name.startswith("PYTHON") and name not in _ALIKE
        )
    )


def _known(words: "list[str]") -> bool:
    """A module, a file or a line: nothing that only a new interpreter can do."""
    words = words[1:] if words[:1] in (["-P"], ["-u"]) else words
    return bool(words) and (words[0] in ("-m", "-c") or words[0].endswith(".py"))
