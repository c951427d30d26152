"""What something was made with: as text, and as plain values that tell one run from another.

Objectives remember the arguments of their constructor, whatever their attributes are called,
so that an objective of your own needs no ``__repr__`` to be told from another. Nothing that is
written here depends on a memory address: functions are named by their module, with a digest of
their code where no name leads to them, arrays by a digest of their values, and networks by
their place in the pair, or by their structure.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import inspect
import json
import math
import re
import sys
import types
from abc import ABCMeta
from collections.abc import Mapping
from numbers import Integral, Number, Real
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppl_models.config import native_entry

ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
NAMELESS: Mapping[int, str] = types.MappingProxyType({})


class Remembers(ABCMeta):
    """The kind of a class whose instances remember what they were made with."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make one, and keep each argument beside what its attribute holds then.

        Single numbers of numpy and torch become Python's own.
        """
        args = tuple(map(native_entry, args))
        kwargs = {name: native_entry(value) for name, value in kwargs.items()}
        made = super().__call__(*args, **kwargs)
        given = inspect.signature(cls).bind(*args, **kwargs)
        given.apply_defaults()
        held = vars(made)
        held["_made_with"] = {
            name: (value, held.get(_attribute(cls, name)))
            for name, value in given.arguments.items()
        }
        return made

    @property
    def __signature__(cls) -> inspect.Signature:
        # That of `__init__`, which the `__call__` of any arguments would hide.
        found = inspect.signature(cls.__init__)  # type: ignore[misc]
        return found.replace(parameters=list(found.parameters.values())[1:])


def _attribute(cls: type, option: str) -> str:
    names: Mapping[str, str] = getattr(cls, "kept_as", {})
    return names.get(option, option)


def options(thing: Any) -> dict[str, Any]:
    """What something was made with, defaults included.

    Where the attribute of an option's name, or that which the class's ``kept_as`` names for it,
    was set again since then, its present value counts.

    Args:
        thing: An objective or a dataclass.

    Returns:
        Values by the names of the constructor's parameters.
    """
    if not isinstance(type(thing), Remembers):
        return {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing) if f.init}
    found = {}
    for name, (value, held) in vars(thing).get("_made_with", {}).items():
        now = vars(thing).get(_attribute(type(thing), name), held)
        # One that was None at first is filled while training, and is no option.
        found[name] = value if now is held or (held is None and value is not None) else now
    return found


def as_written(thing: Any) -> str:
    """The call that makes something, with the options that differ from their defaults.

    Args:
        thing: An objective or a dataclass.
    """
    given = options(thing)
    parameters = list(inspect.signature(type(thing)).parameters.values())
    # Before arguments without a name none has one.
    rest = next((p for p in parameters if p.kind is p.VAR_POSITIONAL and given.get(p.name)), None)
    words: list[str] = []
    plain = True  # no name has been written yet
    for parameter in parameters:
        value = given.get(parameter.name, parameter.default)
        if parameter is rest:
            words += map(text, value)
            plain, rest = False, None
        elif parameter.kind is parameter.VAR_KEYWORD:
            words += [f"{name}={text(entry)}" for name, entry in value.items()]
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            needed = parameter.default is parameter.empty
            plain = plain and needed and parameter.kind is not parameter.KEYWORD_ONLY
            if rest is not None or plain:
                words.append(text(value))
            elif needed or identity(value) != identity(parameter.default):
                words.append(f"{parameter.name}={text(value)}")
    return f"{type(thing).__name__}({', '.join(words)})"


def text(value: Any) -> str:
    """One option as Python text; by the names of classes and methods where no text makes it."""
    if isinstance(value, str | enum.Enum) or isinstance(type(value), Remembers):
        return repr(value)
    if _has_options(value):
        return as_written(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{text(key)}: {text(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(text, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(text, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, types.MethodType | nn.Module):
        return _name(value if isinstance(value, types.MethodType) else type(value))
    return str(identity(value))


def identity(value: Any, names: Mapping[int, str] = NAMELESS) -> Any:
    """Plain values, such as JSON holds, that are equal where two things do the same.

    Objectives and dataclasses become mappings of their class and all their options; but fields
    of dataclasses that were ``added`` since the first versions only where they are set.

    Args:
        value: Anything that may be an option.
        names: Names of networks and parameters by their ``id``, in place of their structure.
    """
    return _Teller(names).tell(value)


def names_in(pair: nn.Module) -> dict[int, str]:
    """Names of all parts of a pair by their ``id``: ``pair.decoder``, and ``pair`` itself."""
    parts = (*pair.named_modules(), *pair.named_parameters(), *pair.named_buffers())
    return {id(part): f"pair.{name}" if name else "pair" for name, part in parts}


def _has_options(value: Any) -> bool:
    return isinstance(type(value), Remembers) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    )


def _is_as_before(thing: Any, option: str, value: Any) -> bool:
    """Whether a dataclass's field that was ``added`` since the first versions is at its default.

    It is not told of then, so that the runs of older versions are the same runs.
    """
    field = getattr(thing, "__dataclass_fields__", {}).get(option)
    if field is None or not field.metadata.get("added"):
        return False
    made = field.default_factory
    default: Any = field.default if made is dataclasses.MISSING else made()
    return bool(value == default)


def _digest(*parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else repr(part).encode())
    return f"#{found.hexdigest()[:12]}"


def _name(thing: Any) -> str:
    module = getattr(thing, "__module__", None) or ""
    name: str = getattr(thing, "__qualname__", None) or thing.__name__
    ours = module == "builtins" or module.startswith("ppl_models.inference.")
    return name if ours or not module else f"{module}:{name}"


def _leads_to(value: Any) -> bool:
    # Whether a function is what its own name stands for; a script's changes with the script.
    module, name = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
    if not isinstance(name, str) or module == "__main__":
        return False
    try:
        return functools.reduce(getattr, name.split("."), sys.modules[str(module)]) is value
    except (KeyError, AttributeError):
        return False


class _Teller:
    """Writes values as plain ones; ``above`` are those that hold the present one."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self.names = names
        self.above: list[int] = []

    def tell(self, value: Any) -> Any:
        if id(value) in self.names:
            return self.names[id(value)]
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, Number):
            return _number(value)
        if id(value) in self.above:
            return "..."
        self.above.append(id(value))
        try:
            return self._tell(value)
        finally:
            self.above.pop()

    def _tell(self, value: Any) -> Any:
        if _has_options(value):
            given = {
                name: self.tell(entry)
                for name, entry in options(value).items()
                if not _is_as_before(value, name, entry)
            }
            return {"class": _name(type(value)), **given}
        if isinstance(value, Mapping):
            return {
                key if isinstance(key, str) else self._short(key): self.tell(entry)
                for key, entry in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.tell(entry) for entry in value]
        if isinstance(value, set | frozenset):
            return sorted((self.tell(entry) for entry in value), key=json.dumps)
        if isinstance(value, nn.Module):
            return self._network(value)
        if isinstance(value, Tensor) and value.requires_grad:  # so is what trains by itself
            return f"parameter({str(value.dtype).removeprefix('torch.')} {tuple(value.shape)})"
        if isinstance(value, Tensor) or hasattr(type(value), "__array__"):
            return _array(value)
        return self._other(value)

    def _short(self, value: Any) -> str:
        told = self.tell(value)
        return told if isinstance(told, str) else json.dumps(told)

    def _network(self, module: nn.Module) -> str:
        # A network that trains is not told apart by its weights, which a resumed run changes.
        parameters = list(module.named_parameters())
        parts = [(n, _name(type(m)), _without(m.extra_repr())) for n, m in module.named_modules()]
        shapes = [(name, tuple(p.shape), str(p.dtype)) for name, p in parameters]
        constant: list[Tensor] = [p for _, p in parameters if not p.requires_grad]
        if len(constant) == len(parameters):
            constant += module.buffers()
        return f"{_name(type(module))} {_digest(parts, shapes, *map(_array, constant))}"

    def _other(self, value: Any) -> str:
        if isinstance(value, functools.partial):
            return f"partial({self._short([value.func, *value.args, value.keywords])})"
        if isinstance(value, types.MethodType):
            if id(value.__self__) in self.names:
                return f"{self.names[id(value.__self__)]}.{value.__func__.__name__}"
            return f"{self._short(value.__func__)} of {self._short(value.__self__)}"
        if isinstance(value, type | types.ModuleType) or _leads_to(value):
            return _name(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        written, held = repr(value), _held(value)
        if isinstance(value, enum.Enum | PurePath) or not (held or ADDRESS.search(written)):
            return written
        return f"{_name(type(value))}({self._short(held)})"

    def _function(self, function: types.FunctionType) -> str:
        # No name leads to it: its code, and what that finds outside.
        cells = [_content(cell) for cell in function.__closure__ or ()]
        outside = {
            name: function.__globals__[name]
            for name in function.__code__.co_names
            if isinstance(function.__globals__.get(name), int | float | str | tuple | Tensor)
        }
        seen = [cells, function.__defaults__, function.__kwdefaults__, outside]
        return f"{_name(function)}{_digest(_code(function.__code__), self._short(seen))}"


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not bound yet
        return None


def _code(code: types.CodeType) -> list[Any]:
    constants = [
        _code(c) if isinstance(c, types.CodeType)
        else sorted(map(repr, c)) if isinstance(c, frozenset)
        else c
        for c in code.co_consts
    ]  # fmt: skip
    return [code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars]


def _held(value: Any) -> dict[str, Any]:
    # What an object of some other class holds.
    if hasattr(value, "__dict__"):
        return dict(vars(value))
    slots = [s for cls in type(value).__mro__ for s in cls.__dict__.get("__slots__", ())]
    return {slot: getattr(value, slot) for slot in slots if hasattr(value, slot)}


def _number(value: Any) -> Any:
    if isinstance(value, Integral):
        return int(value)
    if not isinstance(value, Real) or not math.isfinite(value):
        return str(value)
    number = float(value)
    return int(number) if number.is_integer() else number


def _array(value: Any) -> str:
    if isinstance(value, Tensor):
        kind = "tensor"
        value = value.detach().cpu().to_dense().contiguous()
        raw = value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
    else:
        kind, value = "array", np.asarray(value)
        raw = repr(value.tolist()).encode() if value.dtype == object else value.tobytes()
    dtype = str(value.dtype).removeprefix("torch.")
    return f"{kind}({dtype} {tuple(value.shape)} {_digest(raw)})"


def _without(written: str) -> str:
    return ADDRESS.sub("", written)
