"""``ppl-models metrics``: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import re

import pytest
from commands.test_report import Page

from ppl_models import data, inference
from ppl_models.commands.main import main
from ppl_models.inference import metrics
from ppl_models.inference.posterior.export import load

FIT = "fit vae --data mini_dsprites --train 60 --validation 10 --test 90 --hidden 8 --latent 3"
FIT += " --epochs 1 --draws 20 --quiet"
QUICK = "mutual_information,mig,med"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("metrics") / "run"
    assert main([*FIT.split(), "--out", str(path)]) == 0
    return path


def told(capsys, line):
    code = main(line.split())
    out, err = capsys.readouterr()
    return code, out, err


def test_it_measures_rows_and_a_report_shows_it(capsys, folder):
    code, out, _ = told(capsys, f"metrics {folder} --metrics {QUICK} --json --seed 2")
    found = json.loads(out)
    assert code == 0 and found["metrics"] == str(folder / "metrics.nc")
    run = inference.load(folder)
    description = run.description
    rows = metrics.encode(run.pair, data.remake(description["data"]).test)
    exact = metrics.evaluate(rows, metrics=QUICK.split(","), seed=2)
    assert found["mig"] == pytest.approx(float(exact.mig), abs=1e-6)
    assert load(folder / "metrics.nc").metrics.attrs["data"] == "mini_dsprites/test"
    assert main(["report", str(folder), "--simulations", "0"]) == 0
    page = Page((folder / "report.html").read_text())
    assert "Metrics of codes" in page.headings
    lines = dict(page.table("metric")[1:])
    assert lines["mig"] == f"{float(exact.mig):.3f}"


def test_it_measures_every_cell_of_the_grid(capsys, folder, tmp_path):
    line = f"metrics {folder} --cells --metrics mig --file {tmp_path}/m.nc"
    code, out, _ = told(capsys, line)
    scores = load(tmp_path / "m.nc").metrics
    assert code == 0 and scores.attrs["rows"] == 3840  # 2 in 3 of 5,760 cells
    assert f"{float(scores.mig):8.4f}" in out and out.endswith(f"written to {tmp_path}/m.nc\n")


def test_what_cannot_be_told_says_why(capsys, folder, tmp_path):
    line = f"metrics {folder} --factors shape --metrics modularity --file {tmp_path}/m.nc"
    code, out, _ = told(capsys, line)
    assert code == 0 and re.search(r"^modularity +nan  \S.* factors", out)
    code, out, _ = told(capsys, f"{line} --json")
    assert code == 0 and json.loads(out)["modularity"] is None


def test_a_paper_that_is_a_metric_is_shown(capsys):
    code, out, _ = told(capsys, "show med --markdown")
    assert code == 0 and out.startswith("# med") and "`med(table, bins=20" in out
    code, out, _ = told(capsys, "show med --json")
    assert json.loads(out)["arxiv"] == "2206.04756" and json.loads(out)["functions"][0] == "med"


def test_votes_may_be_of_images_that_are_drawn_anew(capsys, folder, tmp_path):
    line = f"metrics {folder} --cells --redrawn --metrics factor_vae_score --votes 100"
    code, out, _ = told(capsys, f"{line} --file {tmp_path}/m.nc --json")
    run = inference.load(folder)
    description = run.description
    fresh = metrics.sampler_of(run.pair, data.factors_of(description["data"]))
    exact = metrics.factor_vae_score(fresh, votes=100, test_votes=50)
    assert code == 0 and json.loads(out)["factor_vae"] == float(exact.factor_vae)
    told_by = load(tmp_path / "m.nc").metrics.factor_vae.attrs
    assert told_by["population"] == "independent factors" and told_by["votes"] == 100


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--metrics mgi", "unknown metric 'mgi': did you mean 'mig'"),
        ("--redrawn", "--redrawn goes with --cells"),
        ("--cells --factors shape", "--factors goes without --cells"),
        ("--sites w", "continuous latent site 'w'"),
        ("--factors shap", "did you mean 'shape'"),
    ],
)
def test_what_does_not_fit_is_an_error_of_one_line(capsys, folder, more, words):
    code, out, err = told(capsys, f"metrics {folder} {more} --file {folder}/none.nc")
    assert code == 2 and not out and err.count("\n") == 1 and words in err
    assert not (folder / "none.nc").exists()
