"""What a run says of itself: its labelled rows, its plan, and whether to trust it."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal

import numpy as np
import pytest
import torch

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.commands.main import main
from ppl_models.inference.posterior.confusion import Confusion, labelled_rows
from ppl_models.inference.training import run_folder

SMALL = {"hidden": (8,), "latent": 2}
FIT = {"epochs": 4, "progress": False}


def digits(**options):
    return data.load("digits", train=120, validation=30, test=40, labelled=30, **options)


def fitted(out=None, **options):
    rows = digits()
    pair = zoo.build("m2", rows, **SMALL)
    return inference.fit(pair, rows, out=out, **{**FIT, **options}), rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "m2"
    return out, *fitted(out)


def test_labelled_rows_are_those_that_the_fit_was_taught_with(folder):
    _, run, rows = folder
    table = rows.train.where_observed("y")
    probs = inference.label_probabilities(run.pair, table).numpy()
    told, truth = run.labelled["y"], table.sites["y"][:].numpy()
    assert told.rows == 30 and told.error == pytest.approx((probs.argmax(-1) != truth).mean())
    for own, guess in zip(truth, probs.argmax(-1), strict=True):
        assert told.counts[own, guess] == ((truth == own) & (probs.argmax(-1) == guess)).sum()
    assert told.sure == pytest.approx(probs.max(-1).mean())


def test_at_most_a_thousand_rows_are_looked_at():
    rows = data.load("digits", labelled=None)
    pair = zoo.build("m2", rows, **SMALL)
    assert labelled_rows(pair, rows.train)["y"].rows == 1000


def test_several_labels_each_on_their_own_rows():
    rows = data.load("glyphs", train=60, validation=10, test=10, labelled=20)
    pair = zoo.build("ccvae", rows, hidden=(8,))
    told = labelled_rows(pair, rows.train)
    assert {name: c.rows for name, c in told.items()} == {"bar": 20, "blob": 20, "square": 20}
    assert all(isinstance(c, Confusion) and c.counts.shape == (2, 2) for c in told.values())


def test_a_run_from_its_folder_says_the_same(folder):
    out, run, rows = folder
    again = inference.load(out)
    assert again.status == run.status == "finished" and again.planned == run.planned == run.taken
    np.testing.assert_array_equal(again.labelled["y"].counts, run.labelled["y"].counts)
    one, other = (r.posterior(rows.test, draws=30) for r in (run, again))
    np.testing.assert_array_equal(one.training["y_confusion"], other.training["y_confusion"])
    assert one.training["y_confusion"].dims == ("chain", "y_true_class", "y_class")
    assert list(one.training["y_true_class"].values) == list(one.training["y_class"].values)
    assert one.attrs["training_status"] == other.attrs["training_status"] == "finished"
    assert list(one.attrs["training_steps"]) == list(other.attrs["training_steps"])
    assert inference.verdict(one) == inference.verdict(other)


def test_check_command_and_report_say_the_same(folder, capsys):
    out, run, rows = folder
    run.posterior(rows.test, path=out / "posterior.nc", draws=30)
    found = run.check(rows.test, draws=30)
    assert main(["check", str(out)]) == (0 if found.ok else 3)
    assert capsys.readouterr().out == f"{found}\n"
    assert main(["report", str(out), "--simulations", "0"]) == 0
    page = (out / "report.html").read_text()
    for finding in found.findings:
        plain = finding.sentence.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert plain.replace("'", "&#x27;") in page


def test_rows_that_are_checked_by_default():
    run, rows = fitted()
    few = {"draws": 30}
    assert run.check(**few) == run.check(rows.validation, **few)
    only, _ = fitted()
    only.data = rows.train
    assert only.check(**few) == only.check(rows.train, **few)


def test_a_run_without_data_makes_them_again_or_asks_for_rows(folder):
    out, run, rows = folder
    few = {"draws": 30}
    assert inference.load(out).check(**few) == run.check(rows.validation, **few)
    sent = pickle.loads(pickle.dumps(run))
    sent.folder = None
    with pytest.raises(ValueError, match=r"does not know its data, expected rows: check\(rows"):
        sent.check()
    assert sent.data is None and sent.check(rows.test, **few).findings


def test_a_run_that_was_interrupted_says_so(tmp_path):
    def interrupt(run, step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with contextlib.suppress(KeyboardInterrupt):
        fitted(tmp_path / "run", callbacks=(interrupt,))
    run = inference.load(tmp_path / "run")
    description = run.description
    assert run.status == description["status"] == "interrupted"
    (plan,) = (f for f in run.check(digits().test, draws=30).findings if f.name == "plan")
    assert not plan.ok and plan.fact.startswith(f"training is interrupted after {run.taken} of ")
    assert plan.limit == run.planned == 8


@pytest.mark.parametrize("told", [3, {"y": 3}, {"y": {"classes": 10, "cells": [], "sure": 1.0}}])
def test_labelled_rows_of_another_kind_are_refused(folder, told):
    out, _, _ = folder
    good = run_folder.read_description(out)
    try:
        run_folder.write_description(out, {**good, "labelled": told})
        with pytest.raises(run_folder.RunFolderError, match=r"labelled"):
            inference.load(out)
    finally:
        run_folder.write_description(out, good)


def test_restarts_are_chains_of_which_the_last_one_to_end_is_told(folder):
    _, run, rows = folder
    other, _ = fitted(seed=1)
    other.status = "interrupted"
    idata = run.posterior(rows.test, restarts=[other], draws=30)
    assert idata.training["y_confusion"].sizes["chain"] == 2
    assert idata.attrs["training_status"] == "interrupted"
    names = [f.fact for f in inference.verdict(idata).findings if f.variable == "y"]
    assert any("y of chain 1" in fact for fact in names)


def test_a_pair_of_ones_own_learns_its_labels_by_default():
    """Without a term on log q(y | x) labelled rows teach the classifier nothing."""
    rows = digits()
    pair = zoo.build("m2", rows, **SMALL)
    plain = zoo.Pair.objective(pair)
    assert str(plain).endswith("1 (N / N_labelled) log q(y | ...)")
    batch = next(rows.train.where_observed("y").batches())
    torch.manual_seed(0)
    inference.EnumeratedELBO().differentiable_loss(pair.model, pair.guide, batch).backward()
    head = pair.guide.factors["y"].net.first.bias
    assert head.grad is None or not head.grad.any()
    plain.differentiable_loss(pair.model, pair.guide, batch).backward()
    assert bool(head.grad.any())
    bound = inference.IWELBO(particles=2)
    assert repr(zoo.Pair.objective(pair, bound)).startswith(repr(bound))
