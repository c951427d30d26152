"""Modalities of the same cells, from an h5mu file and from h5ad files beside each other."""

from __future__ import annotations

import warnings

import h5py
import numpy as np
import pytest
import torch
from torch.testing import assert_close
from worlds.h5ad_files import counts_of, modality, write_mudata
from worlds.reader_files import remade

from ppl_models import data
from ppl_models.data.tables.lazy_column import is_lazy

CELLS = [f"cell{k}" for k in range(60)]
RNA, PROT = counts_of(45, 7), counts_of(50, 3, seed=1)
OF = {"rna": np.arange(45), "prot": np.arange(59, 9, -1)}  # rows of all cells, in own order
KIND = np.array(["b", "mono", "t"], dtype=object)[np.arange(45) % 3]
LANE = np.array(["left", "right"], dtype=object)[np.arange(60) % 2]
PART = np.array(["train", "test", "validation"], dtype=object)[np.arange(60) % 3]


def parts(form="csr"):
    names = {site: [CELLS[k] for k in rows] for site, rows in OF.items()}
    return {
        "rna": {
            "counts": RNA, "form": form, "cells": names["rna"], "kind": KIND,
            "features": [f"gene{k}" for k in range(7)],
        },
        "prot": {
            "counts": PROT, "form": "dense", "cells": names["prot"],
            "features": ["CD3", "CD4", "CD8"], "depth": np.arange(50.0),
        },
    }  # fmt: skip


@pytest.fixture
def path(tmp_path):
    write_mudata(tmp_path / "two.h5mu", CELLS, parts(), lane=LANE, part=PART)
    return tmp_path / "two.h5mu"


def load(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of missing labels
        return data.load(str(path), **options)


def expected(counts, rows):
    values = np.full((60, counts.shape[1]), np.nan, np.float32)
    values[rows] = counts
    return torch.from_numpy(values)


def check(table):
    """All cells in order, with what each modality has of them."""
    for site, counts in (("rna", RNA), ("prot", PROT)):
        wanted = expected(counts, OF[site])
        assert_close(table.sites[site][:], wanted, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(table.observed[site], ~wanted[:, 0].isnan())
    assert list(table.row_names) == CELLS
    assert table.columns["prot"] == ("CD3", "CD4", "CD8")
    assert table.columns["rna"] == tuple(f"gene{k}" for k in range(7))


@pytest.mark.parametrize("form", ["dense", "csr", "csc", "csr int64"])
@pytest.mark.parametrize("memory", [1 << 28, 100])
def test_cells_are_matched_by_name_and_may_lack_a_modality(tmp_path, form, memory):
    write_mudata(tmp_path / "two.h5mu", CELLS, parts(form))
    table = data.load(str(tmp_path / "two.h5mu"), splits=None, memory=memory).test
    assert list(table.sites) == ["rna", "prot"]
    check(table)
    assert is_lazy(table.sites["rna"]) == (memory == 100 and form != "csc")
    kinds = {frozenset(regime.sites): len(regime.index) for regime in table.regimes()}
    assert kinds == {
        frozenset(("rna", "prot")): 35,
        frozenset(["rna"]): 10,
        frozenset(["prot"]): 15,
    }


def test_columns_of_all_cells_and_of_a_modality(path):
    options = {"labels": "lane,rna:kind", "splits": "part"}
    d = load(path, **options)
    assert [len(t) for t in (d.train, d.validation, d.test)] == [20, 20, 20]
    t = d.test
    assert t.classes["lane"] == ("left", "right") and t.classes["rna:kind"] == ("b", "mono", "t")
    rows = t.numbers
    assert torch.equal(t.sites["lane"], rows % 2)
    seen = rows < 45
    assert torch.equal(t.observed["rna:kind"], seen)
    assert torch.equal(t.sites["rna:kind"][seen], rows[seen] % 3)
    remade_quietly(d)
    plain = load(path, labels="kind", covariates="lane", splits=None)
    assert plain.roles == {"lane": "covariate"}
    assert plain.test.counts["kind"] == 45
    remade_quietly(plain)


def remade_quietly(dataset):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        remade(dataset)


def test_drawn_parts_for_judging_have_both(path):
    d = data.load(str(path), seed=3)
    assert sum(len(t) for t in (d.train, d.validation, d.test)) == 60
    assert not d.validation.observed and not d.test.observed
    assert d.train.counts["rna"] < len(d.train) > d.train.counts["prot"]
    remade(d)
    some = data.load(str(path), modalities="prot", layer={"prot": "layers/half"}, counts=False)
    assert list(some.train.sites) == ["prot"]
    assert float(some.train.sites["prot"].nan_to_num().sum() % 1) in (0, 0.5)
    with pytest.raises(ValueError, match=r"two.h5mu: site 'prot': layers/half holds 0\.5 at row"):
        data.load(str(path), layer={"prot": "layers/half"})
    data.load(str(path), layer={"prot": "layers/half"}, counts="rna")


def test_files_beside_each_other_are_the_same(path, tmp_path):
    for site, given in parts().items():
        with h5py.File(tmp_path / f"{site}.h5ad", "w") as file:
            modality(file, **given)
    d = load(
        tmp_path / "rna.h5ad", site="rna", beside={"prot": str(tmp_path / "prot.h5ad")},
        splits=None, labels="kind", covariates="prot:depth",
    )  # fmt: skip
    # Cells of the first file, then those that are in the second alone, in its order.
    names = [CELLS[k] for k in (*OF["rna"], *OF["prot"][:15])]
    assert list(d.test.row_names) == names
    order = torch.tensor([names.index(cell) for cell in CELLS])
    check(d.test.rows(order))
    assert_close(
        d.test.rows(order).sites["prot:depth"].flatten(),
        expected(np.arange(50.0)[:, None], OF["prot"]).flatten(), equal_nan=True,
    )  # fmt: skip
    remade_quietly(d)
    files = data.sources(d.recipe["name"], **d.recipe["options"])
    assert [file.name for file in files] == ["rna.h5ad", "prot.h5ad"]
    with pytest.raises(ValueError, match="site is 'rna' and there are no files beside it"):
        data.load(str(tmp_path / "rna.h5ad"), site="rna")
    with pytest.raises(ValueError, match="library is 'size' beside other files"):
        data.load(str(tmp_path / "rna.h5ad"), library="size", beside={"y": "z.h5ad"})
    with pytest.raises(FileNotFoundError, match=r"z\.h5ad: no such file, expected an \.h5ad"):
        data.load(str(tmp_path / "rna.h5ad"), beside={"y": "z.h5ad"})


def test_cells_that_stay_in_the_file_are_streamed_and_stored(path, tmp_path):
    inside, outside = data.load(str(path), seed=1), data.load(str(path), seed=1, memory=100)
    for part in ("train", "validation", "test"):
        one, other = getattr(inside, part), getattr(outside, part)
        assert torch.equal(one.numbers, other.numbers)
        for site in ("rna", "prot"):
            assert_close(other.sites[site][:], one.sites[site], equal_nan=True, rtol=0, atol=0)
    remade(outside)
    batches = [batch for step in range(4) for batch in data.Stream(outside.train, 20).step(step)]
    for batch in batches:
        for site, values in batch.items():
            wanted = expected(*((RNA, OF["rna"]) if site == "rna" else (PROT, OF["prot"])))
            assert torch.equal(values, wanted[batch.rows])
    data.write(outside, tmp_path / "kept.h5")
    found = data.open(tmp_path / "kept.h5").train
    assert_close(found.sites["rna"][:], outside.train.sites["rna"][:], equal_nan=True)
    assert torch.equal(found.observed["prot"], outside.train.observed["prot"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"modalities": "rna,port"}, "unknown modality 'port': did you mean 'prot'"),
        ({"layer": {"port": "X"}}, "layer: unknown modality 'port'"),
        ({"layer": "layers/x"}, "no 'layers/x'; there is X, layers/half"),
        ({"labels": "kid"}, "unknown obs column 'kid': did you mean 'kind'"),
        ({"labels": "prot:kind"}, "unknown obs column 'prot:kind'"),
        ({"labels": "kind", "covariates": "kind"}, "two sites are called 'kind'"),
        ({"counts": "port"}, "unknown modality with counts 'port'"),
        ({"splits": "parts"}, "unknown obs column 'parts'"),
    ],
)
def test_wishes_that_cannot_be(path, options, words):
    with pytest.raises(ValueError, match=words) as told:
        load(path, **options)
    assert str(path) in str(told.value) and "\n" not in str(told.value)


def renamed(file, place, name):
    file[place][3] = name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.attrs.__setitem__("axis", 1), "share features .axis 1., expected shared"),
        (lambda f: renamed(f, "mod/rna/obs/_index", "new"), "cell 'new' of rna is not in obs"),
        (lambda f: renamed(f, "mod/rna/obs/_index", "cell0"), "rna has the cell 'cell0' twice"),
        (lambda f: renamed(f, "obs/_index", "cell0"), "cell 'cell0' stands in obs twice"),
        (lambda f: f["obsmap/prot"].__setitem__(40, 9), "obsmap/prot and the names of the cells"),
        (lambda f: f["mod/rna/X/indptr"].__setitem__(3, 999), "do not fit a matrix"),
        (lambda f: f["mod/prot/X"].__setitem__((2, 1), 0.5), "site 'prot': X holds 0.5 at row 2"),
        (lambda f: f.__delitem__("mod"), "expected an h5mu file of MuData"),
        (
            lambda f: f["mod/rna/obs"].__delitem__("_index"),
            "rna has 0 names of cells, expected 45",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(path, change, words):
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ValueError, match=words) as told:
        load(path)
    assert str(path) in str(told.value) and "\n" not in str(told.value)


def test_a_few_cells_of_a_wide_modality_do_not_take_all_memory(tmp_path):
    many = [f"cell{k}" for k in range(5000)]
    few = {"counts": counts_of(4, 300), "form": "csc", "cells": many[:4],
           "features": [f"gene{k}" for k in range(300)]}  # fmt: skip
    write_mudata(tmp_path / "few.h5mu", many, {"rna": few})
    with pytest.raises(ValueError, match="site 'rna' has 4 of 5000 cells, and would take 6000000"):
        data.load(str(tmp_path / "few.h5mu"), memory=10_000)
    assert len(data.load(str(tmp_path / "few.h5mu"), splits=None).test) == 5000


def test_files_that_mudata_writes(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mudata = pytest.importorskip("mudata")
        anndata, pandas = pytest.importorskip("anndata"), pytest.importorskip("pandas")
        anndata.settings.allow_write_nullable_strings = True
        made = {}
        for site, given in parts().items():
            obs = {k: given[k] for k in ("kind", "depth") if k in given}
            made[site] = anndata.AnnData(
                given["counts"].astype(np.float32),
                obs=pandas.DataFrame(obs, index=given["cells"]),
                var=pandas.DataFrame(index=given["features"]),
            )
        whole = mudata.MuData(made)
        whole.obs["lane"] = [LANE[CELLS.index(name)] for name in whole.obs_names]
        whole.write(tmp_path / "two.h5mu")
    table = load(tmp_path / "two.h5mu", splits=None, labels="lane,rna:kind").test
    names = list(table.row_names)
    order = torch.tensor([names.index(cell) for cell in CELLS])
    check(table.rows(order))
    assert torch.equal(table.rows(order).sites["lane"], torch.arange(60) % 2)
