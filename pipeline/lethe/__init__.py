"""Lethe: a machine-learning pipeline that can forget.

What is public is in `__all__`, and nothing else. A name is imported when it is first used: what
only reads shards loads no torch, and what only prices loads no store. Types are in `__init__.pyi`.
"""

import importlib
from typing import Any

from lethe.core.version import VERSION

__version__ = VERSION
# By name, where it is: an import statement here would travel with every served model.
_PLACES = {
    "Budget": "lethe.config.sections",
    "Ledger": "lethe.ledger.ledger",
    "LetheError": "lethe.core.errors",
    "PersonData": "lethe.data.batches",
    "Plan": "lethe.privacy.plan",
    "Workspace": "lethe.face.workspace",
    "audit": "lethe.face.workspace",
    "epsilon": "lethe.face.price",
    "train": "lethe.face.train",
}
__all__ = [
    "Budget",
    "Ledger",
    "LetheError",
    "PersonData",
    "Plan",
    "Workspace",
    "audit",
    "epsilon",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'lethe' has no attribute {name!r}")
    found = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
