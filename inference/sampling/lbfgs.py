"""L-BFGS for many small problems at once, none of which hears of the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

PAIRS = 10  # steps remembered
DECREASE = 1e-4  # share of the promised decrease that a step must reach (Armijo)
HALVINGS = 30  # of a step, before a problem counts as stuck
CURVATURE = 1e-10  # least curvature along a step, relative to its length, that is remembered

Function = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Minimum:
    """Where the search ended.

    Attributes:
        place: ``(R, D)``.
        value: ``(R,)``.
        slope: Largest absolute entry of the gradient ``(R,)``.
        settled: The slope is below the tolerance, or no step lowers the value in floating
            point ``(R,)``; else the iterations ran out.
    """

    place: Tensor
    value: Tensor
    slope: Tensor
    settled: Tensor


def minimise(function: Function, start: Tensor, iterations: int, tolerance: float) -> Minimum:
    """Minimise R functions of D numbers, each by its own L-BFGS with backtracking.

    Nocedal and Wright, Numerical Optimization (2006), algorithm 7.4, over rows of tensors. A
    step whose curvature is not positive is not remembered.

    Args:
        function: Values ``(R,)`` and gradients ``(R, D)`` at places ``(R, D)``; a value that
            is not finite is a place to stay away from.
        start: ``(R, D)``, with finite values.
        iterations: Most steps.
        tolerance: Largest absolute entry of a gradient that counts as zero.
    """
    place = start
    value, gradient = function(place)
    memory: list[tuple[Tensor, Tensor, Tensor]] = []
    # A first step of unit length at most.
    size = 1 / gradient.norm(dim=-1, keepdim=True).clamp_min(1)
    stuck = torch.zeros_like(value, dtype=torch.bool)
    for _ in range(iterations):
        active = ~stuck & (gradient.abs().amax(-1) > tolerance)
        if not bool(active.any()):
            break
        step = -_times_inverse_hessian(gradient, memory, size)
        down = (step * gradient).sum(-1)
        step = torch.where((down < 0).unsqueeze(-1), step, -size * gradient)
        down = (step * gradient).sum(-1)
        new, new_value, new_gradient = place, value, gradient
        length, left = torch.ones_like(value), active
        for _ in range(HALVINGS):
            trial = torch.where(left.unsqueeze(-1), place + length.unsqueeze(-1) * step, new)
            trial_value, trial_gradient = function(trial)
            lower = left & (trial_value <= value + DECREASE * length * down)
            lower = lower & trial_gradient.isfinite().all(-1) & (trial_value < value)
            new = torch.where(lower.unsqueeze(-1), trial, new)
            new_value = torch.where(lower, trial_value, new_value)
            new_gradient = torch.where(lower.unsqueeze(-1), trial_gradient, new_gradient)
            left = left & ~lower
            if not bool(left.any()):
                break
            length = length / 2
        stuck = stuck | left
        moved, turned = new - place, new_gradient - gradient
        curved = (moved * turned).sum(-1)
        use = curved > CURVATURE * moved.norm(dim=-1) * turned.norm(dim=-1)
        inverse = torch.where(use, 1 / torch.where(use, curved, 1.0), 0.0)
        memory = [*memory[-PAIRS + 1 :], (moved, turned, inverse)]
        ratio = curved / turned.square().sum(-1).clamp_min(torch.finfo(value.dtype).tiny)
        size = torch.where(use, ratio, size.squeeze(-1)).unsqueeze(-1)
        place, value, gradient = new, new_value, new_gradient
    slope = gradient.abs().amax(-1)
    return Minimum(place, value, slope, stuck | (slope <= tolerance))


def _times_inverse_hessian(
    gradient: Tensor, memory: list[tuple[Tensor, Tensor, Tensor]], size: Tensor
) -> Tensor:
    """The two-loop recursion; a pair with zero inverse curvature changes nothing."""
    vector, shares = gradient, []
    for moved, turned, inverse in reversed(memory):
        share = inverse * (moved * vector).sum(-1)
        vector = vector - share.unsqueeze(-1) * turned
        shares.append(share)
    vector = size * vector
    for (moved, turned, inverse), share in zip(memory, reversed(shares), strict=True):
        back = inverse * (turned * vector).sum(-1)
        vector = vector + (share - back).unsqueeze(-1) * moved
    return vector
