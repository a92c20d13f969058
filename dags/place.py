"""Where the workspace and the pipeline's own environment are, and how a task runs a command there.

Read by every DAG file, so it imports nothing that takes time. Neither Airflow's database nor its
logs learn more from here than paths and the words of commands.
"""

import hashlib
import json
import os
import re
import shlex
from pathlib import Path

DAGS = Path(__file__).resolve().parent
PROJECT = DAGS.parent
HOME = Path(os.environ.get("LETHE_HOME") or PROJECT)
# The workspace's own pipeline where it has one: it is its `dvc.yaml` that is run. `road.json` is
# what `lethe compile` of the version before wrote; its approvers must not go unheard.
_COMPILED = (
    HOME / "dags" / "pipeline.json",
    HOME / "dags" / "road.json",
    DAGS / "pipeline.json",
)
PIPELINE = json.loads(next(path for path in _COMPILED if path.exists()).read_text(encoding="utf-8"))
BIN = Path(os.environ.get("LETHE_BIN") or PROJECT / ".venv" / "bin")
_FOR_AN_ERASURE = re.compile(r"erase-[0-9a-f]{16}")
BUSY, NOTHING_TO_DO = 29, 43  # docs/exit-codes.md
_OWN_WORDS = range(10, 100)
_PASSING = frozenset({11, BUSY, 32})

EXECUTION = os.environ.get("LETHE_EXECUTION") or "machine"


def on_this_machine(*words: str) -> str:
    """The shell line that runs `words` in the workspace, by the pipeline's environment.

    PYTHONPATH is Airflow's own affair. `exec`: ending the task ends the command itself.
    """
    return f"{_prepared()} && exec {shlex.join(words)}"


def in_the_worktree(run: str, *words: str) -> str:
    """The shell line that runs `words` in the worktree of a run, once nothing else holds it.

    Its own code runs, as committed where the run began, whatever is deployed meanwhile.
    """
    return (
        f"{_prepared()} && worktree=$({shlex.join(('lethe', 'worktree', 'wait', run))}) && "
        'cd "$worktree" && export PYTHONPATH="$worktree/pipeline:$worktree" && '
        f"exec {shlex.join(words)}"
    )


def run_name(dag_id: str, run_id: str) -> str:
    """The name of a run: opaque, and safe as a folder, whatever somebody typed as run id.

    A run of `train` that an erasure asked for has the name by which it asked (`run_for`).
    """
    if _FOR_AN_ERASURE.fullmatch(run_id):
        return run_id
    return hashlib.sha256(f"{dag_id} {run_id}".encode()).hexdigest()[:16]


def run_for(dag_id: str, run_id: str) -> str:
    """The name of the run of `train` that a run of `erase` asks for."""
    return f"erase-{run_name(dag_id, run_id)}"


def is_final(code: int | None) -> bool:
    """Whether a command's own word is final: nothing was just away, or at work."""
    return code in _OWN_WORDS and code not in _PASSING


def _prepared() -> str:
    return (
        f"cd {shlex.quote(str(HOME))} && unset PYTHONPATH && umask 077 && "
        f'export PATH={shlex.quote(str(BIN))}:"$PATH"'
    )
