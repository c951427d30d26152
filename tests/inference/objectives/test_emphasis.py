"""A site that counts more than once, against loops over labels."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import Normal
from worlds.enumerated import same
from worlds.gradients import REGIMES, batches, parts_by_hand
from worlds.linear import linear

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.inference import (
    ELBO,
    IWELBO,
    Anneal,
    Emphasis,
    EnumeratedELBO,
    Evaluation,
    UnhandledSite,
)


def draws(w, batch):
    return w.guide.nodes["z"]["value"].reshape(-1, 1, batch.count, 2)  # C or 1 x K x B x L


def log_x(pair, batch, z):
    """log p(x | y, z), ``(C or 1, 1, B)``."""
    labels = [batch["y"]] if "y" in batch else range(pair.config.classes)
    rows = []
    for place, y in enumerate(labels):
        loc = z[place] @ pair.A.T + pair.means[torch.as_tensor(y).expand(batch.count)]
        rows.append(Normal(loc, pair.noise).log_prob(batch["x"]).sum(-1))
    return torch.stack(rows)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("weight", [0.0, 1.0, 4.0])
def test_bound_and_gradient_are_those_of_a_loop_over_labels(regime, scale, weight):
    pair = linear(seed=1)
    objective = EnumeratedELBO() + Emphasis("x", weight)
    hand = torch.zeros((), dtype=torch.float64)
    parts = batches(pair, regime, scale)
    torch.manual_seed(0)
    for batch in parts:
        z = draws(Evaluation(pair.model, pair.guide, batch).weights(), batch)
        log_p, log_q, log_q_y = parts_by_hand(pair, batch, z)
        log_w = log_p - log_q - log_q_y + (weight - 1) * log_x(pair, batch, z)
        hand = hand - scale * (log_q_y.exp() * log_w).sum()
    torch.manual_seed(0)
    ours = objective.differentiable_loss(pair.model, pair.guide, parts)
    same(ours, hand, pair, tol=1e-8)


def test_a_label_counts_in_the_rows_that_have_it():
    pair = linear(seed=1)
    unlabelled, labelled = batches(pair, "mixed", 10)
    term = Emphasis("y", 3.0)
    log_y = pair.prior_logits.log_softmax(0)[labelled["y"]]
    same(term.rows(Evaluation(pair.model, pair.guide, labelled)), -2 * log_y, pair)
    assert torch.equal(
        term.rows(Evaluation(pair.model, pair.guide, unlabelled)), torch.zeros(5).double()
    )


@pytest.mark.parametrize("bound", [EnumeratedELBO(), IWELBO(1)])
def test_it_reads_the_bounds_own_draws(bound):
    pair = linear(seed=1)
    (batch,) = batches(pair, "unlabelled", 1)
    calls = []

    def guide(batch):
        calls.append(batch)
        return pair.guide(batch)

    (bound + Emphasis("x", 2.0)).rows(Evaluation(pair.model, guide, batch))
    alone = len(calls)
    calls.clear()
    bound.rows(Evaluation(pair.model, guide, batch))
    assert alone == len(calls)


def test_an_importance_weighted_bound_takes_it_beside_its_log():
    """A weight in the model would be refused there."""
    pair = linear(seed=1)
    (batch,) = batches(pair, "labelled", 1)
    objective = IWELBO(5) + Emphasis("y", 3.0)
    torch.manual_seed(0)
    ours = objective.rows(Evaluation(pair.model, pair.guide, batch))
    torch.manual_seed(0)
    bound = IWELBO(5).rows(Evaluation(pair.model, pair.guide, batch))
    log_y = pair.prior_logits.log_softmax(0)[batch["y"]]
    torch.testing.assert_close(ours, bound - 2 * log_y)


def test_the_weight_follows_its_schedule_and_is_printed():
    pair = linear(seed=1)
    (batch,) = batches(pair, "labelled", 1)
    term = Emphasis("y", Anneal(1.0, 5.0))
    one = Emphasis("y", 2.0).rows(Evaluation(pair.model, pair.guide, batch))
    for progress, times in ((0.0, 0.0), (0.5, 2.0), (1.0, 4.0)):
        term.at(progress)
        torch.testing.assert_close(
            term.rows(Evaluation(pair.model, pair.guide, batch)), times * one
        )
    assert str(ELBO() + Emphasis("y", 100.0)).endswith("(100 - 1) E_q[log p(y | ...)]")
    assert repr(term) == "Emphasis('y', Anneal(1, 5))"


class Own(nn.Module):
    """A label of the model alone, and data below it."""

    def __init__(self) -> None:
        super().__init__()
        self.guide = guides.Factored(z=guides.Normal(1, {"x": 1}))

    def model(self, batch: Batch) -> None:
        with batch.plate():
            y = pyro.sample("y", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            loc = z + y.unsqueeze(-1)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=batch["x"])


def test_what_it_cannot_weigh_is_refused():
    pair = linear(seed=1)
    (batch,) = batches(pair, "labelled", 1)
    more = batch.replace({**batch, "w": batch["x"]})
    with pytest.raises(UnhandledSite, match=r"Emphasis names site 'w'.*\['x', 'y', 'z'\]"):
        Emphasis("w", 2.0).rows(Evaluation(pair.model, pair.guide, more))
    own = Own()
    with pytest.raises(UnhandledSite, match=r"weighs site 'x', which depends on \['y'\]"):
        Emphasis("x", 2.0).rows(Evaluation(own.model, own.guide, Batch({"x": torch.zeros(2, 1)})))
    with pytest.raises(ValueError, match=r"weight of Emphasis\('y'\) is -1"):
        Emphasis("y", -1.0)
