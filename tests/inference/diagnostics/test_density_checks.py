"""Pairs whose rows have no evidence: what is left out, why, and what is checked instead."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from worlds.unscored import Generator, Undeclared, normal_rows, two_views
from worlds.whole_life import whole_life

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.commands.main import main
from ppl_models.inference.diagnostics.density_checks import (
    attribute_coverage,
    code_spread,
    probe_accuracy,
)
from ppl_models.inference.posterior.density import no_evidence
from ppl_models.inference.posterior.export import posterior
from ppl_models.inference.posterior.target import rows_of
from ppl_models.testing import PairContract

VIEWS = f"{Path(__file__).parents[2] / 'worlds' / 'unscored.py'}:Views"
LONG = {"epochs": 30, "batch_size": 50, "learning_rate": 0.01}
CODES = "views has a density of codes, not of data, so that rows have no evidence"
NONE = "generator makes data and has no density of them, so that rows have no evidence"
UNSAID = "undeclared scores no data: its model has no density of 'x'"
EVIDENCES = ("nuts", "hmc", "importance", "sir", "log_evidence", "map")


def generator(cls=Generator, **weights):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pair = cls(cls.Config(**weights))
    with torch.no_grad():
        pair.made.weight.copy_(torch.eye(4))
        pair.made.bias.zero_()
    return pair


def views(**settings):
    return zoo.build(VIEWS, two_views(), **settings)


def test_whether_rows_have_an_evidence():
    cases = [
        (views(), two_views().train, CODES),
        (generator(), normal_rows().train, NONE),
        (generator(Undeclared), normal_rows().train, UNSAID),
        (generator(Undeclared, masked=False), normal_rows().train, UNSAID),
        (zoo.build("vae", data.load("digits")), data.load("digits").train, ""),
    ]
    for pair, table, reason in cases:
        batch = rows_of(table.only(*pair.card.given), pair)
        assert no_evidence(pair, batch).startswith(reason) and bool(reason) == bool(
            no_evidence(pair, batch)
        )
        # Rows of which nothing is scored are no reason.
        if not reason:
            assert not no_evidence(pair, batch.without("x"))


@pytest.mark.parametrize(
    ("make", "rows", "reason"),
    [
        (views, two_views, CODES),
        (generator, normal_rows, NONE),
        (lambda: generator(Undeclared), normal_rows, UNSAID),
    ],
)
def test_methods_and_the_algorithms_themselves_say_why_not(make, rows, reason):
    pair, table = make(), rows().train
    found = {method.name: method for method in inference.methods(pair, table)}
    for name in EVIDENCES:
        assert found[name].reason.startswith(reason), name
    assert found["elbo"].applies == (reason == CODES)
    for ask in (
        lambda: inference.nuts(pair, table, [0], draws=1, warmup=1, progress=False),
        lambda: inference.refine(pair, table, [0], draws=25, steps=1),
        lambda: inference.amortisation_gap(pair, table, [0, 1], draws=25, steps=1),
        lambda: inference.held_out(pair, table, [0, 1], method="iw"),
    ):
        with pytest.raises(ValueError, match=reason) as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_the_life_of_a_contrastive_pair(tmp_path, capsys):
    """It trains, resumes, compiles, exports and reports; the evidence is left out everywhere."""
    _, idata = whole_life(views, two_views(), tmp_path, **LONG)
    assert idata.attrs["density"] == "codes" and idata.attrs["no_evidence"] == CODES
    assert not {"log_likelihood", "sample_stats", "diagnostics"} & set(idata.groups())
    assert set(idata.constant_data.data_vars) == {"x", "other", "y_true"}
    told = inference.verdict(idata)
    names = [finding.name for finding in told.findings]
    assert {"evidence", "spread", "rank", "probe"} <= set(names) and "k-hat" not in names
    (left,) = (f for f in told.findings if f.left_out)
    assert (
        left.fact == f"{CODES}: k-hat, effective draws, the gap, LOO and the decoder are left out"
    )
    assert f"none    {left.sentence}" in str(told)
    assert left.fact in (tmp_path / "page.html").read_text()
    assert not [f for f in told.failed if f.name in ("spread", "rank", "probe")], str(told)
    main(["check", str(tmp_path / "run"), "--json"])
    plain = json.loads(capsys.readouterr().out)["findings"]
    assert [f["fact"] for f in plain if f["left_out"]] == [left.fact]
    main(["check", str(tmp_path / "run")])
    assert left.fact in capsys.readouterr().out


def test_codes_that_collapse_are_found():
    rows = two_views()
    run = inference.fit(views(trained=True), rows, progress=False, **{**LONG, "epochs": 150})
    told = inference.verdict(run.posterior(rows.train, draws=50))
    assert {"spread", "probe"} & {f.name for f in told.failed}, str(told)


@pytest.mark.parametrize("cls", [Generator, Undeclared])
@pytest.mark.parametrize(("broken", "ok"), [("", True), ("constant", False), ("half", False)])
def test_generators_are_asked_for_coverage(cls, broken, ok):
    pair = generator(cls)
    with torch.no_grad():
        if broken == "constant":
            pair.made.weight.zero_()
        elif broken == "half":
            pair.made.weight[2] *= 0.1
    idata = posterior(pair, normal_rows().train, draws=5)
    assert "log_likelihood" not in idata.groups()
    (found,) = (f for f in inference.verdict(idata).findings if f.name == "coverage")
    assert found.ok == ok and found.limit == 0.8
    if broken == "half":
        assert "attribute 2 of x" in found.fact
    if broken == "constant":
        assert found.figure == pytest.approx(0.1)


# ---- the figures --------------------------------------------------------------------------


def test_spread_of_codes_in_closed_form():
    eye = np.repeat(np.concatenate([np.eye(4), -np.eye(4)]), 5, 0)
    assert code_spread(eye) == pytest.approx((1, 4))
    # Moved by m, the share is 1 / (1 + |m|^2).
    assert code_spread(eye + np.array([3, 0, 0, 0]))[0] == pytest.approx(1 / 10)
    assert code_spread(np.ones((20, 3))) == (0, 1)
    assert code_spread(np.zeros((20, 3))) == (0, 1)
    line = np.outer(np.arange(20.0), [1, 2, 3])
    assert code_spread(line)[1] == pytest.approx(1)
    # Variances in the ratio p have the effective rank exp(entropy of p).
    p = np.array([0.7, 0.2, 0.1])
    axes = np.concatenate([np.diag(np.sqrt(p)), -np.diag(np.sqrt(p))])
    assert code_spread(axes)[1] == pytest.approx(np.exp(-(p * np.log(p)).sum()))


def test_a_probe_beats_chance_where_codes_know_the_label():
    draw = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [60, 30, 30])
    noise = draw.normal(size=(120, 4))
    apart = noise + 8 * np.eye(4)[y]
    assert probe_accuracy(apart, y) == (1.0, 0.5)
    right, frequent = probe_accuracy(noise, y)
    assert frequent == 0.5 and right < 0.65
    with pytest.raises(ValueError, match="labels have 1 classes, expected two of 5 rows each"):
        probe_accuracy(noise, np.zeros(120, int))
    few = np.where(np.arange(120) < 4, 7, y)  # a class of four rows is left out
    assert probe_accuracy(apart, few)[0] > 0.95


@pytest.mark.parametrize("bins", [4, 10])
def test_coverage_counts_the_bins_that_are_reached(bins):
    real = np.arange(1000.0)
    assert attribute_coverage(real, real, bins) == 1
    for reached in range(1, bins + 1):
        made = np.arange(1000 * reached / bins - 1)
        assert attribute_coverage(real, made, bins) == pytest.approx(reached / bins)
    both = attribute_coverage(np.stack([real, real], 1), np.stack([real, 0 * real], 1), bins)
    assert both == pytest.approx([1, 1 / bins])
    # Of two values there are two bins, of one none.
    assert attribute_coverage(real % 2, real * 0, bins) == 0.5
    assert np.isnan(attribute_coverage(real * 0, real, bins))


class TestViews(PairContract):
    """A contrastive story keeps the contract; its file is one of two stories."""

    pair = VIEWS

    test_file_is_short_and_tells_only_the_story = None
    test_docstring_reads_story_guide_paper_shapes = None


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("sites", [(), ("x",)])
def test_views_may_be_covariates(watched, sites):
    """A stage that makes a covariate stands for the table's; without one it is lacking."""
    rows = data.from_arrays(x=torch.randn(60, 6), splits=(40, 20, 0))
    pair = zoo.build(VIEWS, rows)
    training = inference.Training(epochs=2, batch_size=10, patience=5 if watched else 0)
    options = {"progress": False, "device": "cpu"}
    plain = inference.Stage(inference.ELBO(), training=training, sites=sites)
    with pytest.raises(ValueError, match="train lacks the covariate 'other' of views"):
        inference.fit(pair, rows, stages=(plain,), **options)
    views = data.views("x", ("other",), [data.Noise()])
    run = inference.fit(pair, rows, stages=(dataclasses.replace(plain, prepare=views),), **options)
    assert run.status == "finished"
