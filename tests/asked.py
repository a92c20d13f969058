"""One question to the stores of a workspace, opened for it alone, as a command does."""

from collections.abc import Callable
from typing import Any

from lethe.config.params import Params
from lethe.stores.opened import OpenStores


def ask(question: Callable[..., Any], params: Params, *words: Any) -> Any:
    with OpenStores(params) as stores:
        return question(stores, *words)
