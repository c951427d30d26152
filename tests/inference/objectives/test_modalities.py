"""Objectives over rows of any subset of several sites, against loops, grids and closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from worlds.modalities import LATENT, every_pattern, five, two, values

from ppl_models import Batch, Card, Config, Pair, guides, inference, modalities, setting
from ppl_models.inference.objectives.mutual_supervision import bracket
from ppl_models.testing.fixed_draws import FixedDraws

TYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
SCALES = pytest.mark.parametrize("scale", [1, 10])
PATTERNS = (("s", "t"), ("s",), ("t",))


def close(dtype):
    single = {"rtol": 2e-5, "atol": 1e-4}
    return single if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}


def fixed(pair, z):
    """Model and guide at given codes."""
    return tuple(FixedDraws(f, {"z": z}) for f in (pair.model, pair.guide))


# ---- all patterns in one batch --------------------------------------------------------------


@TYPES
@SCALES
@pytest.mark.parametrize("name", ["mvae", "mmvae", "mopoe"])
def test_31_patterns_in_one_batch_are_the_sum_over_patterns(name, scale, dtype):
    pair = five(name, dtype, **({"subsets": 0} if name == "mvae" else {}))
    batch, apart = every_pattern(pair, scale)
    (stage,) = pair.stages()
    stage.objective.at(0.1)
    z = torch.randn(batch.count, LATENT, dtype=dtype)
    together = stage.objective.differentiable_loss(*fixed(pair, z), batch)
    losses = [
        stage.objective.differentiable_loss(*fixed(pair, z[place : place + 1]), one)
        for place, one in enumerate(apart)
    ]
    total = torch.stack(losses).sum()
    exact = {"rtol": 1e-10, "atol": 0} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 0}
    assert_close(together, total, **exact)
    found = torch.autograd.grad(together, list(pair.parameters()))
    wanted = torch.autograd.grad(total, list(pair.parameters()))
    for a, b in zip(found, wanted, strict=True):
        assert_close(
            a, b, **close(dtype) if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-2}
        )


@TYPES
@SCALES
def test_patterns_of_mutual_supervision_are_their_sum(scale, dtype):
    pair = two("meme", dtype, pseudo=4, particles=3)
    batch, apart = every_pattern(pair, scale, times=2)
    objective = pair.objective()
    z = torch.randn(batch.count, LATENT, dtype=dtype)
    together = objective.differentiable_loss(*fixed(pair, z), batch)
    losses = [
        objective.differentiable_loss(*fixed(pair, z[place : place + 1]), one)
        for place, one in enumerate(apart)
    ]
    assert_close(together, torch.stack(losses).sum(), **close(dtype))


@pytest.mark.parametrize("name", ["mvae", "mmvae", "mopoe", "meme"])
def test_what_stands_in_a_gap_changes_nothing(name):
    pair = two(name)
    batch, _ = every_pattern(pair, 10)
    (stage,) = pair.stages()
    results = []
    for garbage in (0.0, 0.9):
        gap = batch["s_observed"][:, None] == 0
        other = batch.replace({**batch, "s": torch.where(gap, garbage, batch["s"])})
        torch.manual_seed(0)
        loss = stage.objective.differentiable_loss(pair.model, pair.guide, other)
        results.append([loss, *torch.autograd.grad(loss, list(pair.parameters()))])
    for a, b in zip(*results, strict=True):
        assert_close(a, b, rtol=0, atol=0)


# ---- mixtures -------------------------------------------------------------------------------


def log_p(pair, row, z):
    """Log p(x, z) of a row with what it has, by hand."""
    total = dist.Normal(0.0, 1.0).log_prob(z).sum()
    for name, value in row.items():
        total = total + pair.modalities.decoders[name](z).log_prob(value[0])
    return total


@TYPES
@SCALES
@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("grad", ["plain", "dreg"])
def test_the_bound_is_that_of_the_explicit_mixture(grad, particles, products, scale, dtype):
    pair = two("mopoe" if products else "mmvae", dtype)
    batch, apart = every_pattern(pair, scale)
    bound = inference.Stratified(particles, grad)
    run = bound.run(pair.model, pair.guide, batch)
    torch.manual_seed(3)
    z = bound.weights(run).guide.nodes["z"]["value"].detach()  # C K x B x L
    count = 3 if products else 2
    expected = 0.0
    for place, one in enumerate(apart):
        parts = [
            dist.Normal(q.mean[0], q.variance[0].sqrt()).to_event(1)
            for q in components(pair, one, products)
        ]
        places = components_of(one, products)
        assert len(places) == len(parts) == (3 if products else 2) ** (len(one) - 1)
        for c in places:
            inside = []
            for k in range(particles):
                point = z[c * particles + k, place]
                q = torch.stack([p.log_prob(point) for p in parts]).logsumexp(0)
                inside.append(log_p(pair, one, point) - q + math.log(len(parts)))
            value = torch.stack(inside).logsumexp(0) - math.log(particles)
            expected = expected + scale * value / len(parts)
    assert z.shape == (count * particles, 3, LATENT)
    found = bound.loss_of_kind(run).total
    assert_close(found, -expected, **close(dtype))


def components_of(row, products):
    """Places of a row's components among those of all rows."""
    if not products:
        return [("s", "t").index(name) for name in row]
    return [c for c, kept in enumerate((("t",), ("s",), ("s", "t"))) if set(kept) <= set(row)]


def components(pair, row, products):
    """The distributions of a row's components, each by itself."""
    experts = dict(zip(("s", "t"), pair.modalities.experts, strict=True))
    if not products:
        return [experts[name](**row) for name in row]
    kept = [k for k in (("t",), ("s",), ("s", "t")) if set(k) <= set(row)]
    return [guides.Product(*(experts[n] for n in names))(**row) for names in kept]


@dataclass(frozen=True)
class LineConfig(Config):
    """Settings."""

    size: int = setting(1, "of all", minimum=1)


class Line(Pair):
    """z ~ N(0, 1), a | z ~ N(w_a z, 1), b | z ~ N(w_b z, 0.5)."""

    Config = LineConfig
    card = Card(
        name="line", title="t", authors="a", year=2020, arxiv="1911.03393", task="t",
        data={"a": "a", "b": "b"}, latents={"z": "z"},
    )  # fmt: skip

    def __init__(self, config):
        super().__init__(config)
        self.w = nn.Parameter(torch.tensor([0.8, -1.3]))
        each = [guides.Normal(1, {name: 1}) for name in ("a", "b")]
        self.guide = guides.Factored(z=guides.Mixture(*each))

    def model(self, batch):
        """p(z) p(a | z) p(b | z)."""
        zero = self.w.new_zeros(1)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            for name, w, scale in zip(("a", "b"), self.w, (1.0, 0.5), strict=True):
                modalities.sample(batch, name, dist.Normal(w * z, scale).to_event(1), ("a", "b"))


def by_grid(pair, row, particles, points=801):
    """The looser bound of a row by sums over a grid."""
    z = torch.linspace(-9, 9, points, dtype=torch.float64)
    width = float(z[1] - z[0])
    model = dist.Normal(0.0, 1.0).log_prob(z)
    for name, w, scale in zip(("a", "b"), pair.w, (1.0, 0.5), strict=True):
        model = model + dist.Normal(w * z, scale).log_prob(row[name][0, 0])
    each = [e(**row).base_dist for e in pair.guide.factors["z"].experts]
    log_q = torch.stack([dist.Normal(q.loc[0, 0], q.scale[0, 0]).log_prob(z) for q in each])
    log_w = model - log_q.logsumexp(0) + math.log(2)
    total = 0.0
    for own in log_q:
        q = own.exp() * width
        if particles == 1:
            total = total + (q * log_w).sum() / 2
        else:
            both = torch.logaddexp(log_w[:, None], log_w[None]) - math.log(2)
            total = total + (q[:, None] * q[None] * both).sum() / 2
    return total


@pytest.mark.parametrize("particles", [1, 2])
@pytest.mark.parametrize("grad", ["plain", "dreg"])
def test_gradients_are_unbiased(grad, particles):
    torch.manual_seed(5)
    pair = Line(LineConfig()).double()
    row = {name: torch.tensor([[v]], dtype=torch.float64) for name, v in (("a", 0.7), ("b", -1.1))}
    parameters = list(pair.parameters())
    value = by_grid(pair, row, particles)
    exact = torch.autograd.grad(value, parameters)
    bound = inference.Stratified(particles, grad)
    many = Batch({name: v.expand(5_000, 1) for name, v in row.items()}, size=1)
    losses, grads = [], []
    for _ in range(40):
        loss = bound.differentiable_loss(pair.model, pair.guide, many)
        grads.append([-g for g in torch.autograd.grad(loss, parameters)])
        losses.append(-loss.detach())
    told = torch.stack(losses)
    assert abs(float(told.mean() - value.detach())) < 5 * float(told.std()) / math.sqrt(40)
    for place, wanted in enumerate(exact):
        drawn = torch.stack([g[place] for g in grads])
        error = drawn.std(0) / math.sqrt(len(drawn))
        assert bool(((drawn.mean(0) - wanted).abs() < 5 * error + 1e-9).all()), (place, grad)


def test_a_guide_without_components_is_refused():
    pair = two("mvae")
    with pytest.raises(
        ValueError, match=r"guide has Product for site 'z', expected guides\.Mixture"
    ):
        inference.Stratified().loss(pair.model, pair.guide, Batch(values(pair, 3)))


# ---- subsets --------------------------------------------------------------------------------


@TYPES
@SCALES
def test_subsets_are_bounds_of_each_by_itself(scale, dtype):
    pair = two("mvae", dtype)
    batch, apart = every_pattern(pair, scale)
    bound = inference.ELBO(kl="analytic")
    objective = inference.Subsets(bound, ("s", "t"))
    z = torch.randn(batch.count, LATENT, dtype=dtype)
    expected = torch.zeros((), dtype=dtype)
    for place, one in enumerate(apart):
        for kept in (set(one), *({name} for name in one)):
            at = fixed(pair, z[place : place + 1])
            part = Batch({n: one[n] for n in kept}, size=scale)
            expected = expected + bound.differentiable_loss(*at, part)
    found = objective.differentiable_loss(*fixed(pair, z), batch)
    assert_close(found, expected, **close(dtype))


def test_random_subsets_are_even_and_of_what_a_row_has():
    pair = five("mvae")
    batch, _ = every_pattern(pair, times=40)
    term = pair.objective()
    assert term.draws and term.random == 1
    torch.manual_seed(0)
    kept = term._some(batch)
    owned = torch.stack([batch[f"{n}_observed"] > 0 for n in term.sites], -1)
    stay = torch.stack([kept[f"{n}_observed"] > 0 for n in term.sites], -1)
    assert bool((owned | ~stay).all()) and bool(stay.any(-1).all())
    # Of five, each stays with probability 1/2, and always where all would go: 0.5 + 1/2^6.
    rows = owned.all(-1)
    assert abs(float(stay[rows].double().mean()) - 0.5 - 2**-6) < 5 * 0.5 / math.sqrt(200)


def test_a_bound_that_looks_across_rows_is_refused():
    with pytest.raises(ValueError, match="look at each other, and some of them lack a site"):
        inference.Subsets(inference.ELBO(free_bits=1.0), ("s", "t"))


# ---- mutual supervision ---------------------------------------------------------------------


@TYPES
@SCALES
def test_mutual_supervision_is_its_loops(scale, dtype):
    pair = two("meme", dtype, pseudo=4, particles=3)
    batch, apart = every_pattern(pair, scale)
    objective = pair.objective()
    torch.manual_seed(7)
    found = objective.differentiable_loss(pair.model, pair.guide, batch)
    torch.manual_seed(7)
    draws = {}
    for a in ("s", "t"):  # in the order of the directions
        run = inference.Evaluation(pair.model, pair.guide, batch)
        draws[a], _ = objective._drawn(run, modalities.only(batch, {a}, ("s", "t")))
    expert = dict(zip(("s", "t"), pair.modalities.experts, strict=True))
    decode = pair.modalities.decoders
    total = torch.zeros((), dtype=dtype)
    for place, one in enumerate(apart):
        for a, b in (("s", "t"), ("t", "s")):
            if a not in one:
                continue
            z = draws[a][:, place]
            gain = decode[a](z).log_prob(one[a]) - expert[a](**one).log_prob(z)  # K + 1
            if b in one:
                said = torch.stack([decode[b](point).log_prob(one[b][0]) for point in z])
                prior = torch.stack([expert[b](**one).log_prob(point)[0] for point in z])
                value = 0.0
                for k in range(len(z)):  # the paper's estimator with this draw in the bracket
                    w = (said[k].exp() / said.exp().mean()).detach()
                    value = value + w * (gain[k] + prior[k] - said[k]) / len(z)
                value = (value + said.exp().mean().log()) / 2
            else:
                (inputs,) = (p for p in pair.pseudo if p.site == b)
                log_u = expert[b](**{b: inputs.free}).log_prob(z[0])
                value = gain[0] + log_u.exp().mean().log()
            total = total - scale * value
    assert_close(found, total, **close(dtype))
    parameters = list(pair.parameters())
    ours, theirs = (torch.autograd.grad(v, parameters) for v in (found, total))
    for x, y in zip(ours, theirs, strict=True):
        wide = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else close(dtype)
        assert_close(x, y, **wide)


def test_the_weight_is_that_of_monte_carlo():
    """p(b | z) = N(c z, r) and q(z | a) = N(m, v): q(b | a) = N(c m, c^2 v + r)."""
    m, v, c, r, b = (torch.tensor(x, dtype=torch.float64) for x in (0.4, 0.6, 1.5, 0.7, 1.2))
    torch.manual_seed(0)
    z = m + v.sqrt() * torch.randn(100_000, dtype=torch.float64)
    said = dist.Normal(c * z, r.sqrt()).log_prob(b)
    log_q = dist.Normal(c * m, (c**2 * v + r).sqrt()).log_prob(b)
    w = (said - log_q).exp()
    error = float(w.std()) / math.sqrt(len(z))
    # With a bracket of 0 log q(b | a) is left; with one of 1 everywhere, the mean of w, too.
    found = bracket(said[:, None], said[:, None])
    assert abs(float(found - log_q)) < 5 * error
    assert_close(bracket(said[:, None] + 1, said[:, None]), found + 1, rtol=0, atol=1e-9)
    # E_q(z|a)[w f(z)] is the mean of f under q(z | a, b): a Normal in closed form.
    precision = 1 / v + c**2 / r
    mean = (m / v + c * b / r) / precision
    drawn = bracket((said + z)[:, None], said[:, None]) - found
    spread = float((w * (z - mean)).std()) / math.sqrt(len(z))
    assert abs(float(drawn - mean)) < 5 * spread
    # Of K draws beside its own a weight is K + 1 at most, however certain the decoder is.
    few = torch.cat((torch.zeros(1), torch.full((10,), -1e4))).double()[:, None]
    one = torch.zeros_like(few).index_fill(0, torch.tensor([0]), 1.0)
    assert_close(bracket(few + one, few), torch.tensor([1 - math.log(11)]).double())


@pytest.mark.parametrize("merged", [False, True])
def test_rows_of_one_site_leave_the_other_decoder_as_it_is(merged):
    pair = two("meme", pseudo=4)
    batch = Batch({"s": values(pair, 8)["s"]}, size=80)
    if merged:
        there = torch.ones(8, dtype=torch.float64)
        every = {**values(pair, 8), "s_observed": there, "t_observed": 0 * there}
        batch = Batch(every, size=80)
    before = {n: p.detach().clone() for n, p in pair.named_parameters()}
    optimiser = torch.optim.Adam(pair.parameters(), 1e-2)
    objective = pair.objective()
    for _ in range(3):
        optimiser.zero_grad()
        objective.differentiable_loss(pair.model, pair.guide, batch).backward()
        optimiser.step()
    same = {n for n, p in pair.named_parameters() if torch.equal(p, before[n])}
    of_t = {n for n in before if n.startswith("modalities.decoders.t")}
    assert same == of_t | {"pseudo.0.free"} and of_t


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"are \('s', 's'\), expected two"):
        inference.MutualSupervision(("s", "s"))
    with pytest.raises(ValueError, match="particles is 0"):
        inference.MutualSupervision(particles=0)
    pair = two("meme")
    empty = Batch({}, torch.arange(3))
    with pytest.raises(ValueError, match="neither 's' nor 't'"):
        pair.objective().loss(pair.model, pair.guide, empty)
    assert "w = sg(p(t|z) / q(t|s))" in str(pair.objective())
