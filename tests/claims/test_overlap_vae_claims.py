"""Michlo et al. 2023: squares that do not overlap, and a loss under which they are in order."""

from __future__ import annotations

import itertools
import statistics
import time

import matplotlib
import numpy as np
import pytest
import torch
from claims.measuring import run_all, spread
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference import metrics

matplotlib.use("Agg")
pytestmark = pytest.mark.claims
SEEDS = (0, 1, 2)
BLURRED = 961.0  # 31^2
FITS = {  # spacing, weight of the blurred error, beta, steps
    "squared error, beta 1": (4, 0.0, 1.0, 1_500),
    "squared error, beta 0.01": (4, 0.0, 0.01, 1_500),
    "overlap, beta 1": (4, BLURRED, 1.0, 1_500),
    "overlap, beta 10": (4, BLURRED, 10.0, 1_500),
    **{f"spacing {spacing}": (spacing, 0.0, 0.1, 1_500) for spacing in (4, 3, 2, 1)},
    "squared error, beta 0.01, 3,000 steps": (4, 0.0, 0.01, 3_000),
}
# After 1,500 steps a seed may lack a few squares.
REBUILT = "though it rebuilds the squares: error below 1 in every seed"
SETTINGS = (
    "one square of 4 x 4 at 8 x 8 places in 32 x 32 pixels (every other pixel of xysquare), dense "
    "128-128, D = 4, 1,500 steps of all 64 images, Adam 1e-3, sums of errors, kernel 31 x 31; "
    "rank correlation of distances of mean codes with steps of the factors over all pairs; seeds "
    "0-2"
)


def squares(spacing: int):
    """All 64 places, ``(64, 32, 32)``, and their classes."""
    factors = data.factor_data("xysquare", spacing=2 * spacing)
    classes = factors.classes(np.arange(len(factors)))
    images = factors.render(classes, np.random.default_rng(0))[:, ::2, ::2].astype(np.float32)
    assert (images.sum((1, 2)) == 16).all()
    return images, classes


def measured(kind: str, seed: int):
    spacing, overlap, beta, steps = FITS[kind]
    images, classes = squares(spacing)
    rows = data.from_arrays(x=images, splits=(64, 0, 0))
    pair = zoo.build(
        "overlap_vae", rows, seed=seed, networks="dense", hidden=(128, 128), latent=4,
        centre=0.0, deviation=1.0, beta=beta, radius=15, overlap=overlap,
    )  # fmt: skip
    began = time.monotonic()
    run = inference.fit(
        pair, rows, seed=seed, steps=steps, batch_size=64, learning_rate=1e-3, progress=False
    )
    x = rows.train.sites["x"][:]
    with torch.no_grad():
        codes = pair.guide.factor("z", {"x": x}).mean
        error = float((pair.decoder(z=codes) - x).square().sum(-1).mean())
    order = rows.train.numbers.numpy()
    return {
        "seconds": time.monotonic() - began,
        "rank": float(spearmanr(pdist(codes.numpy()), pdist(classes[order], "cityblock"))[0]),
        "error": error,
        "kl": float(run.history["kl(z)"][-1]),
        "codes": codes.numpy(),
        "classes": classes[order],
    }


@pytest.fixture(scope="module")
def fits():
    """What was measured, by kind, in the order of the seeds, and the minutes of the fits."""
    asked = list(itertools.product(FITS, SEEDS))
    found = dict(zip(asked, run_all(measured, asked), strict=True))
    minutes = round(sum(run["seconds"] for run in found.values()) / 60, 1)
    return {kind: [found[kind, seed] for seed in SEEDS] for kind in FITS}, minutes


def of(runs, what: str = "rank") -> list[float]:
    return [run[what] for run in runs]


def test_codes_in_order(fits, record):
    """Check 2."""
    kinds, minutes = fits
    told = {
        kind: f"{spread(of(runs))}, error {spread(of(runs, 'error'), digits=1)}"
        for kind, runs in kinds.items()
    }
    plain, collapsed = kinds["squared error, beta 0.01"], kinds["squared error, beta 1"]
    longer = told["squared error, beta 0.01, 3,000 steps"]
    claims = {
        "codes of the squared error at beta 0.01 are in no order, below 0.15": (
            max(map(abs, of(plain))) < 0.15,
            "0.02, -0.05, 0.00; error 0.2, 0.0, 0.1",
            told["squared error, beta 0.01"],
            f"beta 1: KL {spread(of(collapsed, 'kl'))}, error "
            f"{spread(of(collapsed, 'error'), digits=1)}",
        ),
        REBUILT: (
            max(of(plain, "error")) < 1,
            "0.2, 0.0, 0.1",
            ", ".join(f"{v:.2f}" for v in of(plain, "error")),
            f"of 3,000 steps {longer}; overlap, beta 1, {told['overlap, beta 1']}",
        ),
        "the overlap loss at beta 1 orders them: above 0.70": (
            min(of(kinds["overlap, beta 1"])) > 0.70,
            "0.80, 0.77, 0.78; error 10.4, 9.8, 10.3",
            told["overlap, beta 1"],
            told["squared error, beta 0.01"],
        ),
        "at beta 10 above 0.90": (
            min(of(kinds["overlap, beta 10"])) > 0.90,
            "0.96, 0.96, 0.96; error 14.3, 14.1, 14.4",
            told["overlap, beta 10"],
            told["squared error, beta 0.01"],
        ),
    }
    for claim, (holds, other, ours, baseline) in claims.items():
        record(
            f"overlap_vae: 2, {claim}",
            paper=f"own run of the same recipe: {other}",
            ours=ours,
            baseline=f"squared error {baseline}",
            holds="yes" if holds else "no",
            note="" if holds else f"a seed lacks a few squares; after 3,000 steps: {longer}",
            settings=SETTINGS,
            fixture="fits",
            minutes=minutes,
        )
    assert all(holds for claim, (holds, *_) in claims.items() if claim != REBUILT), told


def test_spacing(fits, record):
    """Check 3."""
    kinds, minutes = fits
    ranks = {spacing: of(kinds[f"spacing {spacing}"]) for spacing in (4, 3, 2, 1)}
    means = [statistics.mean(values) for values in ranks.values()]
    holds = means == sorted(means) and min(ranks[1]) > 0.75
    record(
        "overlap_vae: 3, with the squared error order rises as the spacing falls, above 0.75 at 1",
        paper="own run of the same recipe at spacing 1: 0.87, 0.88, 0.83",
        ours=f"spacing 1: {spread(ranks[1])}",
        baseline="; ".join(f"spacing {s}: {spread(v)}" for s, v in ranks.items() if s > 1),
        holds="yes" if holds else "no",
        settings=f"{SETTINGS}; beta 0.1",
        fixture="fits",
        minutes=minutes,
    )
    assert holds, ranks


PUBLISHED = {  # squared errors from place 0 on, by spacing
    8: [0] + [128] * 7,
    4: [0, 64] + [128] * 6,
    2: [0, 32, 64, 96] + [128] * 4,
    1: [0, 16, 32, 48, 64, 80, 96, 112],
}


def test_exact_pictures(record):
    """Check 1."""
    found = {}
    for spacing in PUBLISHED:
        squares = data.factor_data("xysquares", spacing=spacing)
        classes = np.zeros((8, 6), int)
        classes[:, 0] = np.arange(8)
        x = squares.render(classes, np.random.default_rng(0)).astype(int)
        assert (255 * x.sum((1, 2, 3)) == 3 * 64 * 255).all()
        assert (x.mean((1, 2)) == 1 / 64).all()
        found[spacing] = ((x - x[0]) ** 2).sum((1, 2, 3)).tolist()
    holds = found == PUBLISHED
    record(
        "overlap_vae: 1, XYSquares is exact: 3 x 64 pixels lit, and errors along a factor",
        paper="; ".join(f"spacing {s}: {', '.join(map(str, v))}" for s, v in PUBLISHED.items()),
        ours="the same at each spacing" if holds else str(found),
        holds="yes" if holds else "no",
        settings="x of the red square from place 0 to 7; summed squared errors of unit squares",
    )
    assert holds, found


def test_perceived_distances(record):
    """Check 4, and the rank correlations of XYSquares."""
    sprites = data.factor_data("dsprites")
    ranks = {
        loss: metrics.perceived_distances(sprites, loss).factor_spearman.sel(
            factor=["pos_x", "pos_y"]
        )
        for loss in ("mse", "bce")
    }
    told = {n: " and ".join(f"{v:.2f}" for v in values.values) for n, values in ranks.items()}
    holds = all(float(values.min()) > 0.5 for values in ranks.values())
    settings = "metrics.perceived_distances, 20 traversals of each factor, 1,000 pairs, seed 0"
    record(
        "overlap_vae: 4, on dSprites errors grow with steps of pos_x and pos_y: rank correlation "
        "above 0.5",
        ours=f"squared errors {told['mse']}; cross-entropy {told['bce']}",
        holds="yes" if holds else "no",
        settings=settings,
    )
    asked = {"mse, spacing 8": (8, "mse"), "mse, spacing 4": (4, "mse"),
             "mse, spacing 1": (1, "mse"), "overlap, spacing 8": (8, "overlap")}  # fmt: skip
    overall = {
        name: float(
            metrics.perceived_distances(
                data.factor_data("xysquares", spacing=spacing), loss
            ).spearman
        )
        for name, (spacing, loss) in asked.items()
    }
    order = list(overall.values())
    rises = order[0] < order[1] < order[3] < order[2] and order[3] > 0.85
    record(
        "overlap_vae: 4, on XYSquares the overlap loss at spacing 8 is nearer to the factors' "
        "distances than squared errors at spacings 8 and 4",
        paper="own measurement, 400 pairs: 0.26, 0.46, 0.97; overlap 0.91",
        ours=f"overlap {order[3]:.2f}",
        baseline="; ".join(f"{n}: {v:.2f}" for n, v in list(overall.items())[:3]),
        holds="yes" if rises else "no",
        settings=settings,
    )
    assert holds and rises, (told, overall)


def test_picture(fits, picture):
    from matplotlib import pyplot as plt

    kinds, _ = fits
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), layout="constrained")
    shown = (
        ("squared error, beta 0.01", "squared error"),
        ("overlap, beta 1", "overlap loss, beta 1"),
        ("overlap, beta 10", "overlap loss, beta 10"),
    )
    for axis, (kind, title) in zip(axes, shown, strict=False):
        run = kinds[kind][0]
        codes = run["codes"] - run["codes"].mean(0)
        plane = codes @ np.linalg.svd(codes, full_matrices=False)[2][:2].T
        places = np.empty((8, 8, 2))
        places[tuple(run["classes"].T)] = plane
        for k in range(8):
            axis.plot(*places[k].T, color="tab:blue", linewidth=0.8, alpha=0.6)
            axis.plot(*places[:, k].T, color="tab:orange", linewidth=0.8, alpha=0.6)
        x, y = run["classes"].T
        axis.scatter(*plane.T, c=x + 8 * y, cmap="viridis", s=14, zorder=3)
        axis.set_title(f"{title}: {run['rank']:.2f}", fontsize=10)
        axis.set(xlabel="first component of the codes", aspect="equal")
    axes[0].set_ylabel("second component")
    lines = [("mse", 8), ("mse", 4), ("mse", 2), ("mse", 1), ("overlap", 8)]
    for loss, spacing in lines:
        report = metrics.perceived_distances(
            data.factor_data("xysquare", spacing=spacing), loss, 5, 10
        )
        curve = report.distance.sel(factor="x_place").values[1:]
        name = "squared error" if loss == "mse" else "overlap loss"
        axes[3].plot(
            range(1, 8), curve / curve[-1], marker="." if loss == "mse" else "o",
            label=f"{name}, spacing {spacing}", linewidth=2.5 if loss == "overlap" else 1.2,
        )  # fmt: skip
    axes[3].set(
        xlabel="steps of the square", ylabel="perceived distance, of the largest", ylim=(0, 1.08)
    )
    axes[3].legend(fontsize=8, loc="lower right", frameon=False)
    picture(figure, "overlap_vae")
    plt.close(figure)
