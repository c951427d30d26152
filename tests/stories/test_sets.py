"""A set model with one to seven elements a row, from ragged arrays to its page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from torch.testing import assert_close
from worlds.whole_life import whole_life

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.testing import PairContract

FILE = Path(__file__).parents[1] / "worlds" / "stories" / "sets.py"
PAIR = f"{FILE}:Sets"


def sets(rows: int = 40) -> data.Dataset:
    """Points around a centre of each set."""
    rng = np.random.default_rng(0)
    x = [rng.normal(size=2) + 0.3 * rng.normal(size=(1 + row % 7, 2)) for row in range(rows)]
    return data.from_arrays(x=x, name="sets", splits=(0.7, 0.0, 0.3))


def test_whole_life(tmp_path: Path) -> None:
    digits = sets()

    def make() -> zoo.Pair:
        return zoo.build(PAIR, digits, hidden=8)

    run, idata = whole_life(make, digits, tmp_path, epochs=3, batch_size=8)
    there = digits.test.sites["x_there"][:].numpy() > 0
    assert idata.posterior.z.dims == ("chain", "draw", "datum", "element", "z_dim")
    assert (np.isfinite(idata.posterior.z.values[0, 0, ..., 0]) == there).all()
    assert (np.isfinite(idata.observed_data.x.values[..., 0]) == there).all()
    assert (np.isfinite(idata.posterior_predictive.x.values[0, 0, ..., 0]) == there).all()
    assert idata.log_likelihood.x.dims == ("chain", "draw", "datum")
    assert np.isfinite(idata.diagnostics.iw_bound.values).all()
    (finite,) = (f for f in run.check(digits.test).findings if f.name == "finite")
    assert finite.ok, finite.sentence


def test_neither_the_order_of_elements_nor_their_padding_matters() -> None:
    """To what the guide says of a set; and with any of them the elements' own codes move."""
    digits = sets()
    pair = zoo.build(PAIR, digits)
    plain = {n: v[:].double() for n, v in digits.test.sites.items()}
    order = torch.argsort(torch.rand(plain["x_there"].shape), 1)
    moved = {
        "x": plain["x"].gather(1, order[..., None].expand_as(plain["x"])),
        "x_there": plain["x_there"].gather(1, order),
    }
    rows = len(order)
    longer = {
        "x": torch.cat([plain["x"], torch.full((rows, 3, 2), float("nan")).double()], 1),
        "x_there": torch.cat([plain["x_there"], torch.zeros(rows, 3).double()], 1),
    }
    pair.double()

    def context(sites: dict[str, torch.Tensor]) -> torch.Tensor:
        run = inference.Evaluation(pair.model, pair.guide, zoo.Batch(sites))
        fn = run.weights().guide.nodes["c"]["fn"].base_dist
        return torch.cat([fn.loc, fn.scale], -1).squeeze()

    for other in (moved, longer):
        assert_close(context(other), context(plain), rtol=1e-12, atol=1e-12)


def test_methods_say_what_applies_and_why_not() -> None:
    digits = sets()
    found = {m.name: m for m in inference.methods(zoo.build(PAIR, digits), digits)}
    for name in ("elbo", "enumerated", "iwelbo", "renyi", "nuts", "importance", "sir"):
        assert found[name].applies, found[name]
    for name in ("log_evidence", "map"):
        assert "stands in plate 'element' within the rows" in found[name].reason
    assert all("\n" not in m.reason for m in found.values())


def test_a_fit_takes_sets_of_other_sizes_and_no_other_elements() -> None:
    """As they are: padded to the fit's size they come out the same."""
    digits = sets()
    pair = zoo.build(PAIR, digits)
    run = inference.fit(pair, digits, epochs=1, progress=False)
    table = digits.test.rows(digits.test.sites["x_there"].sum(1) <= 2)
    sites = {name: value[:, :2] for name, value in table.sites.items()}
    few, wide = (
        inference.Evaluation(pair.model, pair.guide, next(t.batches())).weights().guide
        for t in (table.replace(sites=sites), table)
    )
    one, other = (q.nodes["c"]["fn"].base_dist.loc for q in (few, wide))
    assert_close(one, other)
    assert run.bound_per_row(table.replace(sites=sites), inference.ELBO()).isfinite().all()
    (found,) = (run.posterior(table.replace(sites=sites), draws=3).posterior.z.shape,)
    assert found[2:4] == (len(table), 2)
    longer = data.Table("longer", {**sites, "x": torch.zeros(len(table), 2, 3)})
    with pytest.raises(ValueError, match=r"has rows of shape \(2, 3\), but the pair was fitted"):
        run.posterior(longer)
    flat = data.Table("flat", {**sites, "x_there": torch.ones(len(table))})
    with pytest.raises(ValueError, match=r"'x_there' of flat has rows of shape \(\), expected"):
        run.posterior(flat)


def test_plain_pyro_trains_it() -> None:
    """Pyro's SVI with the house's objective, which takes the pair's plates by itself."""
    digits = sets()
    pair = zoo.build(PAIR, digits)
    batch = next(digits.train.batches(limit=5))
    svi = pyro.infer.SVI(
        pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), loss=inference.ELBO()
    )
    losses = [svi.step(batch) for _ in range(30)]
    pyro.clear_param_store()
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    with pytest.raises(ValueError, match="plate_nesting is 1, expected at least the 2 plate"):
        inference.ELBO(plate_nesting=1).loss(pair.model, pair.guide, batch)


class TestSets(PairContract):
    """What every pair promises."""

    pair = PAIR
