"""ImageCFGen: its three stages by hand, what each trains, and its counterfactuals."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close
from worlds.whole_life import whole_life

from ppl_models import build, data, inference
from ppl_models.batch import Batch

B, L = 5, 3
SMALL = {"shape": (6, 5, 1), "classes": 3, "latent": L, "hidden": (8,), "critic": (9, 7)}
NETWORKS = [(), (4, 5)]
TINY = {"latent": L, "hidden": (8,), "critic": (8,), "channels": ()}


def made(channels=(), dtype=torch.float64, **options):
    return build("imagecfgen", seed=0, **SMALL, channels=channels, **options).to(dtype)


def rows(scale=1, dtype=torch.float64, count=B):
    g = torch.Generator().manual_seed(0)
    draw = torch.rand(count, 32, generator=g, dtype=torch.float64)
    values = {
        "x": draw[:, :30],
        "thickness": 1 + 3 * draw[:, 30],
        "intensity": 70 + 180 * draw[:, 31],
        "y": torch.arange(count) % 3,
    }
    sites = {n: v if n == "y" else v.to(dtype) for n, v in values.items()}
    return Batch(sites, size=scale * count)


def causes_of(batch):
    return {name: batch[name] for name in ("y", "thickness", "intensity")}


def noise_of_game(batch):
    """The guide's, then the model's, in the order of a step."""
    return [torch.randn(batch.count, L, dtype=batch["x"].dtype) for _ in range(2)]


def parts_by_hand(pair, batch, critic=None):
    """Encoded and made-up points, or what the critic gives them."""
    first, second = noise_of_game(batch)
    causes = causes_of(batch)
    loc, log_variance = pair.guide.factors["z"].net(x=batch["x"], **causes).chunk(2, -1)
    z = loc + (0.5 * log_variance).exp() * first
    x = torch.sigmoid(pair.generator(z=second, **causes))
    if critic is None:
        return z, x, second
    points = ((batch["x"], z), (x, second))
    return [critic(x=x, z=z, **causes).squeeze(-1) for x, z in points]


@pytest.mark.parametrize("channels", NETWORKS)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
@pytest.mark.parametrize("scale", [1, 10])
def test_the_game_is_cross_entropies_at_the_rows_own_causes(channels, dtype, close, scale):
    pair, batch = made(channels, dtype), rows(scale, dtype)
    stage = pair.stages()[1]
    (player,) = stage.players
    zeros, ones = (torch.full((B,), v, dtype=dtype) for v in (0.0, 1.0))
    entropy = functional.binary_cross_entropy_with_logits
    for objective, labels, whose in (
        (stage.objective, (zeros, ones), pair),
        (player.objective, (ones, zeros), player.module),
    ):
        torch.manual_seed(3)
        loss = objective.differentiable_loss(pair.model, pair.guide, batch)
        torch.manual_seed(3)
        given = parts_by_hand(pair, batch, player.module)
        exact = sum(entropy(d, y, reduction="sum") for d, y in zip(given, labels, strict=True))
        assert_close(loss, scale * exact / 2, rtol=close, atol=close)
        weights = list(whose.parameters())
        found, by_hand = (
            torch.autograd.grad(v, weights, allow_unused=True, retain_graph=True)
            for v in (loss, scale * exact / 2)
        )
        for one, other in zip(found, by_hand, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert_close(one, other, rtol=100 * close, atol=close)
        if whose is player.module:  # of the pair's nothing is moved
            apart = torch.autograd.grad(loss, list(pair.parameters()), allow_unused=True)
            assert set(apart) == {None}


@pytest.mark.parametrize("channels", NETWORKS)
@pytest.mark.parametrize("scale", [1, 10])
def test_the_encoders_cost_goes_both_ways_round(channels, scale):
    pair, batch = made(channels), rows(scale)
    cost = pair.stages()[2].objective
    torch.manual_seed(4)
    loss = cost.differentiable_loss(pair.model, pair.guide, batch)
    torch.manual_seed(4)
    z, x, drawn = parts_by_hand(pair, batch)
    causes = causes_of(batch)
    again = torch.sigmoid(pair.generator(z=z, **causes))
    loc, log_variance = pair.guide.factors["z"].net(x=x, **causes).chunk(2, -1)
    exact = (batch["x"] - again).abs().sum() + (drawn - loc).square().sum()
    exact = scale * (exact + log_variance.exp().sum())
    assert_close(loss, exact, rtol=1e-10, atol=1e-10)
    weights = list(pair.guide.parameters())
    for one, other in zip(
        *(torch.autograd.grad(v, weights, retain_graph=True) for v in (loss, exact)), strict=True
    ):
        assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("scale", [1, 10])
def test_causes_are_fitted_by_their_likelihood(scale):
    pair, batch = made(), rows(scale)
    stage = pair.stages()[0]
    scm = list(pair.scm.parameters())
    loss = stage.objective.differentiable_loss(pair.model, pair.guide, batch)
    exact = -scale * pair.scm.log_prob(causes_of(batch)).sum()
    for one, other in zip(*(torch.autograd.grad(v, scm) for v in (loss, exact)), strict=True):
        assert_close(one, other, rtol=1e-9, atol=1e-10)


@pytest.fixture(scope="module")
def world():
    return data.load("bright_digits", source="digits", train=24, validation=6, test=8)


@pytest.fixture(scope="module")
def life(world, tmp_path_factory):
    """Each stage trains for a few steps; resumed and compiled runs come out the same."""
    return whole_life(
        lambda: build("imagecfgen", world, **TINY, seed=0),
        world,
        tmp_path_factory.mktemp("life"),
        steps=(2, 3, 3),
        batch_size=12,
        seed=0,
    )


@pytest.mark.long
def test_a_whole_life(life, world):
    _, posterior = life
    assert posterior.posterior["z"].shape[-1] == L


def test_each_stage_trains_its_own_part_alone(world):
    """Adam's first step is as long as the rate."""
    pair = build("imagecfgen", world, **TINY, seed=0)
    rates = {"scm": (1e-2, 0, 0), "generator": (0, 1e-4, 0), "guide": (0, 1e-4, 1e-4)}
    for place, stage in enumerate(pair.stages()):
        before = {n: v.clone() for n, v in pair.named_parameters()}
        inference.fit(pair, world, stages=(stage,), steps=1, seed=0, progress=False, device="cpu")
        moved = {
            n: float((v - before[n]).detach().abs().max()) for n, v in pair.named_parameters()
        }
        for part, rate in rates.items():
            longest = max(m for n, m in moved.items() if n.split(".")[0] == part)
            assert longest == pytest.approx(rate[place], rel=1e-2)


@pytest.mark.parametrize("channels", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_set_gives_the_reconstruction_and_causes_their_closed_form(channels, dtype):
    """An SCM that is known: logit of the intensity's share = 2 (log t - m) / s + 0.5 u."""
    pair, batch = made(channels, dtype), rows(1, dtype)
    (layer,) = pair.scm.mechanisms["intensity"].layers
    with torch.no_grad():
        for weight in layer.raw.net.parameters():
            weight.zero_()
        first = layer.raw.net.first
        first.weights["thickness"][0] = 2.0
        first.bias[1] = torch.tensor(0.5).log()

    def had(**do):
        torch.manual_seed(5)  # the same draw of the noise
        return pair.counterfactual(batch, **do)

    null = had(thickness=batch["thickness"])
    z, close = null["z"], 1e-5 if dtype == torch.float32 else 1e-9
    assert torch.equal(null["x"], had(thickness=batch["thickness"])["x"])
    assert_close(null["x"], pair.make(z, **causes_of(batch)), rtol=close, atol=close)
    assert_close(null["intensity"], batch["intensity"], rtol=close, atol=0)

    low, high = 63.0, 256.0
    share = (batch["intensity"] - low) / (high - low)
    for thickness in (1.5, 4.0):
        step = 2 * (torch.tensor(thickness).to(dtype).log() - batch["thickness"].log()) / 0.253
        exact = low + (high - low) * torch.sigmoid(torch.logit(share) + step)
        found = had(thickness=thickness)
        assert_close(found["intensity"], exact, rtol=max(10 * close, 1e-6), atol=0)
        new = {"thickness": torch.full_like(share, thickness), "intensity": exact, "y": batch["y"]}
        assert_close(found["x"], pair.make(z, **new), rtol=10 * close, atol=10 * close)
        assert torch.equal(found["y"], batch["y"]) and torch.equal(found["z"], z)
    darker = had(intensity=100.0)
    assert torch.equal(darker["thickness"], batch["thickness"])


@pytest.mark.parametrize("codes", ["draw", "mean"])
def test_interventions_draw_causes_anew_and_give_the_picture_of_them(codes):
    """At the means the intensity, which has none in closed form, has its median: noise of 0."""
    pair, batch = made(), rows()
    torch.manual_seed(6)
    found = pair.intervene(batch, thickness=2.0, codes=codes)
    causes = causes_of(found)
    assert_close(found["x"], pair.make(found["z"], **causes))
    noise = pair.scm.noise(causes)["intensity"]
    if codes == "mean":
        assert_close(noise, torch.zeros_like(noise), rtol=0, atol=1e-12)
    else:
        torch.manual_seed(6)
        drawn = pair.intervene(batch, mean=False, thickness=2.0)
        assert torch.equal(found["intensity"], drawn["intensity"])


def test_causes_may_come_as_columns(world):
    """From arrays and files a number per row comes as ``(N, 1)``."""
    sites = {name: value.numpy() for name, value in world.train.sites.items()}
    own = data.from_arrays(**sites, splits=(len(sites["x"]), 0, 0), shapes={"x": (28, 28)}, seed=0)
    assert own.train.sites["thickness"].shape == (len(sites["x"]), 1)
    pair = build("imagecfgen", own, **TINY, seed=0)
    inference.fit(pair, own.train, steps=1, progress=False, device="cpu")
    (columns,) = pair.schema.bring(own.train).batches()
    plain = Batch({name: v[own.train.numbers] for name, v in world.train.sites.items()})
    found = []
    for batch in (columns, plain):
        torch.manual_seed(0)
        found.append(pair.counterfactual(batch, thickness=2.0))
    assert_close(*found, rtol=0, atol=0)
