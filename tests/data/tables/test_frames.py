"""Tables of pandas and xarray: names, kinds of columns, and what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from ppl_models import data

pandas = pytest.importorskip("pandas")
xarray = pytest.importorskip("xarray")
N = 8
A, B = np.arange(float(N)), np.arange(N) * 2
KIND = np.array(["u", "v"] * 4)


def whole(frame, labels=(), **options):
    return data.from_frame(frame, labels, splits=None, **options).test


def frame(**more):
    return pandas.DataFrame({"a": A, "b": B, **more})


COLLIDING = ["x", "name", "seed", "labelled", "classes", "splits", "shapes", "columns", "units",
             "row_names", "sites", "labels", "roles", "self", "frame", ""]  # fmt: skip


@pytest.mark.parametrize("name", COLLIDING)
def test_a_column_may_have_any_name(name):
    t = whole(frame().join(pandas.Series(A, name=name)))
    assert t.columns == {"x": ("a", "b", name)}
    assert t.sites["x"][:, 2].tolist() == A.tolist()
    if name not in ("x", ""):
        t = whole(frame().join(pandas.Series(KIND, name=name)), [name])
        assert t.sites[name].tolist() == [0, 1] * 4
        assert t.classes == {name: ("u", "v")}
        assert t.columns == {"x": ("a", "b")}
        variables = {"x": (("r", "c"), np.stack([A, B], 1)), name: ("r", KIND)}
        t = data.from_xarray(xarray.Dataset(variables), "r", splits=None).test
        assert t.classes == {name: ("u", "v")}


@pytest.mark.parametrize("kind", ["npz", "h5"])
@pytest.mark.parametrize("name", COLLIDING[1:-1])
def test_an_array_of_a_file_may_have_any_name(tmp_path, kind, name):
    import h5py

    path = tmp_path / f"mice.{kind}"
    arrays = {"x": A[:, None], name: KIND.astype("S")}
    if kind == "npz":
        import io
        import zipfile

        with zipfile.ZipFile(path, "w") as archive:
            for site, array in arrays.items():
                file = io.BytesIO()
                np.save(file, array)
                archive.writestr(f"{site}.npy", file.getvalue())
    else:
        with h5py.File(path, "w") as file:
            file.update(arrays)
    t = data.load(path, splits=None).test
    assert t.classes == {name: ("u", "v")}
    assert t.sites[name].tolist() == [0, 1] * 4


@pytest.mark.parametrize(
    ("labels", "more"),
    [
        ("kind", {}),
        (["kind"], {}),
        (("kind",), {}),
        (np.array(["kind"]), {}),
        (pandas.Index(["kind"]), {}),
        ("kind,n", {"n": ("0", "1")}),
        ("kind, n", {"n": ("0", "1")}),
        (["n", "kind"], {"n": ("0", "1")}),
    ],
)
def test_labels_are_one_name_or_several(labels, more):
    t = whole(frame(kind=KIND, n=B // 2 % 2), labels)
    assert t.classes == {"kind": ("u", "v"), **more}
    assert t.sites["x"].shape == (N, 3 - len(more))


def test_a_column_whose_name_has_commas():
    assert whole(frame(**{"u,v": KIND}), "u,v").classes == {"u,v": ("u", "v")}


def test_names_of_any_type():
    t = whole(pandas.DataFrame({0: A, 10: B, "k": KIND}), "k")
    assert t.columns == {"x": ("0", "10")}
    t = whole(pandas.DataFrame({0: A, 10: KIND}), [10])
    assert (t.columns, t.classes) == ({"x": ("0",)}, {"10": ("u", "v")})
    levels = pandas.DataFrame({("g", "a"): A, ("g", "b"): B, ("m", "kind"): KIND})
    for labels in ("m/kind", ["m/kind"], [("m", "kind")]):
        t = whole(levels, labels)
        assert t.columns == {"x": ("g/a", "g/b")}
        assert t.classes == {"m/kind": ("u", "v")}
    dated = pandas.DataFrame(np.ones((N, 2)), columns=pandas.to_datetime(["2020-01-01"] * 2))
    with pytest.raises(
        ValueError, match=r"^column '2020-01-01 00:00:00' stands in the table twice"
    ):
        whole(dated)


@pytest.mark.parametrize(
    ("index", "names"),
    [
        (None, None),
        (np.arange(N), None),
        (pandas.RangeIndex(2, 2 + N), [str(n) for n in range(2, 2 + N)]),
        (list("hgfedcba"), list("hgfedcba")),
        (pandas.MultiIndex.from_product([["a", "b"], [1, 2, 3, 4]]),
         [f"{a}/{n}" for a in "ab" for n in range(1, 5)]),
        (pandas.Index(A + 1), [str(n) for n in range(1, N + 1)]),
    ],
)  # fmt: skip
def test_names_of_rows(index, names):
    t = whole(frame(kind=KIND).set_axis(index if index is not None else range(N)), "kind")
    assert (t.row_names if names is None else t.row_names.tolist()) == names


@pytest.mark.parametrize(
    "dtype", ["int8", "uint16", "Int64", "UInt8", "float32", "Float64", "bool", "boolean"]
)
def test_columns_of_numbers(dtype):
    t = whole(frame(c=pandas.Series(B > 6 if "bool" in dtype else B).astype(dtype)))
    assert t.sites["x"][:, 2].tolist() == ((B > 6) if "bool" in dtype else B).tolist()


@pytest.mark.parametrize(
    "dtype", ["int64", "double", "bool", "string", "large_string", "dictionary", "date32"]
)
def test_columns_of_arrow(dtype):
    arrow = pytest.importorskip("pyarrow")
    if dtype in ("int64", "double", "bool"):
        values = [bool(v % 2) for v in range(N)] if dtype == "bool" else list(range(N))
        column = pandas.Series(values, dtype=pandas.ArrowDtype(getattr(arrow, f"{dtype}_")()
                               if dtype == "bool" else arrow.type_for_alias(dtype)))  # fmt: skip
        assert whole(frame(c=column)).sites["x"][:, 2].tolist() == [float(v) for v in values]
        return
    kind = (
        arrow.dictionary(arrow.int32(), arrow.string()) if dtype == "dictionary"
        else arrow.type_for_alias(dtype)
    )  # fmt: skip
    words = [*KIND[:-1], None]
    if dtype == "date32":
        words = [None if w is None else np.datetime64("2020-01-01") + ord(w) for w in words]
        words = [None if w is None else w.item() for w in words]
    column = pandas.Series(words, dtype=pandas.ArrowDtype(kind))
    t = whole(frame(kind=column), "kind")
    assert t.sites["kind"].tolist() == [0, 1, 0, 1, 0, 1, 0, -1]


DATES = pandas.date_range("2020-01-01", periods=N)


@pytest.mark.parametrize(
    ("column", "line"),
    [
        (DATES, "column 'c' has type {}, expected numbers: dates are none; give days since one of "
         "them, or name it in labels if it holds some"),
        (DATES.tz_localize("UTC"), "column 'c' has type {}, expected numbers: dates are none; give"
         " days since one of them, or name it in labels if it holds some"),
        (DATES - DATES[0], "column 'c' has type {}, expected numbers: dates are none; give days "
         "since one of them, or name it in labels if it holds some"),
        (DATES.to_period("M"), "column 'c' has type {}, expected numbers; name it in labels if it "
         "holds some"),
        (pandas.cut(A, [-1, 3, 9]), "column 'c' has type {}, expected numbers; name it in labels "
         "if it holds some"),
        (A + 1j, "column 'c' has type {}, expected real numbers; give its real and imaginary parts"
         " as columns"),
        (KIND, "column 'c' has type {}, expected numbers; name it in labels if it holds some"),
        (pandas.Series(KIND, dtype="string"), "column 'c' has type {}, expected numbers; name it "
         "in labels if it holds some"),
        (pandas.Series([True, None] * 4, dtype=object), "column 'c' has type {}, expected numbers;"
         " name it in labels if it holds some"),
    ],
)  # fmt: skip
def test_columns_that_are_no_numbers(column, line):
    table = frame(c=column)
    with pytest.raises(ValueError, match=f"^{re.escape(line.format(table['c'].dtype))}$"):
        whole(table)
    if table["c"].dtype.kind not in "cm":
        assert len(whole(table, "c").classes["c"]) >= 1


@pytest.mark.parametrize(
    ("table", "labels", "line"),
    [
        (frame(), "kin", "unknown column 'kin': expected one of a, b"),
        (frame(kind=KIND), "kin", "unknown column 'kin': did you mean 'kind'? expected one of a, "
         "b, kind"),
        (frame(kind=KIND), ["kind", "kind"], "column 'kind' is asked for twice, expected once"),
        (frame(x=KIND), "x", "column 'x' of labels has the name of the site of all other columns; "
         "rename it"),
        (frame()[["a"]], "a", "the table has no column besides its labels, expected some numbers"),
        (pandas.concat([frame(), frame()], axis=1), (), "column 'a' stands in the table twice, "
         "expected different names"),
        (pandas.DataFrame({1: A, "1": B}), (), "column '1' stands in the table twice, expected "
         "different names"),
        (A, (), "the table is of type ndarray, expected a pandas.DataFrame"),
        (pandas.Series(A), (), "the table is of type Series, expected a pandas.DataFrame"),
        (frame(c=np.where(A == 2, np.nan, A)), (), "site 'x', row 2 of arrays, column 2 ('c'): got"
         " nan, expected a finite number"),
        (frame(c=pandas.array([1, None] * 4, dtype="Int64")), (), "site 'x', row 1 of arrays, "
         "column 2 ('c'): got nan, expected a finite number"),
        (frame(c=B * 1e38), (), "column 'c', row 2: got 4e+38, which is too large for single "
         "precision; scale the numbers first"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit(table, labels, line):
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        whole(table, labels)


def test_options_that_are_mistyped():
    with pytest.raises(ValueError, match=r"^unknown option 'split': did you mean 'splits'"):
        data.from_frame(frame(), split=None)
    many = xarray.Dataset({"x": (("r", "c"), np.ones((3, 2)))})
    with pytest.raises(ValueError, match=r"^unknown option 'class': did you mean 'classes'"):
        data.from_xarray(many, "r", **{"class": 3})


def test_variables_of_xarray():
    values = np.stack([A, B], 1)
    many = xarray.Dataset(
        {
            "x": (("gene", "cell"), values.T, {"units": "counts"}),
            "image": (("cell", "row", "column"), np.ones((N, 2, 3))),
            "time": ("cell", A / 2, {"units": "s"}),
            "kind": ("cell", np.array([*KIND[:-1], None], dtype=object)),
            "known": ("cell", np.where(A > 3, np.nan, 1.0)),
            "genes": ("gene", [1.0, 2.0]),
        },
        coords={"gene": ["tp53", "myc"], "cell": [f"c{n}" for n in range(N)], "row": [0.5, 1.5],
                "place": ("cell", A)},
    )  # fmt: skip
    made = data.from_xarray(many, "cell", splits=None, classes={"known": ["no", "yes"]},
                            roles={"time": "covariate"})  # fmt: skip
    t = made.test
    assert t.sites["x"].tolist() == values.tolist()
    assert t.columns == {"x": ("tp53", "myc")}
    assert t.row_names.tolist() == [f"c{n}" for n in range(N)]
    assert t.units == {"x": "counts", "time": "s"}
    assert t.shapes == {"image": (2, 3)}
    assert t.sites["kind"].tolist() == [0, 1, 0, 1, 0, 1, 0, -1]
    assert t.observed["known"].tolist() == (A <= 3).tolist()
    assert made.roles == {"time": "covariate"}
    assert data.from_xarray(many.drop_vars("cell"), "cell", splits=None).test.row_names is None
    levels = many.drop_vars("cell").assign_coords(
        xarray.Coordinates.from_pandas_multiindex(
            pandas.MultiIndex.from_product([["a", "b"], [1, 2, 3, 4]]), "cell"
        )
    )
    names = data.from_xarray(levels, "cell", splits=None).test.row_names
    assert names[:2].tolist() == ["a/1", "a/2"]
    with pytest.raises(ValueError, match=re.escape(
        "the data are of type DataArray, expected an xarray.Dataset (of one array: "
        "array.to_dataset(name='x'))")):  # fmt: skip
        data.from_xarray(many["x"], "cell")
    t = data.from_arrays(many["x"].T, splits=None).test
    assert t.columns == {"x": ("tp53", "myc")} and t.units == {"x": "counts"}


def test_masked_arrays_of_xarray():
    values = np.ma.masked_array(np.stack([A, B], 1), (np.stack([A, A], 1) == 3))
    y = np.ma.masked_array(B // 2 % 2, A == 5)
    many = xarray.Dataset({"x": (("r", "c"), np.ones((N, 1))), "side": (("r", "c2"), values),
                           "y": ("r", y)})  # fmt: skip
    t = data.from_xarray(many, "r", splits=None).test
    assert t.observed["side"].tolist() == (A != 3).tolist()
    assert t.observed["y"].tolist() == (A != 5).tolist()


def test_names_stay_with_their_rows_in_all_parts():
    table = frame(kind=KIND).set_axis(list("hgfedcba"))
    d = data.from_frame(table, "kind", splits=(4, 2, 2), seed=3)
    for part in (d.train, d.validation, d.test):
        assert part.row_names.tolist() == [table.index[n] for n in part.numbers.tolist()]
        assert torch.equal(part.sites["x"][:, 0], part.numbers.float())
