"""Running the stages of the pipeline: the one place that starts them and says how it ended."""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from lethe.config import workspace
from lethe.core.errors import Busy, LetheError
from lethe.stores.dvc.repro import History, StageEvent

_KILLED = (1, "the stage was ended from outside (killed or out of memory). Run again: it resumes.")


class StageFailed(LetheError):
    """A stage of the run failed; carries that stage's own exit code and message."""

    def __init__(self, stage: str, exit_code: int, message: str) -> None:
        super().__init__(f"{stage}: {message}")
        self.exit_code = exit_code


def run_stages(
    root: Path,
    targets: Sequence[str] = (),
    *,
    force: bool = False,
    report: Callable[[StageEvent], object] = lambda event: None,
) -> None:
    """Runs what changed of the pipeline in a workspace.

    Guarantees: what still has subject keys is removed however it ends, unless another run is
        under way: then it is that run's.

    Args:
        targets: stages to reach; the whole pipeline by default.
        force: run even what did not change.
        report: is given what becomes of each stage, as it does.

    Raises:
        StageFailed: with the failed stage's own exit code and message.
        Busy: another run holds the workspace.
        LetheError: DVC itself gave up.
    """
    ours = True
    try:
        with workspace.working(root):
            _run(root, targets, force=force, single=False, report=report)
    except Busy:
        ours = False
        raise
    finally:
        if ours:
            workspace.remove_scratch(root)


def run_one_stage(root: Path, stage: str) -> None:
    """Runs one stage alone; what has subject keys stays, for the stage that reads it next.

    Raises:
        StageFailed, Busy, LetheError: as `run_stages`.
    """
    _run(root, [stage], force=False, single=True, report=lambda event: None)


def _run(
    root: Path,
    targets: Sequence[str],
    *,
    force: bool,
    single: bool,
    report: Callable[[StageEvent], object],
) -> None:
    workspace.take_failure(root)  # of a run before
    failed: str | None = None
    # Closed at once when a signal ends this: what is removed afterwards must have no writer left.
    with closing(History(root).repro(targets, force=force, single=single)) as events:
        for event in events:
            failed = event.stage if event.kind == "failed" else failed
            report(event)
    if failed is not None:
        code, message = workspace.take_failure(root) or _KILLED
        raise StageFailed(failed, code, message)
