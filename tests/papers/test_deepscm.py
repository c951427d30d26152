"""DeepSCM: densities and the bound by hand, counterfactuals in closed form, and its whole life."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal
from torch.testing import assert_close
from worlds.weights import perturbed
from worlds.whole_life import whole_life

from ppl_models import build, data, inference
from ppl_models.batch import Batch
from ppl_models.causal.deepscm import STORIES
from ppl_models.data.render.morpho import causes
from ppl_models.data.tables.from_parts import from_parts
from ppl_models.exogenous import noise_of, value_at
from ppl_models.parts.logit_pixels import dequantised, logit_pixels
from ppl_models.testing.fixed_draws import FixedDraws

B, L, SHAPE = 5, 2, (4, 3, 1)
SMALL = {"latent": L, "channels": (4, 4), "hidden": (5,)}


def pair_of(story, dtype=torch.float64):
    """A pair whose every weight is far from where it begins."""
    return perturbed(build("deepscm", shape=SHAPE, story=story, **SMALL).to(dtype))


def table(rows=B, seed=0):
    generator = np.random.default_rng(seed)
    thickness, intensity = causes(rows, generator)
    x = generator.integers(0, 256, (rows, math.prod(SHAPE))) / 255
    x[0, :2] = 0.0, 1.0
    return {"x": x, "thickness": thickness, "intensity": intensity}


def batch_of(dtype=torch.float64, scale=1):
    sites = {name: torch.tensor(value, dtype=dtype) for name, value in table().items()}
    return Batch(sites, size=scale * B)


def loc_of(pair, z, batch):
    """What the decoder makes of the code and of what it is told of the causes, by hand."""
    (units,), (between,) = (pair.scm.mechanisms[n].outer for n in ("thickness", "intensity"))
    t = (batch["thickness"].log() - units.loc) / units.scale
    i = torch.logit((batch["intensity"] - between.low) / (between.high - between.low))
    told = {} if pair.config.story == "independent" else {"thickness": t, "intensity": i}
    return pair.decoder(z=z, **told)


def log_x(pair, z, batch):
    """log p(x | z, t, i) by hand, in the units of x."""
    width = pair.pixels.high - pair.pixels.low
    share = (batch["x"] - pair.pixels.low) / width
    logit = (share / (1 - share)).log()
    density = Normal(loc_of(pair, z, batch), math.exp(-2.5)).log_prob(logit)
    return (density - (width * share * (1 - share)).log()).sum(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("story", STORIES)
def test_density_of_an_image_has_the_slope_of_its_units(story, dtype):
    pair, batch = pair_of(story, dtype), batch_of(dtype)
    z = torch.randn(3, B, L, generator=torch.Generator().manual_seed(0)).to(dtype)
    fn = pair.decode(z, thickness=batch["thickness"], intensity=batch["intensity"])
    assert fn.batch_shape == (3, B)
    close = 1e-4 if dtype == torch.float32 else 1e-10
    assert_close(fn.log_prob(batch["x"]), log_x(pair, z, batch), rtol=close, atol=0)


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("story", STORIES)
def test_the_bound_is_its_four_parts(story, scale):
    """-log p(t) - log p(i | t) - log p(x | z, t, i) + log q(z | x, t, i) - log p(z)."""
    pair, batch = pair_of(story), batch_of(scale=scale)
    z = torch.randn(B, L, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (stage,) = pair.stages(inference.ELBO())
    guide = FixedDraws(pair.guide, {"z": z})
    loss = stage.objective.differentiable_loss(pair.model, guide, batch)
    seen = {k: v for k, v in pair.scm.inner(batch).items() if k in pair.seen}
    loc, log_variance = pair.guide.factors["z"].net.net(x=batch["x"], **seen).chunk(2, -1)
    log_q = Normal(loc, (log_variance / 2).exp()).log_prob(z).sum(-1)
    log_p = log_x(pair, z, batch) + Normal(0.0, 1.0).log_prob(z).sum(-1)
    causes = pair.scm.log_prob({name: batch[name] for name in pair.scm.mechanisms})
    assert_close(loss, scale * (log_q - log_p - causes).sum(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("story", STORIES)
def test_what_the_guide_and_the_decoder_see(story):
    """The causes' gradient reaches z and x but where the story says that they see none."""
    pair, batch = pair_of(story), batch_of()
    told = {name: batch[name].requires_grad_() for name in ("thickness", "intensity")}
    q = pair.guide.factor("z", batch).mean.sum()
    x = pair.decode(q.new_zeros(B, L), **told).base_dist.mean.sum()
    for value in (q, x):
        if story == "independent":
            assert torch.equal(value, value.detach()) and not _reached(value, told)
        else:
            assert _reached(value, told) == {"thickness", "intensity"}


def _reached(value, told):
    grads = torch.autograd.grad(value, list(told.values()), allow_unused=True)
    return {n for n, g in zip(told, grads, strict=True) if g is not None and bool(g.all())}


def test_pixels_are_the_papers_and_noise_leads_back():
    x = torch.arange(256, dtype=torch.float64) / 255
    pixels = logit_pixels()
    share = torch.sigmoid(pixels.double().forward().inv(x))
    # Constants are kept in single precision.
    assert_close(share, 0.05 + 0.95 * torch.arange(256).double() / 256, rtol=1e-6, atol=0)
    for dtype, close in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        pair, batch = pair_of("full", dtype), batch_of(dtype)
        fn = pair.decode(torch.zeros(B, L, dtype=dtype), **_causes(batch))
        assert_close(value_at(fn, noise_of(fn, batch["x"])), batch["x"], rtol=0, atol=close)


def _causes(batch):
    return {name: batch[name] for name in ("thickness", "intensity")}


def test_dequantised_rows_keep_their_level_and_all_else():
    batch = batch_of()
    torch.manual_seed(0)
    made = dequantised(batch)
    assert torch.equal((made["x"] * 255 + 1e-9).floor(), (batch["x"] * 255).round())
    assert float((made["x"] - batch["x"]).max()) > 0.9 / 255
    for name in ("thickness", "intensity"):
        assert made[name] is batch[name]


def moved(pair, batch, **do):
    """The causes by hand: the logit of i keeps its noise as its mean and scale move with t."""
    new = _causes(batch) | {name: torch.full_like(batch[name], do[name]) for name in do}
    if "thickness" in do and "intensity" not in do and pair.config.story == "full":
        mechanism = pair.scm.mechanisms["intensity"]
        between, affine = mechanism.outer[0], mechanism.layers[0]
        was, now = (affine.raw(**pair.scm.inner(c, ["thickness"])) for c in (batch, new))
        width = between.high - between.low
        logit = torch.logit((batch["intensity"] - between.low) / width)
        logit = now[:, 0] + (now[:, 1] - was[:, 1]).exp() * (logit - was[:, 0])
        new["intensity"] = between.low + width * torch.sigmoid(logit)
    return new


DO = ({"thickness": 4.0}, {"intensity": 200.0}, {"thickness": 1.5, "intensity": 90.0})


@pytest.mark.parametrize("do", DO, ids=str)
@pytest.mark.parametrize("story", STORIES)
def test_a_counterfactual_is_the_logit_moved_by_what_the_decoder_says_more(story, do):
    """The code is the guide's at the causes as they were; what does not depend stays, to the bit.

    logit x' = logit x + dec(z, t', i') - dec(z, t, i), as u is kept.
    """
    pair, batch = pair_of(story), batch_of()
    torch.manual_seed(2)
    found = pair.counterfactual(batch, draws=3, **do)
    torch.manual_seed(2)
    z = pair.guide.factor("z", batch).sample((3,))
    assert_close(found["z"], z, rtol=1e-10, atol=1e-10)
    new = moved(pair, batch, **do)
    for name in new:
        assert_close(found[name], new[name].expand(3, B), rtol=1e-9, atol=0)
    pixels = pair.pixels()
    logit = pixels.inv(batch["x"]) + loc_of(pair, z, new) - loc_of(pair, z, batch)
    assert_close(found["x"], pixels(logit), rtol=1e-9, atol=1e-9)
    stays = {*(_causes(batch) if story != "full" else {"thickness"})} - {*do}
    for name in stays | ({"x"} if story == "independent" else set()):
        assert torch.equal(found[name], batch[name].expand_as(found[name])), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_null_intervention_gives_the_rows_back(dtype):
    pair, batch = pair_of("full", dtype), batch_of(dtype)
    found = pair.counterfactual(batch, draws=3, thickness=batch["thickness"])
    close = 1e-5 if dtype == torch.float32 else 1e-12
    assert_close(found["x"], batch["x"].expand(3, B, -1), rtol=0, atol=close)
    assert_close(found["intensity"], batch["intensity"].expand(3, B), rtol=close, atol=0)


@pytest.fixture(scope="module")
def digits():
    """Rows as Morpho-MNIST has them, of tiny images."""
    parts = [
        {n: v if n != "x" else v.reshape(-1, *SHAPE[:2]) for n, v in table(rows, seed).items()}
        for seed, rows in enumerate((40, 10, 10))
    ]
    return from_parts("tiny_digits", parts, options={}, seed=0)


@pytest.mark.long
def test_it_lives_wholly(digits, tmp_path):
    _, found = whole_life(
        lambda: build("deepscm", digits, **SMALL), digits, tmp_path, epochs=3, batch_size=20
    )
    assert found.posterior["z"].shape[-1] == L


def test_causes_may_come_as_columns(digits):
    """From arrays and files a number per row comes as ``(N, 1)``, for training and later on."""
    sites = {name: value.numpy() for name, value in digits.train.sites.items()}
    sites["intensity"] = sites["intensity"][:, None]
    own = data.from_arrays(**sites, splits=(40, 0, 0), shapes={"x": SHAPE[:2]}, seed=0)
    assert own.train.sites["thickness"].shape == own.train.sites["intensity"].shape == (40, 1)
    pair = build("deepscm", own, **SMALL)
    options = {"epochs": 1, "batch_size": 40, "progress": False, "device": "cpu"}
    run = inference.fit(pair, own.train, **options)
    same = pair.schema.bring(own.train)
    assert same.sites["thickness"].shape == same.sites["intensity"].shape == (40,)
    again = inference.fit(build("deepscm", own, **SMALL), same, **options)
    assert run.history["loss"] == again.history["loss"]
    assert run.posterior(own.train, draws=2).posterior["z"].shape == (1, 2, 40, L)


def test_the_mechanisms_learn_at_their_own_rate(digits):
    """Adam's first step is as long as the rate."""
    before = dict(build("deepscm", digits, **SMALL).named_parameters())
    pair = build("deepscm", digits, **SMALL)
    inference.fit(pair, digits.train, epochs=1, batch_size=40, progress=False, device="cpu")
    for part, rate in {"decoder": 1e-4, "guide": 1e-4, "scm": 5e-3}.items():
        moves = [
            (p - before[n]).detach().abs().max() for n, p in pair.named_parameters() if part in n
        ]
        assert_close(float(torch.stack(moves).max()), rate, rtol=0.05, atol=0)
