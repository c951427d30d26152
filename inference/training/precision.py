"""Mixed precision: networks compute in bfloat16, densities and bounds in full precision."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ppl_models.inference.traces.sites import Program
from ppl_models.quiet import unmoved


@contextlib.contextmanager
def bfloat16(networks: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Run networks under autocast to bfloat16 meanwhile; their outputs come in full precision.

    Parameters and gradients keep their own type; only the products inside lose digits.

    Args:
        networks: Modules whose outputs are tensors.
        device: Where they run.
    """
    open_: list[torch.autocast] = []

    def enter(module: nn.Module, args: Any) -> None:
        open_.append(torch.autocast(device.type, torch.bfloat16))
        open_[-1].__enter__()

    def leave(module: nn.Module, args: Any, output: Any) -> Any:
        open_.pop().__exit__(None, None, None)
        half = isinstance(output, Tensor) and output.dtype == torch.bfloat16
        return output.float() if half else None

    with contextlib.ExitStack() as stack:
        for network in networks:
            stack.callback(network.register_forward_pre_hook(enter).remove)
            handle = network.register_forward_hook(leave, always_call=True)
            stack.callback(handle.remove)
        yield


def networks_of(roots: Iterable[Program | nn.Module], run: Callable[[], Any]) -> list[nn.Module]:
    """The networks that a calculation calls: outermost modules that give back a tensor.

    A module in which Pyro samples a site is no network, but those inside it are. Random state
    and buffers are left as they were.

    Args:
        roots: Modules in which to look.
        run: The calculation.
    """
    calls: list[_Call] = []
    networks: dict[int, nn.Module] = {}

    def enter(module: nn.Module, args: Any) -> None:
        calls.append(_Call())

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        call = calls.pop()
        # Whatever ran inside of a network is part of it.
        inside = [module] if isinstance(output, Tensor) and not call.samples else call.inside
        if calls:
            calls[-1].inside += inside
        else:
            networks.update((id(m), m) for m in inside)

    class Watch(Messenger):
        def _pyro_sample(self, msg: Any) -> None:
            for call in calls:
                call.samples = True

    roots = list(roots)
    modules = list({id(m): m for root in roots for m in root.modules()}.values())
    devices = list({p.device for m in modules for p in m.parameters(False) if p.is_cuda})
    with (
        contextlib.ExitStack() as stack,
        torch.no_grad(),
        torch.random.fork_rng(devices=devices),
        Watch(),
        unmoved(*roots),
    ):
        for module in modules:
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        run()
    return list(networks.values())


class _Call:
    def __init__(self) -> None:
        self.samples = False
        self.inside: list[nn.Module] = []
