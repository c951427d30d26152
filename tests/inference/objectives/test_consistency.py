"""Consistency by hand: bounds of rows and views, gaps of labels and of codes given codes."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence
from torch.testing import assert_close
from worlds.two_codes import C, D, TwoCodes, rows
from worlds.whole_life import QUIET, resumed

import ppl_models as zoo
from ppl_models import Batch, data, guides, inference
from ppl_models.inference import (
    ELBO,
    IWELBO,
    Anneal,
    Consistency,
    EnumeratedELBO,
    Imputed,
    TotalCorrelation,
)

NOISE = data.Noise((0.3, 0.6))
BOUNDS = {"one": EnumeratedELBO(kl="analytic"), "three": IWELBO(3)}
WIDTHS = {torch.float64: 1e-10, torch.float32: 1e-3}


def gap_by_hand(world, batch, view):
    """Of the label, and of both codes given it, as probable as it is given the view."""
    of = lambda site, b: world.guide.factor(site, b)  # noqa: E731
    gap = kl_divergence(of("a", view).base_dist, of("a", batch).base_dist).sum(-1)
    if "y" in batch:
        return gap + kl_divergence(of("b", view).base_dist, of("b", batch).base_dist).sum(-1)
    gap = gap + kl_divergence(of("y", view), of("y", batch))
    for y in range(C):
        label = torch.full((batch.count,), y)
        one, other = (of("b", {"x": b["x"], "y": label}).base_dist for b in (view, batch))
        gap = gap + of("y", view).probs[:, y] * kl_divergence(one, other).sum(-1)
    return gap


def gradients(rows, world):
    how = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    return torch.autograd.grad(rows.sum(), list(world.parameters()), **how)


@pytest.mark.parametrize(("scale", "dtype"), [(1, torch.float64), (10, torch.float32)])
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("sites", ["x", "xy"])
def test_loss_and_gradient_by_hand(sites, bound, scale, dtype):
    world, batch = TwoCodes(given=True).to(dtype), rows(*sites, scale=scale).to(dtype)
    inner = BOUNDS[bound]
    whole = Consistency(inner, "x", NOISE, weight=Anneal(0, 4))
    whole.at(0.5)
    torch.manual_seed(0)
    run = whole.run(world.model, world.guide, batch)
    found, viewed = whole.rows(run), whole.viewed(run)
    assert bool((viewed.batch["x"] != batch["x"]).all())
    assert "y" not in batch or torch.equal(viewed.batch["y"], batch["y"])
    gap = gap_by_hand(world, batch, viewed.batch)
    hand = inner.rows(run) + inner.rows(viewed) + 2 * gap
    width = WIDTHS[dtype]
    assert_close(whole.gap(run, viewed), gap, rtol=width, atol=width)
    assert_close(found, hand, rtol=width, atol=width)
    torch.manual_seed(0)
    total = whole.differentiable_loss(world.model, world.guide, batch)
    assert_close(total, scale * hand.sum(), rtol=width, atol=width)
    if dtype == torch.float64:
        grads = [gradients(t, world) for t in (found, hand)]
        assert_close(*grads, rtol=1e-8, atol=1e-10)


class Ladder(nn.Module):
    """z_1 given x, z_2 given x and z_1."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.guide = guides.Factored(
            z_1=guides.Normal(2, {"x": D}, (4,)), z_2=guides.Normal(2, {"x": D, "z_1": 2}, (4,))
        )
        self.double()

    def model(self, batch):
        zero = torch.zeros(2, dtype=torch.float64)
        with batch.plate():
            z_1 = pyro.sample("z_1", dist.Normal(zero, 1.0).to_event(1))
            z_2 = pyro.sample("z_2", dist.Normal(z_1, 1.0).to_event(1))
            x = torch.cat((z_1, z_2[..., :1]), -1)
            pyro.sample("x", dist.Normal(x, 1.0).to_event(1), obs=batch.get("x"))


@pytest.mark.parametrize("bound", [ELBO(kl="analytic"), IWELBO(3)], ids=["one", "three"])
def test_a_code_given_another_along_the_draws_of_the_view(bound):
    world, batch = Ladder(), rows("x")
    whole = Consistency(bound, "x", NOISE)
    run = whole.run(world.model, world.guide, batch)
    viewed = whole.viewed(run)
    found = whole.gap(run, viewed)
    z_1 = viewed.codes("z_1").values  # K x B x 2
    one, other = (world.guide.factor("z_1", b).base_dist for b in (viewed.batch, batch))
    hand = kl_divergence(one, other).sum(-1)
    for k in range(len(z_1)):
        one, other = (
            world.guide.factor("z_2", {"x": b["x"], "z_1": z_1[k]}).base_dist
            for b in (viewed.batch, batch)
        )
        hand = hand + kl_divergence(one, other).sum(-1) / len(z_1)
    assert_close(found, hand)
    assert_close(*(gradients(t, world) for t in (found, hand)))


def test_views_are_those_of_the_steps_and_drawn_anew():
    pair = zoo.build("vae", data_dim=12, latent=2, hidden=(3,)).double()
    batch = Batch({"x": torch.rand(5, 12, dtype=torch.float64)})
    turned = Consistency(ELBO(), "x", (data.Flip(1.0), data.Flip(1.0, "height")), (4, 3))
    seen = turned.viewed(turned.run(pair.model, pair.guide, batch)).batch["x"]
    assert torch.equal(seen, batch["x"].reshape(5, 4, 3).flip((1, 2)).reshape(5, 12))
    moved = Consistency(ELBO(), "x", data.Affine(), (4, 3))
    runs = [moved.run(pair.model, pair.guide, batch) for _ in range(2)]
    first, again, second = (moved.viewed(run).batch["x"] for run in (runs[0], *runs))
    assert first is again and not torch.equal(first, second)
    assert bool((first >= 0).all()) and bool((first <= 1).all())


def test_a_bound_that_is_taken_elsewhere_and_terms_of_both():
    """Scores of row and view choose labels of their own."""
    world, batch = TwoCodes(given=True), rows("x")
    inner = Imputed(ELBO(), "y") + TotalCorrelation("a")
    whole = Consistency(inner, "x", NOISE, weight=0.5)
    assert whole.across_rows
    run = whole.run(world.model, world.guide, batch)
    found, viewed = whole.rows(run), whole.viewed(run)
    here, there = (inner.evaluation(r).batch for r in (run, viewed))
    gap = sum(
        kl_divergence(*(world.guide.factor(s, b).base_dist for b in (there, here))).sum(-1)
        for s in ("a", "b")
    )
    assert_close(found, inner.rows(run) + inner.rows(viewed) + 0.5 * gap)


def test_without_steps_it_is_the_bound_and_with_weight_0_both_bounds():
    world, batch = TwoCodes(), rows("x", scale=10)
    for steps, weight in (((), 0.0), ((), 3.0), (NOISE, 0.0)):
        whole = Consistency(EnumeratedELBO(), "x", steps, weight=weight)
        torch.manual_seed(0)
        told = whole.loss_by_part(world.model, world.guide, batch)
        torch.manual_seed(0)
        alone = EnumeratedELBO().loss_by_part(world.model, world.guide, batch)
        if steps == ():
            assert told.names == alone.names and torch.equal(told.values, alone.values)
        else:
            parts = dict(zip(told.names, told.values.tolist(), strict=True))
            assert parts["bound"] == alone.total.item()
            assert parts["consistency(x)"] == 0 and parts["view(x)"] > 0


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train=80, validation=20, test=20)


OPTIONS = {"epochs": 2, "batch_size": 40, "seed": 3, "learning_rate": 0.01}
SMALL = {"networks": "dense", "hidden": (8,), "latent": 4, "seed": 1}
STILL = {"lam": 0.0, "degrees": 0.0, "shift": 0.0, "zoom": 0.0}


def weights(run):
    return {n: v.detach() for n, v in run.pair.state_dict().items()}


@pytest.mark.parametrize("options", [STILL, {"lam": 1.0}], ids=["still", "moved"])
def test_without_views_it_is_the_vae_and_a_run_resumes_to_the_bit(digits, options, tmp_path):
    def make():
        return zoo.build("cr_vae", digits, **SMALL, **options)

    again = weights(resumed(make, digits, tmp_path / "run", **QUIET, **OPTIONS))
    objective = ELBO(kl="analytic") if options == STILL else make().objective()
    alone = weights(inference.fit(make(), digits, objective, **QUIET, **OPTIONS))
    assert all(torch.equal(again[name], value) for name, value in alone.items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Consistency(ELBO(), "x", NOISE, weight=-1),
            r"weight of Consistency\('x'\) is -1",
        ),
        (lambda: Consistency(ELBO(), "x", data.Affine()), "Affine of site 'x': expected images"),
        (lambda: Consistency(ELBO(), "x", (data.Affine,)), "expected a call such as"),
    ],
)
def test_options_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_rows_without_the_site_are_named():
    world = TwoCodes()
    with pytest.raises(ValueError, match="views of site 't', but the batch has"):
        Consistency(EnumeratedELBO(), "t", NOISE).loss(world.model, world.guide, rows("x"))


def test_it_prints_its_formula():
    whole = Consistency(ELBO(kl="analytic"), "x", NOISE, weight=0.1)
    assert str(whole).endswith("the same of a view of x  -  0.1 KL(q(...|view of x) || q(...|x))")
    assert whole.part_names == ("bound", "view(x)", "consistency(x)")
