"""Sets of different sizes as somebody has them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppl_models import data

SIZES = (2, 1, 3)
RAGGED = [np.arange(2.0 * n).reshape(n, 2) + 10 * n for n in SIZES]


@pytest.mark.parametrize("kind", [list, tuple, "objects", "tensors", "lists"])
def test_lists_of_sets_are_padded(kind: Any) -> None:
    if kind == "objects":
        given: Any = np.empty(3, object)
        given[:] = RAGGED
    elif kind == "tensors":
        given = [torch.tensor(row) for row in RAGGED]
    else:
        given = [row.tolist() for row in RAGGED] if kind == "lists" else kind(RAGGED)
    table = data.from_arrays(x=given, splits=None).test
    there = table.sites["x_there"][:]
    assert there.tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    x = table.sites["x"][:]
    assert x.shape == (3, 3, 2) and x.dtype == torch.float32 and table.sizes["x"] == 2
    for row, size in enumerate(SIZES):
        np.testing.assert_array_equal(x[row, :size].numpy(), RAGGED[row])
        assert torch.equal(x[row, size:], x[row, :1].expand(3 - size, 2))


def test_numbers_a_set_and_splits() -> None:
    """Elements that are one number each; rows stay together in every part."""
    rows = [[float(row)] * (1 + row % 4) for row in range(40)]
    found = data.from_arrays(x=rows, y=[row % 2 for row in range(40)], seed=3)
    for part in (found.train, found.validation, found.test):
        assert part.sites["x"].shape[1:] == (4,)
        sizes = part.sites["x_there"][:].sum(1)
        assert (part.sites["x"][:, 0] % 4 + 1 == sizes).all()
        assert (part.sites["y"] == part.sites["x"][:, 0] % 2).all()


@pytest.mark.parametrize("padding", [0.0, math.nan, -5.0])
def test_padded_sets_come_with_what_is_there(padding: float) -> None:
    x = np.full((3, 4, 2), padding)
    there = np.arange(4) < np.array(SIZES)[:, None]
    for row, values in enumerate(RAGGED):
        x[row, : len(values)] = values
    table = data.from_arrays(x=x, x_there=there, splits=None).test
    np.testing.assert_array_equal(table.sites["x_there"][:].numpy(), there)
    first = [[row[0]] * (4 - len(row)) for row in RAGGED]  # stands where nothing is there
    filled = [np.concatenate([row, more]) for row, more in zip(RAGGED, first, strict=True)]
    np.testing.assert_array_equal(table.sites["x"][:].numpy(), np.stack(filled))


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ({"x": [[[1.0, 2.0]], [[1.0]], [[1.0], [2.0]]]}, "'x', row 1: is a set of shape"),
        (
            {"x": [np.ones((3, 2)), np.ones((3, 4))]},
            r"'x', row 1: is a set of shape \(3, 4\), expected .* \(2,\)",
        ),
        ({"x": [[1.0], [], [1.0, 2.0]]}, "'x', row 1: is a set of shape .0,., expected at least"),
        ({"x": [[[1, 2], [3]], [[1, 2]]]}, "'x', row 0: its elements differ in shape"),
        ({"x": [["a"], ["b", "c"]]}, "'x', row 0: is <U1, expected numbers"),
        ({"x": RAGGED, "x_there": np.ones((3, 3))}, "expected no site 'x_there' beside it"),
        ({"x": np.ones((3, 2)), "x_there": np.ones((3, 4))}, "'x_there' has shape .3, 4.,"),
        ({"x": np.ones((3, 2)), "x_there": np.full((3, 2), 2)}, "other than 0 and 1"),
    ],
)
def test_what_does_not_fit_is_one_line(sites: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        data.from_arrays(**sites, splits=None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["floats", "counts", "numbers"])
def test_sets_come_back_from_a_file(kind: str, tmp_path: Path) -> None:
    """They are no images: elements stay apart, and rows of every part are those written."""
    rows: list[Any] = [RAGGED[row % 3] * (0.1 if kind == "floats" else 1) for row in range(30)]
    if kind == "numbers":
        rows = [row[:, 0] for row in rows]
    made = data.from_arrays(x=rows, splits=(0.5, 0.0, 0.5))
    data.write(made, tmp_path / "sets.h5")
    found = data.load(str(tmp_path / "sets.h5"))
    assert not found.shapes
    for part in ("train", "test"):
        for site, values in getattr(made, part).sites.items():
            assert torch.equal(getattr(found, part).sites[site][:], values[:]), site
    one = next(found.train.batches(limit=4))
    assert one["x"].shape == (4, 3, 2)[: 2 if kind == "numbers" else 3]
