"""How anything that Lethe wrote is read back: as it was written, or as one error that names it.

Whoever can write to a disk, a cache or a remote can write these files, and a disk can flip a bit.
So a reader never stops with an error of its own, and no nesting is deeper than its stack.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from lethe.core.errors import LetheError

DEEPEST = 64  # nesting of anything that is read; what Lethe writes has a dozen
_LARGEST = 1 << 28
TRIPPED = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, EOFError),
    *(RecursionError, MemoryError),
)
_INDENTED = re.compile(rb"^[ \t?-]*", re.MULTILINE)
_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


@contextmanager
def damage(error: Callable[[], LetheError]) -> Iterator[None]:
    """Whatever the block trips over in what it reads becomes the user's error.

    Args:
        error: made only when it is needed. What is a `LetheError` already passes as it is.
    """
    try:
        yield
    except TRIPPED:
        raise error() from None


def parse_data(content: str | bytes, *, once: Callable[[Any], Any] | None = None) -> Any:
    """JSON of any type, with a bound on everything that could break a reader.

    Args:
        once: is given the pairs of each object, and returns the object.

    Raises:
        ValueError: it is no JSON, too large or too deep, or has what JSON has not (NaN,
            infinity, halves of characters).
    """
    if len(content) > _LARGEST:
        raise ValueError("too large")
    try:
        parsed = json.loads(content, object_pairs_hook=once, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deep") from None
    _check_values(parsed)
    return parsed


def parse_yaml(content: bytes) -> Any:
    """YAML that a program wrote, such as `dvc.lock`; by the fast reader, which has no bound.

    Raises:
        ValueError: it is no YAML, or nested too deep.
    """
    try:
        refuse_deep_yaml(content)
        return yaml.load(content, Loader=_LOADER)  # noqa: S506 - either is a safe one
    except (yaml.YAMLError, *TRIPPED):
        raise ValueError("no YAML") from None


def refuse_deep_yaml(content: bytes) -> None:
    """Looks at YAML before a reader does that has no bound, or needs minutes for it.

    Raises:
        ValueError: it is nested too deep.
        yaml.YAMLError: it is no YAML, as far as was read.
    """
    # Each level needs a bracket or a column, and at one column two can begin.
    brackets = content.count(b"[") + content.count(b"{")
    if brackets + 2 * max(map(len, _INDENTED.findall(content))) > DEEPEST:
        _check_events(yaml.parse(content, Loader=_LOADER))


def load_yaml(path: Path) -> tuple[Any, str]:
    """YAML that a person wrote, by the reader that says where it went wrong; and its text.

    Raises:
        OSError: it cannot be read.
        ValueError and others of `TRIPPED`: it is no text, or nested too deep.
        ruamel.yaml.error.YAMLError: it is no YAML.
    """
    from ruamel.yaml import YAML  # a machine that serves a model reads nobody's YAML

    content = path.read_bytes()
    with suppress(yaml.YAMLError):  # which the other one explains
        refuse_deep_yaml(content)
    text = content.decode()
    return YAML(typ="safe", pure=True).load(text), text


def _check_events(events: Iterable[Any]) -> None:
    depth = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise ValueError("nested too deep")


def _check_values(parsed: Any) -> None:
    """Level by level, so that nothing here is deeper than it may be."""
    level = [parsed]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                for name in each:
                    name.encode()
                below += each.values()
            elif isinstance(each, list):
                below += each
            elif isinstance(each, str):
                each.encode()
            elif isinstance(each, float) and not math.isfinite(each):
                raise ValueError("no number of JSON")
        if not below:
            return
        level = below
    raise ValueError("nested too deep")


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")
