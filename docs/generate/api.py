"""The page of the Python interface: what `lethe.__all__` names, and nothing else.

Docstrings are in Google's style and are read here as Markdown, which is how they are written.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import lethe

_SECTION = re.compile(r"([A-Z][a-z]+):(?: (.*))?")
_ENTRY = re.compile(r"    (\*{0,2}[\w.]+(?: \([^)]*\))?): (.*)")
_LISTS = ("Args", "Raises", "Attributes")


def page() -> str:
    """Each public name with its signature, its docstring and its public members."""
    names = sorted(getattr(lethe, "__all__", ()))
    parts = ["# Python"]
    if names:
        parts.append("`import lethe` in a notebook or a program; these names are public.")
    else:
        parts.append("This version has a command line and no public Python interface.")
    for name in names:
        parts += _described(name, getattr(lethe, name))
    return "\n\n".join(parts) + "\n"


def _described(name: str, value: Any) -> Iterator[str]:
    yield f"## {name}"
    if callable(value):
        yield _signature(f"lethe.{name}", value)
    if inspect.isclass(value) or inspect.isroutine(value):
        yield markdown(inspect.getdoc(value) or "")
    if not inspect.isclass(value):
        return
    for member, found in vars(value).items():
        raw = found.__func__ if isinstance(found, classmethod | staticmethod) else found
        if member.startswith("_") or not (inspect.isfunction(raw) or isinstance(raw, property)):
            continue
        yield f"### {name}.{member}"
        if not isinstance(raw, property):
            yield _signature(f"{name}.{member}", getattr(value, member))
        yield markdown(inspect.getdoc(raw) or "")


def _signature(name: str, value: Any) -> str:
    """Parameters one a line, types by their last names, defaults that are objects left out."""
    try:
        facts = inspect.signature(value)
    except (TypeError, ValueError):
        return f"```text\n{name}(...)\n```"
    shown = [re.sub(r"<.*>", "...", str(each)) for each in facts.parameters.values()]
    keywords = [each.kind is each.KEYWORD_ONLY for each in facts.parameters.values()]
    if True in keywords:
        shown.insert(keywords.index(True), "*")
    result = inspect.formatannotation(facts.return_annotation).strip("'")
    ends = "" if facts.return_annotation is facts.empty else f" -> {_last_names(result)}"
    lines = [_last_names(line) for line in shown if line != "self"]
    inside = "".join(f"\n    {line}," for line in lines) + ("\n" if lines else "")
    return f"```text\n{name}({inside}){ends}\n```"


def _last_names(text: str) -> str:
    return re.sub(r"(?:\b\w+\.)+(?=[A-Za-z_])", "", text)


def markdown(docstring: str) -> str:
    """A docstring of Google's style as Markdown: sections bold, their entries a list."""
    out: list[str] = []
    section, fenced = "", False
    for line in inspect.cleandoc(docstring).splitlines():
        code = line.lstrip().startswith((">>>", "...")) or (fenced and line.strip() != "")
        if code != fenced:
            out.append("\n```python" if code else "```\n")
            fenced = code
        if fenced:
            out.append(line.strip())
        elif match := _SECTION.fullmatch(line):
            section = match[1]
            text = (match[2] or "").strip()
            out.append(f"\n**{section}.** {text}".rstrip() + ("" if text else "\n"))
        elif section in _LISTS and (entry := _ENTRY.fullmatch(line)):
            out.append(f"- `{entry[1]}`: {entry[2]}")
        else:
            section = section if line.startswith("    ") or not line else ""
            out.append(f"  {line.strip()}" if section in _LISTS else line.strip())
    return "\n".join([*out, *(["```"] if fenced else [])]).strip()
