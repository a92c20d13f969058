"""Code with a fault in it: a function's source with some of its words exchanged."""

import inspect
import textwrap
from collections.abc import Mapping
from typing import Any

import pytest


def rewrite(
    patch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    old: str,
    new: str,
    *more: tuple[str, str],
    names: Mapping[str, Any] | None = None,
) -> None:
    """Puts `new` where `old` stands in a function's source, and the function where it was.

    Args:
        more: further such pairs.
        names: what the new words may name beside what the function's module does.
    """
    function = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(function))
    for before, after in ((old, new), *more):
        assert source.count(before) == 1, f"{name} no longer has {before!r}; adapt the mutation"
        source = source.replace(before, after)
    made: dict[str, Any] = {}
    known = {**function.__globals__, **names} if names else function.__globals__
    exec(compile(source, name, "exec"), known, made)
    patch.setattr(owner, name, made[name])
