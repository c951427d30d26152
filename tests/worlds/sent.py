"""What a process that was sent things makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ppl_models.data import Stream


def use(out: str, pair, own, objective, run, table, posterior) -> None:
    """Use each of them once, and write down what came out."""
    batches = list(table.batches(torch.arange(20)))
    torch.manual_seed(0)
    found = {
        "parameters": sum(float(p.detach().sum()) for p in pair.parameters()),
        "own": float(own.net.weight.detach().sum()),
        "loss": objective.loss(pair.model, pair.guide, batches[0]),
        "error": run.error(table.where_observed("y")),
        "history": run.history["loss"],
        "step": [b.count for b in Stream(table, 10).step(0)],
        "z": float(posterior["posterior"]["z"].sum()),
        "x": float(table.sites["x"][torch.arange(20)].sum()),
    }
    Path(out).write_text(json.dumps(found))
