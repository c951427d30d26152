"""Giannone and Winther 2021: few drawings of a character show what others of it are like."""

from __future__ import annotations

import statistics
import time

import matplotlib
import pytest
from claims.drawings import drawn, needs_omniglot, per_image, recognition, rows_of, sheet
from claims.measuring import needs_mnist, run_all

import ppl_models as zoo
from ppl_models import data, inference

matplotlib.use("Agg")
pytestmark = [pytest.mark.claims, needs_mnist, needs_omniglot]
SEEDS, TRANSFER = (0, 1), (0, 1, 2)
STEPS, RISE, SIZES = 2500, 0.5, (2, 5, 20)
LONGER = (4000, 0.8)  # steps, and the share in which beta rises
KINDS = {
    "VAE": {"contexts": "none"},
    "NS": {"contexts": "top", "pool": "mean"},
    "mean": {"pool": "mean"},
    "attention": {"pool": "attention"},
}
SETTINGS = (
    "Omniglot small1 and small2, 14 x 14, 1888 classes with turned copies; test 56 characters; "
    "L = 2, C = Z = 16, 128 units; 2,500 steps of 32 sets of 5, Adam 1e-3, beta from 1/9 to 1 in "
    "the first half, of a fifth and a half the better at seed 10; nats per image of all test "
    "drawings in sets of n"
)
CAUSE = (
    "; the lead is one of speed: at seed 10 (beta rising in a fifth) attention is 0.3 above the "
    "Neural Statistician after 800 steps and 0.2 below it after 2,500"
)


def measured(kind: str, seed: int, steps: int = STEPS, rise: float = RISE) -> dict[str, object]:
    """Bounds by set size, of MNIST's sets, and how new drawings are recognised."""
    train = data.load("concepts", source="omniglot", validation=0.0, seed=seed).train
    pair = zoo.build(
        "hfsgm", train, seed=seed, layers=2, context=16, latent=16, hidden=128, subset=5,
        rise=rise, **KINDS[kind],
    )  # fmt: skip
    began = time.monotonic()
    run = inference.fit(
        pair,
        train,
        seed=seed,
        steps=steps,
        batch_size=32,
        learning_rate=1e-3,
        progress=False,
        compile=True,
    )
    found: dict[str, object] = {"seconds": time.monotonic() - began}
    if seed in SEEDS:
        found["bound"] = {n: per_image(run, rows_of("omniglot", seed, n)) for n in SIZES}
        if kind != "VAE":
            found |= drawn(pair, seed)
    digits = rows_of("mnist", seed, 5)
    found["mnist"] = per_image(run, digits.rows(slice(400)))
    return found


@pytest.fixture(scope="module")
def fits():
    """What was measured by kind, in the order of the seeds, and the minutes of all fits."""
    asked = [(k, s) for s in TRANSFER for k in KINDS if s in SEEDS or k in ("mean", "attention")]
    found = run_all(measured, asked)
    minutes = round(sum(run["seconds"] for run in found) / 60, 1)
    return {k: [f for a, f in zip(asked, found, strict=True) if a[0] == k] for k in KINDS}, minutes


@pytest.fixture(scope="module")
def longer():
    """The second attempt at the hierarchy's lead, at the two kinds that it compares."""
    asked = [(kind, seed, *LONGER) for kind in ("NS", "attention") for seed in SEEDS]
    found = run_all(measured, asked)
    minutes = round(sum(run["seconds"] for run in found) / 60, 1)
    return {k: [f for a, f in zip(asked, found, strict=True) if a[0] == k] for k in KINDS}, minutes


def bound(runs, n: int) -> float:
    return statistics.mean(run["bound"][n] for run in runs if "bound" in run)


def told(runs) -> str:
    return " / ".join(f"{bound(runs, n):.2f}" for n in SIZES)


def test_contexts_help_and_attention_more(fits, record):
    """Checks 1 and 2."""
    kinds, minutes = fits
    at = {kind: {n: bound(runs, n) for n in SIZES} for kind, runs in kinds.items()}
    claims = {
        "1, n = 5: the Neural Statistician is 0.4 nats per image above the VAE": (
            at["NS"][5] >= at["VAE"][5] + 0.4, "NS", "VAE",
        ),
        "1, n = 5: HFSGM with attention is 0.1 above the Neural Statistician": (
            at["attention"][5] >= at["NS"][5] + 0.1, "attention", "NS",
        ),
        "1, n = 20: HFSGM with attention is 0.15 above the Neural Statistician": (
            at["attention"][20] >= at["NS"][20] + 0.15, "attention", "NS",
        ),
        "2, from n = 2 to 20 HFSGM and the Neural Statistician gain 1.0": (
            min(at[k][20] - at[k][2] for k in ("attention", "NS")) >= 1, "attention", "NS",
        ),
        "2, from n = 2 to 20 the VAE changes by less than 0.4": (
            abs(at["VAE"][20] - at["VAE"][2]) < 0.4, "VAE", "attention",
        ),
    }  # fmt: skip
    for claim, (holds, ours, against) in claims.items():
        record(
            f"hfsgm: {claim}",
            paper="order VAE, NS, hierarchical with attention; more with larger sets",
            ours=f"{ours} {told(kinds[ours])} at n = 2 / 5 / 20",
            baseline=f"{against} {told(kinds[against])}",
            holds="yes" if holds else "no",
            note=f"HFSGM with mean pools {told(kinds['mean'])}" + ("" if holds else CAUSE),
            settings=f"{SETTINGS}; seeds 0, 1",
            fixture="fits",
            minutes=minutes,
        )
    assert all(holds for holds, *_ in claims.values()), at


def test_a_longer_training(longer, record):
    """Check 1's lead of the hierarchy, where it missed: 4,000 steps, and a slower rise."""
    kinds, minutes = longer
    lead = {n: bound(kinds["attention"], n) - bound(kinds["NS"], n) for n in SIZES}
    holds = lead[5] >= 0.1 and lead[20] >= 0.15
    record(
        "hfsgm: 1, longer: attention 0.1 above the Neural Statistician at n = 5, 0.15 at n = 20",
        paper="order VAE, NS, hierarchical with attention; more with larger sets",
        ours=f"attention {told(kinds['attention'])} at n = 2 / 5 / 20",
        baseline=f"NS {told(kinds['NS'])}",
        holds="yes" if holds else "no",
        settings=f"{SETTINGS}; seeds 0, 1; but 4,000 steps, beta rises in the first 80 %",
        fixture="longer",
        minutes=minutes,
    )
    assert holds, lead


def test_new_drawings_are_recognised(fits, record):
    """Check 4."""
    kinds, minutes = fits
    share, told = recognition([run for run in kinds["attention"] if "conditional" in run])
    record(
        "hfsgm: 4, of 20 unseen characters 14 % of new drawings are recognised, 9 % without shown",
        settings=f"{SETTINGS}; {told.pop('how')}; seeds 0, 1",
        fixture="fits",
        minutes=minutes,
        **told,
    )
    assert told["holds"] == "yes", share


def test_transfer_to_mnist(fits, record):
    kinds, minutes = fits
    pairs = [
        (a["mnist"], m["mnist"]) for a, m in zip(kinds["attention"], kinds["mean"], strict=True)
    ]
    holds = all(a >= m for a, m in pairs)
    record(
        "hfsgm: 5, on sets of MNIST's digits attention is at least as good as the mean, each seed",
        paper="attention transfers better",
        ours=" / ".join(f"{a:.2f}" for a, _ in pairs),
        baseline="mean " + " / ".join(f"{m:.2f}" for _, m in pairs),
        holds="yes" if holds else "no",
        settings=f"{SETTINGS}; 400 test sets of 5 digits, none trained on; seeds 0, 1, 2",
        fixture="fits",
        minutes=minutes,
    )
    assert holds, pairs


def test_picture(fits, picture):
    from matplotlib import pyplot as plt

    kinds, _ = fits
    figure = sheet(kinds["attention"][0]["images"])
    picture(figure, "hfsgm")
    plt.close(figure)
