"""Killed at any moment of an erasure from the source, the next call ends it."""

import signal
import subprocess
from pathlib import Path

import pytest

from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.identifiers import traces
from lethe.stores.source.verify import verify_source
from tests.conftest import PROJECT
from tests.traps import NOW, Parish, declare, sqlite_url
from tests.warm import program, warm_environment

KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv.pop())
from pathlib import Path
import lethe.stores.source.compact as compaction
import lethe.stores.source.erase as erasure
from lethe.stores.source.identifiers import traces
from lethe.stores.source.writer import Writer
from tests.traps import NOW, declare

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

url, moment = sys.argv[1:]
params = declare(url)
found = traces(params, "1")
if moment == "between deletions":
    real, calls = Writer.delete, []
    def delete(self, name, rows):
        calls.append(name)
        if len(calls) == 4:
            die()
        return real(self, name, rows)
    Writer.delete = delete
elif moment == "before the commit":
    real_add = compaction.Marks.add
    def add(self, *rest, **named):
        real_add(self, *rest, **named)
        die()
    compaction.Marks.add = add
elif moment == "before the vacuum":
    erasure.compact_source = die
elif moment == "after the vacuum":
    compaction.Marks.overwritten = die
erasure.erase_from_source(params, found, now=NOW)
"""


@pytest.mark.parametrize(
    "moment", ["between deletions", "before the commit", "before the vacuum", "after the vacuum"]
)
def test_the_next_call_ends_what_a_killed_one_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.chdir(tmp_path)
    parish = Parish.build(sqlite_url(tmp_path))
    params = declare(parish.url)
    found = traces(params, "1")
    before = parish.everything()
    done = subprocess.run(
        program(KILLED, parish.url, moment, str(PROJECT)),
        env=warm_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    rolled_back = moment in ("between deletions", "before the commit")
    assert (parish.everything() == before) == rolled_back
    assert verify_source(params, found).result == "present"
    outcome = erase_from_source(params, found, now=NOW)
    assert (outcome.result, outcome.count) == ("erased", 23)
    assert [each["count"] for each in outcome.retained] == [1]
    assert b"ada.quill@" not in (tmp_path / "parish.db").read_bytes().replace(b"bada.quill@", b"")
    assert verify_source(params, found).result == "absent"
    assert erase_from_source(params, found, now=NOW).result == "absent"
