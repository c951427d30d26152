"""What claims on codes of images share: fits on blob, and moments of a code over all its cells."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

import ppl_models as zoo
from ppl_models import data, inference

SEEDS = (0, 1, 2)
STEPS, LONG, BATCH, RATE = 2_000, 6_000, 64, 1e-3
NETWORKS: dict[str, Any] = {"networks": "dense", "hidden": (128, 128), "activation": "tanh"}
SETTINGS = (
    "blob, dense 128-128 tanh, D = 4, {} steps of 64 cells drawn from all 576, Adam 1e-3; "
    "moments and KL over the 576 cells; seeds 0-2"
)
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "beta 1": ("beta_vae", {"beta": 1.0}),
    "beta 4": ("beta_vae", {"beta": 4.0}),
    "beta 16": ("beta_vae", {"beta": 16.0}),
    "capacity": (
        "annealed_vae",
        {"gamma": 100.0, "capacity": 3.0, "capacity_steps": STEPS // 2},
    ),
    "DIP-I": ("dip_vae", {"kind": "I", "lambda_od": 10.0, "lambda_d": 100.0}),
    "DIP-II": ("dip_vae", {"kind": "II", "lambda_od": 10.0, "lambda_d": 10.0}),
}


@functools.cache
def cells() -> torch.Tensor:
    """All images of blob in order, (576, 256)."""
    grid = data.factor_data("blob")
    every = grid.classes(np.arange(len(grid)))
    return torch.from_numpy(grid.render(every, np.random.default_rng(0))).flatten(1)


def shares(sigma: float | None) -> np.ndarray:
    """How probable each cell is, (576,): all alike, or near the diagonal more than elsewhere."""
    grid = data.factor_data("blob")
    weights = np.ones(len(grid)) if sigma is None else grid.correlated("positions", sigma)
    return weights / weights.sum()


def drawn(sigma: float | None, seed: int) -> data.Table:
    """As many rows as 2,000 steps take, with replacement."""
    grid, weights = data.factor_data("blob"), shares(sigma)
    classes = grid.sample(STEPS * BATCH, np.random.default_rng(seed), weights)
    return data.Table("blob", {"x": cells()[grid.index(classes)]}, shapes={"x": (16, 16)})


@torch.no_grad()
def moments(pair: zoo.Pair, weights: np.ndarray) -> dict[str, Any]:
    """Of the code over weighted cells: covariance of means, mean variance, KL, reconstruction."""
    x, w = cells(), torch.from_numpy(weights).double()
    q = pair.guide.factor("z", {"x": x}).base_dist
    mean, scale = q.loc.double(), q.scale.double()
    centred = mean - w @ mean
    torch.manual_seed(0)
    draws = q.expand((16, *q.batch_shape)).sample()
    nats = -pair.likelihood(pair.decoder(z=draws)).log_prob(x).double().mean(0)
    return {
        "covariance": ((w[:, None] * centred).T @ centred).numpy(),
        "variance": (w @ scale.square()).numpy(),
        "kl": (w @ (0.5 * (mean.square() + scale.square() - 1) - scale.log())).numpy(),
        "reconstruction": float(w @ nats),
    }


@torch.no_grad()
def traversals(pair: zoo.Pair, dims: Sequence[int], side: int, count: int = 7) -> np.ndarray:
    """Decoded from -2 to 2 along each of these coordinates, the others at 0."""
    z = torch.zeros(len(dims), count, pair.config.latent)
    for line, dim in enumerate(dims):
        z[line, :, dim] = torch.linspace(-2, 2, count)
    found = pair.likelihood(pair.decoder(z=z)).mean
    return found.reshape(len(dims), count, side, side).numpy()


def of_blob(
    method: str, seed: int, sigma: float | None = None, steps: int = STEPS
) -> dict[str, Any]:
    """A fit, its curves and the moments of its code."""
    name, settings = METHODS[method]
    pair = zoo.build(name, shape=(16, 16, 1), latent=4, seed=seed, **NETWORKS, **settings)
    weights, by_step = shares(sigma), {}

    def look(run: inference.Run, step: int) -> None:
        if step % 50 == 0:
            found = moments(pair, weights)
            by_step[step] = (*found["kl"], found["reconstruction"])

    began = time.monotonic()
    run = inference.fit(
        pair, drawn(sigma, seed), seed=seed, steps=steps, batch_size=BATCH, learning_rate=RATE,
        compile=True, progress=False, callbacks=(look,) if method == "capacity" else (),
    )  # fmt: skip
    return {
        **moments(pair, weights),
        "curve": {n: list(run.history[n]) for n in ("step", "kl(z)", "reconstruction")},
        "by step": by_step,
        "images": traversals(pair, range(4), 16),
        "seconds": time.monotonic() - began,
    }
