"""What is worth asking for: scores of rows by the label's probabilities."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ppl_models.config import unknown

Acquisition = Callable[[Tensor], Tensor]


def entropy(probs: Tensor) -> Tensor:
    r"""Entropy of the mean prediction, :math:`H[\bar p]`: all uncertainty, noise included.

    Args:
        probs: Label probabilities under each draw of the weights, ``(S, N, C)``.

    Returns:
        ``(N,)``, nats.
    """
    return _entropy(probs.mean(0))


def bald(probs: Tensor) -> Tensor:
    r"""What a row's label would tell about the weights, :math:`H[\bar p] - \overline{H[p_s]}`.

    Houlsby et al. 2011 (arXiv 1112.5745). Codes must have been averaged out within each draw of
    the weights, else their spread, which no label removes, counts too.

    Args:
        probs: Label probabilities under each draw of the weights, ``(S, N, C)``.

    Returns:
        ``(N,)``, nats, at least 0 up to rounding.
    """
    return _entropy(probs.mean(0)) - _entropy(probs).mean(0)


ACQUISITIONS: dict[str, Acquisition] = {"bald": bald, "entropy": entropy}


def scorer(name: str, *others: str) -> Acquisition:
    """The acquisition of that name.

    Args:
        name: One of ``ACQUISITIONS``.
        others: Names that would have been right besides.

    Raises:
        ValueError: If there is none, naming the nearest.
    """
    if name not in ACQUISITIONS:
        raise ValueError(unknown("acquisition", name, [*ACQUISITIONS, *others]))
    return ACQUISITIONS[name]


def _entropy(probs: Tensor) -> Tensor:
    nats: Tensor = torch.special.entr(probs).sum(-1)
    return nats
