"""What a command that was ended says: what stands, and how to go on."""

import os
import signal
import subprocess

import pytest

from lethe.cli.ending import closing_sentence
from lethe.core.ends import Ended
from lethe.stages import STAGES
from tests.conftest import BIN, Workspace


@pytest.mark.parametrize(
    ("words", "goes_on"),
    [
        (["run"], "`lethe run` goes on"),
        (["--help", "run"], "`lethe run` goes on"),
        (["erase", "run"], "`lethe erase run` goes on"),
        (["retain"], "`lethe retain` goes on"),
        (["sweep", "--charged"], "`lethe sweep` begins anew"),
        (["lineage"], "give the command again"),
        *(([stage], "`lethe run` goes on") for stage in STAGES),
    ],
)
def test_every_command_says_how_it_goes_on(words: list[str], goes_on: str) -> None:
    said = closing_sentence(Ended(signal.SIGHUP), words)
    assert said.startswith("ended by SIGHUP. ")
    assert goes_on in said


def test_a_training_says_what_was_reserved() -> None:
    assert "What was reserved stays so" in closing_sentence(Ended(signal.SIGTERM), ["train"])


@pytest.mark.parametrize(
    "words", [("epsilon", "--sample-rate", "0.1", "--steps", "300", "--noise-multiplier", "6")]
)
def test_a_closed_output_is_no_error_with_a_trace(
    workspace: Workspace, words: tuple[str, ...]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        (str(BIN / "lethe"), *words),
        cwd=workspace.root,
        env=workspace.environment(),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 141
    assert said.startswith("lethe: its output was closed.")
    assert "Traceback" not in said
