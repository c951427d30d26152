"""Looking at a pair without leaving a trace of it."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppl_models.config import check_seed
from ppl_models.devices import check_device

Slot = tuple[dict[str, Any], str]


@contextmanager
def quiet(device: torch.device, seed: int | None = None, *programs: Any) -> Iterator[None]:
    """Run without Pyro's checks; random state and buffers are afterwards what they were.

    Args:
        device: Where random numbers are drawn, besides the CPU.
        seed: Seed to begin with; by default the random state goes on from where it is.
        programs: What is run; see :func:`unmoved`.

    Raises:
        ValueError: If the device is not supported.
    """
    check_device("the pair", device)
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        pyro.validation_enabled(False),
        unmoved(*programs),
    ):
        if seed is not None:
            torch.manual_seed(check_seed(seed, derived=True))
        yield


@contextmanager
def evaluating(*roots: nn.Module) -> Iterator[None]:
    """Run in eval mode; each module's own mode, and the buffers, are afterwards what they were.

    Args:
        roots: A pair, and networks beside it.
    """
    modes = {module: module.training for root in roots for module in root.modules()}
    for root in roots:
        root.eval()
    try:
        with unmoved(*roots):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def unmoved(*programs: Any) -> Iterator[None]:
    """Buffers are afterwards what they were: BatchNorm's statistics, and all that is kept so.

    Args:
        programs: As :func:`kept_buffers`.
    """
    put_back = kept_buffers(*programs)
    try:
        yield
    finally:
        put_back()


def kept_buffers(*programs: Any) -> Callable[[], None]:
    """Note all buffers as they are now.

    Args:
        programs: Modules or pairs; also their methods, and functions that hold any of them.

    Returns:
        Called without arguments, it makes the buffers what they were.
    """
    seen: set[int] = set()
    modules = {id(m): m for program in programs for m in _modules(program, seen)}
    return kept((m._buffers, name) for m in modules.values() for name in m._buffers)


def kept(slots: Iterable[Slot]) -> Callable[[], None]:
    """The same for the buffers in some places.

    Args:
        slots: The ``_buffers`` of modules, each with a name in it.
    """
    found = [
        (held, name, buffer, buffer.clone())
        for held, name in slots
        if (buffer := held[name]) is not None and not _is_expanded(buffer)
    ]

    def put_back() -> None:
        with torch.no_grad():
            for held, name, buffer, before in found:
                held[name] = buffer
                buffer.copy_(before)

    return put_back


def _is_expanded(buffer: Tensor) -> bool:
    # Several entries are one number in memory: nothing is written into it.
    return buffer.layout is torch.strided and buffer.numel() > 1 and 0 in buffer.stride()


def _modules(program: Any, seen: set[int]) -> Iterator[nn.Module]:
    if id(program) in seen:
        return
    seen.add(id(program))
    parts: tuple[Any, ...] = ()
    if not isinstance(program, type) and callable(getattr(program, "modules", None)):
        yield from program.modules()
    elif isinstance(program, types.MethodType):
        parts = (program.__self__,)
    elif isinstance(program, functools.partial):
        parts = (program.func, *program.args, *program.keywords.values())
    elif isinstance(program, types.FunctionType):
        parts = tuple(map(_content, program.__closure__ or ()))
    for part in parts:
        yield from _modules(part, seen)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not bound yet
        return None
