"""What a run is asked for: predictions, codes, files of them, saving, and rows as at hand."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from worlds import h5ad_files

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.commands.main import main
from ppl_models.inference import metrics
from ppl_models.inference.training import run_rows

COLUMNS = list("pqrs")


def frame_of(rows=60):
    draw = np.random.default_rng(0)
    kind = draw.integers(3, size=rows)
    x = draw.normal(size=(rows, 4)) + 2 * kind[:, None]
    frame = pd.DataFrame(
        x.astype(np.float32), columns=COLUMNS, index=[f"r{n}" for n in range(rows)]
    )
    return frame.assign(y=np.array(["b", "a", "c"])[kind])


FRAME = frame_of()
SMALL = {"hidden": (4,), "latent": 2, "likelihood": "normal"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    rows = data.from_frame(FRAME, labels=["y"], labelled=20)
    out = tmp_path_factory.mktemp("run") / "m2"
    pair = zoo.build("m2", rows, **SMALL)
    return inference.fit(pair, rows, epochs=2, progress=False, out=out)


def table_of(frame):
    return data.from_frame(frame, labels=["y"], splits=None).test


def test_predictions_are_label_probabilities_by_the_names_of_rows_and_classes(run):
    found = run.predict(FRAME)
    probs = inference.label_probabilities(run.pair, table_of(FRAME)).numpy()
    assert list(found.columns) == ["y", "y_probs[a]", "y_probs[b]", "y_probs[c]"]
    np.testing.assert_array_equal(found.iloc[:, 1:], probs)
    assert list(found["y"]) == [("a", "b", "c")[k] for k in probs.argmax(1)]
    assert list(found.index) == list(FRAME.index)
    drawn = run.predict(FRAME, draws=5).iloc[:, 1:]
    np.testing.assert_array_equal(drawn, run.label_probabilities(FRAME, draws=5))


def test_columns_classes_and_rows_in_another_order_and_without_labels(run):
    found = run.predict(FRAME)
    other = FRAME[::-1][[*COLUMNS[::-1]]].assign(more="text", y=["c"] + 59 * [None])
    pd.testing.assert_frame_equal(run.predict(other).loc[found.index], found)
    pd.testing.assert_frame_equal(run.predict(FRAME[COLUMNS]), found)
    plain = run.predict(FRAME[COLUMNS].reset_index(drop=True))
    assert list(plain.index) == list(range(60))
    few = FRAME[FRAME["y"] == "c"]
    assert run.error(few) == np.mean(run.predict(few)["y"] != "c")
    assert run.error(FRAME) == run.error(table_of(FRAME))


def test_each_label_has_columns_of_its_own():
    rows = data.load("glyphs", train=12, validation=4, test=6, labelled=12)
    pair = zoo.build("ccvae", rows, hidden=(4,))
    found = inference.Run(pair, "").predict(rows)
    names = [f"{site}_probs[{c}]" for site in pair.card.labels for c in rows.test.classes[site]]
    assert [n for n in found if "_probs" in n] == names
    for site in pair.card.labels:
        own = [name for name in names if name.startswith(site)]
        np.testing.assert_array_equal(
            found[own], inference.label_probabilities(pair, rows.test, site)
        )


def test_codes_are_those_that_metrics_read(run):
    mean, scale = run.codes(FRAME)
    assert list(mean.columns) == list(scale.columns) == ["z[0]", "z[1]"]
    np.testing.assert_allclose(mean, metrics.encode(run.pair, table_of(FRAME)).codes, rtol=1e-6)
    told = run.posterior(FRAME, draws=2, prior_draws=0).variational
    best = run.predict(FRAME)["y"].cat.codes.to_numpy()
    wanted = told["z_scale"].to_numpy()[np.arange(60), best]
    np.testing.assert_allclose(scale, wanted, rtol=1e-5)


def test_a_saved_run_is_read_as_it_was(run, tmp_path):
    run.save(tmp_path / "copy")
    alone = inference.Run(
        run.pair, run.objective, history=run.history, status="finished", data=run.data,
        description=run.description, labelled=run.labelled, planned=run.planned,
    )  # fmt: skip
    alone.save(tmp_path / "alone")
    for name in ("copy", "alone"):
        read = zoo.load(tmp_path / name)
        assert read.description == run.description and read.history == run.history
        one, other = (r.posterior(FRAME, draws=3, prior_draws=0).posterior for r in (run, read))
        assert one.equals(other)
        assert read.check(draws=5) == run.check(draws=5)  # on the rows beside it
    going_on = {"epochs": 3, "progress": False, "resume": True}
    longer = inference.fit(zoo.build("m2", run.data, **SMALL), run.data, out=tmp_path / "copy",
                           **going_on)  # fmt: skip
    assert longer.taken == 3 and longer.history["loss"][:2] == run.history["loss"]
    with pytest.raises(ValueError, match="without the state of its training, and cannot be resum"):
        inference.fit(longer.pair, run.data, out=tmp_path / "alone", **going_on)
    with pytest.raises(ValueError, match="copy holds a run of m2"):
        run.save(tmp_path / "copy")
    with pytest.raises(ValueError, match="is where this run stands, expected another folder"):
        run.save(run.folder, overwrite=True)
    with pytest.raises(ValueError, match="does not say what it is, expected one of fit or load"):
        inference.Run(run.pair, "").save(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    alone.save(tmp_path / "copy", overwrite=True)
    assert not zoo.load(tmp_path / "copy").predict(FRAME).isna().any(axis=None)


def test_commands_find_the_rows_of_a_run_on_arrays(run, tmp_path, capsys):
    for option in ("--file", str(tmp_path / "p.nc")), ("--split", "train"):
        assert main(["export", str(run.folder), "--draws", "3", "--rows", "8", *option]) == 0
    assert run.report(tmp_path / "page.html", simulations=0, draws=3) in (True, False)
    assert "<title>m2 on arrays" in (tmp_path / "page.html").read_text()
    source, out = tmp_path / "rows.npz", tmp_path / "labels.csv"
    np.savez(source, x=FRAME[COLUMNS].to_numpy())
    assert main(["predict", str(run.folder), "--data", str(source), "--out", str(out)]) == 0
    found = pd.read_csv(out, index_col="row")
    np.testing.assert_allclose(found.iloc[:, 1:], run.predict(FRAME).iloc[:, 1:], rtol=1e-6)
    assert list(found["y"]) == list(run.predict(FRAME)["y"])
    capsys.readouterr()
    for given, words in (
        ((source, "labels.txt"), "labels.txt, expected a name that ends in .csv, .parquet, .h5ad"),
        ((source, "labels.h5ad"), "expected an h5ad file as --data"),
        ((source, "no/labels.csv"), "is no folder"),
    ):
        where = [str(given[0]), "--out", str(tmp_path / given[1])]
        assert main(["predict", str(run.folder), "--data", *where]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1


def test_rows_that_are_too_large_are_not_kept(run, tmp_path, monkeypatch):
    monkeypatch.setattr(run_rows, "LARGEST", 99)
    dataclasses.replace(run, folder=None).save(tmp_path / "run")
    assert not (tmp_path / "run" / "rows.h5").exists()
    with pytest.raises(ValueError, match=r"\(arrays\), which are not kept beside it.*\(--data\)$"):
        zoo.load(tmp_path / "run").check()


def test_rows_of_another_run_are_refused(run, tmp_path):
    run.save(tmp_path / "run")
    data.write(data.from_frame(FRAME[:30], labels="y"), tmp_path / "run" / "rows.h5")
    with pytest.raises(ValueError, match=r"rows.h5 holds other rows than .*run.json describes"):
        zoo.load(tmp_path / "run").check()


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda run: run.predict(FRAME.drop(columns="q")), "lacks the column 'q' of site 'x'"),
        (lambda run: run.predict(FRAME[["y"]]), "none of the columns .* expected p, q, r, s"),
        (lambda run: run.error(FRAME.assign(y="d")), "site 'y', row 0: unknown class 'd'"),
        (lambda run: run.predict(7), "are of type int, expected a Table, a Dataset, a pandas"),
        (lambda run: run.codes(FRAME, "w"), "m2: unknown code 'w'"),
        (lambda run: zoo.build("m2", FRAME), r"data.from_frame\(frame, labels=\['y'\]\)$"),
        (
            lambda run: inference.fit(zoo.build("m2", data_dim=4, classes=3), FRAME),
            r"data.from_frame\(frame, labels=\['y'\]\)$",
        ),
        (
            lambda run: inference.Run(zoo.build("vae", run.data), "").predict(run.data),
            "vae has no label whose classes could be predicted",
        ),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(run, ask, words):
    with pytest.raises(ValueError, match=words) as error:
        ask(run)
    assert "\n" not in str(error.value)


def test_a_pair_that_knows_its_columns_is_fitted_to_a_frame(run):
    pair = zoo.build("m2", run.data, **SMALL)
    one = inference.fit(pair, FRAME, epochs=1, progress=False)
    again = zoo.build("m2", run.data, **SMALL)
    other = inference.fit(again, table_of(FRAME), epochs=1, progress=False)
    assert one.history["loss"] == other.history["loss"] and len(one.data) == 60
    assert torch.equal(one.label_probabilities(FRAME), other.label_probabilities(FRAME))


def write_h5ad(path, frame):
    """Cells of a frame, as anndata lays them out; without labels where it has none."""
    with h5py.File(path, "w") as file:
        file.attrs["encoding-type"], file.attrs["encoding-version"] = "anndata", "0.1.0"
        h5ad_files.array(file, "X", frame[COLUMNS].to_numpy())
        for name, index in (("obs", frame.index), ("var", COLUMNS)):
            own = h5ad_files.element(file, name, "dataframe", "0.2.0")
            own.attrs["_index"], own.attrs["column-order"] = "_index", np.array([], dtype=float)
            h5ad_files.array(own, "_index", np.array(index, dtype=object))
        if "y" in frame:
            file["obs"].attrs["column-order"] = np.array(["y"], dtype=object)
            h5ad_files.array(file["obs"], "y", frame["y"].to_numpy(dtype=object))


@pytest.mark.filterwarnings("ignore")  # anndata's own, about pandas
def test_predictions_and_codes_go_into_a_copy_of_an_h5ad_file(tmp_path):
    anndata = pytest.importorskip("anndata")
    told, new, out = (tmp_path / f"{name}.h5ad" for name in ("told", "new", "out"))
    write_h5ad(told, FRAME)
    write_h5ad(new, FRAME[::-1].drop(columns="y"))
    rows = data.load(told, labels="y", counts=False)
    pair = zoo.build("m2", rows, **SMALL)
    run = inference.fit(pair, rows, epochs=1, progress=False, out=tmp_path / "run")
    assert main(["predict", str(run.folder), "--data", str(new), "--out", str(out)]) == 0
    found, adata = anndata.read_h5ad(out), anndata.read_h5ad(new)
    wanted, codes = run.predict(told)[::-1], run.codes(told)
    np.testing.assert_array_equal(found.X, adata.X)
    assert list(found.obs_names) == list(wanted.index) == list(FRAME.index[::-1])
    run.annotate(adata)
    for cells in (found, adata):
        assert list(cells.obs["y_predicted"]) == list(wanted["y"])
        assert list(cells.obsm["y_probs"].columns) == ["a", "b", "c"]
        np.testing.assert_allclose(cells.obsm["y_probs"], wanted.iloc[:, 1:], rtol=1e-5)
        np.testing.assert_allclose(cells.obsm["X_z"], codes.mean[::-1], rtol=1e-5)
        np.testing.assert_allclose(cells.obsm["X_z_scale"], codes.scale[::-1], rtol=1e-5)
    adata.layers["more"] = adata.X
    assert run.predict(adata).equals(run.predict(new))  # in the layer of the fit
    for ask, words in (
        (lambda: inference.fit(pair, adata), "has layers/more beside X, and the fit does not say"),
        (lambda: zoo.build("m2", adata), r"data.from_anndata\(adata, labels=\['y'\]\)$"),
        (lambda: zoo.build("m2", told), "told.h5ad does not say which of its columns are labels"),
    ):
        with pytest.raises(ValueError, match=words):
            ask()
