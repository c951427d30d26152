"""The section of a report on modalities has the numbers of the scores."""

from __future__ import annotations

import numpy as np
from commands.test_report import Page

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference import metrics
from ppl_models.pages import sections
from ppl_models.pages.report import render
from ppl_models.pages.sections import Fit


def exported(**options):
    draw = np.random.default_rng(0)
    y = draw.integers(3, size=60)
    sites = {n: (y[:, None] + draw.normal(size=(60, 3))).astype("float32") for n in ("s", "t")}
    rows = data.from_arrays(**sites, y=y, splits=np.full(60, "train")).train
    pair = zoo.build("mvae", rows, kinds=("normal",) * 2, latent=2, hidden=(8,), seed=0)
    return inference.Run(pair, "").posterior(rows, draws=30, prior_draws=30, **options)


def test_numbers_are_those_of_the_scores():
    idata = exported(oracle={"t": lambda x: x[:, 0] > 1})
    fit = Fit(idata, None, {}, "")
    found = Page(render(fit, 0)[1])
    assert "Modalities" in found.headings
    head, *lines = found.table("given")
    assert head == ["given", "other", "cosine", "relatedness", "coherence", "classifier"]
    scores = metrics.modality_scores(idata)
    for line, (given, other) in zip(lines, (("s", "t"), ("t", "s")), strict=True):
        at = {"modality": given, "other": other}
        told = [scores[n].sel(at) for n in ("canonical", "relatedness", "coherence")]
        told += [scores.accuracy.sel(modality=given)]
        shown = [f"{float(v):.3f}" if np.isfinite(v) else "unknown" for v in told]
        assert line == [given, other, *shown]
    assert lines[1][4] == "unknown"  # nobody reads s
    banner = sections.verdict(fit)[1]
    assert "alone" not in banner and "k-hat" in banner


def test_one_modality_has_no_section():
    found = Page(render(Fit(exported(given=("s",)), None, {}, ""), 0)[1])
    assert "Modalities" not in found.headings
