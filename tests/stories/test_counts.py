"""A negative binomial model with batch and library size, from an h5ad to predictions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import arviz as az
import h5py
import numpy as np
import pytest
import scipy.stats
import torch
from pyro import poutine
from torch.testing import assert_close
from worlds.cells import GENES, LIBRARY, write_cells
from worlds.whole_life import whole_life

import ppl_models as zoo
from ppl_models import Batch, data, inference
from ppl_models.commands.main import main
from ppl_models.inference.posterior.export import load
from ppl_models.testing import PairContract

COUNTS = f"{Path(__file__).parents[1] / 'worlds' / 'stories' / 'counts.py'}:Counts"
LONG = {"epochs": 60, "learning_rate": 0.03}
QUICK = {"epochs": 6, "batch_size": 50, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> data.Dataset:
    path = tmp_path_factory.mktemp("counts") / "cells.h5ad"
    write_cells(path)
    return data.load(str(path), covariates="batch", library="library", seed=3)


@pytest.fixture(scope="module")
def fitted(cells: data.Dataset, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("life")
    run, idata = whole_life(lambda: zoo.build(COUNTS, cells), cells, folder, **QUICK)
    return run, idata, folder


class TestCounts(PairContract):
    pair = COUNTS


def test_the_file_gives_batch_and_library_size(cells, tmp_path):
    assert cells.roles == {"batch": "covariate", "library": "covariate"}
    assert cells.train.classes["batch"] == LIBRARY
    parts = (cells.train, cells.validation, cells.test)
    for part in parts:
        assert_close(part.sites["library"], part.sites["x"].sum(1, keepdim=True))
    again = data.remake(cells.recipe)
    assert again.recipe["digest"] == cells.recipe["digest"]
    counts = write_cells(tmp_path / "none.h5ad")
    with h5py.File(tmp_path / "none.h5ad", "a") as file:
        counts[7] = 0
        file["X"][...] = counts
    with pytest.raises(ValueError, match=r"none\.h5ad: row 7 of X sums to 0, expected a library"):
        data.load(str(tmp_path / "none.h5ad"), library="library")
    with pytest.raises(ValueError, match="two sites are called 'batch'"):
        data.load(str(tmp_path / "none.h5ad"), covariates="batch", library="batch")


def by_scipy(pair, x, z, batch, library):
    """log p(x | z, batch, library) per row."""
    shares = pair.shares(z=z, batch=batch).softmax(-1).detach().numpy()
    theta = pair.log_dispersion.detach().exp().numpy()
    mean = library.numpy() * shares
    return scipy.stats.nbinom(theta, theta / (theta + mean)).logpmf(x.numpy()).sum(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1, 10])
def test_the_likelihood_is_that_of_scipy(cells, dtype, scale):
    pair = zoo.build(COUNTS, cells).to(dtype)
    with torch.no_grad():
        pair.log_dispersion.copy_(torch.linspace(-2, 2, GENES))
    rows = next(cells.test.batches()).to(dtype)
    rows = Batch(dict(rows), rows.rows, size=scale * rows.count)
    z = torch.randn(rows.count, 2, dtype=dtype)
    trace = poutine.trace(poutine.condition(pair.model, data={"z": z})).get_trace(rows)
    trace.compute_log_prob()
    exact = by_scipy(pair, rows["x"], z, rows["batch"], rows["library"])
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    found = trace.nodes["x"]["log_prob"].detach().double()
    assert_close(found, scale * torch.from_numpy(exact).double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("objective", [inference.ELBO(kl="sampled"), inference.IWELBO(7)])
@pytest.mark.parametrize("scale", [1, 10])
def test_bounds_per_row_are_those_of_a_loop(cells, objective, scale):
    pair = zoo.build(COUNTS, cells, seed=1).double()
    few = next(cells.test.batches(torch.arange(4))).to(torch.float64)
    few = Batch(dict(few), few.rows, size=scale * 4)
    torch.manual_seed(0)
    found = objective.per_datum(pair.model, pair.guide, few)
    torch.manual_seed(0)
    q = pair.guide.factor("z", few)
    particles = getattr(objective, "particles", 1)
    z = q.rsample((particles,))
    normal = torch.distributions.Normal(0.0, 1.0)
    log_w = torch.stack(
        [
            torch.from_numpy(by_scipy(pair, few["x"], one, few["batch"], few["library"]))
            + normal.log_prob(one).sum(-1)
            - q.log_prob(one)
            for one in z
        ]
    )
    assert_close(-found, log_w.logsumexp(0) - np.log(particles), rtol=1e-9, atol=1e-9)


def test_its_whole_life(fitted, cells):
    run, idata, _ = fitted
    known = idata.constant_data
    assert list(known["batch_class"].values) == list(LIBRARY)
    assert known["batch"].values.tolist() == cells.test.sites["batch"].tolist()
    np.testing.assert_array_equal(known["library"].values, cells.test.sites["library"].numpy())
    assert set(idata.observed_data.data_vars) == set(idata.log_likelihood.data_vars) == {"x"}
    assert set(known.data_vars) == {"batch", "library"} and "x" not in known
    assert run.pair.schema.sites["batch"].role == "covariate"
    assert idata.attrs["given"] == "x" and idata.attrs["covariates"] == "batch, library"
    assert set(idata.prior.data_vars) == {"z", "batch", "library"}
    assert set(np.unique(idata.prior["batch"])) == {0, 1}


@pytest.mark.filterwarnings("ignore:Estimated shape parameter")
def test_az_loo_runs(fitted):
    _, idata, _ = fitted
    loo = az.loo(idata, pointwise=True)
    assert loo.n_data_points == idata.observed_data.sizes["datum"]
    assert np.isfinite(loo.elpd_loo)


def test_predictions_at_a_batch_of_the_users(fitted, cells):
    """The gene that one lab catches ten times as often is predicted so, whoever measured it."""
    run = inference.fit(zoo.build(COUNTS, cells), cells, progress=False, **(QUICK | LONG))
    means, codes = {}, {}
    for name in (*LIBRARY, 1):
        idata = run.posterior(cells.test, draws=60, covariates={"batch": name, "library": 100.0})
        means[name] = float(idata.posterior_predictive["x"].mean(("chain", "draw", "datum"))[-1])
        codes[name] = idata.posterior["z"].values
        assert set(np.unique(idata.prior["batch"])) == {0 if name == "lab b" else 1}
        # The rows are what they are.
        assert idata.constant_data["batch"].values.tolist() == cells.test.sites["batch"].tolist()
        assert idata.attrs["predicted_at"] == "batch, library"
    assert means["lab a"] > 1.5 * means["lab b"] and means["lab a"] == means[1]
    np.testing.assert_array_equal(codes["lab a"], codes["lab b"])
    each = cells.test.sites["library"] * 2
    twice = run.posterior(cells.test, draws=60, covariates={"library": each})
    once = run.posterior(cells.test, draws=60)
    ratio = twice.posterior_predictive["x"].mean() / once.posterior_predictive["x"].mean()
    assert float(ratio) == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize(
    ("covariates", "words"),
    [
        ({"batch": "lab c"}, "covariate 'batch': unknown class 'lab c'"),
        ({"batch": 2}, r"covariate 'batch' is 2, expected a class in 0\.\.1"),
        ({"lab": 0}, "unknown covariate of counts 'lab'"),
        ({"library": float("nan")}, "covariate 'library' is nan, expected finite numbers"),
        ({"library": [1.0, 2.0]}, r"covariate 'library' has shape \(2, 1\), expected one value"),
    ],
)
def test_values_that_do_not_fit_are_refused(fitted, cells, covariates, words):
    with pytest.raises(ValueError, match=words):
        fitted[0].posterior(cells.test, draws=2, covariates=covariates)


def test_the_command_line(fitted, tmp_path):
    _, _, folder = fitted
    code = "import sys; from ppl_models.commands.main import main; sys.exit(main(sys.argv[1:]))"
    out = tmp_path / "p.nc"
    done = subprocess.run(
        [sys.executable, "-c", code, "export", str(folder / "run"), "--pair", COUNTS, "--draws",
         "30", "--file", str(out), "--at", "batch=lab a", "--at", "library=50", "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["posterior"] == str(out)
    assert load(out).attrs["predicted_at"] == "batch, library"


def test_a_covariate_that_is_called_batch_can_be_set(cells):
    pair = zoo.build(COUNTS, cells)
    rows = next(cells.test.batches())
    for code, name in enumerate(LIBRARY):
        made = pair.intervene(rows, codes="mean", batch=name)
        shares = pair.shares(z=made["z"], batch=torch.full((rows.count,), code)).softmax(-1)
        assert_close(made["x"], rows["library"] * shares)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (["batch"], "--at is 'batch', expected SITE=VALUE"),
        (["=1"], "--at is '=1', expected SITE=VALUE"),
        (["library=1", "library=2"], "--at gives library twice"),
        (["libary=1"], "unknown covariate of counts 'libary': did you mean 'library'?"),
    ],
)
def test_wrong_values_on_the_command_line_are_one_line(fitted, capsys, at, message):
    flags = [word for text in at for word in ("--at", text)]
    code = main(["export", str(fitted[2] / "run"), "--pair", COUNTS, *flags])
    told = capsys.readouterr().err
    assert code == 2 and message in told and told.count("\n") == 1
