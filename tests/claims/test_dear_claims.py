"""Shen et al. 2022: with an SCM as prior of the code, effects follow causes and can be set."""

from __future__ import annotations

import time

import matplotlib
import pytest
import torch
from claims.measuring import run_all, spread
from matplotlib import pyplot as plt

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.data.render.pendulum import EDGES, NAMES

matplotlib.use("Agg")
pytestmark = pytest.mark.claims
SEEDS = (0, 1, 2)
STEPS = 8000
LABELLED = {"all labels": None, "10 % of labels": 480}
PRIORS = {  # which arrows A may have; none are all from earlier to later factors
    "true arrows": {"prior": "line"},
    "every arrow": {"prior": "line", "arrows": ()},
    "independent": {"prior": "independent"},
}
KINDS = (
    ("true arrows", "all labels"),
    ("every arrow", "all labels"),
    ("independent", "all labels"),
    ("true arrows", "10 % of labels"),
    ("independent", "10 % of labels"),
)
SETTINGS = (
    f"pendulum_vectors, 4,800 rows, {STEPS:,} steps of 128 rows, perceptrons of two layers of 96, "
    "squared errors, rates 3e-4, critic 6e-4, A and f 2e-3, by a cosine; seeds "
    "0-2"
)
IMAGES = (
    "pendulum_dear, 32 x 32, all training rows labelled, 4,000 steps of 64 rows, convolutions of "
    "16, 32 and 64 maps, rates 3e-4, critic 1e-3, A and f 2e-3; seeds 0-2"
)
# Why checks miss where they do, as far as is known.
SHORT = (
    "the prior takes the correlations of the codes as the encoder draws them, with its errors: of "
    "480 labels 8,000 steps make more errors than half of them do. The first attempt, 4,000 steps "
    "without the cosine, had 0.06 (0.01) here and a superfluous arrow of 0.47 in check 2"
)
ALONE = (
    "an effect that is set alone is rare under the prior, and at one of three seeds the generator "
    "answers it too little, or moves others. The first attempt, 4,000 steps without the cosine, "
    "had 0.49 to 0.87; the second, at seed 10, 0.93, 0.17; with scales of the code that begin at "
    "0.14 there 0.89, 0.13. With spectral norm on what reads x, at seeds 10 to 12, 0.83, 0.72 and "
    "0.84, others at most 0.16, the baseline 0.19 and, broken, 0.97; in all of the critic 0.86 "
    "and, at seed 11, 0.25"
)
FEW = (
    "the least of E's means with its factor, by seed: {own}. First attempts (seed 0, 2,500 steps) "
    "had a critic without spectral norm, which the paper's has, and images from grey: the "
    "generator collapsed to one picture at rates of 3e-4 (0 %), of 1e-4 (78 %, by chance) and "
    "with the critic at 5e-5 (0 %). Without either of the two it still does (seed 10)"
)
ENDS = ("cause", "effect")
TRUE_EFFECTS = (1.0, 0.0, EDGES[0] / 1.5, EDGES[1] / (0.64 + 1.44 + 0.25) ** 0.5)


def oracle(rows):
    """x to factors by kernel regression on true pairs, and the least R^2 of it on test rows."""
    x, y = (rows.train.sites["x"][:2000], truth(rows.train)[:2000])
    wide = torch.pdist(x[:500]).median()

    def kernel(a):
        return (-(torch.cdist(a, x) / wide).square() / 2).exp().double()

    weights = torch.linalg.solve(kernel(x) + 1e-4 * torch.eye(len(x)), y.double())

    def predict(a):
        return (kernel(a) @ weights).float()

    left = (predict(rows.test.sites["x"]) - truth(rows.test)).var(0)
    return predict, float((1 - left / truth(rows.test).var(0)).min())


def truth(table):
    return torch.stack([table.sites[name] for name in NAMES], -1)


def effects(pair, predict, site, rows=2000):
    """Half of what the oracle sees change as a factor goes from a deviation below to above."""
    noise = {name: torch.randn(rows, 1) for name in pair.card.causes}
    rest = torch.randn(rows, pair.config.rest)
    z = pair.code.scm.push(noise)[site]
    seen = []
    for end in (-1, 1):
        set_to = torch.full_like(z, float(z.mean() + end * z.std()))
        values = pair.code.scm.push(noise, **{site: set_to})
        seen.append(predict(pair.generator(**values, z_rest=rest)).mean(0))
    return ((seen[1] - seen[0]) / 2).tolist()


def trained(prior, seed, rows, steps=STEPS):
    pair = zoo.build(
        "dear", rows, seed=seed, shape=(1, 1, 16), channels=(), hidden=(96, 96), labels="l2",
        low=(0.0,) * 4, span=(1.0,) * 4, arrow_rate=2e-3, outer_rate=2e-3, critic_rate=6e-4,
        **PRIORS[prior],
    )  # fmt: skip
    inference.fit(
        pair, rows, steps=steps, batch_size=128, learning_rate=3e-4, seed=seed, compile=True,
        schedule="cosine(last=0.05)", progress=False, device="cpu",
    )  # fmt: skip
    return pair


@torch.no_grad()
def measured(prior: str, labels: str, seed: int) -> dict[str, object]:
    """Correlations of prior and encoder, A, and effects of a cause and of an effect."""
    began = time.process_time()
    # The labels that are hidden from training are the same numbers as those of all.
    some = (LABELLED[labels], None)
    rows, full = (data.load("pendulum_vectors", labelled=n, seed=seed) for n in some)
    with torch.enable_grad():
        pair = trained(prior, seed, rows)
    torch.manual_seed(seed)
    predict, sure = oracle(full)
    z = torch.stack(list(pair.code.scm.split(pair.code.scm.joint().sample((20_000,))).values()))
    apart = (torch.corrcoef(z) - torch.corrcoef(truth(full.train).T)).abs().max()
    (test,) = full.test.only("x").batches()
    means = torch.stack([pair.guide.factor(site, test).mean for site in pair.card.causes])
    true = truth(full.test).T
    own = [
        float(torch.corrcoef(torch.stack(both))[0, 1]) for both in zip(means, true, strict=True)
    ]
    return {
        "prior": float(apart),
        "own": min(own),
        "adjacency": pair.code.scm.adjacency.tolist(),
        "do cause": effects(pair, predict, pair.card.causes[0]),
        "do effect": effects(pair, predict, pair.card.causes[2]),
        "oracle": sure,
        "seconds": time.process_time() - began,
    }


@pytest.fixture(scope="module")
def fits():
    """What was measured, by prior and labels, and the minutes that it took."""
    jobs = [(*kind, seed) for seed in SEEDS for kind in KINDS]
    found = dict(zip(jobs, run_all(measured, jobs), strict=True))
    minutes = round(sum(run["seconds"] for run in found.values()) / 60, 1)
    return {kind: [found[*kind, seed] for seed in SEEDS] for kind in KINDS}, minutes


def vector(runs, name):
    """Means over seeds, as they are written."""
    return ", ".join(f"{v:.2f}" for v in torch.tensor([r[name] for r in runs]).mean(0).tolist())


@pytest.mark.parametrize(
    ("claim", "labels", "limit"),
    [("1", "all labels", 0.10), ("3", "10 % of labels", 0.15)],
    ids=["all_labels", "few_labels"],
)
def test_the_prior_takes_the_factors_correlations(fits, record, claim, labels, limit):
    """Checks 1 and 3: of an independent prior it cannot, and the encoder learns all the same."""
    columns, minutes = fits
    ours, base = (columns[prior, labels] for prior in ("true arrows", "independent"))
    far, far_base = ([run["prior"] for run in runs] for runs in (ours, base))
    own = min(run["own"] for run in (*ours, *base))
    holds = max(far) < limit and min(far_base) > 0.5 and own > 0.9
    record(
        f"dear: {claim}, {labels}, correlations of the prior within {limit:.2f} of the factors'",
        paper="not told; 0.02 and 0.03 in a prototype",
        ours=f"{spread(far)}; each mean of E with its factor at least {own:.2f}",
        baseline=f"N(0, I) {spread(far_base)}",
        holds="yes" if holds else "no",
        note="" if holds else SHORT,
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    assert holds, (far, far_base, own)


def test_the_arrows_are_found(fits, record):
    """Check 2: true ones with their signs, superfluous ones small, none against the order."""
    columns, minutes = fits
    given, every = (
        torch.tensor([run["adjacency"] for run in columns[prior, "all labels"]])
        for prior in ("true arrows", "every arrow")
    )
    assert not bool(every.tril().any())
    assert not bool(given[:, (0, 2), (1, 3)].any())  # what is masked is exactly 0
    signed = given[:, :2, 2:] * torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    least, most = float(signed.min()), float(every[:, (0, 2), (1, 3)].abs().max())
    holds = least > 1 and most < 0.3
    record(
        "dear: 2, the four arrows have their sign and |A| > 1, superfluous ones are below 0.3",
        paper="not told; in units of the noise the truth is 2, 1.6, -2, 2.4",
        ours=f"least true arrow {least:.2f}, largest superfluous one {most:.2f}",
        holds="yes" if holds else "no",
        note="" if holds else SHORT,
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    assert holds, (given, every)


def test_causes_move_effects_and_effects_can_be_set_alone(fits, record):
    """Check 4; the baseline's effects are what is left of them, and out of reach."""
    columns, minutes = fits
    ours, base = (columns[prior, "all labels"] for prior in ("true arrows", "independent"))
    cause, effect = (torch.tensor([run[f"do {kind}"] for run in ours]) for kind in ENDS)
    least = max(run["do effect"][2] for run in base)
    off = float((cause - torch.tensor(TRUE_EFFECTS)).abs().max())
    others = float(effect[:, (0, 1, 3)].abs().max())
    own = float(effect[:, 2].min())
    holds = off < 0.15 and own >= 0.75 and others <= 0.2 and least <= 0.4
    told = [", ".join(vector(runs, f"do {kind}") for kind in ENDS) for runs in (ours, base)]
    worst = f"worst over seeds: {off:.2f}, {own:.2f}, {others:.2f}; baseline {least:.2f}"
    record(
        "dear: 4, do(cause) within 0.15 of the truth; do(effect) moves it by 0.75, others by 0.2",
        paper="not told; true effects 1, 0, 0.67, 0.52 and 0, 0, 1, 0",
        ours=f"cause, effect: {told[0]}",
        baseline=f"N(0, I): {told[1]}",
        holds="yes" if holds else "no",
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
        note=worst if holds else f"{worst}. {ALONE}",
    )
    assert holds, (cause, effect, base)


def shadow_position(x):
    """Columns where the ground is dark, on average; of images ``(B, 3072)``."""
    ground = 1 - x.reshape(-1, 32, 32, 3).mean(-1)[:, 26:30].mean(1)
    dark = (ground - ground.quantile(0.25, 1, keepdim=True)).clamp(min=0)
    return (dark * torch.arange(32.0)).sum(1) / dark.sum(1).clamp(min=1e-6)


@torch.no_grad()
def pictured(seed: int, steps: int = 4000) -> dict[str, object]:
    """A fit on images: how the shadow follows the light, and a grid of interventions."""
    began = time.process_time()
    rows = data.load("pendulum_dear", side=32, seed=seed)
    pair = zoo.build(
        "dear", rows, seed=seed, channels=(16, 32, 64), hidden=(128,), arrow_rate=2e-3,
        outer_rate=2e-3, critic_rate=1e-3,
    )  # fmt: skip
    with torch.enable_grad():
        inference.fit(
            pair, rows, steps=steps, batch_size=64, learning_rate=3e-4, seed=seed, compile=True,
            progress=False, device="cpu",
        )  # fmt: skip
    (test,) = rows.test.only("x").batches()
    sites = pair.card.causes
    means = torch.stack([pair.guide.factor(site, test).mean for site in sites], 1)
    scale = means.std(0)

    def had(batch, place, by):
        torch.manual_seed(0)
        base = pair.guide.factor(sites[place], batch).mean
        return pair.counterfactual(batch, **{sites[place]: base + by * scale[place]})["x"]

    moved = shadow_position(had(test, 1, 1.0)) - shadow_position(had(test, 1, -1.0))
    some = zoo.Batch({"x": test["x"][::400][:4]})
    grid = torch.stack(
        [torch.stack([had(some, place, by) for by in (-1.5, 0, 1.5)]) for place in range(4)]
    )
    true = [rows.test.sites[name] for name in NAMES]
    both = [torch.stack([m, t]) for m, t in zip(means.T, true, strict=True)]
    return {
        "follows": float((moved > 0).float().mean()),
        "own": [float(torch.corrcoef(pair_of)[0, 1]) for pair_of in both],
        "adjacency": pair.code.scm.adjacency.tolist(),
        "images": (some["x"].numpy(), grid.numpy()),
        "seconds": time.process_time() - began,
    }


@pytest.fixture(scope="module")
def images():
    """The fits on images, by seed."""
    return run_all(pictured, [(seed,) for seed in SEEDS])


def test_the_shadow_follows_the_light_in_pictures(images, record):
    """Check 5."""
    follows = [100 * run["follows"] for run in images]
    holds = min(follows) >= 90
    record(
        "dear: 5, a higher light moves the shadow to the right in at least 90 % of test images",
        paper="shown",
        ours=f"{spread(follows, digits=1)} %",
        holds="yes" if holds else "no",
        note=FEW.format(own=", ".join(f"{min(run['own']):.2f}" for run in images)),
        settings=IMAGES,
        fixture="images",
        minutes=round(sum(run["seconds"] for run in images) / 60, 1),
    )
    assert holds, follows


def test_picture(images, picture):
    rows, grid = images[0]["images"]
    figure, axes = plt.subplots(len(rows), 13, figsize=(11, 3.9))
    heads = ["test\nimage"] + [
        f"{name.replace('_', chr(10))}, {by}" for name in NAMES for by in ("low", "own", "high")
    ]
    for place, line in enumerate(axes):
        shown = [rows[place], *grid[:, :, place].reshape(12, -1)]
        for axis, image, head in zip(line, shown, heads, strict=True):
            axis.imshow(image.reshape(32, 32, 3).clip(0, 1))
            axis.set(xticks=[], yticks=[])
            if place == 0:
                axis.set_title(head, fontsize=6)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.91, wspace=0.06, hspace=0.06)
    picture(figure, "dear")
    plt.close(figure)
