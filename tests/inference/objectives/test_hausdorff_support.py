"""Hausdorff support: distances by loops, gradients, drawn pairs, and what a weight of 0 leaves."""

from __future__ import annotations

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from worlds.two_codes import C, TwoCodes, rows
from worlds.whole_life import QUIET, resumed

import ppl_models as zoo
from ppl_models import Batch, data, inference
from ppl_models.inference import (
    ELBO,
    IWELBO,
    Anneal,
    EnumeratedELBO,
    HausdorffSupport,
    SupportScale,
    UnhandledSite,
)
from ppl_models.inference.objectives.code_terms.hausdorff_support import (
    support_distance,
    support_shortfall,
)

PAIRS = torch.tensor([(0, 1), (0, 2), (1, 2)])


def by_loops(means, i, j, points=None):
    """The largest of the smallest distances, one at a time."""
    count = len(means)
    largest = None
    for a, b in itertools.product(range(count), repeat=2) if points is None else points.tolist():
        away = [
            (means[a, i] - means[s, i]).square() + (means[b, j] - means[s, j]).square()
            for s in range(count)
        ]
        nearest = torch.stack(away).min()
        largest = nearest if largest is None or nearest > largest else largest
    return largest


def drawn(count, size, dtype=torch.float64, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("points", [0, 5])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_distance_and_gradient_by_loops(count, points, dtype):
    means = drawn(count, 3, dtype).requires_grad_()
    at = torch.randint(count, (3, points, 2)) if points else None
    found = support_distance(means, PAIRS, at)
    places = [None] * 3 if at is None else at
    hand = torch.stack(
        [by_loops(means, i, j, p) for (i, j), p in zip(PAIRS.tolist(), places, strict=True)]
    )
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=dtype)
    grads = [torch.autograd.grad((weights * h).sum(), means)[0] for h in (found, hand)]
    assert_close(found, hand)
    assert_close(*grads)
    assert count == 1 or bool(found.gt(0).any())


def test_in_pieces_as_at_once(monkeypatch):
    means = drawn(9, 3)
    whole = support_distance(means, PAIRS)
    name = "ppl_models.inference.objectives.code_terms.hausdorff_support.AT_ONCE"
    monkeypatch.setattr(name, 1)
    assert torch.equal(support_distance(means, PAIRS), whole)


def test_the_order_of_rows_and_the_scale_of_codes():
    means = drawn(20, 3)
    whole = support_distance(means, PAIRS)
    assert torch.equal(support_distance(means[torch.randperm(20)], PAIRS), whole)
    assert_close(support_distance(3 * means + 1, PAIRS), 9 * whole)


def test_a_full_grid_is_a_product():
    grid = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)).requires_grad_()
    found = support_distance(grid, PAIRS[:1])
    assert found.item() == 0
    assert not torch.autograd.grad(found.sum(), grid)[0].any()


def test_codes_of_the_unit_square_and_of_its_diagonal():
    """0.045 and 0.468, measured for another implementation; 20 batches of 64."""
    codes = torch.rand(20, 64, 2, generator=torch.Generator().manual_seed(0))
    square = [support_distance(c, PAIRS[:1]) for c in codes]
    diagonal = [support_distance(c[:, :1].expand(-1, 2), PAIRS[:1]) for c in codes]
    assert float(torch.cat(square).mean()) == pytest.approx(0.045, rel=0.2)
    assert float(torch.cat(diagonal).mean()) == pytest.approx(0.468, rel=0.2)


def means_by_hand(world, batch, site):
    """Mean codes, those of each label as probable as it is."""
    if site == "a" or "y" in batch:
        return world.guide.factor(site, batch).mean
    every = [
        world.guide.factor(site, {"x": batch["x"], "y": torch.full((batch.count,), y)}).mean
        for y in range(C)
    ]
    return torch.einsum("bc,cbl->bl", world.guide.factor("y", batch).probs, torch.stack(every))


BOUNDS = {"one": EnumeratedELBO(kl="analytic"), "three": IWELBO(3)}
WIDTHS = {torch.float64: 1e-10, torch.float32: 1e-4}


@pytest.mark.parametrize(("scale", "dtype"), [(1, torch.float64), (10, torch.float32)])
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("sites", ["x", "xy"])
@pytest.mark.parametrize("site", ["a", "b"], ids=["free", "given a label"])
def test_the_terms_by_loops(site, sites, bound, scale, dtype):
    world, batch = TwoCodes(given=True).to(dtype), rows(*sites, scale=scale).to(dtype)
    kinds = {
        HausdorffSupport(site, 1.7): lambda m: 1.7 * by_loops(m, 0, 1),
        SupportScale(site, 0.3): lambda m: 0.3 * (1 - (m.var(0) + 1e-6).sqrt()).clamp_min(0).sum(),
        SupportScale(site, Anneal(0, 4), "minimal_support"): lambda m: 2 * sum(
            max(0, 1 - column.max()) + max(0, column.min()) for column in m.T
        ),
    }  # fmt: skip
    for term, by_hand in kinds.items():
        both = BOUNDS[bound] + term
        both.at(0.5)
        torch.manual_seed(1)
        total = both.differentiable_loss(world.model, world.guide, batch)
        torch.manual_seed(1)
        plain = BOUNDS[bound].differentiable_loss(world.model, world.guide, batch)
        hand = batch.size * by_hand(means_by_hand(world, batch, site))
        width = WIDTHS[dtype] * 10
        assert_close(total - plain, hand, rtol=width, atol=width * batch.size)
        parameters = list(world.guide.parameters())
        if dtype == torch.float64:
            grads = [
                torch.autograd.grad(t, parameters, allow_unused=True, materialize_grads=True)
                for t in (total - plain, hand)
            ]
            assert_close(*grads, rtol=1e-8, atol=1e-8)


class Codes(nn.Module):
    """q(z | x) = N(x, 1)."""

    def model(self, batch):
        with batch.plate():
            pyro.sample("z", dist.Normal(batch["x"] * 0, 1.0).to_event(1))

    def forward(self, batch):
        with batch.plate():
            pyro.sample("z", dist.Normal(batch["x"], 1.0).to_event(1))


def told(term, means, seed):
    world, batch = Codes(), Batch({"x": means})
    torch.manual_seed(seed)
    return float(term.rows(ELBO().run(world.model, world, batch))[0])


def test_pairs_are_drawn_anew_and_none_twice():
    means = drawn(6, 4)
    every = support_distance(means, torch.combinations(torch.arange(4))).tolist()
    sums = [sum(some) for some in itertools.combinations(every, 4)]  # of six pairs, all different
    found = [told(HausdorffSupport("z", pairs=4), means, seed) for seed in range(60)]
    which = [next(k for k, s in enumerate(sums) if abs(s - f) < 1e-9) for f in found]
    assert len(set(which)) == len(sums) == 15  # 60 draws miss one of 15 with probability 0.2 %
    assert told(HausdorffSupport("z", pairs=6), means, 0) == pytest.approx(sum(every))


def test_points_are_drawn_from_the_product():
    """Each is one of the B^2 and few give less than all; hundreds of five rows give all."""
    means = drawn(5, 2)
    whole = by_loops(means, 0, 1).item()
    nearest = {
        round(by_loops(means, 0, 1, torch.tensor([p])).item(), 9)
        for p in itertools.product(range(5), repeat=2)
    }
    one = {round(told(HausdorffSupport("z", points=1), means, s), 9) for s in range(30)}
    assert one <= nearest and len(one) > 3
    assert told(HausdorffSupport("z", points=500), means, 0) == pytest.approx(whole)


def test_shortfall_of_one_row_and_of_large_codes():
    assert support_shortfall(drawn(1, 3)).item() == 3
    large = torch.tensor([[-1.0, 0.0], [2.0, 3.0]], requires_grad=True)
    for kind in ("variance", "minimal_support"):
        assert support_shortfall(large, kind).item() == 0


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train=80, validation=20, test=20)


OPTIONS = {"epochs": 2, "batch_size": 40, "seed": 3, "learning_rate": 0.01}
SMALL = {"networks": "dense", "hidden": (8,), "latent": 4, "seed": 1}


def weights(run):
    return {n: v.detach() for n, v in run.pair.state_dict().items()}


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_a_weight_of_0_is_the_vae_and_a_run_resumes_to_the_bit(digits, gamma, tmp_path):
    def make():
        return zoo.build("hfs", digits, beta=1.0, gamma=gamma, pairs=2, **SMALL)

    again = weights(resumed(make, digits, tmp_path / "run", **QUIET, **OPTIONS))
    objective = ELBO(kl="analytic") if gamma == 0 else make().objective()
    alone = weights(inference.fit(make(), digits, objective, **QUIET, **OPTIONS))
    assert all(torch.equal(again[name], value) for name, value in alone.items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HausdorffSupport("z", -1), r"weight of HausdorffSupport\('z'\) is -1"),
        (lambda: HausdorffSupport("z", pairs=0), "pairs is 0, expected"),
        (lambda: HausdorffSupport("z", points=-1), "points is -1, expected"),
        (lambda: SupportScale("z", -1), r"weight of SupportScale\('z'\) is -1"),
        (lambda: SupportScale("z", kind="std"), "kind is 'std', expected one of variance"),
    ],
)
def test_options_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_codes_without_two_numbers_are_named():
    world = TwoCodes()
    run = EnumeratedELBO().run(world.model, world.guide, rows("x"))
    with pytest.raises(UnhandledSite, match=r"site 'y' is Categorical in the guide .* two real"):
        HausdorffSupport("y").rows(run)


def test_they_print_their_formulas():
    term = HausdorffSupport("z", 3)
    assert str(term) == "-3 sum of 25 pairs i, j of d(supp z_i x supp z_j, supp z_ij)^2"
    assert term.part_names == ("hausdorff_support(z)",)
    assert str(SupportScale("z")) == "-1 [sum_j max(0, 1 - std z_j)]"
