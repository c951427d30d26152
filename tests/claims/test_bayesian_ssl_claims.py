"""Gordon and Hernandez-Lobato 2017: what a posterior over the label network's weights gives."""

from __future__ import annotations

import functools
import statistics

import matplotlib
import numpy as np
import pytest
import torch
from claims.measuring import needs_mnist, percent, run_all, small_mnist, spread, supervised

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.data.render.moons import DEVIATION, MEAN

matplotlib.use("Agg")
pytestmark = pytest.mark.claims
SEEDS = (0, 1, 2)

MOONS = {"hidden": (32, 32), "latent": 2, "likelihood": "normal"}
FIT = {
    "epochs": 40, "batch_size": 300, "labelled_batch_size": 16, "learning_rate": 5e-3,
    "progress": False,
}  # fmt: skip
SETTINGS = "1,500 moons, noise 0.1, 32-32 ReLU, z 2, Adam 5e-3, 200 steps of 300 rows"


def mean(found: list[dict[str, float]], name: str) -> float:
    return statistics.mean(f[name] for f in found)


def values(found: list[dict[str, float]], name: str) -> list[float]:
    return [f[name] for f in found]


# ---- check 1: active learning --------------------------------------------------------------


def moons_pair(rows: data.Dataset, seed: int, **options: object):
    return zoo.build("bayesian_ssl", rows, seed=seed, **MOONS, log_variance=-6.5, **options)


def predict(pair, table) -> torch.Tensor:
    return inference.gibbs_predict(pair, table, weights=10, steps=5).mean(1)


def learn(acquisition: str, seed: int) -> dict[str, object]:
    """From 4 labels to 16; accuracy on test rows, what was asked, and maps of the last pair."""
    rows = data.load("moons", labelled=4, seed=seed)
    truth = data.load("moons", labelled=None, seed=seed).train.sites["y"]
    # Random queries do not depend on what has been learnt before.
    training = {**FIT, "epochs": 1} if acquisition == "random" else FIT
    for turn in inference.active_learning(
        lambda: moons_pair(rows, seed), rows.train, lambda row: int(truth[row]), 16,
        acquisition=acquisition, predict=predict, seed=seed, **training,
    ):  # fmt: skip
        last = turn
    run = last.run
    if acquisition == "random":
        run = inference.fit(moons_pair(rows, seed), last.table, seed=seed, **FIT)
    probs = predict(run.pair, rows.test).mean(0)
    asked = last.table.observed["y"] & ~rows.train.observed["y"]
    return {
        "acquisition": acquisition,
        "accuracy": float((probs.argmax(-1) == rows.test.sites["y"]).double().mean()),
        "maps": maps(run.pair),
        "x": rows.train.sites["x"],
        "y": truth,
        "first": rows.train.observed["y"],
        "asked": asked,
    }


def grid() -> torch.Tensor:
    first, second = torch.linspace(-2.2, 2.2, 60), torch.linspace(-2.4, 2.4, 60)
    return torch.cartesian_prod(first, second)


def maps(pair) -> dict[str, torch.Tensor]:
    probs = predict(pair, data.Table("grid", {"x": grid()}))
    return {"entropy": inference.entropy(probs), "bald": inference.bald(probs)}


@functools.cache
def learnt() -> list[dict[str, object]]:
    """All runs; the picture shows those of the first seed."""
    return run_all(learn, [(a, s) for a in ("random", "entropy", "bald") for s in SEEDS])


def test_active_learning_beats_random_queries(record):
    found: dict[str, list[float]] = {}
    for result in learnt():
        found.setdefault(result["acquisition"], []).append(result["accuracy"])
    gain = {n: statistics.mean(v) - statistics.mean(found["random"]) for n, v in found.items()}
    holds = max(gain["entropy"], gain["bald"]) >= 0.05
    record(
        "bayesian_ssl: 1, moons, accuracy at 16 labels, entropy or BALD at least 5 points above "
        "random",
        paper="98 first exceeded after 11 and 7 queries",
        ours=f"entropy {percent(found['entropy'])}, BALD {percent(found['bald'])}",
        baseline=f"random {percent(found['random'])}",
        holds="yes" if holds else "no",
        settings=f"{SETTINGS}, 4 labels and 12 queries, each from scratch; seeds 0-2",
    )
    assert holds, gain


# ---- check 2: noisy labels -----------------------------------------------------------------

NOISY = {**FIT, "labelled_batch_size": 100}


def noisy(seed: int) -> dict[str, float]:
    """Calibration and log-likelihood of test labels, and where entropy and BALD are high."""
    rows = data.load("moons", flip=0.4, labelled=200, seed=seed)
    y, inside = rows.test.sites["y"], rows.test.sites["region"] == 1
    pairs = {
        "bayes": moons_pair(rows, seed),
        "point": moons_pair(rows, seed, bayesian=False),
        "m2": zoo.build("m2", rows, seed=seed, **MOONS),
    }
    found = {}
    for name, pair in pairs.items():
        run = inference.fit(pair, rows, seed=seed, **NOISY)
        if name == "m2":
            probs = run.label_probabilities(rows.test)
        else:
            by_weights = inference.gibbs_predict(pair, rows.test, weights=20, steps=10).mean(1)
            probs = by_weights.mean(0)
        if name == "bayes":
            for rate in (inference.entropy, inference.bald):
                score = rate(by_weights)
                ratio = score[inside].mean() / score[~inside].mean()
                found[f"{rate.__name__} ratio"] = float(ratio)
        calibration = inference.calibration_error(probs.numpy(), y.numpy(), simulations=1)
        found[f"{name} ece"] = float(calibration["ece"])
        likely = probs.gather(-1, y[:, None]).clamp_min(1e-12).log()
        found[f"{name} log"] = float(likely.mean())
    return found


def test_weights_posterior_is_better_calibrated_where_labels_are_noisy(record):
    found = run_all(noisy, [(seed,) for seed in SEEDS])
    settings = f"{SETTINGS}, 200 labels, 40 % wrong right of 1; seeds 0-2"
    holds = {}
    for what, better in (("ece", min), ("log", max)):
        means = {name: mean(found, f"{name} {what}") for name in ("bayes", "point", "m2")}
        holds[what] = better(means, key=means.__getitem__) == "bayes"
        title = {"ece": "calibration error", "log": "test log-likelihood"}[what]
        record(
            f"bayesian_ssl: 2, noisy moons, {title} better than the point's and M2's",
            paper="",
            ours=spread(values(found, f"bayes {what}"), digits=3),
            baseline=f"point {spread(values(found, f'point {what}'), digits=3)}, "
            f"M2 {spread(values(found, f'm2 {what}'), digits=3)}",
            holds="yes" if holds[what] else "no",
            note="" if holds[what] else NOISE_NOTE,
            settings=settings,
        )
    holds["bald"] = mean(found, "bald ratio") < mean(found, "entropy ratio")
    record(
        "bayesian_ssl: 2, noisy moons, BALD inside the noisy region over outside, below entropy's",
        paper="",
        ours=spread(values(found, "bald ratio")),
        baseline=f"entropy {spread(values(found, 'entropy ratio'))}",
        holds="yes" if holds["bald"] else "no",
        note="" if holds["bald"] else NOISE_NOTE,
        settings=settings,
    )
    assert all(holds.values()), (holds, found)


NOISE_NOTE = (
    "better than M2's, not than the point's: with 200 labels and 1,300 unlabelled rows the point "
    "does not overfit. Where labels are clean the posterior is the less sure of what it has right "
    "(seed 0: log-likelihood -0.10 against -0.05; -0.07 at a KL weight of 0.01), where they are "
    "noisy both are alike (-0.79, -0.80)"
)


def test_picture_of_what_entropy_and_bald_see(picture):
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 8), sharex=True, sharey=True)
    first = {r["acquisition"]: r for r in reversed(learnt())}  # of the first seed
    for ax, name in zip(axes[0], ("entropy", "bald"), strict=True):
        result = first[name]
        draw(ax, result["maps"][name], result["x"], result["y"])
        for mask, mark in ((result["first"], "s"), (result["asked"], "o")):
            ax.plot(*result["x"][mask].T, mark, mfc="none", mec="red", ms=9, mew=1.6)
        ax.set_title(f"{title(name)}; first labels (squares), queries (rings)")
    rows = data.load("moons", flip=0.4, labelled=200, seed=0)
    pair = moons_pair(rows, 0)
    inference.fit(pair, rows, **NOISY)
    seen = rows.train.observed["y"]
    for ax, name in zip(axes[1], ("entropy", "bald"), strict=True):
        draw(ax, maps(pair)[name], rows.train.sites["x"][seen], rows.train.sites["y"][seen])
        ax.axvline(float((1.0 - MEAN[0]) / DEVIATION[0]), color="red", ls="--")
        ax.set_title(f"{title(name)}; 40 % of labels wrong right of the line")
    figure.tight_layout()
    picture(figure, "bayesian_ssl")


def title(name: str) -> str:
    return {"entropy": "Predictive entropy", "bald": "BALD"}[name]


def draw(ax, score: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
    first, second = (np.unique(column) for column in grid().numpy().T)
    side = ax.pcolormesh(
        first, second, score.reshape(len(first), len(second)).T, cmap="Greys", rasterized=True
    )
    ax.figure.colorbar(side, ax=ax, label="nats")
    for label, colour in enumerate(("tab:blue", "tab:orange")):
        ax.plot(*x[y == label].T, ".", color=colour, ms=2)


# ---- MNIST ---------------------------------------------------------------------------------

A = {"hidden": (128,), "latent": 10, "alpha": 1.0}
A_FIT = {
    "epochs": 20, "batch_size": 100, "labelled_batch_size": 100, "learning_rate": 2e-3,
    "progress": False,
}  # fmt: skip


def digits(labels: int, seed: int) -> dict[str, float]:
    rows = small_mnist(seed, labels)
    found = {"alone": supervised(rows, seed, A["hidden"], 600).error(rows.test)}
    for name in ("m2", "bayesian_ssl"):
        pair = zoo.build(name, rows, seed=seed, **A)
        found[name] = inference.fit(pair, rows, seed=seed, **A_FIT).error(rows.test)
    probs = inference.gibbs_predict(pair, rows.test, weights=5, steps=5).mean((0, 1))
    found["gibbs"] = float((probs.argmax(-1) != rows.test.sites["y"]).double().mean())
    return found


@needs_mnist
@pytest.mark.parametrize("labels", [100, 1000])
def test_digits(labels, record):
    found = run_all(digits, [(labels, seed) for seed in SEEDS])
    holds = min(mean(found, "gibbs"), mean(found, "bayesian_ssl")) < mean(found, "alone")
    record(
        f"bayesian_ssl: MNIST 14 x 14, {labels:,} labels, test error below supervised only",
        paper="",
        ours=f"Gibbs {percent(values(found, 'gibbs'))}, "
        f"q(y|x) {percent(values(found, 'bayesian_ssl'))}",
        baseline=f"supervised only {percent(values(found, 'alone'))}, "
        f"M2 {percent(values(found, 'm2'))}",
        holds="yes" if holds else "no",
        settings="3,000 unlabelled, 128 units, z 10, alpha 1, Adam 2e-3, 20 passes of 100 + 100 "
        "rows, 5 x 5 Gibbs draws; seeds 0-2",
    )
    assert holds, found
