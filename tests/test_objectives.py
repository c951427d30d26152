"""Every bound against sums written out by hand over the same draws."""

from __future__ import annotations

import math

import pyro
import pyro.optim
import pytest
import torch
from pyro.infer import SVI, TraceEnum_ELBO
from torch import Tensor
from torch.distributions import Normal
from worlds import LinearPair, draw, linear

from ppl_models import inference
from ppl_models.batch import Batch
from ppl_models.inference import ELBO, IWELBO, Anneal, Classification, EnumeratedELBO, Evaluation

B = 6


def hand_weights(pair: LinearPair, batch: Batch, z: Tensor) -> tuple[Tensor, Tensor]:
    """log w (C, K, B) and log q(y|x) (C, B) by loops over labels and scalars of the formula."""
    x, C, K = batch["x"], pair.config.classes, z.shape[-3]
    log_prior = pair.prior_logits.log_softmax(0)
    widen, shift = pair.guide.factors["z"].net.log_widen, pair.guide.factors["z"].net.shift
    log_w = []
    for y in range(C):
        loc, scale = pair.posterior_z(x, torch.full((len(x),), y))
        for k in range(K):
            draw_z = z[y, k] if z.dim() == 4 else z[k]
            log_p = (
                log_prior[y]
                + Normal(0.0, 1.0).log_prob(draw_z).sum(-1)
                + Normal(draw_z @ pair.A.T + pair.means[y], pair.noise).log_prob(x).sum(-1)
            )
            log_q = Normal(loc + shift * scale, scale * widen.exp()).log_prob(draw_z).sum(-1)
            log_w.append(log_p - log_q)
    log_q_y = pair.guide.factors["y"].net(x=x).log_softmax(-1).T
    return torch.stack(log_w).reshape(C, K, len(x)), log_q_y


def hand_bound(log_w: Tensor, log_q_y: Tensor, lam: float) -> Tensor:
    """L_lambda per row, as a loop over rows, labels and draws."""
    C, K, rows = log_w.shape
    out = []
    for b in range(rows):
        ell = [torch.logsumexp(log_w[y, :, b], 0) - math.log(K) for y in range(C)]
        D = torch.logsumexp(torch.stack(ell), 0)
        kl = sum(
            log_q_y[y, b].exp() * (log_q_y[y, b] - (ell[y] - D)) for y in range(C)
        )
        out.append(D - lam * kl)
    return torch.stack(out)


@pytest.fixture(params=[torch.float64, torch.float32], ids=["f64", "f32"])
def dtype(request):
    return request.param


def tolerance(dtype):
    return {"rtol": 0, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-4}


def batches(pair, scale, regime, dtype=torch.float64):
    x, y = draw(pair, B)
    x = x.to(dtype)
    rows = torch.arange(B)
    N = B * scale
    full = {"size": N, "total": N}
    if regime == "unlabelled":
        return [Batch({"x": x}, rows, **full)]
    if regime == "labelled":
        return [Batch({"x": x, "y": y}, rows, **full)]
    half = B // 2
    part = {"size": N // 2, "total": N, "observed": {"y": N // 2, "x": N}}
    return [
        Batch({"x": x[:half], "y": y[:half]}, rows[:half], **part),
        Batch({"x": x[half:]}, rows[half:], **part),
    ]


def hand_loss(pair, batch, run, lam, particles, inside=True):
    w = run.weights(particles)
    z = w.guide.nodes["z"]["value"]
    if "y" in batch:
        z = z.reshape(particles, batch.count, -1)
        log_w, _ = hand_weights(pair, batch, z)
        own = log_w[batch["y"], :, torch.arange(batch.count)]  # (B, K)
        ell = torch.logsumexp(own, 1) - math.log(particles) if inside else own.mean(1)
        return -ell
    log_w, log_q = hand_weights(pair, batch, z)
    if not inside:
        log_w = log_w.mean(1, keepdim=True)
    return -hand_bound(log_w, log_q, lam)


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("regime", ["unlabelled", "labelled", "mixed"])
@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("particles", [1, 5, 50])
def test_iwelbo_is_the_hand_sum(particles, lam, regime, scale, dtype):
    pair = linear(dtype=dtype)
    objective = IWELBO(particles, lam=lam, distil=0.0)
    total, expected = 0.0, 0.0
    for batch in batches(pair, scale, regime, dtype):
        run = Evaluation(pair.model, pair.guide, batch)
        rows = objective.rows(run)
        hand = hand_loss(pair, batch, run, lam, particles)
        torch.testing.assert_close(rows, hand, **tolerance(dtype))
        total, expected = total + batch.scale * rows.sum(), expected + scale * hand.sum()
    torch.manual_seed(1)
    first = objective.loss(pair.model, pair.guide, batches(pair, scale, regime, dtype))
    torch.manual_seed(1)
    again = sum(
        batch.scale * objective.per_datum(pair.model, pair.guide, batch).sum()
        for batch in batches(pair, scale, regime, dtype)
    )
    torch.testing.assert_close(total, expected, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0)
    assert first == pytest.approx(float(again.detach()), rel=1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("regime", ["unlabelled", "labelled", "mixed"])
@pytest.mark.parametrize("particles", [1, 5, 50])
def test_enumerated_elbo_is_the_hand_sum(particles, regime, scale, dtype):
    pair = linear(dtype=dtype)
    for batch in batches(pair, scale, regime, dtype):
        run = Evaluation(pair.model, pair.guide, batch)
        rows = EnumeratedELBO(particles).rows(run)
        hand = hand_loss(pair, batch, run, 1.0, particles, inside=False)
        torch.testing.assert_close(rows, hand, **tolerance(dtype))


@pytest.mark.parametrize("particles", [1, 5, 50])
def test_identity_of_D_and_B_sample_by_sample(particles):
    pair = linear()
    (batch,) = batches(pair, 1, "unlabelled")
    run = Evaluation(pair.model, pair.guide, batch)
    D = -IWELBO(particles, lam=0.0, distil=0.0).rows(run)
    bound_B = -IWELBO(particles, lam=1.0).rows(run)
    log_w, log_q = hand_weights(pair, batch, run.weights(particles).guide.nodes["z"]["value"])
    log_pi = (torch.logsumexp(log_w, 1) - math.log(particles)).log_softmax(0)
    kl = (log_q.exp() * (log_q - log_pi)).sum(0)
    torch.testing.assert_close(D, bound_B + kl, rtol=0, atol=1e-10)
