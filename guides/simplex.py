"""Factors whose draws are shares: Beta for one number in (0, 1), Dirichlet for some that add to 1.

Their priors are :class:`BetaShares` and :class:`DirichletShares`, too: torch's own draws reach 0
and 1, where densities are infinite, and do not run under ``torch.func``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_models.guides.factors import Factor


class _Gamma(torch.autograd.Function):
    """Draws of Gamma(a, 1) with their derivative by a; entry by entry, also under ``vmap``."""

    @staticmethod
    def forward(concentration: Tensor) -> Tensor:
        return torch._standard_gamma(concentration)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * _gamma_slope(*ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, dims: tuple[int], concentration: Tensor) -> tuple[Tensor, int]:
        return _gamma(concentration), dims[0]


class _GammaSlope(torch.autograd.Function):
    @staticmethod
    def forward(concentration: Tensor, draw: Tensor) -> Tensor:
        return torch._standard_gamma_grad(concentration, draw)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(info: Any, dims: Any, concentration: Tensor, draw: Tensor) -> tuple[Tensor, int]:
        values = [
            v.expand(info.batch_size, *v.shape) if d is None else v.movedim(d, 0)
            for v, d in zip((concentration, draw), dims, strict=True)
        ]
        return _gamma_slope(*values), 0


# torch's stubs leave `apply` without a type.
_gamma: Callable[[Tensor], Tensor] = _Gamma.apply
_gamma_slope: Callable[[Tensor, Tensor], Tensor] = _GammaSlope.apply


def log_gamma_draw(concentration: Tensor) -> Tensor:
    r"""The logarithm of a draw of Gamma(a, 1), differentiable in a.

    :math:`G_a = G_{a+1} U^{1/a}`: a draw at a = 0.001 is 0 in any floating type, its logarithm is
    not.

    Args:
        concentration: a > 0.
    """
    uniform = torch.rand_like(concentration).clamp_min(torch.finfo(concentration.dtype).tiny)
    return _gamma(concentration + 1).log() + uniform.log() / concentration


class BetaShares(dist.Beta):
    """A Beta whose draws stay off 0 and 1, by the spacing of floating numbers there."""

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Numbers ``(sample_shape, ...)`` in (0, 1)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        ones, zeros = (
            log_gamma_draw(c.expand(shape)) for c in (self.concentration1, self.concentration0)
        )
        info = torch.finfo(ones.dtype)
        return torch.sigmoid(ones - zeros).clamp(info.tiny, 1 - info.eps)


class DirichletShares(dist.Dirichlet):
    """A Dirichlet whose draws have no entry below the smallest floating number."""

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Vectors ``(sample_shape, ..., A)`` that add to 1."""
        concentration = self.concentration.expand(self._extended_shape(torch.Size(sample_shape)))
        shares = log_gamma_draw(concentration).softmax(-1)
        return shares.clamp_min(torch.finfo(shares.dtype).tiny)


class Beta(Factor):
    """One number in (0, 1) per row; the network gives both concentrations.

    Args:
        given: Size by name of the values it conditions on.
        hidden: Units of each hidden layer.
        activation: Name of the activation.
        net: A network of your own instead, with two outputs.
        floor: Least concentration; softplus of the output is added to it.
    """

    def __init__(
        self,
        given: Mapping[str, int],
        hidden: Sequence[int] = (),
        activation: str = "softplus",
        net: nn.Module | None = None,
        floor: float = 0.1,
    ) -> None:
        super().__init__(2, given, hidden, activation, net)
        self.floor = floor

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """Batch shape ``(...)``, no event dimension."""
        return BetaShares(*(self.floor + F.softplus(raw)).unbind(-1))


class Dirichlet(Factor):
    """Shares that add to 1; the network gives the concentrations.

    Args:
        size: Number A of shares.
        given: Size by name of the values it conditions on.
        hidden: Units of each hidden layer.
        activation: Name of the activation.
        net: A network of your own instead, with A outputs.
        floor: Least concentration; softplus of the output is added to it.
    """

    def __init__(
        self,
        size: int,
        given: Mapping[str, int],
        hidden: Sequence[int] = (),
        activation: str = "softplus",
        net: nn.Module | None = None,
        floor: float = 1e-3,
    ) -> None:
        super().__init__(size, given, hidden, activation, net)
        self.floor = floor

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """Batch shape ``(...)``, event shape ``(A,)``."""
        return DirichletShares(self.floor + F.softplus(raw))
