"""Shapes of weights, all rows at once, against ArviZ one by one."""

from __future__ import annotations

import warnings

import arviz as az
import numpy as np
import pytest
from worlds.log_weights import normal_weights

from ppl_models.inference.posterior import pareto
from ppl_models.inference.posterior.pareto import khat, smoothed

pytestmark = pytest.mark.skipif(
    not hasattr(az, "psislw"),
    reason="ArviZ 1 rounds the length of the tail down: its PSIS is another one",
)
ROWS = 60


def arviz(weights: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return az.psislw(weights.T)[1]


def with_zeros(g, shape, share):
    return np.where(g.random(shape) < share, -np.inf, g.normal(size=shape))


SHAPES = {
    "light": lambda g, shape: g.normal(size=shape),
    "heavy": lambda g, shape: g.exponential(size=shape) * 2,
    "very heavy": lambda g, shape: g.standard_cauchy(size=shape),
    "bounded": lambda g, shape: -g.exponential(size=shape),
    "far from zero": lambda g, shape: g.normal(size=shape) - 1e4,
    "hardly different": lambda g, shape: 1e-4 * g.normal(size=shape),
    "some ties": lambda g, shape: np.round(g.normal(size=shape), 1),
    "many ties": lambda g, shape: np.round(2 * g.normal(size=shape), 0),
    "weightless draws": lambda g, shape: with_zeros(g, shape, 0.3),
    "mostly weightless": lambda g, shape: with_zeros(g, shape, 0.9),
    "almost all in one": lambda g, shape: 60 * g.normal(size=shape),
    "single precision": lambda g, shape: g.normal(size=shape).astype(np.float32),
}


@pytest.mark.parametrize("draws", [25, 99, 200, 1000])
@pytest.mark.parametrize("kind", SHAPES)
def test_khat_is_arvizs_row_by_row(kind, draws):
    weights = SHAPES[kind](np.random.default_rng(draws), (draws, ROWS))
    found, expected = khat(weights), arviz(weights.astype(np.float64))
    # Where the largest weights are all equal there is no tail: ours is then -inf.
    tail = np.sort(weights.astype(np.float64), axis=0)[
        -int(np.ceil(min(draws / 5, 3 * draws**0.5))) - 1 :
    ]
    with np.errstate(invalid="ignore"):
        flat = tail[-1] - tail[0] < pareto.CONSTANT
    assert np.isneginf(found[flat]).all()
    assert np.array_equal(np.isinf(found[~flat]), np.isinf(expected[~flat]))
    fitted = np.isfinite(expected)
    assert fitted.mean() > {"many ties": 0, "very heavy": 0.1, "mostly weightless": 0}.get(
        kind, 0.5
    )
    np.testing.assert_allclose(found[fitted], expected[fitted], rtol=0, atol=1e-9)


@pytest.mark.parametrize("draws", [20, 99, 1000])
@pytest.mark.parametrize("kind", SHAPES)
def test_smoothed_weights_are_arvizs(kind, draws):
    weights = SHAPES[kind](np.random.default_rng(draws), (draws, ROWS)).astype(np.float64)
    found, shapes = smoothed(weights)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        expected = az.psislw(weights.T)[0].T
    some = ~np.isneginf(weights).all(0)  # all weights zero: nothing to normalise
    found, expected = found[:, some], expected[:, some]
    np.testing.assert_allclose(np.exp(found).sum(0), 1, rtol=1e-12)
    np.testing.assert_array_equal(shapes, khat(weights))
    if draws < pareto.LEAST_DRAWS:
        assert np.isnan(shapes).all()  # and the weights are only normalised
    # Draws that are equal may take each other's place in the tail.
    np.testing.assert_allclose(np.sort(found, 0), np.sort(expected, 0), rtol=0, atol=1e-9)
    if kind not in ("some ties", "many ties"):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_rows_do_not_depend_on_their_neighbours(monkeypatch):
    g = np.random.default_rng(0)
    weights = np.concatenate([make(g, (200, 5)) for make in SHAPES.values()], 1)
    whole = khat(weights)
    monkeypatch.setattr(pareto, "FIT_CELLS", 4000)  # two rows at a time
    np.testing.assert_array_equal(khat(weights), whole)
    alone = [khat(weights[:, [row]])[0] for row in range(weights.shape[1])]
    np.testing.assert_allclose(alone, whole, rtol=1e-12)


def test_khat_tells_a_narrow_guide():
    """The table of Gaussian guides in ten dimensions: 0.3, 0.7 and 1 at S = 500."""
    for scale, median in ((0.9, 0.26), (0.7, 0.70), (0.5, 0.98)):
        assert np.median(khat(normal_weights(scale, 500))) == pytest.approx(median, abs=0.1)


def test_khat_of_weights_that_arviz_gets_wrong():
    g = np.random.default_rng(0)
    weights = np.tile(g.normal(size=(100, 1)), 7)
    weights[:, 0] = -3.0
    weights[:, 1] = -3.0 + 1e-9 * weights[:, 6]
    weights[:, 2] = np.where(np.arange(100) < 60, 2.0, weights[:, 6] - 10)
    weights[4, 3] = np.nan
    weights[4, 4] = np.inf
    weights[4, 5] = -np.inf
    shapes = khat(weights)
    assert np.isneginf(shapes[:3]).all()
    assert np.isposinf(shapes[3:5]).all()
    # A draw without weight is one draw less in the sum, and none in the tail.
    np.testing.assert_allclose(shapes[6], az.psislw(weights[:, 6])[1])
    assert shapes[5] == pytest.approx(shapes[6], abs=0.05)
    assert np.isposinf(khat(np.full((100, 1), -np.inf))).all()
    assert np.isnan(khat(weights[:24])).all()


def test_a_tail_wider_than_floats_has_no_shape():
    # The quartile of the tail is e^-708: its inverse is no float, and ArviZ says 1/3.
    tail = np.r_[-708.0, -520.0, -450.0, -430.0, 0.0]
    weights = np.r_[np.full(95, -2000.0), tail][:, None]
    assert arviz(weights)[0] == pytest.approx(1 / 3)
    assert np.isposinf(khat(weights)[0])
