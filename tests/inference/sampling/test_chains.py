"""Chains: where they begin, what they tell, and the same numbers in processes of their own."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from worlds.shared_sites import shared

from ppl_models import inference
from ppl_models.batch import Batch
from ppl_models.inference.posterior.target import target
from ppl_models.inference.sampling.starts import beginning, start

SHORT = {"draws": 6, "warmup": 4, "chains": 2, "seed": 4, "progress": False}


def same(one, other):
    for group in ("posterior", "sample_stats", "log_likelihood"):
        for name, values in one[group].data_vars.items():
            np.testing.assert_array_equal(values, other[group][name], err_msg=name)


def test_a_pair_that_cannot_be_sent_is_sampled_here_and_said(caplog):
    pair, rows = shared(3)
    plain = inference.nuts(pair, rows, max_tree_depth=2, **SHORT)
    assert plain.sample_stats["tree_depth"].max() <= 2 and plain.sample_stats["n_steps"].max() <= 3
    pair.odd = (entry for entry in "a")
    with caplog.at_level(logging.WARNING, "ppl_models"):
        here = inference.nuts(pair, rows, max_tree_depth=2, processes=2, **SHORT)
    assert "shared cannot be sent to another process" in caplog.text
    same(plain, here)


@pytest.mark.long
def test_chains_in_processes_have_the_same_numbers():
    pair, rows = shared(4)
    one, other = (inference.nuts(pair, rows, processes=n, **SHORT) for n in (1, 2))
    same(one, other)


def test_hmc_tells_its_steps():
    pair, rows = shared(3)
    stats = inference.hmc(pair, rows, trajectory=1.0, target_accept=0.6, **SHORT).sample_stats
    steps = np.maximum(1, (1.0 / stats["step_size"].values).astype(int))
    np.testing.assert_array_equal(stats["n_steps"], steps)
    assert "tree_depth" not in stats


def begun(init, seed=0):
    pair, rows = shared(5)
    found = target(pair, Batch({"x": rows.sites["x"]}))
    begin = beginning(found, init)
    torch.manual_seed(seed)
    return pair, rows, found, found.constrained(start(found, begin))


def test_chains_begin_where_they_are_told():
    rows = torch.arange(5.0, dtype=torch.float64)[:, None]
    _, _, _, values = begun({"z": rows, "w": 1.5})
    torch.testing.assert_close(values["z"], rows, rtol=0, atol=1e-12)
    assert values["w"].tolist() == [1.5, 1.5]
    _, _, _, values = begun({"w": [3.0, 4.0]})
    assert values["w"].tolist() == [3.0, 4.0] and bool((values["z"].abs() <= 2).all())
    # Of the guide: rows by their own factor, at the draw of w, another one for each seed.
    pair, _, found, first = begun("guide")
    with torch.no_grad():
        for name, factor in pair.guide.locals_.factors.items():
            factor.net.first.bias.fill_(-60.0 if name == "z" else 0.0)  # next to no spread
    values = found.constrained(start(found, "guide"))
    assert float(values["z"].mean()) < -50 < float(first["z"].min())
    assert not torch.equal(begun("guide", 1)[3]["w"], first["w"])
    many = torch.stack([start(found, "prior")["w"] for _ in range(40)])
    assert 1.3 < float(many.std()) < 2.7  # w ~ N(0, 2^2): 4.4 standard errors of 80 numbers


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"init": "gui"}, "init is 'gui', expected one of uniform, guide, prior, or values"),
        ({"init": {"y": 0}}, "unknown site of init 'y': expected one of w, z"),
        ({"init": {"z": [1.0, 2.0]}}, r"'z' has the shape \(2,\), .* fit \(3, 1\), rows first"),
        ({"init": {"w": float("inf")}}, "'w' is outside its support, expected finite numbers"),
        ({"target_accept": 1}, "target_accept is 1, expected a number between 0 and 1"),
        ({"max_tree_depth": 0}, "max_tree_depth is 0, expected at least 1"),
        ({"processes": 0}, "processes is 0, expected at least 1"),
    ],
)
def test_bad_options_are_one_line(options, words):
    pair, rows = shared(3)
    with pytest.raises(ValueError, match=words) as caught:
        inference.nuts(pair, rows, **{**SHORT, **options})
    assert "\n" not in str(caught.value)


def test_a_guide_that_lacks_a_site_is_no_start():
    pair, rows = shared(3)
    pair.guide = pair.guide.globals_
    with pytest.raises(ValueError, match="guide of shared does not sample site 'z'; expected 'un"):
        inference.nuts(pair, rows, init="guide", **SHORT)
