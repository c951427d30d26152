"""Pawlowski et al. 2020: pictures and causes of digits that were thicker, thinner or brighter."""

from __future__ import annotations

import functools
import math
import statistics
import time

import matplotlib
import numpy as np
import pytest
import torch
from claims.measuring import needs_mnist, run_all, spread
from torch.distributions import Normal, kl_divergence

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.data.render.morpho import measure

matplotlib.use("Agg")
pytestmark = [pytest.mark.claims, needs_mnist]
SEEDS = (0, 1, 2)
STORIES = ("full", "independent")
NETWORKS = {"channels": (32, 64), "hidden": (128,)}
ROWS, TEST, DRAWS = 20_000, 300, 16
FIT = {
    "steps": 12_000,
    "batch_size": 64,
    "learning_rate": 2e-3,
    "schedule": "cosine(last=0.01)",
    "progress": False,
    "device": "cpu",
    "compile": True,
}
SETTINGS = (
    f"{ROWS:,} digits of MNIST, {TEST} of its test rows; convolutions of 32 and 64 maps, 128 "
    "units; 12,000 steps of 64 rows, analytic KL of one draw, rate 2e-3 by a cosine, causes 5e-3; "
    f"mean of {DRAWS} draws; seeds 0-2. Of the independent story the mechanisms alone are trained"
)
# Why check 4 misses in part, and check 3 did at first, as far as is known.
WHY = (
    "38 passes of 20,000 digits, where the paper has some 250 of 54,000: test rows are rebuilt "
    "worse than the paper's, and what u keeps of the old stroke stays in the new picture. First "
    "attempts: 3,000 digits at 5,000 steps (seed 10) {few}; 10,000 at 6,000, of 16 and 32 maps "
    "(seeds 0-2) {half}"
)
THICK, BRIGHT = (1.5, 2.0, 4.0), (100.0, 200.0)


@functools.lru_cache(1)
def digits():
    """One set for all seeds, as the paper's; drawing it takes as long as half of a fit."""
    return data.load("morpho_mnist", train=ROWS, validation=10, test=TEST, source="mnist")


def thickness_of(x):
    """What is measured in images ``(N, 784)``, pixels."""
    return measure((255 * x).round().clamp(0, 255).byte().numpy().reshape(-1, 28, 28))


def mechanisms_alone(pair, table):
    """The causes' densities of all rows at once: of the independent story none moves a picture."""
    causes = {name: table.sites[name] for name in pair.card.causes}
    optimiser = torch.optim.Adam(pair.scm.parameters(), 1e-2)
    for _ in range(500):
        optimiser.zero_grad()
        (-pair.scm.log_prob(causes).mean()).backward()
        optimiser.step()


@torch.no_grad()
def measured(story: str, seed: int) -> dict[str, object]:
    """Densities of test rows, and what interventions make of their causes and pictures."""
    rows = digits()
    pair = zoo.build("deepscm", rows, seed=seed, story=story, **NETWORKS)
    began = time.process_time()
    with torch.enable_grad():
        if story == "full":
            inference.fit(pair, rows.train, inference.ELBO(kl="analytic"), seed=seed, **FIT)
        else:
            mechanisms_alone(pair, rows.train)
    found: dict[str, object] = {"minutes": (time.process_time() - began) / 60}
    (batch,) = rows.test.batches()
    batch = batch.only("x", "thickness", "intensity")
    x, causes = batch["x"], dict(batch.only("thickness", "intensity"))
    torch.manual_seed(seed)
    for name, value in causes.items():
        found[f"log {name}"] = float(pair.scm.given(name, causes).log_prob(value).mean())
    q = pair.guide.factor("z", batch)
    fn = pair.decode(q.sample((DRAWS,)), **causes)
    # Per grey level, as the paper has it.
    found["log x"] = float(fn.log_prob(x).mean()) - x.shape[1] * math.log(255)
    found["kl"] = float(kl_divergence(q.base_dist, Normal(0.0, 1.0)).sum(-1).mean())
    rebuilt = pair.pixels()(fn.base_dist.mean).mean(0)
    found["rebuilt"] = 255 * float((rebuilt - x).abs().mean())
    null = pair.counterfactual(batch, draws=DRAWS, thickness=batch["thickness"])
    found["null"] = 255 * float((null["x"] - x).abs().max())
    found["as they are"] = thickness_of(x)
    images = {"as they are": x}
    for name, value in [("thickness", t) for t in THICK] + [("intensity", i) for i in BRIGHT]:
        made = pair.counterfactual(batch, draws=DRAWS, **{name: value})
        other = "intensity" if name == "thickness" else "thickness"
        found[f"{other} at {name} {value:g}"] = made[other][0].numpy()
        images[f"{name} {value:g}"] = made["x"].mean(0)
        found[f"measured at {name} {value:g}"] = thickness_of(made["x"].mean(0))
    found["causes"] = {name: value.numpy() for name, value in causes.items()}
    if seed == 0:
        found["images"] = {name: image[:12].numpy() for name, image in images.items()}
    return found


@pytest.fixture(scope="module")
def fits():
    """What was measured, by story and seed, and the processor's minutes that the fits took."""
    jobs = [(story, seed) for story in STORIES for seed in SEEDS]
    found = dict(zip(jobs, run_all(measured, jobs), strict=True))
    minutes = round(sum(run["minutes"] for run in found.values()), 1)
    return {story: [found[story, seed] for seed in SEEDS] for story in STORIES}, minutes


def values(columns, story, name):
    return [run[name] for run in columns[story]]


def test_the_arrow_is_worth_what_it_should(fits, record):
    """Check 1."""
    columns, minutes = fits
    bright, thick = (
        [values(columns, story, f"log {name}") for story in STORIES]
        for name in ("intensity", "thickness")
    )
    gain = [full - without for full, without in zip(*bright, strict=True)]
    apart = [abs(full - without) for full, without in zip(*thick, strict=True)]
    holds = {"intensity": statistics.mean(gain) >= 0.7, "thickness": max(apart) <= 0.05}
    more = {"settings": SETTINGS, "fixture": "fits", "minutes": minutes}
    record(
        "deepscm: 1, log p(intensity) of test rows at least 0.7 nats higher with the arrow",
        paper="-4.30 against -5.19",
        ours=spread(bright[0]),
        baseline=f"independent {spread(bright[1])}",
        holds="yes" if holds["intensity"] else "no",
        **more,
    )
    record(
        "deepscm: 1, log p(thickness) the same within 0.05",
        paper="-0.934 against -0.935",
        ours=spread(thick[0], digits=3),
        baseline=f"independent {spread(thick[1], digits=3)}",
        holds="yes" if holds["thickness"] else "no",
        **more,
    )
    assert all(holds.values()), (gain, apart)


def truth(causes, thickness):
    """The intensity that the data's own equation gives at another thickness."""
    share = (causes["intensity"] - 64) / 191
    logit = np.log(share / (1 - share)) + 2 * (thickness - causes["thickness"])
    return 64 + 191 / (1 + np.exp(-logit))


def test_counterfactual_intensity_is_the_equations(fits, record):
    """Check 2."""
    columns, minutes = fits
    errors = {
        (story, t): [
            float(np.abs(run[f"intensity at thickness {t:g}"] - truth(run["causes"], t)).mean())
            for run in runs
        ]
        for story, runs in columns.items()
        for t in THICK
    }
    ours, without = ([statistics.mean(errors[story, t]) for t in THICK] for story in STORIES)
    holds = max(ours) < 8 and min(without) > 30
    told = [", ".join(spread(errors[story, t], digits=1) for t in THICK) for story in STORIES]
    record(
        "deepscm: 2, intensity had t been 1.5, 2, 4: error below 8 levels, without arrow > 30",
        ours=told[0],
        baseline=f"independent {told[1]}",
        holds="yes" if holds else "no",
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    assert holds, errors


def test_pictures_follow_the_thickness(fits, record):
    """Check 3."""
    columns, minutes = fits
    off = {
        t: [
            float(np.abs(v - t).mean())
            for v in values(columns, "full", f"measured at thickness {t:g}")
        ]
        for t in (1.5, 4.0)
    }
    without = [
        [float(v.mean()) for v in values(columns, "independent", f"measured at thickness {t:g}")]
        for t in (1.5, 4.0)
    ]
    moves = [abs(thick - thin) for thin, thick in zip(*without, strict=True)]
    means = [
        spread([float(v.mean()) for v in values(columns, "full", f"measured at thickness {t:g}")])
        for t in off
    ]
    level = [
        float(np.abs(run["as they are"] - run["causes"]["thickness"]).mean())
        for run in columns["full"]
    ]
    holds = max(map(statistics.mean, off.values())) < 0.6 and statistics.mean(moves) < 0.2
    few = "0.20, 0.71, without u 0.22, 0.51"
    record(
        "deepscm: 3, measured thickness within 0.6 pixels of do(t), t in {1.5, 4}",
        ours=" and ".join(spread(v) for v in off.values()),
        baseline=f"independent moves by {spread(moves)} between the two; the measure itself is "
        f"off by {spread(level)} in the data",
        holds="yes" if holds else "no",
        note=f"means {' and '.join(means)}. {WHY.format(few=few, half='0.18, 0.68')}",
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    record(
        "deepscm: reconstruction, mean absolute error in grey levels",
        paper="4.43",
        ours=spread(values(columns, "full", "rebuilt")),
        note="E log p(x | z, t, i) of an image and KL: "
        f"{spread(values(columns, 'full', 'log x'), digits=0)} and "
        f"{spread(values(columns, 'full', 'kl'), digits=0)}; the paper's -5611 and 77",
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    assert holds, (off, moves)


def off_the_joint(causes, intensity):
    """By how many deviations an intensity misses what a digit of its thickness has ``(N,)``."""
    logit = math.log((intensity - 64) / (255 - intensity))
    return np.abs(logit - 2 * (causes["thickness"] - 2.5)) / 0.5


def test_nothing_moves_that_should_not(fits, record):
    """Check 4."""
    columns, minutes = fits
    null = values(columns, "full", "null")
    shifts, near = {}, {}
    for i in BRIGHT:
        moves = [
            np.abs(run[f"measured at intensity {i:g}"] - run["as they are"])
            for run in columns["full"]
        ]
        usual = [off_the_joint(run["causes"], i) < 2 for run in columns["full"]]
        shifts[i] = [float(move.mean()) for move in moves]
        near[i] = [float(move[rows].mean()) for move, rows in zip(moves, usual, strict=True)]
    same = all(
        np.array_equal(run[f"thickness at intensity {i:g}"], run["causes"]["thickness"])
        for run in columns["full"]
        for i in BRIGHT
    )
    holds = {
        "null": max(null) < 1e-2,
        "thickness": same,
        "brightness": max(map(statistics.mean, shifts.values())) <= 0.3,
    }
    more = {"settings": SETTINGS, "fixture": "fits", "minutes": minutes}
    record(
        "deepscm: 4, a null intervention gives every pixel back within 0.01 grey levels",
        ours=f"{max(null):.4f} at most",
        holds="yes" if holds["null"] else "no",
        **more,
    )
    record(
        "deepscm: 4, do(i) leaves the thickness as it is, to the bit",
        ours="the same" if same else "moved",
        holds="yes" if same else "no",
        **more,
    )
    record(
        "deepscm: 4, do(i), i in {100, 200}, leaves the measured thickness within 0.3 pixels",
        ours=" and ".join(spread(v) for v in shifts.values()),
        holds="yes" if holds["brightness"] else "no",
        note="of rows for which that intensity is within two deviations of what their thickness "
        f"has in the data: {' and '.join(spread(v) for v in near.values())}; what is darker than "
        "any such digit of the training rows is drawn thinner, too. "
        + WHY.format(few="0.51, 0.13", half="0.54, 0.14"),
        **more,
    )
    assert all(holds.values()), (null, same, shifts, near)


def test_picture(fits, picture):
    from matplotlib import pyplot as plt

    columns, _ = fits
    full, without = (columns[story][0]["images"] for story in STORIES)
    moved = ("thickness 1.5", "thickness 4", "intensity 100", "intensity 200")
    lines = {"as they are": full["as they are"]}
    lines |= {f"full, {name}": full[name] for name in moved}
    lines |= {f"independent, {name}": without[name] for name in moved[:2]}
    count = len(full["as they are"])
    figure, axes = plt.subplots(len(lines), count, figsize=(9, 5.3))
    for row, (name, images) in zip(axes, lines.items(), strict=True):
        for axis, image in zip(row, images, strict=True):
            axis.imshow(image.reshape(28, 28), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.subplots_adjust(wspace=0.06, hspace=0.06)
    picture(figure, "deepscm")
    plt.close(figure)
