"""What stands for a distribution where nothing is drawn, against draws and lists of values."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import biject_to, constraints
from torch.testing import assert_close

from ppl_models import Batch
from ppl_models.centres import (
    at_centres,
    centre_of,
    data_centre,
    is_class,
    mean_of,
    median_of,
    most_probable,
)
from ppl_models.parts.mechanisms import Affine, Autoregressive, Between, Mechanism, Spline

LOC, SCALE = torch.tensor([[-1.0, 0.2], [0.5, 1.5]]), torch.tensor([[0.3, 0.5], [0.8, 0.1]])
NORMAL = dist.Normal(LOC, SCALE)
CARRIED = dist.TransformedDistribution(NORMAL.to_event(1), [biject_to(constraints.positive)])
FLAT = dist.LowRankMultivariateNormal(LOC.flatten(), SCALE.reshape(4, 1), torch.ones(4))
RESHAPED = dist.TransformedDistribution(
    FLAT,
    [dist.transforms.ReshapeTransform((4,), (2, 2)), biject_to(constraints.positive)],
)
SHIFTED = dist.TransformedDistribution(
    NORMAL,
    [dist.transforms.ExpTransform(), dist.transforms.AffineTransform(3.0, -2.0)],
)


@pytest.mark.parametrize(
    "fn",
    [
        NORMAL, NORMAL.to_event(1), NORMAL.expand((3, 2, 2)), dist.Gamma(SCALE, 1.0),
        dist.Beta(SCALE, 2.0), dist.LogNormal(LOC, SCALE).to_event(2), CARRIED,
        CARRIED.expand((3, 2)), RESHAPED, SHIFTED, dist.Dirichlet(SCALE), NORMAL.mask(LOC > 0),
        dist.Delta(LOC, event_dim=1),
    ],
)  # fmt: skip
def test_a_mean_is_that_of_draws(fn):
    torch.manual_seed(0)
    draws = fn.sample((40_000,)).double()
    error = draws.std(0) / len(draws) ** 0.5
    mean = mean_of(fn)
    assert mean.shape == fn.batch_shape + fn.event_shape
    assert bool(((draws.mean(0) - mean).abs() <= 5 * error + 1e-6).all())
    assert torch.equal(centre_of(fn), mean) and torch.equal(data_centre(fn), mean)


@pytest.mark.parametrize(
    "fn",
    [
        dist.Cauchy(LOC, SCALE), dist.StudentT(0.5 * SCALE, LOC, SCALE), dist.HalfCauchy(SCALE),
        dist.TransformedDistribution(NORMAL, [biject_to(constraints.unit_interval)]),
        dist.TransformedDistribution(NORMAL, [dist.transforms.ExpTransform().inv.inv,
                                              dist.transforms.ExpTransform()]),
        dist.TransformedDistribution(dist.Gamma(SCALE, 1.0), [dist.transforms.ExpTransform()]),
        dist.RelaxedBernoulli(torch.tensor(1.0), logits=LOC),
        dist.RelaxedOneHotCategorical(torch.tensor(1.0), logits=LOC),
    ],
)  # fmt: skip
def test_what_has_no_mean(fn):
    assert mean_of(fn) is None and centre_of(fn) is None


UNIT, CUBE = (
    biject_to(constraints.unit_interval),
    dist.transforms.PowerTransform(torch.tensor(3.0)),
)


@pytest.mark.parametrize(
    ("fn", "exact"),
    [
        (dist.TransformedDistribution(NORMAL, [UNIT]).to_event(1).expand((3, 2)),
         LOC.sigmoid().expand(3, 2, 2)),
        (dist.TransformedDistribution(NORMAL.to_event(2), [UNIT, dist.transforms.AffineTransform(
            1.0, -2.0, event_dim=1)]).mask(False), 1 - 2 * LOC.sigmoid()),
        (dist.TransformedDistribution(NORMAL.expand((5, 2, 2)).to_event(1), [
            dist.transforms.ReshapeTransform((2,), (2, 1)), UNIT, CUBE]),
         LOC.sigmoid().pow(3)[..., None].expand(5, 2, 2, 1)),
        (NORMAL, None),
        (dist.TransformedDistribution(dist.Gamma(SCALE, 1.0), [UNIT]), None),
        (dist.TransformedDistribution(NORMAL, [dist.transforms.AbsTransform()]), None),
    ],
)  # fmt: skip
def test_medians_are_carried_by_functions_of_one_number(fn, exact):
    found = median_of(fn)
    if exact is None:
        assert found is None
    else:
        assert found.shape == fn.batch_shape + fn.event_shape
        assert_close(found, exact)
        assert mean_of(fn) is None and torch.equal(data_centre(fn), found)


def test_a_mechanism_of_one_number_has_a_median_and_one_that_mixes_them_has_none():
    torch.manual_seed(0)
    own = Mechanism({}, Affine, Spline, outer=(Between(-1.0, 3.0),))
    for weight in own.parameters():
        torch.nn.init.normal_(weight)
    fn = own()
    draws = fn.sample((40_000,))
    below = (draws < data_centre(fn)).double().mean()
    assert float(below) == pytest.approx(0.5, abs=5 * 0.5 / 200)
    assert data_centre(Mechanism({}, Autoregressive, size=2)()) is None


PROBS = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])


@pytest.mark.parametrize(
    ("fn", "best"),
    [
        (dist.Categorical(PROBS), [1, 0]),
        (dist.Categorical(PROBS).expand((2, 2)), [[1, 0], [1, 0]]),
        (dist.Categorical(PROBS).to_event(1), [1, 0]),
        (dist.OneHotCategorical(PROBS), [[0, 1, 0], [1, 0, 0]]),
        (dist.Bernoulli(PROBS), [[0, 0, 0], [1, 0, 0]]),
        (dist.Bernoulli(PROBS).to_event(1).mask(torch.tensor([True, False])),
         [[0, 0, 0], [1, 0, 0]]),
        (dist.Binomial(4, torch.tensor([0.3, 0.5, 0.7])), [1, 2, 3]),
        (dist.Poisson(torch.tensor([0.3, 2.5])), [0, 2]),
    ],
)  # fmt: skip
def test_the_most_probable_value(fn, best):
    got = most_probable(fn)
    assert torch.equal(got, torch.tensor(best).to(got.dtype)) and torch.equal(centre_of(fn), got)
    assert got.shape == fn.batch_shape + fn.event_shape
    # A number has a mean where it is data, a class has none.
    of_data = got if is_class(fn) else fn.mean
    assert torch.equal(data_centre(fn), of_data)
    assert is_class(fn) == (not fn.sample().is_floating_point())


def test_sites_are_at_their_centres_and_those_that_have_a_value_keep_it():
    def story(batch):
        with batch.plate():
            y = pyro.sample("y", dist.Categorical(PROBS[0]))
            z = pyro.sample("z", dist.Normal(y.float(), 1.0))
            pyro.sample("x", dist.Bernoulli(logits=z), obs=batch.get("x"))
            pyro.sample("w", dist.Cauchy(z, 1.0))

    batch = Batch({}, torch.arange(4))
    model = poutine.condition(story, {"w": torch.zeros(4)})
    with at_centres(("x",)):
        nodes = poutine.trace(model).get_trace(batch).nodes
    assert torch.equal(nodes["z"]["value"], torch.ones(4))
    assert_close(nodes["x"]["value"], torch.ones(4).sigmoid())
    torch.manual_seed(0)
    with at_centres(("x",), mean=False):
        nodes = poutine.trace(model).get_trace(batch).nodes
    assert set(nodes["x"]["value"].tolist()) <= {0.0, 1.0}
    with at_centres(), pytest.raises(BaseException, match="'w'") as caught:
        poutine.trace(story).get_trace(batch)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^site 'w' \(Cauchy\) has no mean; ask.*='draw'$"):
        at_means(story, batch)


def at_means(story, batch):
    with at_centres():
        poutine.trace(story).get_trace(batch)
