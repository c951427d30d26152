"""What claims about sets of drawings share: Omniglot's test characters, bounds, recognition."""

from __future__ import annotations

import functools
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import ppl_models as zoo
from ppl_models import Batch, data, inference

FOLDER = Path(os.environ.get("PPL_DATA", ".")) / "omniglot"
needs_omniglot = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="needs Omniglot's zip files in $PPL_DATA"
)
DRAWS = 4


@functools.cache
def rows_of(source: str, seed: int, size: int) -> data.Table:
    return data.load("concepts", source=source, size=size, test_size=size, seed=seed).test


def per_image(run: inference.Run, table: data.Table) -> float:
    """The bound in nats per image, over all sets of a table."""
    bound = inference.ELBO(particles=DRAWS, kl="analytic")
    return float(run.bound_per_row(table, bound).sum() / table.sites["x_there"][:].sum())


def recognised(made: torch.Tensor, known: torch.Tensor) -> float:
    """Share of images ``(C, n, 196)`` nearest to their own of C means of blurred images."""

    def seen(images: torch.Tensor) -> torch.Tensor:
        flat = images.reshape(-1, 1, 14, 14)
        return F.avg_pool2d(flat, 3, 1, 1).reshape(*images.shape[:2], -1)

    means = F.normalize(seen(known).mean(1), dim=-1)
    near = (F.normalize(seen(made), dim=-1) @ means.T).argmax(-1)
    return float((near == torch.arange(len(made))[:, None]).double().mean())


def drawn(pair: zoo.Pair, seed: int) -> dict[str, object]:
    """Five drawings are shown of each of 20 characters; ten others say what it looks like."""
    table = rows_of("omniglot", seed, 20)
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))[:20]
    x = table.sites["x"][:][order]
    shown, known, others = x[:, :5], x[:, 5:15], x[:, 15:]
    batch = Batch({"x": shown, "x_there": torch.ones(shown.shape[:2])})
    torch.manual_seed(seed)
    made = pair.sample_sets(batch, 10)
    refined = pair.sample_sets(batch, 10, rounds=10)
    return {
        "conditional": recognised(made, known),
        "refined": recognised(refined, known),
        "unconditional": recognised(pair.sample_sets(20, 10), known),
        "real": recognised(others, known),
        "images": torch.cat([shown[:8], made[:8, :4], refined[:8, :4]], 1).numpy(),
    }


def recognition(runs: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], dict[str, str]]:
    """Means of the shares of :func:`drawn`, and a record of the claim about them.

    Returns:
        The shares, and ``ours``, ``baseline``, ``holds`` and how it was seen.
    """
    share = {
        what: statistics.mean(run[what] for run in runs)
        for what in ("conditional", "refined", "unconditional", "real")
    }
    told = {what: f"{100 * value:.0f} %" for what, value in share.items()}
    holds = share["conditional"] >= 0.14 and share["unconditional"] <= 0.09
    return share, {
        "ours": f"{told['conditional']}, after ten rounds {told['refined']}",
        "baseline": f"nothing shown {told['unconditional']}, real drawings {told['real']}",
        "holds": "yes" if holds else "no",
        "how": "five drawings shown, ten new ones of each, as means; nearest mean of ten other "
        "drawings, 3 x 3 blur, cosine",
    }


def sheet(images: np.ndarray) -> Any:
    """A figure of what :func:`drawn` shows: shown drawings, new ones, refined ones."""
    from matplotlib import pyplot as plt

    rows, across = images.shape[:2]
    figure, axes = plt.subplots(
        1, 3, figsize=(9, 5.4), width_ratios=(5, 4, 4), layout="constrained"
    )
    parts = (slice(0, 5), slice(5, 9), slice(9, across))
    titles = ("shown", "new", "new, ten rounds of refinement")
    for axis, part, title in zip(axes, parts, titles, strict=True):
        page = images[:, part].reshape(rows, -1, 14, 14)
        page = torch.from_numpy(page).mul(-1).add(1)
        page = F.pad(page, (0, 2, 0, 2), value=0.7).permute(0, 2, 1, 3).reshape(rows * 16, -1)
        axis.imshow(page, cmap="gray", vmin=0, vmax=1)
        axis.set(title=title)
        axis.axis("off")
    return figure
