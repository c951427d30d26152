"""mmDCGM on 14 x 14 MNIST: what unlabelled rows give, and what a class costs."""

from __future__ import annotations

import statistics
import time

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from claims.measuring import needs_mnist, percent, run_all, small_mnist

import ppl_models as zoo
from ppl_models import Batch, inference

matplotlib.use("Agg")
pytestmark = [pytest.mark.claims, needs_mnist]

SEEDS = (0, 1, 2)
SIZES = {"hidden": (128,), "latent": 10}
FIT = {
    "epochs": 25, "batch_size": 50, "labelled_batch_size": 100, "learning_rate": 2e-3,
    "progress": False,
}  # fmt: skip
SETTINGS = (
    "MNIST at 14 x 14, {labels} labels + 3,000 unlabelled images, 2,000 for testing; 128 units, "
    "z 10, Adam 2e-3, 25 passes of 50 + 100 labelled rows, all other weights the paper's; hinge "
    "on labels only: 1,500 full-batch steps; M2: alpha 1; seeds 0-2"
)
PAPER = {100: "1.24 (0.54)*, convolutions", 1000: "about 0.5 to 0.6*, convolutions"}
CLASSES = (2, 5, 10, 20, 40)


def job(labels: int, seed: int) -> dict:
    rows = small_mnist(seed, labels)
    alone = zoo.build("mmdcgm", rows, seed=seed, **SIZES)
    seen = rows.train.where_observed("y")
    inference.fit(
        alone, seen, inference.Hinge("y"), seed=seed, epochs=1500, batch_size=len(seen),
        learning_rate=2e-3, progress=False,
    )  # fmt: skip
    pairs = {"hinge": alone}
    for name, paper, settings in (
        ("ours", "mmdcgm", {}),
        ("no bound", "mmdcgm", {"st_weight": 0.0}),
        ("no hat", "mmdcgm", {"st_weight": 0.0, "hat": 0.0}),
        ("M2", "m2", {"alpha": 1.0}),
    ):
        pairs[name] = zoo.build(paper, rows, seed=seed, **SIZES, **settings)
        inference.fit(pairs[name], rows, seed=seed, **FIT)
    found: dict = {name: inference.error(pair, rows.test) for name, pair in pairs.items()}
    if (labels, seed) == (100, 0):
        x, guide = Batch({"x": rows.test.sites["x"][:8]}), pairs["ours"].guide
        with torch.no_grad():
            y = guide.factor("y", x).logits.argmax(-1)
            z = guide.factor("z", {**x, "y": y}).mean
        redrawn = [pairs["ours"].intervene(x, y=c, z=z)["x"] for c in range(10)]
        found["images"] = [value.numpy() for value in (x["x"], *redrawn)]
    return found


def seconds(repeats: int = 15) -> dict[tuple[str, int], float]:
    """Least seconds of a step on 500 unlabelled rows, by kind of step and number of classes."""
    g = torch.Generator().manual_seed(0)
    batch = Batch({"x": torch.rand(500, 784, generator=g)})
    pairs = {
        (unlabelled, classes): zoo.build("mmdcgm", classes=classes, latent=50, missing=unlabelled)
        for unlabelled in ("argmax", "enumerate")
        for classes in CLASSES
    }
    least = dict.fromkeys(pairs, float("inf"))
    for _ in range(repeats):  # in turn, so that other work on the machine meets all alike
        for key, pair in pairs.items():
            began = time.perf_counter()
            loss = pair.objective().differentiable_loss(pair.model, pair.guide, batch)
            loss.backward()
            least[key] = min(least[key], time.perf_counter() - began)
            pair.zero_grad()
    return least


def draw(images: list[np.ndarray], least: dict[tuple[str, int], float]):
    figure, (grid, times) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    cells = [np.pad(v.reshape(-1, 14, 14), ((0, 0), (1, 1), (1, 1)), constant_values=0.5)
             for v in images]  # fmt: skip
    grid.imshow(np.concatenate([np.concatenate(list(c), 0) for c in cells], 1), cmap="gray")
    grid.set_xticks([8 + 16 * k for k in range(11)], ["given", *map(str, range(10))])
    grid.set_yticks([])
    grid.set(title="the style of a digit in every class")
    for unlabelled, told in (("argmax", "imputed"), ("enumerate", "summed out")):
        times.plot(CLASSES, [1000 * least[unlabelled, c] for c in CLASSES], "o-", label=told)
    times.set(xlabel="classes", ylabel="ms", ylim=(0, None), title="a step on 500 unlabelled rows")
    times.legend(frameon=False)
    return figure


def test_unlabelled_rows(record, picture):
    jobs = [(labels, seed) for labels in PAPER for seed in SEEDS]
    results = dict(zip(jobs, run_all(job, jobs), strict=True))
    (least,) = run_all(seconds, [(15,)], processes=1)
    picture(draw(results[100, 0]["images"], least), "mmdcgm")
    checks = {}
    for labels, paper in PAPER.items():
        names = ("ours", "hinge", "no bound", "no hat", "M2")
        errors = {n: [results[labels, s][n] for s in SEEDS] for n in names}
        claim = f"4, error below the same classifier's with the hinge on {labels:,} labels only"
        checks[claim] = statistics.mean(errors["ours"]) < statistics.mean(errors["hinge"])
        told = {name: percent(values) for name, values in errors.items()}
        record(
            f"mmdcgm: {claim}",
            paper=paper,
            ours=told["ours"],
            baseline=f"hinge on labels only {told['hinge']}, M2 {told['M2']}",
            holds="yes" if checks[claim] else "no",
            note="the gain is that of the hat: without the bound's gradient in the classifier "
            f"{told['no bound']}, without the hat, too, {told['no hat']}",
            settings=SETTINGS.format(labels=f"{labels:,}"),
        )
    ratio = {u: least[u, 10] / least[u, 2] for u in ("argmax", "enumerate")}
    ms = {c: [f"{1000 * least[u, c]:.0f}" for u in ("argmax", "enumerate")] for c in CLASSES}
    checks["time"] = ratio["argmax"] <= 1.3 and ratio["enumerate"] > 1.3
    record(
        "mmdcgm: 4, a step at 10 classes takes at most 1.3 times that at 2 classes",
        paper="constant*",
        ours=f"{ratio['argmax']:.2f} times",
        baseline=f"summed out {ratio['enumerate']:.2f} times",
        holds="yes" if checks["time"] else "no",
        settings="784-500-50, 500 unlabelled rows, one thread, the least of 15 steps",
        note=", ".join(f"{c} classes {a} and {b} ms" for c, (a, b) in ms.items()),
    )
    missed = [claim for claim, holds in checks.items() if not holds]
    assert not missed
