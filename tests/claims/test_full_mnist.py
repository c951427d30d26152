"""The family on MNIST as the papers have it: 28 x 28 pixels, 50,000 images."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from claims.measuring import mnist, needs_mnist, percent, run_all, supervised

import ppl_models as zoo
from ppl_models import inference

pytestmark = [pytest.mark.claims, needs_mnist]
SEEDS, LABELS = (0, 1, 2), 100
IMAGES, HIDDEN, LATENT = 50_000, 300, 50
FIT = {
    "epochs": 6, "batch_size": 100, "labelled_batch_size": 100, "learning_rate": 2e-3,
    "progress": False,
}  # fmt: skip
# Weight of CCVAE's classifier in units of N / N_labelled, the best on validation images of
# 14 x 14 (test_ccvae_claims.py).
WEIGHT = 30.0
# Why the pairs are behind at this length, as far as is known.
SHORT = (
    "3,000 steps are too few for every pair: M2 reaches 15.0 (1.6) % in 12 passes of 50 rows, "
    "four times as many"
)
PAPER = {"partially_specified": "9.71 (0.91)", "mmdcgm": "1.24 (0.54)*, convolutions"}


def settings(name: str) -> dict[str, Any]:
    """What differs from the paper's own settings: sizes, and weights for few passes."""
    sizes = {"hidden": (HIDDEN,), "latent": LATENT}
    if name == "partially_specified":
        gamma = inference.supervision(0.3, LABELS, IMAGES - LABELS)
        return {**sizes, "particles": 1, "gamma": gamma}
    if name == "ccvae":
        return {
            "hidden": (HIDDEN,), "labels": ("y",), "characteristic": (10,), "style": LATENT - 10,
            "likelihood": "soft_bernoulli", "particles": 32,
            "alpha": WEIGHT * IMAGES / LABELS,
        }  # fmt: skip
    return sizes if name == "mmdcgm" else {**sizes, "alpha": 1.0}


def held_out_error(name: str, seed: int) -> float:
    rows = mnist(seed, LABELS)
    if name == "supervised only":
        return supervised(rows, seed, (HIDDEN,), 1000).error(rows.test)
    pair = zoo.build(name, rows, seed=seed, **settings(name))
    return inference.fit(pair, rows, seed=seed, **FIT).error(rows.test)


def test_the_family_at_full_size(record):
    names = ("supervised only", "m2", "partially_specified", "ccvae", "mmdcgm", "bayesian_ssl")
    jobs = [(name, seed) for name in names for seed in SEEDS]
    found: dict[str, list[float]] = {name: [] for name in names}
    for (name, _), value in zip(jobs, run_all(held_out_error, jobs), strict=True):
        found[name].append(value)
    told = {name: percent(values) for name, values in found.items()}
    mean = {name: statistics.mean(values) for name, values in found.items()}
    holds = {name: mean[name] < mean["supervised only"] for name in names[2:]}
    for name in names[2:]:
        claim = f"MNIST 28 x 28, {LABELS} labels, test error below supervised only"
        record(
            f"{name}: {claim}",
            paper=PAPER.get(name, ""),
            ours=told[name],
            baseline=f"supervised only {told['supervised only']}, M2 {told['m2']}",
            holds="yes" if holds[name] else "no",
            note=SHORT,
            settings=f"{IMAGES:,} images, {HIDDEN} units, z {LATENT}, Adam 2e-3, "
            f"{FIT['epochs']} passes of 100 + 100 rows; M2 and Bayesian SSL alpha 1, rate 0.3 and "
            f"S 1, CCVAE's classifier {WEIGHT:g} N / N_labelled; supervised only 1,000 "
            "passes; seeds 0-2; nothing tuned on these rows",
        )
    assert all(holds.values()), mean
