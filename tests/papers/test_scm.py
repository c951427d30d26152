"""Structural causal models: sites and the vector of all variables agree, sets, errors."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ppl_models import Batch
from ppl_models.exogenous import noise_of, value_at
from ppl_models.networks import Label, Scalar
from ppl_models.parts.linear_scm import LinearSCM
from ppl_models.parts.mechanisms import (
    Affine,
    Autoregressive,
    Between,
    Classes,
    Curve,
    Line,
    Mechanism,
    Positive,
    Shift,
    Spline,
    Units,
)
from ppl_models.parts.scm import SCM

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
CLOSE = {torch.float32: {"rtol": 1e-4, "atol": 1e-4}, torch.float64: {"rtol": 1e-9, "atol": 1e-9}}


def mixed(classes=True):
    one, narrow = {"a": Scalar()}, partial(Spline, hidden=(4,), bins=4)
    kinds = {
        "a": Mechanism({}, Spline, outer=(Positive(0.5, 0.3),)),
        "b": Mechanism(one, Affine, narrow, outer=(Between(0.0, 255.0),)),
        "c": Mechanism({**one, "b": Scalar()}, Autoregressive, outer=(Units(1.0, 5.0),), size=3),
        "d": Mechanism({"c": 3}, partial(Shift, hidden=(3,)), size=2),
        "e": Mechanism({"d": 2}, Affine, outer=(Curve(), Line())),
    }
    return SCM(**kinds, **({"k": Classes(3, {"b": Scalar()})} if classes else {}))


def linear(outer=Line, mask=None):
    return LinearSCM(("a", "b", "c"), mask, outer)


MODELS = {
    "mixed": partial(mixed, classes=False),
    "linear": linear,
    "curves": partial(linear, Curve, {"c": ("a", "b")}),
    "ranges": partial(linear, lambda: Between(-1.0, 3.0)),
}


def made(make, dtype, std=0.3):
    torch.manual_seed(0)
    scm = make()
    for parameter in scm.parameters():
        nn.init.normal_(parameter, std=std)
    return scm.to(dtype)


def rows(scm, count=6):
    """Values and noises that are drawn."""
    with pyro.plate("data", count), torch.no_grad():
        values = scm.sample(Batch({}, torch.arange(count)))
        return values, scm.noise(values)


@DTYPES
@pytest.mark.parametrize("model", MODELS)
def test_sites_and_the_vector_are_of_one_density_and_one_noise(model, dtype):
    scm = made(MODELS[model], dtype)
    values, noise = rows(scm)
    joint, vector = scm.joint(), scm.join(values)
    assert joint.event_shape == vector.shape[-1:]
    assert {n: v.shape for n, v in scm.split(vector).items()} == {
        n: v.shape for n, v in values.items()
    }
    density = joint.log_prob(vector)
    assert_close(density, scm.log_prob(values), **CLOSE[dtype])
    # Equal gradients of all parameters, and equal values for equal noise.
    sites = torch.autograd.grad(scm.log_prob(values).sum(), [*scm.parameters()])
    whole = torch.autograd.grad(density.sum(), [*scm.parameters()])
    for one, other in zip(sites, whole, strict=True):
        assert_close(one, other, rtol=10 * CLOSE[dtype]["rtol"], atol=10 * CLOSE[dtype]["atol"])
    wide = torch.cat([noise[name] for name in values], -1)
    assert_close(noise_of(joint, vector), wide, **CLOSE[dtype])
    (there,) = [dist.transforms.ComposeTransform(joint.transforms)]
    assert_close(there(wide), scm.join(scm.push(noise)), **CLOSE[dtype])
    torch.manual_seed(1)
    drawn = joint.expand((4, 6)).rsample()
    torch.manual_seed(1)
    assert_close(drawn, there(torch.randn(4, 6, vector.shape[-1], dtype=dtype)), **CLOSE[dtype])


@pytest.mark.parametrize("model", MODELS)
def test_the_density_is_that_of_the_noise_by_the_jacobian(model):
    scm = made(MODELS[model], torch.float64)
    values, noise = rows(scm, 3)
    joint, wide = scm.joint(), torch.cat([noise[name] for name in values], -1)
    steps = dist.transforms.ComposeTransform(joint.transforms)
    every = torch.autograd.functional.jacobian(lambda x: steps(x).sum(0), wide)
    for row in range(3):
        log_det = torch.linalg.slogdet(every[:, row])[1]
        expected = joint.base_dist.log_prob(wide[row]) - log_det
        assert_close(joint.log_prob(scm.join(values)[row]), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("model", ["mixed"])
def test_the_vector_follows_the_parameters_through_steps_of_training(model):
    """A density that is asked again, of the very same values, is that of the parameters now."""
    scm = made(MODELS[model], torch.float64)
    values, _ = rows(scm)
    joint, vector = scm.joint(), scm.join(values)
    for _ in range(3):
        density = joint.log_prob(vector)
        assert_close(density, scm.log_prob(values))
        scm.zero_grad()
        density.sum().backward()
        with torch.no_grad():
            for parameter in scm.parameters():
                parameter.add_(0.01 * parameter.grad.sign())


@DTYPES
@pytest.mark.parametrize(
    ("outer", "outside"),
    [(lambda: Between(-1.0, 3.0), 3.5), (lambda: Positive(0.5, 0.3), -0.1), (Line, float("nan"))],
)
@pytest.mark.parametrize("block", [linear, None])
def test_the_vector_declares_what_its_entries_can_be(block, outer, outside, dtype):
    if block is None:
        scm = SCM(a=Mechanism({}, size=2), b=Mechanism({"a": 2}, Affine, outer=(outer(),)))
    else:
        scm = block(outer)
    scm = made(lambda: scm, dtype)
    values, _ = rows(scm)
    support, vector = scm.joint().support, scm.join(values)
    assert support.event_dim == 1 and bool(support.check(vector).all())
    wrong = vector.clone()
    wrong[2, -1] = outside
    assert support.check(wrong).tolist() == [row != 2 for row in range(6)]
    free = torch.distributions.biject_to(support)
    assert_close(free(free.inv(vector)), vector, **CLOSE[dtype])


@DTYPES
@pytest.mark.parametrize("model", [*MODELS, "classes"])
def test_what_is_set_to_what_it_is_changes_nothing(model, dtype):
    scm = made(mixed if model == "classes" else MODELS[model], dtype)
    values, noise = rows(scm, 50)
    near = {torch.float64: 1e-6, torch.float32: 1e-5}[dtype]
    for name in values:
        with torch.no_grad():
            found = scm.push(noise, **{name: values[name]})
        for other, value in values.items():
            scale = 1.0 if other == "k" else float(value.max() - value.min())
            wrong = (found[other] - value).abs()
            wrong = wrong / (value.abs().clamp_min(1e-3) if dtype == torch.float64 else scale)
            assert float(wrong.max()) <= near, (name, other)
            assert found[other].shape == value.shape


@pytest.mark.parametrize("std", [1.0, 8.0])
def test_steep_splines_are_inverted(std):
    """Float32 alone has NaN where slopes differ a thousandfold."""
    scm = made(lambda: SCM(a=Mechanism({}, Spline, size=400)), torch.float32, std)
    value = torch.linspace(-5, 5, 801).unsqueeze(-1).expand(801, 400).contiguous()
    with torch.no_grad():
        noise = scm.noise({"a": value})["a"]
        moved = scm.push({"a": noise})["a"]
    # A noise has six digits, which slopes of up to a thousand make less of.
    assert float((moved - value).abs().quantile(0.99).max() / 10) < 1e-5 * max(1.0, std / 2)


def pushed_by_hand(scm, noise, **put):
    """Variable by variable, at its parents' values and its noise, but for those that are put."""
    values = {}
    for name in scm.mechanisms:
        fn = scm.given(name, values)
        values[name] = put[name] if name in put else value_at(fn, noise[name])
    return values


def test_hard_stochastic_and_soft_sets_keep_shapes_and_what_stands_before():
    scm = made(mixed, torch.float64)
    values, noise = rows(scm, 5)
    hard = scm.push(noise, b=100.0)
    assert torch.equal(hard["b"], torch.full((5,), 100.0, dtype=torch.float64))
    torch.manual_seed(1)
    drawn = scm.push(noise, b=dist.Uniform(10.0, 11.0))
    torch.manual_seed(1)
    assert torch.equal(drawn["b"], dist.Uniform(10.0, 11.0).sample((5,)).double())
    seven = dist.transforms.AffineTransform(7.0, 1.0)
    soft = scm.push(noise, c=lambda fn: dist.TransformedDistribution(fn, [seven]))
    assert_close(soft["c"], values["c"] + 7)
    constant = scm.push(noise, c=lambda fn: dist.Delta(torch.ones(3).double(), event_dim=1))
    assert torch.equal(constant["c"], torch.ones(5, 3).double())
    for found, name in ((hard, "b"), (drawn, "b"), (soft, "c"), (constant, "c")):
        exact = pushed_by_hand(scm, noise, **{name: found[name]})
        assert found.keys() == exact.keys() == values.keys()
        for other, value in exact.items():
            assert_close(found[other], value)
            assert value.shape == values[other].shape
    for given in (torch.tensor(100.0), torch.full((4, 5), 100.0), torch.full((5,), 100)):
        found = scm.push(noise, b=given)  # in the type of the others, of as many draws
        assert found["d"].dtype == torch.float64
        assert_close(found["d"], hard["d"].expand(found["d"].shape))
    # Draws in front, and a set variable that has no noise of its own.
    wide = {name: value.expand(4, *value.shape) for name, value in noise.items() if name != "b"}
    assert scm.push(wide, b=hard["b"])["d"].shape == (4, 5, 2)


@pytest.mark.parametrize(
    ("do", "sentence"),
    [
        ({"f": 1.0}, "unknown variable 'f': expected one of a, b, c, d, e, k"),
        ({"b": dist.Normal(torch.zeros(2), 1.0)}, "site 'b' is set to draws of Normal"),
        ({"b": lambda fn: 3.0}, "what is given for site 'b' makes float of its distribution"),
        ({"b": lambda fn: dist.Uniform(0.0, 1.0)},
         "site 'b' keeps its noise, which is Normal, and is given a distribution whose noise is "
         "Uniform"),
        ({"b": torch.ones(3, 1)},
         "variable 'b' is set to values of shape (3, 1), expected rows of shape (), and its noise "
         "has rows (3,)"),
        ({"c": torch.ones(3, 2)}, "variable 'c' is set to values of shape (3, 2)"),
        ({"d": torch.ones(())}, "variable 'd' is set to values of shape ()"),
        ({"k": torch.ones(2).long()}, "variable 'k' is set to values of shape (2,)"),
    ],
)  # fmt: skip
def test_what_cannot_be_set_is_refused_in_one_line(do, sentence):
    scm = made(mixed, torch.float32)
    _, noise = rows(scm, 3)
    with pytest.raises(ValueError) as error:
        scm.push(noise, **do)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_errors_name_variables():
    with pytest.raises(ValueError, match="variable 'b' has the parent 'a' of size 2"):
        SCM(a=Mechanism({}), b=Mechanism({"a": 2}, Affine))
    with pytest.raises(ValueError, match="variable 'k' is a class, expected numbers"):
        made(mixed, torch.float32).joint()
    scm = made(mixed, torch.float32)
    values = {**rows(scm, 2)[0], "b": torch.full((2,), 255.0)}
    with pytest.raises(ValueError, match=r"^variable 'b' is 255, and no noise leads there"):
        scm.noise(values)
    with pytest.raises(ValueError, match="variable 'a' has no noise and is not set"):
        SCM(a=Mechanism({}, Affine)).push({})


def test_a_relaxed_class_reaches_its_children():
    scm = SCM(k=Classes(3, {}), a=Mechanism({"k": Label(3)}, Affine))
    hard = scm.given("a", {"k": torch.tensor([0, 2])})
    soft = scm.given("a", {"k": torch.eye(3)[[0, 2]]})
    assert soft.batch_shape == hard.batch_shape == (2,)
    assert_close(soft.log_prob(torch.ones(2)), hard.log_prob(torch.ones(2)))


def test_chirho_abducts_the_same():
    """Splines, vectors and ranges, under two interventions."""
    chirho = pytest.importorskip("chirho.counterfactual.handlers")
    from chirho.indexed.ops import IndexSet, gather
    from chirho.interventional.handlers import do
    from chirho.observational.handlers import condition

    scm = made(MODELS["mixed"], torch.float64)
    values, noise = rows(scm, 5)

    def model():
        with pyro.plate("data", 5):
            scm.sample(Batch({}, torch.arange(5)))

    actions = {"a": values["a"].flip(0), "c": values["c"] + 1}
    with torch.no_grad(), chirho.MultiWorldCounterfactual(first_available_dim=-2):
        told = do(condition(model, data=values), actions=actions)
        nodes = pyro.poutine.trace(told).get_trace().nodes
        found = scm.push(noise, **actions)
        for name in ("b", "d", "e"):
            event = nodes[name]["fn"].event_dim
            world = IndexSet(a={1}, c={1})
            there = gather(nodes[name]["value"], world, event_dim=event)
            assert_close(there.reshape(found[name].shape), found[name], rtol=1e-9, atol=1e-9)
