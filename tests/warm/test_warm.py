"""A command that is forked is, to whoever starts it, a process like any other."""

import ast
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.warm import BIN, client, server, warm_bin, warm_environment
from tests.warm.client import decided_at_start
from tests.warm.server import Server

SAID = """
import os, sys
print(sys.argv[1:], os.getcwd(), os.environ["GIVEN"], sys.stdin.read())
print("on the other stream", file=sys.stderr)
sys.exit(7)
"""
WAITS = """
import os, signal, sys, time
from pathlib import Path
def ends(number, frame):
    Path("ended").write_text(signal.Signals(number).name)
    sys.exit(3)
signal.signal(signal.SIGTERM, ends)
Path("began.part").write_text(str(os.getpid()))
Path("began.part").rename("began")
time.sleep(600)
"""
KILLS = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
AT_END = "import atexit\natexit.register(print, 'at the end')\nraise ValueError('a reason')\n"
BEGETS = """
import subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path("began.part").write_text(str(child.pid))
Path("began.part").rename("began")
time.sleep(600)
"""
DRAWN = (
    "import os, random, uuid, numpy\nprint(random.random(), numpy.random.random(), uuid.uuid4())"
)


def _python(tmp_path: Path, program: str, *words: str) -> list[str]:
    (tmp_path / "program.py").write_text(program)
    return [str(warm_bin() / "python"), "program.py", *words]


def _run(
    tmp_path: Path, program: str, *words: str, **more: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        _python(tmp_path, program, *words),
        cwd=tmp_path,
        env=warm_environment() | {"GIVEN": "1"} | more,
        input="of the input",
        capture_output=True,
        text=True,
    )


def test_it_has_its_words_folder_environment_streams_and_exit_code(tmp_path: Path) -> None:
    done = _run(tmp_path, SAID, "one", "two words")
    assert done.returncode == 7
    assert done.stdout == f"['one', 'two words'] {tmp_path} 1 of the input\n"
    assert done.stderr == "on the other stream\n"


def test_what_ends_it_is_seen(tmp_path: Path) -> None:
    assert _run(tmp_path, KILLS).returncode == -signal.SIGKILL


def test_an_error_is_reported_and_what_is_to_be_done_at_the_end_is_done(tmp_path: Path) -> None:
    done = _run(tmp_path, AT_END)
    assert (done.returncode, done.stdout) == (1, "at the end\n")
    assert done.stderr.endswith("ValueError: a reason\n")


@pytest.mark.parametrize(
    ("asked", "code"), [(signal.SIGTERM, 3), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_signal_reaches_it(tmp_path: Path, asked: signal.Signals, code: int) -> None:
    started = subprocess.Popen(_python(tmp_path, WAITS), cwd=tmp_path, env=warm_environment())
    while not (tmp_path / "began").exists():
        assert started.poll() is None
        time.sleep(0.02)
    running = int((tmp_path / "began").read_text())
    started.send_signal(asked)
    assert started.wait() == code
    assert (tmp_path / "ended").exists() == (asked == signal.SIGTERM)
    while psutil.pid_exists(running):  # whoever is killed cannot wait for it
        time.sleep(0.02)


def test_who_is_killed_takes_what_it_started_with_it(tmp_path: Path) -> None:
    started = subprocess.Popen(_python(tmp_path, BEGETS), cwd=tmp_path, env=warm_environment())
    while not (tmp_path / "began").exists():
        assert started.poll() is None
        time.sleep(0.02)
    child = int((tmp_path / "began").read_text())
    started.kill()
    assert started.wait() == -signal.SIGKILL
    until = time.monotonic() + 300  # it would end by itself after twice that
    while _runs(child):
        assert time.monotonic() < until
        time.sleep(0.02)


def _runs(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_is_drawn_differs(tmp_path: Path) -> None:
    one, other = (_run(tmp_path, DRAWN).stdout.split() for _ in range(2))
    assert not set(one) & set(other)


def test_what_only_a_new_interpreter_can_do_is_done_by_one(tmp_path: Path) -> None:
    parent = "import os\nprint(os.getppid())"
    forked = _run(tmp_path, parent).stdout
    anew = _run(tmp_path, parent, PYTHONHASHSEED="7").stdout
    assert int(anew) == os.getpid()
    assert forked != anew


def test_the_commands_are_those_of_the_environment(tmp_path: Path) -> None:
    for name in ("lethe", "dvc"):
        said = [
            subprocess.run(
                [str(folder / name), "--help"],
                cwd=tmp_path,
                env=warm_environment(),
                capture_output=True,
                check=True,
            ).stdout
            for folder in (warm_bin(), BIN)
        ]
        assert said[0] == said[1]


def test_one_that_ends_while_whoever_asked_is_killed_takes_no_other_with_it(
    tmp_path: Path,
) -> None:
    """Both are heard of in one look, the end first."""
    gate, asked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with gate, asked:
        warm = Server(gate, str(tmp_path), str(BIN))
        warm._pass_on(asked)
        assert not warm.running
        warm.selector.close()


def test_one_that_is_stopped_before_it_asks_holds_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_PATIENCE_S", 0.05)
    gate, connected = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with gate, connected:
        warm = Server(gate, str(tmp_path), str(BIN))
        warm._begin(connected)
        assert not warm.running
        assert connected.fileno() == -1
        warm.selector.close()


@pytest.mark.parametrize("words", [("-m", "beside"), ("-c", "import beside")])
@pytest.mark.parametrize("safe", [True, False])
def test_where_it_runs_is_left_out_of_its_path_if_asked(
    tmp_path: Path, words: tuple[str, ...], safe: bool
) -> None:
    (tmp_path / "beside.py").write_text("import os\nprint('found', os.getppid())")
    done = subprocess.run(
        [str(warm_bin() / "python"), *(["-P"] if safe else []), *words],
        cwd=tmp_path,
        env=warm_environment(),
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("found") is not safe, done.stderr
    assert (done.returncode == 0) is not safe
    assert done.stdout != f"found {os.getpid()}\n", "it is a fork"


# A folder of PYTHONPATH as an interpreter finds modules there, before its own.
ASKED = "import os, sys, lethe, torch; print(os.getppid(), lethe.__file__, *sys.path[1:3])"


@pytest.mark.parametrize("named", ["{0}/own", "own"])
def test_code_that_pythonpath_names_is_what_a_fork_runs(tmp_path: Path, named: str) -> None:
    package = tmp_path / "own" / "lethe"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (tmp_path / "dvc.yaml").write_text("")  # a workspace's file, and no module
    path = os.pathsep.join((named.format(tmp_path), str(tmp_path)))
    said = _run(tmp_path, ASKED, PYTHONPATH=path).stdout.split()
    assert said[1:] == [str(package / "__init__.py"), str(tmp_path / "own"), str(tmp_path)]
    assert int(said[0]) != os.getpid(), "it is a fork"
    without = _run(tmp_path, "import os; print(os.getppid())").stdout
    assert said[0] != without.strip(), "of another process than those without"


def test_a_module_of_pythonpath_that_the_warm_process_has_from_elsewhere_is_looked_for_anew(
    tmp_path: Path,
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "yaml.py").write_text("")
    asked = "import os, yaml; print(os.getppid(), yaml.__file__)"
    said = _run(tmp_path, asked, PYTHONPATH=str(tmp_path / "own")).stdout
    assert said == f"{os.getpid()} {tmp_path / 'own' / 'yaml.py'}\n"


def test_without_the_warm_process_a_command_is_started_truly(tmp_path: Path) -> None:
    (tmp_path / "environment").write_text(decided_at_start(warm_environment()))
    program = (
        f"import sys\nsys.path.insert(0, {str(Path(client.__file__).parent)!r})\nimport client\n"
        f"sys.argv[0] = 'python'\nclient.main({str(tmp_path)!r}, {str(BIN)!r})\n"
    )
    (tmp_path / "says.py").write_text("print('started')")
    done = subprocess.run(
        [sys.executable, "-IS", "-c", program, "says.py"],
        cwd=tmp_path,
        env=warm_environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "started\n"), done.stderr


def test_who_ends_all_children_of_a_test_does_not_end_it(tmp_path: Path) -> None:
    forked = int(_run(tmp_path, "import os\nprint(os.getppid())").stdout)
    assert forked not in {each.pid for each in psutil.Process().children(recursive=True)}


def test_no_module_keeps_the_python_that_imported_it() -> None:
    """A fork has another than the process that imported for it; else it starts all anew."""
    kept = [
        path
        for path in (Path(__file__).parents[2] / "pipeline" / "lethe").rglob("*.py")
        for statement in ast.parse(path.read_text()).body
        if not isinstance(statement, ast.FunctionDef | ast.ClassDef)
        for node in ast.walk(statement)
        if isinstance(node, ast.Attribute) and node.attr == "executable"
    ]
    assert kept == []
