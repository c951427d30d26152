"""Experts: what each of several observed sites says of a code, as a product, a mixture, or both.

Each expert is a Normal factor with a network of its own, which runs once per batch if the batch
has what the expert reads. One guide therefore serves every subset of the sites (Wu and Goodman
2018, arXiv 1802.05335; Shi et al. 2019, arXiv 1911.03393; Sutter et al. 2021, arXiv 2105.02470).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_models.guides.factors import Conditional, Normal
from ppl_models.sample_sites import base_of


class _Experts(Conditional):
    """Normal factors, of which those count whose inputs are there."""

    def __init__(self, experts: Sequence[Normal], prior: float | None) -> None:
        if not experts or not all(isinstance(e, Normal) for e in experts):
            raise ValueError(
                f"experts are {[type(e).__name__ for e in experts]}, expected Normal factors"
            )
        sizes = sorted({int(e.size) for e in experts})
        if len(sizes) > 1:
            raise ValueError(f"experts are over vectors of sizes {sizes}, expected one size")
        if prior is not None and not 0 < prior < math.inf:
            raise ValueError(f"prior is {prior}, expected a positive scale, or None")
        names = dict.fromkeys(name for e in experts for name in e.given)
        super().__init__([f"{name}?" for name in names])
        self.experts = torch.nn.ModuleList(experts)
        self.prior = prior

    def there(self, values: dict[str, Tensor]) -> list[Normal]:
        """The experts that have all they need, and anything at all."""
        experts: Any = self.experts
        return [
            expert
            for expert in experts
            if any(name in values for name in expert.given)
            and all(name in values for name in expert.given if name not in expert.optional)
        ]

    def said(self, values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Means and precisions ``(..., M, size)`` of the M experts that are there."""
        factors = [base_of(expert(**values)) for expert in self.there(values)]
        found = [(q.loc, q.scale.pow(-2)) for q in factors]
        if not found:
            experts: Any = self.experts
            have = [list(e.given) for e in experts]
            raise ValueError(f"no expert has what it reads: they read {have}, none is there")
        means, precisions = zip(*found, strict=True)
        return _side_by_side(means), _side_by_side(precisions)

    def combined(self, means: Tensor, precisions: Tensor, sets: Tensor) -> dist.Normal:
        """The products of the experts of each set, by precisions, with the prior among them.

        Args:
            means: ``(..., M, size)``.
            precisions: Likewise.
            sets: Zeros and ones ``(S, M)``.

        Returns:
            Normals ``(..., S, size)``.
        """
        total = sets @ precisions + (0.0 if self.prior is None else self.prior**-2)
        return dist.Normal((sets @ (means * precisions)) / total, total.rsqrt())


class Product(_Experts):
    r"""A product of Gaussian experts in closed form.

    Over those that are there, :math:`q(z) \propto N(z; 0, s^2 I) \prod_m N(z; \mu_m, \sigma_m^2)`.
    Of experts that equal likelihoods as functions of the code it is the exact posterior. A batch
    that no expert can read gets the prior.

    Args:
        experts: Normal factors over vectors of one size, each of which reads what it is given.
        prior: Scale s of the expert that is always there; None for none.

    Raises:
        ValueError: If an expert is no Normal factor or of another size, or the prior's scale is
            out of range; at a batch, if nothing is there that an expert reads, and there is no
            prior.
    """

    def __init__(self, *experts: Normal, prior: float | None = 1.0) -> None:
        super().__init__(experts, prior)

    def forward(self, **values: Tensor) -> dist.TorchDistribution:
        """Batch shape ``(...)``, event shape ``(size,)``."""
        if self.prior is not None and not self.there(values):
            zero = next(self.parameters()).new_zeros(_size(self.experts[0]))
            return dist.Normal(zero, self.prior).to_event(1)
        means, precisions = self.said(values)
        q = self.combined(means, precisions, means.new_ones(1, means.shape[-2]))
        return dist.Normal(q.loc.squeeze(-2), q.scale.squeeze(-2)).to_event(1)


class Mixture(_Experts):
    r"""An even mixture of the experts that are there, or of the products of all their subsets.

    Its log density is exact. A draw takes its component at random, evenly, and moves with the
    component's mean and scale: as the weights are constants, gradients through draws are unbiased.

    Args:
        experts: Normal factors over vectors of one size, each of which reads what it is given.
        products: Mix the products of every non-empty subset, each with the prior, in place of
            the experts.
        prior: Scale of the expert that is in each product; None for none.

    Raises:
        ValueError: If an expert is no Normal factor or of another size, or the prior's scale is
            out of range; at a batch, if nothing is there that an expert reads.
    """

    def __init__(
        self, *experts: Normal, products: bool = False, prior: float | None = 1.0
    ) -> None:
        super().__init__(experts, prior if products else None)
        self.products = products

    def forward(self, **values: Tensor) -> dist.TorchDistribution:
        """Batch shape ``(...)``, event shape ``(size,)``."""
        means, precisions = self.said(values)
        count = means.shape[-2]
        if self.products:
            kept = [s for s in itertools.product((0.0, 1.0), repeat=count) if any(s)]
            q = self.combined(means, precisions, means.new_tensor(kept))
        else:
            q = dist.Normal(means, precisions.rsqrt())
        even = dist.Categorical(logits=torch.zeros_like(q.loc[..., 0]))
        return MixtureOfNormals(even, q.to_event(1))


class MixtureOfNormals(dist.MixtureSameFamily):
    """A mixture with constant weights: draws are reparameterised within their component."""

    has_rsample = True

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Vectors ``(sample_shape, ..., size)``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        q = base_of(self.component_distribution)
        # From plain noise, which runs under vmap and is shared out among processes.
        noise = torch.rand(shape[:-1], dtype=q.loc.dtype, device=q.loc.device)
        count = q.loc.shape[-2]
        which = (noise * count).long().clamp(max=count - 1)
        index = which[..., None, None].expand(*which.shape, 1, shape[-1])
        loc, scale = (
            v.expand(*which.shape, *v.shape[-2:]).gather(-2, index).squeeze(-2)
            for v in (q.loc, q.scale)
        )
        drawn: Tensor = loc + scale * torch.randn_like(loc)
        return drawn

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """As :meth:`rsample`, without gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)


def _size(expert: torch.nn.Module) -> int:
    assert isinstance(expert, Normal)
    return expert.size


def _side_by_side(parts: Iterable[Tensor]) -> Tensor:
    """Tensors ``(..., size)`` as one ``(..., M, size)``."""
    return torch.stack(torch.broadcast_tensors(*parts), -2)
