"""Pickles of plain values and arrays of bytes, read opcode by opcode: nothing of them is run."""

from __future__ import annotations

import math
import pickle
import pickletools
from typing import Any

import numpy as np

LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}  # of Python 2
EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
IGNORED = {"PROTO", "FRAME", "STOP"}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# All that an array of bytes takes; numpy 1 and 2 have it in two places.
RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
ARRAY, DTYPE, ENCODE = "numpy ndarray", "numpy dtype", "_codecs encode"
MOST_DIMS = 8
ALLOWED = {*RECONSTRUCT, ARRAY, DTYPE, ENCODE}


class _Name(str):
    """A function or class that a pickle names; one of ``ALLOWED``."""


class _Unfilled:
    """An array or its type between the call that makes it and the state that fills it."""

    def __init__(self, of: str) -> None:
        self.of = of
        self.value: Any = None


def loads(data: bytes) -> Any:
    """What a pickle holds: dicts, lists, tuples, numbers, texts and arrays of uint8.

    Raises:
        pickle.UnpicklingError: If it asks for anything else; nothing of it has been run.
        ValueError: If it is damaged, as IndexError, KeyError and TypeError.
    """
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(data):
        machine.step(opcode.name, argument)
    (value,) = machine.stack
    return _filled(value)


class _Machine:
    """The stack, its marks and the memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Carry out one opcode."""
        stack = self.stack
        if name in LITERALS:
            stack.append(argument.encode("latin1") if name in STRINGS else argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in ("TUPLE", "LIST", "DICT"):
            items = self._since_mark()
            stack.append(
                tuple(items) if name == "TUPLE" else items if name == "LIST" else _pairs(items)
            )
        elif name in TUPLES:
            stack.append(tuple(self._pop(TUPLES[name])))
        elif name in ("APPEND", "APPENDS"):
            items = self._pop(1) if name == "APPEND" else self._since_mark()
            _of(list, stack[-1]).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._pop(2) if name == "SETITEM" else self._since_mark()
            _of(dict, stack[-1]).update(_pairs(items))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            asked = argument if name == "GLOBAL" else " ".join(_texts(self._pop(2)))
            if asked not in ALLOWED:
                asked = asked.replace(" ", ".")[:80]
                raise pickle.UnpicklingError(f"it asks for {asked}, which is not allowed")
            stack.append(_Name(asked))
        elif name == "REDUCE":
            stack.append(_called(*self._pop(2)))
        elif name == "BUILD":
            (state,) = self._pop(1)
            _fill(_of(_Unfilled, stack[-1]), state)
        elif name not in IGNORED:
            raise pickle.UnpicklingError(f"it has the opcode {name}, which is not allowed")

    def _pop(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        if len(items) < count:
            raise pickle.UnpicklingError("its stack is empty")
        del self.stack[-count:]
        return items

    def _since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items


def _called(name: Any, arguments: Any) -> Any:
    name = _of(_Name, name)
    if name in RECONSTRUCT and arguments == (ARRAY, (0,), b"b"):
        return _Unfilled(ARRAY)
    if name == DTYPE and arguments[:1] in (("u1",), (b"u1",)):
        return _Unfilled(DTYPE)
    if name == ENCODE and arguments[1:] == ("latin1",):  # bytes, in protocols 0 to 2
        return _of(str, arguments[0]).encode("latin1")
    raise pickle.UnpicklingError(f"it calls {name} for another thing than an array of bytes")


def _fill(made: _Unfilled, state: Any) -> None:
    state = _of(tuple, state)
    if made.of == DTYPE:
        if state[1:3] not in (("|", None), (b"|", None)):
            raise pickle.UnpicklingError("its arrays are not of bytes")
        return
    _, shape, dtype, fortran, data = state
    if _of(_Unfilled, dtype).of != DTYPE:
        raise pickle.UnpicklingError("its arrays are not of bytes")
    if len(_of(tuple, shape)) > MOST_DIMS or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError("an array of it has no shape")
    if math.prod(shape) != len(_of(bytes, data)):
        raise ValueError(f"an array of shape {shape} has {len(data)} bytes")
    made.value = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


def _filled(value: Any) -> Any:
    """An array, or a dict of them, with the arrays in place."""
    if type(value) is dict:
        return {name: _array(inner) for name, inner in value.items()}
    return _array(value)


def _array(value: Any) -> Any:
    if type(value) is not _Unfilled:
        return value
    if value.value is None:
        raise pickle.UnpicklingError("an array of it has no content")
    return value.value


def _pairs(items: list[Any]) -> dict[Any, Any]:
    # Of nested tuples the hash alone could take for ever.
    if any(type(key) not in (str, bytes, int) for key in items[::2]):
        raise pickle.UnpicklingError("a key of it is no text, bytes or number")
    return dict(zip(items[::2], items[1::2], strict=True))


def _texts(items: Any) -> list[str]:
    return [_of(str, item) for item in items]


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise pickle.UnpicklingError(
            f"it has a {type(value).__name__} where a {kind.__name__} is expected"
        )
    return value
