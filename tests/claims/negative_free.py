"""An encoder of images that is trained on pairs of views without negatives, as BYOL is.

A network predicts what its own moving average makes of another view (Grill et al. 2020, arXiv
2006.07733). Views differ weakly, so that no factor of a drawn set is made invisible: they are
shifted by at most a pixel, somewhat blurred and noisy.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE, CHANNELS, CODES, PROJECTED = 32, (16, 32, 64), 256, 64
STEPS, BATCH, RATE, AVERAGE = 600, 128, 1e-3, 0.99
SHIFT, NOISE = 1, 0.1
SETTINGS = (
    f"encoder of {len(CHANNELS)} convolutions of stride 2 and a dense layer to {CODES}, "
    f"batch norm and ReLU throughout; projector and predictor to {PROJECTED}; {STEPS} steps of "
    f"{BATCH}, Adam {RATE:g} falling to 0, moving average {AVERAGE} rising to 1; views: shifts "
    f"up to {SHIFT} pixel, a mean of 3 x 3 mixed in by a random share, noise {NOISE}; "
    "codes are scored before the projector"
)


def encoder() -> nn.Sequential:
    """Flat images ``(B, 1024)`` to codes ``(B, 256)``."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, SIDE, SIDE))]
    for inputs, outputs in zip((1, *CHANNELS), CHANNELS, strict=False):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    flat = CHANNELS[-1] * (SIDE >> len(CHANNELS)) ** 2
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(flat, CODES), nn.BatchNorm1d(CODES), nn.ReLU()
    )


def head(inputs: int, hidden: int) -> nn.Sequential:
    """Projector or predictor, whose output has no norm that would keep it from collapsing."""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, PROJECTED),
    )


def view(x: Tensor, draw: torch.Generator) -> Tensor:
    """Flat images ``(B, 1024)`` as they look shifted, blurred and in noise."""
    rows, along = torch.arange(len(x))[:, None, None], torch.arange(SIDE)
    wide = F.pad(x.view(-1, SIDE, SIDE), (SHIFT,) * 4)
    down, right = torch.randint(2 * SHIFT + 1, (2, len(x), 1), generator=draw)
    seen = wide[rows, (along + down)[:, :, None], (along + right)[:, None, :]]
    share = torch.rand(len(x), 1, 1, generator=draw)
    seen = torch.lerp(seen, F.avg_pool2d(seen[:, None], 3, 1, 1)[:, 0], share)
    return (seen + NOISE * torch.randn(seen.shape, generator=draw)).flatten(1)


def trained(x: Tensor, seed: int) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    """The encoder as it starts and when it is trained, and its projector; as they are asked.

    Of the untrained one, batch norms have the statistics of the same views.

    Args:
        x: Flat images ``(N, 1024)``.
        seed: Of weights, batches and views.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        online = nn.Sequential(encoder(), head(CODES, CODES))
        predictor = head(PROJECTED, 2 * PROJECTED)
    untrained = copy.deepcopy(online[0])
    target = copy.deepcopy(online).requires_grad_(False)
    learnt = [*online.parameters(), *predictor.parameters()]
    optimiser = torch.optim.Adam(learnt, RATE, weight_decay=1e-6)
    draw = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        falling = (1 + math.cos(math.pi * step / STEPS)) / 2
        optimiser.param_groups[0]["lr"] = RATE * falling
        batch = x[torch.randint(len(x), (BATCH,), generator=draw)]
        views = [view(batch, draw) for _ in range(2)]
        with torch.no_grad():
            untrained(views[0])
            wanted = [F.normalize(target(v), dim=1) for v in reversed(views)]
        told = [F.normalize(predictor(online(v)), dim=1) for v in views]
        loss = sum((2 - 2 * (t * w).sum(1)).mean() for t, w in zip(told, wanted, strict=True))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for mean, own in zip(target.parameters(), online.parameters(), strict=True):
                mean.lerp_(own, (1 - AVERAGE) * falling)
    return untrained.eval(), online[0].eval(), online[1].eval()


def spread(codes: Tensor) -> float:
    """Mean deviation of codes of length 1, times the root of D: 1 over the sphere, 0 collapsed."""
    return float(F.normalize(codes, dim=1).std(0).mean() * codes.shape[1] ** 0.5)
