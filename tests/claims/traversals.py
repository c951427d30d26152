"""What each coordinate of a code changes, drawn."""

from __future__ import annotations

import numpy as np
import torch

import ppl_models as zoo
from ppl_models import data
from ppl_models.inference import metrics
from ppl_models.inference.plots.samples import mosaic

ENDS = 2.0  # a coordinate moves between minus this and this


def traversals(pair: zoo.Pair, row: data.Table, steps: int = 7) -> np.ndarray:
    """The mean grey image as each coordinate of ``z`` moves: ``(D, S, H, W)``."""
    codes = torch.as_tensor(metrics.encode(pair, row).codes, dtype=torch.float32)[0]
    moved = codes.repeat(len(codes), steps, 1)
    for place in range(len(codes)):
        moved[place, :, place] = torch.linspace(-ENDS, ENDS, steps)
    height, width = row.shapes["x"][:2]
    with torch.no_grad():
        means = pair.likelihood(pair.decoder(z=moved)).mean
    return means.reshape(len(codes), steps, height, width).numpy()


def draw_traversals(ax, images: np.ndarray, title: str) -> None:
    """A line of images for each coordinate."""
    codes, steps = images.shape[:2]
    down, across = mosaic(ax, images.reshape(codes * steps, *images.shape[2:]), steps)
    ax.set_yticks(down, [f"z[{d}]" for d in range(codes)], fontsize=7)
    ends = (0, steps // 2, steps - 1)
    ax.set_xticks([across[k] for k in ends], [f"{v:g}" for v in (-ENDS, 0, ENDS)], fontsize=7)
    ax.set_title(title, fontsize=9)
