"""XYSquares and its family, and blob: exact pictures."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from ppl_models import data
from ppl_models.data.catalogue import factor_data


def rng(seed=0):
    return np.random.default_rng(seed)


def test_each_channel_has_one_square_in_its_corner():
    squares = factor_data("xysquares")
    assert len(squares) == 262_144
    classes = squares.sample(40, rng())
    x = squares.render(classes, rng())
    expected = np.zeros((40, 64, 64, 3), dtype=bool)
    for row, (xr, yr, xg, yg, xb, yb) in enumerate(classes):
        for channel, (column, line) in enumerate(((xr, yr), (xg, yg), (xb, yb))):
            top, left = 8 * line, 8 * column
            expected[row, top : top + 8, left : left + 8, channel] = True
    assert (x == expected).all()


def test_published_moments():
    squares = factor_data("xysquares")
    x = squares.render(squares.sample(200, rng()), rng()).reshape(-1, 4096, 3)
    assert (x.mean(1) == 0.015625).all()
    assert x.std(1, ddof=1) == pytest.approx(0.1240347, abs=1e-6)
    assert (255 * x.astype(int).sum((1, 2)) == 3 * 64 * 255).all()


@pytest.mark.parametrize("spacing", range(1, 9))
def test_the_grid_is_in_the_middle(spacing):
    squares = factor_data("xysquares", spacing=spacing)
    offset = (64 - (8 + 7 * spacing)) // 2
    ends = squares.render(np.array([[0] * 6, [7] * 6]), rng())
    for image, first in zip(ends, (offset, offset + 7 * spacing), strict=True):
        assert np.flatnonzero(image.any((1, 2))).tolist() == list(range(first, first + 8))
    assert squares.values["x_red"] == tuple(offset + spacing * p for p in range(8))


@pytest.mark.parametrize(
    ("spacing", "published"),
    [
        (8, [0] + [128] * 7),
        (4, [0, 64] + [128] * 6),
        (2, [0, 32, 64, 96] + [128] * 4),
        (1, [0, 16, 32, 48, 64, 80, 96, 112]),
    ],
)
def test_published_distances_along_one_factor(spacing, published):
    squares = factor_data("xysquares", spacing=spacing)
    classes = np.tile([0, 3, 1, 2, 5, 7], (8, 1))
    classes[:, 0] = np.arange(8)
    x = squares.render(classes, rng()).astype(int)
    assert ((x - x[0]) ** 2).sum((1, 2, 3)).tolist() == published


def test_published_distances_under_the_blurred_loss():
    # K e for a box of 63 x 63 of sum 1, zero padding, as two matrix products; weight 63^2
    place = np.arange(64)
    box = (np.abs(place[:, None] - place) <= 31) / 63
    classes = np.zeros((8, 6), dtype=int)
    classes[:, 0] = np.arange(8)
    x = factor_data("xysquares").render(classes, rng())[..., 0].astype(float)
    distance = 3969 * ((box @ (x - x[0]) @ box) ** 2).sum((1, 2))
    published = [0, 323, 803, 1284, 1824, 2304, 2785, 3265]
    # published for a square somewhere along y; the growth is what counts
    assert distance[1:] / distance[-1] == pytest.approx(np.array(published[1:]) / 3265, abs=0.02)


@pytest.mark.parametrize(("spacing", "published"), [(8, 0.26), (4, 0.46), (1, 0.97)])
def test_published_rank_correlations(spacing, published):
    squares = factor_data("xysquares", spacing=spacing)
    a, b = squares.sample(1500, rng(1)), squares.sample(1500, rng(2))
    images = (squares.render(c, rng()).reshape(1500, -1).astype(np.int8) for c in (a, b))
    perceived = np.abs(next(images) - next(images)).sum(1, dtype=int)
    found = spearmanr(np.abs(a - b).sum(1), perceived)[0]
    # the published value is of 400 pairs
    assert found == pytest.approx(published, abs=3 * (1 - published**2) / 20)


def test_one_square():
    one = factor_data("xysquare", spacing=4)
    three = factor_data("xysquares", spacing=4)
    classes = one.classes(np.arange(64))
    x = one.render(classes, rng())
    assert (x == three.render(np.tile(classes, 3), rng())[..., 0]).all()
    assert len(np.unique(x.reshape(64, -1), axis=0)) == 64


def test_objects_have_their_colour_and_size():
    objects = factor_data("xyobject")
    assert objects.factor_sizes == (4, 5, 25, 25)
    classes = objects.sample(200, rng())
    x = objects.render(classes, rng())
    width = np.array(objects.values["size"])[classes[:, 1]]
    assert (x.any(3).sum((1, 2)) == width**2).all()
    lit = x.any((1, 2))
    expected = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], bool)
    assert (lit == expected[classes[:, 0]]).all()
    rows = (x.any((2, 3)) * (np.arange(64) + 0.5)).sum(1) / width
    assert (rows == 2 * classes[:, 3] + 7.5).all()  # size moves no centre


def test_blob_is_the_published_formula():
    blob = factor_data("blob")
    x = blob.render(blob.classes(np.arange(576)), rng())
    for index in (0, 100, 575):
        c1, c2 = index // 24 / 23, index % 24 / 23
        for row, column in ((0, 0), (3, 12), (15, 7)):
            square = (column - 3 - 9 * c1) ** 2 + (row - 3 - 9 * c2) ** 2
            assert x[index, row, column] == pytest.approx(np.exp(-square / 4.5), rel=1e-5)


@pytest.mark.parametrize("spacing", [0, 9])
def test_spacing_out_of_range(spacing):
    with pytest.raises(ValueError, match=f"spacing is {spacing}, expected 1 to 8"):
        data.load("xysquares", spacing=spacing)
