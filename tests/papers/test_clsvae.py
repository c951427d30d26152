"""CLSVAE's objective, row by row by hand, and what detection and repair read."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.testing import assert_close
from worlds.statistics_by_loops import by_hand as dcor

from ppl_models import build, data, inference
from ppl_models.batch import Batch
from ppl_models.inference import EnumeratedELBO, Evaluation
from ppl_models.likelihoods import SharedNormal
from ppl_models.testing.fixed_draws import FixedDraws

B, D = 6, 8
SMALL = {"data_dim": D, "clean_code": 3, "dirty_code": 2, "hidden": (6, 5), "classifier": (4,)}


@pytest.fixture
def pair():
    return build("clsvae", beta=7.0, outlier=1.5, dependence=4.0, **SMALL).double()


def batches(regime, scale):
    g = torch.Generator().manual_seed(0)
    x = torch.bernoulli(torch.full((2 * B, D), 0.5, dtype=torch.float64), generator=g)
    y = torch.tensor([1, 0, 0, 1, 0, 1])
    made = {"labelled": {"x": x[:B], "y": y}, "unlabelled": {"x": x[B:]}}
    kinds = ["labelled", "unlabelled"] if regime == "mixed" else [regime]
    total = scale * B * len(kinds)
    return [
        Batch(made[k], size=scale * B, total=total, observed={"x": total, "y": scale * B})
        for k in kinds
    ]


def codes(pair, x):
    """q(z_c | x) and q(z_d | x), their draws at fixed noise, and the noise that replaces z_d."""
    q_c, q_d = (pair.guide.factor(name, {"x": x}).base_dist for name in ("z_c", "z_d"))
    g = torch.Generator().manual_seed(1)
    noise = [torch.randn(len(x), n, generator=g, dtype=x.dtype) for n in (3, 2, 2)]
    values = {
        "z_c": q_c.loc + q_c.scale * noise[0],
        "z_d": q_d.loc + q_d.scale * noise[1],
        "z_eps": 0.5 * noise[2],
    }
    return q_c, q_d, values


class Reparameterised(FixedDraws):
    """The guide at draws that carry their gradient."""

    def __init__(self, pair):
        super().__init__(pair.guide, {})
        self.pair = pair

    def __call__(self, batch):
        self.values = codes(self.pair, batch["x"])[2]
        return super().__call__(batch)


def loss_by_hand(pair, batch, kl_weight, penalty):
    """The specification's sum, a loop over rows and both values of y."""
    x, (q_c, q_d, z) = batch["x"], codes(pair, batch["x"])
    c, rows = pair.config, []
    dirty, clean = c.label_prior
    for b in range(len(x)):
        z_c, z_d, z_eps = z["z_c"][b], z["z_d"][b], z["z_eps"][b]
        nll = [
            -Bernoulli(logits=pair.decoder(z_c=z_c, pattern=last)).log_prob(x[b]).sum()
            for last in (z_d, z_eps)
        ]
        logits = pair.guide.factors["y"].net.net(z_c=z_c.detach(), z_d=z_d)
        pi = torch.sigmoid(logits[1] - logits[0])
        kl = kl_divergence(
            Normal(q_c.loc[b], q_c.scale[b]), Normal(torch.zeros(3).double(), c.s_c)
        ).sum()
        kl = (
            kl
            + kl_divergence(
                Normal(q_d.loc[b], q_d.scale[b]), Normal(torch.zeros(2).double(), c.s_d)
            ).sum()
        )
        if "y" in batch:
            y = int(batch["y"][b])
            prior = math.log(clean if y else dirty)
            right = pi if y else 1 - pi
            weight = batch.total / batch.observed["y"] * c.beta * (1.0 if y else c.outlier)
            row = nll[y] - prior + kl_weight * kl - weight * right.log()
        else:
            kl_y = pi * (pi / clean).log() + (1 - pi) * ((1 - pi) / dirty).log()
            row = pi * nll[1] + (1 - pi) * nll[0] + kl_weight * (kl + kl_y)
        rows.append(row)
    apart = dcor(z["z_c"].tolist(), z["z_d"].tolist())
    return batch.scale * (sum(rows) + penalty * apart * len(x))


def gradients(loss, pair):
    grads = torch.autograd.grad(loss, list(pair.parameters()), allow_unused=True)
    return {n: g for (n, _), g in zip(pair.named_parameters(), grads, strict=True)}


# delay 0.05, then half of the rest: up to 0.525
@pytest.mark.parametrize(("progress", "share"), [(0.05, 0), (0.05 + 0.475 / 4, 0.25), (0.6, 1)])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("regime", ["labelled", "unlabelled", "mixed"])
def test_the_objective_is_the_sum_written_out(pair, regime, scale, progress, share):
    made = batches(regime, scale)
    objective = pair.objective()
    objective.at(progress)
    loss = objective.differentiable_loss(pair.model, Reparameterised(pair), made)
    hand = sum(loss_by_hand(pair, b, share, 4.0 * share) for b in made)
    assert_close(loss, hand, rtol=1e-9, atol=0)
    if share:
        # Numpy's dCor has no gradient: leave it out of both.
        objective = sum(objective.parts[1][1:], objective.parts[0][1])
        objective.at(progress)
        loss = objective.differentiable_loss(pair.model, Reparameterised(pair), made)
    found, expected = gradients(loss, pair), gradients(hand, pair)
    for name, grad in expected.items():
        if grad is None:
            assert found[name] is None or not bool(found[name].any()), name
        else:
            assert_close(found[name], grad, rtol=1e-8, atol=1e-9, msg=name)


@pytest.mark.parametrize("y", [0, 1])
def test_the_dirty_codes_kl_is_paid_whatever_y_is(pair, y):
    x = batches("labelled", 1)[0]["x"]
    batch = Batch({"x": x, "y": torch.full((B,), y)})
    losses = [
        EnumeratedELBO(kl="analytic", beta={"z_d": beta}).per_datum(
            pair.model, Reparameterised(pair), batch
        )
        for beta in (1.0, 0.0)
    ]
    kl = kl_divergence(codes(pair, x)[1], Normal(0.0, pair.config.s_d)).sum(-1)
    assert float(kl.min().detach()) > 0.1
    assert_close(losses[0] - losses[1], kl)


@pytest.mark.parametrize("analytic", [True, False])
def test_the_noise_cancels_and_both_branches_share_z_c(pair, analytic):
    run = Evaluation(pair.model, pair.guide, batches("unlabelled", 1)[0])
    w = run.weights(analytic_kl=analytic)
    q, p = w.guide.nodes["z_eps"], w.model.nodes["z_eps"]
    assert torch.equal(q["fn"].log_prob(q["value"]), p["fn"].log_prob(p["value"]))
    assert not bool(kl_divergence(q["fn"], p["fn"]).any())
    assert w.model.nodes["z_c"]["value"].shape == (B, 3)
    x = w.model.nodes["x"]["fn"].mean.squeeze(1)
    for y, last in ((0, "z_d"), (1, "z_eps")):
        z_c, pattern = (w.guide.nodes[name]["value"] for name in ("z_c", last))
        assert_close(x[y], torch.sigmoid(pair.decoder(z_c=z_c, pattern=pattern)))


def test_the_classifier_shapes_the_dirty_code_alone(pair):
    (batch,) = batches("labelled", 1)
    term = inference.Classification("y")
    loss = term.differentiable_loss(pair.model, pair.guide, batch)
    reached = {n for n, g in gradients(loss, pair).items() if g is not None and bool(g.any())}
    assert {n.split(".")[2] for n in reached} == {"z_d", "y"}


def test_repair_leaves_out_pattern_and_noise(pair):
    labelled, unlabelled = batches("mixed", 1)
    for batch in (labelled, unlabelled):
        z_c = pair.guide.factor("z_c", batch).mean
        expected = torch.sigmoid(pair.decoder(z_c=z_c, pattern=torch.zeros(B, 2).double()))
        assert_close(pair.repair(batch), expected)
    assert torch.equal(pair.repair(labelled), pair.repair(labelled.only("x")))


def test_the_score_is_above_log_two_where_an_outlier_is_more_probable(pair):
    batch = batches("labelled", 1)[0]
    means = {name: pair.guide.factor(name, batch).mean for name in ("z_c", "z_d")}
    logits = pair.guide.factors["y"].net(**means)
    expected = torch.nn.functional.softplus(logits[:, 0] - logits[:, 1])
    assert_close(pair.score(batch), expected)
    with torch.no_grad():
        pair.guide.factors["y"].net.net.rest[-1].bias.sub_(logits.mean(0))
    logits = pair.guide.factors["y"].net(**means)
    outlier = logits.argmax(-1) == 0
    assert 0 < int(outlier.sum()) < B
    assert torch.equal(pair.score(batch) > math.log(2), outlier)
    assert torch.equal(pair.score(batch), pair.score(batch.only("x")))


@pytest.fixture(scope="module")
def fitted():
    rows = data.load("outliers", train=64, validation=4, test=8, labelled=16)
    pair = build("clsvae", rows, hidden=(8,))
    return inference.fit(pair, rows, epochs=1, batch_size=16, progress=False), rows


def test_every_code_comes_out_by_name(fitted):
    run, rows = fitted
    idata = run.posterior(rows.test, draws=20, prior_draws=5)
    posterior = idata.posterior
    assert {"z_c", "z_d", "z_eps", "y"} <= set(posterior.data_vars)
    assert posterior["z_d"].dims == ("chain", "draw", "datum", "z_d_dim")
    assert posterior["z_c"].shape == (1, 20, 8, 10)
    assert idata.variational["y_class"].values.tolist() == ["outlier", "inlier"]
    assert idata.variational["y_probs"].shape == (8, 2)
    assert idata.constant_data["y_true"].values.tolist() == rows.test.sites["y"].tolist()


def test_an_intervention_on_y_swaps_the_pattern_for_noise(fitted):
    run, rows = fitted
    (batch,) = rows.test.only("x").batches()
    torch.manual_seed(0)
    for y, last in ((0, "z_d"), (1, "z_eps")):
        found = run.pair.intervene(batch, y=y)
        expected = run.pair.decode(found["z_c"], found[last]).mean
        assert_close(found["x"], expected.detach())
    # y stays what it was inferred to be, and so do the clean patterns.
    source = Batch({"x": batch["x"].flip(0)})
    target = Batch({"x": batch["x"], "y": torch.zeros(8, dtype=torch.long)})
    found = run.pair.transfer(source, target, ["z_d"])
    assert_close(found["x"], run.pair.decode(found["z_c"], found["z_d"]).mean.detach())


def test_a_shared_variance_starts_at_one_and_is_clamped():
    likelihood = SharedNormal().double()
    raw, x = torch.randn(2, 4, 3, dtype=torch.float64)
    for log_variance, used in ((0.0, 0.0), (-1.0, -1.0), (-20.0, -10.0), (9.0, 3.0)):
        if log_variance:
            likelihood.log_variance.data.fill_(log_variance)
        expected = Normal(raw, math.exp(0.5 * used)).log_prob(x).sum(-1)
        assert_close(likelihood(raw).log_prob(x), expected)
