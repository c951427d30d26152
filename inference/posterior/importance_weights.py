"""Importance weights of rows: effective draws, shapes of tails, and their means."""

from __future__ import annotations

import math

import numpy as np

from ppl_models.inference.posterior.groups import (
    Array,
)
from ppl_models.inference.posterior.pareto import khat

EVEN = 0.95  # share of the draws that count where weights are as good as equal


def khat_threshold(draws: int) -> float:
    """Largest k-hat at which weighted estimates from so many draws are reliable."""
    return min(1 - 1 / math.log10(draws), 0.7) if draws > 10 else 0.0


def importance_ess(log_weights: Array) -> Array:
    """Effective number of draws of each row, 1 / sum of squared normalised weights.

    Args:
        log_weights: ``(draw, datum)``, nats.

    Returns:
        ``(datum,)``, from 1 to the number of draws; NaN where a weight is not finite.
    """
    weights = np.asarray(log_weights, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        scaled = np.exp(weights - weights.max(0))
        ess: Array = scaled.sum(0) ** 2 / (scaled**2).sum(0)
    return ess


def per_row(log_weights: Array) -> dict[str, Array]:
    """The diagnostics of each row.

    Args:
        log_weights: ``(draw, datum)``, nats.

    Returns:
        ``khat``, ``ess_is``, ``elbo`` (mean log weight) and ``iw_bound`` (log mean weight), each
        ``(datum,)``.
    """
    weights = np.asarray(log_weights, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        bound = np.logaddexp.reduce(weights, 0) - math.log(len(weights))
    return {
        "khat": khat(weights),
        "ess_is": importance_ess(weights),
        "elbo": weights.mean(0),
        "iw_bound": bound,
    }


def log_mean(logs: Array) -> tuple[Array, Array]:
    """Log of the mean of independent estimates, and its standard error (delta method).

    Args:
        logs: Logs of at least 2 unbiased estimates ``(n, datum)``, nats.

    Returns:
        Both ``(datum,)``, nats. The log is low by about half the squared error.
    """
    logs = logs.astype(np.float64)
    count, top = len(logs), logs.max(0)
    with np.errstate(invalid="ignore"):
        shares = np.exp(logs - top)
        error = shares.std(0, ddof=1) / shares.mean(0) / math.sqrt(count)
    return top + np.log(shares.mean(0)), error
