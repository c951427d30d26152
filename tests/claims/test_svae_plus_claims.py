"""Lopez et al. 2023: sparse masks find which latents a perturbation shifts."""

from __future__ import annotations

import statistics
import time

import matplotlib
import numpy as np
import pytest
import torch
from claims.measuring import run_all, spread

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.data.render import perturb_sim
from ppl_models.inference.metrics.disentanglement import matching

matplotlib.use("Agg")
pytestmark = pytest.mark.claims
SEEDS = (0, 1, 2)
# Chosen in three other worlds, those of seeds 10 to 12, one start each: mean MCC and F1 are 0.76
# and 0.65 at K = 20, 0.81 and 0.77 at 40, 0.77 and 0.67 at 60 (seeds 10 and 11). The bound of
# validation cells prefers 20 by about 1.3 nats, as the masks' prior is not in it.
K = 40.0
KINDS = {
    "summed": "sVAE+",
    "ones": "iVAE",
    "zeros": "VAE",
    "shuffled": "shuffled",
    "gumbel": "Gumbel",
}
SETTINGS = (
    "perturb_sim: 60 perturbations, 100 cells each, 100 genes, 8 latents; 4,800 cells trained on, "
    "9,400 steps of 128, two layers of 64, K = 40 as of 20, 40 and 60 in the worlds of seeds 10 "
    "to 12; MCC of 600 test cells; seeds 0-2"
)
TRANSFERRED = (
    "12 of the 60 perturbations unseen; 4,700 steps, 1,000 with settled masks, 1,500 of the "
    "shifts of the unseen alone; bound of their 1,200 cells in nats a cell; seeds 0-2"
)
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


def fitted(kind: str, seed: int, k: float) -> tuple[zoo.Pair, data.Dataset]:
    rows = data.load("perturb_sim", seed=seed)
    masks = {"shuffled": "summed"}.get(kind, kind)
    pair = zoo.build("svae_plus", rows, seed=seed, masks=masks, sparsity=k, **NET)
    train = shuffled(rows.train, seed) if kind == "shuffled" else rows.train
    inference.fit(pair, train, seed=seed, progress=False, **FIT)
    return pair, rows


def measured(kind: str, seed: int, k: float = K) -> dict[str, object]:
    """MCC of test rows, scores of the targets, and bounds of validation rows."""
    began = time.monotonic()
    pair, rows = fitted(kind, seed, k)
    with torch.no_grad():
        codes, _ = pair.guide.moments(rows.test.sites["x"])
        state = rows.test.sites["state"]
        order = matching.matching(matching.correlations(codes, state))
        true = torch.from_numpy(perturb_sim.world(seed=seed).targets)
        pi = pair.shifts.probabilities(pair.class_names("perturbation"))
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
        result |= {"found": pi[:, order].numpy(), "true": true.numpy()}
        if pair.shifts.learnt:  # masks as they are found, which the prior does not shrink
            pair.shifts.settle(torch.zeros(0, dtype=torch.long))
            result["settled"] = bound(pair, rows.validation)
        return result | {"minutes": (time.monotonic() - began) / 60}


@torch.no_grad()
def transferred(kind: str, seed: int) -> dict[str, float]:
    """Bound of cells of twelve unseen perturbations, of which nothing but shifts is fitted."""
    began = time.monotonic()
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
    minutes = (time.monotonic() - began) / 60
    return {"before": before, "bound": bound(pair, rows.test), "minutes": minutes}


@pytest.fixture(scope="module")
def fits():
    """What was measured, by kind and seed, and the minutes that it took."""
    jobs = [(kind, seed) for seed in SEEDS for kind in KINDS]
    found = dict(zip(jobs, run_all(measured, jobs), strict=True))
    minutes = round(sum(run["minutes"] for run in found.values()), 1)
    return {k: [found[k, seed] for seed in SEEDS] for k in KINDS}, minutes


@pytest.fixture(scope="module")
def transfers():
    """Bounds of unseen perturbations, by kind and seed, and the minutes that it took."""
    kinds = ("summed", "zeros", "shuffled")
    jobs = [(kind, seed) for seed in SEEDS for kind in kinds]
    found = dict(zip(jobs, run_all(transferred, jobs), strict=True))
    minutes = round(sum(run["minutes"] for run in found.values()), 1)
    return {k: [found[k, seed]["bound"] for seed in SEEDS] for k in kinds}, minutes


def values(columns, kind, name):
    return [run[name] for run in columns[kind]]


def told(columns, name, *kinds):
    return ", ".join(f"{KINDS[kind]} {spread(values(columns, kind, name))}" for kind in kinds)


def test_latents_are_found(fits, record):
    """Check 1, at the margins of the project's own."""
    columns, minutes = fits
    mean = {kind: statistics.mean(values(columns, kind, "mcc")) for kind in KINDS}
    margin = mean["summed"] - max(mean["ones"], mean["zeros"])
    holds = mean["summed"] >= 0.75 and margin >= 0.12
    record(
        "svae_plus: 1, MCC at least 0.75, and 0.12 above VAE and iVAE",
        ours=spread(values(columns, "summed", "mcc")),
        baseline=told(columns, "mcc", "zeros", "ones"),
        holds="yes" if holds else "no",
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    assert holds, mean


def test_targets_are_found(fits, record):
    """Check 2."""
    columns, minutes = fits
    mean = {kind: statistics.mean(values(columns, kind, "f1")) for kind in KINDS}
    rates = values(columns, "summed", "rate")
    holds = {
        "f1": mean["summed"] >= 0.60 and mean["summed"] >= mean["ones"] + 0.15,
        "rate": statistics.mean(rates) < 0.45,
    }
    parts = (f"{n} {spread(values(columns, 'summed', n))}" for n in ("precision", "recall"))
    record(
        "svae_plus: 2, F1 of the targets at least 0.60, and 0.15 above iVAE's two largest shifts",
        ours=f"{spread(values(columns, 'summed', 'f1'))}: {', '.join(parts)}",
        baseline=told(columns, "f1", "ones"),
        holds="yes" if holds["f1"] else "no",
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    record(
        "svae_plus: 2, mean probability of a target falls from 0.993 below 0.45",
        ours=spread(rates),
        baseline="true share 0.23",
        holds="yes" if holds["rate"] else "no",
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    assert all(holds.values()), (mean, rates)


def test_shuffled_labels_find_what_a_vae_finds(fits, record):
    """Check 5."""
    columns, minutes = fits
    mean = {kind: statistics.mean(values(columns, kind, "mcc")) for kind in KINDS}
    holds = abs(mean["shuffled"] - mean["zeros"]) <= 0.10
    record(
        "svae_plus: 5, labels shuffled across cells: MCC within 0.10 of the VAE's",
        ours=f"{spread(values(columns, 'shuffled', 'mcc'))}, targets found: "
        f"{spread(values(columns, 'shuffled', 'rate'))}",
        baseline=told(columns, "mcc", "zeros", "summed"),
        holds="yes" if holds else "no",
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    assert holds, mean


def test_the_gumbel_estimator_finds_the_same(fits, record):
    """No claim of the paper's, which draws masks: what was expected of summing them out."""
    columns, minutes = fits
    gap = statistics.mean(values(columns, "summed", "mcc")) - statistics.mean(
        values(columns, "gumbel", "mcc")
    )
    holds = abs(gap) <= 0.10
    record(
        "svae_plus: masks summed out and drawn by Gumbel: MCC within 0.10 of each other",
        ours=told(columns, "mcc", "summed") + "; F1 " + told(columns, "f1", "summed"),
        baseline=told(columns, "mcc", "gumbel") + "; F1 " + told(columns, "f1", "gumbel"),
        holds="yes" if holds else "no",
        note="" if holds else "the sum has the same optimum and no noise: it finds more",
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    assert holds, gap


def test_unseen_perturbations(transfers, record):
    """Check 4, its direction."""
    columns, minutes = transfers
    mean = {kind: statistics.mean(v) for kind, v in columns.items()}
    holds = mean["summed"] > max(mean["zeros"], mean["shuffled"])
    record(
        "svae_plus: 4, unseen perturbations: bound above the VAE's and that of shuffled labels",
        ours=spread(columns["summed"]),
        baseline=f"VAE {spread(columns['zeros'])}, shuffled {spread(columns['shuffled'])}",
        holds="yes" if holds else "no",
        settings=TRANSFERRED,
        fixture="transfers",
        minutes=minutes,
    )
    assert holds, columns


def test_picture(fits, picture):
    from matplotlib import pyplot as plt

    columns, _ = fits
    panels = {
        "true targets": columns["summed"][0]["true"],
        "sVAE+": columns["summed"][0]["found"],
        "labels shuffled": columns["shuffled"][0]["found"],
    }
    order = np.lexsort(columns["summed"][0]["true"].T[::-1])[::-1]
    figure, axes = plt.subplots(len(panels), 1, figsize=(8.5, 4.2), sharex=True)
    for axis, (name, found) in zip(axes, panels.items(), strict=True):
        drawn = axis.imshow(found[order].T, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axis.set_title(name, loc="left", fontsize=9)
        axis.set(ylabel="latent", yticks=[0, 7])
    axes[-1].set(xlabel="perturbation, in the order of its targets", xticks=[])
    figure.tight_layout()
    figure.colorbar(drawn, ax=axes, label="probability that it is shifted", fraction=0.03)
    picture(figure, "svae_plus")
    plt.close(figure)
