"""KL weights, free bits, capacities and penalties against closed forms."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal
from worlds.gradients import REGIMES, batches, flat, gradient
from worlds.linear import linear

from ppl_models.batch import Batch
from ppl_models.inference import (
    ELBO,
    Anneal,
    Capacity,
    EnumeratedELBO,
    Evaluation,
    FreeBits,
    Penalty,
    UnhandledSite,
)


def kl_by_hand(pair, batch):
    """KL of z per dimension (L, B), weighted by q(y|x) where y is missing; and KL of y (B,)."""
    x = batch["x"]
    net = pair.guide.factors["z"].net

    def of_label(y):
        loc, scale = pair.posterior_z(x, y.expand(len(x)))
        loc, scale = loc + net.shift * scale, scale * net.log_widen.exp()
        return (0.5 * (loc**2 + scale**2 - 1) - scale.log()).T

    if "y" in batch:
        return of_label(batch["y"]), torch.zeros_like(x[:, 0])
    log_q = pair.guide.factors["y"].net(x=x).log_softmax(-1)
    z = sum(log_q[:, c].exp() * of_label(torch.tensor(c)) for c in range(pair.config.classes))
    y = (log_q.exp() * (log_q - pair.prior_logits.log_softmax(0))).sum(-1)
    return z, y


def loss_of(objective, pair, batch):
    torch.manual_seed(0)
    return objective.differentiable_loss(pair.model, pair.guide, batch)


def assert_adds(pair, changed, plain, added):
    torch.testing.assert_close(changed, plain + added)
    torch.testing.assert_close(
        flat(gradient(changed, pair)), flat(gradient(plain, pair)) + flat(gradient(added, pair))
    )


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("regime", REGIMES)
def test_a_weight_multiplies_the_closed_form_kl(regime, scale):
    pair = linear(seed=1)
    made = batches(pair, regime, scale)
    plain = loss_of(EnumeratedELBO(2, kl="analytic"), pair, made)
    for beta, (z, y) in ((4.0, (3, 3)), ({"z": 0.25}, (-0.75, 0)), ({"y": 0.0, "z": 2}, (1, -1))):
        changed = loss_of(EnumeratedELBO(2, kl="analytic", beta=beta), pair, made)
        added = sum(
            scale * (z * k[0].sum() + y * k[1].sum()) for k in (kl_by_hand(pair, b) for b in made)
        )
        assert_adds(pair, changed, plain, added)


@pytest.mark.parametrize("kl", ["sampled", "analytic"])
def test_weight_one_changes_nothing_and_weight_zero_leaves_the_likelihood(kl):
    pair = linear(seed=1)
    for batch in batches(pair, "mixed", 1):
        plain = loss_of(EnumeratedELBO(3, kl), pair, batch)
        assert torch.equal(plain, loss_of(EnumeratedELBO(3, kl, beta=1.0), pair, batch))
        assert torch.equal(plain, loss_of(EnumeratedELBO(3, kl, beta={"z": 1.0}), pair, batch))
        beta = {"z": 0.0} if "y" in batch else 0.0
        got = loss_of(EnumeratedELBO(3, kl, beta=beta), pair, batch)
        torch.manual_seed(0)
        run = Evaluation(pair.model, pair.guide, batch)
        w = run.weights(3, analytic_kl=kl == "analytic")
        site = w.model.nodes["x"]
        log_x = site["fn"].log_prob(site["value"]).reshape(-1, 3, batch.count).mean(1)
        if "y" in batch:
            hand = log_x + pair.prior_logits.log_softmax(0)[batch["y"]]
        else:
            hand = log_x * pair.guide.factor("y", batch).probs.T
        torch.testing.assert_close(got, -hand.sum())


def test_the_sampled_weighting_has_the_mean_of_the_closed_form():
    pair = linear(seed=1)
    x = batches(pair, "unlabelled", 1)[0]["x"][:2]
    batch = Batch({"x": x.repeat(20_000, 1)})
    z, y = (k.detach()[..., :2] for k in kl_by_hand(pair, batch))
    rows = []
    for beta in (1.0, 3.0):
        torch.manual_seed(0)
        with torch.no_grad():
            run = Evaluation(pair.model, pair.guide, batch)
            rows.append(EnumeratedELBO(beta=beta).rows(run).reshape(-1, 2))
    gap = rows[1] - rows[0]
    assert ((gap.mean(0) - 2 * (z.sum(0) + y)).abs() / gap.std(0) * 20_000**0.5).max() < 4


@pytest.mark.parametrize("over", ["batch", "row"])
@pytest.mark.parametrize("per", ["dimension", "site"])
@pytest.mark.parametrize("regime", ["unlabelled", "labelled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_free_bits_put_a_floor_under_the_closed_form_kl(per, over, regime, dtype):
    pair = linear(seed=1)
    batch = batches(pair, regime, 10)[0].to(dtype)
    pair = pair.to(dtype)
    z = kl_by_hand(pair, batch)[0]
    parts = z if per == "dimension" else z.sum(0, keepdim=True)
    compared = parts.mean(-1, keepdim=True).expand_as(parts) if over == "batch" else parts
    floor = float(compared.detach().median()) + 1e-3  # some are below and some above
    assert (compared < floor).any()
    beta = 2.0
    plain = loss_of(EnumeratedELBO(kl="analytic"), pair, batch)
    bits = FreeBits(floor, per, over)
    changed = loss_of(EnumeratedELBO(kl="analytic", beta={"z": beta}, free_bits=bits), pair, batch)
    added = 10 * (beta * compared.clamp_min(floor).sum() - z.sum())
    assert_adds(pair, changed, plain, added)


def test_below_the_floor_the_kl_has_no_gradient():
    pair = linear(seed=1)
    batch = batches(pair, "labelled", 1)[0]
    unlikely = ELBO(kl="analytic", beta={"z": 0.0})
    held = ELBO(kl="analytic", free_bits=100.0)
    grads = [flat(gradient(loss_of(o, pair, batch), pair)) for o in (unlikely, held)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("over", ["batch", "row"])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("regime", REGIMES)
def test_a_capacity_holds_the_kl(regime, scale, over):
    pair = linear(seed=1)
    made = batches(pair, regime, scale)
    bound = EnumeratedELBO(kl="analytic", beta={"z": 0.0})
    objective = bound + Capacity("z", 3.0, 1.2, over)
    added = 0.0
    for batch in made:
        z = kl_by_hand(pair, batch)[0].sum(0)
        z = z.mean().expand_as(z) if over == "batch" else z
        added = added + scale * 3.0 * (z - 1.2).abs().sum()
    assert_adds(pair, loss_of(objective, pair, made), loss_of(bound, pair, made), added)


def test_a_capacity_shares_the_bounds_draws_and_ignores_observed_sites():
    pair = linear(seed=1)
    unlabelled, labelled = batches(pair, "mixed", 1)
    objective = EnumeratedELBO(kl="analytic", beta={"z": 0.0}) + Capacity("z", 1.0, 2.0)
    run = Evaluation(pair.model, pair.guide, unlabelled)
    objective.rows(run)
    before = torch.random.get_rng_state()
    run.weights(1, analytic_kl=True)
    objective.rows(run)
    assert torch.equal(before, torch.random.get_rng_state())  # nothing was drawn again
    term = Capacity("y", 1.0, 2.0)
    rows = term.rows(Evaluation(pair.model, pair.guide, labelled))
    assert torch.equal(rows, torch.zeros_like(rows)) and rows.shape == (labelled.count,)


def size_of_x(run):
    return run.batch["x"].sum(-1)


def test_schedules_are_read_at_the_progress_of_training():
    pair = linear(seed=1)
    batch = batches(pair, "unlabelled", 1)[0]
    ramp = Anneal(0.0, 4.0, 0.0, 0.5)
    pairs = [
        (EnumeratedELBO(beta=ramp), lambda v: EnumeratedELBO(beta=v)),
        (EnumeratedELBO(beta={"z": ramp}), lambda v: EnumeratedELBO(beta={"z": v})),
        (ELBO(free_bits=FreeBits(ramp)), lambda v: ELBO(free_bits=v)),
        (Capacity("z", ramp, 1.0), lambda v: Capacity("z", v, 1.0)),
        (Capacity("z", 1.0, ramp), lambda v: Capacity("z", 1.0, v)),
        (Penalty("norm", size_of_x, ramp), lambda v: Penalty("norm", size_of_x, v)),
    ]  # fmt: skip
    labelled = batches(pair, "labelled", 1)[0]
    for annealed, fixed in pairs:
        seen = labelled if isinstance(annealed, ELBO) and not annealed.enumerates else batch
        for progress, value in ((0.0, 0.0), (0.25, 2.0), (0.9, 4.0)):
            (annealed + EnumeratedELBO()).at(progress)  # through a sum, as fit does
            assert torch.equal(loss_of(annealed, pair, seen), loss_of(fixed(value), pair, seen))


def covariance_penalty(run):
    """DIP-VAE-I (Kumar et al. 2018, arXiv 1711.00848): the means' covariance to the identity."""
    means = run.factor("z").mean
    gap = torch.cov(means.T, correction=0) - torch.eye(means.shape[1], dtype=means.dtype)
    return 10 * gap.square().sum() - 5 * gap.diagonal().square().sum()


@pytest.mark.parametrize("scale", [1, 10])
def test_a_batch_statistic_counts_once_per_row_of_the_data(scale):
    pair = linear(seed=1)
    batch = batches(pair, "labelled", scale)[0]
    bound = ELBO(kl="analytic")
    loss = loss_of(bound + Penalty("DIP", covariance_penalty, 0.3), pair, batch)
    loc, spread = pair.posterior_z(batch["x"], batch["y"])
    means = loc + pair.guide.factors["z"].net.shift * spread
    centred = means - means.mean(0)
    total = 0.0
    for i in range(2):
        for j in range(2):
            gap = (centred[:, i] * centred[:, j]).mean() - float(i == j)
            total = total + (5 if i == j else 10) * gap**2
    added = 0.3 * scale * batch.count * total
    assert_adds(pair, loss, loss_of(bound, pair, batch), added)


def test_a_penalty_may_be_one_loss_per_row():
    pair = linear(seed=1)
    batch = batches(pair, "labelled", 10)[0]
    per_row = Penalty("size", lambda run: run.factor("z").mean.square().sum(-1), 0.5)
    rows = per_row.rows(Evaluation(pair.model, pair.guide, batch))
    mean = pair.guide.factor("z", batch).mean
    torch.testing.assert_close(rows, 0.5 * mean.square().sum(-1))
    torch.testing.assert_close(loss_of(per_row, pair, batch), 10 * rows.sum())


def multivariate(batch):
    with batch.plate():
        eye = torch.eye(2)
        z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), eye))
        pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=batch.get("x"))


def multivariate_guide(batch):
    with batch.plate():
        pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), 2 * torch.eye(2)))


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (EnumeratedELBO(beta={"w": 2.0}), "beta names site 'w'"),
        (Capacity("w", 1.0, 1.0), "Capacity holds site 'w'"),
        (ELBO(free_bits=0.1), "'z' .*no independent components"),
    ],
)
def test_sites_it_cannot_weigh_are_errors_that_name_them(objective, words):
    run = Evaluation(multivariate, multivariate_guide, Batch({"x": torch.zeros(3)}))
    with pytest.raises(UnhandledSite, match=words):
        objective.rows(run)


def test_dependent_components_have_free_bits_per_site():
    run = Evaluation(multivariate, multivariate_guide, Batch({"x": torch.zeros(3)}))
    kl = 2 * (0.5 * (2 - 1 - torch.tensor(2.0).log()))
    torch.manual_seed(0)
    rows = ELBO(kl="analytic", free_bits=FreeBits(1.5, per="site")).rows(run)
    w = run.weights(1, enumerate_labels=False, analytic_kl=True)
    log_x = Normal(w.guide.nodes["z"]["value"][..., 0].reshape(3), 1.0).log_prob(torch.zeros(3))
    assert kl < 1.5
    torch.testing.assert_close(rows, 1.5 - log_x)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ELBO(beta=-1.0), "beta is -1"),
        (lambda: ELBO(beta={"z": Anneal(0.0, -1.0)}), "beta of site 'z' is -1"),
        (lambda: ELBO(grad="stl", beta=2.0), "stl"),
        (lambda: ELBO(free_bits=-0.1), "nats of FreeBits is -0.1"),
        (lambda: FreeBits(1.0, per="latent"), "per is 'latent'"),
        (lambda: Capacity("z", -1.0, 1.0), r"gamma of Capacity\('z'\) is -1"),
        (lambda: Capacity("z", 1.0, 1.0, over="data"), "over is 'data'"),
        (lambda: Penalty("p", lambda run: None, float("nan")), r"weight of Penalty\('p'\)"),
    ],
)  # fmt: skip
def test_options_out_of_range(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_penalty_of_another_shape_is_an_error():
    run = Evaluation(multivariate, multivariate_guide, Batch({"x": torch.zeros(3)}))
    with pytest.raises(ValueError, match=r"'p' has shape \(2,\)"):
        Penalty("p", lambda run: torch.zeros(2)).rows(run)
