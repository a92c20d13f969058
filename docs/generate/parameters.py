"""The page of `params.yaml`, out of the classes that read it."""

import dataclasses
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from docs.generate.tables import code, table
from lethe.config.params import ROOT, Params

DESCRIPTIONS = Path(__file__).with_name("parameters.yaml")


def described() -> dict[str, dict[str, str]]:
    """Class → key → what it says, as `parameters.yaml` has it."""
    found: dict[str, dict[str, str]] = YAML(typ="safe", pure=True).load(DESCRIPTIONS.read_text())
    return found


def classes() -> dict[str, type]:
    """Where a class stands in the file (`training.mechanism`) → the class; "" is the file."""
    found: dict[str, type] = {}
    _collect(Params, "", found)
    return found


def _collect(kind: type, place: str, found: dict[str, type]) -> None:
    if kind in found.values():
        return
    found[place] = kind
    for name, annotation in typing.get_type_hints(kind).items():
        if name not in kind.__dataclass_fields__:  # type: ignore[attr-defined]
            continue
        for inner, step in _inside(annotation):
            _collect(inner, ".".join(filter(None, (place, name + step))), found)


def _inside(annotation: Any, step: str = "") -> Iterator[tuple[type, str]]:
    """The classes that an annotation leads to, and what stands between."""
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        yield annotation, step
        return
    through = ".NAME" if typing.get_origin(annotation) is dict else ""
    for argument in typing.get_args(annotation):
        yield from _inside(argument, step + through)


def fields(kind: Any) -> dict[str, Any]:
    """Key → pydantic's facts of it."""
    return {n: f for n, f in kind.__pydantic_fields__.items() if (kind, n) != (Params, ROOT)}


def page() -> str:
    """Every key of `params.yaml`."""
    words = described()
    parts = [
        "# params.yaml",
        "One file says what is collected, why, for how long, and at what privacy price. A key that "
        "is not in these tables is refused by name. `NAME` is a name of yours: a table, a column. "
        "Sections that say *changes the guarantee* decide what a person may lose; the others "
        "cannot. See [your own database](../own-database.md) for a whole file.",
    ]
    for place, kind in classes().items():
        parts.append(f"## {place or 'The file'}")
        parts.append(str(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ").strip())
        rows = [
            [
                code(name),
                _type(facts.annotation),
                _default(facts),
                (facts.description or words.get(kind.__name__, {}).get(name, ""))
                + _limits(facts.metadata),
            ]
            for name, facts in fields(kind).items()
        ]
        parts.append(table(["key", "value", "default", "meaning"], rows))
    return "\n\n".join(parts) + "\n"


_SCALARS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    type(None): "nothing",
}


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(map(code, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(each) for each in arguments if each is not type(None))
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"list of {_type(arguments[0])}"
        return f"list of {len(arguments)}: {_type(arguments[0])}"
    if origin is dict:
        return f"NAME → {_type(arguments[1])}"
    if dataclasses.is_dataclass(annotation):
        return "a section"
    return _SCALARS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(facts: Any) -> str:
    if facts.is_required():
        return "required"
    value = facts.get_default(call_default_factory=True)
    if dataclasses.is_dataclass(value):
        return "its own defaults"
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, tuple):
        return code(f"[{', '.join(map(str, value))}]")
    return code(str(value).lower() if isinstance(value, bool) else value)


_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def _limits(metadata: Any) -> str:
    said = [
        f"{word} {getattr(each, name):,g}"
        for each in metadata
        for name, word in _BOUNDS.items()
        if getattr(each, name, None) is not None
    ]
    return f" ({', '.join(said)})" if said else ""
