"""Lippe et al. 2022: which latents follow which variable, from which variables were set."""

from __future__ import annotations

import time

import matplotlib
import pytest
import torch

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference.metrics.block_r2 import BlockScores, block_r2

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
NF = {"flow": (32, 32)}
BOXES = {
    "latent": 6,
    "channels": (16, 32),
    "hidden": (64,),
    "steps": 2,
    "flow": (32, 32),
    "units": 16,
    "classifier": (64,),
    "scale": 0.15,
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
    settings = {**NF, **({"beta": 0.0} if kind == "no classifier" else {})}
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
    options = {**FIT, "steps": 4000, "batch_size": 128, "learning_rate": 1e-3}
    inference.fit(pair, rows.train.only(*SEEN), seed=seed, **options)
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
