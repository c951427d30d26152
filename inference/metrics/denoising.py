r"""Error of a denoiser without clean images: uMSE and uPSNR, and their uncertainty.

A denoised image f(y) is compared with an independent noisy copy of the same clean image, and the
variance of the noise, told from further copies, is subtracted (Marcos-Morales et al. 2023, arXiv
2210.05553). No model of the noise is needed: in each pixel its mean is 0 and its variance the same
in all copies, whatever they are, and it is independent over copies and over pixels. Nothing is
cut off before it is averaged, so that an estimate may be negative. Sums are in float64.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ppl_models.config import check_seed, unknown, whole
from ppl_models.data.tables.seeds import generator

Mode = Literal["paper", "averaged"]
Images = Tensor | np.ndarray
References = Images | Sequence[Images]
RESAMPLED = 4_000_000  # places drawn at a time: 64 MB with their counts


@dataclass(frozen=True)
class UMSE:
    """Unsupervised estimates of mean squared errors, in squared units of the images.

    Attributes:
        value: ``(N,)``, one for each image, or ``()`` of :func:`umse_over_images`; any sign.
        se: Standard errors, in the same shape.
        terms: ``(N, n)`` what each value is the mean of: an unbiased estimate for each of the
            image's n numbers; or ``(N,)``, the values of the images.
        mode: Which estimator it is; see :func:`umse`.
    """

    value: Tensor
    se: Tensor
    terms: Tensor
    mode: Mode


def umse(denoised: Images, references: References, mode: Mode = "paper") -> UMSE:
    r"""Mean squared error of denoised images, from noisy references alone.

    With references a, b and c the paper's estimator is :math:`\frac1n \sum_i (a_i - f_i)^2 -
    (b_i - c_i)^2 / 2`. Each term has the mean :math:`(x_i - f_i)^2` where a is independent of
    what f was made of; b or c may be the denoiser's own input, a must not.

    ``"averaged"`` uses all R references alike, of which then none may be the input:
    :math:`\frac1n \sum_i (\bar r_i - f_i)^2 - s_i^2 / R`, with their mean and unbiased variance in
    each pixel. Of three it is the mean of the paper's estimator over all parts that they can
    play; under Gaussian noise it has 0.29 to 0.58 of its deviation, the less the smaller the error
    is (derived here; the paper has no such mode).

    The standard error is the deviation of the terms over the root of n. It takes pixels as
    independent given the clean image and f: noise that is correlated between pixels leaves the
    value unbiased and makes this too small. How the squared error differs from pixel to pixel
    counts, too, which makes it a little large for the error of this very image.

    Args:
        denoised: Images ``(N, ...)``, one each row.
        references: Noisy copies ``(R, N, ...)``, or as many tensors ``(N, ...)``: three of them,
            in the order a, b, c, or two or more to be averaged. They are never cut to a range,
            which would give the noise another mean, and have seen no training of the denoiser.
        mode: Which estimator.

    Raises:
        ValueError: If shapes differ, images have less than two numbers, a value is not finite,
            there is no such mode or there are too few references, or too many.
    """
    seen, given = image_rows("denoised", denoised), list(references)
    if mode not in get_args(Mode):
        raise ValueError(unknown("mode", mode, get_args(Mode)))
    if mode == "paper" and len(given) != 3:
        raise ValueError(f"there are {len(given)} references, expected three: a, b and c")
    if len(given) < 2:
        raise ValueError(f"there are {len(given)} references to average, expected two or more")
    copies = [
        image_rows(f"reference {place}", copy, like=denoised).to(seen.device)
        for place, copy in enumerate(given)
    ]
    if mode == "paper":
        a, b, c = copies
        terms = (a - seen).square() - (b - c).square() / 2
    else:
        count = len(copies)
        mean = sum(copies[1:], copies[0]) / count
        squares = [(copy - mean).square() for copy in copies]
        variance = sum(squares[1:], squares[0]) / (count - 1)
        terms = (mean - seen).square() - variance / count
    return UMSE(terms.mean(1), _standard_error(terms), terms, mode)


def umse_over_images(estimate: UMSE) -> UMSE:
    """The uMSE of a set of images: the mean of theirs, as an estimate for their population.

    Its standard error is that over images, whose errors are dependent within and independent of
    each other. For the error on these very images, give :func:`umse` all of them as one row.

    Args:
        estimate: Of two images or more.

    Raises:
        ValueError: If it has no or one image.
    """
    if estimate.value.dim() != 1 or len(estimate.value) < 2:
        raise ValueError(
            f"the estimate has values of shape {tuple(estimate.value.shape)}, expected (N,) of "
            "two images or more"
        )
    values = estimate.value
    return UMSE(values.mean(), _standard_error(values), values, estimate.mode)


def umse_interval(estimate: UMSE, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Ends of the normal confidence intervals: value and standard errors on both sides.

    Args:
        estimate: Of images, or of a set.
        level: Probability that the interval covers the truth.

    Raises:
        ValueError: If the level is not between 0 and 1.
    """
    reach = NormalDist().inv_cdf((1 + _level(level)) / 2) * estimate.se
    return estimate.value - reach, estimate.value + reach


def umse_bootstrap(
    estimate: UMSE, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Ends of the bootstrap's confidence intervals: percentiles of resampled means.

    Of images their pixels are drawn with replacement, of a set its images; one draw serves all
    images, so that the interval of each hangs on the seed and not on those beside it.

    Args:
        estimate: Of images, or of a set.
        level: Probability that the interval covers the truth.
        resamples: Number of means; the paper's is at least 500.
        seed: Of what is drawn.

    Raises:
        ValueError: If the level is not between 0 and 1, there are less than two resamples, or
            the seed is none.
    """
    tail = (1 - _level(level)) / 2
    whole("resamples", resamples, 2)
    rows = torch.atleast_2d(estimate.terms)
    count, random = rows.shape[1], generator(check_seed(seed))
    means: list[Tensor] = []
    block = max(1, RESAMPLED // count)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        places = torch.randint(count, (size, count), generator=random)
        often = torch.zeros(size, count, dtype=torch.float64)
        often.scatter_add_(1, places, torch.ones((), dtype=torch.float64).expand(size, count))
        means.append(often.to(rows.device) @ rows.T / count)
    found = np.quantile(torch.cat(means).cpu().numpy(), (tail, 1 - tail), axis=0)
    low, high = torch.from_numpy(found).to(rows.device).reshape(2, *estimate.value.shape)
    return low, high


def psnr(error: Tensor, maximum: float) -> Tensor:
    r"""Peak signal-to-noise ratios of mean squared errors, dB: :math:`10 \log_{10}(M^2 / MSE)`.

    Args:
        error: Mean squared errors against clean images, at least 0, of any shape.
        maximum: As of :func:`upsnr`.

    Returns:
        In the same shape, infinite where there is no error.

    Raises:
        ValueError: If the maximum is not positive and finite.
    """
    return 20 * math.log10(check_maximum(maximum)) - 10 * error.log10()


def upsnr(value: Tensor | float, maximum: float) -> Tensor:
    r"""Unsupervised peak signal-to-noise ratios, dB: :math:`10 \log_{10}(M^2 / uMSE)`.

    Consistent, and not unbiased. Of a set it is that of the set's uMSE, ``upsnr(
    umse_over_images(estimate).value, M)``, which :func:`mean_upsnr` is not.

    Args:
        value: Estimates of a mean squared error, of any shape.
        maximum: M, the largest value of a signal: 255 of 8-bit images, 1 of those from 0 to 1. A
            constant, the same for all denoisers, and no largest value of these images.

    Returns:
        In the same shape, NaN with a warning where the value is not positive.

    Raises:
        ValueError: If the maximum is not positive and finite.
    """
    maximum = check_maximum(maximum)
    seen = torch.as_tensor(value, dtype=torch.float64)
    fine = seen > 0
    if not bool(fine.all()):
        warnings.warn(
            f"uMSE is not positive in {int((~fine).sum())} of {fine.numel()} values, whose uPSNR "
            "is NaN; it is too small to be told from 0 by so few pixels",
            stacklevel=2,
        )
    return torch.where(fine, psnr(seen.where(fine, 1.0), maximum), math.nan)


def mean_upsnr(estimate: UMSE, maximum: float) -> Tensor:
    """The mean over images of their uPSNRs, dB ``()``; at least the uPSNR of their mean uMSE.

    Args:
        estimate: Of images.
        maximum: As of :func:`upsnr`.

    Returns:
        NaN with a warning where the uMSE of some image is not positive.

    Raises:
        ValueError: As :func:`upsnr`.
    """
    return upsnr(estimate.value, maximum).mean()


def upsnr_interval(interval: tuple[Tensor, Tensor], maximum: float) -> tuple[Tensor, Tensor]:
    """Ends of the interval of uPSNR that an interval of uMSE is carried to, dB.

    Args:
        interval: As :func:`umse_interval` and :func:`umse_bootstrap` give it.
        maximum: As of :func:`upsnr`.

    Returns:
        The lower and the upper end. Where uMSE may be 0 or below, the upper one is infinite; NaN
        where uMSE is not positive anywhere in its interval.

    Raises:
        ValueError: As :func:`upsnr`.
    """
    low, high = interval
    ends = (psnr(end.clamp(min=0), maximum) for end in (high, low))
    lower, upper = (torch.where(high > 0, end, math.nan) for end in ends)
    return lower, upper


def image_rows(what: str, images: Images, like: Images | None = None) -> Tensor:
    """Images as rows of float64 ``(N, n)``, in the shape of others where those are given."""
    images = torch.as_tensor(images)
    shape = tuple(images.shape)
    if like is not None and shape != tuple(like.shape):
        raise ValueError(f"{what} has shape {shape}, expected {tuple(like.shape)}")
    if images.dim() < 2 or not images.numel() or images[0].numel() < 2 or images.is_complex():
        raise ValueError(
            f"{what} has shape {shape} and type {images.dtype}, expected images (N, ...) of at "
            "least two real numbers each"
        )
    rows = images.detach().double().flatten(1)
    if not bool(rows.isfinite().all()):
        raise ValueError(f"{what} has values that are not finite, expected numbers in all pixels")
    return rows


def _standard_error(terms: Tensor) -> Tensor:
    return terms.std(-1) / math.sqrt(terms.shape[-1])


def _level(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a number between 0 and 1")
    return level


def check_maximum(maximum: float) -> float:
    """The largest value of a signal, refused where it is none."""
    if not 0 < maximum < math.inf:
        raise ValueError(f"maximum is {maximum}, expected a positive number")
    return float(maximum)
