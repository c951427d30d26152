"""Joy et al. 2022: what one modality tells of the other, by MEME and the papers before it."""

from __future__ import annotations

import statistics
import time

import matplotlib
import numpy as np
import pytest
import torch
from claims.measuring import percent, run_all, spread
from torch import nn

import ppl_models as zoo
from ppl_models import data, inference

matplotlib.use("Agg")
pytestmark = pytest.mark.claims
SEEDS = (0, 1, 2)
MODELS = ("meme", "mvae", "mmvae", "mopoe")
STEPS, BATCH, RATE, PAIRED, REST = 1500, 128, 3e-3, 0.125, 256
ATTEMPTS: dict[str, dict] = {
    "first": {},
    "sixteenth": {"paired": 0.0625},  # the least of the paper's shares
    "K = 30": {"particles": 30},
}
SETTINGS = (
    "scikit-learn's digits s (8 x 8) and styled stroke digits t (12 x 12), paired by class: 8,000 "
    "pairs, 397 test pairs; L = 16, MLPs of 256, Laplace b = 0.15, K = 10, log q(b | a) of MEME "
    f"times 10, Adam at {RATE:g}, {STEPS:,} steps of {BATCH} rows; accuracy of networks trained "
    "on real images at means of images whose codes are drawn; seeds 0-2"
)

FEW = "half and half in one batch of {}, so that either fit sees each pair as often"
# Attempts at check 3: the share of pairs, how many they are and other rows of either kind, what
# the paper has, and why it is missed.
SHARES = {
    "first": (
        "an eighth", "1,000", "3,500", "47.0 / 54.6 %",
        "at the weight of 10 the pairs alone come near to what all pairs come to, and little "
        "is left; relatedness grows. At seed 10, with other rows as often as they are in the data "
        "and not half and half: 87.3, the pairs alone 90.8 %; of validation rows, half and half, "
        "at the weight of 1 and Adam at 1e-3: 58.0, the pairs alone 71.3 %",
    ),
    "sixteenth": (
        "a sixteenth", "500", "3,750", "45.1 / 44.6 %",
        "the other rows help more where pairs are fewer, 2.0 points here and 0.6 beside an "
        "eighth: log q(b | a), counted ten times, learns most of it from pairs alone",
    ),
}  # fmt: skip


def rows_of(seed: int) -> data.Dataset:
    return data.load("paired_digits", seed=seed)


def oracle(x: torch.Tensor, y: torch.Tensor, seed: int) -> nn.Module:
    """A classifier of real images, which sees them with noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(x.shape[1], 256), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10),
        )  # fmt: skip
        optimiser = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=1e-4)
        for _ in range(1500):
            pick = torch.randint(len(x), (128,))
            seen = x[pick] + 0.1 * torch.randn(128, x.shape[1])
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(seen), y[pick]).backward()
            optimiser.step()
    return net.eval()


def accuracy(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return float((net(x).argmax(-1) == y).double().mean())


def auc(score: torch.Tensor, same: torch.Tensor) -> float:
    """Probability that a pair of one digit has the larger score than a pair of two."""
    order = score.flatten().argsort().argsort().double() + 1
    hits = same.flatten()
    n, m = int(hits.sum()), int((~hits).sum())
    return float((order[hits].sum() - n * (n + 1) / 2) / (n * m))


def relatedness(pair, test) -> float:
    """AUC of minus the Wasserstein distance of q(z | s_i) and q(z | t_j)."""
    with torch.no_grad():
        of_s, of_t = (pair.guide.factor("z", test.only(m)) for m in ("s", "t"))
        distance = torch.cdist(of_s.mean, of_t.mean).square()
        distance = distance + torch.cdist(of_s.variance.sqrt(), of_t.variance.sqrt()).square()
    return auc(-distance.double(), test["y"][:, None] == test["y"][None])


def fitted(name: str, seed: int, kept: str, attempt: str):
    """A pair, and the data: all pairs, a share of them (pairs), or that and the rest."""
    rows = rows_of(seed)
    changed = {**({"classifier": 10.0} if name == "meme" else {}), **ATTEMPTS[attempt]}
    share = changed.pop("paired", PAIRED)
    told = rows if kept == "whole" else data.unpair(rows, ["s", "t"], share, seed=seed)
    train = told.train
    if kept != "whole":
        both = torch.stack(list(train.observed.values())).all(0)
        pairs, rest = (found.nonzero().flatten() for found in (both, ~both))
        # As many pairs as other rows in a step, as in steps of either that alternate.
        often = pairs.repeat(len(rest) // len(pairs))
        train = train.rows(pairs if kept == "pairs" else torch.cat((often, rest)))
    pair = zoo.build(name, rows, seed=seed, **changed)
    batch = REST if kept == "rest" else BATCH
    run = inference.fit(
        pair, train.without("y"), seed=seed, steps=STEPS, batch_size=batch, learning_rate=RATE,
        progress=False,
    )  # fmt: skip
    return rows, pair, run


def measured(name: str, seed: int, kept: str = "whole", attempt: str = "first"):
    """Coherence both ways, what a modality makes of itself, and relatedness."""
    began = time.monotonic()
    rows, pair, _ = fitted(name, seed, kept, attempt)
    found = {"seconds": time.monotonic() - began}
    (train,), (test,) = rows.train.batches(), rows.test.batches()
    nets = {m: oracle(train[m], train["y"], seed) for m in ("s", "t")}
    torch.manual_seed(seed)
    made = {}
    for a in ("s", "t"):
        made[a] = pair.intervene(test.only(a).without(*{"s", "t"} - {a}))
        with torch.no_grad():
            z = pair.guide.factor("z", test.only(a)).sample()
            own = pair.modalities.decoders[a](z).mean
        found[f"{a} oracle"] = accuracy(nets[a], test[a], test["y"])
        found[f"{a} itself"] = accuracy(nets[a], own, test["y"])
    for a, b in (("s", "t"), ("t", "s")):
        found[f"{a} to {b}"] = accuracy(nets[b], made[a][b], test["y"])
    found["auc"] = relatedness(pair, test)
    if seed == 0 and kept == "whole":
        first = [int((test["y"] == digit).nonzero()[0, 0]) for digit in range(10)]
        found["images"] = {
            "s": test["s"][first].numpy(), "t": test["t"][first].numpy(),
            "s to t": made["s"]["t"][first].numpy(), "t to s": made["t"]["s"][first].numpy(),
        }  # fmt: skip
    return found


def both_ways(runs) -> list[float]:
    return [(run["s to t"] + run["t to s"]) / 2 for run in runs]


@pytest.fixture(scope="module")
def fits():
    """All pairs, by model in the order of the seeds, and the minutes of the fits."""
    return trained([(name, seed, "whole") for seed in SEEDS for name in MODELS])


@pytest.fixture(scope="module")
def few(request):
    """A share of the pairs, with the rest unpaired and without."""
    kinds = "pairs", "rest"
    jobs = [("meme", seed, kept, request.param) for seed in SEEDS for kept in kinds]
    return request.param, *trained(jobs)


@pytest.fixture(scope="module")
def thirty():
    """MMVAE with as many draws as in its paper."""
    return trained([("mmvae", seed, "whole", "K = 30") for seed in SEEDS])


def trained(jobs):
    found = dict(zip(jobs, run_all(measured, jobs), strict=True))
    minutes = round(sum(run["seconds"] for run in found.values()) / 60, 1)
    columns: dict[str, list] = {}
    for (name, _, kept, *_), run in found.items():
        columns.setdefault(name if kept == "whole" else kept, []).append(run)
    return columns, minutes


def ways(runs) -> str:
    """Coherence from s to t and from t to s."""
    return " / ".join(percent([run[way] for run in runs]) for way in ("s to t", "t to s"))


def test_each_tells_of_the_other(fits, record):
    """Check 1."""
    columns, minutes = fits
    meme, mvae, mmvae = (columns[name] for name in ("meme", "mvae", "mmvae"))
    mean = {
        name: {way: statistics.mean(run[way] for run in runs) for way in ("s to t", "t to s")}
        for name, runs in columns.items()
    }
    claims = {
        "MEME's coherence is at least 90 % both ways": (
            min(mean["meme"].values()) >= 0.9, meme, f"MoPoE {ways(columns['mopoe'])}",
        ),
        "MVAE's mean coherence is at most 40 %": (
            statistics.mean(mean["mvae"].values()) <= 0.4, mvae, f"MEME {ways(meme)}",
        ),
        "MMVAE's coherence from s to t is below MEME's": (
            mean["mmvae"]["s to t"] < mean["meme"]["s to t"], meme, f"MMVAE {ways(mmvae)}",
        ),
    }  # fmt: skip
    for claim, (holds, ours, baseline) in claims.items():
        record(
            f"meme: 1, {claim}",
            paper="MNIST to SVHN / SVHN to MNIST: MEME 62.5 / 75.2 %; MMVAE 58.1 / 73.5; "
            "MVAE 12.3 / 49.8",
            ours=ways(ours),
            baseline=baseline,
            holds="yes" if holds else "no",
            settings=SETTINGS,
            fixture="fits",
            minutes=minutes,
        )
    for runs in columns.values():
        assert all(run["s oracle"] >= 0.96 and run["t oracle"] >= 0.97 for run in runs)
    assert all(holds for holds, *_ in claims.values()), mean


def test_thirty_draws_do_not_reach_meme(fits, thirty, record):
    """Check 1 beside MMVAE's own objective."""
    columns, minutes = thirty
    mmvae, meme = columns["mmvae"], fits[0]["meme"]
    ours, other = ([run["s to t"] for run in runs] for runs in (mmvae, meme))
    holds = statistics.mean(ours) < statistics.mean(other)
    record(
        "mmvae: with the K = 30 of its paper its coherence from s to t is below MEME's, too",
        paper="MNIST to SVHN / SVHN to MNIST: MMVAE 58.1 / 73.5 %; MEME 62.5 / 75.2",
        ours=ways(mmvae),
        baseline=f"MEME {ways(meme)}; MMVAE with K = 1 {ways(fits[0]['mmvae'])}",
        holds="yes" if holds else "no",
        note=f"relatedness {spread([run['auc'] for run in mmvae], digits=3)}; most of what MEME "
        "is ahead of K = 1 is the number of draws",
        settings=f"{SETTINGS}; of MMVAE 30 draws of each expert inside the log, doubly "
        "reparameterised",
        fixture="thirty",
        minutes=minutes,
    )
    assert holds, (ours, other)


def test_codes_of_one_digit_are_near(fits, record):
    """Check 2."""
    columns, minutes = fits
    area = {name: [run["auc"] for run in runs] for name, runs in columns.items()}
    told = {name: spread(values, digits=3) for name, values in area.items()}
    holds = statistics.mean(area["meme"]) >= 0.8 and statistics.mean(area["mvae"]) <= 0.65
    record(
        "meme: 2, the Wasserstein distance of q(z | s_i) and q(z | t_j) tells pairs of one digit: "
        "area at least 0.80, MVAE's at most 0.65",
        paper="histograms: MEME's distances of pairs of one class are the smaller, MVAE's not",
        ours=told["meme"],
        baseline=f"MVAE {told['mvae']}; MMVAE {told['mmvae']}; MoPoE {told['mopoe']}",
        holds="yes" if holds else "no",
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    assert holds, area


@pytest.mark.parametrize("few", SHARES, indirect=True)
def test_rows_without_a_partner_help(few, record):
    """Check 3."""
    attempt, columns, minutes = few
    share, paired, others, paper, cause = SHARES[attempt]
    rest, pairs = both_ways(columns["rest"]), both_ways(columns["pairs"])
    holds = statistics.mean(rest) >= statistics.mean(pairs) + 0.03
    record(
        f"meme: 3, {share} of the rows paired: with the other rows mean coherence is 3 points "
        "above that of the pairs alone",
        paper=f"MNIST to SVHN / SVHN to MNIST {paper}; 62.5 / 75.2 where all are paired",
        ours=ways(columns["rest"]),
        baseline=f"pairs alone {ways(columns['pairs'])}",
        holds="yes" if holds else "no",
        note=cause,
        settings=f"{SETTINGS}; {paired} pairs, and {others} rows of either kind alone, "
        f"{FEW.format(f'{REST} rows')}",
        fixture="few",
        minutes=minutes,
    )
    assert holds, (rest, pairs)


def moved(seed: int) -> dict[str, bool]:
    """Which parts of MEME steps on rows of s alone move."""
    rows = rows_of(seed)
    pair = zoo.build("meme", rows, seed=seed)
    parts = {
        "decoder of t": pair.modalities.decoders["t"],
        "encoder of t": pair.modalities.experts[1],
        "learnt rows of t": pair.pseudo[1],
        "learnt rows of s": pair.pseudo[0],
    }
    before = {n: [p.detach().clone() for p in part.parameters()] for n, part in parts.items()}
    inference.fit(
        pair, rows.train.only("s"), seed=seed, steps=50, batch_size=BATCH, progress=False
    )
    return {
        name: not all(map(torch.equal, part.parameters(), before[name]))
        for name, part in parts.items()
    }


def test_rows_of_one_kind_leave_the_other_decoder_alone(record):
    """Check 4."""
    found = [moved(seed) for seed in SEEDS]
    holds = all(
        not run["decoder of t"] and run["encoder of t"] and run["learnt rows of t"]
        for run in found
    )
    record(
        "meme: 4, rows of s alone leave the decoder of t as it is, to the bit, and move the "
        "encoder and the learnt rows of t",
        ours="as it is; moved; moved",
        holds="yes" if holds else "no",
        settings="50 steps of Adam on the digits s; seeds 0-2",
    )
    assert holds, found


@pytest.mark.parametrize("model", MODELS)
def test_picture(model, fits, picture):
    """Of MEME beside all others; of each of these alone."""
    from matplotlib import pyplot as plt

    columns, _ = fits
    named = {"meme": "MEME", "mmvae": "MMVAE", "mopoe": "MoPoE", "mvae": "MVAE"}
    shown = [model] if model != "meme" else list(named)
    count, two = 1 + len(shown), (("s", "t", 8, 12), ("t", "s", 12, 8))
    figure, axes = plt.subplots(2, 1, figsize=(6.4, 1 + 1.2 * count), layout="constrained")
    for axis, (a, b, low, high) in zip(axes, two, strict=True):
        given = columns[model][0]["images"][a].reshape(-1, low, low)
        lines = [resized(given, 24)]
        for name in shown:
            made = columns[name][0]["images"][f"{a} to {b}"]
            lines.append(resized(made.reshape(-1, high, high), 24))
        grid = np.concatenate([np.concatenate(list(line), 1) for line in lines])
        axis.imshow(grid, cmap="gray", vmin=0, vmax=1)
        for line in range(1, count):
            axis.axhline(24 * line - 0.5, color="white", linewidth=2)
        labels = [f"given {a}", *(named[name] for name in shown)]
        axis.set_yticks([24 * k + 12 for k in range(count)], labels)
        axis.set(xticks=[], title=f"from {a} to {b}")
    picture(figure, model)
    plt.close(figure)


def resized(images: np.ndarray, side: int) -> np.ndarray:
    """Images with larger pixels."""
    times = side // images.shape[-1]
    return images.repeat(times, 1).repeat(times, 2)
