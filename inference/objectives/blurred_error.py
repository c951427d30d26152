r"""Squared errors of a blurred image: a loss under which near images are near.

Two small objects that do not overlap differ in as many pixels wherever they are, so that squared
errors say nothing of how far apart they are. After a wide blur they do (Michlo et al. 2023, arXiv
2202.13341, the overlap loss).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_models.config import image_shape, whole
from ppl_models.inference.objectives.arithmetic import zero_loss
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.per_row import mean_of_draws, observed_site, row_density
from ppl_models.inference.traces.sites import UnhandledSite

RADIUS = 31
WEIGHT = 3969.0  # 63^2, the entries of the kernel


def box_blur(images: Tensor, radius: int) -> Tensor:
    """Convolution with a square of equal numbers that sum to 1; zeros are outside the image.

    A product with a banded matrix along each side, which is the convolution and much cheaper
    where the kernel is wide.

    Args:
        images: ``(..., H, W)``.
        radius: Pixels r on each side of the middle: the kernel has (2 r + 1)^2 entries.

    Returns:
        ``(..., H, W)``.
    """
    bands = []
    for size in images.shape[-2:]:
        place = torch.arange(size, device=images.device)
        near = (place.unsqueeze(1) - place).abs() <= radius
        bands.append(near.to(images.dtype) / (2 * radius + 1))
    return bands[0] @ (images @ bands[1])


def blurred_squares(difference: Tensor, radius: int = RADIUS) -> Tensor:
    """The sum of the squares of a difference of images after :func:`box_blur`, per image.

    Args:
        difference: ``(..., H, W, C)``; each channel is blurred for itself.
        radius: Of the kernel, pixels.

    Returns:
        ``(...)``.
    """
    return box_blur(difference.movedim(-1, -3), radius).square().sum((-3, -2, -1))


class BlurredError(Objective):
    r"""Adds :math:`-w\,E_q \|K (x - E[x|z])\|^2`, squared errors after a blur K, to a bound.

    Beside a Normal site of scale :math:`1/\sqrt 2`, whose log density is minus the squared error,
    the overlap loss: :math:`\|e\|^2 + w \|K e\|^2` with w = 3969 and a box K of 63 x 63 (Michlo et
    al. 2023, arXiv 2202.13341, Section 6). That is a log density of x whose constant is left out,
    so that values compare within one loss alone; the site keeps its own density, for predictions.

    It is taken at the draws of the bound beside it, on average over them and over missing labels.
    Rows that do not observe the site add nothing.

    Args:
        site: An image of the model, flat, whose distribution has a mean.
        shape: ``(H, W, C)`` of the image.
        radius: Of the kernel, pixels: 31 for one of 63 x 63, whose numbers sum to 1.
        weight: w, a number or an :class:`Anneal`, at least 0. The paper's is the number of
            entries of the kernel, :math:`(2 r + 1)^2`; with 1 the term is next to nothing.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If the shape is none of an image, or radius or weight are out of range.
    """

    def __init__(
        self,
        site: str,
        shape: Sequence[int],
        radius: int = RADIUS,
        weight: float | Anneal = WEIGHT,
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        check_range(f"weight of BlurredError({site!r})", weight, 0)
        self.site, self.weight = site, weight
        self.shape = image_shape("shape", shape)
        self.radius = whole("radius", radius, 0)

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        side, name = 2 * self.radius + 1, self.site
        return f"-{written(self.weight)} E_q|box_{side} * ({name} - E[{name} | ...])|^2"

    def rows(self, run: Evaluation) -> Tensor:
        """The weighted squares per row; zero where the site is missing."""
        batch, weight = run.batch, value_at(self.weight, self.progress)
        if self.site not in batch or weight == 0:
            return zero_loss(run)
        node = observed_site(run, self.site, "BlurredError")
        fn, event = node["fn"], tuple(node["fn"].event_shape)
        if event != (math.prod(self.shape),):
            raise UnhandledSite(
                f"site {self.site!r} has event shape {event}, expected "
                f"({math.prod(self.shape)},) for images of {self.shape}"
            )
        difference = (node["value"] - fn.mean).unflatten(-1, self.shape)
        squares = row_density(run, node, blurred_squares(difference, self.radius))  # E x K x B
        return weight * mean_of_draws(run.lead, squares).expand(batch.count)
