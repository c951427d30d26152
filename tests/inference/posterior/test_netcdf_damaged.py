"""Posterior files of strangers and damaged ones: refused by their name, nothing large made."""

from __future__ import annotations

import os
import re
import tracemalloc

import h5py
import numpy as np
import pytest
import xarray as xr
from worlds.exports import table
from worlds.linear import linear

from ppl_models.inference.posterior import export
from ppl_models.inference.posterior.groups import as_inference_data, groups_of

TERA = 10**12


def external_link(group, path):
    group["elsewhere"] = h5py.ExternalLink("secret.h5", "/x")


def dangling_link(group, path):
    group["elsewhere"] = h5py.SoftLink("/none")


def soft_link(group, path):
    group["elsewhere"] = h5py.SoftLink("/posterior/z")


def loop(group, path):
    group["again"] = group.parent


def virtual(group, path):
    layout = h5py.VirtualLayout((2 * TERA,), "f8")
    layout[:] = h5py.VirtualSource("secret.h5", "x", (2 * TERA,))
    group.create_virtual_dataset("far", layout)


def external(group, path):
    group.create_dataset(
        "far", (1 << 18,), "f8", external=[(path.with_name("secret"), 0, 1 << 21)]
    )


def large(group, path):
    group.create_dataset("much", (TERA,), "f8")


def large_packed(group, path):
    group.create_dataset("much", (TERA,), "f8", chunks=(1000,), compression="gzip")[0] = 1


def large_text(group, path):
    group.create_dataset("much", (TERA,), h5py.string_dtype())


def large_coordinate(group, path):
    group.create_dataset("much", (TERA,), "i8").make_scale("much")


BAD = {
    external_link: "'/posterior/elsewhere' is a link into another file, 'secret.h5'",
    dangling_link: "'/posterior/elsewhere' is a link to nothing, '/none'",
    soft_link: "/posterior/elsewhere is a link to elsewhere",
    loop: "",  # to us a group within a group, to others a group that stands in it twice
    virtual: "'/posterior/far' is a virtual data set, made of other files",
    external: "'/posterior/far' is stored in another file, ",
    large: "'/posterior/much' claims 8000000000000 bytes, but at most 0 are stored",
    large_packed: "'/posterior/much' claims 8000000000000 bytes, but at most ",
    large_text: "'/posterior/much' claims 8000000000000 bytes, but at most 0 are stored",
    large_coordinate: "'/posterior/much' claims 8000000000000 bytes, but at most 0 are stored",
}


def posterior(path, ours):
    draws = xr.Dataset({"z": (("chain", "draw"), np.ones((2, 3)))}, {"chain": [0, 1]})
    idata = as_inference_data({"posterior": draws}, {"creation_library": "ppl-models"})
    export.save(idata, path)
    if not ours:
        with h5py.File(path, "a") as file:
            del file.attrs["creation_library"]
    return path


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("change", BAD, ids=lambda change: change.__name__)
def test_what_leads_elsewhere_or_claims_too_much(change, ours, tmp_path):
    path = posterior(tmp_path / "p.nc", ours)
    with h5py.File(path, "a") as file:
        change(file["posterior"], path)
    before = len(os.listdir("/proc/self/fd"))
    tracemalloc.start()
    words = f"{path} is damaged or no netCDF4 file ({BAD[change]}"
    with pytest.raises(ValueError, match=f"^{re.escape(words)}") as error:
        export.load(path)
    assert tracemalloc.get_traced_memory()[1] < 1e7
    tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert len(os.listdir("/proc/self/fd")) == before


def no_scale(file):
    del file["posterior/z"].attrs["DIMENSION_LIST"]


def scale_of_nothing(file):
    del file["posterior/chain"]


def scale_of_another_size(file):
    file["posterior/z"].dims[0].detach_scale(file["posterior/chain"])
    file["posterior/z"].dims[0].attach_scale(file["posterior/draw"])


def scale_that_is_a_group(file):
    lists = file["posterior/z"].attrs["DIMENSION_LIST"]
    del file["posterior/z"].attrs["DIMENSION_LIST"]
    lists[0] = np.array([file["posterior"].ref], h5py.ref_dtype)
    file["posterior/z"].attrs.create(
        "DIMENSION_LIST", lists, dtype=h5py.vlen_dtype(h5py.ref_dtype)
    )


def numbers_of_no_dimension(file):
    file["posterior/z"].attrs["CLASS"] = np.bytes_("DIMENSION_SCALE")
    file["posterior/z"].attrs["_Netcdf4Coordinates"] = [7, 8]


def group_in_a_group(file):
    file["posterior"].create_group("more")


def array_in_no_group(file):
    file["alone"] = 3


def marks_of_another_kind(file):
    file["posterior"].attrs["note"] = np.void(b"\xff\xfe")
    file["posterior"].attrs["nothing"] = h5py.Empty("f4")
    file["posterior"].attrs["coordinates"] = [1, 2, 3]
    file["posterior/z"].attrs["_FillValue"] = "x"
    file["posterior/z"].attrs["dtype"] = [1, 2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no_scale, "dimension 0 of /posterior/z has no name"),
        (scale_of_nothing, ""),
        (scale_of_another_size,
         "dimension 0 of /posterior/z has 2 entries, but /posterior/draw has shape (3,)"),
        (scale_that_is_a_group, ""),
        (numbers_of_no_dimension, "7"),
        (group_in_a_group, "/posterior/more is a group within a group"),
        (array_in_no_group, "/alone is no group"),
        (marks_of_another_kind, None),
    ],
)  # fmt: skip
def test_what_is_damaged_is_named(change, words, tmp_path):
    path = posterior(tmp_path / "p.nc", True)
    with h5py.File(path, "a") as file:
        change(file)
    if words is None:
        assert float(groups_of(export.load(path))["posterior"]["z"].sum()) == 6
        return
    begin = f"{path} is damaged or no netCDF4 file ({words}"
    with pytest.raises(ValueError, match=f"^{re.escape(begin)}") as error:
        export.load(path)
    assert "\n" not in str(error.value)


def test_rows_that_cannot_be_read_are_named_when_they_are(tmp_path):
    path = tmp_path / "p.nc"
    pair = linear()
    export.posterior(pair, table(pair, 40), draws=50, path=path)
    with h5py.File(path) as file:
        chunk = file["posterior/y"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(data)
    words = f"{path} is damaged: /posterior/y cannot be read ("
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        export.load(path).posterior["y"].load()


@pytest.mark.parametrize("ours", [pytest.param(True, marks=pytest.mark.long), False])
def test_flipped_bytes_give_values_or_an_error_that_names_the_file(ours, tmp_path):
    """Every twentieth of a small file's bytes, so that it ends within seconds."""
    path = posterior(tmp_path / "p.nc", ours)
    whole = path.read_bytes()
    told = []
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        data = bytearray(whole)
        data[place] ^= 0xFF
        path.write_bytes(data)
        try:
            for group in groups_of(export.load(path)).values():
                group.load()
        except (ValueError, OSError) as error:
            told.append(str(error))
    assert 0 < len(told) < 45
    assert not ours or all(str(path) in error for error in told)
