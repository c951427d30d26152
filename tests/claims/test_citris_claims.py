"""Lippe et al. 2022: which latents follow which variable, from which variables were set."""

from __future__ import annotations

import time

import matplotlib
import numpy as np
import pytest
import torch
from claims.measuring import run_all, spread

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
