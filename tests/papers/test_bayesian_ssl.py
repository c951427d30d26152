"""A label network with a posterior over its weights: bounds by hand, KL accounting, export."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.distributions import Categorical, Normal, kl_divergence
from torch.nn.utils import parameters_to_vector
from worlds.bayesian import C, D, H, L, small
from worlds.gradients import flat, gradient

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.data import Table
from ppl_models.inference import (
    IWELBO,
    Anneal,
    Classification,
    EnumeratedELBO,
    Evaluation,
    Run,
    Weighted,
)
from ppl_models.networks import Net, Weightless
from ppl_models.testing.cases import pick
from ppl_models.testing.fixed_draws import FixedDraws

B = 5
REGIMES = ("unlabelled", "labelled", "mixed")


def rows(regime, scale):
    """One batch, or one of each kind, standing for ``scale`` times as many rows."""
    g = torch.Generator().manual_seed(1)
    kinds = ("unlabelled", "labelled") if regime == "mixed" else (regime,)
    counts = {kind: B + place for place, kind in enumerate(kinds)}
    total, seen = scale * sum(counts.values()), scale * counts.get("labelled", 0)
    made = []
    for kind, count in counts.items():
        sites = {"x": torch.randn(count, D, generator=g, dtype=torch.float64)}
        if kind == "labelled":
            sites["y"] = torch.randint(C, (count,), generator=g)
        counted = {"x": total, "y": seen} if seen else {"x": total}
        made.append(Batch(sites, size=scale * count, total=total, observed=counted))
    return made


def logits_by_hand(w, x, z):
    """The label network, its weights cut out of the vector in the order of its layers."""
    first = w[:H], w[H : H + H * D].view(H, D), w[H + H * D : H + H * (D + L)].view(H, L)
    last = w[H + H * (D + L) :]
    hidden = (first[0] + x @ first[1].T + z @ first[2].T).relu()
    return hidden @ last[: C * H].view(C, H).T + last[C * H :]


def by_hand(pair, batch, w, z, analytic=False):
    """log w(y, z_k) without q(y | x), ``(C or 1, K, B)``, and log q(y | x), ``(C or 1, B)``.

    Args:
        pair: The pair.
        batch: The batch.
        w: The weights.
        z: Draws, in any shape that holds ``(C or 1, K, B, L)``.
        analytic: Take KL(q(z | x, y) || p(z)) in closed form.
    """
    x, factors = batch["x"], pair.guide.locals_.factors
    labels = [batch["y"]] if "y" in batch else [torch.full((batch.count,), y) for y in range(C)]
    z = z.reshape(len(labels), -1, batch.count, L)
    found = []
    for y, codes in zip(labels, z, strict=True):
        loc, log_variance = factors["z"].net(x=x, y=y).chunk(2, -1)
        q, p = Normal(loc, (0.5 * log_variance).exp()), Normal(0.0, 1.0)
        mean, log_noise = pair.decoder(z=codes).chunk(2, -1)
        log_x = Normal(mean, (0.5 * log_noise).exp()).log_prob(x).sum(-1)
        log_y = Categorical(logits=logits_by_hand(w, x, codes)).log_prob(y)
        gap = kl_divergence(q, p) if analytic else q.log_prob(codes) - p.log_prob(codes)
        found.append(log_x + log_y - gap.sum(-1))
    log_q = factors["y"].net(x=x).log_softmax(-1).T
    return torch.stack(found), log_q if "y" not in batch else torch.zeros_like(log_q[:1])


def weights_gap(pair, w, analytic=False):
    """KL(q(w) || p(w)), or log q(w) - log p(w)."""
    auto = pair.guide.globals_.auto
    q, p = Normal(auto.locs.w, auto.scales.w), Normal(0.0, 1.0)
    return (kl_divergence(q, p) if analytic else q.log_prob(w) - p.log_prob(w)).sum()


def draws(pair, batch, objective):
    trace = objective.weights(Evaluation(pair.model, pair.guide, batch)).guide
    return trace.nodes["w"]["value"], trace.nodes["z"]["value"]


OBJECTIVES = {
    "enumerated": EnumeratedELBO(),
    "analytic": EnumeratedELBO(kl="analytic"),
    "iwelbo": IWELBO(particles=3, lam=0.5, distil=0.0),
}


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_bound_and_gradient_are_those_of_a_loop_over_labels(name, regime, scale):
    """The same w in every class and particle, outside the log; its KL once per data set."""
    pair, objective, batches = small(), OBJECTIVES[name], rows(regime, scale)
    analytic = name == "analytic"
    hand = torch.zeros((), dtype=torch.float64)
    torch.manual_seed(0)
    for batch in batches:
        w, z = draws(pair, batch, objective)
        log_w, log_q = by_hand(pair, batch, w, z, analytic)
        ell = log_w.logsumexp(1) - math.log(log_w.shape[1])
        bound = (log_q.exp() * (ell - log_q)).sum(0)
        if name == "iwelbo":
            bound = 0.5 * bound + 0.5 * ell.logsumexp(0)
        share = batch.size / batch.total
        hand = hand - scale * bound.sum() + share * weights_gap(pair, w, analytic)
    torch.manual_seed(0)
    ours = objective.differentiable_loss(pair.model, pair.guide, batches)
    torch.testing.assert_close(ours, hand, rtol=1e-10, atol=0)
    assert_gradients(ours, hand, pair)


def assert_gradients(ours, hand, pair):
    found, expected = (flat(gradient(loss, pair)) for loss in (ours, hand))
    assert bool(expected.any())
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("scale", [1, 10])
def test_weighted_bound_is_the_sum_of_two_means(regime, scale):
    """N (labelled mean + unlabelled mean), the KL of w at its own weight."""
    pair, batches = small(), rows(regime, scale)
    objective = Weighted(EnumeratedELBO(), balance="y", outside=Anneal(0.0, 0.5))
    objective.at(0.6)
    hand = torch.zeros((), dtype=torch.float64)
    torch.manual_seed(0)
    for batch in batches:
        w, z = draws(pair, batch, objective.bound)
        log_w, log_q = by_hand(pair, batch, w, z)
        mean = (log_q.exp() * (log_w[:, 0] - log_q)).sum(0).mean()
        share = batch.size / batch.total
        hand = hand - batch.total * mean + 0.3 * share * weights_gap(pair, w)
    torch.manual_seed(0)
    ours = objective.differentiable_loss(pair.model, pair.guide, batches)
    torch.testing.assert_close(ours, hand, rtol=1e-10, atol=0)
    assert_gradients(ours, hand, pair)


def test_weighted_without_weights_is_the_bound():
    pair, (batch,) = small(), rows("unlabelled", 10)
    bound = IWELBO(particles=2)
    losses = []
    for objective in (bound, Weighted(bound)):
        torch.manual_seed(0)
        losses.append(objective.differentiable_loss(pair.model, pair.guide, batch))
    assert torch.equal(*losses)
    assert str(Weighted(bound)) == str(bound)
    assert str(Weighted(bound, "y", 0.1)) == (
        f"[N / N(y seen) or N / N(y missing)] {{{bound}}}, outside the rows times 0.1"
    )
    with pytest.raises(ValueError, match="outside of Weighted is -1"):
        Weighted(bound, outside=-1.0)


def test_the_papers_objective_warms_the_code_up_and_adds_the_classifier():
    pair, batches = small(warm_up=0.5, alpha=2.0, kl_weights=0.1), rows("mixed", 10)
    objective = pair.objective()
    objective.at(0.25)  # half of the warm-up
    hand = Weighted(EnumeratedELBO(kl="analytic", beta={"z": 0.5}), "y", 0.1)
    losses = []
    for one in (objective, hand + Classification("y", 2.0)):
        torch.manual_seed(0)
        losses.append(one.differentiable_loss(pair.model, pair.guide, batches))
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)


def test_pyros_own_objective_agrees():
    """Its checks refuse a label that hangs on a code inferred from it; its arithmetic does not."""
    pair = small()
    for regime in ("unlabelled", "labelled"):
        (batch,) = rows(regime, 10)
        run = Evaluation(pair.model, pair.guide, batch)
        fixed = pick(run.weights().guide)
        ours = EnumeratedELBO().differentiable_loss(
            pair.model, FixedDraws(pair.guide, fixed), batch
        )
        fixed["z"] = fixed["z"].reshape(*([C] if regime == "unlabelled" else []), B, L)
        with pyro.validation_enabled(False):
            stock = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
            theirs = stock.differentiable_loss(pair.model, FixedDraws(pair.guide, fixed), batch)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)


# ---- KL(q(w) || p(w)) ---------------------------------------------------------------------


class Muted(Messenger):
    """The label's density counts nowhere."""

    def _pyro_sample(self, msg):
        if msg["name"] == "y":
            msg["mask"] = torch.zeros((), dtype=torch.bool)


@pytest.mark.training
@pytest.mark.parametrize("regime", REGIMES)
def test_without_labels_likelihood_the_weights_go_to_their_prior(regime):
    pair, batches = small(log_variance=-6.0), rows(regime, 10)
    model, guide = Muted()(pair.model), Muted()(pair.guide)
    optim = torch.optim.Adam(pair.guide.globals_.parameters(), lr=0.1)
    before = weights_gap(pair, None, analytic=True).detach()
    for _ in range(80):
        optim.zero_grad()
        EnumeratedELBO(kl="analytic").differentiable_loss(model, guide, batches).backward()
        optim.step()
    after = weights_gap(pair, None, analytic=True).detach()
    assert bool(after < 0.01 * before), (before, after)


def test_data_twice_halve_the_weight_of_the_kl():
    """Twice the rows: twice the likelihood's gradient, and the same KL."""
    pair, (batch,) = small(), rows("labelled", 1)
    fixed = pick(Evaluation(pair.model, pair.guide, batch).weights().guide)
    twice = Batch({name: torch.cat([v, v]) for name, v in batch.items()})
    grads = []
    for data, z in ((batch, fixed["z"]), (twice, torch.cat([fixed["z"], fixed["z"]]))):
        guide = FixedDrawOfWeights(pair, fixed["w"], z)
        loss = EnumeratedELBO(kl="analytic").differentiable_loss(pair.model, guide, data)
        grads.append(flat(gradient(loss, pair.guide.globals_)))
    kl = flat(gradient(weights_gap(pair, None, analytic=True), pair.guide.globals_))
    likelihood = grads[0] - kl
    assert float(likelihood.abs().max()) > 0.1
    torch.testing.assert_close(grads[1], 2 * likelihood + kl, rtol=1e-4, atol=1e-8)


class FixedDrawOfWeights:
    """The guide at given noise of w, so that w moves with its parameters, and at given z."""

    def __init__(self, pair, w, z):
        auto = pair.guide.globals_.auto
        noise = ((w - auto.locs.w) / auto.scales.w).detach()
        self.fixed = FixedDraws(pair.guide, {"w": auto.locs.w + auto.scales.w * noise, "z": z})

    def __call__(self, batch):
        return self.fixed(batch)


def test_minibatches_add_up_to_all_rows():
    """Scaled by N / B, their mean loss is that of all rows: the KL of w is not multiplied."""
    pair, (batch,) = small(), rows("unlabelled", 1)
    fixed = pick(Evaluation(pair.model, pair.guide, batch).weights().guide)
    guide = FixedDraws(pair.guide, fixed)
    whole = EnumeratedELBO().differentiable_loss(pair.model, guide, batch)
    parts = []
    for row in range(B):
        one = Batch({"x": batch["x"][row : row + 1]}, torch.tensor([row]), size=B, total=B)
        guide = FixedDraws(pair.guide, {"w": fixed["w"], "z": fixed["z"][:, :, row : row + 1]})
        parts.append(EnumeratedELBO().differentiable_loss(pair.model, guide, one))
    torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-10, atol=0)


# ---- a point, a network without weights ----------------------------------------------------


def test_a_point_is_stationary_at_the_mode():
    """m ~ N(0, 1), x_i ~ N(m, 1): the gradient vanishes at sum(x) / (1 + N)."""
    x = torch.tensor([0.3, 1.4, 2.2, -0.5], dtype=torch.float64)
    batch = Batch({"x": x[:2]}, size=4, total=4)

    def model(batch):
        m = pyro.sample("m", dist.Normal(x.new_zeros(()), 1.0))
        with batch.plate():
            pyro.sample("x", dist.Normal(m, 1.0), obs=batch["x"])

    guide = guides.Globals(model, batch, AutoDelta).double()
    mode = 2 * x[:2].sum() / (1 + 4)
    (point,) = guide.parameters()
    with torch.no_grad():
        point.copy_(mode)
    for kl in ("sampled", "analytic"):
        loss = EnumeratedELBO(kl=kl).differentiable_loss(model, guide, batch)
        joint = 2 * Normal(mode, 1.0).log_prob(x[:2]).sum() + Normal(0.0, 1.0).log_prob(mode)
        torch.testing.assert_close(loss, -joint)
        (grad,) = torch.autograd.grad(loss, [point])
        torch.testing.assert_close(grad, torch.zeros_like(grad))


def test_the_point_version_starts_where_the_mean_does():
    bayes, point = small(seed=3), small(seed=3, bayesian=False)
    start = bayes.guide.globals_.auto.locs.w
    assert torch.equal(point.guide.globals_.auto.w, start)
    scales = bayes.guide.globals_.auto.scales.w
    torch.testing.assert_close(scales, torch.full_like(scales, math.exp(-0.5)), rtol=1e-5, atol=0)
    (batch,) = rows("unlabelled", 1)
    values = [poutine.trace(point.guide).get_trace(batch).nodes["w"]["value"] for _ in range(2)]
    assert torch.equal(values[0], values[1])


def test_weightless_is_the_network_at_given_weights():
    net = Net({"x": D, "z": L}, (H, 2), C).double()
    bare = Weightless(net)
    x, z = torch.randn(B, D).double(), torch.randn(7, 1, L).double()
    assert not list(bare.parameters())
    for _ in range(2):
        for p in net.parameters():
            nn.init.normal_(p)
        w = parameters_to_vector(net.parameters())
        assert bare.size == len(w)
        torch.testing.assert_close(bare(w, x=x, z=z), net(x=x, z=z), rtol=0, atol=0)


# ---- out -----------------------------------------------------------------------------------


def test_posterior_names_weights_code_and_class():
    pair = small()
    x = torch.randn(6, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    table = Table("t", {"x": x, "y": torch.arange(6) % C}, classes={"y": ("a", "b", "c")})
    idata = Run(pair, "").posterior(table, draws=20, prior_draws=3)
    assert idata.posterior["w"].dims == ("chain", "draw", "w_dim")
    assert idata.posterior["w"].shape == (1, 20, pair.network.size)
    assert idata.posterior["z"].dims == ("chain", "draw", "datum", "z_dim")
    assert list(idata.variational["y_class"].values) == ["a", "b", "c"]
    auto = pair.guide.globals_.auto
    expected = (("w_loc", auto.locs.w), ("w_scale", auto.scales.w))
    for name, value in expected:
        assert idata.variational[name].dims == ("w_dim",)
        torch.testing.assert_close(
            torch.from_numpy(idata.variational[name].values), value.detach(), rtol=1e-6, atol=1e-7
        )
    gap = idata.sample_stats["log_q_outside"] - idata.sample_stats["log_p_outside"]
    kl = float(weights_gap(pair, None, analytic=True).detach())
    error = float(gap.std()) / math.sqrt(20)
    assert abs(float(gap.mean()) - kl) < 4 * error
    # Each draw's label comes with the weights of that draw.
    z = torch.from_numpy(idata.posterior["z"].values[0]).double()
    w = torch.from_numpy(idata.posterior["w"].values[0]).double()
    y = torch.from_numpy(idata.posterior["y"].values[0]).long()
    mean, log_noise = pair.decoder(z=z).chunk(2, -1)
    hand = Normal(mean, (0.5 * log_noise).exp()).log_prob(x).sum(-1)
    log_y = torch.stack(
        [Categorical(logits=logits_by_hand(w[s], x, z[s])).log_prob(y[s]) for s in range(20)]
    )
    log_p = torch.from_numpy(idata.sample_stats["log_p"].values[0]).double()
    rest = Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(log_p, hand + log_y + rest, rtol=1e-5, atol=1e-5)


def test_interventions_redraw_what_hangs_on_the_code():
    pair, (batch,) = small(), rows("labelled", 1)
    torch.manual_seed(0)
    z = torch.zeros(B, L, dtype=torch.float64)
    made = pair.intervene(batch, z=z)
    mean, _ = pair.decoder(z=z).chunk(2, -1)
    torch.testing.assert_close(made["x"], mean.detach())
    assert made["w"].shape == (pair.network.size,)
    kept = pair.intervene(batch, y=1)
    assert torch.equal(kept["x"], batch["x"]) and bool((kept["y"] == 1).all())
