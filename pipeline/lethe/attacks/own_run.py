"""The run that made the model, examined by its transcript in a process of its own.

What came of it is kept when the transcript goes: audited again, a run is what it was, if its
weights are still the same. The verdict has checks and digests, and nothing of people.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lethe.attacks.attack import Attack, Target, register
from lethe.attacks.run.examine import COVERS, Question
from lethe.attacks.statistics import Check, holds
from lethe.config import transcripts, workspace
from lethe.config.home import at_home
from lethe.core.children import environment_without_keys
from lethe.core.errors import FileDamaged, ProcessLost
from lethe.core.files import json_bytes, read_json, write_whole
from lethe.core.reading import parse_data
from lethe.privacy.plan import MECHANISM, Plan
from lethe.training.description import WEIGHTS

_COMMAND = (sys.executable, "-P", "-m", "lethe.attacks.run")


@register
class OwnRun(Attack):
    """The run's own steps, and whether the released weights are what they make."""

    name = "run"
    covers = COVERS
    mechanisms = (MECHANISM,)

    def run(self, target: Target) -> list[Check]:
        if not isinstance(target.plan, Plan):
            meaning = "what says that it is DP-SGD has a plan of DP-SGD"
            return [holds("run.recorded", False, meaning=meaning)]
        verdict = _verdict(target)
        return _examined(target) if verdict is None else verdict


def keep_verdict(target: Target, checks: Sequence[Mapping[str, Any]]) -> None:
    """Writes what an audit found of the run, if it looked at one; before its transcript goes."""
    run_id = target.described.run_id
    mine = [dict(each) for each in checks if str(each["name"]).partition(".")[0] in COVERS]
    if mine and transcripts.folder_of(target.root, run_id).exists():
        content = json_bytes({**_facts(target), "checks": mine})
        write_whole(transcripts.verdict_of(target.root, run_id), content, private=True)


def _verdict(target: Target) -> list[Check] | None:
    """What an audit of this very run and these weights found; None if there was none."""
    try:
        kept = read_json(transcripts.verdict_of(target.root, target.described.run_id))
        checks = [Check.from_data(each) for each in kept.pop("checks")]
    except (OSError, FileDamaged, LookupError, TypeError, ValueError):
        return None
    return (checks or None) if kept == _facts(target) else None


def _facts(target: Target) -> dict[str, str]:
    """What a verdict is of."""
    return {
        "model": hashlib.sha256(target.files.get(WEIGHTS, b"")).hexdigest(),
        "plan": target.release.digest,
        "run_id": target.described.run_id,
    }


def _examined(target: Target) -> list[Check]:
    """Raises: ProcessLost: the process ended without an answer, so that nothing is known."""
    temporary = target.root / workspace.TEMPORARY
    temporary.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=temporary.absolute(), prefix="run-") as made:
        folder = Path(made)
        asked, answer, empty = folder / "question.json", folder / "answer.json", folder / "empty"
        empty.mkdir()
        (folder / WEIGHTS).write_bytes(target.files.get(WEIGHTS, b""))
        (folder / "manifest").write_bytes(target.manifest.serialize())
        asked.write_bytes(question(target, folder).to_bytes())
        # A traceback may lead through a user's module, and show what that has read.
        said = None if os.environ.get("LETHE_TRACEBACK") else subprocess.DEVNULL
        ended = subprocess.run(
            [*_COMMAND, str(asked), str(answer)],
            cwd=empty,
            env=environment_without_keys(),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            check=False,
        )
        checks = _answered(answer)
    if ended.returncode or not checks:
        how = f"by signal {-ended.returncode}" if ended.returncode < 0 else f"({ended.returncode})"
        raise ProcessLost(
            f"The process that recomputes the run ended {how} before it had an answer: killed, out "
            "of memory, or the model's module needs what is not there; LETHE_TRACEBACK=1 shows "
            "it. Nothing is known of the run. What it reads is still there: run the audit again."
        )
    return checks


def _answered(path: Path) -> list[Check]:
    try:
        return [Check.from_data(each) for each in parse_data(path.read_bytes())]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def question(target: Target, folder: Path) -> Question:
    """What the process is asked of a run; `folder` has weights and manifest."""
    root = target.root.absolute()
    return Question(
        run_id=target.described.run_id,
        transcript=str(transcripts.folder_of(root, target.described.run_id)),
        weights=str(folder / WEIGHTS),
        manifest=str(folder / "manifest"),
        shards=tuple(str(path) for path in target.paths),
        root=str(root),
        drawn_before=str(at_home(transcripts.DRAWN_BEFORE, root)),
        operations=target.declared.look_operations,
        plan=target.plan.to_data(),
        encoder=target.encoder.to_data(),
        training=target.training,
    )
