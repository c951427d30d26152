"""Wake-sleep: both gradients by hand, the wake limit, the mean over dreams."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from worlds.gradients import REGIMES, batches, flat, gradient, parts_by_hand
from worlds.linear import LinearPair, draw, linear

from ppl_models.batch import Batch
from ppl_models.inference import IWELBO, Anneal, Evaluation, UnhandledSite, WakeSleep


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("regime", REGIMES)
def test_model_and_guide_get_the_gradients_of_their_own_hand_sums(regime, scale):
    pair = linear(seed=1)
    objective = WakeSleep(3, wake=0.7)
    for batch in batches(pair, regime, scale):
        torch.manual_seed(0)
        run = Evaluation(pair.model, pair.guide, batch)
        got = gradient(batch.scale * objective.rows(run).sum(), pair)
        w = objective.weights(run)
        log_p, log_q, log_q_y = parts_by_hand(pair, batch, w.guide.nodes["z"]["value"])
        log_w = log_p - log_q.detach()
        evidence = torch.logsumexp(log_w, (0, 1)) - math.log(3)
        share = (log_w - torch.logsumexp(log_w, (0, 1), keepdim=True)).exp().detach()
        torch.testing.assert_close(objective.rows(run), -evidence)
        model = gradient(-batch.scale * evidence.sum(), pair)
        guide = gradient(-0.7 * batch.scale * (share * (log_q + log_q_y)).sum(), pair)
        for name in got:
            # Neither term reaches the other side, so one of the two is zero.
            assert not (model if name.startswith("guide") else guide)[name].any()
            torch.testing.assert_close(got[name], model[name] + guide[name])
        assert any(g.any() for n, g in got.items() if n.startswith("guide"))


def test_the_models_gradient_is_that_of_the_importance_weighted_bound_with_the_draws_held():
    pair = linear(seed=1)
    for batch in batches(pair, "mixed", 10):
        run, same = (Evaluation(pair.model, pair.guide, batch) for _ in range(2))
        torch.manual_seed(0)
        ours = gradient(WakeSleep(4).rows(run).sum(), pair)
        torch.manual_seed(0)
        theirs = gradient(IWELBO(4, lam=0, distil=0).rows(same).sum(), pair)
        for name in ("A", "means", "prior_logits"):  # the guide's draws do not hang on these
            torch.testing.assert_close(ours[name], theirs[name])


def inclusive_kl(pair: LinearPair, x: Tensor) -> Tensor:
    """-E_p(y,z|x) log q(y, z | x) per row in closed form, up to a constant."""
    joint, evidence = (t.detach() for t in pair.log_evidence(x))
    net = pair.guide.factors["z"].net
    log_q_y = pair.guide.factors["y"].net(x=x).log_softmax(-1)
    spread = net.log_widen * len(net.shift)
    square = (1 + net.shift.square()).sum() / (2 * (2 * net.log_widen).exp())
    return -((joint - evidence[:, None]).exp() * log_q_y).sum(-1) + spread + square


def test_the_wake_gradient_tends_to_that_of_the_inclusive_kl():
    pair = linear(seed=1)
    x = draw(pair, 4, seed=3)[0]
    exact = flat(gradient(inclusive_kl(pair, x).sum(), pair.guide))
    errors = []
    for particles in (2, 50, 4000):
        torch.manual_seed(0)
        repeats = 20_000 // particles
        many = Batch({"x": x.repeat(repeats, 1)})
        run = Evaluation(pair.model, pair.guide, many)
        got = flat(gradient(WakeSleep(particles).rows(run).sum() / repeats, pair.guide))
        errors.append(float((got - exact).norm() / exact.norm()))
    assert errors[0] > 3 * errors[1] and errors[2] < 0.02, errors


@pytest.mark.parametrize("labelled", [False, True])
def test_the_sleep_gradient_has_the_closed_form_mean(labelled):
    pair, rows = linear(seed=1), 20_000
    x, y = draw(pair, rows, seed=3)
    batch = Batch({"x": 0 * x, "y": y} if labelled else {"x": 0 * x})  # dreams replace the data
    torch.manual_seed(0)
    run = Evaluation(pair.model, pair.guide, batch)
    got = gradient(WakeSleep(1, wake=0, sleep=1).rows(run).mean(), pair)
    net = pair.guide.factors["z"].net
    shift, wide = net.shift.detach(), (2 * net.log_widen.detach()).exp()
    # With u = (z - E[z|x,y]) / sd ~ N(0, 1): log q = -log_widen - (u - shift)^2 / (2 wide).
    error = (got["guide.factors.z.net.shift"] - shift / wide) * wide * rows**0.5
    assert error.abs().max() < 4
    mean = (1 - (1 + shift.square()) / wide).sum()
    sd = ((2 + 4 * shift.square()) / wide.square()).sum().sqrt()
    error = (got["guide.factors.z.net.log_widen"] - mean) / sd * rows**0.5
    assert abs(error) < 4
    # Labelled rows observe y in their dreams, and so teach q(y | x) nothing.
    classifier = got["guide.factors.y.net.first.weights.x"]
    assert bool(classifier.any()) is not labelled


@pytest.mark.training
def test_sleep_alone_finds_the_classifier_that_the_dreams_imply():
    """q(y|x) is scored at dreams of its own: its gradient vanishes at the exact posterior."""
    pair, rows = linear(seed=1), 40_000
    run = Evaluation(pair.model, pair.guide, Batch({"x": draw(pair, rows, seed=3)[0]}))
    bias = "guide.factors.y.net.rest.1.bias"
    torch.manual_seed(0)
    got = gradient(WakeSleep(1, wake=0, sleep=1).rows(run).mean(), pair)[bias]
    # d/db_c of -log q(y|x) is q(c|x) - [y = c]; its mean is E q(c|x) - p(c).
    x = draw(pair, rows, seed=4)[0]
    q = pair.guide.factors["y"].net(x=x).softmax(-1)
    exact = (q.mean(0) - pair.prior_logits.softmax(0)).detach()
    assert ((got - exact).abs() / (1.5 / rows**0.5)).max() < 4


def test_bits_that_cannot_be_listed_are_weighted():
    logits = torch.tensor([0.3, -0.5, 0.2], dtype=torch.float64, requires_grad=True)
    prior = torch.tensor([0.1, 0.4, -0.9], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([0.7, -0.2], dtype=torch.float64)

    def model(batch):
        with batch.plate():
            h = pyro.sample("h", dist.Bernoulli(logits=prior).to_event(1))
            pyro.sample("x", dist.Normal(h.sum(-1), 1.0), obs=batch.get("x"))

    def guide(batch):
        with batch.plate():
            pyro.sample("h", dist.Bernoulli(logits=logits).to_event(1))

    torch.manual_seed(0)
    run = Evaluation(model, guide, Batch({"x": x}))
    loss = WakeSleep(5).rows(run).sum()
    h = run.weights(5, cut="all").guide.nodes["h"]["value"].reshape(5, 2, 3)
    log_q = (h * logits - torch.nn.functional.softplus(logits)).sum(-1)
    log_p = (h * prior - torch.nn.functional.softplus(prior)).sum(-1)
    log_w = log_p - 0.5 * (x - h.sum(-1)).square() - log_q
    hand = -(log_w.softmax(0).detach() * log_q).sum()
    got = torch.autograd.grad(loss, [logits, prior])
    torch.testing.assert_close(got[0], torch.autograd.grad(hand, logits, retain_graph=True)[0])
    model_side = -torch.logsumexp(log_p + (log_w - log_p).detach(), 0).sum()
    torch.testing.assert_close(got[1], torch.autograd.grad(model_side, prior)[0])


def test_shares_follow_their_schedule():
    pair = linear(seed=1)
    batch = batches(pair, "unlabelled", 1)[0]
    objective, norms = WakeSleep(3, wake=Anneal(0.0, 2.0)), []
    for progress in (0.0, 0.5, 1.0):
        objective.at(progress)
        torch.manual_seed(0)
        run = Evaluation(pair.model, pair.guide, batch)
        norms.append(flat(gradient(objective.rows(run).sum(), pair.guide)).norm())
    assert norms[0] == 0
    torch.testing.assert_close(norms[2], 2 * norms[1])


def test_what_it_cannot_do_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="wake and sleep are both 0"):
        WakeSleep(2, wake=0, sleep=0)
    with pytest.raises(ValueError, match="sleep is -1"):
        WakeSleep(2, sleep=-1)

    def model(batch):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with batch.plate():
            pyro.sample("x", dist.Normal(m, 1.0), obs=batch.get("x"))

    def guide(batch):
        pyro.sample("m", dist.Normal(0.0, 1.0))

    run = Evaluation(model, guide, Batch({"x": torch.zeros(2)}))
    with pytest.raises(UnhandledSite, match="'m' stands outside"):
        WakeSleep(2).rows(run)
