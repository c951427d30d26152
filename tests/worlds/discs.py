"""The world of ``examples/cells.py``: discs whose size and glow follow from a dose."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def made(noise: Mapping[str, Tensor], dose: Tensor | None = None) -> dict[str, Tensor]:
    """Rows of its noises, with the dose that they had or another."""
    log_dose = 0.7 * noise["dose"] if dose is None else dose.log()
    log_size = 1.0 + 0.3 * log_dose + 0.15 * noise["size"]
    glow = (0.8 * log_dose - (log_size - 1.0) + 0.5 * noise["glow"]).sigmoid()
    axis = torch.arange(8) - 3.5
    across, down = (axis - place for place in noise["place"].split(1, 1))
    far = (across.square()[:, :, None] + down.square()[:, None]).sqrt()  # B x 8 x 8
    disc = (2 * (log_size.exp()[:, :, None] - far)).sigmoid()
    x = (glow[:, :, None] * disc).flatten(1) + noise["x"]
    return {"x": x, "dose": log_dose.exp(), "size": log_size.exp(), "glow": glow}


def world(count: int, seed: int) -> dict[str, Tensor]:
    """Noises of some rows."""
    draw = torch.Generator().manual_seed(seed)
    noise = {n: torch.randn(count, 1, generator=draw) for n in ("dose", "size", "glow")}
    noise["place"] = torch.rand(count, 2, generator=draw) * 4 - 2
    noise["x"] = 0.03 * torch.randn(count, 64, generator=draw)
    return noise
