"""The VAE under the overlap loss: its loss by hand, and weight 0 is the VAE to the bit."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from worlds.processes import together
from worlds.whole_life import QUIET, resumed

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.batch import Batch
from ppl_models.inference.objectives.blurred_error import box_blur

SMALL = {"networks": "dense", "hidden": (6,), "latent": 2, "radius": 2, "overlap": 25.0}
OPTIONS = {**QUIET, "epochs": 2, "batch_size": 20, "seed": 3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1, 10])
def test_the_loss_is_that_of_standardised_images(dtype, scale) -> None:
    """|e|^2 + w |K e|^2 + beta KL, but for a constant of each row."""
    pair = zoo.build("overlap_vae", shape=(5, 4, 3), **SMALL, centre=0.3, deviation=0.2, beta=7.0)
    pair = pair.to(dtype)
    g = torch.Generator().manual_seed(0)
    x = torch.rand(6, 60, generator=g, dtype=torch.float64).to(dtype)
    batch, losses = Batch({"x": x}, size=6 * scale), []
    standard = (x - 0.3) / 0.2
    for weight in (25.0, 0.0):
        torch.manual_seed(1)
        objective = inference.ELBO(kl="analytic", beta=7.0)
        if weight:
            objective = pair.objective()
        run = objective.run(pair.model, pair.guide, batch)
        losses.append(objective.rows(run))
        q, z = run.codes("z").q, run.codes("z").only("test")
        kl = 0.5 * (q.variance + q.mean.square() - 1 - q.variance.log()).sum(-1)
        e = (standard - pair.decoder(z=z)).unflatten(-1, (5, 4, 3))
        blurred = box_blur(e.movedim(-1, -3), 2)
        hand = e.square().sum((1, 2, 3)) + weight * blurred.square().sum((1, 2, 3)) + 7 * kl
        off = losses[-1] - hand
        assert_close(off, off[:1].expand(6), rtol=1e-4, atol=1e-3)
    torch.manual_seed(1)
    loss = pair.objective().differentiable_loss(pair.model, pair.guide, batch)
    assert_close(loss, scale * losses[0].sum())
    # The encoder sees what is standardised.
    net = pair.guide.factors["z"].net
    assert_close(net(x=x), net.net(x=standard))


@pytest.fixture(scope="module")
def squares() -> data.Dataset:
    return data.load("blob", train=40, validation=10, test=10)


def pair_of(squares: data.Dataset, overlap: float) -> zoo.Pair:
    return zoo.build("overlap_vae", squares, seed=1, **{**SMALL, "overlap": overlap})


def told(run: inference.Run) -> dict[str, torch.Tensor]:
    curve = {n: torch.tensor(v) for n, v in run.history.items() if n != "seconds"}
    return {**curve, **{f"weight {n}": v for n, v in run.pair.state_dict().items()}}


def test_weight_0_is_the_vae_to_the_bit_also_when_resumed(squares, tmp_path) -> None:
    vae = inference.ELBO(kl="analytic", beta=pair_of(squares, 0.0).config.beta)
    alone = told(inference.fit(pair_of(squares, 0.0), squares, vae, **OPTIONS))
    found = told(inference.fit(pair_of(squares, 0.0), squares, **OPTIONS))
    again = told(resumed(lambda: pair_of(squares, 0.0), squares, tmp_path / "run", **OPTIONS))
    for game in (found, again):
        assert not game.pop("blurred_error(x)").any()
        assert game.keys() == alone.keys()
        assert all(torch.equal(value, game[name]) for name, value in alone.items())


def test_two_processes_are_one(squares, tmp_path) -> None:
    def train() -> dict[str, torch.Tensor]:
        return told(inference.fit(pair_of(squares, 25.0), squares, **OPTIONS))

    one = train()
    for outcome in together(2, tmp_path, lambda rank: train()):
        assert not outcome.error, outcome.error
        for name, value in one.items():
            assert_close(outcome.value[name], value, rtol=1e-5, atol=1e-5, msg=name)
