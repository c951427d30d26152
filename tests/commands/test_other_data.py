"""``--data`` of other rows: brought to the classes and columns of the fit, or refused."""

import subprocess
import sys

import h5py
import numpy as np
import pytest

from ppl_models.commands.main import main
from ppl_models.inference.posterior.export import load

KINDS, GENES = ("a", "b", "c"), tuple("pqrst")
N = 60


def cells(path, kinds=KINDS, genes=GENES, rows=range(N)):
    """An h5ad file of the same cells, with classes and genes in some order."""
    rows = np.array(rows)
    kind = rows % 3
    values = {gene: (rows * (2 + at) + kind) % 2 for at, gene in enumerate(GENES)}
    kept = [row for row, k in enumerate(kind) if KINDS[k] in kinds]
    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        x = np.stack([values.get(gene, rows % 2) for gene in genes], 1)[kept]
        file["X"] = x.astype(np.float32)
        file["obs/y/codes"] = np.array([kinds.index(KINDS[k]) for k in kind[kept]], np.int8)
        file["obs/y/categories"] = np.array(kinds, dtype=text)
        file["obs/_index"] = np.array([f"cell {r}" for r in rows[kept]], dtype=text)
        file["var/_index"] = np.array(genes, dtype=text)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    code = main(
        f"fit m2 --data {cells(folder / 'fit.h5ad')} --labels y --hidden 4 --latent 2 --epochs 2 "
        f"--batch-size 20 --quiet --draws 5 --out {folder / 'run'}".split()
    )
    assert code == 0
    return folder / "run"


def exported(run, path):
    file = path.with_suffix(".nc")
    line = f"export {run} --data {path} --labels y --splits None --draws 5 --file {file}"
    assert main([*line.split()]) == 0
    return load(file)


@pytest.mark.parametrize(
    ("kinds", "genes"),
    [
        (KINDS[::-1], GENES),
        (KINDS, GENES[::-1]),
        (("c", "a"), ("r", "t", "p", "q", "s")),
    ],
)
def test_other_orders_give_the_same_posterior(run, tmp_path, kinds, genes):
    kept = [row for row in range(N) if KINDS[row % 3] in kinds]
    same = exported(run, cells(tmp_path / "same.h5ad", rows=kept))
    other = exported(run, cells(tmp_path / "other.h5ad", kinds, genes, kept))
    for idata in (same, other):
        assert idata.variational["y_class"].values.tolist() == list(KINDS)
        assert idata.posterior_predictive["x_dim"].values.tolist() == list(GENES)
        assert idata.variational["datum_name"].values.tolist() == [f"cell {r}" for r in kept]
    assert (same.constant_data["y_true"].values == other.constant_data["y_true"].values).all()
    assert (same.posterior["z"].values == other.posterior["z"].values).all()


@pytest.mark.parametrize(
    ("kinds", "genes", "words"),
    [
        (("a", "b", "dog"), GENES, "unknown class 'dog': expected one of a, b, c"),
        (KINDS, GENES[:4], "lacks the column 't' that the pair was fitted on"),
        (KINDS, (*GENES, "u"), "has the column 'u' that the pair was not fitted on"),
    ],
)
def test_what_was_not_fitted_on_is_one_line(run, tmp_path, capsys, kinds, genes, words):
    path = tmp_path / "other.h5ad"
    cells(path, kinds[:2] if "dog" in kinds else kinds, genes)
    if "dog" in kinds:
        with h5py.File(path, "a") as file:
            file["obs/y/categories"][1] = "dog"
    capsys.readouterr()
    code = main(f"export {run} --data {path} --labels y --splits None --draws 5".split())
    said = capsys.readouterr().err.splitlines()
    assert code == 2 and words in said[-1] and said[-1].startswith("ppl-models: error: ")


def test_interventions_take_names_of_the_fit_from_the_shell(run, tmp_path, capsys):
    path, out = cells(tmp_path / "o.h5ad", KINDS[::-1], GENES[::-1]), tmp_path / "o.npz"
    line = f"intervene {run} --data {path} --labels y --splits None --rows 3 --out {out}"
    assert main([*line.split(), "--set", "y=c,a"]) == 0
    assert np.load(out)["y"][0].tolist() == [2, 0]


# Each is a process; which words are missing is asked of tables, in one.
WORDS = (["a", "", "b"], ["NA", "b", "a"])
OTHERS = [pytest.param(words, marks=pytest.mark.long) for words in WORDS]


@pytest.mark.parametrize("words", [["a", "b", "nan"], *OTHERS])
def test_text_that_is_read_as_missing_is_told(tmp_path, words):
    np.savez(tmp_path / "rows.npz", x=np.ones((60, 2)), y=np.array(words * 20))
    line = "data preview rows.npz"
    done = subprocess.run(
        [sys.executable, "-m", "ppl_models", *line.split()],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    (word,) = set(words) - {"a", "b"}
    told = f"ppl-models: site 'y': 20 rows are {word!r}, read as missing; list the name among "
    assert told + "classes={'y': ...} if it is a class" in done.stderr.splitlines()
    assert "28 rows: a 14, b 14" in done.stdout
