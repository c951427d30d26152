"""Vectors of every make: the right numbers, or one line that says what was expected."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse
import torch

from ppl_models import data
from ppl_models.data.tables import array_kinds

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{words}:UserWarning")
    for words in ("Sparse CSR tensor", "Sparse invariant checks", "torch.quantize_per_tensor")
]
X = np.arange(24.0).reshape(8, 3)


def whole(x, **options):
    return data.from_arrays(x, splits=None, **options).test


def pandas():
    return pytest.importorskip("pandas")


@pytest.mark.parametrize(
    "make",
    [
        lambda: X,
        lambda: X.tolist(),
        lambda: [tuple(row) for row in X],
        lambda: list(X),
        lambda: list(torch.from_numpy(X)),
        lambda: X.astype(np.float16),
        lambda: X.astype(np.longdouble),
        lambda: X.astype(np.uint8),
        lambda: X.astype(">f4"),
        lambda: X.astype(object),
        lambda: np.array([[Fraction(int(v)) for v in row] for row in X], dtype=object),
        lambda: np.asfortranarray(X),
        lambda: np.ma.masked_array(X),
        lambda: torch.from_numpy(X).bfloat16(),
        lambda: torch.from_numpy(X).to_sparse(),
        lambda: torch.from_numpy(X).to_sparse_csr(),
        lambda: torch.from_numpy(X).requires_grad_(),
        lambda: torch.nn.Parameter(torch.from_numpy(X)),
        lambda: torch.quantize_per_tensor(torch.from_numpy(X).float(), 1.0, 0, torch.quint8),
        lambda: torch.from_numpy(-X)._neg_view(),
        lambda: scipy.sparse.csr_matrix(X),
        lambda: scipy.sparse.csc_array(X),
        lambda: scipy.sparse.coo_matrix(X.astype(int)),
        lambda: pandas().DataFrame(X),
        lambda: pandas().DataFrame(X.astype(int)).astype({0: "Int64", 1: "float32", 2: "Float32"}),
        lambda: pandas().DataFrame(X).astype(pandas().SparseDtype(float)),
    ],
)  # fmt: skip
def test_the_numbers_of_every_make(make):
    found = whole(make()).sites["x"]
    assert found.dtype == torch.float32
    assert found.tolist() == X.tolist()


def with_gap(values, at, gap):
    out = np.array(values)
    out[at] = gap
    return out


BIG = 2**24


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: X + 1j, "site 'x' has type complex128 and shape (8, 3), expected real numbers; "
         "give its real and imaginary parts, or modulus and phase"),
        (lambda: torch.from_numpy(X).to(torch.complex64), "site 'x' has type complex64 and shape "
         "(8, 3), expected real numbers; give its real and imaginary parts, or modulus and phase"),
        (lambda: (X + 1j).astype(object), "site 'x' has type complex128 and shape (8, 3), expected"
         " real numbers; give its real and imaginary parts, or modulus and phase"),
        (lambda: X.astype("datetime64[D]"), "site 'x' has type datetime64[D] and shape (8, 3), "
         "expected numbers: dates are none; give days since one of them, or name it in classes if "
         "it holds labels"),
        (lambda: np.arange(8).astype("datetime64[s]"), "site 'x' has type datetime64[s] and shape "
         "(8,), expected numbers: dates are none; give days since one of them, or name it in "
         "classes if it holds labels"),
        (lambda: X.astype("timedelta64[s]"), "site 'x' has type timedelta64[s] and shape (8, 3), "
         "expected numbers; divide it by a unit such as numpy.timedelta64(1, 's')"),
        (lambda: X.astype(str), "site 'x' has type <U32 and shape (8, 3), expected numbers, got "
         "text"),
        (lambda: X.astype("S4"), "site 'x' has type |S4 and shape (8, 3), expected numbers, got "
         "text"),
        (lambda: X.astype(str).astype(object), "site 'x' has type object and shape (8, 3), "
         "expected numbers, got some text"),
        (lambda: np.zeros((8, 2), [("a", float), ("b", int)]), "site 'x' has type [('a', '<f8'), "
         "('b', '<i8')] and shape (8, 2), expected numbers; give each of its fields as a site, or "
         "numpy.lib.recfunctions.structured_to_unstructured of it"),
        (lambda: with_gap(X.astype(int), (5, 1), BIG + 1), "site 'x', row 5, column 1: got "
         "16777217, which single precision would round; centre or scale the numbers first, or "
         "give them as floats"),
        (lambda: with_gap(X.astype(np.int64), (0, 2), -(2**62) - 1), "site 'x', row 0, column 2: "
         "got -4611686018427387905, which single precision would round; centre or scale the "
         "numbers first, or give them as floats"),
        (lambda: with_gap(X.astype(np.uint64), (7, 0), 2**64 - 1), "site 'x', row 7, column 0: "
         "got 18446744073709551615, which single precision would round; centre or scale the "
         "numbers first, or give them as floats"),
        (lambda: pandas().DataFrame({"a": X[:, 0], "id": BIG + 1 + np.arange(8)}), "column 'id', "
         "row 0: got 16777217, which single precision would round; centre or scale the numbers "
         "first, or give them as floats"),
        (lambda: pandas().DataFrame({"id": BIG + 1 + np.arange(8)}), "column 'id', row 0: got "
         "16777217, which single precision would round; centre or scale the numbers first, or "
         "give them as floats"),
        (lambda: with_gap(X, (2, 2), 1e39), "site 'x', row 2, column 2: got 1e+39, which is too "
         "large for single precision; scale the numbers first"),
        (lambda: with_gap(X, (2, 2), np.inf), "site 'x', row 2 of arrays, column 2: got inf, "
         "expected a finite number"),
        (lambda: np.ma.masked_array(X, X == 4), "site 'x', row 1, column 1: is masked, but not all"
         " of its row; a vector is missing as a whole: fill in the number, or mask the row"),
        (lambda: np.ma.masked_array(X.astype(int), X == 23), "site 'x', row 7, column 2: is masked"
         ", but not all of its row; a vector is missing as a whole: fill in the number, or mask "
         "the row"),
        (lambda: torch.zeros(8, 3, device="meta"), "site 'x' is a tensor on device meta, which "
         "holds no values"),
        (lambda: [[1, 2], [[3], [4]]], "site 'x', row 1: is a set of shape (2, 1), expected at "
         "least one element, of shape () as in row 0"),
    ],
)  # fmt: skip
def test_what_is_no_vector(make, line):
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        whole(make())


@pytest.mark.parametrize("kind", [np.int32, np.uint32, np.int64, np.uint64, "object"])
def test_large_whole_numbers_that_fit_are_kept(kind):
    x = np.array([[BIG, BIG + 2, 2**30, 3 * 2**28]]).repeat(3, 0)
    assert whole(x.astype(kind)).sites["x"].tolist() == x.tolist()
    if np.dtype(kind).kind == "i":
        assert whole(-x.astype(kind)).sites["x"].tolist() == (-x).tolist()


def test_floats_are_rounded_as_ever():
    x = np.array([[BIG + 1.0, 0.1]])
    assert whole(x).sites["x"].tolist() == x.astype(np.float32).tolist()


class Loader:
    """Has rows, but is no array."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __iter__(self):
        return iter(self.dataset)


Loader.__name__ = "DataLoader"


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: {"a": X}, "site 'x' is a dict, expected an array; give each of its arrays by "
         "name, from_arrays(**arrays)"),
        (lambda: "rows.npz", "site 'x' is a str, expected an array; data.load takes the path of a "
         "file"),
        (lambda: (row for row in X), "site 'x' is a generator, expected an array; make a list of "
         "it first"),
        (lambda: torch.utils.data.TensorDataset(torch.zeros(3)), "site 'x' is a TensorDataset, "
         "expected an array; stack its rows first (torch.stack)"),
        (lambda: torch.utils.data.DataLoader([1, 2]), "site 'x' is a DataLoader, expected an "
         "array; stack its rows first (torch.stack)"),
        (lambda: type("AnnData", (), {})(), "site 'x' is an AnnData, expected an array; "
         "data.from_anndata takes it"),
        (lambda: {1, 2}, "site 'x' is a set, expected an array"),
        (lambda: data.from_arrays(X, splits=None), "site 'x' is a Dataset, expected an array"),
        (lambda: pytest.importorskip("xarray").Dataset({"x": ("row", X[:, 0])}), "site 'x' is a "
         "Dataset, expected an array; data.from_xarray takes it"),
        (lambda: pandas().DataFrame({"a": [1.0, 2.0], "kind": ["u", "v"]}), "column 'kind' has "
         f"type {pandas().Series(['u']).dtype}, expected numbers; name it in labels if it holds "
         "some"),
    ],
)  # fmt: skip
def test_what_is_no_array_names_what_takes_it(make, line):
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        whole(make())


def test_a_sparse_matrix_that_would_not_fit_is_refused_with_its_size(monkeypatch):
    line = (
        "site 'x' is a sparse matrix of shape (1000000000, 30000), which takes 111758.7 GiB as a "
        "table, expected at most 8.0 GiB; choose some of its rows or columns first"
    )
    monkeypatch.setattr(
        array_kinds.os, "sysconf", lambda name: 4096 if "SIZE" in name else 1 << 21
    )
    huge = scipy.sparse.coo_matrix((10**9, 30_000))
    for given in (huge, torch.sparse_coo_tensor(size=(10**9, 30_000))):
        with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
            whole(given)


@pytest.mark.parametrize(
    "make",
    [
        lambda rows: np.where(rows[:, None], np.nan, X),
        lambda rows: np.ma.masked_array(X, rows[:, None].repeat(3, 1)),
        lambda rows: np.ma.masked_array(X.astype(int), rows[:, None].repeat(3, 1)),
        lambda rows: np.where(rows[:, None], None, X),
        lambda rows: pandas().DataFrame(np.where(rows[:, None], np.nan, X)),
        lambda rows: (
            pandas().DataFrame(X.astype(int)).astype("Int64").where(~rows[:, None].repeat(3, 1))
        ),
        lambda rows: pandas().DataFrame(np.where(rows[:, None], np.nan, X)).astype({1: "Int64"}),
    ],
)  # fmt: skip
def test_missing_rows(make):
    rows = np.arange(8) % 3 == 1
    table = whole(np.zeros((8, 2)), side=make(rows))
    assert table.observed["side"].tolist() == (~rows).tolist()
    assert table.sites["side"][torch.from_numpy(~rows)].tolist() == X[~rows].tolist()


def test_names_of_columns_and_rows_and_units():
    frame = pandas().DataFrame(X, columns=["a", 1, ("b", 2.0)], index=list("hgfedcba"))
    table = whole(frame, units={"x": "m"}, t=pandas().Series(X[:, 0], index=frame.index))
    assert table.columns == {"x": ("a", "1", "b/2")}
    assert table.row_names.tolist() == list("hgfedcba")
    assert table.units == {"x": "m"}
    table = whole(X, columns={"x": ["u", "v", "w"]}, row_names=range(10, 18))
    assert table.columns == {"x": ("u", "v", "w")}
    assert table.row_names.tolist() == [str(n) for n in range(10, 18)]
    assert whole(pandas().DataFrame(X)).row_names is None
    assert whole(pandas().DataFrame(X, index=np.arange(8))).row_names is None
    for index, row, other in ((list("hgfedcab"), 6, "a"), (np.arange(8) + 1, 0, "1")):
        line = (
            f"site 't' names row {row} {other!r}, site 'x' {list('hgfedcba')[row]!r}, expected "
            "rows in one order (of pandas: b.loc[a.index])"
        )
        with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
            whole(frame, t=pandas().Series(X[:, 0], index=index))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"columns": {"x": ["a", "b"]}}, "site 'x' of arrays has 2 names of columns for rows of "
         "shape (3,)"),
        ({"columns": {"x": ["a", "b", "a"]}}, "site 'x' of arrays has the column 'a' twice, "
         "expected different names"),
        ({"columns": {"z": ["a"]}}, "unknown site 'z': expected one of x"),
        ({"columns": X}, "columns are ndarray, expected a dict by site; a site of that name goes "
         "into sites={...}"),
        ({"classes": 4}, "classes are int, expected a dict by site; a site of that name goes into "
         "sites={...}"),
        ({"units": "m"}, "units are str, expected a dict by site; a site of that name goes into "
         "sites={...}"),
        ({"row_names": ["a", "b"]}, "arrays has 2 names of rows, expected 8"),
        ({"roles": {"x": "covariat"}}, "unknown role 'covariat': did you mean 'covariate'? "
         "expected one of covariate, factor, group, intervention"),
        ({"roles": {"b": "covariate"}}, "unknown site 'b': expected one of x"),
        ({"sites": {"x": X}}, "site 'x' is given twice, expected once"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit(options, line):
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        whole(X, **options)


OPTIONS = ["name", "seed", "labelled", "classes", "splits", "shapes", "columns", "units",
           "row_names", "roles", "sites", "self", "labels", "options", "source"]  # fmt: skip


@pytest.mark.parametrize("site", OPTIONS)
def test_a_site_may_be_called_like_an_option(site):
    made = data.from_arrays(X, sites={site: X[:, :2]}, splits=None, roles={site: "covariate"})
    assert made.test.sites[site].tolist() == X[:, :2].tolist()
    assert made.roles == {site: "covariate"}
    alone = data.from_arrays(sites={site: X}, splits=None).test
    assert list(alone.sites) == [site]
