"""Morpho-MNIST: the causal model, and strokes that have the thickness they were given."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import logit

from ppl_models import data
from ppl_models.data.readers import mnist
from ppl_models.data.render.morpho import causes, edit, measure

FOLDER = Path(os.environ.get("PPL_DATA", "nowhere")) / "mnist"
has_mnist = all(mnist._file(FOLDER, name) for name in mnist.MD5)
SOURCES = [
    pytest.param("mnist", marks=pytest.mark.skipif(not has_mnist, reason="no MNIST here")),
    "digits",
]


def test_published_moments():
    t, i = causes(200_000, np.random.default_rng(0))
    # the published csv's figures are of 60,000 rows
    assert np.corrcoef(t, i)[0, 1] == pytest.approx(0.908, abs=0.003)
    assert t.mean() == pytest.approx(2.503, abs=4 * (10 / 25) ** 0.5 / 60_000**0.5)
    assert i.mean() == pytest.approx(158.0, abs=4 * 48.4 / 60_000**0.5)
    assert i.std() == pytest.approx(48.4, abs=0.5)
    noise = (logit((i - 64) / 191) - 2 * (t - 2.5)) / 0.5
    assert noise.mean() == pytest.approx(0, abs=4 / 200_000**0.5)
    assert noise.std() == pytest.approx(1, abs=0.01)
    assert abs(np.corrcoef(noise, t)[0, 1]) < 4 / 200_000**0.5


@pytest.fixture(scope="module", params=SOURCES)
def drawn(request):
    return data.load("morpho_mnist", train=250, validation=20, test=30, source=request.param)


def grey(table):
    return np.rint(255 * table.sites["x"].numpy()).astype(np.uint8).reshape(-1, 28, 28)


def test_strokes_are_as_thick_as_asked(drawn):
    measured, target = measure(grey(drawn.train)), drawn.train.sites["thickness"].numpy()
    # published: 0.971 and 0.13 on 3,000 of MNIST
    assert np.corrcoef(measured, target)[0, 1] > 0.94
    assert np.abs(measured - target).mean() < 0.17


def test_bright_pixels_have_the_intensity(drawn):
    images, target = grey(drawn.train), drawn.train.sites["intensity"].numpy()
    median = np.array([np.median(x[x > x.max() / 2]) for x in images])
    # where the brightest pixels are cut at 255, half of the brightest moves
    assert np.mean(np.abs(median - target) < 1) > 0.9
    assert images.reshape(len(images), -1).max(1).min() >= 64


def test_labels_and_rows_are_those_of_the_source(drawn):
    digit = drawn.train.sites["y"]
    assert torch.bincount(digit, minlength=10).min() >= 5
    assert drawn.train.classes["y"] == tuple("0123456789")
    t, i = (drawn.train.sites[s].double().numpy() for s in ("thickness", "intensity"))
    noise = (logit((i - 64) / 191) - 2 * (t - 2.5)) / 0.5
    assert noise.mean() == pytest.approx(0, abs=4 / 250**0.5)
    assert noise.std() == pytest.approx(1, abs=4 / 500**0.5)


def test_a_bar_gets_thicker_and_thinner():
    bar = np.zeros((1, 28, 28), np.uint8)
    bar[0, 5:23, 12:16] = 255
    assert measure(bar)[0] == pytest.approx(4, abs=0.3)
    for wanted in (1.5, 2.5, 6.0):
        out = edit(bar, np.array([wanted]), np.array([200.0]))
        # both its edges are straight and move by whole sub-pixels, a quarter pixel each
        assert measure(out)[0] == pytest.approx(wanted, abs=0.5)
        assert (out[0, 13] > 100).sum() == pytest.approx(wanted, abs=1)
        assert out.max() == 200


def test_a_thin_stroke_does_not_vanish():
    hair = np.zeros((1, 28, 28), np.uint8)
    hair[0, 5:23, 14] = 255
    out = edit(hair, np.array([0.1]), np.array([180.0]))
    assert out[0, 8:20, 12:17].max(1).min() > 40


@pytest.mark.parametrize("degrees", [-20.0, 0.0, 15.0])
def test_strokes_lean_as_asked(degrees):
    bar = np.zeros((1, 28, 28), np.uint8)
    bar[0, 5:23, 12:16] = 255
    out = edit(bar, np.array([3.0]), np.array([200.0]), np.array([degrees]))[0].astype(float)
    rows = np.arange(8, 20)
    centres = (out[rows] * np.arange(28)).sum(1) / out[rows].sum(1)
    right_per_row_up = -np.polyfit(rows, centres, 1)[0]
    assert np.rad2deg(np.arctan(right_per_row_up)) == pytest.approx(degrees, abs=1.5)


def test_slant_follows_thickness():
    d = data.load("morpho_mnist", train=40, validation=5, test=5, slanted=True, source="digits")
    t, slant = (d.train.sites[s].numpy() for s in ("thickness", "slant"))
    assert np.abs(slant - 20 * (t - 2.5)).max() < 4
    plain = data.load("morpho_mnist", train=40, validation=5, test=5, source="digits")
    assert torch.equal(plain.train.sites["thickness"], d.train.sites["thickness"])
    assert "slant" not in plain.train.sites


def test_unknown_source():
    with pytest.raises(ValueError, match="unknown source 'minst': did you mean 'mnist'"):
        data.load("morpho_mnist", source="minst")
