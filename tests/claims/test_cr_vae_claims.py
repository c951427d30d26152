"""Sinha and Dieng 2021: posteriors of an image and of its views are held together."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import matplotlib
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from claims.measuring import run_all, spread
from sklearn.linear_model import LogisticRegression

import ppl_models as zoo
from ppl_models import data, guides, inference
from ppl_models.inference import ELBO, IWELBO, Consistency, kl_parts
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.networks import Net

matplotlib.use("Agg")
pytestmark = pytest.mark.claims
SEEDS = (0, 1, 2)
SHAPE, VIEWS = (8, 8), 5
SIMPLE = data.Affine()
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
FIT = {"batch_size": 64, "learning_rate": 1e-3, "progress": False}
STEPS = 1500
# How each is trained: None, on images alone; else lambda.
KINDS = {"VAE": None, "lambda 0": 0.0, "lambda 0.1": 0.1, "lambda 1": 1.0}
BOUNDS = {
    "VAE": ELBO(kl="analytic"),
    "beta-VAE": ELBO(kl="analytic", beta=4.0),
    "IWAE": IWELBO(5),
    "two layers": ELBO(kl="analytic"),
}
# Further attempts of the beta-VAE, whose code tells nothing at 4: bound, and steps.
ATTEMPTS = {
    "beta 4, 4,500 steps": (BOUNDS["beta-VAE"], 3 * STEPS),
    "beta 2": (ELBO(kl="analytic", beta=2.0), STEPS),
}
SETTINGS = (
    "scikit-learn's digits of 8 x 8, 1,200 training and 587 test images, networks of 200 and 200 "
    "units, code of 10, steps of 64 images, Adam 1e-3; views turned by 15 degrees, moved by 5 %, "
    "scaled by 0.9 to 1.1, strong ones 30 degrees, 10 %, 0.8 to 1.25; seeds 0-2"
)


def strong(strength):
    return data.Affine(30 * strength, 0.1 * strength, (0.8**strength, 1.25**strength))


@dataclass(frozen=True)
class TwoLayersConfig(zoo.Config):
    """Settings."""

    data_dim: int = zoo.setting(64, "size of x", from_data="x", minimum=1)


class TwoLayers(zoo.Pair):
    """z_2 ~ N(0, I), z_1 | z_2, x | z_1; the guide draws z_1, and z_2 given x and z_1."""

    Config = TwoLayersConfig
    card = zoo.Card(
        name="two_layers",
        title="Two layers",
        authors="",
        year=2021,
        arxiv="2105.14859",
        task="images",
        data={"x": "image"},
        latents={"z_1": "code (10)", "z_2": "code (5)"},
    )

    def __init__(self, config):
        super().__init__(config)
        self.upper = Net({"z_2": 5}, (100,), 10)
        self.decoder = Net({"z_1": 10}, (200, 200), config.data_dim)
        self.guide = guides.Factored(
            z_1=guides.Normal(10, {"x": config.data_dim}, (200, 200)),
            z_2=guides.Normal(5, {"x": config.data_dim, "z_1": 10}, (100,)),
        )

    def model(self, batch):
        zero = self.like().new_zeros(5)
        with self.plate(batch):
            z_2 = pyro.sample("z_2", dist.Normal(zero, zero + 1).to_event(1))
            z_1 = pyro.sample("z_1", dist.Normal(self.upper(z_2=z_2), 1.0).to_event(1))
            x = LIKELIHOODS["soft_bernoulli"](self.decoder(z_1=z_1))
            pyro.sample("x", x, obs=batch.get("x"))


def digits(seed):
    rows = data.load("digits", train=1200, validation=10, test=587, seed=seed)
    (test,) = rows.test.batches()
    (train,) = rows.train.batches()
    return rows, train, test


def bound_of(name):
    return BOUNDS[name] if name in BOUNDS else ATTEMPTS[name][0]


def trained(rows, bound, lam, seed, steps):
    """A pair of a single code, or of two layers."""
    if bound == "two layers":
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            pair = TwoLayers(TwoLayersConfig(64))
    else:
        pair = zoo.build("cr_vae", rows, seed=seed, latent=10, networks="dense", hidden=(200, 200))
    objective = bound_of(bound)
    if lam is not None:
        objective = Consistency(objective, "x", SIMPLE, SHAPE, lam)
    inference.fit(pair, rows.train.only("x"), objective, seed=seed, steps=steps, **FIT)
    return pair


def gap(pair, bound, test):
    """KL(q(z | view) || q(z | x)) per test image, over fresh views."""
    held = Consistency(bound_of(bound), "x", SIMPLE, SHAPE)
    found = []
    for view in range(VIEWS):
        torch.manual_seed(1_000_000 + view)
        run = held.run(pair.model, pair.guide, test)
        found.append(float(held.gap(run, held.viewed(run)).mean()))
    return statistics.mean(found)


@torch.no_grad()
def measured(kind, seed):
    """What check 1 to 3 ask of one fit, and codes for the picture."""
    rows, train, test = digits(seed)
    with torch.enable_grad():
        pair = trained(rows, "VAE", KINDS[kind], seed, STEPS)
    train, test = (zoo.Batch({"x": b["x"], "y": b["y"]}) for b in (train, test))
    alone = zoo.Batch({"x": test["x"]})

    def means(x):
        return pair.guide.factor("z", {"x": x}).mean

    clean = means(test["x"])
    variance = float(clean.var(0).sum())
    probe = LogisticRegression(max_iter=5000).fit(means(train["x"]).numpy(), train["y"].numpy())
    torch.manual_seed(2_000_000)
    right, moved = {}, []
    for strength in STRENGTHS:
        look = data.views("x", ("x",), (strong(strength),), SHAPE)
        seen = [look(alone)["x"] for _ in range(VIEWS if strength else 1)]
        truth = test["y"].numpy()
        right[strength] = statistics.mean(probe.score(means(x).numpy(), truth) for x in seen)
    look = data.views("x", ("x",), (SIMPLE,), SHAPE)
    for _ in range(VIEWS):
        moved.append(float((means(look(alone)["x"]) - clean).square().sum(1).mean()))
    run = ELBO().run(pair.model, pair.guide, alone)
    found = {
        "nll": float(IWELBO(100).per_datum(pair.model, pair.guide, alone).mean()),
        "gap": gap(pair, "VAE", alone),
        "moved": statistics.mean(moved) / (2 * variance),
        "information": float(kl_parts(run, "z").mutual_information.mean()),
        "active": int((clean.var(0) > 0.01).sum()),
        "right": right,
    }
    if seed == 0:
        some = np.concatenate([np.flatnonzero(test["y"].numpy() == y)[:3] for y in range(5)])
        few = zoo.Batch({"x": test["x"][some]})
        views = torch.stack([means(look(few)["x"]) for _ in range(12)])
        centre = clean.mean(0)
        axes = torch.linalg.svd(clean - centre, full_matrices=False).Vh[:2].T
        found["picture"] = [((t - centre) @ axes).numpy() for t in (clean, clean[some], views)] + [
            test["y"].numpy()[some]
        ]
    return found


@torch.no_grad()
def wrapped(bound, lam, seed):
    """The gap that a wrapped bound leaves."""
    rows, _, test = digits(seed)
    with torch.enable_grad():
        pair = trained(rows, bound, lam, seed, ATTEMPTS.get(bound, (None, STEPS))[1])
    return gap(pair, bound, zoo.Batch({"x": test["x"]}))


@pytest.fixture(scope="module")
def fits():
    began = time.monotonic()
    jobs = [(kind, seed) for seed in SEEDS for kind in KINDS]
    found = dict(zip(jobs, run_all(measured, jobs), strict=True))
    minutes = round((time.monotonic() - began) / 60, 1)
    return {kind: [found[kind, seed] for seed in SEEDS] for kind in KINDS}, minutes


def values(found, kind, name):
    return [run[name] for run in found[kind]]


def test_posteriors_of_views_come_together(fits, record):
    """Check 1."""
    found, minutes = fits
    of = {kind: values(found, kind, "gap") for kind in KINDS}
    rows = list(zip(*(of[k] for k in ("lambda 0", "lambda 0.1", "lambda 1")), strict=True))
    none, some, one = map(statistics.mean, zip(*rows, strict=True))
    holds = one <= 0.35 * none and some <= 0.85 * none and all(a > b > c for a, b, c in rows)
    record(
        "cr_vae: 1, KL(q(z|view) || q(z|x)) of test digits, mean over seeds: at lambda 1 at most "
        "0.35 of that of training on images and views (lambda 0), at 0.1 at most 0.85; less for "
        "more lambda in each seed",
        paper="— (0.20 and 0.71 of 2.4 nats in a prototype)",
        ours=f"lambda 1 {spread(of['lambda 1'])}, 0.1 {spread(of['lambda 0.1'])}",
        baseline=f"lambda 0 {spread(of['lambda 0'])}; images alone {spread(of['VAE'])}",
        holds="yes" if holds else "no",
        note="share of lambda 0 by seed, lambda 1: "
        + ", ".join(f"{c / a:.2f}" for a, _, c in rows)
        + "; 0.1: "
        + ", ".join(f"{b / a:.2f}" for a, b, _ in rows)
        + "; squared distance of mean codes over twice their variance, lambda 1, 0.1, 0: "
        + ", ".join(
            spread(values(found, k, "moved")) for k in ("lambda 1", "lambda 0.1", "lambda 0")
        )
        + "; active units, likewise: "
        + ", ".join(
            spread(values(found, k, "active"), digits=1)
            for k in ("lambda 1", "lambda 0.1", "lambda 0")
        ),
        settings=f"{SETTINGS}; {STEPS:,} steps",
        fixture="fits",
        minutes=minutes,
    )
    assert holds


def test_a_probe_of_clean_codes_knows_strong_views(fits, record):
    """Check 2."""
    found, minutes = fits

    def right(kind, strength):
        return [run["right"][strength] for run in found[kind]]

    gains = [a - b for a, b in zip(right("lambda 1", 1.0), right("lambda 0", 1.0), strict=True)]
    losses = [a - b for a, b in zip(right("lambda 0", 0.0), right("lambda 1", 0.0), strict=True)]
    gain, loss = statistics.mean(gains), statistics.mean(losses)
    holds = gain >= 0.06 and loss <= 0.03
    record(
        "cr_vae: 2, linear probe of clean codes, asked of strong views: lambda 1 gains at least "
        "0.06 on lambda 0, and loses at most 0.03 on clean images",
        paper="— (0.33 to 0.45 in a prototype)",
        ours=f"{spread(right('lambda 1', 1.0))}, clean {spread(right('lambda 1', 0.0))}",
        baseline=f"lambda 0 {spread(right('lambda 0', 1.0))}, clean "
        f"{spread(right('lambda 0', 0.0))}; images alone {spread(right('VAE', 1.0))}, "
        f"{spread(right('VAE', 0.0))}",
        holds="yes" if holds else "no",
        note=f"gain {spread(gains)}, loss {spread(losses)} over seeds; lambda 0.1: "
        f"{spread(right('lambda 0.1', 1.0))}, {spread(right('lambda 0.1', 0.0))}",
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    assert holds


def test_the_likelihood_stays(fits, record):
    """Check 3."""
    found, minutes = fits
    of = {kind: values(found, kind, "nll") for kind in KINDS}
    mean = {kind: statistics.mean(v) for kind, v in of.items()}
    some = mean["lambda 0.1"] - mean["lambda 0"]
    one = mean["lambda 1"] - mean["lambda 0"]
    holds = some <= 0.5 and one <= 1.0
    record(
        "cr_vae: 3, minus log-likelihood of test digits by 100 weighted draws: lambda 0.1 within "
        "0.5 nats of lambda 0, lambda 1 within 1",
        paper="— (24.6 and 24.9 against 24.6 in a prototype)",
        ours=f"lambda 1 {spread(of['lambda 1'])}, 0.1 {spread(of['lambda 0.1'])}",
        baseline=f"lambda 0 {spread(of['lambda 0'])}; images alone {spread(of['VAE'])}",
        holds="yes" if holds else "no",
        note="the paper's better likelihood and information are not seen at this scale: I(z; n), "
        "lambda 1, 0.1, 0, images alone: "
        + ", ".join(
            spread(values(found, k, "information"))
            for k in ("lambda 1", "lambda 0.1", "lambda 0", "VAE")
        ),
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    assert holds


def test_any_bound_can_be_wrapped(fits, record):
    """Check 4; the VAE's own are those of check 1."""
    began = time.monotonic()
    others = [bound for bound in (*BOUNDS, *ATTEMPTS) if bound != "VAE"]
    jobs = [(bound, lam, seed) for seed in SEEDS for bound in others for lam in (0.0, 1.0)]
    found = dict(zip(jobs, run_all(wrapped, jobs), strict=True))
    of = {(b, lam): [found[b, lam, seed] for seed in SEEDS] for b in others for lam in (0.0, 1.0)}
    of |= {("VAE", lam): values(fits[0], f"lambda {lam:g}", "gap") for lam in (0.0, 1.0)}
    halved = {
        b: all(one <= 0.5 * none for none, one in zip(of[b, 0.0], of[b, 1.0], strict=True))
        for b in ("VAE", *others)
    }

    def told(lam, bounds):
        return "; ".join(f"{b} {spread(of[b, lam], digits=3)}" for b in bounds)

    usual = [b for b in BOUNDS if b != "beta-VAE"]
    shared = {"paper": "VAE, beta-VAE, IWAE, NVAE", "settings": f"{SETTINGS}; {STEPS:,} steps"}
    shared["minutes"] = round((time.monotonic() - began) / 60, 1)
    record(
        "cr_vae: 4, around VAE, IWAE (5 draws) and a VAE of two layers lambda 1 leaves at most "
        "half of the KL of lambda 0, in each seed",
        ours=told(1.0, usual),
        baseline=f"lambda 0: {told(0.0, usual)}",
        holds="yes" if all(halved[b] for b in usual) else "no",
        **shared,
    )
    record(
        "cr_vae: 4, the same around a beta-VAE (4)",
        ours=told(1.0, ["beta-VAE"]),
        baseline=f"lambda 0: {told(0.0, ['beta-VAE'])}",
        holds="yes" if halved["beta-VAE"] else "no",
        note="nats: at beta 4 the code of these 64 pixels tells nothing, with and without views, "
        f"so that there is no KL to halve. Longer and weaker, lambda 1: {told(1.0, ATTEMPTS)}; "
        f"lambda 0: {told(0.0, ATTEMPTS)}",
        **shared,
    )
    assert all(halved[b] for b in usual), of


def test_the_picture(fits, picture):
    from matplotlib import pyplot as plt

    found, _ = fits
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    for ax, kind in zip(axes, ("lambda 0", "lambda 1"), strict=False):
        run = found[kind][0]
        every, clean, views, classes = run["picture"]
        ax.scatter(*every.T, s=3, color="0.85")
        for row, (centre, label) in enumerate(zip(clean, classes, strict=True)):
            ax.scatter(*views[:, row].T, s=7, color=f"C{label}", alpha=0.6)
            ax.scatter(*centre, s=40, marker="*", color=f"C{label}", edgecolor="k", linewidth=0.5)
        ax.set(
            title=f"{kind}: KL {run['gap']:.2f} nats",
            xlabel="first principal axis of mean codes",
            ylabel="second",
        )
    for place, label in enumerate(range(5)):
        axes[0].scatter([], [], color=f"C{place}", s=12, label=str(label))
    axes[0].legend(title="digit", fontsize=7, title_fontsize=7)
    for kind in KINDS:
        told = [statistics.mean(r["right"][s] for r in found[kind]) for s in STRENGTHS]
        axes[2].plot(STRENGTHS, told, "o-", ms=3, label=kind if kind != "VAE" else "images alone")
    axes[2].set(
        xlabel="strength of views (1: 30 degrees, 10 %, 0.8 to 1.25)",
        ylabel="share recognised",
        title="linear probe of clean codes",
    )
    axes[2].legend(fontsize=8)
    picture(figure, "cr_vae")
    plt.close(figure)
