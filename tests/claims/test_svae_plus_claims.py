"""Lopez et al. 2023: sparse masks find which latents a perturbation shifts."""

from __future__ import annotations

import matplotlib
import pytest
import torch

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.data.render import perturb_sim
from ppl_models.inference.metrics import matching

matplotlib.use("Agg")
pytestmark = pytest.mark.claims
SEEDS = (0, 1, 2)
K = 20.0  # by the bound of validation rows on seed 10
FIT = {"steps": 9400, "learning_rate": 3e-3, "batch_size": 128, "compile": True}
UNSEEN, TRANSFER = 12, (4700, 1000, 1500)  # perturbations, and the steps of the three parts
NET = {"latent": 8, "hidden": (64, 64), "ramp": 0.15}


def shuffled(table: data.Table, seed: int) -> data.Table:
    """Rows whose perturbations are those of others."""
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))
    sites = dict(table.sites)
    sites["perturbation"] = sites["perturbation"][order]
    return data.Table(table.name, sites, numbers=table.numbers, classes=table.classes)


def bound(pair: zoo.Pair, table: data.Table) -> float:
    """Nats per row, without the prior of the targets, at 20 draws."""
    (every,) = table.batches()
    objective = inference.EnumeratedELBO(kl="analytic", particles=20)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        return -float(objective.per_datum(pair.model, pair.guide, every).mean())


def fitted(kind: str, seed: int, k: float = K) -> tuple[zoo.Pair, data.Dataset]:
    rows = data.load("perturb_sim", seed=seed)
    masks = {"shuffled": "summed"}.get(kind, kind)
    pair = zoo.build("svae_plus", rows, seed=seed, masks=masks, sparsity=k, **NET)
    train = shuffled(rows.train, seed) if kind == "shuffled" else rows.train
    inference.fit(pair, train, seed=seed, progress=False, **FIT)
    return pair, rows


def measured(kind: str, seed: int, k: float = K) -> dict[str, object]:
    """MCC of test rows, scores of the targets, and the bound of validation rows."""
    pair, rows = fitted(kind, seed, k)
    with torch.no_grad():
        codes, _ = pair.guide.moments(rows.test.sites["x"])
        state = rows.test.sites["state"]
        order = matching.matching(matching.correlations(codes, state))
        true = torch.from_numpy(perturb_sim.world(seed=seed).targets)
        pi = pair.shifts.probabilities(pair.names)
        found = pi > 0.5
        if kind == "ones":  # of each perturbation the two that it shifts most
            found = torch.zeros_like(found)
            found.scatter_(1, pair.shifts.mu.abs().topk(2).indices, True)
        scores = matching.set_scores(found[:, order], true)
        result = {
            "mcc": matching.mean_correlation(codes, state),
            "ranks": matching.mean_correlation(codes, state, ranks=True),
            "precision": scores.precision,
            "recall": scores.recall,
            "f1": scores.f1,
            "rate": float(pi.mean()),
            "bound": bound(pair, rows.validation),
        }
        if seed == 0:
            result |= {"found": pi[:, order].numpy(), "true": true.numpy()}
        return result


@torch.no_grad()
def transferred(kind: str, seed: int) -> dict[str, float]:
    """Bound of cells of twelve unseen perturbations, of which nothing but shifts is fitted."""
    rows = data.load("perturb_sim", seed=seed, unseen=UNSEEN)
    masks = "summed" if kind == "shuffled" else kind
    pair = zoo.build("svae_plus", rows, seed=seed, masks=masks, sparsity=K, **NET)
    train = shuffled(rows.train, seed) if kind == "shuffled" else rows.train
    how = {"seed": seed, "progress": False, "batch_size": 128}
    plain = inference.EnumeratedELBO(kl="analytic")
    with torch.enable_grad():
        inference.fit(pair, train, learning_rate=3e-3, steps=TRANSFER[0], compile=True, **how)
        if kind != "zeros":
            pair.shifts.settle(torch.arange(60 - UNSEEN, 60))
        masked = ("shifts.logits",) if pair.shifts.learnt else ()
        again = inference.Stage(inference.Weighted(plain, outside=0), freeze=masked)
        inference.fit(pair, train, stages=(again,), learning_rate=1e-3, steps=TRANSFER[1], **how)
        before = bound(pair, rows.test)
        if kind != "zeros":
            freeze = ("counts", "guide", *masked)
            own = inference.Stage(inference.Weighted(plain, outside=0), freeze=freeze)
            inference.fit(
                pair, rows.test, stages=(own,), learning_rate=5e-3, steps=TRANSFER[2], **how
            )
    return {"before": before, "bound": bound(pair, rows.test)}
