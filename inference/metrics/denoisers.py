"""Denoisers side by side: noisy references, pairs that denoise, and a table of their scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import torch
import xarray as xr
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import at_least, check_seed, unknown
from ppl_models.data.tables.seeds import generator
from ppl_models.data.tables.table import Table
from ppl_models.inference.metrics.coherence import check_there
from ppl_models.inference.metrics.denoising import (
    Images,
    Mode,
    References,
    check_maximum,
    image_rows,
    psnr,
    umse,
    umse_over_images,
    upsnr,
)
from ppl_models.inference.metrics.disentanglement.results import VERSIONS
from ppl_models.inference.posterior.prediction import ROWS, by_rows
from ppl_models.inference.posterior.support import as_fitted
from ppl_models.inference.posterior.told_alone import generated
from ppl_models.modalities import mark
from ppl_models.pair import Pair

Layout = Literal["random", "fixed"]


class Denoised(NamedTuple):
    """Denoised images, and where they are from.

    Attributes:
        images: ``(N, ...)``.
        representation: How it was made of the posterior of the codes, in words.
    """

    images: Tensor
    representation: str


def subsample_references(
    images: Images, layout: Layout = "random", seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Four images of half the size from each one: the denoiser's input, and three references.

    Each block of 2 x 2 pixels gives one pixel to each of them. That takes their clean values for
    equal and their noise for independent: the image is smooth from pixel to pixel, and has seen
    no demosaicing, interpolation or JPEG. Where it is not smooth, uMSE is biased, in expectation
    by the mean of :math:`(x_a - f)^2 - (x_y - f)^2 - (x_b - x_c)^2 / 2` over clean values.

    Args:
        images: Noisy images ``(N, H, W)`` or ``(N, H, W, C)``, H and W even; the channels of a
            pixel stay together.
        layout: ``"random"`` draws in each block which pixel goes where; ``"fixed"`` takes the
            upper left one for the input and then goes on by line, which shifts all references
            against the input in the same direction.
        seed: Of the random layout.

    Returns:
        The input ``(N, H/2, W/2)`` or ``(N, H/2, W/2, C)``, and references ``(3, N, H/2, W/2)``
        or with channels.

    Raises:
        ValueError: If there is no such layout, or images have another shape or odd sides.
    """
    if layout not in get_args(Layout):
        raise ValueError(unknown("layout", layout, get_args(Layout)))
    random = generator(check_seed(seed))
    shape = tuple(images.shape)
    if len(shape) not in (3, 4) or 0 in shape or shape[1] % 2 or shape[2] % 2:
        raise ValueError(
            f"images have shape {shape}, expected (N, H, W) or (N, H, W, C) with even H and W"
        )
    n, height, width, *channels = shape
    blocks = torch.as_tensor(images).reshape(n, height // 2, 2, width // 2, 2, *channels)
    parts = blocks.movedim(2, 0).movedim(4, 1).flatten(0, 1)  # 4 x N x H/2 x W/2 (x C)
    if layout == "random":
        chance = torch.rand(4, n, height // 2, width // 2, generator=random)
        order = chance.argsort(0).to(parts.device)
        order = order.reshape(*order.shape, *[1] * len(channels)).expand_as(parts)
        parts = parts.gather(0, order)
    return parts[0], parts[1:]


def denoise(
    pair: Pair, table: Table, site: str = "x", draws: int | None = 16, seed: int = 0
) -> Denoised:
    """Noisy rows as a pair makes them clean: the mean that its decoder gives at their codes.

    The story's likelihood stands for the noise, and its mean for the clean image: a pair whose
    likelihood is that of the noise, fitted on noisy rows, has as the mean over its posterior the
    estimate of least squared error.

    Args:
        pair: Any pair whose site has a mean given its codes.
        table: Noisy rows.
        site: The site of the images.
        draws: Draws of the codes over which the decoder's means are averaged; None for the
            decoder at the posterior mean, which costs less and is another denoiser.
        seed: Of the draws.

    Returns:
        Images in the shape, and the order of columns, of the table's rows.

    Raises:
        ValueError: If there is no such site, it is hidden in some row or has no mean.
    """
    if site not in pair.card.data:
        raise ValueError(f"{pair.card.name}: {unknown('site of the data', site, pair.card.data)}")
    count = 1 if draws is None else at_least(draws=(draws, 1))[0]
    if site not in table.sites:
        raise ValueError(f"{table.name}: {unknown('site', site, table.sites)}")
    seen = as_fitted(pair, table)
    check_there(seen, site)
    own, fitted = (t.columns.get(site, ()) for t in (table, seen))

    def of(batch: Batch) -> Tensor:
        codes: Literal["mean", "draw"] = "mean" if draws is None else "draw"
        return generated(pair, batch, site, count, codes=codes).mean(0)

    sites = {*pair.card.given, *map(mark, pair.may_lack)}  # and which rows have them
    given = seen.only(*(name for name in seen.sites if name in sites))
    images = by_rows(pair, given, of, seed, block=max(1, ROWS // count))
    if own and own != fitted:
        images = images[:, [fitted.index(name) for name in own]]
    how = f"mean of {count} posterior draws, seed {seed}"
    return Denoised(images, "posterior mean" if draws is None else how)


def denoising_scores(
    denoised: Mapping[str, Images | Denoised],
    references: References,
    maximum: float,
    clean: Images | None = None,
    mode: Mode = "paper",
) -> xr.Dataset:
    """Several denoisers on the same noisy images, side by side.

    Args:
        denoised: By name of the denoiser, images ``(N, ...)``, or what :func:`denoise` gives.
        references: As of :func:`umse`, the same for all.
        maximum: As of :func:`upsnr`.
        clean: The clean images ``(N, ...)``, where somebody knows them.
        mode: As of :func:`umse`.

    Returns:
        ``umse``, ``se`` and ``upsnr`` over ``denoiser`` and ``image``, with clean images ``mse``
        and ``psnr``, too; over ``denoiser`` those of the set: ``set_umse`` and ``set_se`` of
        :func:`umse_over_images` (its error is NaN of one image), ``set_upsnr`` of that, and
        ``mean_upsnr``. The coordinate ``representation`` says of what each denoiser's images
        are: ``given``, or as :func:`denoise` made them. Attributes are ``mode``, ``maximum`` and
        versions of the libraries.

    Raises:
        ValueError: As :func:`umse` and :func:`upsnr`, or if there is no denoiser.
    """
    if not denoised:
        raise ValueError("there is no denoiser, expected one or more by name")
    check_maximum(maximum)
    made = {}
    for name, item in denoised.items():
        images, how = item if isinstance(item, Denoised) else (torch.as_tensor(item), "given")
        made[name] = Denoised(images.cpu(), how)  # a pair's may be on a GPU
    estimates = [umse(item.images, references, mode) for item in made.values()]
    values = torch.stack([estimate.value for estimate in estimates])
    over, of_set = values.mean(1), torch.full((len(made),), math.nan)
    if values.shape[1] > 1:
        of_set = torch.stack([umse_over_images(estimate).se for estimate in estimates])
    by_image = {
        "umse": values,
        "se": torch.stack([estimate.se for estimate in estimates]),
        "upsnr": upsnr(values, maximum),
    }
    if clean is not None:
        errors = []
        for item in made.values():
            truth = image_rows("clean", clean, like=item.images).cpu()
            errors.append((truth - image_rows("denoised", item.images)).square().mean(1))
        by_image["mse"] = torch.stack(errors)
        by_image["psnr"] = psnr(by_image["mse"], maximum)
    by_set = {
        "set_umse": over,
        "set_se": of_set,
        "set_upsnr": upsnr(over, maximum),
        "mean_upsnr": by_image["upsnr"].mean(1),
    }
    return xr.Dataset(
        {
            **{name: (("denoiser", "image"), v.numpy()) for name, v in by_image.items()},
            **{name: ("denoiser", v.numpy()) for name, v in by_set.items()},
        },
        {
            "denoiser": list(made),
            "representation": ("denoiser", [item.representation for item in made.values()]),
        },
        {"mode": mode, "maximum": float(maximum), **VERSIONS},
    )
