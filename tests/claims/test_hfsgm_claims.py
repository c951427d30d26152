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
FASTER = (STEPS, RISE, 3e-3, "cosine")  # and the learning rate, and its schedule
KINDS = {
    "VAE": {"contexts": "none"},
    "NS": {"contexts": "top", "pool": "mean"},
    "mean": {"pool": "mean"},
    "attention": {"pool": "attention", "film": "none"},
    "FiLM": {"pool": "attention"},
}
# Chosen at seed 10, by the bound at n = 5 of a tenth of the training characters that no fit saw
# (data.load("concepts", validation=0.1)). beta rising in a fifth: NS -40.62, attention with added
# contexts -40.62; in the half -40.18, -40.27, with FiLM -40.42 (-40.78 where scales began at
# random); and at 3e-3 falling along a cosine -39.39, -39.50 and -39.59.
SETTINGS = (
    "Omniglot small1 and small2, 14 x 14, 1888 classes with turned copies; test 56 characters; "
    "L = 2, C = Z = 16, 128 units, c added to z's features; 2,500 steps of 32 sets of 5, Adam "
    "1e-3, beta from 1/9 to 1 in the first half, of a fifth and a half the better on validation "
    "characters of seed 10; nats per image of all test drawings in sets of n"
)
ORDER = "order VAE, NS, hierarchical with attention; more with larger sets"
CAUSE = (
    "contexts are added, and the rate stays at 1e-3: on validation characters of seed 10, after "
    "2,500 steps, both kinds are 0.8 nats short of 3e-3 falling along a cosine, where, with FiLM, "
    "the lead is there (see faster)"
)
AGAINST = (
    "on validation characters of seed 10 it is 0.2 below at each n, and of a set of five the "
    "lower context has 1 nat, the upper one 6"
)
BUT = {
    "longer": "but 4,000 steps, beta rises in the first 80 % (not tried on validation characters)",
    "faster": "but Adam from 3e-3 to 0 along a cosine, the better of both on validation "
    "characters of seed 10; contexts scale what codes are made of (FiLM), as in the paper",
}


def measured(
    kind: str,
    seed: int,
    steps: int = STEPS,
    rise: float = RISE,
    rate: float = 1e-3,
    schedule: str = "constant",
) -> dict[str, object]:
    """Bounds by set size, of MNIST's sets, and how new drawings are recognised."""
    train = data.load("concepts", source="omniglot", validation=0.0, seed=seed).train
    pair = zoo.build(
        "hfsgm", train, seed=seed, layers=2, context=16, latent=16, hidden=128, subset=5,
        rise=rise, **KINDS[kind],
    )  # fmt: skip
    began = time.monotonic()
    run = inference.fit(
        pair, train, seed=seed, steps=steps, batch_size=32, learning_rate=rate,
        schedule=schedule, progress=False, compile=True,
    )  # fmt: skip
    found: dict[str, object] = {"seconds": time.monotonic() - began}
    if seed in SEEDS:
        found["bound"] = {n: per_image(run, rows_of("omniglot", seed, n)) for n in SIZES}
        if kind != "VAE":
            found |= drawn(pair, seed)
    digits = rows_of("mnist", seed, 5)
    found["mnist"] = per_image(run, digits.rows(slice(400)))
    return found


def by_kind(asked) -> tuple[dict[str, list], float]:
    """What was measured by kind, in the order it was asked in, and the minutes of all fits."""
    found: dict[str, list] = {}
    for (kind, *_), run in zip(asked, run_all(measured, asked), strict=True):
        found.setdefault(kind, []).append(run)
    seconds = sum(run["seconds"] for runs in found.values() for run in runs)
    return found, round(seconds / 60, 1)


@pytest.fixture(scope="module")
def fits():
    """The kinds at the settings of checks 1 to 5."""
    kinds = "VAE", "NS", "mean", "attention"
    asked = [(k, s) for s in TRANSFER for k in kinds if s in SEEDS or k in ("mean", "attention")]
    return by_kind(asked)


@pytest.fixture(scope="module")
def longer():
    """The second attempt at the hierarchy's lead, at the two kinds that it compares."""
    return by_kind([(kind, seed, *LONGER) for kind in ("NS", "attention") for seed in SEEDS])


@pytest.fixture(scope="module")
def faster():
    """The third, at a rate that validation characters prefer."""
    return by_kind([(kind, seed, *FASTER) for kind in ("NS", "FiLM") for seed in SEEDS])


def bound(runs, n: int) -> float:
    return statistics.mean(run["bound"][n] for run in runs if "bound" in run)


def told(kind: str, runs) -> str:
    return f"{kind} {' / '.join(f'{bound(runs, n):.2f}' for n in SIZES)} at n = 2 / 5 / 20"


def row(holds: bool, ours: str, baseline: str, more: str = "", seeds: str = "0, 1", **rest):
    """A record; what its settings have beside those of all."""
    settings = f"{SETTINGS}; {f'{more}; ' if more else ''}seeds {seeds}"
    held = "yes" if holds else "no"
    return {"ours": ours, "baseline": baseline, "holds": held, "settings": settings, **rest}


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
    for claim, (holds, *pair) in claims.items():
        note = told("HFSGM with mean pools", kinds["mean"]) + ("" if holds else f"; {CAUSE}")
        record(
            f"hfsgm: {claim}", paper=ORDER, note=note, fixture="fits", minutes=minutes,
            **row(holds, *(told(kind, kinds[kind]) for kind in pair)),
        )  # fmt: skip
    assert all(holds for holds, *_ in claims.values()), at


@pytest.mark.parametrize(("attempt", "kind"), [("longer", "attention"), ("faster", "FiLM")])
def test_further_attempts(attempt, kind, record, request):
    """Check 1's lead of the hierarchy, where it missed."""
    kinds, minutes = request.getfixturevalue(attempt)
    lead = {n: bound(kinds[kind], n) - bound(kinds["NS"], n) for n in SIZES}
    holds = lead[5] >= 0.1 and lead[20] >= 0.15
    claim = f"1, {attempt}: attention 0.1 above the Neural Statistician at n = 5, 0.15 at n = 20"
    record(
        f"hfsgm: {claim}", paper=ORDER, fixture=attempt, minutes=minutes,
        **row(holds, told(kind, kinds[kind]), told("NS", kinds["NS"]), BUT[attempt]),
        note=AGAINST if holds else CAUSE,
    )  # fmt: skip
    assert holds, lead


def test_new_drawings_are_recognised(fits, record):
    """Check 4."""
    kinds, minutes = fits
    share, told = recognition([run for run in kinds["attention"] if "conditional" in run])
    record(
        "hfsgm: 4, of 20 unseen characters 14 % of new drawings are recognised, 9 % without shown",
        settings=f"{SETTINGS}; {told.pop('how')}; seeds 0, 1", fixture="fits", minutes=minutes,
        **told,
    )  # fmt: skip
    assert told["holds"] == "yes", share


def test_transfer_to_mnist(fits, record):
    kinds, minutes = fits
    one, other = ([run["mnist"] for run in kinds[kind]] for kind in ("attention", "mean"))
    holds = all(a >= m for a, m in zip(one, other, strict=True))
    ours, baseline = (" / ".join(f"{bound:.2f}" for bound in bounds) for bounds in (one, other))
    more = "400 test sets of 5 digits, none trained on"
    record(
        "hfsgm: 5, on sets of MNIST's digits attention is at least as good as the mean, each seed",
        paper="attention transfers better", fixture="fits", minutes=minutes,
        **row(holds, ours, f"mean {baseline}", more, "0, 1, 2"),
    )  # fmt: skip
    assert holds, (one, other)


def test_picture(fits, picture):
    from matplotlib import pyplot as plt

    kinds, _ = fits
    figure = sheet(kinds["attention"][0]["images"])
    picture(figure, "hfsgm")
    plt.close(figure)
