"""Every user error has an exit code of its own, and the documentation knows it."""

import re
from pathlib import Path

from lethe.core import errors

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


def test_every_error_says_what_it_means() -> None:
    for name in _codes():
        assert getattr(errors, name).__doc__
