"""Joy et al. 2022: what one modality tells of the other, by MEME and the papers before it."""

from __future__ import annotations

import time

import matplotlib
import pytest
import torch
from torch import nn

import ppl_models as zoo
from ppl_models import data, inference

matplotlib.use("Agg")
pytestmark = pytest.mark.claims
SEEDS = (0, 1, 2)
MODELS = ("meme", "mvae", "mmvae", "mopoe")
STEPS, BATCH, RATE, PAIRED = 1500, 128, 3e-3, 0.125
SETTINGS = (
    "scikit-learn's digits s (8 x 8) and styled stroke digits t (12 x 12), paired by class: 8,000 "
    f"pairs, 397 test pairs; L = 16, MLPs of 256, Laplace b = 0.15, K = 10, Adam at {RATE:g}, "
    f"{STEPS:,} steps of {BATCH} rows, compiled; accuracy of networks trained on real images at "
    "means of images whose codes are drawn; seeds 0-2"
)


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


def fitted(name: str, seed: int, kept: str):
    """A pair, and the data: all pairs, a share of them (pairs), or that and the rest (all)."""
    rows = rows_of(seed)
    told = rows if kept == "whole" else data.unpair(rows, ["s", "t"], PAIRED, seed=seed)
    train = told.train
    if kept == "pairs":
        both = torch.ones(len(train), dtype=torch.bool)
        for mask in train.observed.values():
            both &= mask
        train = train.rows(both.nonzero().flatten())
    options = {"classifier": 10.0} if name == "meme" else {}
    pair = zoo.build(name, rows, seed=seed, **options)
    batch = BATCH if kept != "rest" else round(BATCH / PAIRED / 4)
    run = inference.fit(
        pair, train.without("y"), seed=seed, steps=STEPS, batch_size=batch, learning_rate=RATE,
        progress=False,
    )  # fmt: skip
    return rows, pair, run


def measured(name: str, seed: int, kept: str = "whole"):
    """Coherence both ways, what a modality makes of itself, and relatedness."""
    began = time.monotonic()
    rows, pair, _ = fitted(name, seed, kept)
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
