"""Sources, segments and their mixing are what the options say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from worlds.render import arrays

from ppl_models import data
from ppl_models.data.render import ica_segments

ROWS = 4000  # of each of two segments


def world(seed=0, network_seed=0, **options):
    usual = {
        "sources": 2, "segments": 2, "family": "gaussian", "scale": (0.5, 3.0), "offset": 0.0,
        "layers": 3, "reach": 1.0, "percentile": 25.0,
    }  # fmt: skip
    return ica_segments.world_of(seed, network_seed, **{**usual, **options})


@pytest.mark.parametrize(("family", "excess"), [("gaussian", 0.0), ("laplace", 3.0)])
def test_each_segment_has_its_means_and_deviations(family, excess):
    options = {"sources": 2, "segments": 2, "family": family, "scale": (0.3, 1.0), "offset": 5.0}
    d = data.load("ica_segments", train=2 * ROWS, validation=2, test=2, **options)
    own, w = arrays(d.train), world(**options)
    for segment in range(2):
        s = own["s"][own["y"] == segment].astype(float)
        assert len(s) == ROWS
        mean, deviation = w.mean[segment], w.deviation[segment]
        assert (abs(mean) <= 5).all() and (deviation >= 0.3).all() and (deviation <= 1).all()
        assert (abs(s.mean(0) - mean) <= 4 * deviation / math.sqrt(ROWS)).all()
        # The error of a deviation is sqrt((kurtosis - 1) / 4 N) of it.
        error = math.sqrt((2 + excess) / 4 / ROWS)
        assert (abs(s.std(0) / deviation - 1) <= 4 * error).all()
        unit = (s - s.mean(0)) / s.std(0)
        assert (abs((unit**4).mean(0) - 3 - excess) < 1.2).all()  # 8 seeds: at most 0.7 off
        assert abs(np.corrcoef(s.T)[0, 1]) < 4 / math.sqrt(ROWS)


@pytest.mark.parametrize(("layers", "reach"), [(1, 1.0), (2, 3.0), (4, 0.5)])
def test_what_is_seen_is_the_sources_through_the_layers_and_can_be_inverted(layers, reach):
    options = {"layers": layers, "reach": reach, "percentile": 50.0}
    w = world(**options)
    d = data.load("ica_segments", train=50, validation=2, test=2, sources=2, segments=2, **options)
    own = arrays(d.train)
    value = own["s"].astype(float)
    for _ in range(layers - 1):
        value = value @ w.matrix
        value = reach * np.tanh(value / reach) + 0.1 * value
    np.testing.assert_allclose(own["x"] * w.spread + w.centre, value @ w.matrix, atol=1e-5)
    back = (own["x"] * w.spread + w.centre) @ np.linalg.inv(w.matrix)
    for _ in range(layers - 1):
        low, high = np.full_like(back, -1e3), np.full_like(back, 1e3)
        for _ in range(60):  # the activation rises, so its inverse is found by halving
            middle = (low + high) / 2
            above = reach * np.tanh(middle / reach) + 0.1 * middle > back
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        back = (low + high) / 2 @ np.linalg.inv(w.matrix)
    np.testing.assert_allclose(back, own["s"], atol=1e-3)
    rows = np.concatenate([arrays(t)["x"] for t in (d.train, d.validation, d.test)])
    assert abs(rows.mean()) < 0.5 and 0.5 < rows.std() < 1.5


def test_mixing_is_well_conditioned_and_has_a_seed_of_its_own():
    numbers = [np.linalg.cond(ica_segments.mixing(3, p, 1)) for p in (5.0, 25.0, 100.0)]
    draws = np.random.default_rng(0).uniform(-1, 1, (20_000, 3, 3))
    draws /= np.linalg.norm(draws, axis=1, keepdims=True)
    for number, p in zip(numbers, (5.0, 25.0, 100.0), strict=True):
        assert number <= 1.1 * np.percentile(np.linalg.cond(draws), p)
    assert np.linalg.norm(ica_segments.mixing(3, 25.0, 1), axis=0) == pytest.approx([1] * 3)
    one, other = world(0, 7), world(1, 7)
    assert (one.matrix == other.matrix).all() and (one.deviation != other.deviation).all()
    assert (one.matrix != world(0, 8).matrix).all() and (one.mean == world(0, 8).mean).all()


def test_noise_is_added_to_what_is_seen():
    options = {"train": 8000, "validation": 2, "test": 2, "sources": 2, "segments": 2}
    clean, noised = (
        arrays(data.load("ica_segments", noise=n, **options).train) for n in (0.0, 0.3)
    )
    assert (clean["s"] == noised["s"]).all()
    added = (noised["x"] - clean["x"]).astype(float)
    assert abs(added.std() / 0.3 - 1) < 4 / math.sqrt(2 * added.size)
