"""Your own arrays: what goes in comes out, whatever library it came from."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from ppl_models import data

N = 40
X = np.arange(N * 6, dtype=np.float64).reshape(N, 6) / (6 * N)
Y = np.arange(N) % 4
NAMES = np.array(["ant", "bee", "cat", "dog"])


def rows(d, site):
    """All values of a site in the order of the source."""
    parts = (d.train, d.validation, d.test)
    order = torch.cat([t.numbers for t in parts]).argsort()
    return torch.cat([t.sites[site] for t in parts])[order]


def test_round_trip():
    d = data.from_arrays(X, Y, seed=2)
    assert [len(t) for t in (d.train, d.validation, d.test)] == [28, 4, 8]
    np.testing.assert_array_equal(rows(d, "x"), X.astype(np.float32))
    np.testing.assert_array_equal(rows(d, "y"), Y)
    assert d.train.classes["y"] == ("0", "1", "2", "3")
    assert d.sizes == {"x": 6, "y": 4}
    assert torch.bincount(d.test.sites["y"]).tolist() == [2] * 4
    assert d.name == d.recipe["name"] == "arrays"
    X2 = X.copy()
    d2 = data.from_arrays(X2, Y, seed=2)
    X2 += 1  # the data set has its own copy
    assert d2.recipe == d.recipe
    np.testing.assert_array_equal(rows(d2, "x"), X.astype(np.float32))
    assert data.from_arrays(X2, Y, seed=2).recipe["digest"] != d.recipe["digest"]


def as_pandas(values):
    return pytest.importorskip("pandas").Series(values)


def with_gaps(values, gap, dtype=object):
    out = np.array(values, dtype=dtype)
    out[::5] = gap
    return out


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: with_gaps(Y, -1, int), "0123"),
        (lambda: with_gaps(Y, np.nan, float), "0123"),
        (lambda: with_gaps(Y, None), "0123"),
        (lambda: with_gaps(Y, None).tolist(), "0123"),
        (lambda: torch.from_numpy(with_gaps(Y, -1, int)).int(), "0123"),
        (lambda: with_gaps(NAMES[Y], None), NAMES),
        (lambda: with_gaps(NAMES[Y], np.nan), NAMES),
        (lambda: as_pandas(with_gaps(NAMES[Y], None)), NAMES),
        (lambda: as_pandas(with_gaps(NAMES[Y], None)).astype("category"), NAMES),
        (lambda: as_pandas(with_gaps(Y, None)).astype("Int64"), "0123"),
        (lambda: as_pandas(with_gaps(Y, np.nan, float)), "0123"),
    ],
)
def test_missing_labels_of_every_make(make, names):
    d = data.from_arrays(X, make(), splits=(0.5, 0.25, 0.25))
    missing = np.arange(N) % 5 == 0
    np.testing.assert_array_equal(rows(d, "y"), np.where(missing, -1, Y))
    assert d.train.classes["y"] == tuple(names)
    # 32 labelled rows are split 16, 8, 8; the 8 without a label are for training
    assert [len(t) for t in (d.train, d.validation, d.test)] == [24, 8, 8]
    assert "y" not in d.validation.observed
    assert "y" not in d.test.observed
    hidden = d.train.numbers[~d.train.observed["y"]]
    assert hidden.tolist() == np.flatnonzero(missing).tolist()


def test_labelled_hides_more_in_train_only():
    y = with_gaps(NAMES[Y], None)
    d = data.from_arrays(X, y, labelled=9, seed=1, classes={"y": NAMES[::-1].tolist()})
    assert d.train.classes["y"] == ("dog", "cat", "bee", "ant")
    kept = torch.bincount(d.train.where_observed("y").sites["y"])
    assert sorted(kept.tolist()) == [2, 2, 2, 3]
    assert d.test.observed == {}
    json.dumps(d.recipe)
    assert d.recipe["options"]["labelled"] == 9


def test_images_booleans_and_further_sites():
    d = data.from_arrays(
        X.reshape(N, 2, 3),
        Y > 1,
        kind=NAMES[Y],
        side=torch.rand(N, 4),
        size=X[:, 0],
        labelled={"y": 6, "kind": 8},
        shapes={"side": (2, 2)},
    )
    assert d.train.shapes == {"x": (2, 3), "side": (2, 2)}
    assert d.sizes == {"x": 6, "y": 2, "kind": 4, "side": 4, "size": 1}
    assert d.train.classes["y"] == ("False", "True")
    assert d.train.counts == {"x": 28, "y": 6, "kind": 8, "side": 28, "size": 28}
    np.testing.assert_array_equal(rows(d, "x"), X.astype(np.float32))
    assert not torch.equal(d.train.observed["y"], d.train.observed["kind"])


def test_data_without_labels():
    d = data.from_arrays(X, splits=(20, 10, 5))
    assert [len(t) for t in (d.train, d.validation, d.test)] == [20, 10, 5]
    assert list(d.train.sites) == ["x"]


def bad(values, row, value):
    out = np.array(values)
    out[row] = value
    return out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"x": bad(X, (7, 2), np.nan)}, "'x', row 7 of arrays, column 2: got nan"),
        ({"y": Y[:-1]}, r"'y' of arrays has shape \(39,\), expected 40 rows"),
        ({"y": bad(Y, 3, -2)}, "'y', row 3: got -2, expected a label, or -1 if missing"),
        ({"y": Y + 1}, r"got 4, but only 4 different labels occur.*classes=\{'y': C\}"),
        ({"y": Y, "classes": {"y": 3}}, "'y', row 3: got 3, expected a label in 0..2"),
        ({"y": NAMES[Y], "classes": {"y": ["ant", "bee", "cat"]}}, "row 3: unknown class 'dog'"),
        ({"y": NAMES[Y], "classes": {"y": 4}}, "holds names"),
        ({"y": X[:, 0], "classes": {"y": 4}}, "'y', row 1: got 0.025, expected a label"),
        ({"classes": {"why": 4}}, "unknown site 'why': expected one of x, y"),
        ({"labelled": 3}, "labelled is 3, expected at least one row per class"),
        ({"labelled": 12, "y": None}, r"label sites \[\]"),
        ({"labelled": {"x": 12}}, "unknown label site 'x'"),
        ({"y": np.full(N, -1)}, "'y' has no label at all"),
        ({"x": np.array([[object()]] * N)}, "'x' has type object"),
        ({"x": 3.0}, r"'x' has shape \(\), expected"),
        (
            {"x": X[:0], "y": Y[:0].astype(float)},
            r"'x' has shape \(0, 6\), expected at least one row",
        ),
        ({"shapes": {"x": (4, 4)}}, r"no flattened image of shape \(4, 4\)"),
        ({"splits": (0.5, 0.5)}, "expected three"),
    ],
)
def test_what_does_not_fit_is_named(options, words):
    with pytest.raises(ValueError, match=words) as error:
        data.from_arrays(**{"x": X, "y": Y, **options})
    assert "\n" not in str(error.value)


def test_own_file(tmp_path):
    path = tmp_path / "mice.npz"
    np.savez(path, x=X, y=NAMES[Y])
    d = data.load(str(path), labelled=8, seed=3)
    assert d.name == "mice"
    assert d.train.classes["y"] == tuple(NAMES)
    np.testing.assert_array_equal(rows(d, "x"), X.astype(np.float32))
    assert int(d.train.observed["y"].sum()) == 8
    recipe = json.loads(json.dumps(d.recipe))
    assert data.load(recipe["name"], **recipe["options"]).recipe == recipe
    with pytest.raises(ValueError, match=r"unknown option of .*'label'"):
        data.load(str(path), label=8)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_flipped_byte_is_found_or_harmless(tmp_path, draw):
    path = tmp_path / "mice.npz"
    np.savez_compressed(path, x=X, y=Y)
    whole = bytearray(path.read_bytes())
    place = draw.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= draw.draw(st.integers(1, 255))
    path.write_bytes(whole)
    try:
        d = data.load(str(path))
    except ValueError as error:
        if "\n" in str(error):
            raise
    else:  # a name or a date
        assert set(d.train.sites) != {"x", "y"} or torch.equal(
            d.train.sites["x"], data.from_arrays(X, Y).train.sites["x"]
        )


def test_damaged_files_and_pickles(tmp_path):
    path = tmp_path / "mice.npz"
    with pytest.raises(FileNotFoundError, match="no such file"):
        data.load(str(path))
    np.savez(path, x=X, y=np.array([{"a": 1}] * N))
    with pytest.raises(ValueError, match=r"cannot read array 'y', expected an .npz of plain"):
        data.load(str(path))
    np.savez_compressed(path, x=X, y=Y)
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-30], whole[:300] + b"\xff" * 40 + whole[340:], b"x"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=re.escape(f"{path}: cannot read")):
            data.load(str(path))
    with path.open("wb") as file:
        np.save(file, X)
    with pytest.raises(ValueError, match="cannot read the file"):
        data.load(str(path))


def test_vectors_may_be_missing_in_some_rows():
    """A row of NaN is missing, and goes to the training rows; a NaN among numbers is an error."""
    place = np.arange(len(X), dtype=np.float32)[:, None]
    place[[3, 8]] = np.nan
    rows = data.from_arrays(X, place=place)
    assert int((~rows.train.observed["place"]).sum()) == 2
    kept = rows.train.observed["place"]
    seen = rows.train.sites["place"][kept].flatten()
    assert torch.equal(seen, rows.train.numbers[kept].float())
    assert "place" not in rows.test.observed
    batches = list(rows.train.batches())
    assert sorted("place" in batch for batch in batches) == [False, True]
