"""Running the stages of the pipeline."""

from lethe.core.errors import LetheError


class StageFailed(LetheError):
    """A stage of the walk failed; carries that stage's own exit code and message."""

    def __init__(self, stage: str, exit_code: int, message: str) -> None:
        super().__init__(f"{stage}: {message}")
        self.exit_code = exit_code
