"""Lock files: one holder at a time, also between processes, and freed however it ends."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lethe.core.errors import Busy
from lethe.core.locks import held, waited_for

_HOLD = """
import sys, time
from pathlib import Path
from lethe.core.locks import held
with held(Path(sys.argv[1]), busy=""):
    print("held", flush=True)
    time.sleep(600)
"""


def test_who_comes_second_reads_what_to_do_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.lock"
    with held(path, busy="first"):
        path.write_text("kept")
        with pytest.raises(Busy, match="Wait"), held(path, busy="Wait for it."):
            pass
        assert path.read_text() == "kept"
    with held(path, busy="free again"):
        pass


def test_a_process_that_is_killed_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(Busy), held(path, busy="held elsewhere"):
            pass
    finally:
        process.kill()
        process.communicate()
    with held(path, busy="free again"):
        pass


def test_shared_holders_stand_each_other_and_keep_out_who_is_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with (
        held(path, busy="", shared=True),
        held(path, busy="", shared=True),
        pytest.raises(Busy),
        held(path, busy="shared"),
    ):
        pass
    with held(path, busy=""), pytest.raises(Busy), held(path, busy="alone", shared=True):
        pass


def test_who_waited_for_a_lock_that_went_meanwhile_holds_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    kept_out: list[bool] = []

    def second() -> None:
        with waited_for(path):
            try:
                with held(path, busy="as it must be"):
                    kept_out.append(False)
            except Busy:
                kept_out.append(True)

    with waited_for(path):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.2)
        assert not kept_out
        path.unlink()  # as who closes does
        path.touch()  # as a third does who opens anew
    waiting.join(300)
    assert kept_out == [True]
