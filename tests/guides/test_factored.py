"""The factored guide: what it samples, hands out and refuses, and its discrete factors summed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.config import Config
from ppl_models.inference import EnumeratedELBO
from ppl_models.networks import Label, Scalar
from ppl_models.pair import Card, Pair
from ppl_models.testing.cases import Case, latent, log_density, pick
from ppl_models.testing.fixed_draws import FixedDraws
from ppl_models.testing.loops import bound_by_loop

B, C, D, L = 5, 3, 4, 2


def batch(*observed):
    g = torch.Generator().manual_seed(0)
    sites = {
        "x": torch.randn(B, D, generator=g, dtype=torch.float64),
        "b": torch.arange(B).double() % 2,
        "y": torch.arange(B) % C,
        "c": torch.eye(C, dtype=torch.float64)[torch.arange(B) % C],
    }
    return Batch({name: sites[name] for name in ("x", *observed)}, size=10 * B)


def factored():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return guides.Factored(
            b=guides.Bernoulli({"x": D}, (6,)),
            y=guides.Categorical(C, {"x": D, "b": Scalar()}, (6,)),
            z=guides.Normal(L, {"x": D, "y": Label(C)}, (6,)),
        ).double()


@pytest.mark.parametrize("observed", [(), ("b",), ("y",), ("b", "y")], ids=" ".join)
def test_sites_that_the_batch_observes_are_left_out(observed):
    seen = batch(*observed)
    trace = poutine.trace(factored()).get_trace(seen)
    assert set(latent(trace)) == {"b", "y", "z"} - set(observed)
    values = trace.nodes["_RETURN"]["value"]
    for name in ("x", *observed):
        assert values[name] is seen[name]


def test_a_factor_outside_a_trace_is_the_traces_own():
    guide, seen = factored(), batch()
    trace = poutine.trace(guide).get_trace(seen)
    values = {**seen, **{name: site["value"] for name, site in latent(trace).items()}}
    for name, site in latent(trace).items():
        factor = guide.factor(name, values)
        assert factor.batch_shape == site["fn"].batch_shape == (B,)
        assert torch.equal(factor.log_prob(values[name]), site["fn"].log_prob(values[name]))


def test_discrete_factors_are_marked_for_enumeration():
    trace = poutine.trace(factored()).get_trace(batch())
    marked = {n for n, s in latent(trace).items() if s["infer"].get("enumerate") == "parallel"}
    assert marked == {"b", "y"}


def test_upstream_fills_means_or_draws_and_keeps_what_is_observed():
    guide = guides.Factored(
        a=guides.Normal(L, {"x": D}, (6,)),
        z=guides.Normal(L, {"a": L}, (6,)),
        y=guides.Categorical(C, {"z": L, "x": D}),
    ).double()
    seen = batch()
    values = guide.upstream("y", seen)
    mean = guide.factor("a", seen).mean
    assert set(values) == {"x", "a", "z"}
    assert torch.equal(values["a"], mean)
    assert torch.equal(values["z"], guide.factor("z", {"a": mean}).mean)
    assert set(guide.upstream("a", seen)) == {"x"}

    given = {**seen, "a": torch.ones(B, L, dtype=torch.float64)}
    assert guide.upstream("z", given)["a"] is given["a"]

    torch.manual_seed(0)
    drawn = guide.upstream("y", seen, draw=True)
    torch.manual_seed(0)
    a = guide.factor("a", seen).rsample()
    assert torch.equal(drawn["a"], a)
    assert torch.equal(drawn["z"], guide.factor("z", {"a": a}).rsample())


def test_upstream_has_no_mean_for_a_label():
    guide = factored()
    with pytest.raises(ValueError, match=r"'z' needs the discrete site 'y'.*observe it or draw"):
        guide.upstream("z", batch("b"))
    drawn = guide.upstream("z", batch(), draw=True)
    assert set(drawn) == {"x", "b", "y"}
    assert guide.upstream("z", batch("y")).keys() == {"x", "y"}


def test_errors_name_the_factor():
    with pytest.raises(ValueError, match=r"'z' is given \['y'\], which the guide samples later"):
        guides.Factored(
            z=guides.Normal(L, {"x": D, "y": Label(C)}), y=guides.Categorical(C, {"x": D})
        )
    guide = factored()
    with pytest.raises(ValueError, match=r"no factor 'w'; it has \['b', 'y', 'z'\]"):
        guide.factor("w", batch())
    with pytest.raises(ValueError, match=r"'y' is given \['x', 'b'\], but \['b'\]"):
        guide.factor("y", batch())
    with pytest.raises(ValueError, match=r"'b' is given \['x'\], but \['x'\]"):
        guide(Batch({}, torch.arange(B)))


# ---- discrete factors, summed out --------------------------------------------------------


@dataclass(frozen=True)
class Nothing(Config):
    """No settings."""


class Kinds(Pair):
    """Labels of all three kinds: binary b, class y, one-hot c; a code z and data x."""

    Config = Nothing
    card = Card(
        "kinds", "-", "-", 2026, "-", "test", {"x": "data"},
        {"b": "binary", "y": "class", "c": "one-hot", "z": "code"}, ("b", "y", "c"),
    )  # fmt: skip

    def __init__(self, config):
        super().__init__(config)
        self.guide = guides.Factored(
            b=guides.Bernoulli({"x": D}, (6,)),
            c=guides.OneHotCategorical(C, {"x": D, "b": Scalar()}, (6,)),
            y=guides.Categorical(C, {"x": D, "c": C}, (6,)),
            z=guides.Normal(L, {"x": D, "b": Scalar(), "y": Label(C), "c": C}, (6,)),
        )
        self.decoder = torch.nn.Linear(L, D)
        self.means = torch.nn.Parameter(torch.randn(C, D))

    def model(self, batch):
        zero = self.like().new_zeros(())
        with self.plate(batch):
            b = pyro.sample("b", dist.Bernoulli(zero + 0.3), obs=batch.get("b"))
            y = pyro.sample("y", dist.Categorical(logits=zero.expand(C)), obs=batch.get("y"))
            c = pyro.sample("c", dist.OneHotCategorical(logits=zero.expand(C)), obs=batch.get("c"))
            z = pyro.sample("z", dist.Normal(zero.expand(L), 1.0).to_event(1))
            loc = self.decoder(z) + self.means[y] * b.unsqueeze(-1) + c @ self.means
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=batch.get("x"))


SUBSETS = [s for n in range(3) for s in itertools.combinations(("b", "y", "c"), n)]


@pytest.mark.parametrize("observed", SUBSETS, ids=lambda s: " ".join(s) or "none")
def test_every_kind_of_label_is_summed_exactly(observed):
    torch.manual_seed(2)
    pair = Kinds(Nothing()).double()
    seen = batch(*observed)
    case = Case(pair, EnumeratedELBO(), seen)
    trace = case.draws()
    bound = bound_by_loop(case, trace)
    torch.testing.assert_close(-case.loss(seen, pick(trace)), bound, rtol=0, atol=1e-10)
    weights = list(pair.guide.parameters())
    mine, theirs = (
        torch.autograd.grad(value.sum(), weights, allow_unused=True)
        for value in (-case.loss(seen, pick(trace)), bound)
    )
    for a, b in zip(mine, theirs, strict=True):
        if a is None or b is None:
            assert a is b
        else:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_the_labels_probabilities_add_up_to_one():
    """A test of the loop: the guide's joint over all 18 labels is normalised in every row."""
    torch.manual_seed(2)
    pair = Kinds(Nothing()).double()
    seen = batch()
    total = torch.zeros(B, dtype=torch.float64)
    for b, y, c in itertools.product(range(2), range(C), range(C)):
        label = {
            "b": torch.full((B,), float(b), dtype=torch.float64),
            "y": torch.full((B,), y),
            "c": torch.eye(C, dtype=torch.float64)[c].expand(B, C),
        }
        trace = poutine.trace(FixedDraws(pair.guide, label)).get_trace(seen)
        total += log_density({n: trace.nodes[n] for n in label}).exp().detach()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


# ---- supports ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [Scalar(), L], ids=["number", "vector"])
@pytest.mark.parametrize("support", ["positive", "nonnegative", "unit_interval"])
def test_constrained_factors_have_the_density_of_their_transform(support, size):
    torch.manual_seed(0)
    factor = guides.Constrained(size, {"x": D}, support, (6,)).double()
    normal = guides.Normal(size, {"x": D}, net=factor.net)
    q, base = factor(**batch()), normal(**batch())
    assert q.batch_shape == (B,) and q.event_shape == base.event_shape
    assert q.event_shape == (() if isinstance(size, Scalar) else (L,))
    value = q.sample((20,))
    if support == "unit_interval":
        assert ((value > 0) & (value < 1)).all()
        free, jacobian = value.logit(), -(value * (1 - value)).log()
    else:
        assert (value > 0).all()
        free, jacobian = value.log(), -value.log()
    jacobian = jacobian if isinstance(size, Scalar) else jacobian.sum(-1)
    expected = base.log_prob(free) + jacobian
    torch.testing.assert_close(q.log_prob(value), expected, rtol=1e-9, atol=1e-9)


def test_a_factor_on_the_simplex_is_normalised():
    torch.manual_seed(0)
    q = guides.Constrained(2, {"x": D}, "simplex", (6,)).double()(**batch())
    assert q.event_shape == (2,)
    p = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    density = q.log_prob(torch.stack([p, 1 - p], -1).unsqueeze(1)).exp()
    # The Jacobian of sticks is that of the first coordinate alone.
    torch.testing.assert_close(density.mean(0), torch.ones(B).double(), rtol=0, atol=1e-5)


def test_constrained_refuses_a_support_it_does_not_know():
    with pytest.raises(ValueError, match="support is 'circle', expected one of positive"):
        guides.Constrained(L, {"x": D}, "circle")


def test_values_outside_the_plate_are_handed_to_the_factors_that_are_given_them():
    guide = guides.Factored(z=guides.Normal(L, {"x": D, "w": L}, (6,))).double()
    seen, w = batch(), torch.ones(L, dtype=torch.float64)
    trace = poutine.trace(guide).get_trace(seen, {"w": w})
    theirs = guide.factor("z", {**seen, "w": w.expand(B, L)})
    z = trace.nodes["z"]
    torch.testing.assert_close(z["fn"].log_prob(z["value"]), theirs.log_prob(z["value"]))
    with pytest.raises(ValueError, match=r"given \['x', 'w'\], but \['w'\]"):
        guide(seen)
