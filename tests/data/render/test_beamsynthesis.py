"""Beamsynthesis: signals by their formula, one sample at a time."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ppl_models import data

FACTORS = data.factor_data("beamsynthesis")


def by_hand(frequency: float, duty: float, t: int) -> float:
    """The pulses about a point 3 earlier, rounded, under the rise."""
    late = t - 3
    if late < 0:
        return 0.0
    window = [0.5 - 0.5 * math.cos(2 * math.pi * k / 6) for k in range(7)]
    value = 0.0
    for place, weight in enumerate(window):
        at = late + place - 3
        on = 0 <= at < 800 and math.fmod(at, 1000 / frequency) < duty * 1000 / frequency
        value += weight / sum(window) * on
    corners = [(0, 0), (50, 0.03), (100, 0.25), (200, 0.72), (280, 0.95), (400, 1), (1000, 1)]
    for (a, low), (b, high) in itertools.pairwise(corners):
        if a <= late <= b:
            return value * (low + (high - low) * (late - a) / (b - a))
    raise AssertionError


def test_a_signal_is_pulses_under_a_rise():
    cells = [(0, 0), (0, 119), (1, 40), (2, 77)]
    x = FACTORS.render(np.array(cells), np.random.default_rng(0))
    assert x.shape == (4, 1, 1000) and x.dtype == np.float32
    for (frequency, duty), signal in zip(cells, x[:, 0], strict=True):
        hand = [by_hand(10 + 5 * frequency, 0.2 + 0.005 * duty, t) for t in range(1000)]
        assert signal == pytest.approx(np.array(hand), abs=1e-6)


def test_the_grid_is_the_published_one():
    assert FACTORS.factor_names == ("frequency", "duty") and FACTORS.factor_sizes == (3, 120)
    assert FACTORS.values["frequency"] == (10, 15, 20)
    assert FACTORS.values["duty"][:2] == (0.2, 0.205) and FACTORS.values["duty"][-1] == 0.795
    x = FACTORS.render(FACTORS.classes(np.arange(360)), np.random.default_rng(0))
    # The published signals have 0.318 and 0.4168.
    assert (x.mean(), x.std()) == pytest.approx((0.313, 0.4275), abs=5e-4)
    # A pulse is a whole number of points long, so that some duties are alike.
    assert len(np.unique(x.reshape(360, -1), axis=0)) == 212
    d = data.load("beamsynthesis")
    assert (len(d.train), len(d.validation), len(d.test)) == (252, 36, 72)
    assert d.train.shapes == {"x": (1, 1000)}
    every = data.load("beamsynthesis", train=360, validation=0, test=0)
    assert every.test.sites["x"].shape == (0, 1000)
