"""The seam of a run: where its stages execute is a `Runner`.

This machine's workspace is one; a git worktree is in `lethe.runs.worktree`, a pod in
`lethe.runs.pods.stage`. Another is a class of its own, and nothing else: who runs the pipeline is
given a runner, and knows none of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from lethe.config import workspace
from lethe.core.errors import Busy, LetheError
from lethe.stores.dvc.repro import History, StageEvent

Report = Callable[[StageEvent], object]

_KILLED = (1, "the stage was ended from outside (killed or out of memory). Run again: it resumes.")


class StageFailed(LetheError):
    """A stage of the run failed; carries that stage's own exit code and message."""

    def __init__(self, stage: str, exit_code: int, message: str) -> None:
        super().__init__(f"{stage}: {message}")
        self.exit_code = exit_code


def _silent(event: StageEvent) -> None:
    """Nobody watches."""


class Runner(ABC):
    """One place in which stages execute.

    Contract (`tests/runs/contract.py`): no stage runs before what it reads is made; what did not
        change is not run again; the first that fails ends the run, with its own exit code and
        message; what has subject keys does not outlive a run.

    Attributes:
        root: the workspace as the stages see it, with what they made.
    """

    root: Path

    @abstractmethod
    def perform(self, targets: Sequence[str], *, force: bool, single: bool, report: Report) -> None:
        """Runs what changed.

        Args:
            targets: stages to reach; the whole pipeline where there is none.
            force: run even what did not change.
            single: run the targets alone, not what they depend on.
            report: is given what becomes of each stage, as it does.

        Raises:
            StageFailed: with the failed stage's own exit code and message.
            Busy: another run is at work in this place.
            LetheError: nothing could be run.
        """

    def run(
        self, targets: Sequence[str] = (), *, force: bool = False, report: Report = _silent
    ) -> None:
        """Runs what changed of the pipeline.

        Guarantees: what still has subject keys is removed however it ends, unless another run is
            under way: then it is that run's.

        Args:
            targets, force, report: as of `perform`.

        Raises:
            StageFailed, Busy, LetheError: as `perform`.
        """
        ours = True
        try:
            self.perform(targets, force=force, single=False, report=report)
        except Busy:
            ours = False
            raise
        finally:
            if ours:
                workspace.remove_scratch(self.root)

    def run_stage(self, stage: str, *, report: Report = _silent) -> None:
        """Runs one stage alone; what has subject keys stays, for the stage that reads it next.

        Raises:
            StageFailed, Busy, LetheError: as `perform`.
        """
        self.perform([stage], force=False, single=True, report=report)


class WorkspaceRunner(Runner):
    """On this machine, in a workspace's own folder, by DVC."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def perform(self, targets: Sequence[str], *, force: bool, single: bool, report: Report) -> None:
        workspace.take_failure(self.root)  # of a run before
        failed: str | None = None
        events = History(self.root).repro(targets, force=force, single=single)
        # Closed at once when a signal ends this: what is removed afterwards must have no writer
        # left.
        with workspace.working(self.root), closing(events):
            for event in events:
                failed = event.stage if event.kind == "failed" else failed
                report(event)
        if failed is not None:
            code, message = workspace.take_failure(self.root) or _KILLED
            raise StageFailed(failed, code, message)
