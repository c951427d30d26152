"""Chroma-VAE on digits with a patch: which classifier still works where the patch lies."""

from __future__ import annotations

import statistics
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from claims.measuring import percent, run_all, spread
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier

import ppl_models as zoo
from ppl_models import Batch, data, inference
from ppl_models.inference import Secondary, code_features, exchanged_features

matplotlib.use("Agg")
pytestmark = pytest.mark.claims

SEEDS = (0, 1, 2)
TESTS = {"label": "as in training", "random": "random", "opposite": "adversarial"}
SETTINGS = (
    "12,000 patch digits of 10 x 10, tests of 2,000 from other digits; 100-192-192, z1 2, z2 16, "
    "sigma 0.1, lambda 1000, Adam 1e-3, 32 epochs of 128 (3,008 steps); seeds 0-2"
)
NEIGHBOURS, NEAREST = 10, 6000  # neighbours, and training codes they are taken from


def pixels(batch: Batch) -> torch.Tensor:
    return batch["x"]


def unpatched(batch: Batch) -> torch.Tensor:
    return batch["x"].unflatten(-1, (10, 10))[:, 2:, 2:].flatten(1)


def networks(*hidden: int) -> MLPClassifier:
    return MLPClassifier(hidden, random_state=0)


def fitted(train: data.Dataset, seed: int, weight: float) -> zoo.Pair:
    pair = zoo.build("chroma_vae", train, seed=seed, label=weight)
    inference.fit(pair, train, seed=seed, epochs=32, batch_size=128, progress=False)
    return pair


def job(seed: int) -> dict[str, Any]:
    """Accuracy by method and test set, how far a flipped patch moves the code, and pictures."""
    sets = {patch: data.load("patch_digits", patch=patch, seed=seed) for patch in TESTS}
    train = sets["label"].train
    codes, pool = train.rows(torch.arange(NEAREST)), next(train.only("x").batches())
    vae, ours = (fitted(sets["label"], seed, weight) for weight in (0.0, 1000.0))
    found: dict[str, Any] = {}

    def nearest(pair, features):
        return Secondary(pair, KNeighborsClassifier(NEIGHBOURS), features).fit(codes)

    def network(pair, features, passes, *hidden, draws=1):
        return Secondary(pair, networks(*hidden), features, draws=draws).fit(train, passes)

    draws, means = (code_features(ours, ["z2"], draw=d) for d in (True, False))
    second = {
        "ERM MLP": network(ours, pixels, 20, 192, 192),
        "pixel kNN": nearest(ours, pixels),
        "kNN, no patch": nearest(ours, unpatched),
        "z1, z2 kNN": nearest(ours, code_features(ours, ["z1", "z2"])),
        "z2 kNN": nearest(ours, means),
        "z2 MLP": network(ours, draws, 20, 64, draws=5),
        "x2 MLP": network(ours, exchanged_features(ours, pool, ["z1"]), 5, 64, draws=2),
        "z2 logistic, means": Secondary(ours, LogisticRegression(max_iter=2000), means).fit(train),
        "VAE, z2 kNN": nearest(vae, code_features(vae, ["z2"])),
        "VAE, z2 MLP": network(vae, code_features(vae, ["z2"], draw=True), 20, 64, draws=5),
    }
    for patch, d in sets.items():
        found["clf1(z1)", patch] = 1 - inference.error(ours, d.test)
        for name, classifier in second.items():
            found[name, patch] = 1 - classifier.error(d.test)
    x, flipped = (sets[p].test.sites["x"] for p in ("label", "opposite"))
    for name, pair in (("ours", ours), ("VAE", vae)):
        for site in ("z1", "z2"):
            with torch.no_grad():
                q, moved = (pair.guide.factor(site, {"x": v}).base_dist for v in (x, flipped))
            found["move", name, site] = float(((q.loc - moved.loc).abs() / q.scale).mean())
    if seed == 0:
        found["pictures"] = decoded(ours, sets["label"].test, pool)
    return found


def decoded(pair: zoo.Pair, test: data.Table, pool: Batch) -> dict[str, np.ndarray]:
    """Ten digits, and what the decoder makes of them with their own z1 and with others'."""
    y = test.sites["y"]
    by_class = [(y == c).nonzero().flatten()[:5] for c in (0, 1)]
    x = test.sites["x"][torch.cat(by_class)]
    other = Batch({"x": test.sites["x"][torch.cat(by_class[::-1])]})
    own = Batch({"x": x})
    torch.manual_seed(0)
    redrawn = exchanged_features(pair, pool, ["z1"])
    images = {
        "given": x,
        "own z1": pair.transfer(own, own, ["z1"])["x"],
        "z1 of the other class": pair.transfer(other, own, ["z1"])["x"],
        "mean over z1 of 100 rows": torch.stack([redrawn(own) for _ in range(100)]).mean(0),
    }
    return {name: value.numpy().reshape(-1, 10, 10) for name, value in images.items()}


def draw(accuracy: dict[Any, list[float]], images: dict[str, np.ndarray]):
    names = ("ERM MLP", "pixel kNN", "clf1(z1)", "z1, z2 kNN", "VAE, z2 kNN", "VAE, z2 MLP")
    names += ("z2 kNN", "z2 MLP", "x2 MLP", "kNN, no patch")
    figure, (bars, grid) = plt.subplots(
        2, 1, figsize=(10, 8.2), height_ratios=(1, 1.25), layout="constrained"
    )
    for place, (patch, told) in enumerate(TESTS.items()):
        at = [n + 0.27 * (place - 1) for n in range(len(names))]
        values = [accuracy[name, patch] for name in names]
        height, error = ([f(v) for v in values] for f in (statistics.mean, statistics.stdev))
        color = ("0.8", "0.55", "tab:blue")[place]
        bars.bar(at, height, 0.25, yerr=error, color=color, label=f"patch {told}")
    bars.set_xticks(range(len(names)), names, rotation=20, ha="right")
    bars.axvline(5.5, color="0.5", lw=0.8)
    bars.axvline(8.5, color="0.5", lw=0.8)
    bars.set(ylabel="accuracy", ylim=(0, 1.05), title="digits 0-4 against 5-9, seeds 0-2")
    bars.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=3, frameon=False)
    rows = []
    for value in images.values():
        cells = np.pad(value, ((0, 0), (1, 1), (1, 1)), constant_values=0.5)
        rows.append(np.concatenate(list(cells), 1))
    grid.imshow(np.concatenate(rows), cmap="gray", vmin=0, vmax=1)
    grid.set_yticks([5.5 + 12 * r for r in range(len(rows))], list(images))
    grid.set_xticks([])
    return figure


def test_patch_digits(record, picture):
    found = run_all(job, [(seed,) for seed in SEEDS], processes=3)
    values = {key: [f[key] for f in found] for key in found[1]}
    picture(draw(values, found[0]["pictures"]), "chroma_vae")
    mean = {key: statistics.mean(v) for key, v in values.items()}

    def beside(name: str) -> str:
        """Accuracies as in training and with a random patch, which read the adversarial one."""
        return ", ".join(f"{TESTS[p]} {percent(values[name, p])}" for p in ("label", "random"))

    def at(name: str) -> str:
        return percent(values[name, "opposite"])

    checks = {}

    def check(claim: str, holds: bool | None, **row: str) -> None:
        checks[claim] = holds
        told = {True: "yes", False: "no", None: ""}[holds]
        record(f"chroma_vae: {claim}", holds=told, settings=SETTINGS, **row)

    base = f"ERM MLP {at('ERM MLP')}, pixel kNN {at('pixel kNN')}, clf1(z1) {at('clf1(z1)')}"
    for name, least, paper in (
        ("z2 kNN", 0.55, "not recalled; 'large gains'*"),
        ("z2 MLP", 0.70, "not recalled; 'large gains'*"),
    ):
        check(
            f"1, adversarial accuracy of {name} at least {100 * least:.0f} %",
            mean[name, "opposite"] >= least,
            paper=paper,
            ours=at(name),
            baseline=base,
            note=beside(name),
        )
    check(
        "1, adversarial accuracy of ERM MLP and clf1(z1) at most 5 %",
        max(mean[name, "opposite"] for name in ("ERM MLP", "clf1(z1)")) <= 0.05,
        paper="near 0*",
        ours=f"clf1(z1) {at('clf1(z1)')}",
        baseline=f"ERM MLP {at('ERM MLP')}, kNN on z1 and z2 {at('z1, z2 kNN')}",
    )
    gain = mean["z2 kNN", "opposite"] - mean["VAE, z2 kNN", "opposite"]
    check(
        "2, z2 kNN gains at least 25 points over lambda 0",
        gain >= 0.25,
        paper="",
        ours=at("z2 kNN"),
        baseline=f"lambda 0: kNN {at('VAE, z2 kNN')}, MLP {at('VAE, z2 MLP')}",
        note=f"lambda 0: {beside('VAE, z2 kNN')}",
    )
    z1, z2 = (values["move", "ours", site] for site in ("z1", "z2"))
    check(
        "3, a flipped patch moves z1 by more than 5 sd and z2 by less than 1.5",
        statistics.mean(z1) > 5 and statistics.mean(z2) < 1.5,
        paper="",
        ours=f"z1 {spread(z1)}, z2 {spread(z2)}",
        baseline=f"lambda 0: z1 {spread(values['move', 'VAE', 'z1'])}, "
        f"z2 {spread(values['move', 'VAE', 'z2'])}",
    )
    check(
        "4, accuracy of clf1(z1) as in training at least 99 %",
        mean["clf1(z1)", "label"] >= 0.99,
        paper="",
        ours=percent(values["clf1(z1)", "label"]),
        baseline=f"ERM MLP {percent(values['ERM MLP', 'label'])}",
    )
    for name, what in (
        ("x2 MLP", "MLP on images with z1 of other rows"),
        ("z2 logistic, means", "logistic regression on means of z2, the leak"),
        ("kNN, no patch", "ceiling, kNN on pixels without the patch"),
    ):
        check(
            f"adversarial accuracy of {what}",
            None,
            paper="",
            ours=at(name),
            baseline=base,
            note=beside(name),
        )
    missed = [claim for claim, holds in checks.items() if holds is False]
    assert not missed
