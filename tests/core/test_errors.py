"""Every user error has an exit code of its own, and the documentation knows it."""

import re
from pathlib import Path

from lethe.core import errors
from lethe.rights.services import FINAL_CODES

DOCUMENT = Path(__file__).parents[2] / "docs" / "exit-codes.md"


def _codes() -> dict[str, int]:
    return {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type)
        and issubclass(kind, errors.LetheError)
        and kind is not errors.LetheError
    }


def test_no_two_errors_share_an_exit_code() -> None:
    codes = list(_codes().values())
    assert len(codes) == len(set(codes))
    assert not {0, 1, 2} & set(codes)  # success, internal errors, the command's own usage


def test_every_exit_code_is_documented_under_its_name() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", DOCUMENT.read_text(), re.MULTILINE)
    assert {name: int(code) for code, name in rows} == _codes()


def test_an_erasure_tries_again_after_what_trying_again_may_correct() -> None:
    """A code that counts as final retires a model without a successor."""
    assert sorted(FINAL_CODES) == [16, 17, 23, 24, 31, 42]
    for passing in (errors.RunSpent, errors.NotRecorded, errors.DiskFull, errors.NotFinite):
        assert passing.exit_code not in FINAL_CODES


def test_every_error_says_what_it_means() -> None:
    for name in _codes():
        assert getattr(errors, name).__doc__
