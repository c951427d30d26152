"""A small story under each kind of factor: the contract, and all that is done with a pair."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from worlds.processes import together
from worlds.stories.factors import KINDS
from worlds.whole_life import whole_life

import ppl_models as zoo
from ppl_models import Batch, inference
from ppl_models.data import Dataset, Table
from ppl_models.inference import EnumeratedELBO
from ppl_models.inference.posterior.export import posterior
from ppl_models.prior_rows import draw_rows
from ppl_models.sample_sites import base_of
from ppl_models.testing import PairContract

EVERY = (*KINDS, "row")
POINTS = ("point", "row")
FILE = Path(__file__).parents[1] / "worlds" / "stories" / "factors.py"


class _Kind(PairContract):
    pair = f"{FILE}:Factors"


TestLadder = type("TestLadder", (_Kind,), {"settings": {"kind": "ladder"}})
TestProduct = type("TestProduct", (_Kind,), {"settings": {"kind": "product"}})
TestMixture = type("TestMixture", (_Kind,), {"settings": {"kind": "mixture"}})
TestBoth = type("TestBoth", (_Kind,), {"settings": {"kind": "both"}})
TestPoint = type("TestPoint", (_Kind,), {"settings": {"kind": "point"}})
TestRow = type("TestRow", (_Kind,), {"settings": {"kind": "row", "rows": 1000}})
del _Kind


def world(rows=60):
    torch.manual_seed(4)
    table = Table(
        "world", {n: v for n, v in draw_rows(make("ladder"), rows).items() if n in "aby"}
    )
    return Dataset("world", table, table, table, {"name": "world", "options": {}})


def make(kind):
    return zoo.build(f"{FILE}:Factors", kind=kind)


@pytest.mark.parametrize(
    "kind",
    [k if k == "both" else pytest.param(k, marks=pytest.mark.long) for k in EVERY],
)
def test_whole_life(kind, tmp_path):
    _, idata = whole_life(lambda: make(kind), world(), tmp_path, epochs=2, batch_size=20)
    told = set(idata.sample_stats)
    assert ("log_weight" in told) == (kind not in POINTS)
    assert ("diagnostics" in idata.groups()) == (kind not in POINTS)


def test_a_point_has_no_weights_and_says_so():
    reason = "site 'z' is a point in the guide, which has no density: rows have no importance"
    with pytest.raises(ValueError, match=reason) as error:
        inference.importance(make("point"), world().train, draws=5)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", EVERY)
def test_two_processes_train_as_one(kind, tmp_path):
    def train():
        options = {"epochs": 2, "batch_size": 20, "progress": False, "device": "cpu"}
        run = inference.fit(make(kind), data, objective=inference.IWELBO(3), **options)
        return {"loss": run.history["loss"], "model": run.pair.state_dict()}

    data = world()
    hidden = {"b": torch.arange(60) % 3 > 0, "y": torch.arange(60) % 2 > 0}
    data = Dataset("world", data.train.hide(hidden), None, None, {"name": "world", "options": {}})
    alone = train()
    for outcome in together(2, tmp_path, lambda rank: train()):
        assert not outcome.error, outcome.error
        assert outcome.value["loss"] == pytest.approx(alone["loss"], rel=1e-5)
        assert_close(outcome.value["model"], alone["model"], rtol=1e-4, atol=1e-5)


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


def by_hand(pair, batch):
    """The mean of q(z | ...) with the upper code at its mean, from what each kind is made of."""
    kind, factors = pair.config.kind, pair.guide.factors
    if kind == "row":
        return factors["z"].table[batch.rows]
    if kind == "point":
        return factors["z"].raw(**batch)
    if kind == "ladder":
        top = pair.guide.factor("top", batch).mean
        low = pair.guide.shared["low"](a=batch["a"], b=batch["b"])
        return factors["z"].net(low=low, top=top, y=batch["y"]).chunk(2, -1)[0]
    each = [base_of(e(**batch)) for e in factors["z"].experts]
    products = []
    for part in ([each[0]], [each[1]], each):
        precision = 1 + sum(q.scale**-2 for q in part)
        products.append(sum(q.loc * q.scale**-2 for q in part) / precision)
    if kind == "product":
        return products[-1]
    return torch.stack(products if kind == "both" else [q.loc for q in each]).mean(0)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1, 10])
def test_interventions_at_the_means(kind, dtype, scale):
    pair, rows = make(kind).to(dtype).eval(), torch.tensor([5, 0, 17, 40])
    full = world().train.rows(rows).to(dtype)
    batch = Batch(dict(full.sites), rows, size=4 * scale, total=60)
    with torch.no_grad():
        z = by_hand(pair, batch)
        found = pair.intervene(batch, codes="mean", a=torch.zeros(5, dtype=dtype))
        assert_close(found["z"], z)
        other = Batch(dict(full.rows(torch.arange(4).flip(0)).sites), rows.flip(0))
        moved = pair.transfer(other, batch, ["z"], codes="mean")
        assert_close(moved["z"], z.flip(0))
        assert_close(moved["a"], pair.to_a(z=z.flip(0)).sigmoid())


@pytest.mark.parametrize(
    "kind",
    [
        "both",
        *(pytest.param(k, marks=pytest.mark.long) for k in ("product", "mixture", "point", "row")),
    ],
)
def test_what_looks_at_pairs_takes_every_factor(kind):
    rows = world().train.hide({"y": torch.arange(60) % 2 > 0})
    run = inference.fit(make(kind), rows, epochs=2, batch_size=20, progress=False, device="cpu")
    for pair in (make(kind), run.pair):
        report = inference.debug(pair, rows)
        assert report.ok, str(report)
        told = {m.name: m for m in inference.methods(pair, rows)}
        assert told["enumerated"].applies and told["iwelbo"].applies, str(told)
        assert told["importance"].applies == (kind not in POINTS), told["importance"]
    found = inference.verdict(run.posterior(rows, draws=200, draws_for=range(4)))
    assert {f.name for f in found.findings} >= {"finite"} and "\n" in str(found)
    names = {f.name for f in found.findings if not f.left_out}
    assert ("k-hat" in names) == (kind not in POINTS), names
