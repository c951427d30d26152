"""Counterfactuals in exports: equal to the pair's at the draws of the posterior."""

from __future__ import annotations

import json
import re

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from numpy.testing import assert_allclose
from worlds import inner_plates
from worlds.shared_sites import shared
from worlds.stories.causes import causes, rows

from ppl_models.data import Table
from ppl_models.inference.posterior.export import load, posterior

DO = {"low": {"a": -1.0}, "high": {"a": 1.5, "k": "two"}, "both": {"b": [0.5]}}


@pytest.fixture(scope="module")
def pair():
    made = causes(torch.float32)
    made.schema = made.schema_with(table())
    return made


def table(count: int = 9) -> Table:
    batch = rows(torch.float32, count)
    names = {"k": ("none", "one", "two")}
    return Table("causes", dict(batch), classes=names, numbers=torch.arange(count) + 20)


@pytest.mark.parametrize(
    ("given", "block"), [(("a", "b", "c", "x"), 2), (("a", "b", "c", "k", "x"), None)]
)
def test_they_are_of_the_posteriors_draws(pair, given, block, tmp_path):
    idata = posterior(
        pair, table(), path=tmp_path / "p.nc", draws=6, prior_draws=0, given=given, block=block,
        counterfactual=DO, draws_for=[4, 2, 7, 1, 0],
    )  # fmt: skip
    found = idata["counterfactual"]
    assert found["x"].dims == ("chain", "draw", "intervention", "datum", "x_dim")
    assert found["x"].shape == (1, 6, 3, 5, 6) and found["k"].shape == (1, 6, 3, 5)
    assert set(found.data_vars) == {"a", "b", "c", "k", "x"}
    assert list(found["intervention"].values) == list(DO)
    order = np.array([4, 2, 7, 1, 0])
    assert list(found["datum"].values) == list(order + 20)
    known = {n: v.numpy()[order] for n, v in rows(torch.float32, 9).items()}
    ab, ac, bc = pair.slopes.detach().numpy()
    z = idata["posterior"]["z"].values[0]
    k = known["k"] if "k" in given else idata["posterior"]["k"].values[0]
    for place, values in enumerate(DO.values()):
        here = {name: found[name].values[0, :, place] for name in found.data_vars}
        a = np.full_like(known["a"], values["a"]) if "a" in values else known["a"]
        b = known["b"] + ab * (a - known["a"]) if "b" not in values else np.full_like(a, 0.5)
        c = known["c"] + ac * (a - known["a"]) + bc * (b - known["b"])
        for name, wanted in {"a": a, "b": b, "c": c}.items():
            assert_allclose(here[name], np.broadcast_to(wanted, here[name].shape), atol=2e-5)
        decoded = _decoded(pair, b, c, here["k"], z) - _decoded(pair, known["b"], known["c"], k, z)
        assert_allclose(here["x"], known["x"] + decoded, atol=1e-4)
    assert (found["k"].values[:, :, 1] == 2).all()
    told = found.attrs
    assert json.loads(told["do"]) == DO
    assert json.loads(told["graph"])["c"] == ["a", "b"]
    kinds = {"a": "Normal", "c": "Normal through Affine", "k": "Categorical"}
    assert kinds.items() <= json.loads(told["mechanisms"]).items()
    assert idata.attrs["counterfactual_draws"] == 6


def _decoded(pair, b, c, k, z):
    parts = (
        torch.as_tensor(np.broadcast_to(v, (len(z), *np.shape(v)[-2:])).copy()) for v in (b, c)
    )
    k = torch.as_tensor(np.broadcast_to(k, z.shape[:2]).copy())
    with torch.no_grad():
        return pair.decoded(*parts, k, torch.as_tensor(z.copy())).numpy()


def test_the_rest_is_the_same_without_them(pair, tmp_path):
    plain = posterior(pair, table(), draws=4, prior_draws=3)
    more = posterior(pair, table(), draws=4, prior_draws=3, counterfactual=DO)
    for group in ("posterior", "posterior_predictive", "prior", "diagnostics"):
        for name in plain[group].data_vars:
            assert np.array_equal(plain[group][name], more[group][name], equal_nan=True)
    assert more["counterfactual"].attrs["do"] == json.dumps(DO)
    path = tmp_path / "two.nc"
    both = posterior([pair, pair], table(), path=path, draws=4, prior_draws=0, counterfactual=DO)
    again = load(path)["counterfactual"]
    assert again["x"].shape == (2, 4, 3, 9, 6)
    assert np.array_equal(again["x"][0], more["counterfactual"]["x"][0])
    assert np.array_equal(both["counterfactual"]["x"], again["x"])


def test_elements_and_gaps():
    pair = inner_plates.built(torch.float32, labels=True)
    idata = posterior(
        pair, inner_plates.table(), draws=5, prior_draws=0, counterfactual={"c": {"c": 2.0}}
    )
    found, drawn = idata["counterfactual"], idata["posterior"]
    assert found["z"].dims == ("chain", "draw", "intervention", "datum", "element")
    there = np.arange(4) < np.array(inner_plates.SIZES)[:, None]
    assert (np.isnan(found["z"].values) == ~there).all()
    shift = inner_plates.SLOPE * (2.0 - drawn["c"].values)[..., None]
    assert_allclose(found["z"].values[:, :, 0], drawn["z"].values + shift, atol=1e-5)
    x = inner_plates.rows(torch.float32)["x"].numpy() + shift
    assert_allclose(found["x"].values[:, :, 0][..., there], x[..., there], atol=1e-5)


def test_what_all_rows_share():
    pair, rows = shared(5)
    do = {"w": {"w": [0.5, -1.0]}, "z": {"z": 0.0}}
    idata = posterior(pair, rows, draws=4, prior_draws=0, block=2, counterfactual=do)
    found, drawn = idata["counterfactual"]["x"].values[0], idata["posterior"]
    x, w = rows.sites["x"].numpy(), drawn["w"].values[0]
    z = drawn["z"].values[0].reshape(4, 5, 1) * pair.a.detach().numpy()
    assert_allclose(found[:, 0], x + (np.array([0.5, -1.0]) - w)[:, None], atol=1e-6)
    assert_allclose(found[:, 1], x - z, atol=1e-6)


ALL = "expected one value for all rows"
HELD = "expected a number, the name of a class or a list of numbers, which a file can hold"
NAMED = "expected a name with values of sites, such as {'thin': {'thickness': 1.5}}"


@pytest.mark.parametrize(
    ("do", "words"),
    [
        ({"q": 1}, ": unknown site 'q': expected one of a, b, c, k, x, z"),
        ({"k": "three"}, ": site 'k': unknown class 'three'"),
        ({"k": 3}, ": site 'k' is set to 3, expected one of its 3 classes 0, 1, 2"),
        (
            {"a": [1.0, 2.0]},
            ": the value for site 'a' has shape (2,), expected one that broadcasts",
        ),
        ({"k": [1, 2]}, f": the value for site 'k' has shape (2,), {ALL}"),
        ({"a": abs}, f": site 'a' is set to <built-in function abs>, {HELD}"),
        ({"a": dist.Normal(0, 1)}, ": site 'a' is set to Normal"),
        ({}, f" is {{}}, {NAMED}"),
        (3, f" is 3, {NAMED}"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(pair, do, words, tmp_path):
    path = tmp_path / "p.nc"
    with pytest.raises(ValueError, match=re.escape(f"counterfactual 'thin'{words}")) as error:
        posterior(pair, table(), path=path, draws=2, counterfactual={"thin": do})
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
