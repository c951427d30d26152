"""beta-VAE: its loss by hand, per row of the data."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import ppl_models as zoo
from ppl_models import Batch


@pytest.mark.parametrize(("scale", "dtype"), [(1, torch.float64), (10, torch.float32)])
@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_the_loss_by_hand(beta, scale, dtype):
    """Nats of all pixels together, plus beta times the KL; the weight of the pixels is 1."""
    pair = zoo.build(
        "beta_vae", shape=(3, 3, 1), networks="dense", hidden=(6,), latent=3, beta=beta
    ).to(dtype)
    draw = torch.Generator().manual_seed(0)
    batch = Batch({"x": torch.rand(5, 9, generator=draw).to(dtype)}, size=5 * scale)
    q = pair.guide.factor("z", batch).base_dist
    torch.manual_seed(1)
    p = pair.decoder(z=q.rsample()).sigmoid()
    nats = -(batch["x"] * p.log() + (1 - batch["x"]) * (1 - p).log()).sum(-1)
    kl = 0.5 * (q.loc.square() + q.scale.square() - 1 - 2 * q.scale.log()).sum(-1)
    torch.manual_seed(1)
    found = pair.objective().differentiable_loss(pair.model, pair.guide, batch)
    assert_close(found, scale * (nats + beta * kl).sum())
