"""Amortised normalising flows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyro.distributions as dist
import torch
import zuko
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from ppl_models.guides.factors import Factor
from ppl_models.networks import Scalar

KINDS = {"spline": zuko.flows.NSF, "affine": zuko.flows.MAF}


class Flow(Factor):
    """A Normal bent by an autoregressive flow, conditional on the given values.

    Noise goes through ``transforms`` autoregressive steps, whose conditioners see a context
    that the network computes from the given values, and then through the shift and scale
    that :class:`Normal` would have had. Splines (Durkan et al. 2019, arXiv 1906.04032) are the
    identity outside [-5, 5], which is where standard noise lives; shift and scale put the
    result where the posterior is. A draw and its own density take one pass over the
    conditioners, as in Kingma et al. 2016 (arXiv 1606.04934); the density of any other value
    takes ``size`` passes per step, and is exact.

    Args:
        size: Size of the vector; ``Scalar()`` for one number per row.
        given: Size by name of the values it conditions on.
        hidden: Units of each hidden layer of the network.
        activation: Name of the activation.
        net: A network of your own instead, with ``2 * size + width`` outputs.
        kind: ``"spline"``, or ``"affine"`` for shifts and scales only.
        transforms: Number of autoregressive steps, which alternate in direction.
        width: Size of the context and of the conditioners' two hidden layers.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        size: int,
        given: Mapping[str, int],
        hidden: Sequence[int] = (),
        activation: str = "softplus",
        net: nn.Module | None = None,
        kind: Literal["spline", "affine"] = "spline",
        transforms: int = 2,
        width: int = 32,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
        for option, value in (("transforms", transforms), ("width", width)):
            if value < 1:
                raise ValueError(f"{option} is {value}, expected at least 1")
        super().__init__(2 * size + width, given, hidden, activation, net)
        self.size, self.scalar = int(size), isinstance(size, Scalar)
        flow = KINDS[kind](self.size, width, transforms=transforms, hidden_features=(width, width))
        self.steps = flow.transform.transforms

    def __repr__(self) -> str:
        """The module's tree; zuko draws random numbers to describe its own part."""
        with torch.random.fork_rng(devices=[]):
            return super().__repr__()

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """Batch shape ``(...)``, event shape ``(size,)`` or ``()``."""
        loc, log_variance = raw[..., : 2 * self.size].chunk(2, -1)
        context = raw[..., 2 * self.size :]
        zero = torch.zeros_like(loc)
        bend = _Bend([step(context) for step in self.steps], loc, 0.5 * log_variance)
        transforms: list[Transform] = [bend]
        if self.scalar:
            transforms.append(dist.transforms.ReshapeTransform((1,), ()))
        return dist.TransformedDistribution(dist.Normal(zero, zero + 1).to_event(1), transforms)


class _Bend(Transform):
    """Steps of a flow, then shift and scale.

    Remembers its last draw and that draw's Jacobian. Torch's own cache would also answer for
    a draw made without gradient, and the density would then lack its gradient.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, steps: list[Any], loc: Tensor, log_scale: Tensor) -> None:
        super().__init__()
        self.steps, self.loc, self.log_scale = steps, loc, log_scale
        self.last: tuple[Tensor, Tensor, Tensor, bool] | None = None

    def _call(self, x: Tensor) -> Tensor:
        y, log_det = self._forward(x)
        self.last = (x, y, log_det, torch.is_grad_enabled())
        return y

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, log_det = x, self.log_scale.sum(-1)
        for step in self.steps:
            y, moved = step.call_and_ladj(y)
            log_det = log_det + moved
        return self.loc + self.log_scale.exp() * y, log_det

    def _remembers(self, y: Tensor) -> bool:
        if self.last is None or self.last[1] is not y:
            return False
        return self.last[3] or not torch.is_grad_enabled()

    def _inverse(self, y: Tensor) -> Tensor:
        if self.last is not None and self._remembers(y):
            return self.last[0]
        x = (y - self.loc) * (-self.log_scale).exp()
        for step in reversed(self.steps):
            x = step.inv(x)
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """``(...)``."""
        if self.last is not None and self._remembers(y):
            return self.last[2]
        return self._forward(x)[1]
