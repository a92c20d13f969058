"""What a user must know though nothing failed: one line each, on stderr."""

import sys

from lethe.core.shown import shown


def notice(line: str) -> None:
    """Shows one line beside a command's own output, which stays what it was."""
    sys.stderr.write(f"lethe: {shown(line)}\n")
