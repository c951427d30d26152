"""Shapes with systematic errors: areas, parts, places and the trusted rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppl_models import data
from ppl_models.data.render.outliers import error_masks, templates

SIZES = {"train": 1600, "validation": 40, "test": 400}


@pytest.fixture(scope="module")
def outliers():
    return data.load("outliers", **SIZES)


def image(table, site):
    return table.sites[site].reshape(-1, 28, 28).bool().numpy()


def test_shapes_have_the_areas_of_their_geometry():
    rectangle, triangle, disk, ellipse = templates()
    assert rectangle.shape == (12, 6) and rectangle.all()
    # Pick's theorem, border included: area 111 + 8 / 2 + 1
    assert triangle.shape == (18, 16) and triangle.sum() == 116
    assert triangle[0, 3] and triangle[17, 0] and triangle[6, 15]
    # 1 + 4 sum_i floor(r^2 / (4i + 1)) - floor(r^2 / (4i + 3)), for r^2 just below 64
    gauss = 1 + 4 * sum(63 // (4 * i + 1) - 63 // (4 * i + 3) for i in range(16))
    assert disk.shape == (15, 15) and disk.sum() == gauss == 193
    assert abs(ellipse.sum() - np.pi * 40) < 8  # the border's pixels count by their centre
    assert (ellipse == ellipse.T).all() and (ellipse == ellipse[::-1, ::-1]).all()
    assert np.diag(ellipse).sum() > np.diag(ellipse[::-1]).sum()  # long from top left


def test_errors_stand_where_they_should():
    column, row, upper, lower = error_masks()
    assert column.sum() == row.sum() == 28 and column[:, 20].all() and row[15].all()
    assert upper[15, 0] and upper[0, 15] and upper[16, 0] and upper.sum() == 16 + 17
    assert lower[27, 11] and lower[11, 27] and lower[27, 12] and lower.sum() == 17 + 16


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_parts_are_equal_and_errors_are_set_by_a_logical_or(outliers, part):
    table = getattr(outliers, part)
    assert table.shapes["x"] == (28, 28)
    error = table.sites["error"].numpy()
    assert np.bincount(table.sites["shape"]).tolist() == [len(table) // 4] * 4
    counts = np.bincount(error, minlength=5)
    assert counts[1:].sum() == round(0.35 * len(table))
    assert counts[1:].max() - counts[1:].min() <= 1
    for k, mask in enumerate((np.zeros((28, 28), bool), *error_masks())):
        expected = image(table, "clean")[error == k] | mask
        assert (image(table, "x")[error == k] == expected).all()


def test_shapes_stand_anywhere_inside(outliers):
    clean, shape = image(outliers.train, "clean"), outliers.train.sites["shape"].numpy()
    for k, mask in enumerate(templates()):
        images = clean[shape == k]
        for axis in (0, 1):
            first = images.any(2 - axis).argmax(1)
            places = 28 - mask.shape[axis] + 1
            share = np.bincount(first, minlength=places) / len(images)
            assert len(share) == places
            error = np.sqrt((1 - 1 / places) / places / len(images))
            assert np.abs(share - 1 / places).max() < 4.5 * error
        for picture in images[:20]:
            box = picture[np.ix_(picture.any(1), picture.any(0))]
            assert box.shape == mask.shape and (box == mask).all()


def test_trusted_rows_are_nested_and_balanced(outliers):
    before = torch.zeros(SIZES["train"], dtype=torch.bool)
    for count in (5, 10, 25):
        table = data.load("outliers", **SIZES, labelled=8 * count).train
        assert torch.equal(table.sites["x"], outliers.train.sites["x"])
        mask = table.observed["y"]
        assert bool((mask | ~before).all()) and table.counts["y"] == 8 * count
        error, y = table.sites["error"][mask], table.sites["y"][mask]
        assert torch.equal(y, (error == 0).long())
        assert error.bincount().tolist() == [4 * count] + [count] * 4
        assert table.sites["shape"][mask][error == 0].bincount().tolist() == [count] * 4
        assert bool((table.sites["y"][~mask] == -1).all())
        before = mask
    assert "y" not in outliers.test.observed
    assert not data.load("outliers", **SIZES, labelled=None).train.observed


def test_all_comes_from_the_seed(outliers):
    again, other = (data.load("outliers", **SIZES, seed=s) for s in (0, 1))
    assert again.recipe == outliers.recipe
    assert data.remake(outliers.recipe).recipe["digest"] == outliers.recipe["digest"]
    assert other.recipe["digest"] != outliers.recipe["digest"]
    assert outliers.train.classes["y"] == ("outlier", "inlier")


def test_without_outliers_all_trusted_rows_are_inliers():
    table = data.load("outliers", **SIZES, dirty=0.0).train
    assert torch.equal(table.sites["x"], table.sites["clean"])
    assert bool((table.sites["y"][table.observed["y"]] == 1).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dirty": 1.5}, "dirty is 1.5, expected a number in 0..1"),
        ({"labelled": 0}, "labelled is 0, expected a multiple of 8"),
        ({"labelled": 82}, "labelled is 82, expected a multiple of 8, .* rectangle, .* lower"),
        ({"labelled": 1600}, "which asks for 200 rows of 'column', but there are 140"),
        ({"dirty": 0.0, "labelled": 6}, "expected a multiple of 4"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        data.load("outliers", **SIZES, **options)
