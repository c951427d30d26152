"""Whether posteriors of related rows lie close: Wasserstein distances, and what they tell.

MEME (Joy et al. 2022, arXiv 2106.12570) compares q(z | s) and q(z | t) of rows of two
modalities. Its formula prints the sum of the means; the distance has their difference.
"""

from __future__ import annotations

import torch
from torch import Tensor


def wasserstein(loc: Tensor, scale: Tensor, other_loc: Tensor, other_scale: Tensor) -> Tensor:
    """2-Wasserstein distances ``(N, M)`` between Gaussians of diagonal covariance.

    Their square is ``|m1 - m2|^2 + |s1 - s2|^2`` (Olkin and Pukelsheim 1982, of covariances that
    commute). Memory is that of the result: no difference of all pairs is held.

    Args:
        loc: Means ``(N, D)``.
        scale: Standard deviations ``(N, D)``, or ``(D,)`` of all.
        other_loc: Means ``(M, D)``.
        other_scale: Standard deviations ``(M, D)`` or ``(D,)``.

    Raises:
        ValueError: If shapes do not fit, or a standard deviation is negative or not finite.
    """
    both = []
    for which, mean, spread in (("first", loc, scale), ("second", other_loc, other_scale)):
        if mean.dim() != 2 or spread.shape not in (mean.shape, mean.shape[1:]):
            raise ValueError(
                f"the {which} Gaussians have means {tuple(mean.shape)} and standard deviations "
                f"{tuple(spread.shape)}, expected (N, D) of both"
            )
        good = spread.isfinite() & (spread >= 0)
        if not bool(good.all()):
            raise ValueError(
                f"the {which} Gaussians have a standard deviation of {float(spread[~good][0])}, "
                "expected finite numbers of at least 0"
            )
        both.append(torch.cat([mean, spread.expand_as(mean)], 1).detach())
    one, other = both
    if one.shape[1] != other.shape[1]:
        raise ValueError(
            f"Gaussians have {one.shape[1] // 2} and {other.shape[1] // 2} dimensions, expected "
            "as many"
        )
    dtype = torch.promote_types(one.dtype, other.dtype)
    # By products, |a|^2 + |b|^2 - 2ab, close pairs would lose their digits.
    found: Tensor = torch.cdist(
        one.to(dtype), other.to(dtype), compute_mode="donot_use_mm_for_euclid_dist"
    )
    return found


def relatedness(distances: Tensor, labels: Tensor, other_labels: Tensor) -> float:
    """Probability that a pair of one class is closer than one of two: the AUC of the distances.

    Pairs at the same distance count by half (Mann and Whitney 1947), so that 0.5 says nothing and
    1 that every pair of one class is closer than all others.

    Args:
        distances: ``(N, M)``, such as those of :func:`wasserstein`.
        labels: Classes of its rows ``(N,)``.
        other_labels: Classes of its columns ``(M,)``.

    Raises:
        ValueError: If shapes do not fit, a distance is NaN, or all pairs are of one kind.
    """
    from scipy.stats import rankdata

    expected = (len(labels), len(other_labels))
    if tuple(distances.shape) != expected:
        raise ValueError(
            f"distances have shape {tuple(distances.shape)}, expected {expected}, a label for "
            "each row and column"
        )
    if bool(distances.isnan().any()):
        row, column = distances.isnan().nonzero()[0].tolist()
        raise ValueError(f"the distance of row {row} and column {column} is NaN, expected none")
    same = (labels.cpu().unsqueeze(1) == other_labels.cpu()).flatten().numpy()
    alike, apart = int(same.sum()), int((~same).sum())
    if not alike or not apart:
        raise ValueError(
            f"{alike} pairs are of one class and {apart} of two, expected some of both"
        )
    ranks = rankdata(distances.detach().cpu().flatten().numpy())
    closer = alike * apart - (ranks[same].sum() - alike * (alike + 1) / 2)
    return float(closer / (alike * apart))
