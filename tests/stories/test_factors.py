"""A small story under each kind of factor: the contract, and all that is done with a pair."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from worlds.stories.factors import KINDS
from worlds.whole_life import compiled, resumed, whole_life

import ppl_models as zoo
from ppl_models import Batch, inference
from ppl_models.data import Dataset, Table
from ppl_models.inference import EnumeratedELBO
from ppl_models.inference.posterior.export import posterior
from ppl_models.prior_rows import draw_rows
from ppl_models.testing import PairContract

FILE = Path(__file__).parents[1] / "worlds" / "stories" / "factors.py"


class _Kind(PairContract):
    pair = f"{FILE}:Factors"


TestLadder = type("TestLadder", (_Kind,), {"settings": {"kind": "ladder"}})
TestProduct = type("TestProduct", (_Kind,), {"settings": {"kind": "product"}})
TestMixture = type("TestMixture", (_Kind,), {"settings": {"kind": "mixture"}})
TestBoth = type("TestBoth", (_Kind,), {"settings": {"kind": "both"}})
TestPoint = type("TestPoint", (_Kind,), {"settings": {"kind": "point"}})
del _Kind


def world(rows=60):
    torch.manual_seed(4)
    table = Table(
        "world", {n: v for n, v in draw_rows(make("ladder"), rows).items() if n in "aby"}
    )
    return Dataset("world", table, table, table, {"name": "world", "options": {}})


def make(kind):
    return zoo.build(f"{FILE}:Factors", kind=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_life(kind, tmp_path):
    _, idata = whole_life(lambda: make(kind), world(), tmp_path, epochs=2, batch_size=20)
    told = set(idata.sample_stats)
    assert ("log_weight" in told) == (kind != "point")
    assert ("diagnostics" in idata.groups()) == (kind != "point")


def test_a_point_has_no_weights_and_says_so():
    reason = "site 'z' is a point in the guide, which has no density: rows have no importance"
    with pytest.raises(ValueError, match=reason) as error:
        inference.importance(make("point"), world().train, draws=5)
    assert "\n" not in str(error.value)


def test_points_by_row_are_trained_resumed_and_compiled(tmp_path):
    rows = world().train
    options = {"epochs": 4, "batch_size": 20, "progress": False, "device": "cpu"}
    run = inference.fit(make("row"), rows, **options)
    start = make("row").guide.factors["z"].table
    points = run.pair.guide.factors["z"].table
    assert bool(((points - start).abs() > 1e-4).any(-1).all())  # every row moved
    for twin in (
        resumed(lambda: make("row"), rows, tmp_path, **options),
        compiled(lambda: make("row"), rows, **options),
    ):
        assert_close(twin.pair.state_dict(), run.pair.state_dict(), rtol=1e-4, atol=1e-5)


def test_rows_of_another_table_are_one_line():
    fewer = world().train.rows(torch.arange(50))
    for ask in (
        lambda: inference.fit(make("row"), fewer, epochs=1, progress=False),
        lambda: inference.importance(make("row"), fewer, draws=5),
    ):
        with pytest.raises(IndexError, match="for each of the 60 rows it was trained on") as error:
            ask()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_subset_particles_labels_in_front_and_means(kind, dtype):
    torch.manual_seed(5)
    pair = make(kind).to(dtype)
    full = {n: v.to(dtype) if n != "y" else v for n, v in draw_rows(pair, 6).items() if n in "aby"}
    for seen in (("a",), ("b",), ("a", "b"), ("a", "b", "y")):
        if kind in ("ladder", "point") and "a" not in seen:
            continue
        batch = Batch({n: full[n] for n in seen}, size=60)
        for particles, rows in itertools.product((1, 3), (6, 60)):
            scaled = Batch(dict(batch), size=rows)
            loss = EnumeratedELBO(particles=particles).per_datum(pair.model, pair.guide, scaled)
            assert loss.shape == (6,) and loss.dtype == dtype and bool(loss.isfinite().all())
        known = {**batch, "y": full["y"]}
        found = pair.guide.upstream("top" if kind == "point" else "z", known)
        z = pair.guide.factor("z", found)
        assert z.event_shape == (2,) and bool(z.mean.isfinite().all())


@pytest.mark.parametrize(("kind", "left_out"), [("point", 1), ("ladder", 0)])
def test_a_verdict_says_what_points_leave_out(kind, left_out):
    idata = posterior(make(kind), world().test, draws=20, prior_draws=5)
    found = [f for f in inference.verdict(idata).findings if f.left_out]
    assert len(found) == left_out
    assert all(f.sentence.startswith("z is a point in the guide: k-hat") for f in found)
