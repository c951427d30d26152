"""CITRIS in loops: pairs away from where they start, and their loss with assignments summed."""

from __future__ import annotations

import math

import torch
from pyro import poutine
from torch import Tensor
from worlds.weights import perturbed

import ppl_models as zoo
from ppl_models import Batch, inference

SIZES = {"flow": (6,), "flow_steps": 2, "units": 4, "classifier": (5,)}
NF = {"data_dim": 5, "variables": 3, **SIZES}
VAE = {"shape": (4, 3, 1), "variables": 3, "latent": 4, "channels": (4,), "hidden": (6,), **SIZES}
VARIANTS = {
    "vectors": ("citris_nf", NF),
    "perfect": ("citris_nf", {**NF, "perfect": True}),
    "no block 0": ("citris_nf", {**NF, "spare": 0.0}),
    "autoencoder": ("citris_nf", {**NF, "latent": 3, "hidden": (6,)}),
    "images": ("citris_vae", VAE),
    "no flow": ("citris_vae", {**VAE, "flow_steps": 0, "perfect": True}),
}


def built(variant, dtype=torch.float64):
    """A pair with weights away from where they start, and a batch."""
    name, settings = VARIANTS[variant]
    return perturbed(zoo.build(name, seed=0, **settings).to(dtype))


def batch_for(pair, rows=6, scale=1):
    size = math.prod(pair.config.shape) if pair.config.shape else pair.config.data_dim
    generator = torch.Generator().manual_seed(2)
    sites = {
        name: torch.rand(rows, size, generator=generator, dtype=torch.float64)
        for name in ("x", "x_next")
    }
    turn = torch.arange(rows).unsqueeze(-1) % (pair.config.variables + 1)
    sites["targets"] = (turn == torch.arange(pair.config.variables)).double()
    dtype = pair.like().dtype
    return Batch({name: v.to(dtype) for name, v in sites.items()}, size=scale * rows)


def normal(value, loc, scale):
    return -0.5 * ((value - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


def moments(frames, z, targets, j, i):
    """Mean and scale of latent j in block i, row by row: the paper's masked network."""
    t, m = frames.transitions, frames.transitions.sizes
    hidden = (z @ t.before.weight.T + t.before.bias).reshape(len(z), *m)[:, j]
    was_set = targets[:, i - 1 : i] if i else torch.zeros_like(targets[:, :1])
    if not t.perfect and i:
        hidden = hidden + was_set * t.set[i - 1, j]
    free = (hidden * hidden.sigmoid()) @ t.after[j] + t.bias[j]
    if t.perfect and i:
        free = was_set * t.set[i - 1, j] + (1 - was_set) * free
    return free[:, 0], (3 * (free[:, 1] / 3).tanh()).exp()


def by_hand(pair, batch, e=None):
    """The loss of the batch's rows, assignments summed in a loop."""
    frames, config = pair.frames, pair.config
    found = torch.zeros(batch.count, dtype=pair.like().dtype)
    code = batch["x"]
    if e is not None:
        q = frames.encoder(x=batch["x_next"])
        x = frames.decoder(e=e)
        found = found + normal(batch["x_next"], x, torch.full_like(x, config.sigma)).sum(-1)
        found = found - normal(e, q.base_dist.loc, q.base_dist.scale * torch.ones_like(e)).sum(-1)
        code = frames.encoder(x=batch["x"]).mean
    z, z_next = frames.flow(code), frames.flow(batch["x_next"] if e is None else e)
    _, log_det = frames.flow.with_log_det(batch["x_next"] if e is None else e)
    psi = (frames.blocks.logits + frames.blocks.closed).softmax(-1)
    for j in range(z.shape[1]):
        for i in range(config.variables + 1):
            loc, scale = moments(frames, z, batch["targets"], j, i)
            found = found + psi[j, i] * normal(z_next[:, j], loc, scale)
    return -(found + log_det).sum() * batch.size / batch.count


def both_losses(pair, batch) -> tuple[Tensor, Tensor]:
    """The objective's loss of a batch and that of the loop, at the same draws."""
    torch.manual_seed(3)
    guide = poutine.trace(pair.guide).get_trace(batch)
    e = None
    if "e_next" in guide.nodes:  # the draw with its path to the encoder
        q = pair.frames.encoder(x=batch["x_next"])
        loc, spread = q.base_dist.loc, q.base_dist.scale
        e = loc + spread * ((guide.nodes["e_next"]["value"] - loc) / spread).detach()
    torch.manual_seed(3)
    found = inference.EnumeratedELBO().differentiable_loss(pair.model, pair.guide, batch)
    return found, by_hand(pair, batch, e)
