"""The run that made the model, examined by its transcript in a process of its own.

What came of it is kept when the transcript goes (`lethe.attacks.verdicts`): audited again, a run is
what it was, if its weights are still the same.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lethe.attacks import verdicts
from lethe.attacks.attack import Attack, Target, register
from lethe.attacks.run.examine import COVERS, RECORDED, Question
from lethe.attacks.statistics import Check, holds, not_looked_at
from lethe.attacks.verdicts import Looked
from lethe.config import transcripts, workspace
from lethe.config.home import at_home
from lethe.core.children import environment_without_keys
from lethe.core.errors import ProcessLost
from lethe.core.reading import parse_data
from lethe.privacy.plan import MECHANISM, Plan
from lethe.training.description import WEIGHTS

_GONE = (
    "there is a transcript of this run's steps, or what an audit of these weights found: neither "
    "is here. Audit where it trained, or bring reports/audit.json of that audit here; else train "
    "again (lethe run --force), which is charged"
)


@register
class OwnRun(Attack):
    """The run's own steps, and whether the released weights are what they make."""

    name = "run"
    covers = COVERS
    mechanisms = (MECHANISM,)

    def run(self, target: Target) -> list[Check]:
        if not isinstance(target.plan, Plan):
            meaning = "what says that it is DP-SGD has a plan of DP-SGD"
            return [holds(RECORDED, False, meaning=meaning)]
        looked, code, checks = self._looked(target)
        self.measured = {**verdicts.facts(target, code), "looked": str(looked), "private": False}
        del self.measured["run_id"]  # the report has it
        return checks

    def _looked(self, target: Target) -> tuple[Looked, str, list[Check]]:
        """When the run was looked at, by what code, and what was found.

        What the report alone says, and what other code found, is asked where nothing can be looked
        at any more.
        """
        known = verdicts.find(target, code=target.code)
        if known and known.here:
            return Looked.BEFORE, known.code, known.checks
        if transcripts.folder_of(target.root, target.described.run_id).is_dir():
            return Looked.NOW, target.code, _examined(target)
        if known:
            return Looked.ELSEWHERE, known.code, known.checks
        known = verdicts.find(target)
        if known:
            return Looked.BY_OTHER_CODE, known.code, known.checks
        return Looked.NOT, "", [not_looked_at(RECORDED, meaning=_GONE)]


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
            [sys.executable, "-P", "-m", "lethe.attacks.run", str(asked), str(answer)],
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
