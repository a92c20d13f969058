"""All that a model keeps between two passes, whatever it is kept in.

Looked at are parameters, buffers and every other attribute of every submodule, the attributes of
the classes, and the variables that their code takes from closures and from its own module. State
behind a C extension, in a file or on the network is not seen here; its effect may be.
"""

import hashlib
import random
import sys
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_OTHERS = frozenset({*sys.stdlib_module_names, "torch", "opacus", "numpy", "lethe"})
_NOT_KEPT = frozenset({"_modules", "training", "grad"})
_DEEPEST = 24
SHARED = "of its code: "  # begins the name of what all copies of a model share


def kept_state(model: nn.Module) -> dict[str, bytes]:
    """What is kept, by the name of where: a digest of each value.

    A name that begins with `SHARED` is of a class, a closure or a module, not of this instance.
    """
    look = _StateLook()
    for name, module in model.named_modules():
        look.seen.add(id(module))
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers"):
                for own, tensor in value.items():
                    look.at(_joined(name, own), tensor, 0)
            elif key not in _NOT_KEPT:
                look.at(_joined(name, key), value, 0)
    for module in model.modules():
        look.of_class(type(module), 0)
    return look.found


def changed(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[str]:
    """Where what is kept differs, in order of the names."""
    return sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )


class _StateLook:
    def __init__(self) -> None:
        self.found: dict[str, bytes] = {}
        self.seen: set[int] = set()

    def at(self, name: str, value: Any, depth: int) -> None:
        own = _bytes_of(value)
        if own is not None:
            self.found[name] = hashlib.blake2b(own, digest_size=16).digest()
            return
        if id(value) in self.seen or depth > _DEEPEST:
            return
        self.seen.add(id(value))
        if isinstance(value, FunctionType | MethodType | type | staticmethod | classmethod):
            self.of_code(value, depth)
            return
        parts = list(_parts(value))
        self.found[name] = f"{type(value).__name__} {len(parts)}".encode()
        for part, each in parts:
            self.at(f"{name}{part}", each, depth + 1)

    def of_code(self, value: Any, depth: int) -> None:
        if isinstance(value, type):
            self.of_class(value, depth)
            return
        function = getattr(value, "__func__", value)
        if not isinstance(function, FunctionType) or _is_others(function.__module__):
            return
        self.seen.add(id(function))
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            self.shared(name, _content(cell), depth)
        defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        for place, default in enumerate(defaults):
            self.shared(f"{function.__qualname__}({place})", default, depth)
        for name in _names(function.__code__):
            if name in function.__globals__:
                self.shared(name, function.__globals__[name], depth)
        for name, attribute in vars(function).items():
            self.shared(f"{function.__qualname__}.{name}", attribute, depth)

    def of_class(self, kind: type, depth: int) -> None:
        for one in kind.__mro__:
            if _is_others(one.__module__) or id(one) in self.seen:
                continue
            self.seen.add(id(one))
            for name, value in list(vars(one).items()):
                if not name.startswith("__") or isinstance(value, FunctionType):
                    self.shared(f"{one.__qualname__}.{name}", value, depth)

    def shared(self, name: str, value: Any, depth: int) -> None:
        if isinstance(value, ModuleType):
            return
        self.at(f"{SHARED}{name}", value, depth + 1)


def _bytes_of(value: Any) -> bytes | None:
    """A value that has no parts, as bytes; None if it has."""
    if isinstance(value, Tensor):
        lazy = nn.parameter.is_lazy(value)
        if lazy or value.is_meta or value.layout != torch.strided:
            return repr((value.dtype, value.layout)).encode()
        flat = value.detach().cpu().contiguous()
        return (
            repr((flat.shape, flat.dtype)).encode()
            + flat.flatten().view(torch.uint8).numpy().tobytes()
        )
    if isinstance(value, np.ndarray) and value.dtype != object:
        return repr((value.shape, value.dtype)).encode() + value.tobytes()
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state).encode()
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state(legacy=False)).encode()
    if isinstance(value, random.SystemRandom):
        return b"of the operating system"
    if isinstance(value, random.Random):
        return repr(value.getstate()).encode()
    if isinstance(value, (*_PLAIN, np.generic, torch.dtype, torch.device, torch.Size)):
        return f"{type(value).__name__} {value!r}".encode()
    if type(value).__name__ == "_lru_cache_wrapper":
        return repr(value.cache_info()[2:]).encode()
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, each in list(value.items()):
            yield f"[{key if isinstance(key, str | int) else type(key).__name__}]", each
    elif isinstance(value, set | frozenset):
        for place, each in enumerate(sorted(value, key=repr)):
            yield f"[{place}]", each
    elif isinstance(value, list | tuple) or type(value).__name__ == "deque":
        for place, each in enumerate(value):
            yield f"[{place}]", each
    for name, each in getattr(value, "__dict__", {}).items() if _has_parts(value) else ():
        if name not in _NOT_KEPT:
            yield f".{name}", each
    for kind in type(value).__mro__ if _has_parts(value) else ():
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                yield f".{name}", getattr(value, name)
    if isinstance(value, nn.Module):
        for name, each in value._modules.items():
            yield f".{name}", each


def _has_parts(value: Any) -> bool:
    return not isinstance(value, ModuleType)


def _names(code: CodeType) -> set[str]:
    found = set(code.co_names)
    for each in code.co_consts:
        if isinstance(each, CodeType):
            found |= _names(each)
    return found


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is not filled yet
        return None


def _is_others(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _OTHERS


def _joined(name: str, own: str) -> str:
    return f"{name}.{own}" if name else own
