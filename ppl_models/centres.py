"""What stands for a distribution where nothing is drawn: its mean, or its most probable class."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Transform, transforms

from ppl_models.sample_sites import Refused, base_of, is_plate, one_line
from ppl_models.spherical import sphere

NORMALS = (dist.Normal, dist.MultivariateNormal, dist.LowRankMultivariateNormal)


def mean_of(fn: Any) -> Tensor | None:
    """The mean of a distribution; None if it has none, or none in closed form.

    Beyond those that PyTorch knows it takes that of what an exponential carries from a Normal.
    The mean of directions lies inside the sphere: their mean direction stands for them.
    """
    directions = base_of(fn).support is sphere
    try:
        mean: Tensor | None = fn.mode if directions else fn.mean
    except NotImplementedError:
        moments = None if directions else carried_moments(base_of(fn))
        mean = None if moments is None else moments[0]
    if mean is None or not bool(mean.isfinite().all()):
        return None
    return mean.expand(fn.batch_shape + fn.event_shape)


def carried_moments(fn: Any) -> tuple[Tensor, Tensor] | None:
    """Mean and variance of what reshaping, scaling and one exponential carry from a Normal.

    None for everything else.
    """
    normal = isinstance(fn, dist.TransformedDistribution)
    base = base_of(fn.base_dist) if normal else None
    if not isinstance(base, NORMALS):
        return None
    mean, variance = base.mean, base.variance
    for step in (plain for transform in fn.transforms for plain in _plain(transform)):
        if isinstance(step, transforms.ReshapeTransform):
            mean, variance = step(mean), step(variance)
        elif isinstance(step, transforms.AffineTransform):
            mean, variance = step(mean), variance * step.scale**2
        elif isinstance(step, transforms.ExpTransform) and normal:
            mean, normal = (mean + variance / 2).exp(), False
            variance = variance.expm1() * mean.square()
        else:
            return None
    return mean, variance


def median_of(fn: Any) -> Tensor | None:
    """The median of each number of what a Normal becomes by functions of one number each.

    An invertible function of a number carries its median along. None for everything else.
    """
    base = base_of(fn)
    normal = base_of(base.base_dist) if isinstance(base, dist.TransformedDistribution) else None
    if not isinstance(normal, dist.Normal):
        return None
    median = normal.mean
    for step in (plain for transform in base.transforms for plain in _plain(transform)):
        alone = isinstance(step, transforms.AffineTransform | transforms.ReshapeTransform)
        if not step.bijective or not (alone or step.domain.event_dim == 0):
            return None
        median = step(median)
    return median.expand(fn.batch_shape + fn.event_shape) if median.isfinite().all() else None


def _plain(step: Transform) -> list[Transform]:
    """The transforms that one is made of."""
    if isinstance(step, transforms.IndependentTransform):
        return _plain(step.base_transform)
    if isinstance(step, transforms.ComposeTransform):
        return [plain for part in step.parts for plain in _plain(part)]
    return [step]


def most_probable(fn: Any) -> Tensor | None:
    """The most probable value of a discrete distribution; None if it cannot be told.

    Of a vector of independent entries it is that of each.
    """
    if isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        best = most_probable(fn.base_dist)
        return None if best is None else best.expand(fn.batch_shape + fn.event_shape)
    if fn.has_enumerate_support:
        values: Tensor = fn.enumerate_support()
        place = fn.log_prob(values).argmax(0)
        index = place.reshape(1, *place.shape, *[1] * len(fn.event_shape))
        return torch.take_along_dim(values, index, 0).squeeze(0)
    try:
        mode: Tensor = fn.mode
    except NotImplementedError:
        return None
    return mode


def centre_of(fn: Any) -> Tensor | None:
    """The mean of a code, the most probable value of what is discrete; None if there is none."""
    return most_probable(fn) if fn.support.is_discrete else mean_of(fn)


def data_centre(fn: Any) -> Tensor | None:
    """What stands for a site of the data: its mean, of a class its most probable value.

    Where the mean has no closed form it is the median of each number.
    """
    if is_class(fn):
        return most_probable(fn)
    mean = mean_of(fn)
    return median_of(fn) if mean is None else mean


def is_class(fn: Any) -> bool:
    """Whether values are classes, which have no mean; 0.0 and 1.0 are numbers."""
    base = base_of(fn)
    if not base.has_enumerate_support:
        return False
    return not base.enumerate_support(expand=False).is_floating_point()


@contextlib.contextmanager
def at_centres(data: Collection[str] = (), mean: bool = True) -> Iterator[None]:
    """Sites are at their centres in place of a draw.

    Args:
        data: Sites of the data: a binary one has its mean, not its more probable value.
        mean: Whether those have their centres, too; otherwise they are drawn.

    Raises:
        ValueError: In one line, naming the site, if it has none.
    """
    with one_line(), _Centred(data, mean):
        yield


class _Centred(Messenger):
    def __init__(self, data: Collection[str], mean: bool) -> None:
        super().__init__()
        self.data, self.mean = data, mean

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if msg["done"] or msg["is_observed"] or msg["value"] is not None or is_plate(msg):
            return
        of_data = name in self.data
        if of_data and not self.mean:
            return
        value = data_centre(fn) if of_data else centre_of(fn)
        if value is None:
            instead = "mean=False" if of_data else "codes='draw'"
            raise Refused(
                f"site {name!r} ({type(base_of(fn)).__name__}) has no mean; ask for draws with "
                f"{instead}"
            )
        msg["value"], msg["done"] = value, True
