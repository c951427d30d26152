r"""Angles between a von Mises-Fisher direction and its mean, by inverting their distribution.

The angle has the density :math:`g(\theta) / Z` on (0, pi), with
:math:`g = \sin^{m-2}\theta\, e^{\kappa \cos\theta}`. Its distribution function is tabulated
for each concentration by Gauss-Legendre quadrature over all but 1e-15 of the mass, a uniform
number is looked up, and a few steps of Halley's method end at rounding. The numbers of nodes and
steps are fixed, so that draws compile, and run under ``vmap``.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

DROP = 36.0  # of log g from its mode to the ends of the table
PANELS, NODES = 8, 14  # of the table: a panel spans at most three standard deviations
STEPS, INNER = 3, 5  # of Halley's method, and nodes of the integral in each
TAIL = 48  # nodes of the integral in the derivative

Array = np.ndarray[Any, Any]


def angle(concentration: Tensor, uniform: Tensor, dim: int) -> Tensor:
    """The angle below which lies a share of the mass.

    Args:
        concentration: kappa >= 0 in float64.
        uniform: The share in (0, 1), in float64 and of the same shape.
        dim: m >= 2.

    Returns:
        Angles in radians of the same shape, without gradient.
    """
    kappa = concentration.detach()
    mode, reach = _mode_and_reach(kappa, dim)
    low = (mode - reach).clamp_min(0)
    width = (mode + reach).clamp_max(math.pi) - low
    edges, nodes, integrals = (torch.as_tensor(part, device=kappa.device) for part in _table())
    at_nodes = low[..., None] + width[..., None] * nodes
    density = _density(at_nodes, kappa[..., None], mode[..., None], dim)
    masses = density.unflatten(-1, (PANELS, NODES)) @ integrals  # in units of the width
    ends = masses[..., -1].cumsum(-1)
    before = ends - masses[..., -1]
    shares = torch.cat([before[..., None], before[..., None] + masses[..., :-1]], -1).flatten(-2)
    target = uniform * ends[..., -1]
    place = ((shares < target[..., None]).sum(-1, keepdim=True) - 1).clamp_min(0)
    shares = torch.cat([shares, ends[..., -1:]], -1)
    edges = (low[..., None] + width[..., None] * edges).clamp_max(math.pi)
    left, right = (shares.gather(-1, p).squeeze(-1) for p in (place, place + 1))
    start, stop = (edges.gather(-1, p).squeeze(-1) for p in (place, place + 1))
    share = ((target - left) / (right - left)).clamp(0, 1)
    # Next to an end of (0, pi) the mass grows as a power of the distance to it.
    power = 1 / (dim - 1)
    share = torch.where(start == 0, share.pow(power), share)
    share = torch.where(stop >= math.pi, 1 - (1 - share).pow(power), share)
    found = start + (stop - start) * share
    at, weights = (torch.as_tensor(part, device=kappa.device) for part in _gauss(INNER))
    for _ in range(STEPS):
        span = found - start
        inner = start[..., None] + span[..., None] * at
        inner = torch.cat([inner, found[..., None]], -1)
        g = _density(inner, kappa[..., None], mode[..., None], dim)
        beyond = left + (g[..., :-1] @ weights) * span / width - target
        step = beyond * width / g[..., -1]
        slope = (dim - 2) / found.tan() - kappa * found.sin()  # of log g
        found = found - step / (1 - 0.5 * step * slope).clamp_min(0.5)
        found = torch.minimum(torch.maximum(found, start + 1e-3 * span), stop)
    return found


def angle_slope(concentration: Tensor, found: Tensor, ratio: Tensor, dim: int) -> Tensor:
    r"""The derivative of a draw by the concentration, at a fixed share of the mass.

    :math:`d\theta/d\kappa = -\int_0^\theta (\cos t - A)\, g(t)\, dt / g(\theta)`, or the same
    over the other side, whichever sums numbers of one sign (implicit reparameterisation:
    Figurnov et al. 2018, arXiv 1805.08498).

    Args:
        concentration: kappa in float64.
        found: The angle.
        ratio: A(kappa), the mean of the cosine.
        dim: m.

    Returns:
        Of the same shape, without gradient.
    """
    kappa, mean = concentration.detach(), ratio.detach()
    _, reach = _mode_and_reach(kappa, dim)
    above = found.cos() >= mean
    end = torch.where(above, (found - reach).clamp_min(0), (found + reach).clamp_max(math.pi))
    at, weights = (torch.as_tensor(part, device=kappa.device) for part in _gauss(TAIL))
    span = end - found
    t = found[..., None] + span[..., None] * at
    g = _density(t, kappa[..., None], found[..., None], dim)
    # cos t - A, whose digits would go where both are near 1.
    moment = (t.cos() - mean[..., None]) * g
    return (moment @ weights) * span


def _mode_and_reach(kappa: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Where g is largest, and an angle from there by which log g falls by ``DROP``."""
    d = dim - 2
    total = d + (4 * kappa.square() + d**2).sqrt()
    total = total.clamp_min(torch.finfo(kappa.dtype).tiny)
    cosine = 2 * kappa / total if d else torch.ones_like(kappa)
    mode = torch.atan2((2 * d / total).sqrt(), cosine)
    # log g(mode) - log g(mode + x) >= (d + kappa cos(mode)) (1 - cos x), by log y <= y - 1.
    steep = (d + kappa * cosine).clamp_min(DROP / 2)
    return mode, 2 * (DROP / (2 * steep)).sqrt().asin()


def _density(t: Tensor, kappa: Tensor, at: Tensor, dim: int) -> Tensor:
    """g(t) / g(at)."""
    exponent = kappa * (t.cos() - at.cos())
    if dim > 2:
        exponent = exponent + (dim - 2) * (t.sin() / at.sin()).log()
    return exponent.exp()


@functools.lru_cache(maxsize=8)
def _gauss(count: int) -> tuple[Array, Array]:
    """Nodes and weights of Gauss-Legendre quadrature over (0, 1)."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2


@functools.lru_cache(maxsize=1)
def _table() -> tuple[Array, Array, Array]:
    """The table over (0, 1): all edges of cells, all nodes, and integrals within a panel.

    Integrals ``(NODES, NODES + 1)`` lead from values at the nodes to those of the polynomial
    through them, from the panel's start to each node and to its end.
    """
    nodes, _ = _gauss(NODES)
    starts = np.arange(PANELS)[:, None] / PANELS
    within = np.concatenate([[0.0], nodes]) / PANELS
    edges = np.append((starts + within).ravel(), 1.0)
    legendre = np.polynomial.legendre
    through = np.linalg.inv(legendre.legvander(2 * nodes - 1, NODES - 1))  # to coefficients
    summed = legendre.legint(np.eye(NODES), lbnd=-1, axis=0)
    ends = legendre.legvander(np.append(2 * nodes - 1, 1.0), NODES)
    integrals = (ends @ summed @ through).T / (2 * PANELS)
    return edges, (starts + nodes / PANELS).ravel(), integrals
