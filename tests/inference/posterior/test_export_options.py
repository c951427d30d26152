"""What an export leaves alone, how much it keeps, and what it refuses."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal
from worlds.exports import N, drawn, table
from worlds.linear import LinearPair, linear

from ppl_models import guides
from ppl_models.inference.posterior import draws, export, row_blocks
from ppl_models.inference.posterior.groups import groups_of


@pytest.mark.parametrize("training", [True, False])
def test_nothing_else_is_touched(training):
    pair = linear().train(training)
    pair.guide.factors["y"].train(not training)
    modes = [m.training for m in pair.modules()]
    before = {n: p.clone() for n, p in pair.named_parameters()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b = (export.posterior(pair, table(pair), draws=30, seed=s) for s in (3, 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in pair.modules()] == modes
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in pair.named_parameters())
    np.testing.assert_array_equal(a.posterior["z"], b.posterior["z"])


def test_groups_too_large_keep_fewer_draws(monkeypatch):
    pair, rows = linear(), table(linear())
    whole = export.posterior(pair, rows, draws=40)
    # 6 rows: 2 + 1 numbers per latent draw, 3 per predictive one, 4 labels.
    monkeypatch.setattr(row_blocks, "POSTERIOR_CELLS", 6 * 3 * 25)
    monkeypatch.setattr(row_blocks, "PREDICTIVE_CELLS", 6 * 3 - 1)
    monkeypatch.setattr(row_blocks, "LIKELIHOOD_CELLS", 6 * 4 * 7)
    some = export.posterior(pair, rows, draws=40)
    kept = {n: v for n, v in some.attrs.items() if n.endswith("_draws")}
    assert kept == {
        "posterior_draws": 25, "posterior_predictive_draws": 0, "log_likelihood_draws": 7
    }  # fmt: skip
    assert "posterior_predictive" not in groups_of(some)
    assert some.posterior.sizes["draw"] == 25
    assert some.sample_stats.sizes["draw"] == some.attrs["log_likelihood_draws"] + 33
    means = (drawn(some, "z")[:7] @ pair.A.T)[..., None, :] + pair.means
    given_y = Normal(means, pair.noise).log_prob(rows.sites["x"][:, None]).sum(-1)
    by_hand = (given_y + pair.prior_logits.log_softmax(0)).logsumexp(-1).detach()
    torch.testing.assert_close(drawn(some, "x", "log_likelihood"), by_hand, rtol=0, atol=1e-10)
    # Without the sum over labels the densities are those of the draws, too.
    y, z = drawn(some, "y"), drawn(some, "z")
    mean = z @ pair.A.T + pair.means[y]
    log_p = (
        pair.prior_logits.log_softmax(0)[y]
        + Normal(0.0, 1.0).log_prob(z).sum(-1)
        + Normal(mean, pair.noise).log_prob(rows.sites["x"]).sum(-1)
    ).detach()
    stored = drawn(some, "log_p", "sample_stats")[:25]
    torch.testing.assert_close(stored, log_p, rtol=0, atol=1e-10)
    np.testing.assert_allclose(some.variational["y_probs"], whole.variational["y_probs"])


class Elsewhere(LinearPair):
    """With a site outside the data plate."""

    def model(self, batch):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        super().model(batch)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"draws": 0}, "draws is 0, expected at least 1"),
        ({"block": 0}, "block is 0"),
        ({"given": ("x", "label")}, "unknown site 'label'"),
        ({"given": ("x", "y")}, r"site 'y' of w/test is hidden in row 10; .*where_observed"),
        ({"given": ("y",), "rows": [0]}, "lacks the site 'x'"),
        ({"rows": [0, 6]}, r"row 6 is not in w/test, expected positions in 0\.\.5"),
        ({"rows": []}, "no rows chosen"),
        ({"history": {"step": [1, 2], "loss": [1.0]}}, "equal lengths"),
        ({"history": {"loss": [1.0]}}, "one 'step'"),
        ({"attrs": {"a": object()}}, "cannot be stored"),
    ],
)
def test_bad_options_are_named(options, words):
    pair = linear()
    rows = table(pair, observed={"y": torch.arange(N) != 1})
    with pytest.raises(ValueError, match=words):
        export.posterior(pair, rows, **options)


def test_sites_that_are_not_a_rows_own_are_refused():
    pair = linear()
    pair.__class__ = Elsewhere
    with pytest.raises(ValueError, match="'w' stands outside the data plate and is latent, but"):
        export.posterior(pair, table(pair))
    pair = linear()
    pair.guide = guides.Factored(y=pair.guide.factors["y"])
    with pytest.raises(ValueError, match="'z' is latent in the model, but the guide does not"):
        export.posterior(pair, table(pair))


@pytest.mark.parametrize("own", [(), (3,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectors_of_bernoullis_are_scored_label_by_label_as_at_once(own, dtype):
    torch.manual_seed(0)
    fn = dist.Bernoulli(logits=40 * torch.randn(4, *own, 5, 6, dtype=dtype)).to_event(1)
    value = torch.rand(5, 6).round().to(dtype)
    torch.testing.assert_close(draws._log_prob(fn, value), fn.log_prob(value))
