"""Giannone and Winther 2021: few drawings of a character show what others of it are like."""

from __future__ import annotations

import functools
import os
import statistics
import time
from pathlib import Path

import matplotlib
import pytest
import torch
import torch.nn.functional as F
from claims.measuring import needs_mnist, run_all

import ppl_models as zoo
from ppl_models import Batch, data, inference

matplotlib.use("Agg")
FOLDER = Path(os.environ.get("PPL_DATA", ".")) / "omniglot"
pytestmark = [
    pytest.mark.claims,
    needs_mnist,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="needs Omniglot's zip files in $PPL_DATA"),
]
SEEDS, TRANSFER = (0, 1), (0, 1, 2)
STEPS, RISE, SIZES, DRAWS = 2500, 0.5, (2, 5, 20), 4
LONGER = (4000, 0.8)  # steps, and the share in which beta rises
KINDS = {
    "VAE": {"contexts": "none"},
    "NS": {"contexts": "top", "pool": "mean"},
    "mean": {"pool": "mean"},
    "attention": {"pool": "attention", "film": "none"},
    "FiLM": {"pool": "attention"},
}
SETTINGS = (
    "Omniglot small1 and small2, 14 x 14, 1888 classes with turned copies; test 56 characters; "
    "L = 2, C = Z = 16, 128 units; 2,500 steps of 32 sets of 5, Adam 1e-3, beta from 1/9 to 1 in "
    "the first half, of a fifth and a half the better at seed 10; nats per image of all test "
    "drawings in sets of n"
)
ORDER = "order VAE, NS, hierarchical with attention; more with larger sets"
CAUSE = (
    "; the lead is one of speed: at seed 10 (beta rising in a fifth) attention is 0.3 above the "
    "Neural Statistician after 800 steps and 0.2 below it after 2,500"
)


@functools.cache
def rows_of(source: str, seed: int, size: int) -> data.Table:
    return data.load("concepts", source=source, size=size, test_size=size, seed=seed).test


def per_image(run: inference.Run, table: data.Table) -> float:
    """The bound in nats per image, over all sets of a table."""
    bound = inference.ELBO(particles=DRAWS, kl="analytic")
    return float(run.bound_per_row(table, bound).sum() / table.sites["x_there"][:].sum())


def recognised(made: torch.Tensor, known: torch.Tensor) -> float:
    """Share of images ``(C, n, 196)`` nearest to their own of C means of blurred images."""

    def seen(images: torch.Tensor) -> torch.Tensor:
        flat = images.reshape(-1, 1, 14, 14)
        return F.avg_pool2d(flat, 3, 1, 1).reshape(*images.shape[:2], -1)

    means = F.normalize(seen(known).mean(1), dim=-1)
    near = (F.normalize(seen(made), dim=-1) @ means.T).argmax(-1)
    return float((near == torch.arange(len(made))[:, None]).double().mean())


def drawn(pair: zoo.Pair, seed: int) -> dict[str, object]:
    """Five drawings are shown of each of 20 characters; ten others say what it looks like."""
    table = rows_of("omniglot", seed, 20)
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))[:20]
    x = table.sites["x"][:][order]
    shown, known, others = x[:, :5], x[:, 5:15], x[:, 15:]
    batch = Batch({"x": shown, "x_there": torch.ones(shown.shape[:2])})
    torch.manual_seed(seed)
    made = pair.sample_sets(batch, 10)
    refined = pair.sample_sets(batch, 10, rounds=10)
    return {
        "conditional": recognised(made, known),
        "refined": recognised(refined, known),
        "unconditional": recognised(pair.sample_sets(20, 10), known),
        "real": recognised(others, known),
        "images": torch.cat([shown[:8], made[:8, :4], refined[:8, :4]], 1).numpy(),
    }


def fitted(
    kind: str, seed: int, steps: int, rise: float, validation: float = 0.0
) -> tuple[inference.Run, float]:
    """A fit of a kind to the training characters that are not for validation, and its seconds."""
    train = data.load("concepts", source="omniglot", validation=validation, seed=seed).train
    pair = zoo.build(
        "hfsgm", train, seed=seed, layers=2, context=16, latent=16, hidden=128, subset=5,
        rise=rise, **KINDS[kind],
    )  # fmt: skip
    began = time.monotonic()
    run = inference.fit(
        pair, train, seed=seed, steps=steps, batch_size=32, learning_rate=1e-3, progress=False,
        compile=True,
    )  # fmt: skip
    return run, time.monotonic() - began


def validated(kind: str, seed: int, steps: int, rise: float) -> dict[str, object]:
    """Bounds by set size on a tenth of the training characters, which the fit does not see."""
    run, seconds = fitted(kind, seed, steps, rise, validation=0.1)
    found = {
        n: data.load(
            "concepts", source="omniglot", size=n, test_size=n, validation=0.1, seed=seed
        ).validation
        for n in SIZES
    }
    return {"seconds": seconds, "bound": {n: per_image(run, rows) for n, rows in found.items()}}


def measured(kind: str, seed: int, steps: int = STEPS, rise: float = RISE) -> dict[str, object]:
    """Bounds by set size, of MNIST's sets, and how new drawings are recognised."""
    run, seconds = fitted(kind, seed, steps, rise)
    found: dict[str, object] = {"seconds": seconds}
    if seed in SEEDS:
        found["bound"] = {n: per_image(run, rows_of("omniglot", seed, n)) for n in SIZES}
        if kind != "VAE":
            found |= drawn(run.pair, seed)
    digits = rows_of("mnist", seed, 5)
    found["mnist"] = per_image(run, digits.rows(slice(400)))
    return found


def by_kind(job, asked) -> tuple[dict[str, list], float]:
    """What a job found by kind, in the order it was asked in, and the minutes of all fits."""
    found = run_all(job, asked)
    minutes = round(sum(run["seconds"] for run in found) / 60, 1)
    return {k: [f for a, f in zip(asked, found, strict=True) if a[0] == k] for k in KINDS}, minutes


@pytest.fixture(scope="module")
def fits():
    """The kinds at the settings of checks 1 to 5."""
    asked = [(k, s) for s in TRANSFER for k in KINDS if s in SEEDS or k in ("mean", "attention")]
    return by_kind(measured, asked)


@pytest.fixture(scope="module")
def longer():
    """The second attempt at the hierarchy's lead, at the two kinds that it compares."""
    return by_kind(measured, [(k, seed, *LONGER) for k in ("NS", "attention") for seed in SEEDS])


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
        note = told("HFSGM with mean pools", kinds["mean"]) + ("" if holds else CAUSE)
        record(
            f"hfsgm: {claim}", paper=ORDER, note=note, fixture="fits", minutes=minutes,
            **row(holds, *(told(kind, kinds[kind]) for kind in pair)),
        )  # fmt: skip
    assert all(holds for holds, *_ in claims.values()), at


def test_a_longer_training(longer, record):
    """Check 1's lead of the hierarchy, where it missed: 4,000 steps, and a slower rise."""
    kinds, minutes = longer
    lead = {n: bound(kinds["attention"], n) - bound(kinds["NS"], n) for n in SIZES}
    holds = lead[5] >= 0.1 and lead[20] >= 0.15
    more = "but 4,000 steps, beta rises in the first 80 %"
    record(
        "hfsgm: 1, longer: attention 0.1 above the Neural Statistician at n = 5, 0.15 at n = 20",
        paper=ORDER, fixture="longer", minutes=minutes,
        **row(holds, *(told(kind, kinds[kind]) for kind in ("attention", "NS")), more),
    )  # fmt: skip
    assert holds, lead


def test_new_drawings_are_recognised(fits, record):
    """Check 4."""
    kinds, minutes = fits
    runs = [run for run in kinds["attention"] if "conditional" in run]
    share = {
        what: statistics.mean(run[what] for run in runs)
        for what in ("conditional", "refined", "unconditional", "real")
    }
    told = {what: f"{100 * value:.0f} %" for what, value in share.items()}
    holds = share["conditional"] >= 0.14 and share["unconditional"] <= 0.09
    more = "five drawings shown, ten new ones of each, as means; nearest mean of ten other "
    more += "drawings, 3 x 3 blur, cosine"
    ours = f"{told['conditional']}, after ten rounds {told['refined']}"
    baseline = f"nothing shown {told['unconditional']}, real drawings {told['real']}"
    record(
        "hfsgm: 4, of 20 unseen characters 14 % of new drawings are recognised, 9 % without shown",
        fixture="fits", minutes=minutes, **row(holds, ours, baseline, more),
    )  # fmt: skip
    assert holds, share


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
    images = kinds["attention"][0]["images"]
    rows, across = images.shape[:2]
    figure, axes = plt.subplots(
        1, 3, figsize=(9, 5.4), width_ratios=(5, 4, 4), layout="constrained"
    )
    parts = (slice(0, 5), slice(5, 9), slice(9, across))
    titles = ("shown", "new", "new, ten rounds of refinement")
    for axis, part, title in zip(axes, parts, titles, strict=True):
        page = images[:, part].reshape(rows, -1, 14, 14)
        page = torch.from_numpy(page).mul(-1).add(1)
        page = F.pad(page, (0, 2, 0, 2), value=0.7).permute(0, 2, 1, 3).reshape(rows * 16, -1)
        axis.imshow(page, cmap="gray", vmin=0, vmax=1)
        axis.set(title=title)
        axis.axis("off")
    picture(figure, "hfsgm")
    plt.close(figure)
