"""The Renyi bound against loops, and against the bounds that it joins."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from worlds.gradients import REGIMES, batches, flat, gradient, parts_by_hand
from worlds.linear import draw, linear

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.inference import IWELBO, Anneal, EnumeratedELBO, Evaluation, Renyi

K = 3


def by_loops(log_p, log_q, log_q_y, alpha):
    """The bound of each row with one exponential per label and draw."""
    rows = []
    for b in range(log_p.shape[-1]):
        total = 0.0
        for y in range(log_p.shape[0]):
            for k in range(K):
                log_q_yz = log_q[y, k, b] + log_q_y[y, 0, b]
                ratio = (log_p[y, k, b] - log_q_yz).exp()
                total = total + log_q_y[y, 0, b].exp() / K * ratio ** (1 - alpha)
        rows.append(total.log() / (1 - alpha))
    return torch.stack(rows)


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 0.9995, 3.0])
def test_value_and_gradient_are_those_of_the_loops(alpha, regime, scale):
    pair, objective = linear(seed=1), Renyi(K, alpha)
    made = batches(pair, regime, scale)
    torch.manual_seed(0)
    loss = objective.differentiable_loss(pair.model, pair.guide, made)
    torch.manual_seed(0)
    hand = 0.0
    for batch in made:
        w = objective.weights(Evaluation(pair.model, pair.guide, batch))
        parts = parts_by_hand(pair, batch, w.guide.nodes["z"]["value"])
        hand = hand - scale * by_loops(*parts, alpha).sum()
    torch.testing.assert_close(loss, hand, rtol=1e-9, atol=1e-9)
    ours, theirs = flat(gradient(loss, pair)), flat(gradient(hand, pair))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("regime", ["unlabelled", "labelled"])
def test_it_joins_the_tightest_and_the_enumerated_bound_on_the_same_draws(regime):
    pair = linear(seed=1)
    batch = batches(pair, regime, 1)[0]

    def rows(objective):
        torch.manual_seed(0)
        return objective.rows(Evaluation(pair.model, pair.guide, batch))

    enumerated = rows(EnumeratedELBO(K))
    torch.testing.assert_close(rows(Renyi(K, 0.0)), rows(IWELBO(K, lam=0.0, distil=0.0)))
    torch.testing.assert_close(rows(Renyi(K, 1.0)), enumerated, rtol=0, atol=0)
    for near in (1e-9, -1e-9, 1e-6):
        torch.testing.assert_close(rows(Renyi(K, 1.0 + near)), enumerated, rtol=0, atol=1e-4)
    losses = torch.stack(
        [rows(Renyi(K, a)) for a in (-2.0, -0.5, 0.0, 0.3, 0.999, 1.0, 1.01, 4.0)]
    )
    assert (losses.diff(dim=0) > 0).all()  # the bound falls as alpha grows


def test_the_whole_data_set_counts_exactly_n_over_b_times():
    pair = linear(seed=1)
    losses = []
    for scale in (1, 10):
        torch.manual_seed(0)
        batch = batches(pair, "unlabelled", scale)[0]
        losses.append(Renyi(K, -0.5).differentiable_loss(pair.model, pair.guide, batch))
    assert losses[1] == 10 * losses[0]


def test_single_precision_keeps_its_digits_near_alpha_one():
    values = {}
    for dtype in (torch.float32, torch.float64):
        pair = linear(seed=1, dtype=dtype, quality=0.0)
        x = draw(linear(seed=1), 5, seed=3)[0]
        torch.manual_seed(0)
        run = Evaluation(pair.model, pair.guide, Batch({"x": x.to(dtype)}))
        z = torch.randn(pair.config.classes, K, 5, 2, dtype=torch.float64)
        # The same noise in both precisions: the draws are replaced through their own factor.
        values[dtype] = (pair, run, z)
    for alpha in (1 - 1e-7, 1 - 1e-4, 1 - 9e-4, 1 - 2e-3):
        rows = []
        for dtype, (pair, run, z) in values.items():
            objective = Renyi(K, alpha)
            w = objective.weights(run)
            parts = parts_by_hand(pair, run.batch, z.to(dtype))
            w = _with(w, *parts)
            objective.weights = lambda _, w=w: w
            rows.append(objective.rows(run).double())
        torch.testing.assert_close(rows[0], rows[1], rtol=0, atol=2e-3)


def _with(w, log_p, log_q, log_q_y):
    class Given:
        rescaled = None

    given = Given()
    given.log_p, given.log_w, given.log_q_labels_by_draw = log_p, log_p - log_q, log_q_y
    return given


def test_alpha_follows_its_schedule_and_options_are_checked():
    pair, objective = linear(seed=1), Renyi(K, Anneal(1.0, -1.0))
    batch = batches(pair, "unlabelled", 1)[0]
    for progress, alpha in ((0.0, 1.0), (0.25, 0.5), (1.0, -1.0)):
        objective.at(progress)
        both = []
        for bound in (objective, Renyi(K, alpha)):
            torch.manual_seed(0)
            both.append(bound.rows(Evaluation(pair.model, pair.guide, batch)))
        assert torch.equal(*both)
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="alpha is"):
            Renyi(K, wrong)
    with pytest.raises(ValueError, match="particles is 0"):
        Renyi(0)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9999, 2.0])
def test_renyi_needs_no_draws(alpha, labelled):
    """Without a code there is one term per label, whatever K is."""
    B, C = 3, 4
    means = torch.randn(C, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.randn(B, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def model(batch: Batch) -> None:
        with batch.plate():
            y = pyro.sample("y", dist.Categorical(means.new_ones(C)), obs=batch.get("y"))
            pyro.sample("x", dist.Normal(means[y], 1.0).to_event(1), obs=batch["x"])

    guide = guides.Factored(y=guides.Categorical(C, {"x": 2})).double()
    log_p = dist.Normal(means, 1.0).log_prob(x[:, None]).sum(-1) - math.log(C)
    log_q = guide.factor("y", {"x": x}).logits.log_softmax(-1)
    power, y = 1 - alpha, torch.tensor([0, 2, 3])
    if labelled:
        batch, expected = Batch({"x": x, "y": y}), log_p[range(B), y]
    else:
        batch = Batch({"x": x})
        expected = torch.logsumexp(log_q + power * (log_p - log_q), -1) / power
    found = -Renyi(8, alpha).per_datum(model, guide, batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
