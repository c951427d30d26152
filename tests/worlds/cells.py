"""Cells in a file, for stories and pages with covariates."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

CELLS, GENES = 240, 5
LIBRARY = ("lab b", "lab a")  # not in the order of the alphabet


def write_cells(path: Path, seed: int = 0) -> np.ndarray:
    """Cells of two batches, in the second of which the last gene is caught ten times as often."""
    draw = np.random.default_rng(seed)
    batch = np.arange(CELLS) % 2
    shares = draw.dirichlet(np.full(GENES, 5.0), 2)[draw.integers(0, 2, CELLS)]
    shares[:, -1] *= np.where(batch == 1, 10.0, 1.0)
    size = draw.integers(30, 200, CELLS)
    counts = 1 + draw.poisson(size[:, None] * shares)
    with h5py.File(path, "w") as file:
        file["X"] = counts.astype(np.float32)
        file["obs/batch/codes"] = batch.astype(np.int8)
        file["obs/batch/categories"] = np.array(LIBRARY, dtype="S")
        file["obs/_index"] = np.array([f"cell{n}" for n in range(CELLS)], dtype="S")
        file["obs"].attrs["_index"] = "_index"
        file["var/_index"] = np.array([f"g{n}" for n in range(GENES)], dtype="S")
        file["var"].attrs["_index"] = "_index"
    return counts
