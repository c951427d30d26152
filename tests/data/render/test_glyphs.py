"""Glyphs: what the parts look like, how often they are there, and which labels are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ppl_models import data
from ppl_models.data.render.glyphs import PARTS, pictures


def test_parts_stand_where_they_should():
    full = pictures(np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0, 0, 0]]))
    bar, blob, square, nothing = full
    assert (bar[:, 2:5] == 1).all() and bar.sum() == 16 * 3
    assert blob[4, 11] == 1 and blob.argmax() == 4 * 16 + 11
    assert blob[4, 13] == pytest.approx(np.exp(-4 / 6)) == blob[6, 11]
    assert (square[9:16, 8:15] == 0.8).all() and square.sum() == pytest.approx(0.8 * 49)
    assert not nothing.any()
    together = pictures(np.array([[1.0, 1.0, 1.0]]))[0]
    assert_close(together, bar + blob + square)


def test_parts_grow_with_their_degree():
    degree = np.array([0.35, 0.5, 0.8])
    some = pictures(np.stack([degree] * 3, -1))
    bar = some[:, :, 3] >= 1
    assert bar[:, -1].all() and bar.sum(1).tolist() == [int(16 * c) for c in degree]
    assert some[:, 4, 11] == pytest.approx(degree)
    sides = [2 * int(4 * c - 0.5) + 1 for c in degree]  # 1, 3, 5 pixels
    assert np.isclose(some[:, 12], 0.8, atol=1e-3)[:, 7:].sum(1).tolist() == sides == [1, 3, 5]


def test_degrees_are_uniform_where_the_part_is_there_and_labels_independent():
    glyphs = data.load("glyphs", train=8_000, noise=0.0, labelled=None)
    sites = glyphs.train.sites
    there = torch.stack([sites[name] for name in PARTS], -1).double()
    for k, name in enumerate(PARTS):
        degree = sites[f"{name}_degree"][:]
        assert not degree[there[:, k] == 0].any()
        seen = degree[there[:, k] == 1]
        assert seen.min() >= 0.35 and seen.max() <= 1
        # Of about 4,000 values: standard errors are 0.003 and 0.0015.
        assert abs(seen.mean() - 0.675) < 0.012 and abs(seen.std() - 0.65 / 12**0.5) < 0.006
    correlation = torch.corrcoef(there.T) - torch.eye(3)
    assert abs(there.mean(0) - 0.5).max() < 0.023 and correlation.abs().max() < 0.045
    degrees = np.stack([sites[f"{name}_degree"][:] for name in PARTS], -1)
    assert_close(sites["x"].numpy(), pictures(degrees).reshape(-1, 256).astype(np.float32))


def test_noise_is_as_asked():
    options = {"train": 200, "labelled": None}
    noisy, clean = (data.load("glyphs", noise=n, **options).train.sites["x"] for n in (0.05, 0.0))
    assert float((noisy - clean).std()) == pytest.approx(0.05, abs=0.001)


def test_labels_are_known_by_row_or_each_for_itself():
    few, more = (data.load("glyphs", labelled=n).train for n in (50, 400))
    assert more.counts["bar"] == more.counts["square"] == 400
    for name in PARTS:
        assert torch.equal(more.observed[name], more.observed["bar"])
        assert not (few.observed[name] & ~more.observed[name]).any()
    own = data.load("glyphs", labelled={"bar": 40, "blob": 60})
    assert {name: own.train.counts[name] for name in PARTS} == {
        "bar": 40, "blob": 60, "square": 4000,
    }  # fmt: skip
    assert not torch.equal(own.train.observed["bar"], own.train.observed["blob"])
    assert data.remake(own.recipe).recipe["digest"] == own.recipe["digest"]
    assert not own.test.observed
    assert own.train.shapes["x"] == (16, 16) and own.roles["bar_degree"] == "factor"


def test_what_cannot_be_made_is_an_error_that_names_it():
    for options, message in (
        ({"noise": -1}, "noise is -1, expected >= 0"),
        ({"labelled": 0}, "labelled is 0, expected 1 to 4000"),
        ({"labelled": {"face": 3}}, "unknown label site 'face'"),
    ):
        with pytest.raises(ValueError, match=message):
            data.load("glyphs", **options)
