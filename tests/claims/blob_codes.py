"""Codes of blob with correlated positions: fits, and the exact parts of their KL.

The grid has 576 cells, so that the aggregate posterior under the correlation that the pairs are
trained on is a weighted mixture of as many Gaussians.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import ppl_models as zoo
from ppl_models import Batch, data, inference
from ppl_models.inference import metrics

SIGMA, LATENT, STEPS = 0.3, 4, 2_000
NETWORKS: dict[str, Any] = {
    "networks": "dense",
    "hidden": (128, 128),
    "activation": "tanh",
    "latent": LATENT,
}
PARTS = ("mutual_information", "total_correlation", "dimension_wise", "kl")
DRAWS = 6  # of each cell: 3,456 in all
SETTINGS = (
    f"blob, positions correlated at sigma {SIGMA}, 20,000 training rows; 128-128 tanh, D = "
    f"{LATENT}, batch 64, {STEPS:,} steps of Adam 1e-3; TC and information from the weighted "
    f"mixture of all 576 cells, {DRAWS} draws of each; seeds 0-2"
)


def rows_of(seed: int) -> data.Dataset:
    """Training rows under the correlation; two cells are set aside."""
    return data.load(
        "blob", correlated="positions", sigma=SIGMA, train=20_000, validation=1, test=1, seed=seed
    )


def fitted(name: str, seed: int, emphasis: float, options: tuple[tuple[str, Any], ...] = (),
           steps: int = STEPS) -> dict[str, Any]:  # fmt: skip
    """A pair fitted to blob: exact parts of its KL, reconstruction, mean codes of all cells.

    Args:
        name: Of the pair.
        seed: Of rows, weights and draws.
        emphasis: Weight of the likelihood.
        options: Further settings of the pair.
        steps: Of training.
    """
    rows = rows_of(seed)
    pair = zoo.build(name, rows, seed=seed, emphasis=emphasis, **NETWORKS, **dict(options))
    inference.fit(
        pair, rows.train, seed=seed, steps=steps, batch_size=64, learning_rate=1e-3,
        progress=False, device="cpu",
    )  # fmt: skip
    grid = data.factor_data("blob")
    weights = grid.correlated("positions", SIGMA)
    parts = metrics.kl_decomposition(pair, grid, weights=weights, draws=DRAWS)
    codes = metrics.encode(pair, grid)
    told = {part: float(parts[part]) for part in PARTS}
    return {
        **told,
        "reconstruction": reconstruction(pair, grid, weights),
        "codes": codes.codes,
        "scale": codes.scale,
    }


def images(grid: data.FactorData) -> torch.Tensor:
    """All cells ``(576, 256)``."""
    drawn = grid.render(grid.classes(np.arange(len(grid))), np.random.default_rng(0))
    return torch.as_tensor(drawn, dtype=torch.float32).flatten(1)


def reconstruction(pair: zoo.Pair, grid: data.FactorData, weights: np.ndarray) -> float:
    """Mean of -log p(x | z), nats, under the correlation."""
    x, share = images(grid), torch.as_tensor(weights / weights.sum())
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        z = pair.guide.factor("z", Batch({"x": x})).sample((DRAWS,))
        log_p = pair.likelihood(pair.decoder(z=z)).log_prob(x).double().mean(0)
    return float(-(share * log_p).sum())
