"""Points: a bound at them, their tables of rows, and what they have no word in."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ppl_models import Batch, guides
from ppl_models.inference import EnumeratedELBO
from ppl_models.networks import Scalar

TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def model(batch):
    """z ~ N(0, I), x ~ N(z, 1)."""
    x = batch["x"]
    with batch.plate():
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def joint(x, z):
    unit = dist.Normal(torch.zeros_like(x), 1.0).to_event(1)
    return unit.log_prob(z) + unit.log_prob(x - z)


class Given(nn.Module):
    """A network that gives what it is given."""

    def forward(self, x):
        return x


def per_row(rows, dtype, total=10):
    guide = guides.Factored(z=guides.PointPerRow(2, total, scale=1.0)).to(dtype)
    torch.manual_seed(1)
    x = torch.randn(total, 2, dtype=dtype)
    return guide, Batch({"x": x[rows]}, rows, size=total, total=total)


@TYPES
@pytest.mark.parametrize("size", [7, 70])
@pytest.mark.parametrize("particles", [1, 3])
def test_a_bound_is_the_joint_density_at_the_point(dtype, size, particles):
    torch.manual_seed(0)
    guide = guides.Factored(z=guides.Point(2, {"x": 2}, (4,))).to(dtype)
    batch = Batch({"x": torch.randn(7, 2, dtype=dtype)}, size=size)
    loss = EnumeratedELBO(particles=particles).per_datum(model, guide, batch)
    z = guide.factors["z"].raw(**batch)
    assert_close(loss, -joint(batch["x"], z))
    ours = torch.autograd.grad(loss.sum(), list(guide.parameters()))
    theirs = torch.autograd.grad(-joint(batch["x"], z).sum(), list(guide.parameters()))
    assert_close(ours, theirs)


@TYPES
def test_a_point_of_a_support_is_the_output_carried_there(dtype):
    q = guides.Point(3, {"x": 3}, net=Given(), support="unit_interval").to(dtype)
    raw = torch.tensor([[0.0, 2.0, -1.0], [500.0, -500.0, 30.0]], dtype=dtype)
    point = q(x=raw).mean
    assert_close(point[0], raw[0].sigmoid())
    unit = dist.Uniform(torch.zeros(3, dtype=dtype), 1.0).to_event(1)
    assert torch.equal(unit.log_prob(point), torch.zeros(2, dtype=dtype))  # off both ends
    positive = guides.Point(Scalar(), {"x": 1}, net=Given(), support="positive")
    assert_close(positive(x=raw[:1, 1:2]).mean, raw[:1, 1].exp())
    with pytest.raises(ValueError, match="support is 'simplex', expected one of positive"):
        guides.Point(3, {"x": 3}, support="simplex")


@TYPES
def test_a_number_per_row_and_its_mean(dtype):
    guide = guides.Factored(s=guides.Point(Scalar(), {"x": 2})).to(dtype)
    q = guide.factor("s", {"x": torch.randn(4, 2, dtype=dtype)})
    assert q.batch_shape == (4,) and q.event_shape == ()
    assert_close(q.mean, q.rsample())


@TYPES
@pytest.mark.parametrize("rows", [[3], [0, 9, 4], list(range(10))], ids=len)
def test_rows_are_looked_up_by_number(dtype, rows):
    rows = torch.tensor(rows)
    guide, batch = per_row(rows, dtype)
    table = guide.factors["z"].table
    assert_close(guide(batch)["z"], table[rows])
    assert_close(guide.factor("z", batch).mean, table[rows])
    loss = EnumeratedELBO().per_datum(model, guide, batch)
    assert_close(loss, -joint(batch["x"], table[rows]))
    (slope,) = torch.autograd.grad(loss.sum(), table)
    # d/dz of (z^2 + (x - z)^2) / 2, in the rows of the batch alone
    expected = torch.zeros_like(table)
    expected[rows] = (2 * table[rows] - batch["x"]).detach()
    assert_close(slope, expected)


def test_what_a_point_gives_is_handed_on():
    torch.manual_seed(0)
    made = {"z": guides.PointPerRow(2, 10), "u": guides.Normal(3, {"z": 2})}
    guide, (_, batch) = guides.Factored(**made), per_row(torch.tensor([4, 2]), torch.float32)
    found = guide.upstream("u", batch)
    assert_close(found["z"], guide.factors["z"].table[[4, 2]])
    assert guide.factor("u", found).batch_shape == (2,)


@TYPES
def test_row_numbers_need_not_be_places(dtype):
    guide = guides.Factored(z=guides.PointPerRow(2, 4, scale=1.0)).to(dtype)
    points = guide.factors["z"]
    points.numbers.copy_(torch.tensor([2, 5, 90, 91]))
    rows = torch.tensor([90, 2, 91])
    batch = Batch({"x": torch.zeros(3, 2, dtype=dtype)}, rows, size=4)
    for given in (batch, batch.unscaled(), batch.replace({})):
        assert_close(guide(given)["z"], points.table[[2, 0, 3]])
    copy = guides.Factored(z=guides.PointPerRow(2, 4)).to(dtype)
    copy.load_state_dict(guide.state_dict())
    assert_close(copy(batch)["z"], guide(batch)["z"])


def test_where_numbers_are_not_looked_at_other_rows_are_nan():
    points = guides.PointPerRow(2, 10)
    guide = guides.Factored(z=points)
    rows = torch.tensor([[3], [12], [0]])

    def mean(row):
        return guide.factor("z", Batch({}, row)).mean[0]

    found = torch.func.vmap(mean)(rows)
    assert_close(found[[0, 2]], points.table[[3, 0]])
    assert bool(found[1].isnan().all())


def test_a_point_per_row_may_be_there_in_some_rows_only():
    guide = guides.Factored(z=guides.Present(guides.PointPerRow(2, 10), "n", 1))
    batch = Batch({"n": torch.tensor([2, 1, 2])}, torch.tensor([7, 0, 9]))
    assert_close(guide(batch)["z"], guide.factors["z"].net.table[[7, 0, 9]])
    with pytest.raises(IndexError, match=r"site 'z' has a point .* got row 10;"):
        guide(Batch({"n": torch.tensor([2])}, torch.tensor([10])))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (Batch({"x": torch.zeros(11, 2)}), "row 10"),
        (Batch({"x": torch.zeros(3, 2)}, torch.tensor([4, 17, 2])), "row 17"),
        (Batch({}, torch.tensor([-1])), "row -1"),
        ({"x": torch.zeros(3, 2)}, "values without row numbers"),
    ],
)
def test_other_rows_are_one_line(values, told):
    guide = guides.Factored(z=guides.PointPerRow(2, 10))
    message = f"site 'z' has a point for each of the 10 rows it was trained on, got {told}; "
    with pytest.raises(IndexError, match=message) as error:
        guide.factor("z", values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((0, 3), "size is 0"),
        ((2, 0), "rows is 0"),
        ((2, 3, -1.0), r"scale is -1\.0, expected at least 0"),
    ],
)
def test_bad_options_are_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        guides.PointPerRow(*options)


# ---- scales between limits --------------------------------------------------------------


class Raw(nn.Module):
    def __init__(self, raw):
        super().__init__()
        self.raw = nn.Parameter(raw)

    def forward(self, **_):
        return self.raw


@TYPES
@pytest.mark.parametrize("bounds", [(0.01, 2.0), (0.0, 1.0), (0.5, 0.6)])
def test_bounded_scales(dtype, bounds):
    raw = torch.linspace(-30, 30, 12, dtype=dtype).reshape(2, 6)
    factor = guides.Normal(3, {"x": 1}, net=Raw(raw), scale=bounds)
    q = factor(x=torch.zeros(2, 1)).base_dist
    least, largest = bounds
    assert_close(q.scale, least + (largest - least) / (1 + (-raw[:, 3:]).exp()))
    assert bool((q.scale >= least).all()) and bool((q.scale <= largest).all())
    (slope,) = torch.autograd.grad(q.scale.sum(), factor.net.raw)
    share = raw[:, 3:].sigmoid()
    of_scale = (largest - least) * share * (1 - share)
    assert_close(slope, torch.cat([torch.zeros(2, 3, dtype=dtype), of_scale], -1))


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (-0.1, 1.0), (0.1, float("inf"))])
def test_scales_that_do_not_rise_are_one_line(bounds):
    with pytest.raises(ValueError, match="expected two finite numbers, 0 <= least < largest"):
        guides.Normal(2, {"x": 1}, scale=bounds)
