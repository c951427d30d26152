"""AnnealedVAE: its loss by hand while C grows, and a run that is taken up again."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from worlds.whole_life import QUIET, resumed

import ppl_models as zoo
from ppl_models import Batch, data, inference

SMALL = {"networks": "dense", "hidden": (6,), "latent": 3}


@pytest.mark.parametrize(("scale", "dtype"), [(1, torch.float64), (10, torch.float32)])
@pytest.mark.parametrize(("step", "capacity"), [(0, 0.0), (50, 2.5), (200, 5.0)])
def test_the_loss_by_hand(step, capacity, scale, dtype):
    """|KL - C| of the mean over the batch, not the mean of |KL - C| over its rows."""
    pair = zoo.build(
        "annealed_vae", shape=(3, 3, 1), gamma=7.0, capacity=5.0, capacity_steps=100, **SMALL
    )
    pair = pair.to(dtype)
    draw = torch.Generator().manual_seed(0)
    batch = Batch({"x": torch.rand(5, 9, generator=draw).to(dtype)}, size=5 * scale)
    q = pair.guide.factor("z", batch)
    torch.manual_seed(1)
    z = q.rsample()
    nats = -pair.likelihood(pair.decoder(z=z)).log_prob(batch["x"])
    loc, var = q.base_dist.loc, q.base_dist.scale.square()
    kl = 0.5 * (loc.square() + var - 1 - var.log()).sum(-1)
    objective = pair.objective()
    objective.at(inference.Progress(step / 300, step))
    torch.manual_seed(1)
    found = objective.differentiable_loss(pair.model, pair.guide, batch)
    wanted = scale * (nats.sum() + 5 * 7 * (kl.mean() - capacity).abs())
    assert_close(found, wanted)


def test_a_run_that_was_stopped_has_the_capacity_of_one_that_was_not(tmp_path):
    """C grows through the steps of both parts; all is the same to the bit."""
    digits = data.load("digits", train=100, validation=10, test=10)
    options = {**QUIET, "steps": 12, "batch_size": 30, "seed": 3, "learning_rate": 0.01}

    def make():
        return zoo.build("annealed_vae", digits, seed=1, capacity_steps=10, **SMALL)

    run = inference.fit(make(), digits, **options)
    again = resumed(make, digits, tmp_path / "run", **options)
    for name, curve in run.history.items():
        assert name == "seconds" or list(curve) == list(again.history[name])
    for name, value in run.pair.state_dict().items():
        assert torch.equal(value, again.pair.state_dict()[name])


def test_another_bound_keeps_its_own_kl():
    pair = zoo.build("annealed_vae", shape=(3, 3, 1), **SMALL)
    capacity = "Capacity('z', 1000, Anneal(0, 25, steps=100000))"
    assert repr(pair.objective()) == f"ELBO(kl='analytic', beta=0) + {capacity}"
    assert repr(pair.objective(inference.IWELBO(8))) == f"IWELBO() + {capacity}"
