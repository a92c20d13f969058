"""DVC binds its log to the streams of the moment in which it is imported; Lethe's use follows."""

import io
import logging
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from lethe.stores.dvc.library import opened_repo


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    for words in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(words, cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize("name", ["dvc.repo", "dvc_data.index.checkout", "dvc_objects.fs"])
def test_a_warning_goes_to_the_errors_of_the_moment_and_not_to_closed_ones(
    repo: Path, name: str
) -> None:
    for _ in range(2):
        with redirect_stderr(io.StringIO()) as said, opened_repo(repo):
            logging.getLogger(name).warning("is not there")
        assert "is not there" in said.getvalue()
        said.close()


def test_what_it_reports_goes_to_the_output_of_the_moment(repo: Path) -> None:
    with redirect_stdout(io.StringIO()) as said, opened_repo(repo):
        logging.getLogger("dvc").info("up to date")
    assert "up to date" in said.getvalue()


def test_nobody_else_opens_a_repository_of_dvc() -> None:
    package = Path(sys.modules[opened_repo.__module__].__file__ or "").parent
    found = [p.name for p in package.rglob("*.py") if "dvc.repo import" in p.read_text()]
    assert found == ["library.py"]
