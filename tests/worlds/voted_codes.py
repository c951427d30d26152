"""Samplers of codes whose BetaVAE and FactorVAE scores are known, and the scores."""

from __future__ import annotations

import numpy as np
from worlds.code_tables import CODES, SIZES

from ppl_models.inference import metrics

# Means of four seeds of google-research/disentanglement_lib with 2,000 votes to fit on, 1,000 to
# ask and batches of 64, and how far another mean may be from them.
BETA_VAE = {
    "axis_aligned": (1.0, 0.02),
    "rotated": (0.92125, 0.02),
    "redundant": (1.0, 0.02),
    "constant_codes": (1.0, 0.02),
}
FACTOR_VAE = BETA_VAE | {"rotated": (0.8145, 0.0583), "redundant": (0.999, 0.02)}
VOTES = {"votes": 2_000, "test_votes": 1_000}


def sampler(codes, sizes, width) -> metrics.Sampler:
    """Of codes ``(n, width)``, a function of classes ``(n, K)`` and a generator."""
    names = tuple(f"y[{k}]" for k in range(len(sizes)))
    return metrics.Sampler(tuple(sizes), names, tuple(f"z[{d}]" for d in range(width)), codes)


def golden_sampler(name: str) -> metrics.Sampler:
    """Codes of independent factors, whose noise is drawn anew, as the reference draws them."""

    def codes(classes, draw):
        return CODES[name](classes, np.random.RandomState(draw.integers(2**31)))

    one = CODES[name](np.zeros((1, len(SIZES)), int), np.random.RandomState(0))
    return sampler(codes, SIZES, one.shape[1])
