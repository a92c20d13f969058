"""What a user must know though nothing failed: one line each, on stderr."""

import sys


def notice(line: str) -> None:
    """Shows one line beside a command's own output, which stays what it was."""
    sys.stderr.write(f"lethe: {line}\n")
