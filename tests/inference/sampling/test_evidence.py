"""Log evidence of rows, five ways, against exact values: linear-Gaussian, and purely discrete."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import chi2, f
from torch import nn
from worlds.linear import draw, linear
from worlds.shared_sites import shared

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.data import Table
from ppl_models.inference.posterior.target import fixed, target
from ppl_models.inference.sampling import annealing, evidence
from ppl_models.networks import Label, Scalar
from ppl_models.pair import Card, Pair

SURE = 0.9995
POPULATIONS = 20  # of SMC


def world(rows=4, dtype=torch.float64, narrow=None):
    pair = linear(dtype=dtype)
    if narrow is not None:
        with torch.no_grad():
            pair.guide.factors["z"].net.log_widen.fill_(math.log(narrow))
    x, y = draw(pair, rows)
    return pair, Table("w/test", {"x": x, "y": y}, numbers=torch.arange(rows) + 100)


def exact(pair, table, labelled=False):
    joint, evidence = (v.detach() for v in pair.log_evidence(table.sites["x"]))
    return (joint.gather(1, table.sites["y"][:, None])[:, 0] if labelled else evidence).numpy()


def check(found, expected, populations=None):
    """Chi-square of the deviations; an F where the errors are of few populations."""
    z = (found["log_evidence"].values - expected) / found["log_evidence_error"].values
    limit = chi2.ppf(SURE, len(z)) / len(z)
    if populations:
        limit = f.ppf(SURE, len(z), populations - 1)
    assert (z**2).mean() < limit, z


@pytest.mark.parametrize(
    ("method", "start", "labelled"),
    [
        ("iw", "guide", False),
        ("ais", "guide", False),
        ("ais", "prior", False),
        ("smc", "guide", False),
        ("smc", "prior", False),
        ("iw", "guide", True),
        ("ais", "guide", True),
        ("smc", "prior", True),
    ],
)
def test_all_methods_agree_with_the_linear_worlds_evidence(method, start, labelled):
    pair, table = world()
    state = torch.get_rng_state()
    draws = 4000 if method == "iw" else 200
    found = inference.log_evidence(
        pair, table, method=method, start=start, draws=draws, temperatures=16, seed=5,
        given=("x", "y") if labelled else None,
    )  # fmt: skip
    assert torch.equal(torch.get_rng_state(), state)
    check(found, exact(pair, table, labelled), POPULATIONS if method == "smc" else None)
    assert (found["log_evidence_error"] < 0.1).all()
    assert found["datum"].values.tolist() == [100, 101, 102, 103]
    assert found.attrs["inference_method"] == method
    if method != "iw":
        assert (found["acceptance_rate"] > 0.8).all()


def test_float32_agrees():
    pair, table = world(dtype=torch.float32)
    found = inference.log_evidence(pair, table, draws=100, temperatures=12)
    check(found, exact(pair, table))
    assert found["log_evidence"].dtype == np.float64


@pytest.mark.training
@pytest.mark.parametrize("method", ["ais", "smc"])
def test_annealing_mends_a_narrow_guide(method):
    """Weights of a guide a quarter as wide as the posterior have no variance; annealed do."""
    pair, table = world(narrow=0.25)
    options = {"draws": 400, "temperatures": 30, "leapfrogs": 4}
    found = inference.log_evidence(pair, table, method=method, **options)
    check(found, exact(pair, table), POPULATIONS if method == "smc" else None)
    # 10 seeds: 0.054 (0.008); of as many weighted draws 0.24 (0.08), at least 0.12.
    assert float(found["log_evidence_error"].mean()) < 0.09
    khat = inference.importance(pair, table, draws=2000).diagnostics["khat"]
    assert (khat > 0.7).any()


def test_the_estimate_is_unbiased_with_few_temperatures_and_forced_resampling(monkeypatch):
    """Mean of p-hat over 400 populations of 5, whose weights are uneven at every step."""
    pair, table = world(rows=3)
    monkeypatch.setattr(annealing, "SHARE", 1.0)
    found = target(pair, Batch({"x": table.sites["x"]}), guide=True)
    torch.manual_seed(0)
    with fixed(pair):
        between = annealing.Between(found, pair.guide, ("y",))
        logs, _ = annealing.anneal(between, [0.2, 0.6, 1.0], 2, 400, 5)
    ratio = (logs - torch.from_numpy(exact(pair, table))).exp()
    z = (ratio.mean(0) - 1) / ratio.std(0) * math.sqrt(400)
    assert z.square().sum() < chi2.ppf(SURE, 3)


def test_resampling_keeps_even_populations_and_draws_uneven_ones_by_weight():
    log_w = torch.tensor([0.0, 0.0, 0.1, 0.1, 0.0]).double()
    uneven = torch.tensor([0.7, 0.05, 0.2, 0.05, 0.0]).double().log()
    # Two populations, two rows: only the second population of the first row is uneven.
    both = torch.stack([torch.stack([log_w, log_w], -1), torch.stack([uneven - 3, log_w], -1)])
    counts = torch.zeros(5)
    for seed in range(400):
        torch.manual_seed(seed)
        new, gained, chosen = annealing._resampled(both, torch.zeros(2, 2).double())
        index = chosen.reshape(2, 5, 2)
        assert index[0].T.tolist() == [[0, 1, 2, 3, 4]] * 2
        assert index[1, :, 1].tolist() == [5, 6, 7, 8, 9]
        counts += torch.bincount(index[1, :, 0] - 5, minlength=5)
    torch.testing.assert_close(new[0], both[0])
    assert new[1, :, 0].tolist() == [0.0] * 5
    expected = torch.tensor([[0, 0], [-3 - math.log(5), 0]], dtype=torch.float64)
    torch.testing.assert_close(gained, expected)
    # Systematic: each count is the expected one rounded up or down.
    expected = 5 * uneven.exp().float()
    assert (abs(counts / 400 - expected) < 4.5 * 0.5 / math.sqrt(400)).all()


def bound(pair, x, particles, replicates):
    """The importance-weighted bound and its standard error, per row."""
    objective = inference.IWELBO(particles, lam=0.0, distil=0.0)
    batch = Batch({"x": x.repeat(replicates, 1)})
    with torch.no_grad():
        value = -objective.per_datum(pair.model, pair.guide, batch).reshape(replicates, len(x))
    return value.mean(0).numpy(), (value.std(0) / math.sqrt(replicates)).numpy()


def test_the_importance_weighted_bound_converges():
    """From below, monotonically in K; at K = 1024 the gap is within the standard error."""
    pair, table = world()
    torch.manual_seed(1)
    x, truth = table.sites["x"], exact(pair, table)
    gaps = []
    for particles, replicates in ((1, 2000), (8, 1000), (64, 400), (1024, 30)):
        value, error = bound(pair, x, particles, replicates)
        gaps.append(truth - value)
        assert (value < truth + 4.5 * error).all()
    assert all((a > b).all() for a, b in itertools.pairwise(gaps[:3]))
    assert (abs(gaps[3]) < 4.5 * error).all()
    assert (gaps[0] > 0.1).all()


@dataclass(frozen=True)
class DiscreteConfig(Config):
    classes: int = setting(3, "values of a")


class DiscretePair(Pair):
    """a -> b -> c, a colour, a switch and a class, each seen through an entry of x."""

    Config = DiscreteConfig
    config: DiscreteConfig
    card = Card(
        "discrete", "A discrete world", "-", 2026, "-", "test", {"x": "data"},
        {"a": "colour", "b": "switch", "c": "class"},
    )  # fmt: skip

    def __init__(self, config: DiscreteConfig) -> None:
        super().__init__(config)
        A = config.classes
        self.a, self.to_b = nn.Parameter(torch.randn(A)), nn.Parameter(torch.randn(A))
        self.to_c, self.means = nn.Parameter(torch.randn(2, 2)), nn.Parameter(torch.randn(3, A))
        self.guide = guides.Factored(
            a=guides.Categorical(A, {"x": 3}),
            b=guides.Bernoulli({"x": 3, "a": Label(A)}),
            c=guides.Categorical(2, {"x": 3, "b": Scalar()}),
        )

    def model(self, batch):
        with self.plate(batch):
            a = pyro.sample("a", dist.Categorical(logits=self.a))
            b = pyro.sample("b", dist.Bernoulli(logits=self.to_b[a]))
            c = pyro.sample("c", dist.Categorical(logits=self.to_c[b.long()]))
            parts = (self.means[0][a], self.means[1][b.long()], self.means[2][c])
            loc = torch.stack(torch.broadcast_tensors(*parts), -1)
            pyro.sample("x", dist.Normal(loc, 0.8).to_event(1), obs=batch.get("x"))

    def log_evidence(self, x):
        """By listing all 12 values."""
        terms = []
        for a, b, c in itertools.product(range(3), range(2), range(2)):
            prior = (
                self.a.log_softmax(0)[a]
                + dist.Bernoulli(logits=self.to_b[a]).log_prob(self.a.new_tensor(float(b)))
                + self.to_c[b].log_softmax(0)[c]
            )
            loc = torch.stack([self.means[0, a], self.means[1, b], self.means[2, c]])
            terms.append(prior + dist.Normal(loc, 0.8).log_prob(x).sum(-1))
        return torch.stack(terms).logsumexp(0).detach().numpy()


def discrete(rows=5):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        pair = DiscretePair(DiscreteConfig()).double()
        x = torch.randn(rows, 3).double()
    return pair, Table("d/test", {"x": x})


@pytest.mark.parametrize("method", evidence.METHODS)
@pytest.mark.parametrize("start", evidence.STARTS)
def test_a_discrete_worlds_evidence_is_summed_exactly(method, start):
    pair, table = discrete()
    found = inference.log_evidence(pair, table, method=method, start=start, draws=20)
    truth = pair.log_evidence(table.sites["x"])
    np.testing.assert_allclose(found["log_evidence"], truth, rtol=1e-10)
    assert (found["log_evidence_error"] < 1e-10).all()


def test_drawn_labels_converge_to_a_discrete_worlds_evidence():
    pair, table = discrete()
    truth = pair.log_evidence(table.sites["x"])
    errors = []
    for draws in (500, 8000):
        idata = inference.importance(pair, table, draws=draws, enumerate_labels=False)
        check(idata.diagnostics, truth)
        errors.append(idata.diagnostics["log_evidence_error"].values)
    np.testing.assert_allclose(errors[0] / errors[1], 4.0, rtol=0.25)  # as 1 / sqrt(draws)


@pytest.mark.parametrize("particles", [1, 16])
def test_the_bound_of_a_discrete_world_is_its_evidence(particles):
    pair, table = discrete()
    value, _ = bound(pair, table.sites["x"], particles, 2)
    np.testing.assert_allclose(value, pair.log_evidence(table.sites["x"]), rtol=1e-10)


def test_prior_starts_need_no_factor_for_the_codes():
    pair, table = world()
    pair.guide = guides.Factored(y=pair.guide.factors["y"])
    options = {"draws": 100, "temperatures": 12, "start": "prior"}
    check(inference.log_evidence(pair, table, [2, 0], **options), exact(pair, table)[[2, 0]])
    with pytest.raises(ValueError, match=r"site 'z' is latent .* the guide does not sample it"):
        inference.log_evidence(pair, table)


def test_blocks_of_rows_give_the_same_evidence(monkeypatch):
    pair, table = world()
    monkeypatch.setattr(evidence, "rows_at_a_time", lambda *_: 3)
    found = inference.log_evidence(pair, table, draws=100, temperatures=10)
    check(found, exact(pair, table))


def test_parameters_and_mode_stay_as_they_were():
    pair, table = world()
    pair.means.requires_grad_(False)
    wanted = [p.requires_grad for p in pair.parameters()]
    inference.log_evidence(pair, table, [0], draws=4, temperatures=2)
    assert [p.requires_grad for p in pair.parameters()] == wanted
    assert all(p.grad is None for p in pair.parameters())
    assert pair.training


def test_bad_options_are_named():
    pair, table = world()
    for options, words in (
        ({"method": "asi"}, "unknown method 'asi': did you mean 'ais'"),
        ({"start": "priors"}, "unknown start 'priors': did you mean 'prior'"),
        ({"rows": [9]}, "row 9 is not in w/test"),
        ({"draws": 1}, "draws is 1, expected at least 2"),
        ({"draws": 30, "method": "smc"}, "draws is 30, expected a multiple of 20"),
        ({"leapfrogs": 0}, "leapfrogs is 0"),
        ({"temperatures": 0}, "temperatures is 0"),
        ({"temperatures": [0.5, 0.4, 1]}, r"temperatures is \[0.5, 0.4, 1.0\], expected"),
        ({"temperatures": [0.5, 0.9]}, "increasing to 1"),
    ):
        with pytest.raises(ValueError, match=words):
            inference.log_evidence(pair, table, **options)
    with pytest.raises(ValueError, match="site 'w' stands outside the data plate"):
        inference.log_evidence(*shared(3), start="prior")
