"""The picture of influences: each line is a row, then those with the strongest influence on it."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch
import xarray as xr

from ppl_models.data import Table
from ppl_models.inference import plots

matplotlib.use("Agg")


def tables():
    """Images of one grey each: that of training row i is (i + 1) / 20."""
    grey = (torch.arange(9) + 1) / 20
    train = Table("train", {"x": grey[:, None].expand(9, 6).clone()}, numbers=torch.arange(9) * 2,
                  shapes={"x": (2, 3)})  # fmt: skip
    test = Table("test", {"x": torch.full((3, 6), 0.9)}, numbers=torch.tensor([1, 3, 5]))
    order = np.random.default_rng(0).permuted(np.tile(np.arange(9.0), (3, 1)), axis=1)
    found = xr.Dataset(
        {"influence": (("test", "train"), order)},
        {"test": test.numbers.numpy(), "train": train.numbers.numpy()},
    )
    return found, train, test, order


def test_images_are_the_strongest_proponents_and_opponents():
    found, train, test, order = tables()
    figure, ax = matplotlib.pyplot.subplots()
    assert plots.influence_tops(found, train, test, rows=[2, 0], count=2, ax=ax) is ax
    (page,) = ax.get_images()
    # Lines of 2 + 1 pixels and columns of 3 + 1, behind one of the gap.
    shown = np.asarray(page.get_array())[1::3, 1::4, 0][:2] / 255
    assert shown.shape == (2, 7)
    for line, row in zip(shown, (2, 0), strict=True):
        strongest = (-order[row]).argsort()
        wanted = [0.9, *(strongest[:2] + 1) / 20, *(strongest[-2:] + 1) / 20]
        np.testing.assert_allclose(line[[0, 2, 3, 5, 6]], wanted, atol=1 / 255)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["5", "1"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["row", "proponents", "opponents"]
    matplotlib.pyplot.close(figure)


def test_tables_that_are_not_those_of_the_influences_are_refused():
    found, train, test, _ = tables()
    for message, call in {
        "train has other rows than the train rows": lambda: plots.influence_tops(
            found, train.rows(range(8)), test
        ),
        "train has other rows than the test rows": lambda: plots.influence_tops(
            found, train, train
        ),
        "unknown site of images 'y'": lambda: plots.influence_tops(found, train, test, "y"),
        "count is 5, but train has 9 rows": lambda: plots.influence_tops(
            found, train, test, count=5
        ),
        "row 3 is not in test": lambda: plots.influence_tops(
            found, train, test, rows=[3], count=1
        ),
        "no rows chosen of test": lambda: plots.influence_tops(
            found, train, test, rows=[], count=1
        ),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
