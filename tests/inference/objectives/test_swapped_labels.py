"""The game with swapped labels: losses and gradients by hand, and what the best critic moves."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close
from worlds.given_codes import GivenCodes

from ppl_models.batch import Batch
from ppl_models.inference import Anneal, Encoded, Generated, SwappedLabels, swapped_labels
from ppl_models.networks import Net

ROWS = 6


class Implicit(nn.Module):
    """z ~ N(0, I), x = A z + b y + c given a known y; the guide says N(C x + d y, e^2)."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.made = Net({"z": 2, "y": 1}, (), 3).to(dtype)
        self.told = Net({"x": 3, "y": 1}, (), 2).to(dtype)
        self.log_scale = nn.Parameter(torch.zeros(2, dtype=dtype))

    def model(self, batch: Batch) -> None:
        zero = torch.zeros_like(self.log_scale)
        with batch.plate():
            y = pyro.sample("y", dist.Normal(zero[:1], 1.0).to_event(1), obs=batch.get("y"))
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            x = dist.Delta(self.made(z=z, y=y), event_dim=1).mask(False)
            pyro.sample("x", x, obs=batch.get("x"))

    def guide(self, batch: Batch) -> None:
        with batch.plate():
            loc = self.told(x=batch["x"], y=batch["y"])
            pyro.sample("z", dist.Normal(loc, self.log_scale.exp()).to_event(1))


def game(dtype, weight=1.0, scale=1):
    torch.manual_seed(0)
    pair, critic = Implicit(dtype), Net({"x": 3, "z": 2, "y": 1}, (4,), 1).to(dtype)
    batch = Batch(
        {"x": torch.randn(ROWS, 3, dtype=dtype), "y": torch.randn(ROWS, 1, dtype=dtype)},
        size=scale * ROWS,
    )
    sites = ("x", "z", "y")
    term, player = swapped_labels(
        critic, Encoded(*sites), Generated(*sites, given=("y",)), weight, steps=2
    )
    return pair, critic, batch, term, player


def logits_by_hand(pair, critic, batch):
    """In the order of the game's draws: the guide's noise, then the model's."""
    noise = [torch.randn(ROWS, 2, dtype=batch["x"].dtype) for _ in range(2)]
    y = batch["y"]
    z = pair.told(x=batch["x"], y=y) + pair.log_scale.exp() * noise[0]
    made = pair.made(z=noise[1], y=y)
    return [critic(x=x, z=c, y=y).squeeze(-1) for x, c in ((batch["x"], z), (made, noise[1]))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_both_losses_are_cross_entropies_with_labels_as_they_are_and_swapped(dtype, scale, weight):
    pair, critic, batch, term, player = game(dtype, weight, scale)
    close = {"rtol": 1e-4 if dtype == torch.float32 else 1e-10, "atol": 1e-6}
    theirs = list(pair.parameters())
    ones, zeros = torch.ones(ROWS, dtype=dtype), torch.zeros(ROWS, dtype=dtype)
    entropy = functional.binary_cross_entropy_with_logits
    for objective, labels, moved, kept in (
        (term, (zeros, ones), theirs, []),
        (player.objective, (ones, zeros), list(critic.parameters()), theirs),
    ):
        torch.manual_seed(1)
        loss = objective.differentiable_loss(pair.model, pair.guide, batch)
        torch.manual_seed(1)
        logits = logits_by_hand(pair, critic, batch)
        exact = sum(entropy(d, y, reduction="sum") for d, y in zip(logits, labels, strict=True))
        exact = exact * scale * (weight if objective is term else 1) / 2
        assert_close(loss, exact, **close)
        found = torch.autograd.grad(loss, moved, retain_graph=bool(kept), allow_unused=True)
        assert_close(found, torch.autograd.grad(exact, moved), **close)
        # The critic's points carry no gradient into the pair.
        if kept:
            unused = torch.autograd.grad(loss, kept, allow_unused=True)
            assert all(g is None for g in unused)
    assert player.steps == 2 and player.module is critic


def test_each_network_is_moved_by_its_own_kind_of_points():
    pair, critic, batch, term, _ = game(torch.float64)
    parameters = dict(pair.named_parameters())
    for number, reached in ((0, {"told", "log_scale"}), (1, {"made"})):
        torch.manual_seed(1)
        logits = logits_by_hand(pair, critic, batch)[number]
        loss = functional.softplus(logits if number == 0 else -logits).sum() / 2
        exact = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        torch.manual_seed(1)
        whole = term.differentiable_loss(pair.model, pair.guide, batch)
        found = torch.autograd.grad(whole, list(parameters.values()))
        for name, one, other in zip(parameters, exact, found, strict=True):
            assert (one is not None) == (name.split(".")[0] in reached), name
            if one is not None:
                assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shares", [((1, 3), (2, 2)), ((4, 1, 1), (2, 3, 1)), ((5, 2), (1, 6))])
def test_the_best_critic_moves_each_kind_down_its_divergence(dtype, shares):
    """Densities over a few points: gradients of KL - 2 JS, by the density of either kind."""
    p, q = ((torch.tensor(s, dtype=dtype) / sum(s)).requires_grad_() for s in shares)
    ratio = (p / q).log().detach()
    for moved, other in ((p, q), (q, p)):
        mixed = (p + q) / 2
        kl = (moved * (moved / other).log()).sum()
        shannon = ((p * (p / mixed).log()).sum() + (q * (q / mixed).log()).sum()) / 2
        (exact,) = torch.autograd.grad(kl - 2 * shannon, moved, retain_graph=True)

        # Each row's point of the one kind is another one; those of the other kind are alike.
        points, same = torch.arange(len(ratio)), torch.zeros(len(ratio), dtype=torch.long)
        kinds = (points, same) if moved is p else (same, points)
        term = SwappedLabels(lambda i: ratio[i], *(lambda run, k=k: (k,) for k in kinds))
        batch = Batch({"x": torch.zeros(len(ratio), 1, dtype=dtype)})
        found = 2 * term.rows(term.run(None, None, batch))
        # Shares add up to one: a constant moves nothing.
        assert_close(found - found[0], exact - exact[0])


def test_a_schedule_and_what_it_says():
    pair, critic, batch, *_ = game(torch.float64)
    term = SwappedLabels(
        critic, Encoded("x", "z", "y"), Generated("x", "z", "y", given=("y",)), Anneal(0.0, 2.0)
    )
    assert float(term.differentiable_loss(pair.model, pair.guide, batch)) == 0
    losses = []
    for progress in (0.5, 1.0):
        term.at(progress)
        torch.manual_seed(1)
        losses.append(term.differentiable_loss(pair.model, pair.guide, batch))
    assert_close(2 * losses[0], losses[1])
    assert term.part_names == ("swapped_labels(x, z, y)",)
    assert "log sigmoid -D(x, z, y)" in term.formula
    with pytest.raises(ValueError, match="weight of SwappedLabels is nan"):
        SwappedLabels(critic, Encoded("z"), Encoded("z"), math.nan)
    swap, _ = swapped_labels(critic, Encoded("z"), Encoded("x"))
    rows, given = Batch({"x": torch.zeros(2, 2).double()}), GivenCodes(2)
    with pytest.raises(ValueError, match="reads \\['x', 'z', 'y'\\], but"):
        swap.differentiable_loss(given.model, given.guide, rows)
