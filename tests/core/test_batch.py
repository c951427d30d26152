"""Batches: what they hold and refuse, and the plate that they open."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from ppl_models.batch import Batch

B, D = 4, 3
X, Y = torch.arange(B * D, dtype=torch.float32).reshape(B, D), torch.arange(B)


def batch(**options):
    return Batch({"x": X, "y": Y}, torch.tensor([7, 3, 9, 1]), **options)


def test_a_batch_is_a_mapping_of_what_is_observed():
    b = batch(size=40, total=100, observed={"x": 100, "y": 40})
    assert dict(b) == {"x": b["x"], "y": b["y"]}
    assert (len(b), b.count, b.scale, b.size, b.total) == (2, B, 10.0, 40, 100)
    assert b.get("z") is None
    assert "z" not in b
    assert repr(b) == "Batch(x (4, 3), y (4,); 4 of 40 rows)"
    assert repr(Batch({}, torch.arange(2))) == "Batch(nothing observed; 2 of 2 rows)"


def test_what_is_left_out_takes_the_rows_at_hand():
    b = Batch({"x": X})
    assert b.rows.tolist() == list(range(B))
    assert (b.size, b.total, b.scale, b.observed) == (B, B, 1.0, {"x": B})
    assert Batch({"x": X}, size=40).observed == {"x": 40}


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda b: b.only("x"), {"x"}),
        (lambda b: b.only("x", "nothing"), {"x"}),
        (lambda b: b.without("x"), {"y"}),
        (lambda b: b.replace({}), set()),
        (lambda b: b.to(torch.float64), {"x", "y"}),
    ],
    ids=["only", "only what is there", "without", "replace", "to"],
)
def test_changed_batches_stand_for_the_same_rows(change, left):
    b = batch(size=40, total=100, observed={"x": 100, "y": 40})
    changed = change(b)
    assert set(changed) == left
    assert torch.equal(changed.rows, b.rows)
    for name in ("size", "total", "observed"):
        assert getattr(changed, name) == getattr(b, name)
    assert set(b) == {"x", "y"}


def test_rows_that_stand_for_themselves_count_once():
    alone = batch(size=40, total=100, observed={"x": 100, "y": 40}).unscaled()
    assert (alone.size, alone.total, alone.scale, alone.observed) == (B, B, 1.0, {"x": B, "y": B})
    assert alone.rows.tolist() == [7, 3, 9, 1]
    assert alone["x"] is X and alone["y"] is Y


def test_casting_leaves_labels_and_rows_as_integers():
    b = batch().to(torch.float64)
    assert (b["x"].dtype, b["y"].dtype, b.rows.dtype) == (torch.float64, torch.int64, torch.int64)
    assert batch().to("cpu", torch.float16)["x"].dtype == torch.float16


def test_batches_that_do_not_fit_are_errors():
    with pytest.raises(ValueError, match=r"'y' has shape \(3,\), expected 4 rows"):
        Batch({"x": X, "y": Y[:3]})
    with pytest.raises(ValueError, match=r"'x' has shape \(4, 3\), expected 2 rows"):
        Batch({"x": X}, torch.arange(2))
    with pytest.raises(ValueError, match="an empty batch needs rows="):
        Batch({})


def test_the_plate_has_the_rows_own_numbers_and_scale():
    with batch(size=40).plate() as rows:
        value = pyro.sample("a", dist.Normal(0.0, 1.0))
    assert rows.tolist() == [7, 3, 9, 1]
    assert value.shape == (B,)

    def story():
        with batch(size=40).plate():
            pyro.sample("a", dist.Normal(0.0, 1.0), obs=torch.zeros(B))

    site = poutine.trace(story).get_trace().nodes["a"]
    (frame,) = site["cond_indep_stack"]
    assert (frame.name, frame.dim, frame.size) == ("data", -1, B)
    assert site["scale"] == 10.0
