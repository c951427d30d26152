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
from torch import Tensor, distributions as of_torch
from torch.distributions import Transform, constraints, transforms
from torch.nn import functional

from ppl_models.sample_sites import base_of, own_mask, support_words

# Torch's classes, of which Pyro's are kinds: what Pyro takes over whole has them inside.
SHIFTED = (  # and scaled
    of_torch.Normal,
    of_torch.Laplace,
    of_torch.Cauchy,
    of_torch.StudentT,
    of_torch.Gumbel,
)
CLASSES = (of_torch.Categorical, of_torch.OneHotCategorical)
FAMILIES: dict[Any, type] = {
    **{kind: kind for kind in (*SHIFTED, of_torch.Bernoulli, of_torch.Uniform, dist.Delta)},
    of_torch.MultivariateNormal: of_torch.Normal,
    CLASSES: of_torch.Categorical,
}


def noise_family(fn: Any) -> type | None:
    """What the noise behind a distribution's values is of; None if it cannot be told from them.

    Distributions of one family carry the same noise: a multivariate Normal, and a flow of a
    Normal, that of a Normal. Of a binary site whose values may be grey it cannot be told.

    Args:
        fn: A distribution, wrapped by plates, masks and ``to_event`` as it may be.
    """
    fn = base_of(fn)
    if isinstance(fn, of_torch.Bernoulli) and not fn.has_enumerate_support:
        return None
    for kinds, family in FAMILIES.items():
        if isinstance(fn, kinds):
            return family
    if isinstance(fn, of_torch.TransformedDistribution) and all(
        s.bijective for s in fn.transforms
    ):
        return noise_family(fn.base_dist)
    return None


def mechanism(fn: Any) -> str:
    """What carries a noise to this distribution's values, in words."""
    fn, steps = base_of(fn), ""
    family = noise_family(fn)
    if isinstance(fn, of_torch.TransformedDistribution):
        names = [type(s).__name__.removesuffix("Transform").strip("_") for s in fn.transforms]
        steps = f" through {', '.join(names)}" if names else ""
    told = "" if family is not None else ", whose noise cannot be told"
    return f"{(family or type(fn)).__name__}{steps}{told}"


def has_noise(fn: Any) -> bool:
    """Whether the noise behind a value of this distribution can be told.

    Args:
        fn: A distribution, wrapped by plates, masks and ``to_event`` as it may be.
    """
    return noise_family(fn) is not None


def noise_of(fn: Any, value: Tensor, of: str = "the value") -> Tensor:
    """The noise that this distribution carries to the value.

    Args:
        fn: The distribution, at the parents that the value was made at.
        value: ``(..., *event)``.
        of: What an error calls the value.

    Returns:
        Of numbers the shape of the value; of classes Gumbel noise ``(..., C)`` in float64, drawn
        given the class, of a binary entry the difference of two; of a Delta nothing, ``(0,)``.
        Where the distribution is masked, entries that no noise leads to are no finite numbers.

    Raises:
        ValueError: If the noise cannot be told from the value, or none leads there.
    """
    noise = _noise(base_of(fn), value)
    if not torch.compiler.is_compiling():  # a compiled step does not look at numbers
        _check_noise(fn, value, noise, of)
    return noise


def _noise(fn: Any, value: Tensor) -> Tensor:
    """The same, not finite where no noise leads to the value."""
    if isinstance(fn, SHIFTED):  # a Gumbel is a transformed Uniform, too
        return (value - fn.loc) / fn.scale
    if isinstance(fn, of_torch.TransformedDistribution):
        for step in reversed(fn.transforms):
            value = _undone(step, value)
        return _noise(base_of(fn.base_dist), value)
    if isinstance(fn, of_torch.MultivariateNormal):
        apart = (value - fn.loc).unsqueeze(-1)
        return torch.linalg.solve_triangular(fn.scale_tril, apart, upper=False).squeeze(-1)
    if isinstance(fn, of_torch.Uniform):
        share = (value - fn.low) / (fn.high - fn.low)
        return share.masked_fill((share < 0) | (share > 1), torch.nan)
    if isinstance(fn, CLASSES):
        chosen = value if isinstance(fn, of_torch.Categorical) else value.argmax(-1)
        return _gumbels(fn.logits, chosen)
    if isinstance(fn, of_torch.Bernoulli) and fn.has_enumerate_support:  # else values may be grey
        return _logistic(fn.logits, value)
    if isinstance(fn, dist.Delta):
        return value.new_empty(0)
    raise ValueError(f"the noise behind a value of {type(fn).__name__} cannot be told")


def _undone(step: Transform, value: Tensor) -> Tensor:
    """What a transform carries to the value; NaN at and beyond the ends that it never reaches."""
    if isinstance(step, transforms.ComposeTransform):
        for part in reversed(step.parts):
            value = _undone(part, value)
        return value
    reached: Any = step.codomain
    while isinstance(reached, constraints.independent):
        reached = reached.base_constraint
    low, high = (getattr(reached, f"{end}_bound", None) for end in ("lower", "upper"))
    if low is not None:
        value = value.where(value > low, torch.nan)
    if high is not None:
        value = value.where(value < high, torch.nan)
    made: Tensor = step.inv(value)
    return made


def _check_noise(fn: Any, value: Tensor, noise: Tensor, of: str) -> None:
    """Refuse a value that no noise leads to, but for what is masked."""
    bad = ~noise.isfinite()
    if not bool(bad.any()):
        return
    rows = max(value.dim() - len(fn.event_shape), len(fn.batch_shape))
    value = value.expand(*noise.shape[:rows], *value.shape[value.dim() - len(fn.event_shape) :])
    # Entry by entry where the noise has the value's entries, else event by event.
    if bad.shape != value.shape:
        bad = bad.flatten(rows).any(-1) if bad.dim() > rows else bad
        bad = bad.reshape(*bad.shape, *[1] * (value.dim() - rows)).expand(value.shape)
    mask = own_mask(fn, value.shape)
    if mask is not None:
        bad = bad & mask
    if bool(bad.any()):
        raise ValueError(
            f"{of} is {value[bad][0].item():g}, and no noise leads there by {mechanism(fn)}; "
            f"expected {support_words(base_of(fn).support)} that can be"
        )


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
    if isinstance(fn, of_torch.TransformedDistribution):
        value = value_at(fn.base_dist, noise)
        for step in fn.transforms:
            value = step(value)
        return value
    if isinstance(fn, of_torch.MultivariateNormal):
        return fn.loc + (fn.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
    if isinstance(fn, of_torch.Uniform):
        return fn.low + (fn.high - fn.low) * noise
    if isinstance(fn, CLASSES):
        chosen = (fn.logits.double() + noise).argmax(-1)
        if isinstance(fn, of_torch.Categorical):
            return chosen
        return functional.one_hot(chosen, noise.shape[-1]).to(fn.logits.dtype)
    if isinstance(fn, of_torch.Bernoulli):
        return (fn.logits.double() + noise > 0).to(fn.logits.dtype)
    if isinstance(fn, dist.Delta):
        made: Tensor = fn.v
        return made
    raise ValueError(f"{type(fn).__name__} has no noise that could be carried to a value")


def _gumbels(logits: Tensor, chosen: Tensor) -> Tensor:
    """Gumbel noise given which class was the largest, in float64: ties are then out of reach."""
    logits = logits.double()
    logits = logits - logits.logsumexp(-1, keepdim=True)
    chosen = chosen.expand(torch.broadcast_shapes(chosen.shape, logits.shape[:-1]))
    logits = logits.expand(*chosen.shape, -1)
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
