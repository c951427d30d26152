"""Kumar et al. 2018: the covariance of the code on positions that are correlated."""

from __future__ import annotations

import itertools

import matplotlib
import numpy as np
import pytest
from claims.coded_images import LONG, SEEDS, SETTINGS, of_blob
from claims.measuring import run_all, spread
from matplotlib import pyplot as plt

matplotlib.use("Agg")
pytestmark = pytest.mark.claims
SIGMA = 0.3
KINDS = ("beta 1", "DIP-I", "DIP-II")
CORRELATED = f"{SETTINGS.format('6,000')}; cells weighed by exp(-(a - b)^2 / (2 x 0.3^2))"
# What 2,000 steps of the same rows came to, which seed by seed was too soon to tell.
SOONER = (
    "after 2,000 steps kind I is up to 0.18 off, and one seed of the VAE and two of kind II have "
    "found one of the two places only"
)
WITHIN, DEAD = 0.12, 0.05


@pytest.fixture(scope="module")
def fits():
    asked = list(itertools.product(KINDS, SEEDS, (SIGMA,), (LONG,)))
    found = dict(zip(asked, run_all(of_blob, asked), strict=True))
    minutes = round(sum(run["seconds"] for run in found.values()) / 60, 1)
    return {kind: [found[kind, seed, SIGMA, LONG] for seed in SEEDS] for kind in KINDS}, minutes


def sorted_diagonal(run):
    return sorted(np.diag(run["covariance"]), reverse=True)


def total(run):
    return np.diag(run["covariance"]) + run["variance"]


def told(rows) -> str:
    """Mean over seeds of four numbers in falling order."""
    return ", ".join(f"{v:.2f}" for v in np.mean(rows, axis=0))


def summary(runs) -> str:
    return (
        f"KL {spread([r['kl'].sum() for r in runs])}, reconstruction "
        f"{spread([r['reconstruction'] for r in runs], digits=1)} nats"
    )


def test_variances_of_the_means(fits, record):
    """Check 3."""
    runs, minutes = fits
    diagonal = {kind: [sorted_diagonal(r) for r in runs[kind]] for kind in KINDS}
    off = [np.abs(np.array(d) - 1).max() for d in diagonal["DIP-I"]]
    gap = [np.abs(total(r) - 1).max() for r in runs["DIP-II"]]
    dead = {kind: [int((np.array(d) < DEAD).sum()) for d in diagonal[kind]] for kind in KINDS}
    claims = {
        "3, kind I brings all four variances of the means to 1 +- 0.12": (
            max(off) <= WITHIN,
            f"{told(diagonal['DIP-I'])}, at most {max(off):.2f} off; {summary(runs['DIP-I'])}",
        ),
        "3, kind II brings the variances of the means and the mean variances together to "
        "1 +- 0.12": (
            max(gap) <= WITHIN,
            f"{told([sorted(total(r), reverse=True) for r in runs['DIP-II']])}, at most "
            f"{max(gap):.2f} off; {summary(runs['DIP-II'])}",
        ),
        "3, kind II leaves two of four coordinates with variances of the means below 0.05": (
            dead["DIP-II"] == [2] * len(SEEDS),
            f"{told(diagonal['DIP-II'])}; {dead['DIP-II']} of four",
        ),
        "3, and so does the VAE without a penalty": (
            dead["beta 1"] == [2] * len(SEEDS),
            f"{told(diagonal['beta 1'])}; {dead['beta 1']} of four; {summary(runs['beta 1'])}",
        ),
    }
    for claim, (holds, ours) in claims.items():
        record(
            f"dip_vae: {claim}",
            ours=ours,
            baseline=f"VAE {told(diagonal['beta 1'])}; {summary(runs['beta 1'])}",
            holds="yes" if holds else "no",
            note=SOONER,
            settings=CORRELATED,
            fixture="fits",
            minutes=minutes,
        )
    assert all(holds for holds, _ in claims.values()), claims


def test_picture(fits, picture):
    runs, _ = fits
    names = ("VAE", "DIP-VAE-I", "DIP-VAE-II")
    figure, axes = plt.subplots(2, 3, figsize=(9, 5.6), height_ratios=(1, 1), layout="constrained")
    for (top, below), kind, name in zip(axes.T, KINDS, names, strict=True):
        run = runs[kind][0]
        order = np.argsort(-run["kl"])
        means, noise = np.diag(run["covariance"])[order], run["variance"][order]
        places = range(len(order))
        top.bar(places, means, color="tab:blue", label="variance of the means")
        top.bar(places, noise, bottom=means, color="0.8", label="mean variance of q(z | x)")
        top.axhline(1, color="black", linestyle=":", linewidth=1)
        top.set(title=name, xticks=places, xlabel="coordinate", ylim=(0, 1.6))
        image = below.imshow(
            run["covariance"][np.ix_(order, order)], cmap="RdBu_r", vmin=-1.2, vmax=1.2
        )
        below.set(xticks=places, yticks=places, xlabel="coordinate", ylabel="coordinate")
        told_kl = f"KL {run['kl'].sum():.1f}, reconstruction {run['reconstruction']:.1f} nats"
        below.set_title(told_kl, fontsize="medium")
    axes[0, 0].set_ylabel("variance over the data")
    axes[0, 0].legend(frameon=False, loc="upper right", fontsize="small")
    figure.colorbar(image, ax=axes[1], label="covariance of the means", shrink=0.9)
    picture(figure, "dip_vae")
    plt.close(figure)
