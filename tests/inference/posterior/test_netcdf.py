"""The file of a posterior: what it keeps, who reads it, and what a full disk leaves."""

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
import resource

import arviz as az
import matplotlib as mpl
import numpy as np
import pytest
import torch
import xarray as xr
from worlds.arviz_versions import compare, loo, ppc_axes, trace_lines
from worlds.exports import NAMES, S, drawn, exact, table
from worlds.linear import linear

from ppl_models.inference.diagnostics.verdict import verdict
from ppl_models.inference.posterior import export, netcdf_write
from ppl_models.inference.posterior.groups import ARVIZ, as_inference_data, groups_of, with_groups

HISTORY = {"step": [0, 10, 20], "loss": [3.0, 2.0, 1.5], "stage": [0, 0, 0]}
ATTRS = {"objective": "the bound", "early": True, "nested": {"a": None, "b": [1, "c"]}}


@pytest.fixture(scope="module")
def world():
    pair = linear()
    idata = export.posterior(
        pair, table(pair), draws=S, block=4, seed=1, history=HISTORY, attrs=ATTRS
    )
    return pair, idata


def same(a, b):
    """Whether two datasets agree in values, names, types and attributes, but for the time."""
    assert a.equals(b)
    assert {n: v.dtype.kind for n, v in a.variables.items()} == {
        n: v.dtype.kind for n, v in b.variables.items()
    }
    assert a.attrs.keys() == b.attrs.keys()
    for name in a.attrs.keys() - {"created_at"}:
        np.testing.assert_array_equal(a.attrs[name], b.attrs[name])


def test_the_file_keeps_everything(world, tmp_path):
    pair, idata = world
    path = tmp_path / "posterior.nc"
    export.save(idata, path)
    assert [p.name for p in tmp_path.iterdir()] == ["posterior.nc"]
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        groups = groups_of(idata)
        assert set(tree.children) == set(groups)
        for name, group in groups.items():
            same(tree[name].to_dataset(), group)
        posterior = tree["posterior"]
        assert posterior["y"].dims == ("chain", "draw", "datum")
        assert posterior["z"].dims == ("chain", "draw", "datum", "z_dim")
        assert posterior["datum"].values.tolist() == [7, 10, 13, 16, 19, 22]
        assert tree["variational"]["y_class"].values.tolist() == list(NAMES)
        assert tree["training"]["step"].values.tolist() == [0, 10, 20]
        assert tree["training"]["loss"].dims == ("chain", "step")
        for attrs in (tree.attrs, posterior.attrs):
            assert attrs["creation_library"] == "ppl-models"
            assert attrs["inference_library"] == "pyro"
            assert attrs["inference_method"] == "svi"
            assert attrs["objective"] == "the bound"
            assert attrs["early"] == 1
            assert json.loads(attrs["nested"]) == {"a": None, "b": [1, "c"]}
            assert list(attrs["sample_dims"]) == ["chain", "draw"]
            assert list(attrs["sampled_variables"]) == ["y", "z"]
            assert json.loads(attrs["card_json"])["name"] == "linear"
            assert json.loads(attrs["config_json"])["classes"] == pair.config.classes
            assert int(attrs["seed"]) == 1


@pytest.mark.parametrize("block", [4, 1, 50])
def test_written_in_blocks_is_what_is_held_in_memory(tmp_path, monkeypatch, block):
    pair = linear(dtype=torch.float32)
    mask = torch.arange(11) % 3 > 0
    rows = table(linear(), 11, observed={"y": mask}).to(torch.float32)
    options = {"draws": 30, "block": block, "history": HISTORY, "attrs": ATTRS}
    whole = export.posterior(pair, rows, **options)
    filed = export.posterior(pair, rows, path=tmp_path / "p.nc", **options)
    held, written = groups_of(whole), groups_of(filed)
    assert set(held) == set(written)
    for name, group in held.items():
        same(group, written[name])
    assert written["constant_data"]["y_mask"].dtype == bool
    assert written["posterior"]["z"].dtype == np.float32
    for chosen in ({"datum": [5, 1]}, {"draw": slice(3, 20, 4), "datum": 2}, {"z_dim": -1}):
        assert written["posterior"]["z"].isel(chosen).equals(held["posterior"]["z"].isel(chosen))
    # Copied from file to file, some rows at a time.
    monkeypatch.setattr(netcdf_write, "SAVED_BYTES", 500)
    export.save(filed, tmp_path / "again.nc")
    for name, group in groups_of(export.load(tmp_path / "again.nc")).items():
        same(group, held[name])
    assert verdict(filed) == verdict(whole)


def test_chunks_hold_whole_rows_and_digits_are_not_packed(world, tmp_path, monkeypatch):
    pair, _ = world
    monkeypatch.setattr(netcdf_write, "CHUNK_BYTES", 30 * 2 * 8 * 3)
    export.posterior(pair, table(pair, 16), path=tmp_path / "p.nc", draws=30, block=8)
    with xr.open_dataset(tmp_path / "p.nc", group="posterior", engine="h5netcdf") as posterior:
        z, y = posterior["z"].encoding, posterior["y"].encoding
        # Three rows would fit, of which two divide the block of eight.
        assert z["chunksizes"] == (1, 30, 2, 2)
        assert not z["zlib"]
        assert y["zlib"]
        assert y["shuffle"]


def test_arviz_reads_the_file(tmp_path):
    pair = exact(linear(dtype=torch.float64)).float()
    rows = table(pair, 8)
    idata = export.posterior(pair, rows, path=tmp_path / "p.nc")
    assert idata.posterior["z"].dtype == np.float32
    summary = az.summary(idata, var_names=["z"], round_to="none")
    assert list(summary.index) == [
        f"z[{row}, {part}]" for row in rows.numbers.tolist() for part in range(2)
    ]
    loc = (idata.variational["y_probs"] * idata.variational["z_loc"]).sum("y_class")
    error = summary["mcse_mean"].to_numpy()
    assert (abs(summary["mean"].to_numpy() - loc.values.ravel()) < 4.5 * error).all()
    with pytest.warns(UserWarning, match="shape parameter"):  # codes that saw their own row
        left_out, _ = loo(idata, var_name="x")
    assert left_out.dims == ("datum",)
    # Codes are of their own row alone, so without the row log p(x) is what is left.
    evidence = pair.double().log_evidence(rows.sites["x"].double())[1].detach().numpy()
    weights = np.exp(-idata.log_likelihood["x"].values[0].astype(float))  # draws x rows
    error = weights.std(0) / weights.mean(0) / np.sqrt(len(weights))
    assert (abs(left_out.values - evidence) < 4.5 * error).all()


@pytest.mark.filterwarnings("ignore:Estimated shape parameter")
def test_arviz_plots_and_compares_files(tmp_path):
    """The story's own rows are told from those of a story with other means."""
    right, wrong = exact(linear()), exact(linear())
    with torch.no_grad():
        wrong.means += 4.0
    exact(wrong)
    rows = table(right, 12)
    files = {}
    for name, pair in (("right", right), ("wrong", wrong)):
        # Two fits from different seeds are two chains.
        files[name] = export.posterior([pair, pair], rows, path=tmp_path / f"{name}.nc", draws=50)
    found = compare(files, var_name="x")
    assert list(found.index) == ["right", "wrong"]
    sums = {name: float(loo(idata, var_name="x")[0].sum()) for name, idata in files.items()}
    assert found.to_dict() == pytest.approx(sums)
    backend = mpl.get_backend()
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    try:
        z = files["right"].posterior["z"].values[:, :, 0]
        shown = trace_lines(files["right"], "z", datum=[7])
        assert len(shown) == 2 * 2  # chains x parts of z
        assert {tuple(line) for line in shown} == {
            tuple(chain[:, part]) for chain in z for part in (0, 1)
        }
        axes = ppc_axes(files["right"], "x", 20)
        assert "x" in (axes.get_xlabel(), axes.get_title())
        ends = [
            (line.get_xdata().min(), line.get_xdata().max())
            for line in axes.lines
            if len(line.get_xdata())
        ]
        assert len(ends) > 20
        x = rows.sites["x"].numpy()
        off = abs(np.array(ends) - (x.min(), x.max())).max(1)
        assert off.min() < 2e-3 * np.ptp(x)  # the data's own density
    finally:
        plt.close("all")
        plt.switch_backend(backend)


def test_what_was_read_can_be_copied_sent_and_changed(world, tmp_path):
    _, idata = world
    export.save(idata, tmp_path / "p.nc")
    z = export.load(tmp_path / "p.nc")["posterior"]["z"]
    for other in (copy.deepcopy(z), pickle.loads(pickle.dumps(z))):
        assert other.equals(z)
    z[0, 0] = 7.0
    assert float(z[0, 0].min()) == 7.0
    assert export.load(tmp_path / "p.nc")["posterior"]["z"].equals(idata["posterior"]["z"])


def test_files_of_others_are_read(tmp_path):
    draws = xr.Dataset({"mu": (("chain", "draw"), np.arange(8.0).reshape(2, 4))})
    draws = draws.assign_coords(chain=[0, 1], draw=range(4))
    idata = as_inference_data({"posterior": draws}, {})
    idata.to_netcdf(str(tmp_path / "theirs.nc"), engine="h5netcdf")
    assert groups_of(export.load(tmp_path / "theirs.nc"))["posterior"].equals(draws)
    # Copied by us; the dimension without coordinate stays without.
    bare = with_groups(idata, posterior=draws.drop_vars("draw"))
    bare.attrs["creation_library"] = "ppl-models"
    export.save(bare, tmp_path / "ours.nc")
    again = groups_of(export.load(tmp_path / "ours.nc"))["posterior"]
    assert again.equals(draws.drop_vars("draw"))


@pytest.mark.skipif(
    ARVIZ < 1, reason="ArviZ below 1 (which wants Python 3.12): InferenceData is no tree"
)
def test_under_arviz_1_it_is_a_tree(world, tmp_path):
    pair, idata = world
    assert isinstance(idata, xr.DataTree)
    filed = export.posterior(pair, table(pair), path=tmp_path / "p.nc", draws=30)
    assert isinstance(filed, xr.DataTree)
    assert xr.open_datatree(tmp_path / "p.nc", engine="h5netcdf").equals(filed)
    assert len(verdict(filed).findings) == 3


# ---- what cannot be written or read -------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("room", [0, 5_000, 50_000])
def test_a_full_disk_leaves_nothing_behind(world, tmp_path, streamed, room):
    pair, idata = world
    path = tmp_path / "p.nc"
    path.write_bytes(b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    gc.collect()  # a tree's groups and root hold each other: its file closes when it is collected
    files = len(os.listdir("/proc/self/fd"))

    def write():
        if streamed:
            export.posterior(pair, table(pair, 40), draws=100, block=8, path=path)
        else:
            export.save(idata, path)

    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(OSError, match=r"^cannot write .*p\.nc: .+$") as error:
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["p.nc"]
    assert path.read_bytes() == b"before"
    assert len(os.listdir("/proc/self/fd")) == files


def test_an_error_on_the_way_leaves_the_old_file(tmp_path, monkeypatch):
    pair, path = linear(), tmp_path / "p.nc"
    export.posterior(pair, table(pair), draws=5, path=path)
    before = path.read_bytes()

    def fail(*_):
        raise ArithmeticError("on the way")

    monkeypatch.setattr(export, "prior", fail)
    with pytest.raises(ArithmeticError, match="on the way"):
        export.posterior(pair, table(pair), draws=7, path=path)
    assert [p.name for p in tmp_path.iterdir()] == ["p.nc"]
    assert path.read_bytes() == before


def test_files_that_cannot_be(world, tmp_path):
    pair, idata = world
    with pytest.raises(FileNotFoundError, match="is no folder"):
        export.save(idata, tmp_path / "none" / "p.nc")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        export.posterior(pair, table(pair), path=tmp_path / "none" / "p.nc")
    with pytest.raises(FileNotFoundError, match="no such file"):
        export.load(tmp_path / "none.nc")
    (tmp_path / "text.nc").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.nc is damaged or no netCDF4 file"):
        export.load(tmp_path / "text.nc")
    assert drawn(idata, "z").shape == (S, 6, 2)
