"""AnnData in memory and in files: the same data set."""

from __future__ import annotations

import re
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import scipy.sparse

from ppl_models import data

pandas = pytest.importorskip("pandas")
COUNTS = np.random.default_rng(0).poisson(0.7, (12, 3)).astype(np.float32)
CELLS = [f"cell{n}" for n in range(12)]
GENES = ["tp53", "myc", "actb"]
OBS = pandas.DataFrame(
    {
        "gene": pandas.Categorical(
            ["myc", "none", None] * 4, categories=["none", "tp53", "myc"]
        ),
        "leiden": pandas.Categorical(["10", "2", "1"] * 4, categories=["1", "2", "10"]),
        "dose": [1, 2, 10] * 4,
        "batch": ["b", "a", "a"] * 4,
        "seen": [True, False, True] * 4,
        "x": ["u", "v", "w"] * 4,
        "splits": ["train", "train", "test"] * 4,
        "score": np.arange(12) / 2,
    },
    index=CELLS,
)  # fmt: skip


def cells(x=COUNTS, obs=OBS, real=False):
    """An AnnData, or what has its parts where the library is not there."""
    if real:
        anndata = pytest.importorskip("anndata")
        made = anndata.AnnData(
            x, obs=obs.copy(), var=pandas.DataFrame(index=GENES), layers={"half": COUNTS / 2}
        )
        made.uns["gene_colors"] = ["#000000"] * 3
        made.raw = made
        return made
    names = pandas.Index(GENES)
    return SimpleNamespace(
        X=x, obs=obs, obs_names=obs.index, var_names=names, layers={"half": COUNTS / 2},
        raw=SimpleNamespace(X=x, var_names=names),
    )  # fmt: skip


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize(
    "form", [np.asarray, scipy.sparse.csr_matrix, scipy.sparse.csc_matrix, scipy.sparse.csr_array]
)
def test_what_an_anndata_holds(real, form):
    made = data.from_anndata(
        cells(form(COUNTS), real=real), "gene,leiden,dose,batch,seen", splits=None
    )
    t = made.test
    assert t.sites["x"].tolist() == COUNTS.tolist()
    assert t.columns == {"x": tuple(GENES)}
    assert t.row_names.tolist() == CELLS
    assert t.classes == {
        "gene": ("none", "tp53", "myc"),
        "leiden": ("1", "2", "10"),
        "dose": ("1", "2", "10"),
        "batch": ("a", "b"),
        "seen": ("False", "True"),
    }
    assert t.sites["gene"].tolist() == [2, 0, -1] * 4
    assert t.sites["leiden"].tolist() == [2, 1, 0] * 4
    assert t.sites["dose"].tolist() == [0, 1, 2] * 4
    assert made.roles == dict.fromkeys(t.classes, "intervention")


@pytest.mark.parametrize("layer", ["X", "raw/X", "layers/half"])
def test_layers_splits_and_roles(layer):
    for real in (False, True):
        made = data.from_anndata(
            cells(real=real), ["batch"], layer, counts=layer != "layers/half", splits="splits",
            roles={"batch": "covariate"},
        )  # fmt: skip
        assert made.train.numbers.tolist() == [n for n in range(12) if n % 3 < 2]
        assert made.test.numbers.tolist() == [2, 5, 8, 11]
        assert len(made.validation) == 0
        assert made.roles == {"batch": "covariate"}
        scale = 2 if layer == "layers/half" else 1
        assert (made.test.sites["x"] * scale).tolist() == COUNTS[2::3].tolist()


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_matrix])
@pytest.mark.parametrize("covariates", ["batch,dose,score", ["batch", "dose", "score"]])
def test_covariates_and_library_sizes(form, covariates, tmp_path):
    """Text and whole numbers are classes, other numbers stay numbers; none is a label to hide."""
    counts = COUNTS + 1
    how = {"covariates": covariates, "library": "size", "splits": "splits", "labelled": 3}
    made = data.from_anndata(cells(form(counts)), "seen", **how)
    t = made.train
    fixed = ("batch", "dose", "score", "size")
    assert made.roles == {"seen": "intervention", **dict.fromkeys(fixed, "covariate")}
    assert t.classes["batch"] == ("a", "b") and t.classes["dose"] == ("1", "2", "10")
    assert t.sites["score"].flatten().tolist() == [n / 2 for n in range(12) if n % 3 < 2]
    rows = [n for n in range(12) if n % 3 < 2]
    assert t.sites["size"].tolist() == counts[rows].sum(1, keepdims=True).tolist()
    assert set(t.observed) == {"seen"} and t.counts["seen"] == 3
    write(tmp_path / "cells.h5ad", **{name: OBS[name].to_numpy() for name in
          ("batch", "dose", "score", "seen", "splits")})  # fmt: skip
    with h5py.File(tmp_path / "cells.h5ad", "a") as file:
        file["X"][...] = counts
    of_file = data.load(tmp_path / "cells.h5ad", labels="seen", **how)
    assert of_file.recipe["digest"] == made.recipe["digest"] and of_file.roles == made.roles
    assert data.remake(of_file.recipe).recipe == of_file.recipe


def numbered(x):
    return cells(x=np.where(np.arange(12)[:, None] == 4, x, COUNTS))


@pytest.mark.parametrize(
    ("make", "options", "line"),
    [
        (cells, {"labels": "gen"}, "unknown obs column 'gen': did you mean 'gene'? expected one "
         "of batch, dose, gene, leiden, score, seen, splits, x"),
        (cells, {"labels": "x"}, "obs column 'x' has the name of the site of the X values; rename "
         "it"),
        (cells, {"layer": "layers/x"}, "unknown layer 'layers/x': did you mean 'layers/half'? "
         "expected one of X, layers/half, raw/X"),
        (cells, {"layer": "layers/half"}, "layers/half holds 0.5 at row 0, column 0, expected "
         "counts; name another layer, or say counts=False"),
        (lambda: numbered(-1), {}, "X holds -1.0 at row 4, column 0, expected counts; name another"
         " layer, or say counts=False"),
        (cells, {"labels": "score"}, "site 'score', row 1: got 0.5, expected a label"),
        (cells, {"splits": "part"}, "unknown obs column 'part': expected one of batch, dose, gene,"
         " leiden, score, seen, splits, x"),
        (cells, {"label": "gene"}, "unknown option 'label': did you mean 'labelled'? expected one "
         "of classes, columns, labelled, name, roles, row_names, seed, shapes, splits, units"),
        (cells, {"covariates": "x"}, "obs column 'x' has the name of the site of the X values; "
         "rename it"),
        (cells, {"covariates": "bach"}, "unknown obs column 'bach': did you mean 'batch'? "
         "expected one of batch, dose, gene, leiden, score, seen, splits, x"),
        (cells, {"labels": "batch", "covariates": "batch"}, "two sites are called 'batch', "
         "expected different names"),
        (cells, {"library": "size"}, "row 3 of X sums to 0, expected a library size "
         "above 0; leave such cells out"),
        (lambda: COUNTS, {}, "the data are of type ndarray, expected an AnnData"),
    ],
)  # fmt: skip
def test_what_does_not_fit(make, options, line):
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        data.from_anndata(make(), **options)


def test_genes_of_one_name():
    adata = cells()
    adata.var_names = pandas.Index(["a", "b", "a"])
    with pytest.raises(ValueError, match=r"^site 'x' of arrays has the column 'a' twice"):
        data.from_anndata(adata)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_file_of_anndata_is_what_it_holds(tmp_path):
    obs = OBS.assign(
        nullable=pandas.array([1, None, 3] * 4, dtype="Int64"),
        truth=pandas.array([True, None, False] * 4, dtype="boolean"),
        text=pandas.array(["a", None, "b"] * 4, dtype="string"),
        ordered=pandas.Categorical([3, 1, 2] * 4, categories=[3, 1, 2], ordered=True),
    )
    adata = cells(obs=obs, real=True)
    import anndata

    anndata.settings.allow_write_nullable_strings = True
    adata.write_h5ad(tmp_path / "cells.h5ad")
    names = ["gene", "leiden", "dose", "batch", "seen", "nullable", "truth", "text", "ordered"]
    of_file = data.load(tmp_path / "cells.h5ad", labels=names, splits="splits")
    of_memory = data.from_anndata(adata, names, splits="splits")
    assert of_file.recipe["digest"] == of_memory.recipe["digest"]
    for part in ("train", "test"):
        one, other = getattr(of_file, part), getattr(of_memory, part)
        assert one.classes == other.classes
        assert one.columns == other.columns
        assert one.row_names.tolist() == other.row_names.tolist()
    assert of_file.train.classes["nullable"] == ("1", "3")
    assert of_file.train.classes["truth"] == ("False", "True")
    assert of_file.train.classes["ordered"] == ("3", "1", "2")
    assert of_file.roles == of_memory.roles
    assert data.remake(of_file.recipe).recipe == of_file.recipe


def write(path, **columns):
    with h5py.File(path, "w") as file:
        file["X"] = COUNTS
        file["var/_index"] = np.array([g.encode() for g in GENES])
        file["obs/_index"] = np.array([c.encode() for c in CELLS])
        for name, column in columns.items():
            if isinstance(column, dict):
                for part, values in column.items():
                    file[f"obs/{name}/{part}"] = values
            else:
                file[f"obs/{name}"] = column


CODES = np.array([0, 1, 2, -1] * 3, np.int8)


@pytest.mark.parametrize(
    ("column", "codes", "names", "words"),
    [
        ({"codes": CODES, "categories": np.array([b"10", b"9", b"z"])}, [0, 1, 2, -1],
         ("10", "9", "z"), None),
        ({"codes": CODES, "categories": np.array([1, 2, 10])}, [0, 1, 2, -1], ("1", "2", "10"),
         None),
        ({"codes": CODES, "categories": np.array([1.0, 2.0, 10.0])}, [0, 1, 2, -1],
         ("1", "2", "10"), None),
        ({"codes": CODES, "categories": np.array([b"a", b"nan", b"c"])}, [0, -1, 1, -1],
         ("a", "c"), "3 rows are 'nan'"),
        ({"codes": CODES, "categories": np.array([b"", b"b", b"NaN"])}, [-1, 0, -1, -1],
         ("b",), "6 rows are '' or 'NaN'"),
        ({"codes": CODES, "categories": np.array([b"a", b"b", b"c", b"unused"])}, [0, 1, 2, -1],
         ("a", "b", "c", "unused"), None),
        ({"codes": CODES, "categories": np.array(["ä".encode("latin-1"), b"b", b"c"])},
         [0, 1, 2, -1], ("ä", "b", "c"), None),
        ({"codes": CODES, "categories": np.array(["ä".encode(), b"b", b"c"])},
         [0, 1, 2, -1], ("ä", "b", "c"), None),
        ({"values": np.array([5, 7, 7, 1] * 3), "mask": np.array([0, 0, 0, 1] * 3, bool)},
         [0, 1, 1, -1], ("5", "7"), None),
        ({"values": np.array([True, False] * 6), "mask": np.array([0, 0, 0, 1] * 3, bool)},
         [1, 0, 1, -1], ("False", "True"), None),
        ({"values": np.array([b"b", b"a", b"b", b""] * 3), "mask": np.array([0, 0, 0, 1] * 3,
          bool)}, [1, 0, 1, -1], ("a", "b"), None),
        (np.array([10.0, 9.0, np.nan, 10.0] * 3), [1, 0, -1, 1], ("9", "10"), None),
        (np.array([3, 0, -1, 3] * 3), [1, 0, -1, 1], ("0", "3"), None),
        (np.array([True, False, True, True] * 3), [1, 0, 1, 1], ("False", "True"), None),
        (np.array([b"b", b"", b"a", b"b"] * 3), [1, -1, 0, 1], ("a", "b"), "3 rows are ''"),
    ],
)  # fmt: skip
def test_columns_of_files(tmp_path, column, codes, names, words):
    write(tmp_path / "cells.h5ad", g=column)
    if words is None:
        t = data.load(tmp_path / "cells.h5ad", labels="g", splits=None).test
    else:
        with pytest.warns(UserWarning, match=f"^site 'g': {words}, read as missing"):
            t = data.load(tmp_path / "cells.h5ad", labels="g", splits=None).test
    assert t.sites["g"].tolist() == codes * 3
    assert t.classes == {"g": names}
    assert t.columns == {"x": tuple(GENES)}
    assert t.row_names.tolist() == CELLS


def test_a_word_that_is_a_class(tmp_path):
    write(tmp_path / "cells.h5ad", g={"codes": CODES, "categories": np.array([b"a", b"NA", b"c"])})
    d = data.load(
        tmp_path / "cells.h5ad", labels="g", classes={"g": ["NA", "a", "c"]}, splits=None
    )
    assert d.test.sites["g"].tolist() == [1, 0, 2, -1] * 3
    assert data.remake(d.recipe).recipe == d.recipe


@pytest.mark.parametrize("name", ["name", "seed", "labelled", "classes", "splits", "u,v", "file"])
def test_a_column_of_a_file_may_have_any_name(tmp_path, name):
    write(tmp_path / "cells.h5ad", **{name: np.array([b"u", b"v", b"w"] * 4)})
    d = data.load(tmp_path / "cells.h5ad", labels=name, splits=None)
    assert d.test.classes == {name: ("u", "v", "w")}
    assert data.remake(d.recipe).recipe == d.recipe


def test_a_label_never_replaces_the_counts(tmp_path):
    path = tmp_path / "cells.h5ad"
    write(path, x=np.array([b"u", b"v", b"w"] * 4))
    line = f"{path}: obs column 'x' has the name of the site of the X values; rename it"
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        data.load(path, labels="x")
