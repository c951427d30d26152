"""Rows as a user chooses them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from ppl_models import data, inference
from ppl_models.data.tables.positions import positions
from ppl_models.inference.posterior.rows import positions as of_table

MASK = [False, True, False, True, True]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (MASK, [1, 3, 4]),
        (np.array(MASK), [1, 3, 4]),
        (torch.tensor(MASK), [1, 3, 4]),
        (tuple(MASK), [1, 3, 4]),
        ([4, 0, 4], [4, 0, 4]),
        (np.array([4, 0], np.uint8), [4, 0]),
        (torch.tensor([[4], [0]]), [4, 0]),
        (range(1, 5, 2), [1, 3]),
        (slice(1, None, 2), [1, 3]),
        (slice(None, None, -2), [4, 2, 0]),
        (slice(-2, 99), [3, 4]),
        (3, [3]),
        (np.int64(3), [3]),
        (np.zeros(5, bool), []),
        ([], []),
    ],
)
def test_positions(rows, expected):
    found = positions(rows, 5, "mice")
    assert found.dtype == torch.int64
    assert found.tolist() == expected


def test_positions_of_pandas():
    pandas = pytest.importorskip("pandas")
    assert positions(pandas.Series(MASK), 5, "mice").tolist() == [1, 3, 4]
    assert positions(pandas.Index([3, 1]), 5, "mice").tolist() == [3, 1]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([True, False], "rows of mice are truth values of shape (2,), expected (5,) for a mask, or"
         " positions"),
        (np.ones((5, 1), bool), "rows of mice are truth values of shape (5, 1), expected (5,) for "
         "a mask, or positions"),
        (True, "rows of mice are truth values of shape (), expected (5,) for a mask, or "
         "positions"),
        ([True, 2], "rows of mice are truth values and numbers, expected one of both"),
        ([3.9], "rows of mice have type float64, expected positions in 0..4 or a mask"),
        (torch.tensor([3.0]), "rows of mice have type float32, expected positions in 0..4 or a "
         "mask"),
        (3.0, "rows of mice have type float64, expected positions in 0..4 or a mask"),
        (["a"], "rows of mice have type <U1, expected positions in 0..4 or a mask"),
        ([1, None], "rows of mice have type object, expected positions in 0..4 or a mask"),
        ([0, 5], "row 5 is not in mice, expected positions in 0..4"),
        ([-1], "row -1 is not in mice, expected positions in 0..4"),
        ([[1], [2, 3]], "rows of mice are a list that makes no array, expected positions in 0..4 "
         "or a mask"),
    ],
)  # fmt: skip
def test_what_is_no_choice_of_rows(rows, line):
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        positions(rows, 5, "mice")


def table():
    return data.from_arrays(np.arange(10.0).reshape(5, 2), splits=None, name="mice").test


def test_rows_of_a_table():
    t = table()
    for rows in (MASK, torch.tensor(MASK), [1, 3, 4], np.array([1, 3, 4])):
        assert t.rows(rows).numbers.tolist() == [1, 3, 4]
        assert of_table(t, rows).tolist() == [1, 3, 4]
    for rows in ([], np.zeros(5, bool)):
        for choose in (t.rows, lambda rows: of_table(t, rows)):
            with pytest.raises(
                ValueError, match=r"^no rows chosen of mice/test, expected at leas"
            ):
                choose(rows)
    assert of_table(t, None).tolist() == [0, 1, 2, 3, 4]


def test_masks_choose_rows_and_draws_of_a_posterior():
    from ppl_models import catalogue

    x = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)).round()
    t = data.from_arrays(x, splits=None).test
    pair = catalogue.build("vae", data.from_arrays(x, splits=None), hidden=(4,), latent=1)
    run = inference.fit(pair, t, epochs=1, progress=False)
    for rows, kept in ((MASK, [False] * 4 + [True]), ([1, 3, 4], [4])):
        found = run.posterior(t, rows=rows, draws=3, draws_for=kept)
        assert found.posterior.sizes["datum"] in (1, 3)
        assert found.posterior["z"].dropna("datum").datum.values.tolist() == [4]
    with pytest.raises(ValueError, match=r"^rows of .* have type float64, expected positions"):
        run.posterior(t, rows=[3.9], draws=3)
