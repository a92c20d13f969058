"""The page of the Python interface: what `lethe.__all__` names, and nothing else."""

import inspect

import lethe


def page() -> str:
    """Each public name with its docstring, by autodoc."""
    names = sorted(getattr(lethe, "__all__", ()))
    parts = ["# Python"]
    if not names:
        parts.append("This version has a command line and no public Python interface.")
    else:
        parts.append("`import lethe` in a notebook or a program; these names are public.")
    for name in names:
        value = getattr(lethe, name)
        kind = "autofunction" if inspect.isroutine(value) else "autodata"
        options = ""
        if inspect.isclass(value):
            kind, options = "autoclass", "   :members:\n"
        parts.append(f"## {name}\n\n```{{eval-rst}}\n.. {kind}:: lethe.{name}\n{options}```")
    return "\n\n".join(parts) + "\n"
