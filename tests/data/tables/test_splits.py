"""Parts: drawn, given by row, empty, or none at all; and what is said of an empty one."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from ppl_models import catalogue, data, inference
from ppl_models.commands.main import main

N = 20
X = np.arange(2.0 * N).reshape(N, 2) / (2 * N)
Y = np.arange(N) % 2
PART = np.array(["train", "validation", "test", "test"])[np.arange(N) % 4]


def sizes(d):
    return [len(t) for t in (d.train, d.validation, d.test)]


def numbers(d):
    return [t.numbers.tolist() for t in (d.train, d.validation, d.test)]


@pytest.mark.parametrize(
    ("splits", "counts"),
    [
        ((0.8, 0, 0.2), [16, 0, 4]),
        ((0.8, 0.2, 0.0), [16, 4, 0]),
        ((0, 0, 1), [0, 0, 20]),
        ((1, 0, 0), [20, 0, 0]),
        ([0, 0, 5], [0, 0, 5]),
        (np.array([0.5, 0.25, 0.25]), [10, 5, 5]),
        (np.array([10, 0, 5]), [10, 0, 5]),
        (torch.tensor([0.5, 0.0, 0.5]), [10, 0, 10]),
        ((np.int64(3), np.int32(2), 1), [3, 2, 1]),
        (None, [0, 0, 20]),
    ],
)
def test_parts_may_be_empty(splits, counts):
    d = data.from_arrays(X, Y, splits=splits)
    assert sizes(d) == counts
    for part in (d.train, d.validation, d.test):
        assert part.classes == {"y": ("0", "1")}
        assert part.sizes == {"x": 2, "y": 2}
        repr(part)
    assert json.loads(json.dumps(d.recipe)) == d.recipe


def test_no_split_keeps_all_rows_in_order():
    y = np.where(np.arange(N) < 3, -1, Y)
    d = data.from_arrays(X, y, splits=None)
    assert d.test.numbers.tolist() == list(range(N))
    assert d.test.counts == {"x": N, "y": N - 3}
    assert d.recipe["options"]["splits"] is None


def test_rows_without_a_label_are_only_trained_on_and_that_is_told():
    y = np.where(np.arange(N) < 10, -1, Y)
    d = data.from_arrays(X, y, splits=(0.5, 0.2, 0.3))
    assert sizes(d) == [15, 2, 3]
    assert repr(d) == (
        "Dataset(arrays\n"
        "  Table(arrays/train: 15 rows of x (2 numbers), y (2 classes, in 5 rows))\n"
        "  Table(arrays/validation: 2 rows of x (2 numbers), y (2 classes))\n"
        "  Table(arrays/test: 3 rows of x (2 numbers), y (2 classes))\n"
        "  rows with a label y: 5 of 15, 2 of 2, 3 of 3)"
    )
    assert "with a label" not in repr(data.from_arrays(X, Y))
    assert sizes(data.from_arrays(X, y, splits=(0, 0, 1.0))) == [10, 0, 10]


def series(values, dtype=None):
    return pytest.importorskip("pandas").Series(values, dtype=dtype)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PART,
        lambda: PART.tolist(),
        lambda: PART.astype("S"),
        lambda: PART.astype(object),
        lambda: series(PART),
        lambda: series(PART, "category"),
        lambda: series(PART, "string"),
    ],
)
def test_parts_by_row(make):
    d = data.from_arrays(X, Y, splits=make())
    assert numbers(d) == [
        np.flatnonzero(p == PART).tolist() for p in ("train", "validation", "test")
    ]
    assert d.recipe["options"]["splits"] == "by row"


@pytest.mark.parametrize("gap", [None, np.nan, "", "NA"])
def test_rows_in_no_part(gap):
    part = PART.astype(object)
    part[:8] = gap
    d = data.from_arrays(X, np.where(np.arange(N) == 10, -1, Y), splits=part)
    assert numbers(d) == [[8, 12, 16], [9, 13, 17], [10, 11, 14, 15, 18, 19]]
    assert d.test.counts["y"] == 5  # as it was asked for


def test_parts_named_by_a_site_a_column_or_a_variable():
    pandas, xarray = pytest.importorskip("pandas"), pytest.importorskip("xarray")
    by_site = data.from_arrays(X, Y, fold=PART, splits="fold")
    frame = pandas.DataFrame({"a": X[:, 0], "fold": PART, "b": X[:, 1], "y": Y})
    by_column = data.from_frame(frame, "y", splits="fold")
    variables = {"x": (("row", "pixel"), X), "y": ("row", Y), "fold": ("row", PART)}
    by_variable = data.from_xarray(xarray.Dataset(variables), "row", splits="fold")
    by_coordinate = data.from_xarray(
        xarray.Dataset(variables).set_coords("fold"), "row", splits="fold"
    )
    for d in (by_site, by_column, by_variable, by_coordinate):
        assert list(d.train.sites) == ["x", "y"]
        assert numbers(d) == numbers(by_site)
        assert d.recipe["digest"] == by_site.recipe["digest"]


@pytest.mark.parametrize("ending", ["npz", "h5"])
def test_parts_of_files(tmp_path, ending, capsys):
    import h5py

    path = tmp_path / f"rows.{ending}"
    arrays = {"x": X, "y": Y, "fold": PART.astype("S")}
    if ending == "npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            file.update(arrays)
    for splits, counts in (("fold", [5, 5, 10]), (None, [0, 0, 20]), ((0.5, 0, 0.5), [10, 0, 10])):
        wanted = arrays if splits == "fold" else {"x": X, "y": Y}
        d = data.load(path, splits=splits)
        assert sizes(d) == counts
        assert set(d.train.sites) | {"fold"} == {*wanted, "fold"}
        assert data.remake(json.loads(json.dumps(d.recipe))).recipe == d.recipe
        given = ["data", "preview", str(path), "--splits", str(splits), "--json"]
        assert main(given) == 0
        told = json.loads(capsys.readouterr().out)
        assert [told[p] for p in ("train", "validation", "test")] == counts
    by_row = data.load(path, splits=series(PART))
    assert data.remake(json.loads(json.dumps(by_row.recipe))).recipe == by_row.recipe


@pytest.mark.parametrize(
    ("splits", "line"),
    [
        ((0.5, 0.5), "splits are (0.5, 0.5), expected three: training, validation, test; or the "
         "part of each row by name"),
        (0.5, "splits are 0.5, expected three: training, validation, test"),
        (Y > 0, "splits have type bool, expected three shares or numbers, or the part of each row "
         "by name: train, validation, test"),
        (np.arange(N), "splits are 20 numbers, expected three: training, validation, test; or the "
         "part of each row by name"),
        (PART[:5], "splits name the parts of 5 rows, expected 20"),
        (np.where(PART == "test", "val", PART), "site 'splits', row 2: unknown class 'val': "
         "expected one of test, train, validation"),
        ("fold", "unknown site of splits 'fold': expected one of x, y"),
        ((0.5, -0.1, 0.2), "splits are (0.5, -0.1, 0.2), expected numbers of at least 0"),
        ((0.9, 0.01, 0.09), "splits (0.9, 0.01, 0.09) of 20 rows give parts of [18, 0, 2] rows, "
         "expected at least 1 in each, unless it is asked to be 0"),
        ((20, 0, 5), "splits (20, 0, 5) need 25 rows, but there are 20"),
        ({"train": [0]}, "site 'splits' is a dict, expected an array; give each of its arrays by "
         "name, from_arrays(**arrays)"),
    ],
)  # fmt: skip
def test_splits_that_do_not_fit(splits, line):
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        data.from_arrays(X, Y, splits=splits)


def pair_of(d):
    return catalogue.build("m2", d, hidden=(4,), latent=1)


@pytest.mark.parametrize(
    "use",
    [
        lambda pair, run, d: inference.fit(pair, d, epochs=1, progress=False),
        lambda pair, run, d: inference.fit(pair, d.train, epochs=1, progress=False),
        lambda pair, run, d: run.error(d.train),
        lambda pair, run, d: inference.label_probabilities(pair, d.train),
        lambda pair, run, d: run.posterior(d.train, draws=2),
        lambda pair, run, d: run.posterior(d.train, rows=[0], draws=2),
        lambda pair, run, d: inference.importance(pair, d.train, draws=200),
        lambda pair, run, d: inference.nuts(pair, d.train, draws=2, warmup=1, progress=False),
        lambda pair, run, d: next(d.train.batches()),
        lambda pair, run, d: data.Stream(d.train, 2),
    ],
)
def test_every_use_of_an_empty_part_says_so(use):
    d = data.from_arrays(X, Y, splits=(0, 0, 1), name="mice")
    pair = pair_of(d)
    run = inference.fit(pair, d.test, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"^mice/train has no rows, expected at least one$"):
        use(pair, run, d)


def test_early_stopping_without_validation_rows_is_told_before_any_work(tmp_path):
    d = data.from_arrays(X, Y, splits=(0.8, 0, 0.2), name="mice")
    for rows, line in (
        (d, "mice/validation has no rows, expected at least one"),
        (d.train, "patience needs validation rows, got a table without"),
    ):
        with pytest.raises(ValueError, match=f"^{line}$"):
            inference.fit(pair_of(d), rows, patience=2, out=tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()
    assert inference.fit(pair_of(d), d, epochs=1, progress=False).error(d.test) >= 0


def test_fit_from_the_command_line(tmp_path, capsys):
    y = np.where(np.arange(N) < 6, -1, Y)
    path, out = tmp_path / "mice.npz", tmp_path / "run"
    np.savez(path, x=X, y=y, fold=PART)
    fit = ["fit", "m2", "--data", str(path), "--out", str(out), "--epochs", "1", "--quiet",
           "--hidden", "4", "--latent", "1", "--draws", "4", "--json"]  # fmt: skip
    for splits, line in (
        ("None", "mice/train has no rows, expected at least one"),
        ("(1.0,0,0)", "mice/test has no rows, expected at least one"),
    ):
        assert main([*fit, "--splits", splits]) == 2
        assert line in capsys.readouterr().err
        assert not out.exists()
    assert main([*fit, "--splits", "fold", "--batch-size", "4"]) in (0, 3)
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == 5 and told["rows with a label y"] == 3
    assert 0 <= told["test error of y"] <= 1


def test_empty_parts_in_a_store(tmp_path):
    for splits in (None, (0.8, 0, 0.2)):
        d = data.from_arrays(X, Y, splits=splits)
        back = data.open(data.write(d, tmp_path / "mice.h5"))
        assert numbers(back) == numbers(d)
        assert torch.equal(back.test.sites["x"][:], d.test.sites["x"])


def test_a_store_keeps_names_and_units(tmp_path):
    names = [f"mouse {n}" for n in range(N)]
    d = data.from_arrays(
        X, Y, columns={"x": ["a", "b"]}, units={"x": "mm"}, row_names=names, splits=(0.5, 0, 0.5)
    )
    back = data.open(data.write(d, tmp_path / "mice.h5"))
    for part in (back.train, back.test):
        assert part.columns == {"x": ("a", "b")}
        assert part.units == {"x": "mm"}
        assert part.row_names.tolist() == [names[n] for n in part.numbers.tolist()]
    data.write(data.from_arrays(X, Y), tmp_path / "plain.h5")
    plain = data.open(tmp_path / "plain.h5").train
    assert (plain.columns, plain.units, plain.row_names) == ({}, {}, None)


def test_roles_and_plain_recipes(tmp_path):
    d = data.from_arrays(
        X, Y, batch=X[:, :1], roles={"batch": "covariate"}, labelled={"y": np.int64(4)},
        classes={"y": np.int32(2)}, seed=np.uint8(3), splits=(np.float32(0.5), 0.25, 0.25),
        shapes={"x": np.array([1, 2])},
    )  # fmt: skip
    assert d.roles == {"batch": "covariate"}
    assert json.loads(json.dumps(d.recipe)) == d.recipe
    told = data.supervise(d, {"y": {"1": np.float32(0.5)}}, seed=np.int64(2))
    assert json.loads(json.dumps(told.recipe)) == told.recipe
    np.savez(tmp_path / "mice.npz", x=X, y=Y)
    loaded = data.load(
        tmp_path / "mice.npz",
        labelled=np.int64(4),
        seed=np.int64(1),
        splits=np.array([0.5, 0.25, 0.25]),
        classes={"y": np.array(["a", "b"])},
    )
    steps = data.supervise(loaded, {"y": np.float64(0.5)})
    again = data.remake(json.loads(json.dumps(steps.recipe)))
    assert again.recipe == steps.recipe


@pytest.mark.parametrize("seed", [1.5, "1", None, True, np.float64(2), np.array([1, 2])])
def test_a_seed_that_is_no_whole_number(seed):
    line = f"seed is {seed!r}, expected a whole number from 0 to 2^63 - 1"
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        data.from_arrays(X, Y, seed=seed)
