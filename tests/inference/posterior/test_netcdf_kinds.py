"""What netCDF files keep of every kind of value, and what they refuse by name."""

from __future__ import annotations

import datetime
import re

import arviz as az
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings, strategies as st
from worlds.exports import table
from worlds.linear import linear

from ppl_models.data import Table
from ppl_models.inference.posterior import export
from ppl_models.inference.posterior.groups import (
    Groups,
    Memory,
    as_inference_data,
    groups_of,
)
from ppl_models.inference.posterior.netcdf_write import write
from ppl_models.inference.posterior.rows import Site, Sites

OURS = {"creation_library": "ppl-models"}


def saved(dataset, path, attrs=OURS):
    export.save(as_inference_data({"group": dataset}, attrs), path)
    return path


def same(found, dataset, coordinates=True):
    """Values, dimensions, coordinates and attributes; numbers of attributes by their values."""
    xr.testing.assert_equal(found, dataset)
    if coordinates:
        assert set(found.coords) == set(dataset.coords)
    for name, variable in (*dataset.variables.items(), ("", dataset)):
        attrs = found.attrs if name == "" else found[name].attrs
        assert attrs.keys() == variable.attrs.keys()
        for key, value in variable.attrs.items():
            np.testing.assert_array_equal(np.atleast_1d(attrs[key]), np.atleast_1d(value))


def read_by_all(path, dataset):
    """By us, by xarray in both ways, and by ArviZ."""
    same(groups_of(export.load(path))["group"], dataset)
    with xr.open_dataset(path, group="group", engine="h5netcdf", decode_timedelta=True) as found:
        same(found, dataset)
    with xr.open_datatree(path, engine="h5netcdf", decode_timedelta=True) as tree:
        same(tree["group"].to_dataset(), dataset)
    same(groups_of(az.from_netcdf(str(path), engine="h5netcdf"))["group"], dataset)


KEPT = {
    "coordinates": xr.Dataset(
        {"a": ("x", [1.0, 2.0], {"units": "nat", "long name": "é", "n": 3})},
        {"x": ("x", ["p", "q"], {"of": "x"}), "label": ("x", ["one", "two"], {"k": 1.5}),
         "at": 7.0, "grid": (("x", "y"), np.ones((2, 3)))},
        {"title": "t"},
    ),
    "of a dimension's name": xr.Dataset({"x": ("y", [1, 2, 3]), "a": ("x", [1, 2])}),
    "of two dimensions": xr.Dataset({"x": (("x", "y"), np.ones((2, 3))), "a": ("x", [1, 2])}),
    "names": xr.Dataset({"a.b": ("é", [1]), "..": ("c d", [2]), " ": 3, "\ufffe": 4}),
    "dates": xr.Dataset(
        {"a": ("x", np.array(["2020-01-01", "NaT", "1700-02-03"], "M8[s]")),
         "b": ("x", np.array(["2020-01-01T00:00:00.123456789"] * 3, "M8[ns]")),
         "c": np.datetime64("2020-01-01", "us")},
        {"x": np.array(["2020-01-01", "2021-01-01", "2022-01-01"], "M8[ms]")},
    ),
    "spans": xr.Dataset({"a": ("x", np.array([1, "NaT", -3], "m8[ns]")),
                         "b": ("x", np.array([1, 2, 3], "m8[s]"))}),
    "gaps": xr.Dataset({"a": ("x", np.array(["a", None, np.nan, ""], object)),
                        "b": ("x", np.array([None, "missing", "", "x"], object)),
                        "c": ("x", np.array([None] * 4, object)),
                        "d": ("x", np.array([1, None, 2.5, 3], object)),
                        "e": ("x", np.array([True, False, None, True], object))}),
    "bytes": xr.Dataset({"a": ("x", np.array([b"a", b"b"])),
                         "b": ("x", np.array([b"ab\0c", b""], object))}),
    "complex": xr.Dataset({"a": ("x", [1 + 2j, 3]), "b": np.complex64(1j)}),
    "small": xr.Dataset({"a": ("x", np.array([1.5, np.nan], np.float16)), "b": True, "c": "text",
                         "d": ("x", [True, False]), "e": ("x", np.array([2**64 - 1, 0], "u8")),
                         "f": ("x", np.array([1, 2], ">i2"))}),
    "empty": xr.Dataset({"a": (("x", "y"), np.zeros((0, 3))), "b": ("x", np.array([], "U3")),
                         "c": ("datum", np.array([], "M8[ns]")), "d": ("x", np.array([], object)),
                         "e": (("datum", "x"), np.zeros((0, 0), bool))}),
    "tables of pandas": xr.Dataset({"a": ("x", pd.Categorical(["a", "b"])),
                                    "b": ("x", pd.array([1, None], "Int64"))}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KEPT)
def test_what_is_kept(kind, tmp_path):
    read_by_all(saved(KEPT[kind], tmp_path / "p.nc"), KEPT[kind])


def test_types_of_dates_and_text_are_kept(tmp_path):
    found = groups_of(export.load(saved(KEPT["dates"], tmp_path / "p.nc")))["group"]
    assert [str(v.dtype) for v in found.variables.values()] == [
        str(v.dtype) for v in KEPT["dates"].variables.values()
    ]
    found = groups_of(export.load(saved(KEPT["bytes"], tmp_path / "q.nc")))["group"]
    assert found["a"].values.dtype.kind == "S"


@pytest.mark.parametrize(
    "value",
    [
        True, np.bool_(False), 3, np.int8(3), 2**64 - 1, 1.5, np.float32(0.1), float("nan"), "",
        "é\ufffe", np.str_("q"), [1, 2], (1.5, 2.5), [True, False], ["a", "b"], ["a"], [],
        np.array(["a", "b"]), np.array(3), np.zeros((2, 2)), np.arange(40_000.0), "x" * 200_000,
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_attributes_that_are_kept(value, tmp_path):
    dataset = xr.Dataset({"a": ("x", [1, 2], {"v": value})}, attrs={"v": value})
    path = saved(dataset, tmp_path / "p.nc", {**OURS, "v": value})
    read_by_all(path, dataset)
    np.testing.assert_array_equal(
        np.atleast_1d(export.load(path).attrs["v"]), np.atleast_1d(value)
    )
    # What was read is written again as it was.
    export.save(export.load(path), tmp_path / "q.nc")
    read_by_all(tmp_path / "q.nc", dataset)


EXPECTED = (
    "expected text, a number of at most 64 bits, or a list of one of them (anything else as JSON "
    "text)"
)
CHANGES = (
    "by which readers of netCDF would change what is read; remove it, or decode by it first "
    "(xarray.decode_cf)"
)
A = "variable 'a' of group 'group'"


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"a/b": 1}, "variable 'a/b' of group 'group': its name is a path to HDF5"),
        ({".": 1}, "variable '.' of group 'group': its name is a path to HDF5"),
        ({"": 1}, "variable '' of group 'group': its name is empty"),
        ({3: 1}, "variable 3 of group 'group': its name is no text"),
        ({"a\0": 1}, "variable 'a\\x00' of group 'group': its name has a zero byte, where HDF5 "
         "ends a text"),
        ({"\ud800": 1}, "variable '\\ud800' of group 'group': its name has half of a surrogate "
         "pair, which no file can hold"),
        ({"_nc4_non_coord_a": 1}, "variable '_nc4_non_coord_a' of group 'group': its name is "
         "netCDF's own"),
        ({"a": ("x/y", [1])}, f"dimension 'x/y' of {A}: its name is a path to HDF5"),
        ({"a": ("x", np.array([1, "a"], object))},
         f"{A} holds values of type number and str, expected one kind"),
        ({"a": ("x", np.array([{}, {}], object))},
         f"{A} holds values of type dict, expected numbers, text or dates"),
        ({"a": ("x", np.array([2**70, 1], object))}, f"{A} holds numbers that 64 bits cannot"),
        ({"a": ("x", np.array([2**60 + 1, None], object))},
         f"{A} holds numbers that 64 bits cannot"),
        ({"a": ("x", np.array([b"a", None], object))},
         f"{A} holds bytes with gaps or with zeros at their end, expected text"),
        ({"a": ("x", np.array([b"a\0"], object))},
         f"{A} holds bytes with gaps or with zeros at their end, expected text"),
        ({"a": ("x", ["a\0b"])}, f"{A} holds 'a\\x00b', which has a zero byte, where HDF5 ends a "
         "text"),
        ({"a": ("x", ["\udfff"])}, f"{A} holds '\\udfff', which has half of a surrogate pair, "
         "which no file can hold"),
        ({"a": ("x", np.zeros(2, "i4, f4"))}, f"{A} holds [('f0', '<i4'), ('f1', '<f4')], "
         "expected numbers, truth values, text or dates"),
        ({"a": ("x", np.zeros(2, np.clongdouble))}, f"{A} holds complex256, expected numbers, "
         "truth values, text or dates"),
    ],
)  # fmt: skip
def test_variables_that_are_refused(variables, words, tmp_path):
    path = tmp_path / "p.nc"
    path.write_bytes(b"before")
    with pytest.raises(ValueError, match=f"^{re.escape(f'cannot write {path}: {words}')}$"):
        saved(xr.Dataset(variables), path)
    assert [p.name for p in tmp_path.iterdir()] == ["p.nc"]
    assert path.read_bytes() == b"before"


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (xr.Dataset({"a": ("x", [1, 2])}).stack(s=("x",)), "variable 's' of group 'group' is a "
         "MultiIndex, which netCDF cannot hold; call .reset_index first"),
        (xr.Dataset({"a": ("x", [1])}, {"b c": ("x", [2])}), "coordinate 'b c' of group 'group' "
         "has a space in its name, which netCDF keeps for data only"),
    ],
)  # fmt: skip
def test_coordinates_that_are_refused(dataset, words, tmp_path):
    path = tmp_path / "p.nc"
    with pytest.raises(ValueError, match=f"^{re.escape(f'cannot write {path}: {words}')}$"):
        saved(dataset, path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("attrs", "words"),
    [
        ({"v": None}, f"is None (NoneType), {EXPECTED}"),
        ({"v": {"a": 1}}, f"is {{'a': 1}} (dict), {EXPECTED}"),
        ({"v": [1, "a"]}, f"is [1, 'a'] (list), {EXPECTED}"),
        ({"v": [[1], [2, 3]]}, f"is [[1], [2, 3]] (list), {EXPECTED}"),
        ({"v": 2**64}, f"is {2**64} (int), {EXPECTED}"),
        ({"v": [2**60 + 1, 0.5]}, f"is [{2**60 + 1}, 0.5] (list), {EXPECTED}"),
        ({"v": b"x"}, f"is b'x' (bytes), {EXPECTED}"),
        ({"v": 1j}, f"is 1j (complex), {EXPECTED}"),
        ({"v": datetime.date(2020, 1, 1)}, f"is datetime.date(2020, 1, 1) (date), {EXPECTED}"),
        ({"v": np.datetime64("2020")}, f"is np.datetime64('2020') (datetime64), {EXPECTED}"),
        ({"v": "x\0"}, "holds 'x\\x00', which has a zero byte, where HDF5 ends a text"),
        ({"v": ["a", "\0"]}, "holds '\\x00', which has a zero byte, where HDF5 ends a text"),
        ({"coordinates": "a"}, f"is 'a', {CHANGES}"),
        ({"CLASS": "a"}, "has a name that HDF5 and netCDF keep for themselves"),
        ({"": "a"}, "has a name that is empty"),
        ({3: "a"}, "has a name that is no text"),
    ],
)
@pytest.mark.parametrize("of", ["variable", "group", "file"])
def test_attributes_that_are_refused(of, attrs, words, tmp_path):
    own = {place: attrs if of == place else {} for place in ("variable", "group", "file")}
    dataset = xr.Dataset({"a": ("x", [1, 2], own["variable"])}, attrs=own["group"])
    whole = {"variable": A, "group": "group 'group'", "file": "the file"}[of]
    path = tmp_path / "p.nc"
    words = f"cannot write {path}: attribute {next(iter(attrs))!r} of {whole} {words}"
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        saved(dataset, path, own["file"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale_factor", 2.0), ("add_offset", 1), ("_FillValue", 2), ("missing_value", 2),
        ("_Unsigned", "true"), ("units", "days since 2000-01-01"), ("dtype", "bool"),
        ("dtype", "timedelta64[ns]"), ("_Encoding", "utf-8"),
    ],
)  # fmt: skip
def test_attributes_by_which_numbers_would_change(name, value, tmp_path):
    words = f"attribute {name!r} of {A} is {value!r}, {CHANGES}"
    with pytest.raises(ValueError, match=f": {re.escape(words)}$"):
        saved(xr.Dataset({"a": ("x", [1, 2], {name: value})}), tmp_path / "p.nc")
    # What was decoded by it goes into the file decoded.
    packed = xr.Dataset({"a": ("x", [1, 2], {name: value} if name != "_Unsigned" else {})})
    if name != "_Encoding" and value != "timedelta64[ns]":
        decoded = xr.decode_cf(packed, decode_timedelta=True)
        read_by_all(saved(decoded, tmp_path / "p.nc"), decoded)


def test_trees_that_are_not_flat_are_refused(tmp_path):
    nested = xr.DataTree.from_dict({"/a/b": xr.Dataset({"x": 1})})
    with pytest.raises(ValueError, match=r"^group 'a' holds group 'b', expected groups of arrays"):
        export.save(nested, tmp_path / "p.nc")
    with pytest.raises(ValueError, match=r"^variable 'x' stands in no group, expected groups of"):
        export.save(xr.DataTree(xr.Dataset({"x": 1})), tmp_path / "p.nc")
    assert not list(tmp_path.iterdir())


# ---- random datasets ----------------------------------------------------------------------

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1,
                max_size=6).filter(lambda n: n != "." and not n.startswith("_nc4_"))  # fmt: skip
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8)
NUMBER = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=True)
ATTRS = st.dictionaries(
    NAMES.filter(lambda n: n not in ("units", "dtype", "coordinates")),
    TEXT | NUMBER | st.booleans() | st.lists(TEXT, max_size=3)
    | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    max_size=3,
)  # fmt: skip
INT64 = st.integers(-(2**63) + 1, 2**63 - 1)
ENTRIES = {
    "i8": INT64, "u8": st.integers(0, 2**64 - 1), "i1": st.integers(-128, 127),
    "f8": st.floats(), "f4": st.floats(width=32), "f2": st.floats(width=16),
    "?": st.booleans(), "U": TEXT, "S": st.binary(max_size=4), "O": TEXT | st.none(),
    "c16": st.complex_numbers(), "M8[ns]": INT64, "m8[ns]": INT64, "M8[s]": st.integers(0, 2**31),
}  # fmt: skip


@st.composite
def datasets(draw):
    sizes = draw(st.dictionaries(NAMES, st.integers(0, 3), min_size=1, max_size=3))
    sizes |= {"datum": draw(st.integers(0, 5))}
    variables, coordinates = {}, {}
    for name in draw(st.lists(NAMES, unique=True, max_size=4)):
        dims = [] if name in sizes else draw(st.lists(st.sampled_from(sorted(sizes)), unique=True))
        dims = [name] if name in sizes else dims
        kind = draw(
            st.sampled_from([k for k in ENTRIES if k not in ("?", "c16", "f2") or dims != [name]])
        )
        shape = tuple(sizes[dim] for dim in dims)
        count = int(np.prod(shape))
        values = draw(st.lists(ENTRIES[kind], min_size=count, max_size=count))
        array = np.array(values, None if kind in "US" and values else kind).reshape(shape)
        array = array if kind in "US" else array.astype(kind)
        as_coordinate = dims == [name] or (name.split() == [name] and draw(st.booleans()))
        (coordinates if as_coordinate else variables)[name] = (dims, array, draw(ATTRS))
    # ArviZ leaves groups without data out.
    variables["data of all"] = (sorted(sizes), np.ones([sizes[d] for d in sorted(sizes)]))
    return xr.Dataset(variables, coordinates, draw(ATTRS))


@given(datasets())
@settings(
    max_examples=15, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
def test_random_datasets_are_kept(tmp_path_factory, dataset):
    path = tmp_path_factory.mktemp("random") / "p.nc"
    read_by_all(saved(dataset, path), dataset)
    assert [p.name for p in path.parent.iterdir()] == ["p.nc"]


# ---- coordinates of exports ---------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
def test_labels_along_a_dimension(streamed, tmp_path):
    rows = table(linear(), 6)
    names = np.array([f"cell {n}" for n in range(6)])
    columns = np.array(["one", "two", "three"])

    def fill(store):
        sites = Sites({"x": Site("x", (3,), None)}, {}, ())
        groups = Groups(rows, sites, store, drawn=4)
        groups.coordinates["x_dim"] = columns
        groups.labels["datum"] = {"datum_name": names}
        for start in (0, 2):
            part = np.arange(2 * start, 2 * start + 6.0).reshape(2, 3)
            groups.add("posterior", {"x": (("datum", "x_dim"), part)}, row=start)
        groups.add("diagnostics", {"khat": (("datum",), np.arange(6.0))})
        groups.add("prior", {"w": (("draw",), np.arange(2.0))})
        groups.describe({"created_at": "now", **OURS})

    path = tmp_path / "p.nc"
    if streamed:
        write(path, fill)
        with xr.open_datatree(path, engine="h5netcdf") as tree:
            assert set(tree["posterior"].coords) == {"datum", "x_dim", "datum_name"}
        found = export.load(path)
    else:
        memory = Memory()
        fill(memory)
        found = memory.inference_data()
    found = groups_of(found)
    assert set(found["posterior"].coords) == {"datum", "x_dim", "datum_name"}
    assert found["posterior"]["datum_name"].values.tolist() == names[:4].tolist()
    assert found["posterior"]["x_dim"].values.tolist() == columns.tolist()
    assert found["posterior"]["x"].coords["datum_name"].dims == ("datum",)
    assert found["diagnostics"]["khat"].datum_name.values.tolist() == names.tolist()
    assert set(found["prior"].coords) == {"draw"}
    assert "coordinates" not in found["posterior"].attrs
    # And through further saves.
    export.save(as_inference_data(found, OURS), tmp_path / "again.nc")
    with xr.open_dataset(tmp_path / "again.nc", group="posterior", engine="h5netcdf") as again:
        xr.testing.assert_equal(again, found["posterior"])


@pytest.mark.parametrize(
    ("attrs", "words"),
    [
        ({"a": "x\0"}, "attribute 'a' holds 'x\\x00', which has a zero byte"),
        ({"a": 2**80}, "attribute 'a' is 1208925819614629174706176 (int), expected text"),
        ({"a": object}, "attribute 'a' is <class 'object'> and cannot be stored, expected text"),
        ({"coordinates": "x"}, "attribute 'coordinates' is 'x', by which readers of netCDF"),
    ],
)
def test_attributes_of_an_export_are_checked_before_the_draws(attrs, words, monkeypatch):
    monkeypatch.setattr(export, "prior", None)
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        export.posterior(linear(), table(linear()), attrs=attrs)


def test_attributes_of_an_export_are_plain(tmp_path):
    attrs = {
        "a": np.float32(0.5),
        "b": np.arange(2),
        "c": None,
        "d": {"e": np.int64(3)},
        "f": True,
    }
    held = export.posterior(linear(), table(linear()), draws=5, attrs=attrs)
    filed = export.posterior(linear(), table(linear()), draws=5, attrs=attrs, path=tmp_path / "p")
    for idata in (held, filed):
        assert idata.attrs["a"] == 0.5
        assert list(idata.attrs["b"]) == [0, 1]
        assert [idata.attrs[name] for name in "cdf"] == ["null", '{"e": 3}', 1]


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "\0"])
def test_names_of_classes_that_no_file_can_hold(name, tmp_path):
    pair = linear()
    rows = table(pair)
    named = Table("w", rows.sites, numbers=rows.numbers, classes={"y": ("a", "b", "c", name)})
    words = re.escape(f"a class of site 'y' holds {name!r}, which has ")
    with pytest.raises(ValueError, match=f"^{words}"):
        export.posterior(pair, named, draws=5, path=tmp_path / "p.nc")
    assert not list(tmp_path.iterdir())
