r"""Ratios of modified Bessel functions of any order, for densities on spheres.

With :math:`v = m/2 - 1` and :math:`L(\kappa) = \log {}_0F_1(; m/2; \kappa^2/4)
= \log I_v(\kappa) + \log\Gamma(v+1) - v \log(\kappa/2)`, which is 0 at 0:
:math:`L' = A = I_{m/2}(\kappa) / I_{m/2-1}(\kappa)`. Both are made of sums of a fixed number of
terms, all tensor operations: the power series at small arguments, Debye's uniform expansion (NIST
DLMF 10.41.3, its logarithm) where order or argument is large. No term of size m log m is left to
cancel.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

FAR = 28.0  # of hypot(v, kappa): from here on the expansion is right to 4e-15 (mpmath)
DEBYE = 12  # terms of the expansion
SERIES = 48  # terms of the power series, right to rounding up to FAR

Rational = list[Fraction]  # coefficients of a polynomial, the constant first


class _Ratios(torch.autograd.Function):
    """L, A and A' for a concentration; each is the gradient of the one before."""

    generate_vmap_rule = True

    @staticmethod
    def forward(concentration: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        return _evaluated(concentration, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        if grads[2] is not None:
            raise NotImplementedError("a third derivative of a von Mises-Fisher normaliser")
        parts = [g * s for g, s in zip(grads, ctx.saved_tensors, strict=False) if g is not None]
        return (sum(parts[1:], parts[0]) if parts else None), None


_ratios: Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]] = _Ratios.apply


def log_normaliser_and_ratio(concentration: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """L and A, in float64.

    Args:
        concentration: kappa >= 0, of any shape.
        dim: m >= 2.

    Returns:
        Two tensors of that shape, twice differentiable.
    """
    log_normaliser, ratio, _ = _ratios(concentration.double(), dim)
    return log_normaliser, ratio


def _evaluated(concentration: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    order = dim / 2 - 1
    if order >= FAR:
        return _expanded(concentration, order)
    near = concentration < FAR
    series = _summed(concentration.clamp_max(FAR), order)
    expansion = _expanded(concentration.clamp_min(FAR), order)
    at, far, slope = (torch.where(near, s, e) for s, e in zip(series, expansion, strict=True))
    return at, far, slope


def _summed(kappa: Tensor, order: float) -> tuple[Tensor, Tensor, Tensor]:
    # F = sum of c_j t^j with t = kappa^2 / 4 and positive c_j.
    t = kappa.square() / 4
    less_one, first, second = _polynomial(t, _series(order))
    first, second = first / (1 + less_one), second / (1 + less_one)
    return less_one.log1p(), kappa / 2 * first, first / 2 + t * (second - first.square())


def _expanded(kappa: Tensor, order: float) -> tuple[Tensor, Tensor, Tensor]:
    r = (kappa.square() + order**2).sqrt()
    unit = max(order, FAR)
    y = unit / r
    beyond, first, second = _polynomial(y, _debye(order))
    over = kappa.square() / (order + r)  # r - v, without cancellation
    if order >= FAR:
        # Less its value at 0, factor by factor.
        less = over / r * beyond
        log_normaliser = over - order * (over / (2 * order)).log1p()
        log_normaliser = log_normaliser - 0.5 * (over / order).log1p() - less
    else:
        log_normaliser = r - order * ((order + r) / 2).log() - 0.5 * (2 * math.pi * r).log()
        log_normaliser = log_normaliser + math.lgamma(order + 1) + beyond
    t, u = y * first, kappa / r.square()
    ratio = kappa / (order + r) - u * (0.5 + t)
    slope = order / (r * (order + r)) + (u.square() - (order / r.square()) ** 2) * (0.5 + t)
    return log_normaliser, ratio, slope + u.square() * (t + y.square() * second)


def _polynomial(x: Tensor, coefficients: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Three polynomials ``(degree + 1, 3)`` at ``x``."""
    powers = x.unsqueeze(-1).expand(*x.shape, len(coefficients) - 1).cumprod(-1)
    made = torch.as_tensor(coefficients, device=x.device)
    first, second, third = (powers @ made[1:] + made[0]).unbind(-1)
    return first, second, third


@functools.lru_cache(maxsize=64)
def _series(order: float) -> np.ndarray[Any, Any]:
    """F - 1, F' and F'' as polynomials of t."""
    logs = [
        math.lgamma(order + 1) - math.lgamma(j + 1) - math.lgamma(order + 1 + j)
        for j in range(SERIES)
    ]
    return _with_derivatives(np.exp(logs) * (np.arange(SERIES) > 0))


@functools.lru_cache(maxsize=64)
def _debye(order: float) -> np.ndarray[Any, Any]:
    """The sum S of all terms as a polynomial of y = max(v, FAR) / r, with S' and S''.

    For an order beyond FAR the first column is (S(y) - S(1)) / (y - 1).
    """
    unit = max(order, FAR)
    total = np.zeros(3 * DEBYE + 1)
    for k, polynomial in enumerate(_log_debye(DEBYE)):
        for power, c in enumerate(polynomial):
            if c:  # p^power / v^k, and p = v / r
                total[power] += float(c) * (order / unit) ** (power - k) * unit**-k
    made = _with_derivatives(total)
    if order >= FAR:
        made[:, 0] = 0
        made[:-1, 0] = np.cumsum(total[::-1])[::-1][1:]
    return made


def _with_derivatives(polynomial: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    made = np.zeros((len(polynomial), 3))
    made[:, 0] = polynomial
    made[:-1, 1] = np.polynomial.polynomial.polyder(polynomial)
    made[:-2, 2] = np.polynomial.polynomial.polyder(polynomial, 2)
    return made


@functools.lru_cache(maxsize=1)
def _log_debye(count: int) -> list[Rational]:
    """Terms of log(1 + u_1(p)/v + u_2(p)/v^2 + ...): the k-th over v^k, from DLMF 10.41.9."""
    plain: list[Rational] = [[Fraction(1)]]
    for _ in range(count):
        last = plain[-1]
        made = [Fraction(0)] * (len(last) + 3)
        for power, c in enumerate(last):
            made[power + 1] += c * Fraction(power, 2) + c / (8 * (power + 1))
            made[power + 3] -= c * Fraction(power, 2) + 5 * c / (8 * (power + 3))
        plain.append(made)
    logs: list[Rational] = [[Fraction(0)]]
    for k in range(1, count + 1):
        made = list(plain[k])
        for j in range(1, k):
            for a, x in enumerate(logs[j]):
                for b, y in enumerate(plain[k - j]):
                    if x and y:
                        made[a + b] -= Fraction(j, k) * x * y
        logs.append(made)
    return logs
