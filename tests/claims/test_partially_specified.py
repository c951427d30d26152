"""Siddharth et al. 2017: supervision of some variables, by rate, and by physics."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics

import matplotlib
import numpy as np
import pytest
import torch
from claims.measuring import (
    by_class,
    needs_mnist,
    percent,
    run_all,
    small_mnist,
    spread,
    supervised,
)

import ppl_models as zoo
from ppl_models import Batch, data, inference
from ppl_models.data.render.contact_sheet import sheet

matplotlib.use("Agg")
pytestmark = pytest.mark.claims
SEEDS = (0, 1, 2)

# ---- check 3: faces ------------------------------------------------------------------------

FACES = "3,000 faces of 16 x 16, 8 people, 128-128 ReLU, Adam 2e-3, 25 passes of 100 rows"


def faces(seed: int, labels: int) -> data.Dataset:
    """Identity and light are known of the same rows."""
    found = data.load("faces", labelled={"identity": labels}, seed=seed)
    seen = found.train.observed["identity"]
    return dataclasses.replace(found, train=found.train.hide({"light": seen}))


def light_error(pair, test) -> float:
    """Mean angle between the guide's mean and the true light, in degrees."""
    with torch.no_grad():
        mean = pair.guide.factor("light", {"x": test.sites["x"][:].float()}).mean
    cosine = torch.cosine_similarity(mean, test.sites["light"][:].to(mean), dim=-1)
    return float(torch.rad2deg(cosine.clamp(-1, 1).acos()).mean())


def relit(pair, test) -> torch.Tensor:
    """Each row's person under the light of that person's next row, and how it really looks."""
    who = test.sites["identity"][:]
    order = who.argsort(stable=True)
    following = torch.empty_like(order)
    for person in who.unique():
        mine = order[who[order] == person]
        following[mine] = mine.roll(-1)
    light = test.sites["light"][:].float()[following]
    made = pair.intervene(Batch({"x": test.sites["x"][:].float()}), identity=who, light=light)
    truth = (test.sites["albedo"][:] * test.sites["shading"][:])[following]
    return made["x"], truth.float()


def face_errors(labels: int, seed: int) -> dict[str, float]:
    rows = faces(seed, labels)
    found = {}
    for decoder in ("lambertian", "free"):
        pair = zoo.build(
            "faces", rows, seed=seed, decoder=decoder, gamma=0.3 * 3000 / labels
        )  # the labelled mean counts 0.3 of the unlabelled
        run = inference.fit(
            pair, rows, seed=seed, epochs=25, batch_size=100, labelled_batch_size=labels,
            learning_rate=2e-3, progress=False,
        )  # fmt: skip
        found[f"{decoder} identity"] = run.error(rows.test, "identity")
        found[f"{decoder} light"] = light_error(pair, rows.test)
        made, truth = relit(pair, rows.test)
        found[f"{decoder} relit"] = math.sqrt(float(((made - truth) ** 2).mean()))
    alone = zoo.build("faces", rows, seed=seed)
    terms = inference.Classification("identity") + inference.Classification("light")
    run = inference.fit(
        alone, rows.train.where_observed("identity"), terms, seed=seed, epochs=750,
        learning_rate=2e-3, progress=False,
    )  # fmt: skip
    found["alone identity"] = run.error(rows.test, "identity")
    found["alone light"] = light_error(alone, rows.test)
    who, x = (rows.test.sites[n][:] for n in ("identity", "x"))
    means = torch.stack([x[who == person].mean(0) for person in who.unique()])
    made, truth = relit(pair, rows.test)
    found["mean relit"] = math.sqrt(float(((means[who].float() - truth) ** 2).mean()))
    return found


def test_knowing_how_light_falls_replaces_labels(record):
    columns = {}
    for labels in (24, 80):
        runs = run_all(face_errors, [(labels, seed) for seed in SEEDS])
        columns[labels] = {k: [run[k] for run in runs] for k in runs[0]}
    settings = f"{FACES}; labelled rows' mean bound counts 0.3, identity 20, light 6; seeds 0-2"
    few, more = columns[24], columns[80]
    mean = {(n, k): statistics.mean(v) for n, c in columns.items() for k, v in c.items()}
    holds = {
        "identity": mean[24, "lambertian identity"] <= 0.5 * mean[24, "alone identity"],
        "light": mean[80, "lambertian light"] <= 0.5 * mean[80, "alone light"],
        "relit": mean[80, "lambertian relit"] < 0.08,
    }
    record(
        "faces: 3, identity error, 24 labels, at most half of supervised",
        paper="3.5 against about 30*",
        ours=f"Lambertian {percent(few['lambertian identity'])}, "
        f"free decoder {percent(few['free identity'])}",
        baseline=f"supervised only {percent(few['alone identity'])}",
        holds="yes" if holds["identity"] else "no",
        settings=settings,
    )
    record(
        "faces: 3, light error, 80 labels, at most half of supervised",
        paper="17.6 against about 10* (another measure)",
        ours=f"Lambertian {spread(more['lambertian light'], digits=1, unit='degrees')}, "
        f"free decoder {spread(more['free light'], digits=1, unit='degrees')}",
        baseline=f"supervised only {spread(more['alone light'], digits=1, unit='degrees')}",
        holds="yes" if holds["light"] else "no",
        settings=settings,
    )
    record(
        "faces: 3, root mean square of relit pictures below 0.08, 80 labels",
        ours=f"Lambertian {spread(more['lambertian relit'], digits=3)}, "
        f"free decoder {spread(more['free relit'], digits=3)}",
        baseline=f"mean picture of the person {spread(more['mean relit'], digits=3)}",
        holds="yes" if holds["relit"] else "no",
        settings=settings,
    )
    assert all(holds.values()), holds


def test_picture_of_relit_faces(picture):
    from matplotlib import pyplot as plt

    rows = faces(0, 80)
    pair = zoo.build("faces", rows, gamma=0.3 * 3000 / 80)
    inference.fit(
        pair, rows, epochs=25, batch_size=100, labelled_batch_size=80, learning_rate=2e-3,
        progress=False,
    )  # fmt: skip
    test = rows.test
    who, x, light = (test.sites[n][:] for n in ("identity", "x", "light"))
    truth = test.sites["albedo"][:] * test.sites["shading"][:]
    people = [(who == person).nonzero().flatten() for person in range(6)]
    seen = torch.stack([rows[0] for rows in people])
    lines = [x[seen]]
    for k in range(1, 5):
        new = torch.stack([rows[k] for rows in people])
        made = pair.intervene(Batch({"x": x[seen].float()}), light=light[new].float())
        lines += [made["x"], truth[new]]
    figure, ax = plt.subplots(figsize=(4, 6))
    ax.imshow(sheet(np.concatenate([np.asarray(line) for line in lines]).reshape(-1, 16, 16), 6))
    ax.set_yticks(
        18 * np.arange(9) + 9.5,
        ["seen", *(f"light {k}, {w}" for k in range(1, 5) for w in ("made", "true"))],
    )
    ax.set_xticks([])
    picture(figure, "faces")


# ---- check 4: the supervision rate ---------------------------------------------------------

A = {"hidden": (128,), "latent": 10}
A_FIT = {"epochs": 25, "batch_size": 50, "learning_rate": 2e-3, "progress": False}
RATES = (None, 0.1, 0.3)  # None: every row counts once, M / (N + M)


def digits_error(labels: int, model: str, seed: int) -> float:
    rows = small_mnist(seed, labels)
    if model == "supervised only":
        return supervised(rows, seed, A["hidden"], 1500).error(rows.test)
    if model == "m2":
        pair = zoo.build("m2", rows, seed=seed, alpha=1.0, **A)
    else:
        order, _, rate = model.partition(" ")
        gamma = inference.supervision(float(rate), labels, 3000) if rate else 1.0
        pair = zoo.build("partially_specified", rows, seed=seed, guide=order, gamma=gamma, **A)
    run = inference.fit(pair, rows, seed=seed, labelled_batch_size=100, **A_FIT)
    return run.error(rows.test)


@needs_mnist
def test_the_supervision_rate(record):
    models = [
        "supervised only", "m2", "label_first", "label_first 0.1", "label_first 0.3",
        "style_first 0.3",
    ]  # fmt: skip
    found = {}
    for labels, asked in ((100, models), (1000, [models[0], "m2", *models[-2:]])):
        jobs = [(labels, model, seed) for model in asked for seed in SEEDS]
        for (_, model, _), value in zip(jobs, run_all(digits_error, jobs), strict=True):
            found.setdefault((labels, model), []).append(value)
    settings = (
        "14 x 14, 3,000 unlabelled, 128 units, z 10, S 8, alpha 0.1, Adam 2e-3, 25 passes of 50 + "
        "100 rows; seeds 0-2"
    )
    mean = {key: statistics.mean(values) for key, values in found.items()}
    rates = [mean[100, f"label_first{r}"] for r in ("", " 0.1", " 0.3")]
    falls = all(b <= a + 0.01 for a, b in itertools.pairwise(rates))
    better = min(rates) < mean[100, "supervised only"]
    record(
        "partially_specified: 4, error falls with the supervision rate, MNIST 14 x 14, 100 labels",
        ours=", ".join(
            f"rate {r}: {percent(found[100, 'label_first' + n])}"
            for r, n in (("0.03", ""), ("0.1", " 0.1"), ("0.3", " 0.3"))
        ),
        baseline=f"supervised only {percent(found[100, 'supervised only'])}",
        holds="yes" if falls and better else "no",
        settings=settings,
    )
    paper = {100: "9.71 (0.91)", 1000: "2.88 (0.79)"}
    for labels in (100, 1000):
        record(
            f"partially_specified: test error, MNIST 14 x 14, {labels:,} labels, rate 0.3",
            paper=f"{paper[labels]} (28 x 28, 60,000 images)",
            ours=f"label first {percent(found[labels, 'label_first 0.3'])}, "
            f"style first {percent(found[labels, 'style_first 0.3'])}",
            baseline=f"supervised only {percent(found[labels, 'supervised only'])}, "
            f"M2 {percent(found[labels, 'm2'])}",
            settings=settings,
        )
    assert falls, rates
    assert better, (rates, mean[100, "supervised only"])


@needs_mnist
def test_picture_of_digits_by_class(picture):
    rows = small_mnist(0, 1000)
    gamma = inference.supervision(0.3, 1000, 3000)
    pair = zoo.build("partially_specified", rows, gamma=gamma, **A)
    inference.fit(pair, rows, labelled_batch_size=100, **A_FIT)
    picture(by_class(pair, rows.test), "partially_specified")
