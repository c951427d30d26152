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
# Steps, the share in which beta rises, rate and schedule of the attempts before.
BEFORE = {"first": (STEPS, RISE, 1e-3, "constant"), "second": (4000, 0.8, 1e-3, "constant")}
KINDS = {
    "VAE": {"contexts": "none"},
    "NS": {"contexts": "top", "pool": "mean"},
    "mean": {"pool": "mean"},
    "attention": {"pool": "attention"},
    "added": {"pool": "attention", "film": "none"},
}
# Chosen at seed 10, by the bound at n = 5 of a tenth of the training characters that no fit saw
# (data.load("concepts", validation=0.1)). beta rising in a fifth: NS -40.62, attention with added
# contexts -40.62; in the half -40.18, -40.27, with FiLM -40.42 (-40.78 where scales began at
# random); and at 3e-3 falling along a cosine -39.39, -39.50 and -39.59.
SETTINGS = (
    "Omniglot small1 and small2, 14 x 14, 1888 classes with turned copies; test 56 characters; "
    "L = 2, C = Z = 16, 128 units, with attention c scales z's features (FiLM); 2,500 steps of "
    "32 sets of 5, Adam from 3e-3 to 0 along a cosine, beta from 1/9 to 1 in the first half, the "
    "best of three on validation characters of seed 10; nats per image of all test drawings in "
    "sets of n"
)
ORDER = "order VAE, NS, hierarchical with attention; more with larger sets"
AGAINST = (
    "on validation characters of seed 10 HFSGM is 0.2 below the Neural Statistician at n = 5, and "
    "of a set of five its lower context has 1 nat, the upper one 6"
)
CAUSE = (
    "on validation characters of seed 10, after 2,500 steps, all kinds are 0.8 nats short of what "
    "they come to at 3e-3 falling along a cosine"
)
BUT = {
    "first": "but Adam 1e-3, c added to z's features",
    "second": "but 4,000 steps of Adam 1e-3, beta rises in the first 80 % (not tried on "
    "validation characters), c added to z's features",
}


def measured(
    kind: str,
    seed: int,
    steps: int = STEPS,
    rise: float = RISE,
    rate: float = 3e-3,
    schedule: str = "cosine",
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
    """All kinds."""
    both = "mean", "attention"
    return by_kind([(k, s) for s in TRANSFER for k in KINDS if s in SEEDS or k in both])


@pytest.fixture(scope="module")
def slower():
    """What transfer is told of, at the settings of the first attempt."""
    settings = BEFORE["first"]
    return by_kind([(kind, seed, *settings) for kind in ("mean", "added") for seed in TRANSFER])


@pytest.fixture(scope="module")
def before(request):
    """An attempt before at the hierarchy's lead, at the two kinds that it compares."""
    settings = BEFORE[request.param]
    asked = [(kind, seed, *settings) for kind in ("NS", "added") for seed in SEEDS]
    return request.param, *by_kind(asked)


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
        note = f"{told('means as pools', kinds['mean'])}; "
        note += f"{told('attention, contexts added', kinds['added'])}; {AGAINST}"
        record(
            f"hfsgm: {claim}", paper=ORDER, note=note, fixture="fits", minutes=minutes,
            **row(holds, *(told(kind, kinds[kind]) for kind in pair)),
        )  # fmt: skip
    assert all(holds for holds, *_ in claims.values()), at


@pytest.mark.parametrize("before", BEFORE, indirect=True)
def test_attempts_before(before, record):
    """Check 1's lead of the hierarchy."""
    attempt, kinds, minutes = before
    lead = {n: bound(kinds["added"], n) - bound(kinds["NS"], n) for n in SIZES}
    holds = lead[5] >= 0.1 and lead[20] >= 0.15
    claim = f"1, {attempt} attempt: HFSGM 0.1 above the Neural Statistician at n = 5, 0.15 at 20"
    record(
        f"hfsgm: {claim}", paper=ORDER, fixture="before", minutes=minutes, note=CAUSE,
        **row(holds, told("HFSGM", kinds["added"]), told("NS", kinds["NS"]), BUT[attempt]),
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


@pytest.mark.parametrize(("fixture", "kind"), [("fits", "attention"), ("slower", "added")])
def test_transfer_to_mnist(fixture, kind, record, request):
    """Check 5."""
    kinds, minutes = request.getfixturevalue(fixture)
    one, other = ([run["mnist"] for run in kinds[what]] for what in (kind, "mean"))
    holds = all(a >= m for a, m in zip(one, other, strict=True))
    ours, baseline = (" / ".join(f"{bound:.2f}" for bound in bounds) for bounds in (one, other))
    more = "400 test sets of 5 digits, none trained on"
    if fixture == "slower":
        more = f"{BUT['first']}; {more}"
    record(
        f"hfsgm: 5, {'first attempt: ' if fixture == 'slower' else ''}on sets of MNIST's digits "
        "attention is at least as good as the mean, each seed",
        paper="attention transfers better", fixture=fixture, minutes=minutes,
        **row(holds, ours, f"mean {baseline}", more, "0, 1, 2"),
        note="" if holds else "bounds of digits have a spread of 0.6 nats over seeds",
    )  # fmt: skip
    assert holds, (one, other)


def test_picture(fits, picture):
    from matplotlib import pyplot as plt

    kinds, _ = fits
    figure = sheet(kinds["attention"][0]["images"])
    picture(figure, "hfsgm")
    plt.close(figure)
