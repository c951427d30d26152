"""Experts: what each of several observed sites says of a code, as a product, a mixture, or both.

Each expert is a Normal factor with a network of its own, which runs once per batch if the batch
has what the expert reads. One guide therefore serves every subset of the sites (Wu and Goodman
2018, arXiv 1802.05335; Shi et al. 2019, arXiv 1911.03393; Sutter et al. 2021, arXiv 2105.02470).
Rows that have different ones come in one batch under marks (:mod:`ppl_models.modalities`), and an
expert then counts in the rows that have all that it reads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_models.guides.factors import Conditional, Normal
from ppl_models.modalities import mark, observed
from ppl_models.sample_sites import COMBINATIONS, base_of


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
        super().__init__([f"{n}?" for n in (*names, *map(mark, names))])
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

    def said(self, values: dict[str, Tensor]) -> Said:
        """What the experts that are there say, and in which rows they count."""
        experts = self.there(values)
        factors = [base_of(expert(**values)) for expert in experts]
        if not factors:
            have = [list(e.given) for e in self._each()]
            raise ValueError(f"no expert has what it reads: they read {have}, none is there")
        means = _side_by_side(q.loc for q in factors)
        precisions = _side_by_side(q.scale.pow(-2) for q in factors)
        rows = [_rows_of(expert, values) for expert in experts]
        if all(found is None for found in rows):
            return Said(means, precisions, None)
        every = next(found for found in rows if found is not None)
        counts = [torch.ones_like(every) if found is None else found for found in rows]
        return Said(means, precisions, torch.stack(counts, -1))

    def combined(self, said: Said, sets: Tensor) -> dist.Normal:
        """The products of the experts of each set, by precisions, with the prior among them.

        Args:
            said: What the experts say.
            sets: Zeros and ones ``(S, M)``, or in each row others ``(..., S, M)``.

        Returns:
            Normals ``(..., S, size)``.
        """
        total = sets @ said.precisions + (0.0 if self.prior is None else self.prior**-2)
        weighted = sets @ (said.means * said.precisions)
        return dist.Normal(weighted / total, total.rsqrt())

    def _each(self) -> list[Normal]:
        experts: Any = self.experts
        return list(experts)


class Said(NamedTuple):
    """What M experts say of a code, and in which rows.

    Attributes:
        means: ``(..., M, size)``.
        precisions: Likewise.
        rows: Where each counts ``(B, M)``; None where all count in every row.
    """

    means: Tensor
    precisions: Tensor
    rows: Tensor | None


class Product(_Experts):
    r"""A product of Gaussian experts in closed form.

    Over those that are there, :math:`q(z) \propto N(z; 0, s^2 I) \prod_m N(z; \mu_m, \sigma_m^2)`.
    Of experts that equal likelihoods as functions of the code it is the exact posterior. A batch
    that no expert can read gets the prior, and so does a row.

    Args:
        experts: Normal factors over vectors of one size, each of which reads what it is given.
        prior: Scale s of the expert that is always there; None for none.

    Raises:
        ValueError: If an expert is no Normal factor or of another size, or the prior's scale is
            out of range; at a batch, if nothing is there that an expert reads, and there is no
            prior, or rows lack an input that an expert can do without.
    """

    def __init__(self, *experts: Normal, prior: float | None = 1.0) -> None:
        super().__init__(experts, prior)

    def forward(self, **values: Tensor) -> dist.TorchDistribution:
        """Batch shape ``(...)``, event shape ``(size,)``."""
        if self.prior is not None and not self.there(values):
            zero = next(self.parameters()).new_zeros(_size(self.experts[0]))
            return dist.Normal(zero, self.prior).to_event(1)
        said = self.said(values)
        if said.rows is None:
            sets = said.means.new_ones(1, said.means.shape[-2])
        else:
            sets = said.rows.to(said.means.dtype).unsqueeze(-2)
        q = self.combined(said, sets)
        return dist.Normal(q.loc.squeeze(-2), q.scale.squeeze(-2)).to_event(1)


class Mixture(_Experts):
    r"""An even mixture of the experts that are there, or of the products of all their subsets.

    Its log density is exact. A draw takes its component at random, evenly, and moves with the
    component's mean and scale: as the weights are constants, gradients through draws are unbiased.
    :class:`ppl_models.inference.Stratified` draws from each component in turn.

    Args:
        experts: Normal factors over vectors of one size, each of which reads what it is given.
        products: Mix the products of every non-empty subset, each with the prior, in place of
            the experts.
        prior: Scale of the expert that is in each product; None for none.

    Raises:
        ValueError: If an expert is no Normal factor or of another size, the prior's scale is out
            of range, or there are more products than a batch may have of them; at a batch, if
            nothing is there that an expert reads, or rows lack an
            input that an expert can do without.
    """

    def __init__(
        self, *experts: Normal, products: bool = False, prior: float | None = 1.0
    ) -> None:
        if products and 2 ** len(experts) - 1 > COMBINATIONS:
            raise ValueError(
                f"{len(experts)} experts have {2 ** len(experts) - 1} products, expected at most "
                f"{COMBINATIONS}; mix the experts, products=False"
            )
        super().__init__(experts, prior if products else None)
        self.products = products

    def components(self, values: dict[str, Tensor]) -> int:
        """How many components the mixture has at a batch."""
        count = len(self.there(values))
        return 2**count - 1 if self.products else count

    def forward(self, **values: Tensor) -> dist.TorchDistribution:
        """Batch shape ``(...)``, event shape ``(size,)``."""
        said = self.said(values)
        count, rows = said.means.shape[-2], said.rows
        if self.products:
            kept = [s for s in itertools.product((0.0, 1.0), repeat=count) if any(s)]
            sets = said.means.new_tensor(kept)
            q = self.combined(said, sets)
            if rows is not None:  # a product counts where all of its experts do
                rows = (rows.unsqueeze(-2) | (sets == 0)).all(-1)
        else:
            q = dist.Normal(said.means, said.precisions.rsqrt())
        logits = torch.zeros_like(q.loc[..., 0])
        if rows is not None:
            # A row that none can read counts nowhere, and its numbers are to be finite.
            rows = rows | ~rows.any(-1, keepdim=True)
            logits = logits.masked_fill(~rows, -math.inf)
        return MixtureOfNormals(dist.Categorical(logits=logits), q.to_event(1))


class MixtureOfNormals(dist.MixtureSameFamily):
    """A mixture, even over the components of weight above 0, which are constants.

    Draws are reparameterised within their component.

    Attributes:
        strata: The dimension of draws, counted from the right of the batch shape, along which
            they come from one component after another, as many from each; None where each draw
            takes its component at random.
    """

    has_rsample = True
    strata: int | None = None

    def stratified(self, dim: int) -> MixtureOfNormals:
        """The same distribution, of which draws along a dimension take components in turn."""
        found = self.expand(self.batch_shape)
        found.strata = dim
        return found

    def expand(self, batch_shape: Any, _instance: Any = None) -> MixtureOfNormals:
        """With another batch shape."""
        found: MixtureOfNormals = super().expand(torch.Size(batch_shape), _instance)
        found.strata = self.strata
        return found

    def counting(self) -> Tensor:
        """Which components have a weight ``(..., M)``."""
        found: Tensor = self.mixture_distribution.logits > -math.inf
        return found

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Vectors ``(sample_shape, ..., size)``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        q = base_of(self.component_distribution)
        count = q.loc.shape[-2]
        if self.strata is None:
            # From plain noise, which runs under vmap and is shared out among processes.
            noise = torch.rand(shape[:-1], dtype=q.loc.dtype, device=q.loc.device)
            counts = self.counting()
            most = counts.sum(-1)
            place = torch.minimum((noise * most).long(), most - 1).clamp(min=0)
            passed = counts.cumsum(-1) <= place.unsqueeze(-1)
            which = passed.sum(-1).clamp(max=count - 1)
        else:
            wide = shape[:-1]
            draws = wide[self.strata] if len(wide) >= -self.strata else 1
            turn = torch.arange(draws, device=q.loc.device) * count // draws
            right = min(len(wide), -self.strata) - 1  # a single draw may have no dimension
            which = turn.reshape(-1, *[1] * right).expand(wide)
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


def _rows_of(expert: Normal, values: dict[str, Tensor]) -> Tensor | None:
    """The rows ``(B,)`` that have all that an expert reads; None for all of them."""
    found: Tensor | None = None
    for name in expert.given:
        there = observed(values, name) if name in values else None
        if there is None:
            continue
        if name in expert.optional:
            raise ValueError(
                f"an expert can do without {name!r}, which some rows of the batch lack; expected "
                "an expert of its own that reads it, as no network reads what rows lack"
            )
        found = there if found is None else found & there
    return found


def _side_by_side(parts: Iterable[Tensor]) -> Tensor:
    """Tensors ``(..., size)`` as one ``(..., M, size)``."""
    return torch.stack(torch.broadcast_tensors(*parts), -2)
