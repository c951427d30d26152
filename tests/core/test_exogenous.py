"""Noises of values: there and back, what no noise leads to, and noise of classes by rejection."""

from __future__ import annotations

import math
import re

import pyro.distributions as dist
import pytest
import torch
from torch.testing import assert_close

from ppl_models.exogenous import mechanism, noise_of, value_at
from ppl_models.parts.mechanisms import Between

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
NEAR = {torch.float32: 1e-5, torch.float64: 1e-6}


def within(low, high, loc):
    base = dist.Normal(loc, torch.ones_like(loc))
    return dist.TransformedDistribution(base, [Between(low, high).to(loc.dtype)()])


KINDS = {
    "normal": lambda a: dist.Normal(a, a.exp()),
    "laplace": lambda a: dist.Laplace(a, a.exp()),
    "student": lambda a: dist.StudentT(5.0, a, a.exp()),
    "gumbel": lambda a: dist.Gumbel(a, a.exp()),
    "uniform": lambda a: dist.Uniform(a, a + 3),
    "lognormal": lambda a: dist.LogNormal(a, 0.5),
    "between": lambda a: within(-2.0, 255.0, a),
    "categorical": lambda a: dist.Categorical(logits=a),
    "one hot": lambda a: dist.OneHotCategorical(logits=a),
    "bernoulli": lambda a: dist.Bernoulli(logits=a),
    "vector": lambda a: dist.Normal(a, 1.0).to_event(1).mask(False),
    "full": lambda a: dist.MultivariateNormal(a, torch.eye(3).to(a) + 0.5),
}


@DTYPES
@pytest.mark.parametrize("kind", KINDS)
def test_a_noise_leads_back_to_the_value_it_is_of(kind, dtype):
    """Also of rows that broadcast against draws, or enumeration, in front."""
    torch.manual_seed(0)
    fn = KINDS[kind](torch.randn(4, 5, 3, dtype=dtype))
    value = fn.sample()
    noise = noise_of(fn, value)
    found = value_at(fn, noise)
    assert found.shape == value.shape
    assert_close(found, value, rtol=NEAR[dtype], atol=NEAR[dtype])
    draws = fn.expand((2, *fn.batch_shape))
    assert_close(value_at(draws, noise).expand(2, *value.shape)[1], found)
    rows = value[0]  # of one draw, at the parents of four
    if kind == "uniform":
        fn = dist.Uniform(fn.low - 9, fn.high + 9)
    again, wide = value_at(fn, noise_of(fn, rows)), rows.expand(value.shape)
    assert_close(again, wide, rtol=NEAR[dtype], atol=10 * NEAR[dtype])


@pytest.mark.parametrize("chosen", [0, 2])
@pytest.mark.parametrize("logits", [(0.3, -1.0, 0.5), (-2.0, -torch.inf, 1.0)])
def test_noise_of_a_class_is_gumbel_noise_that_made_it(logits, chosen):
    """Mean and deviation against those of Gumbel draws of which the class is the largest."""
    torch.manual_seed(0)
    fn = dist.Categorical(logits=torch.tensor(logits, dtype=torch.float64))
    drawn = dist.Gumbel(0.0, torch.ones(200_000, 3, dtype=torch.float64)).sample()
    kept = drawn[(drawn + fn.logits).argmax(-1) == chosen]
    assert len(kept) > 5_000
    made = noise_of(fn, torch.full((200_000,), chosen))
    error = kept.std(0) / len(kept) ** 0.5 + made.std(0) / len(made) ** 0.5
    assert bool(((made.mean(0) - kept.mean(0)).abs() < 4 * error).all())
    assert_close(made.std(0), kept.std(0), rtol=0.04, atol=0)
    assert_close(made.quantile(0.1, 0), kept.quantile(0.1, 0), rtol=0, atol=0.05)
    # Of all classes by their shares it is Gumbel's own.
    every = noise_of(fn, fn.sample((200_000,)))
    assert_close(every.mean(0), torch.full((3,), 0.5772, dtype=torch.float64), rtol=0, atol=0.02)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_noise_of_a_binary_entry_is_logistic_noise_that_made_it(value):
    torch.manual_seed(0)
    fn = dist.Bernoulli(logits=torch.tensor(0.7, dtype=torch.float64))
    share = torch.rand(200_000, dtype=torch.float64)
    drawn = share.log() - (-share).log1p()
    kept = drawn[(drawn + 0.7 > 0) == bool(value)]
    made = noise_of(fn, torch.full((200_000,), value))
    at = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    assert_close(made.quantile(at), kept.quantile(at), rtol=0.03, atol=0.03)


@pytest.mark.parametrize(
    ("fn", "value", "sentence"),
    [
        (within(64.0, 255.0, torch.zeros(2)), [70.0, 255.0],
         "x is 255, and no noise leads there by Normal through Within; expected numbers between "
         "64 and 255 that can be"),
        (within(64.0, 255.0, torch.zeros(2)), [60.0, 70.0], "x is 60, and no noise"),
        (dist.LogNormal(torch.zeros(2), 1.0), [1.0, 0.0], "x is 0, and no noise"),
        (dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0),
                                      [dist.transforms.SigmoidTransform()]), [0.5, 1.0],
         "x is 1, and no noise"),
        (dist.Uniform(torch.zeros(2), 1.0), [0.5, 1.5],
         "x is 1.5, and no noise leads there by Uniform; expected numbers from 0 to 1 that"),
        (dist.Normal(torch.zeros(2), 1.0), [0.5, torch.nan], "x is nan, and no noise"),
        (dist.Categorical(logits=torch.tensor([0.0, 1.0, -torch.inf])), [1, 2],
         "x is 2, and no noise leads there by Categorical"),
        (dist.MultivariateNormal(torch.zeros(2), torch.eye(2)), [0.5, torch.inf], "x is "),
    ],
)  # fmt: skip
def test_a_value_that_no_noise_leads_to_is_refused_in_one_line(fn, value, sentence):
    with pytest.raises(ValueError, match="^" + re.escape(sentence)) as error:
        noise_of(fn, torch.tensor(value), "x")
    assert "\n" not in str(error.value)


def test_what_is_masked_may_be_anything():
    there = torch.tensor([[True, True], [True, False]])
    fn = dist.LogNormal(torch.zeros(2, 2), 1.0).mask(there).to_event(1)
    noise = noise_of(fn, torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    exact = torch.tensor([[1.0, 2.0], [3.0, math.nan]]).log()  # what is not there has no noise
    assert_close(noise, exact, equal_nan=True)
    with pytest.raises(ValueError, match="is 0, and no noise"):
        noise_of(fn, torch.tensor([[1.0, 0.0], [3.0, 0.0]]))


def test_a_compiled_function_tells_noise():
    """In one graph: it does not look at the numbers."""
    f = torch.compile(
        lambda v: noise_of(dist.Normal(1.0, 2.0), v), backend="eager", fullgraph=True
    )
    assert_close(f(torch.ones(3)), torch.zeros(3))


def test_mechanisms_have_words():
    fn = within(0.0, 1.0, torch.zeros(2)).to_event(1)
    assert mechanism(fn) == "Normal through Within"
    with pytest.raises(ValueError, match="of Gamma cannot be told"):
        noise_of(dist.Gamma(1.0, 1.0), torch.ones(()))


@DTYPES
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (64.0, 255.0), (-3.0, 0.0)])
def test_rounding_does_not_reach_the_ends(dtype, low, high):
    """Noise beyond all digits leads to a value one digit from the end, which noise moves no more.

    Before it, d log p / du of the density at the value of u is -u + tanh(u / 2).
    """
    noise = torch.tensor([-200.0, -8.0, 8.0, 200.0], dtype=dtype, requires_grad=True)
    fn = within(low, high, torch.zeros(4, dtype=dtype))
    value = value_at(fn, noise)
    least = torch.finfo(dtype).eps * max(abs(low), abs(high))
    exact = (low + (high - low) * noise.sigmoid()).clamp(low + least, high - least)
    assert_close(value, exact, rtol=0, atol=least)
    assert bool(((value > low) & (value < high)).all())
    back = (value - low).log() - (high - value).log()
    assert_close(noise_of(fn, value), back, rtol=1e-5, atol=0)
    (slope,) = torch.autograd.grad(fn.log_prob(value).sum(), noise)
    exact = (noise / 2).tanh() - noise
    exact = exact.where(noise.abs() < 100, 0)
    assert_close(slope, exact, rtol=1e-2, atol=0)


def test_what_samples_a_range_keeps_within_it():
    """The support is the open range, and numbers without bounds are carried into it."""
    support = within(64.0, 255.0, torch.zeros(())).support
    assert support.check(torch.tensor([64.0, 64.1, 255.0])).tolist() == [False, True, False]
    free = torch.linspace(-4, 4, 9, requires_grad=True)
    carried = torch.distributions.biject_to(support)
    value = carried(free)
    assert bool(support.check(value).all())
    (slope,) = torch.autograd.grad(value.sum(), free)
    assert_close(carried.log_abs_det_jacobian(free, value).exp(), slope)
