"""How far apart a reconstruction loss finds images, beside how far apart their factors are.

A VAE orders data in its codes by the distances that its loss perceives (Michlo et al. 2023, arXiv
2202.13341): where these do not grow with the steps of a factor, no code will have its order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from scipy.stats import spearmanr
from torch import Tensor

from ppl_models.config import check_seed, unknown, whole
from ppl_models.data.factors.grid import FactorData
from ppl_models.data.tables.from_parts import Array, floats
from ppl_models.data.tables.image_shapes import with_channels
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.inference.metrics.disentanglement.results import FACTOR, VERSIONS
from ppl_models.inference.objectives.blurred_error import WEIGHT, blurred_squares

Loss = Callable[[Tensor, Tensor], Tensor]
STEPS = "steps"
BLOCK = 128  # pairs at once: 100 MB of colour images of 64 x 64 and what a loss makes of them


def _squared(made: Tensor, image: Tensor) -> Tensor:
    return (made - image).square().sum((1, 2, 3))


def _cross_entropy(made: Tensor, image: Tensor) -> Tensor:
    each = torch.nn.functional.binary_cross_entropy(made, image, reduction="none")
    return each.sum((1, 2, 3))


def _overlap(made: Tensor, image: Tensor) -> Tensor:
    return _squared(made, image) + WEIGHT * blurred_squares(made - image)


LOSSES: dict[str, Loss] = {"mse": _squared, "bce": _cross_entropy, "overlap": _overlap}


def perceived_distances(
    factors: FactorData,
    loss: str | Loss = "mse",
    traversals: int = 20,
    pairs: int = 1_000,
    seed: int = 0,
) -> xr.Dataset:
    """The loss of one image as the reconstruction of another, by the steps between their factors.

    Args:
        factors: A set that is made from factors, of :func:`ppl_models.data.factor_data`.
        loss: ``mse``, squared errors; ``bce``, the cross-entropy, with logarithms of at least
            -100; ``overlap``, squared errors and those after a blur of 63 x 63 (see
            :class:`ppl_models.inference.BlurredError`): sums over the numbers of an image from 0
            to 1. Or a function of reconstructions and images ``(n, H, W, C)`` to ``(n,)``.
        traversals: Cells from which each factor is moved through all of its values.
        pairs: Random pairs of cells that may differ in any factors.
        seed: Of the cells, and of noise in the images.

    Returns:
        ``distance`` over ``factor`` and ``steps``: the mean loss of two images of a traversal that
        are so many values of the factor apart, NaN where none are; ``factor_spearman`` over
        ``factor``: the rank correlation of loss and steps over all pairs of the traversals, NaN
        where either is constant; ``spearman``: that over random pairs, with the steps of all
        factors added up. A factor that is cyclic, or of kinds, counts as its values are listed.

    Raises:
        ValueError: If there is no such loss, a number is out of range, or the set has no images.
    """
    if isinstance(loss, str) and loss not in LOSSES:
        raise ValueError(unknown("loss", loss, LOSSES))
    function = LOSSES[loss] if isinstance(loss, str) else loss
    traversals, pairs = whole("traversals", traversals, 1), whole("pairs", pairs, 3)
    draw = numpy_generator(check_seed(seed), 0)
    most = max(factors.factor_sizes)
    distance = np.full((len(factors.factor_sizes), most), np.nan)
    ranks = np.full(len(factors.factor_sizes), np.nan)
    for place in range(len(ranks)):
        steps, found = _along(factors, function, place, traversals, draw)
        for step in np.unique(steps):
            distance[place, step] = found[steps == step].mean()
        ranks[place] = _rank_correlation(steps, found)
    first, second = (factors.sample(pairs, draw) for _ in range(2))
    apart = np.abs(first - second).sum(1)
    images = (_images(factors, classes, draw) for classes in (first, second))
    overall = _rank_correlation(apart, _losses(function, *images))
    return xr.Dataset(
        {
            "distance": ((FACTOR, STEPS), distance),
            "factor_spearman": (FACTOR, ranks),
            "spearman": ((), overall),
        },
        {FACTOR: list(factors.factor_names), STEPS: np.arange(most)},
        {
            "data": factors.name + factors.world,
            "loss": loss if isinstance(loss, str) else getattr(loss, "__name__", repr(loss)),
            "traversals": traversals,
            "pairs": pairs,
            "seed": seed,
            **VERSIONS,
        },
    )


def _along(
    factors: FactorData, loss: Loss, place: int, traversals: int, draw: np.random.Generator
) -> tuple[Array, Array]:
    """Steps and losses of all pairs of images that differ in one factor alone."""
    size = factors.factor_sizes[place]
    steps: list[Array] = [np.zeros(0, int)]
    found: list[Array] = [np.zeros(0)]
    for cell in factors.sample(traversals, draw):
        classes = np.tile(cell, (size, 1))
        classes[:, place] = np.arange(size)
        if factors.cells is not None:
            classes = classes[np.isin(factors.index(classes), factors.cells)]
        images = _images(factors, classes, draw)
        one, other = np.triu_indices(len(classes), 1)
        steps.append(classes[other, place] - classes[one, place])
        found.append(_losses(loss, images[one], images[other]))
    return np.concatenate(steps), np.concatenate(found)


def _images(factors: FactorData, classes: Array, draw: np.random.Generator) -> Tensor:
    """Images ``(n, H, W, C)`` from 0 to 1."""
    drawn = factors.render(classes, draw)
    shape = with_channels(drawn.shape[1:])
    if shape is None:
        raise ValueError(
            f"{factors.name} has rows of shape {drawn.shape[1:]}, expected images (H, W, C)"
        )
    return floats(drawn).reshape(-1, *shape)


def _losses(loss: Loss, made: Tensor, images: Tensor) -> Array:
    found = [
        loss(made[start : start + BLOCK], images[start : start + BLOCK]).double()
        for start in range(0, len(images), BLOCK)
    ]
    values: Array = torch.cat(found).numpy() if found else np.zeros(0)
    return values


def _rank_correlation(steps: Array, distances: Array) -> float:
    if len(steps) < 2 or np.ptp(steps) == 0 or np.ptp(distances) == 0:
        return float("nan")
    return float(spearmanr(steps, distances)[0])
