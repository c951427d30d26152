"""The study's convolutional networks on all of dSprites: what a KL weight and a game cost.

Each fit is killed once halfway, and goes on from its folder.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from claims.measuring import run_all, spread
from claims.traversals import draw_traversals, traversals

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference import metrics

matplotlib.use("Agg")
pytestmark = pytest.mark.claims
SEEDS, STEPS, KILLED_AT = (0, 1), 5_000, 2_500
RATE, FASTER = 1e-4, 1e-3  # the study's, and a second attempt's
STRENGTHS = {"beta_vae": (1.0, 4.0), "factor_vae": (10.0, 40.0)}
OPTION = {"beta_vae": "beta", "factor_vae": "gamma"}
AT_2 = "a second attempt at Adam 1e-3"
ACTS = {
    "beta_vae": "beta counts the whole KL",
    "factor_vae": "gamma counts the total correlation alone, as told by a critic that lags behind",
}
ROWS, IMAGES = 10_000, 2_000  # test rows for total correlations, and for losses
SETTINGS = (
    "dSprites, 64 x 64, 700,000 training cells drawn on demand; the study's convolutional "
    "networks, 10 codes; Adam 1e-4, 5,000 steps of 64, killed once after 2,500 and resumed; "
    "2,000 test images for losses, 10,000 for total correlations; seeds 0, 1"
)


def rows() -> data.Dataset:
    """All of dSprites, drawn when asked for."""
    return data.load("dsprites", train=700_000, validation=100, test=ROWS, on_demand=True)


def _train(folder: str, name: str, strength: float, seed: int, rate: float, dies: bool) -> None:
    torch.set_num_threads(1)
    known = rows()
    pair = zoo.build(name, known, seed=seed, **{OPTION[name]: strength})

    def die(_: inference.Run, step: int) -> None:
        if dies and step >= KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    inference.fit(
        pair, known, seed=seed, progress=False, compile=True, out=folder, steps=STEPS,
        batch_size=64, learning_rate=rate, checkpoint_seconds=30, callbacks=(die,),
        resume=not dies,
    )  # fmt: skip


def measured(name: str, strength: float, seed: int, rate: float = RATE) -> dict[str, Any]:
    """Losses and dependence of codes after training, in nats, and what each code changes."""
    began, codes = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "run")
        for dies in (True, False):
            child = get_context("spawn").Process(
                target=_train, args=(out, name, strength, seed, rate, dies)
            )
            child.start()
            child.join()
            codes.append(child.exitcode)
        assert codes == [-signal.SIGKILL, 0], codes
        run = inference.load(out)
        known = rows()
        pair, test = run.pair, known.test
        some = test.rows(range(IMAGES))
        distortion = run.loss_per_row(some, inference.ELBO(kl="analytic", beta=0.0))
        total = run.loss_per_row(some, inference.ELBO(kl="analytic"))
        found = {
            "reconstruction": float(distortion.mean()),
            "kl": float((total - distortion).mean()),
        }
        for kind, sampled in (("means", False), ("draws", True)):
            table = metrics.encode(pair, test, sampled=sampled)
            scores = metrics.unsupervised_scores(table)
            found[kind] = float(scores["gaussian_total_correlation"])
        found["traversals"] = traversals(pair, test.rows([3]))
    return {**found, "seconds": time.monotonic() - began}


def faster(name: str, strength: float, seed: int) -> dict[str, Any]:
    """A second attempt, as 5,000 steps at the study's rate are a sixtieth of its training."""
    return measured(name, strength, seed, FASTER)


Fits = dict[tuple[str, float, int], dict[str, Any]]


@pytest.fixture(scope="module")
def fits():
    """Of both attempts by pair, strength and seed; and the minutes of all."""
    jobs = [(name, s, seed) for name in STRENGTHS for seed in SEEDS for s in STRENGTHS[name]]
    found = [dict(zip(jobs, run_all(job, jobs), strict=True)) for job in (measured, faster)]
    return *found, round(sum(fit["seconds"] for both in found for fit in both.values()) / 60, 1)


@pytest.mark.parametrize("name", STRENGTHS)
def test_kl_falls_and_reconstruction_worsens_with_strength(fits, record, name):
    first, second, minutes = fits

    def by_seed(found: Fits):
        low, high = ([found[name, s, seed] for seed in SEEDS] for s in STRENGTHS[name])
        pairs = list(zip(low, high, strict=True))
        falls = all(b["kl"] < a["kl"] for a, b in pairs)
        worsens = all(b["reconstruction"] > a["reconstruction"] for a, b in pairs)
        return low, high, falls, worsens

    def told(runs):
        return ", ".join(
            f"{what} {spread([fit[key] for fit in runs], digits=1)}"
            for what, key in (("KL", "kl"), ("reconstruction", "reconstruction"))
        )

    low, high, falls, worsens = by_seed(first)
    low_2, high_2, falls_2, worsens_2 = by_seed(second)
    at_2 = (
        f"{AT_2}, {'held' if falls_2 and worsens_2 else 'missed'}: {told(low_2)}; {told(high_2)}"
    )
    record(
        f"{name}: dSprites, KL falls and reconstruction worsens with {OPTION[name]} at every seed",
        paper="curves without numbers",
        ours=f"{STRENGTHS[name][1]:g}: {told(high)}",
        baseline=f"{STRENGTHS[name][0]:g}: {told(low)}",
        holds="yes" if falls and worsens else "no",
        note=f"{at_2}; {ACTS[name]}",
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    assert worsens and (falls or name == "factor_vae"), (low, high)


def test_total_correlation_of_means_is_not_that_of_draws(fits, record):
    first, second, minutes = fits

    def of(found: Fits, strength: float, kind: str) -> list[float]:
        return [found["beta_vae", strength, seed][kind] for seed in SEEDS]

    def holds(found: Fits) -> bool:
        means, draws, at_one = (
            of(found, 4.0, "means"),
            of(found, 4.0, "draws"),
            of(found, 1.0, "means"),
        )
        more = all(b >= 3 * a for a, b in zip(at_one, means, strict=True))
        return more and all(a >= 10 * b for a, b in zip(means, draws, strict=True))

    def told(found: Fits) -> tuple[str, str]:
        return (
            f"beta 4, means {spread(of(found, 4.0, 'means'), digits=3)}",
            f"draws {spread(of(found, 4.0, 'draws'), digits=3)}; beta 1, means "
            f"{spread(of(found, 1.0, 'means'), digits=3)}",
        )

    ours, baseline = told(first)
    again = f"{AT_2}, {'held' if holds(second) else 'missed'}: {', '.join(told(second))}"
    record(
        "beta_vae: dSprites, TC of mean codes at beta 4 is 3 times that at 1, 10 times of draws",
        paper="Locatello et al. 2019: that of means grows with strength, that of draws falls",
        ours=ours,
        baseline=baseline,
        holds="yes" if holds(first) else "no",
        note=f"of a Gaussian with the codes' covariance; {again}; codes of beta 1 depend on each "
        "other, too, after a sixtieth of the study's 300,000 steps",
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    means, draws = of(first, 4.0, "means"), of(first, 4.0, "draws")
    assert all(a > b for a, b in zip(means, draws, strict=True)), (means, draws)
    assert max(draws) < min(of(first, 1.0, "draws"))


def test_picture(fits, picture):
    from matplotlib import pyplot as plt

    found, _, _ = fits
    jobs = [(name, strength) for name in STRENGTHS for strength in STRENGTHS[name]]
    figure, axes = plt.subplots(1, len(jobs), figsize=(12, 4.6), layout="constrained")
    for ax, (name, strength) in zip(axes, jobs, strict=True):
        images = np.asarray(found[name, strength, SEEDS[0]]["traversals"])
        draw_traversals(ax, images, f"{name}, {OPTION[name]} {strength:g}")
    picture(figure, "dsprites_traversals")
    plt.close(figure)
