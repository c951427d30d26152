"""Networks that follow others: a target whose weights are a moving average."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ppl_models.inference.objectives.schedule import Anneal, Progress, check_range, value_at


def target_of(source: nn.Module) -> nn.Module:
    """A copy of a network whose parameters are buffers: no optimiser moves it.

    Buffers are saved and moved to a device with the module that holds them. Buffers of the
    source, such as BatchNorm's statistics, are copied and then the target's own.

    Args:
        source: The network.
    """
    target = copy.deepcopy(source)
    for module in target.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                del module._parameters[name]
                module.register_buffer(name, parameter.detach().clone())
    return target


def moving_average(
    target: nn.Module, source: nn.Module, decay: float | Anneal
) -> Callable[[Progress], None]:
    r"""What moves a target towards its source, for ``after`` of a :class:`Stage`.

    :math:`\xi \leftarrow \tau \xi + (1 - \tau) \theta`, for every parameter of the source, from
    the first update on. Buffers of the source are not followed.

    Args:
        target: A network of the source's structure, such as :func:`target_of` makes.
        source: The network that trains.
        decay: :math:`\tau`, in [0, 1], a number or an :class:`Anneal`.

    Raises:
        ValueError: If the decay is outside [0, 1], or the target lacks a parameter of the source,
            or has one of another shape.
    """
    check_range("decay", decay, 0)
    for value in (decay.first, decay.last) if isinstance(decay, Anneal) else (decay,):
        if value > 1:
            raise ValueError(f"decay is {value}, expected a number in [0, 1]")
    _matched(target, source)

    def follow(progress: Progress) -> None:
        tau = value_at(decay, progress)
        with torch.no_grad():
            theirs, sources = _matched(target, source)
            torch._foreach_mul_(theirs, tau)
            torch._foreach_add_(theirs, sources, alpha=1 - tau)

    return follow


def _matched(target: nn.Module, source: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    there = {**dict(target.named_parameters()), **dict(target.named_buffers())}
    theirs, sources = [], []
    for name, parameter in source.named_parameters():
        if name not in there:
            raise ValueError(f"the target has no {name!r}, which its source has")
        if there[name].shape != parameter.shape:
            raise ValueError(
                f"{name!r} of the target has shape {tuple(there[name].shape)}, expected "
                f"{tuple(parameter.shape)}"
            )
        theirs.append(there[name])
        sources.append(parameter.detach())
    return theirs, sources
