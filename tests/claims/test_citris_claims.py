"""Lippe et al. 2022: which latents follow which variable, from which variables were set."""

from __future__ import annotations

import time

import matplotlib
import numpy as np
import pytest
import torch
from claims.measuring import run_all, spread
from matplotlib import pyplot as plt
from worlds.citris_by_hand import batch_for, both_losses, built

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference.metrics.disentanglement.block_r2 import BlockScores, block_r2
from ppl_models.inference.plots.samples import mosaic

matplotlib.use("Agg")
pytestmark = pytest.mark.claims
SEEDS = (0, 1, 2)
KINDS = ("CITRIS-NF", "shuffled targets", "no classifier")
SEEN = ("x", "x_next", "targets")
FIT = {
    "steps": 5000,
    "batch_size": 256,
    "learning_rate": 2e-3,
    "schedule": "cosine(last=0.05)",
    "warmup": 100,
    "clip_norm": 0.0,
    "compile": True,
    "progress": False,
}
# Why the baseline without a classifier is no worse.
ALONE = (
    "with the assignments summed out exactly, the likelihood of the transitions finds the blocks "
    "of these vectors alone. Second attempt, as the prototype of the check that had 0.16 (3,000 "
    "steps, 64 units, rate 1e-3, clipped): 0.80 (0.17) without, 0.88 (0.03) with it; dims of 2, "
    "1, 1, 1 0.78 (0.11) and 0.91 (0.02)"
)
# Why what nobody sets is in somebody's block.
FREE = (
    "a latent of what nobody sets is worth the same in any block, but for lambda, 0.01 here as "
    "in the paper's code: it rides along with box or y. 5,000 steps with a weight of the targets "
    "of 2, and of 8, had the same. With lambda 0.1 and 0.5 (seed 10) it leaves box's block (0.01, "
    "0.00) for block 0 (0.98, 0.97), but a latent of y still tells it (0.91, 0.90)"
)
SETTINGS = (
    "entangled_vectors, 20,000 rows, dims 1, 2, 1, 1; flow of 4 steps with 32, 32 units; 5,000 "
    "steps of 256 rows; R2 on 5,000 independent states; seeds 0-2"
)
BOX_SETTINGS = (
    "ball_in_boxes at 16 x 16, 20,000 rows; 6 latents, deviation 0.1 of pixels, 9,000 steps of "
    "256 rows, rate 2e-3, beta_classifier 8; R2 on 5,000 independent states; seeds 0-2"
)
NF = {"flow": (32, 32)}
BOXES = {
    "latent": 6,
    "channels": (16, 32),
    "hidden": (64,),
    "flow_steps": 4,
    "flow": (32, 32),
    "units": 16,
    "classifier": (64,),
    "sigma": 0.1,
    "target_weight": 8.0,
}


def shuffled(table: data.Table, seed: int) -> data.Table:
    """The rows, with the targets of others."""
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))
    sites = {**table.sites, "targets": table.sites["targets"][order]}
    return data.Table(table.name, sites, shapes=table.shapes)


@torch.no_grad()
def scores(pair: zoo.Pair, table: data.Table) -> BlockScores:
    """What each block tells of the factors of independent frames."""
    names = [name for name in table.sites if name not in SEEN]
    codes = pair.frames.code(zoo.Batch({"x": table.sites["x"]}))
    blocks = pair.frames.blocks
    with torch.enable_grad():
        return block_r2(
            codes,
            blocks.assigned,
            {name: table.sites[name] for name in names},
            blocks.logits.shape[1] - 1,
        )


def measured(kind: str, seed: int) -> dict[str, object]:
    """One fit to vectors, and the R2 of its blocks."""
    began = time.monotonic()
    rows = data.load("entangled_vectors", seed=seed)
    train = rows.train.only(*SEEN)
    if kind == "shuffled targets":
        train = shuffled(train, seed)
    settings = {**NF, **({"target_weight": 0.0} if kind == "no classifier" else {})}
    pair = zoo.build("citris_nf", rows, seed=seed, **settings)
    inference.fit(pair, train, seed=seed, **FIT)
    found = scores(pair, rows.test)
    assigned = pair.frames.blocks.assigned
    return {
        "r2": found.r2,
        "spearman": found.spearman,
        "diagonal": found.diagonal(),
        "off": found.off_diagonal(),
        "sizes": [int((assigned == k).sum()) for k in range(5)],
        "psi": pair.frames.blocks.probabilities.detach().numpy(),
        "minutes": (time.monotonic() - began) / 60,
    }


def boxes(seed: int) -> dict[str, object]:
    """A fit to images of a ball in one of two boxes, and the R2 of its blocks."""
    began = time.monotonic()
    rows = data.load("ball_in_boxes", side=16, seed=seed)
    pair = zoo.build("citris_vae", rows, seed=seed, **BOXES)
    inference.fit(pair, rows.train.only(*SEEN), seed=seed, **{**FIT, "steps": 9000})
    found = scores(pair, rows.test)
    result: dict[str, object] = {
        "factors": found.factors,
        "r2": found.r2,
        "psi": pair.frames.blocks.probabilities.detach().numpy(),
        "minutes": (time.monotonic() - began) / 60,
    }
    if seed in (0, 10):
        x = rows.test.sites["x"]
        first, second = (zoo.Batch({"x": part}) for part in (x[:12], x[12:24]))
        with torch.no_grad():
            frames = pair.frames
            plain = [frames.combined(b, b, ()) for b in (first, second)]
            mixed = [frames.combined(first, second, (k,)) for k in (1, 2)]
        result["triplets"] = torch.stack([x[:12], x[12:24], *plain, *mixed], 1).numpy()
    return result


def of_all(job, jobs):
    """What jobs came to, and the minutes that all of them took."""
    found = dict(zip(jobs, run_all(job, jobs), strict=True))
    return found, round(sum(run["minutes"] for run in found.values()), 1)


@pytest.fixture(scope="module")
def vectors():
    """What was measured, by kind, of each seed, and the minutes that it took."""
    found, minutes = of_all(measured, [(kind, seed) for seed in SEEDS for kind in KINDS])
    return {kind: [found[kind, seed] for seed in SEEDS] for kind in KINDS}, minutes


@pytest.fixture(scope="module")
def balls():
    """The fits to images, and the minutes that they took."""
    found, minutes = of_all(boxes, [(seed,) for seed in SEEDS])
    return list(found.values()), minutes


def test_blocks_follow_their_variables(vectors, record):
    """Check 1."""
    found, minutes = vectors
    own, off = ([run[key] for run in found["CITRIS-NF"]] for key in ("diagonal", "off"))
    without = {kind: [run["diagonal"] for run in found[kind]] for kind in KINDS[1:]}
    mean = {kind: float(np.mean(values)) for kind, values in without.items()}
    two = [run["sizes"][2] for run in found["CITRIS-NF"]]
    rest = {"settings": SETTINGS, "fixture": "vectors", "minutes": minutes}
    holds = {
        "diagonal": float(np.mean(own)) >= 0.85,
        "off": float(np.mean(off)) <= 0.25,
        "two": min(two) >= 2,
        "shuffled": mean["shuffled targets"] < 0.3,
        "alone": mean["no classifier"] < 0.5,
    }
    record(
        "citris_nf: 1, vectors, mean R2 of each variable from its own block at least 0.85",
        paper="near 1 on Pong, about 0.98 on Causal3DIdent",
        ours=spread(own),
        baseline=f"targets of other rows {spread(without['shuffled targets'])} (below 0.3)",
        holds="yes" if holds["diagonal"] and holds["shuffled"] else "no",
        **rest,
    )
    record(
        "citris_nf: 1, vectors, without the classifier that R2 is below 0.5",
        ours=spread(own),
        baseline=f"no classifier {spread(without['no classifier'])}",
        holds="yes" if holds["alone"] else "no",
        note="" if holds["alone"] else ALONE,
        **rest,
    )
    record(
        "citris_nf: 1, vectors, largest R2 of another variable at most 0.25; two latents of c2",
        paper="near 0 on Pong, about 0.04 on Causal3DIdent",
        ours=f"{spread(off)}, latents of c2 {', '.join(map(str, two))}",
        holds="yes" if holds["off"] and holds["two"] else "no",
        **rest,
    )
    assert all(holds.values()), holds


def test_assignments_are_summed_exactly(record):
    """Check 2."""
    pair = built("vectors")
    loss, by_loop = both_losses(pair, batch_for(pair))
    error = float(((loss - by_loop) / by_loop).detach().abs())
    record(
        "citris_nf: 2, the loss is the sum over assignments by hand to 1e-4 relative",
        ours=f"{error:.0e}",
        holds="yes" if error < 1e-4 else "no",
        settings="6 rows, 5 latents, 3 variables, float64",
    )
    assert error < 1e-4


def test_the_flow_is_invertible(record):
    """Check 4."""
    torch.manual_seed(0)
    flow = zoo.build("citris_nf").frames.flow
    x = torch.randn(200, 5)
    with torch.no_grad():
        error = float((flow.inverse(flow(x)) - x).abs().max())
        log_det = flow.with_log_det(x)[1]
    exact = torch.stack([torch.autograd.functional.jacobian(flow, row).slogdet()[1] for row in x])
    apart = float((log_det - exact).abs().max())
    record(
        "citris_nf: 4, the flow is inverted to 1e-4, and its volume is autograd's",
        ours=f"{error:.0e}; log-determinant {apart:.0e}",
        holds="yes" if max(error, apart) < 1e-4 else "no",
        settings="200 rows of 5 numbers, float32",
    )
    assert max(error, apart) < 1e-4


def test_a_ball_is_found_in_its_box(balls, record):
    """Check 3."""
    runs, minutes = balls
    r2 = {
        (block, name): [float(run["r2"][place, run["factors"].index(name)]) for run in runs]
        for place, block in enumerate(("free", "box", "y", "all"))
        for name in ("box", "y", "across")
    }
    mean = {key: float(np.mean(values)) for key, values in r2.items()}
    rest = {"settings": BOX_SETTINGS, "fixture": "balls", "minutes": minutes}
    holds = {
        "own": mean["box", "box"] > 0.8 and mean["y", "y"] > 0.8,
        "apart": mean["box", "y"] < 0.15 and mean["y", "box"] < 0.15,
        "across": mean["all", "across"] > 0.7,
        "free": max(mean["box", "across"], mean["y", "across"]) < 0.25,
    }
    told = {key: spread(values) for key, values in r2.items()}
    record(
        "citris_vae: 3, ball in boxes, R2 of box and of y from their own blocks above 0.8",
        paper="found, by figure",
        ours=f"box {told['box', 'box']}, y {told['y', 'y']}",
        baseline=f"from the other's block (below 0.15): box {told['y', 'box']}, "
        f"y {told['box', 'y']}",
        holds="yes" if holds["own"] and holds["apart"] else "no",
        **rest,
    )
    record(
        "citris_vae: 3, place across the box, which is never set, from all latents above 0.7",
        ours=told["all", "across"],
        holds="yes" if holds["across"] else "no",
        **rest,
    )
    record(
        "citris_vae: 3, a stretch: place across from the blocks of box and of y below 0.25",
        paper="across the box is in neither block",
        ours=f"box {told['box', 'across']}, y {told['y', 'across']}; block 0 "
        f"{told['free', 'across']}",
        holds="yes" if holds["free"] else "no",
        note="" if holds["free"] else FREE,
        **rest,
    )
    assert all(holds.values()), holds


def test_the_picture(balls, picture):
    """Two images, and the first with the box, or the height, of the second."""
    images = balls[0][0]["triplets"].reshape(12, 6, 16, 16, 3)[:6]
    figure, ax = plt.subplots(figsize=(6, 5.5))
    _, across = mosaic(ax, images.reshape(-1, 16, 16, 3), 6)
    names = ["first", "second", "first,\ndecoded", "second,\ndecoded", "box of\nsecond",
             "y of\nsecond"]  # fmt: skip
    ax.set_xticks(across, names)
    picture(figure, "citris_vae")
