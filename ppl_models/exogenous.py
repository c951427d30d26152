"""The noise behind a site's value, and the value that a noise leads to.

A site's distribution is a mechanism: it carries a noise of a fixed distribution to a value. Given
the value, :func:`noise_of` tells the noise (abduction); given the noise, :func:`value_at` tells
the value, under this or another distribution (prediction). Numbers are carried by an increasing
or otherwise invertible function, so that the noise is exact; a class is the largest of its log
probabilities plus Gumbel noise, which is drawn from what the class leaves of it (Maddison et al.
2014, arXiv 1411.0030; Oberst and Sontag 2019, arXiv 1905.05824). What follows from a noise thus
hangs on the family: two mechanisms with equal distributions may tell other counterfactuals.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn import functional

from ppl_models.sample_sites import base_of

SHIFTED = (dist.Normal, dist.Laplace, dist.Cauchy, dist.StudentT, dist.Gumbel)  # and scaled
CLASSES = (dist.Categorical, dist.OneHotCategorical)
FAMILIES: dict[Any, type] = {
    **{kind: kind for kind in (*SHIFTED, dist.Bernoulli, dist.Uniform, dist.Delta)},
    dist.MultivariateNormal: dist.Normal,
    CLASSES: dist.Categorical,
}


def noise_family(fn: Any) -> type | None:
    """What the noise behind a distribution's values is of; None if it cannot be told from them.

    Distributions of one family carry the same noise: a multivariate Normal, and a flow of a
    Normal, that of a Normal. Of a binary site whose values may be grey it cannot be told.

    Args:
        fn: A distribution, wrapped by plates, masks and ``to_event`` as it may be.
    """
    fn = base_of(fn)
    if isinstance(fn, dist.Bernoulli) and not fn.has_enumerate_support:
        return None
    for kinds, family in FAMILIES.items():
        if isinstance(fn, kinds):
            return family
    if isinstance(fn, dist.TransformedDistribution) and all(s.bijective for s in fn.transforms):
        return noise_family(fn.base_dist)
    return None


def mechanism(fn: Any) -> str:
    """What carries a noise to this distribution's values, in words."""
    fn, steps = base_of(fn), ""
    family = noise_family(fn)
    if isinstance(fn, dist.TransformedDistribution):
        names = [type(step).__name__.removesuffix("Transform") for step in fn.transforms]
        steps = f" through {', '.join(names)}" if names else ""
    told = "" if family is not None else ", whose noise cannot be told"
    return f"{(family or type(fn)).__name__}{steps}{told}"


def has_noise(fn: Any) -> bool:
    """Whether the noise behind a value of this distribution can be told.

    Args:
        fn: A distribution, wrapped by plates, masks and ``to_event`` as it may be.
    """
    return noise_family(fn) is not None


def noise_of(fn: Any, value: Tensor) -> Tensor:
    """The noise that this distribution carries to the value.

    Args:
        fn: The distribution, at the parents that the value was made at.
        value: ``(..., *event)``.

    Returns:
        Of numbers the shape of the value; of classes Gumbel noise ``(..., C)`` in float64, drawn
        given the class, of a binary entry the difference of two; of a Delta nothing, ``(0,)``.

    Raises:
        ValueError: If the noise cannot be told from the value.
    """
    fn = base_of(fn)
    if isinstance(fn, SHIFTED):  # a Gumbel is a transformed Uniform, too
        return (value - fn.loc) / fn.scale
    if isinstance(fn, dist.TransformedDistribution):
        for step in reversed(fn.transforms):
            value = step.inv(value)
        return noise_of(fn.base_dist, value)
    if isinstance(fn, dist.MultivariateNormal):
        apart = (value - fn.loc).unsqueeze(-1)
        return torch.linalg.solve_triangular(fn.scale_tril, apart, upper=False).squeeze(-1)
    if isinstance(fn, dist.Uniform):
        return (value - fn.low) / (fn.high - fn.low)
    if isinstance(fn, CLASSES):
        chosen = value if isinstance(fn, dist.Categorical) else value.argmax(-1)
        return _gumbels(fn.logits, chosen)
    if isinstance(fn, dist.Bernoulli) and fn.has_enumerate_support:  # else values may be grey
        return _logistic(fn.logits, value)
    if isinstance(fn, dist.Delta):
        return value.new_empty(0)
    raise ValueError(f"the noise behind a value of {type(fn).__name__} cannot be told")


def value_at(fn: Any, noise: Tensor) -> Tensor:
    """The value that this distribution carries the noise to.

    Args:
        fn: The distribution, at the parents as they are now.
        noise: As :func:`noise_of` gives it.

    Raises:
        ValueError: If the distribution has no such noise.
    """
    fn = base_of(fn)
    if isinstance(fn, SHIFTED):
        return fn.loc + fn.scale * noise
    if isinstance(fn, dist.TransformedDistribution):
        value = value_at(fn.base_dist, noise)
        for step in fn.transforms:
            value = step(value)
        return value
    if isinstance(fn, dist.MultivariateNormal):
        return fn.loc + (fn.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
    if isinstance(fn, dist.Uniform):
        return fn.low + (fn.high - fn.low) * noise
    if isinstance(fn, CLASSES):
        chosen = (fn.logits.double() + noise).argmax(-1)
        if isinstance(fn, dist.Categorical):
            return chosen
        return functional.one_hot(chosen, noise.shape[-1]).to(fn.logits.dtype)
    if isinstance(fn, dist.Bernoulli):
        return (fn.logits.double() + noise > 0).to(fn.logits.dtype)
    if isinstance(fn, dist.Delta):
        made: Tensor = fn.v
        return made
    raise ValueError(f"{type(fn).__name__} has no noise that could be carried to a value")


def _gumbels(logits: Tensor, chosen: Tensor) -> Tensor:
    """Gumbel noise given which class was the largest, in float64: ties are then out of reach."""
    logits = logits.double()
    logits = (logits - logits.logsumexp(-1, keepdim=True)).expand(*chosen.shape, -1)
    largest = (
        -torch.empty(chosen.shape, dtype=logits.dtype, device=logits.device).exponential_().log()
    )
    others = -(torch.empty_like(logits).exponential_() + (logits - largest[..., None]).exp()).log()
    index = chosen.long()[..., None]
    return others.scatter(-1, index, largest[..., None] - logits.gather(-1, index))


def _logistic(logits: Tensor, value: Tensor) -> Tensor:
    """Logistic noise given whether it carried the logit above zero, in float64."""
    logits, value = torch.broadcast_tensors(logits.double(), value.double())
    share = torch.rand_like(logits).clamp_min(1e-300)
    sign = 2 * value - 1  # a zero is a one of the other sign
    log_here = functional.logsigmoid(sign * logits)
    return sign * (torch.log1p(-share * log_here.exp()) - log_here - share.log())
