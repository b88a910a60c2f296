"""What tells one network from another: a digest of its weights, and one of all the rest."""

import ast
import hashlib
import inspect
import re
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import Enum
from functools import partial, singledispatchmethod
from textwrap import dedent
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_LIBRARIES = {"torch", "torchvision", "timm", "antialiased_cnns", "aliascope", "numpy"}
_LIBRARIES |= sys.stdlib_module_names
"""Their code is known by name; `info` of a run records the versions."""
_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, Enum, np.generic)
_PLAIN += (torch.dtype, torch.memory_format, type(Ellipsis))
_OWN = frozenset(vars(nn.Module())) | {"_compiled_call_impl", "_is_torch_compile"}
"""What every module has: parameters, children, hooks and mode are read on their own or not."""
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_WITHOUT_EFFECT = {"__init__", "__repr__", "extra_repr", "_abc_impl"}
"""Of a class: what `__init__` does shows in what it built."""


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a network's state_dict."""
    return state_digest(module.state_dict())


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and bytes of tensors, in their order."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def structure_digest(module: nn.Module) -> str:
    """What a network computes with its weights: 16 digits that change where that changes.

    Read are the types, the settings and plain attributes of all modules, tensors that are in no
    state_dict (filters, say), hooks, functions in attributes with what they enclose, and the code
    of classes and functions that are in no library, with the functions and constants that this code
    names. Neither comments nor layout of code count, nor the mode, nor where things lie in memory:
    the digest is the same in another process.

    >>> relu, tanh = (nn.Sequential(nn.Conv2d(3, 4, 3), act()) for act in (nn.ReLU, nn.Tanh))
    >>> structure_digest(relu) == structure_digest(tanh)
    False
    """
    reader = _Reader(module)
    reader.say("", module)
    return hashlib.sha256("\n".join(reader.lines).encode("utf-8", "replace")).hexdigest()[:16]


class _Reader:
    """Puts a network and what it refers to into lines; each object once, numbered as it is met."""

    def __init__(self, root: nn.Module) -> None:
        self.lines: list[str] = []
        self._registered = {id(module) for module in root.modules()}
        self._met: dict[int, tuple[int, Any]] = {}  # holds the objects: a freed id is used again

    def say(self, name: str, value: Any) -> None:
        """Whatever an attribute may hold."""
        if isinstance(value, nn.Module):
            value = getattr(
                value, "_orig_mod", value
            )  # a compiled network is what it was made from
        if isinstance(value, _PLAIN):
            self.lines.append(f"{name} {value!r}")
            return
        known = id(value) in self._met
        number, _ = self._met.setdefault(id(value), (len(self._met), value))
        kind = value if hasattr(value, "__qualname__") else type(value)
        self.lines.append(f"{name} {_name(kind)} #{number}")
        if not known:
            self._inside(value, name)

    @singledispatchmethod
    def _inside(self, value: Any, name: str) -> None:
        """An object of any class: all its attributes, or the plain ones of a library's."""
        own = _is_own(type(value))
        for key, item in getattr(value, "__dict__", {}).items():
            if own or (item is not None and isinstance(item, _PLAIN)):
                self.say(f"{name}.{key}", item)
        if own:
            self.say(f"{name}.type", type(value))

    @_inside.register
    def _module(self, module: nn.Module, name: str) -> None:
        own = _is_own(type(module))
        self.lines.append(re.sub(r"0x[0-9a-f]+", "", module.extra_repr()))
        if own:
            self.say(f"{name}.type", type(module))
        if isinstance(module, torch.jit.ScriptModule):
            self.lines.append(str(module.code))
        for key, value in sorted(vars(module).items()):
            # Modules of libraries keep caches in tensors and dictionaries, filled by a forward.
            if key not in _OWN and (own or not isinstance(value, Tensor | dict)):
                self.say(f"{name}.{key}", value)
        for key in sorted(module._non_persistent_buffers_set):  # noqa: SLF001
            self.say(f"{name}.{key}", module._buffers[key])  # noqa: SLF001
        for kind in _HOOKS:
            for hook in getattr(module, kind).values():
                self.say(f"{name}.{kind}", hook)
        if id(module) not in self._registered:
            self.lines.append(weights_digest(module))
        for key, child in module._modules.items():  # noqa: SLF001  (each name, not each module)
            self.say(f"{name}.{key}", child)

    @_inside.register
    def _tensor(self, value: Tensor | np.ndarray, _name: str) -> None:
        self.lines.append(f"{value.dtype} {tuple(value.shape)}")
        with suppress(RuntimeError, TypeError):  # sparse, or on no device
            data = _bytes(value) if isinstance(value, Tensor) else value.tobytes()
            self.lines.append(hashlib.sha256(data).hexdigest())

    @_inside.register
    def _mapping(self, value: dict | types.MappingProxyType, name: str) -> None:
        for key, item in value.items():
            self.say(f"{name}.{key if isinstance(key, _PLAIN) else _name(type(key))}", item)

    @_inside.register
    def _sequence(self, value: list | tuple, name: str) -> None:
        for index, item in enumerate(value):
            self.say(f"{name}.{index}", item)

    @_inside.register
    def _set(self, value: set | frozenset, _name: str) -> None:
        self.lines += sorted(repr(item) for item in value if isinstance(item, _PLAIN))

    @_inside.register
    def _wrapper(self, value: property | staticmethod | classmethod | partial, name: str) -> None:
        for part in ("fget", "func", "__func__", "args", "keywords"):
            if hasattr(value, part):
                self.say(f"{name}.{part}", getattr(value, part))

    @_inside.register
    def _method(self, value: types.MethodType, name: str) -> None:
        self.say(f"{name}.function", value.__func__)
        self.say(f"{name}.self", value.__self__)

    @_inside.register
    def _script(self, value: torch.jit.ScriptFunction, _name: str) -> None:
        self.lines.append(str(value.code))

    @_inside.register
    def _class(self, value: type, name: str) -> None:
        for base in filter(_is_own, value.__mro__):
            self.lines.append(f"{name} {_name(base)}")
            for key, item in sorted(vars(base).items()):
                code = isinstance(item, types.FunctionType | property | staticmethod | classmethod)
                if key not in _WITHOUT_EFFECT and (code or not key.startswith("__")):
                    self.say(f"{name}.{key}", item)

    @_inside.register
    def _function(self, value: types.FunctionType, name: str) -> None:
        self.say(f"{name}.defaults", (value.__defaults__, value.__kwdefaults__))
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        for key, cell in cells:
            if cell != types.CellType():  # an empty one: a name that is bound later
                self.say(f"{name}.{key}", cell.cell_contents)
        if _is_own(value):
            self.lines.append(_source(value))
            if "site-packages" not in value.__code__.co_filename:  # there may be much behind those
                self._named(value, name)

    def _named(self, function: types.FunctionType, name: str) -> None:
        """What code takes from its module, or from another of the user's own."""
        keys = sorted({key for code in _codes(function.__code__) for key in code.co_names})
        for key in filter(function.__globals__.__contains__, keys):
            value = function.__globals__[key]
            if not isinstance(value, types.ModuleType):
                self.say(f"{name}.{key}", value)
            elif value.__name__.partition(".")[0] not in _LIBRARIES:
                for inner in filter(vars(value).__contains__, keys):
                    self.say(f"{name}.{key}.{inner}", vars(value)[inner])


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()
    return memoryview(flat.view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]


def _name(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _is_own(kind: Any) -> bool:
    """Whether a class or function is in no library that is known by name."""
    return str(kind.__module__).partition(".")[0] not in _LIBRARIES


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code of a function and of those inside it."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _codes(inner)


def _source(function: types.FunctionType) -> str:
    """Code without comments and layout; the bytecode where there is no text, and of lambdas.

    Several lambdas may lie in the same lines. Python 3.13 keeps what `python -c` was given as the
    text of <string>, and other code has that name, too.
    """
    if function.__code__.co_filename == "<string>":
        return _bytecode(function.__code__)
    try:
        text = dedent(inspect.getsource(function.__code__))
    except (OSError, TypeError):
        return _bytecode(function.__code__)
    try:
        text = ast.unparse(ast.parse(text))
    except SyntaxError:  # a lambda in the middle of an expression
        return text + _bytecode(function.__code__)
    return text + _bytecode(function.__code__) if "<lambda>" in function.__qualname__ else text


def _bytecode(code: types.CodeType) -> str:
    return " ".join(
        f"{inner.co_code.hex()} {inner.co_names} {[*filter(_is_plain, inner.co_consts)]}"
        for inner in _codes(code)
    )


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple) else isinstance(value, _PLAIN)
