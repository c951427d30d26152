"""NashAE: its loss by hand, the game at weight 0, resumed and in two processes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close
from worlds.given_codes import GivenCodes
from worlds.processes import together
from worlds.whole_life import QUIET, resumed

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.batch import Batch

SMALL = {"hidden": (8, 6), "latent": 3, "predictors": (5,), "turns": 2}
OPTIONS = {**QUIET, "steps": 6, "batch_size": 20, "seed": 3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1, 10])
def test_the_loss_is_the_papers_in_other_units(dtype, scale) -> None:
    """(1 - lambda) 1/2 mean (x - dec)^2 + lambda sum Cov, of standardised x, times a constant."""
    options = {**SMALL, "weight": 0.3, "centre": 0.4, "deviation": 0.5}
    pair = zoo.build("nashae", shape=(1, 7, 1), **options).to(dtype)
    (stage,) = pair.stages()
    predictors = stage.players[0].module
    x = torch.rand(6, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    batch = Batch({"x": x}, size=6 * scale)
    found = stage.objective.differentiable_loss(pair.model, pair.guide, batch)
    constant = 7 * (0.5 * math.log(2 * math.pi) + math.log(0.5))
    unit = 7 / 0.7  # H W C / (1 - lambda)
    z = pair.guide.factors["z"].raw(x=x).sigmoid()
    standard = (x - 0.4) / 0.5
    told = predictors(z)
    covariance = ((z.detach() - z.detach().mean(0)) * (told - told.mean(0))).mean(0).sum()
    paper = 0.7 * 0.5 * (standard - pair.decoder(z=z)).square().mean() + 0.3 * covariance
    double = dtype == torch.float64
    near = 1e-10 if double else 1e-4
    assert_close(found, 6 * scale * (unit * paper + constant), rtol=near, atol=near)
    names, weights = zip(*pair.named_parameters(), strict=True)
    ours = torch.autograd.grad(found, weights, retain_graph=True)
    theirs = torch.autograd.grad(6 * scale * unit * paper, weights)
    for name, one, other in zip(names, ours, theirs, strict=True):
        assert_close(one, other, rtol=near if double else 2e-3, atol=near, msg=name)


def test_a_code_is_not_moved_by_its_own_term() -> None:
    """Term i alone: no gradient to code i, and the pair's side leaves the predictors alone."""
    pair, x = GivenCodes(3), torch.rand(8, 3, dtype=torch.float64)
    net = inference.Predictors(3, (4,)).double()
    run = inference.Evaluation(pair.model, pair.guide, Batch({"x": x}))
    codes = run.codes("z").only("test")
    told = net(codes)
    for i in range(3):
        own = codes[:, i].detach()
        term = ((own - own.mean()) * told[:, i]).mean()
        (gradient,) = torch.autograd.grad(term, pair.shift, retain_graph=True)
        assert gradient[i] == 0 and bool((gradient != 0).sum() == 2)


@pytest.fixture(scope="module")
def signals() -> data.Dataset:
    return data.load("beamsynthesis", train=60, validation=10, test=10)


def pair_of(signals: data.Dataset, weight: float) -> zoo.Pair:
    return zoo.build("nashae", signals, seed=1, **SMALL, weight=weight)


def told(run: inference.Run) -> dict[str, torch.Tensor]:
    curve = {n: torch.tensor(v) for n, v in run.history.items() if n != "seconds"}
    return {**curve, **{f"weight {n}": v for n, v in run.pair.state_dict().items()}}


def test_weight_0_is_the_autoencoder_to_the_bit_also_when_resumed(signals, tmp_path) -> None:
    pair = pair_of(signals, 0.0)
    alone = told(inference.fit(pair, signals, pair.objective(), learning_rate=1e-3, **OPTIONS))
    assert "predictability(z)" not in alone
    game = told(inference.fit(pair_of(signals, 0.0), signals, **OPTIONS))
    again = told(resumed(lambda: pair_of(signals, 0.0), signals, tmp_path / "run", **OPTIONS))
    for found in (game, again):
        assert not found["predictability(z)"].any()
        assert float(found["predictors.prediction_error(z)"].std()) > 0  # they were trained
        assert all(torch.equal(value, found[name]) for name, value in alone.items())


def test_two_processes_play_the_game_of_one(signals, tmp_path) -> None:
    def train() -> dict[str, torch.Tensor]:
        return told(inference.fit(pair_of(signals, 0.2), signals, **OPTIONS))

    one = train()
    assert one["predictability(z)"].any()
    for outcome in together(2, tmp_path, lambda rank: train()):
        assert not outcome.error, outcome.error
        for name, value in one.items():
            assert_close(outcome.value[name], value, rtol=1e-5, atol=1e-5, msg=name)


def test_weights_start_with_variance_1_over_inputs() -> None:
    """And biases are as layers have them, as in the paper's code."""
    pair = zoo.build("nashae", shape=(1, 400, 1), hidden=(300,), latent=2)
    first = pair.guide.factors["z"].net.net.first
    last = pair.decoder.rest[-1]
    for weight, bias in ((first.weights["x"], first.bias), (last.weight, last.bias)):
        scaled = weight.detach() * weight.shape[1] ** 0.5
        assert abs(float(scaled.square().mean()) - 1) < 5 * (2 / weight.numel()) ** 0.5
        assert 0 < float(bias.detach().abs().max()) <= weight.shape[1] ** -0.5


def test_a_share_of_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weight is 1\.0, expected a share in 0\.\.1, below 1"):
        zoo.build("nashae", weight=1.0)
