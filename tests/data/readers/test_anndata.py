"""h5ad files in every layout that anndata writes, and cells that stay in their file."""

from __future__ import annotations

import pickle
import warnings

import h5py
import numpy as np
import pytest
import torch
from torch.testing import assert_close
from worlds.h5ad_files import CELLS, GENES, MISSING, WORDS, counts_of, write
from worlds.reader_files import remade

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.data.tables.lazy_column import is_lazy

FORMS = ("dense", "csr", "csc", "csr int64", "csc int64")
COUNTS = counts_of()


@pytest.mark.parametrize("nullable", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_layer_of_every_form(tmp_path, form, nullable) -> None:
    path = tmp_path / "cells.h5ad"
    write(path, form, COUNTS, nullable)
    for layer, expected in {
        "X": COUNTS,
        "layers/twice": 2 * COUNTS,
        "raw/X": np.concatenate([COUNTS, COUNTS[:, :1]], 1),
    }.items():
        table = data.load(str(path), layer=layer, splits=None).test
        assert_close(table.sites["x"], torch.from_numpy(expected).float(), rtol=0, atol=0)
        assert table.columns["x"] == tuple(f"var{k}" for k in range(expected.shape[1]))
        assert list(table.row_names[:2]) == ["obs0", "obs1"]


def test_every_kind_of_column(tmp_path) -> None:
    path = tmp_path / "cells.h5ad"
    expected = write(path, "csr", COUNTS, nullable=True)
    assert len(expected) == 8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of missing labels
        table = data.load(str(path), labels=list(expected), splits=None).test
    for name, (codes, classes) in expected.items():
        assert table.classes[name] == classes, name
        seen = table.observed.get(name, torch.ones(CELLS, dtype=torch.bool))
        assert seen.tolist() == [code >= 0 for code in codes], name
        assert table.sites[name][seen].tolist() == [code for code in codes if code >= 0], name


@pytest.mark.parametrize("form", ["dense", "csr", "csc", "csr int64"])
def test_files_that_anndata_writes(tmp_path, form) -> None:
    """The same table from the file as from memory, and as h5py's layouts above have it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        anndata = pytest.importorskip("anndata")
        pandas, sparse = pytest.importorskip("pandas"), pytest.importorskip("scipy.sparse")
        code = np.arange(CELLS) % 3
        gaps = WORDS[code].copy()
        gaps[MISSING] = None
        unlike = np.array([f"{w}{k}" for k, w in enumerate(WORDS[code])], dtype=object)
        unlike[MISSING] = None
        obs = pandas.DataFrame(
            {
                "text": WORDS[code],
                "string": pandas.array(gaps, dtype="string"),
                "unlike": pandas.array(unlike, dtype="string"),  # no categories
                "category": pandas.Categorical(WORDS[code], categories=WORDS[[2, 0, 1]]),
                "integer": pandas.array(np.where(MISSING, None, code), dtype="Int64"),
                "boolean": pandas.array(np.where(MISSING, None, code == 1), dtype="boolean"),
            },
            index=[f"obs{k}" for k in range(CELLS)],
        )  # fmt: skip
        x = COUNTS.astype(np.float32)
        if form != "dense":
            x = getattr(sparse, f"{form[:3]}_matrix")(x)
        var = pandas.DataFrame(index=[f"var{k}" for k in range(GENES)])
        cells = anndata.AnnData(X=x, obs=obs, var=var)
        cells.layers["twice"] = 2 * x
        cells.raw = cells.copy()
        if form.endswith("int64"):
            cells.X.indices, cells.X.indptr = (
                v.astype(np.int64) for v in (cells.X.indices, cells.X.indptr)
            )
        anndata.settings.allow_write_nullable_strings = True
        path = tmp_path / "cells.h5ad"
        cells.write_h5ad(path)
        labels = list(obs.columns)
        for layer in ("X", "layers/twice", "raw/X"):
            options = {"layer": layer, "splits": None}
            found = data.load(str(path), labels=labels, **options).test
            expected = data.from_anndata(cells, labels, **options).test
            assert found.classes == expected.classes and found.columns == expected.columns
            for site, values in expected.sites.items():
                assert torch.equal(found.sites[site], values), (layer, site)
            for site, seen in expected.observed.items():
                assert torch.equal(found.observed[site], seen), (layer, site)
        many = data.load(str(path), memory=100, splits=None).test
        assert is_lazy(many.sites["x"]) == (form[:3] != "csc")
        assert_close(many.sites["x"][:], torch.from_numpy(COUNTS).float(), rtol=0, atol=0)


MANY = counts_of(700, 600, seed=1)  # of 2,400 bytes a row: blocks of 436


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    for form in ("dense", "csr", "csr int64"):
        write(folder / f"{form}.h5ad", form, MANY)
    return folder


@pytest.mark.parametrize("form", ["dense", "csr", "csr int64"])
def test_cells_that_stay_in_their_file_are_those_in_memory(many, form) -> None:
    path = str(many / f"{form}.h5ad")
    options = {"library": "size", "seed": 3}
    inside, outside = data.load(path, **options), data.load(path, memory=1 << 16, **options)
    for part in ("train", "validation", "test"):
        one, other = getattr(inside, part), getattr(outside, part)
        assert is_lazy(other.sites["x"]) and not is_lazy(one.sites["x"])
        assert torch.equal(other.sites["x"][:], one.sites["x"])
        assert torch.equal(other.sites["size"], one.sites["size"])
        assert torch.equal(other.numbers, one.numbers) and other.columns == one.columns
    some = torch.tensor([5, 0, 480, 5])
    assert torch.equal(outside.train.sites["x"][some], inside.train.sites["x"][some])
    remade(outside)
    assert outside.recipe["options"]["memory"] == 1 << 16
    # Every row once an epoch, in an order that is the seed's, whole rows.
    stream = data.Stream(outside.train, 70, seed=1)
    steps = len(outside.train) // 70
    batches = [stream.step(step)[0] for step in range(steps)]
    numbers = torch.cat([b.rows for b in batches])
    assert len(numbers.unique()) == len(numbers) == 70 * steps
    x = torch.cat([b["x"] for b in batches])
    assert torch.equal(x, torch.from_numpy(MANY).float()[numbers])
    again = pickle.loads(pickle.dumps(outside.train.sites["x"]))
    assert torch.equal(again[some], inside.train.sites["x"][some])


def test_they_are_written_to_the_store_block_by_block(many, tmp_path) -> None:
    outside = data.load(str(many / "csr.h5ad"), memory=1 << 16)
    data.write(outside, tmp_path / "cells.h5")
    found = data.open(tmp_path / "cells.h5").train
    assert torch.equal(found.sites["x"][:], outside.train.sites["x"][:])
    assert found.columns == outside.train.columns
    assert list(found.row_names) == list(outside.train.row_names)


def test_a_fit_is_the_same_from_the_file(many) -> None:
    """Rows that fit into the budget come in the order that they have in memory."""
    states = []
    for memory in (1 << 30, 1 << 16):
        cells = data.load(str(many / "csr.h5ad"), memory=memory, seed=3)
        pair = zoo.build("vae", cells, seed=0, latent=2, hidden=(4,), likelihood="normal")
        inference.fit(pair, cells, seed=0, steps=6, batch_size=100, progress=False, device="cpu")
        states.append(pair.state_dict())
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("X/data", 1.5, "X holds 1.5 at row 480, column .*, expected counts"),
        ("X/data", np.nan, "X holds nan at row 480, column .*, expected finite numbers"),
        ("X/indices", 600, "rows 436..699 of X name a column beyond 599"),
        ("X/indptr", -1, "data, indices and indptr do not fit a matrix of .700, 600."),
    ],
)
def test_what_is_wrong_in_a_file_that_is_not_read_at_once(many, tmp_path, place, value, words):
    path = tmp_path / "bad.h5ad"
    path.write_bytes((many / "csr.h5ad").read_bytes())
    with h5py.File(path, "r+") as file:
        at = 480 if place == "X/indptr" else int(file["X/indptr"][480])
        file[place][at] = value
    with pytest.raises(ValueError, match=words) as told:
        data.load(str(path), memory=1 << 16)
    assert str(path) in str(told.value) and "\n" not in str(told.value)


def test_a_file_that_changes_is_not_read_on(many, tmp_path) -> None:
    path = tmp_path / "cells.h5ad"
    path.write_bytes((many / "csr.h5ad").read_bytes())
    rows = data.load(str(path), memory=1 << 16, splits=None).test
    assert rows.sites["x"][:2].shape == (2, 600)
    write(tmp_path / "other", "csr", MANY[:600])
    (tmp_path / "other").replace(path)
    with pytest.raises(ValueError, match=r"cells\.h5ad has changed since it was loaded"):
        rows.sites["x"][600:]
