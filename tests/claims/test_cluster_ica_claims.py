"""Cluster-ICA on simulated sources: clusters that are found against given ones and none at all."""

from __future__ import annotations

import pytest
import torch

from ppl_models import build, data, inference

SEEDS, WORLDS = (0, 1, 2), (0, 1, 2)
TWO_LAYERS = {"sources": 2, "layers": 2, "train": 16_000}
DATA = {
    "clustered": {**TWO_LAYERS, "segments": 8, "scale": (0.3, 1.0), "offset": 5.0, "reach": 3.0},
    "variances": {**TWO_LAYERS, "segments": 20},
}
PAIR = {"latent": 2, "hidden": (64, 64), "activation": "leaky_tanh", "likelihood": "normal"}
FIT = {"batch_size": 256, "learning_rate": 3e-3, "compile": True, "progress": False}


def fit(kind: str, world: int, how: str, seed: int, steps: int) -> dict[str, torch.Tensor]:
    """Codes of the test rows, and minus the bound of log p(x) of each, given y where it is.

    Args:
        kind: Of the data.
        world: Their seed.
        how: The prior, or ``"shuffled"`` for given labels that are another row's.
        seed: Of weights and training.
        steps: Number of steps, of which a third warms up where clusters are to be found.
    """
    rows = data.load("ica_segments", seed=world, **DATA[kind])
    if how == "shuffled":
        order = torch.randperm(len(rows.train), generator=torch.Generator().manual_seed(0))
        rows.train.sites["y"][:] = rows.train.sites["y"][order]
    prior = "given" if how == "shuffled" else how
    clusters = DATA[kind]["segments"]
    pair = build("cluster_ica", rows, seed=seed, prior=prior, clusters=clusters, **PAIR)
    lengths = (steps // 3, steps - steps // 3) if prior == "mixture" else steps
    run = inference.fit(pair, rows, steps=lengths, seed=seed, **FIT)
    seen = rows.test if prior == "given" else rows.test.without("y")
    loss = -run.bound_per_row(seen, inference.EnumeratedELBO(particles=8))
    with torch.no_grad():
        if prior == "given":
            loss = loss + pair.mixtures["z"].logits.log_softmax(0)[rows.test.sites["y"]]
        codes = pair.guide.factor("z", {"x": rows.test.sites["x"]}).mean
    return {"codes": codes, "loss": loss, "s": rows.test.sites["s"], "y": rows.test.sites["y"]}
