"""Comparisons against means, standard errors and paired differences made by hand."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import xarray as xr
from worlds import arviz_versions
from worlds.exact_guides import FAULTS, exact, table_of

from ppl_models import inference
from ppl_models.commands.main import main
from ppl_models.inference.diagnostics import row_scores
from ppl_models.inference.diagnostics.comparison import compare
from ppl_models.inference.posterior import export
from ppl_models.inference.posterior.groups import as_inference_data, groups_of, with_groups

ROWS = 80


@pytest.fixture(scope="module")
def good():
    pair = exact()
    return inference.Run(pair, "test").posterior(table_of(pair, ROWS), draws=100, prior_draws=0)


@pytest.fixture(scope="module")
def bad():
    pair = exact(FAULTS["wrong labels"])
    return inference.Run(pair, "test").posterior(table_of(pair, ROWS), draws=100, prior_draws=0)


def by_hand(values):
    return values.mean(), values.std(ddof=1) / np.sqrt(len(values))


def test_means_errors_and_paired_differences(good, bad):
    found = compare({"good": good, "bad": bad})
    assert (found.data, found.rows) == ("w/test", ROWS)
    assert list(found.scores) == ["log evidence", "LOO", "error of y", "calibration of y"]
    rows = {}
    for name, idata in (("good", good), ("bad", bad)):
        right = idata.variational["y_probs"].values.argmax(1) == idata.constant_data["y_true"]
        rows[name] = {
            "log evidence": idata.diagnostics["iw_bound"].values,
            "error of y": 1.0 - right.values,
        }
    for score in ("log evidence", "error of y"):
        column = found.scores[score]
        for name in ("good", "bad"):
            mean, error = by_hand(rows[name][score])
            shift, shift_error = by_hand(rows[name][score] - rows["good"][score])
            entry = column[name]
            np.testing.assert_allclose(
                [entry.value, entry.error, entry.difference, entry.difference_error],
                [mean, error, shift, shift_error], atol=1e-12,
            )  # fmt: skip
    # The exact guide's weights are p(x) whatever it draws, but for the rounding of its draws.
    pair = exact()
    log_p = pair.log_evidence(table_of(pair, ROWS).sites["x"])[1].detach().numpy()
    np.testing.assert_allclose(row_scores.log_evidence(good), log_p, rtol=1e-7)
    assert found.scores["error of y"]["bad"].difference > 0.3
    text = str(found)
    value, error = by_hand(rows["bad"]["error of y"])
    assert f"{100 * value:.2f} +- {100 * error:.2f}" in text
    assert json.loads(json.dumps(found.plain()))["scores"]["LOO"]["bad"] == vars(
        found.scores["LOO"]["bad"]
    )


def test_calibration_error_has_the_error_of_its_rows(good):
    """Against the spread of the calibration error over resampled rows."""
    labels = row_scores.labels(good)
    wide = row_scores.KnownLabels(  # far from calibrated, so that no bin's sign is in doubt
        np.repeat(labels.probs, 20, 0), np.repeat((labels.truth + 1) % 4, 20), labels.classes
    )
    rows = row_scores.calibration(wide)
    g = np.random.default_rng(0)
    means = []
    for _ in range(300):
        index = g.integers(len(rows), size=len(rows))
        again = row_scores.KnownLabels(wide.probs[index], wide.truth[index], wide.classes)
        means.append(row_scores.calibration(again).mean())
    assert by_hand(rows)[1] == pytest.approx(np.std(means), rel=0.15)  # 4 % by chance


@pytest.mark.training
def test_loo_of_mcmc_is_that_of_arviz_and_of_a_guide_is_reweighted():
    pair = exact()
    table = table_of(pair, 3)
    chains = inference.nuts(pair, table, draws=100, warmup=60, progress=False)
    found, shapes = row_scores.loo(chains)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # k-hats are high
        theirs, their_shapes = arviz_versions.loo(chains, reff=1.0)
    np.testing.assert_allclose(found, theirs, rtol=1e-6)
    np.testing.assert_allclose(shapes, their_shapes, rtol=1e-6)
    assert row_scores.log_evidence(chains) is None
    # Draws of p(z, y | x) itself: the guide's ratios are 1 / p(x | z, y) up to a constant, and
    # the row's own data point leaves p(x), here to within the noise of 4,000 draws.
    idata = inference.Run(pair, "t").posterior(table, draws=4000, prior_draws=0)
    left_out, _ = row_scores.loo(idata)
    log_p = pair.log_evidence(table.sites["x"])[1].detach().numpy()
    np.testing.assert_allclose(left_out, log_p, atol=0.3)


def test_chains_of_restarts_count_by_their_mean(good):
    two = np.stack([np.arange(ROWS) + 0.0, np.arange(ROWS) + 2.0])
    diagnostics = dict.fromkeys(("iw_bound", "khat"), (("chain", "datum"), two))
    datum = good.diagnostics["datum"].values
    idata = with_groups(good, diagnostics=xr.Dataset(diagnostics, {"datum": datum}))
    np.testing.assert_array_equal(row_scores.log_evidence(idata), two[0] + 1)
    np.testing.assert_array_equal(row_scores.per_row(idata, "khat"), two[1])


def test_scores_that_one_lacks(good):
    groups = groups_of(good)
    del groups["diagnostics"]
    chains = as_inference_data(groups, good.attrs)
    found = compare({"a": good, "b": chains})
    assert list(found.scores["log evidence"]) == ["a"]
    assert list(found.scores["LOO"]) == ["a", "b"]
    assert str(found).splitlines()[4].split()[:2] == ["b", "-"]


def test_what_does_not_compare(good, bad):
    pair = exact()
    run = inference.Run(pair, "test")
    less = run.posterior(table_of(pair, ROWS), rows=range(ROWS - 1), draws=30, prior_draws=0)
    new = run.posterior(table_of(pair, ROWS, seed=3), draws=30, prior_draws=0)
    other = good.copy()
    other.attrs = {**good.attrs, "data": "v/test"}
    for name, idata, words in (
        ("less", less, "good has 80 rows, less has 79"),
        ("new", new, "good and new have other values of 'x'"),
        ("other", other, "good is of w/test, other of v/test"),
        ("none", as_inference_data({}, {"data": "w/test"}), "none holds no posterior of rows"),
    ):
        with pytest.raises(ValueError, match=words):
            compare({"good": good, name: idata})
    with pytest.raises(ValueError, match="got 1 posteriors, expected at least two"):
        compare({"good": good})
    one = run.posterior(table_of(pair, ROWS), rows=[0], draws=30, prior_draws=0)
    with pytest.raises(ValueError, match="is of one row"):
        compare({"a": one, "b": one})


def test_notes_say_what_to_keep_in_mind(good):
    posterior = groups_of(good)["posterior"]
    train, few = with_groups(good), with_groups(good, posterior=posterior.isel(draw=slice(50)))
    train.attrs = few.attrs = {**good.attrs, "data": "w/train"}
    notes = compare({"a": train, "b": few}).notes
    assert "more draws make a higher bound of the evidence: a 100, b 50" in notes
    assert notes[-1].startswith("these rows were trained on")


def test_from_the_shell(good, bad, capsys, tmp_path):
    for name, idata in (("a", good), ("b", bad)):
        (tmp_path / name).mkdir()
        export.save(idata, tmp_path / name / "posterior.nc")
    a, b, c = (str(tmp_path / name) for name in "abc")
    assert main(["compare", a, b, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == compare({a: good, b: bad}).plain()
    assert main(["compare", a, b]) == 0
    assert capsys.readouterr().out == f"{compare({a: good, b: bad})}\n"
    (tmp_path / "c").mkdir()
    (tmp_path / "broken.nc").write_bytes(b"no netCDF")
    for line, words in (
        ([a], "at least two"),
        ([a, a], "given twice"),
        ([a, c], "holds no posterior.nc; write one with ppl-models export"),
        ([a, c + "/none.nc"], "no such file"),
        ([a, str(tmp_path / "broken.nc")], "damaged or no netCDF4"),
    ):
        assert main(["compare", *line]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and words in err
