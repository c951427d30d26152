"""Each term on codes on each story and guide of the family: ``docs/terms-on-pairs.md``."""

from __future__ import annotations

import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from claims.measuring import run_all, spread

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference.objectives.by_name import parse_objective
from ppl_models.pages.tables import table

pytestmark = pytest.mark.claims
PAGE = Path(__file__).parents[2] / "docs" / "terms-on-pairs.md"
SEEDS, STEPS, LATENT, ASKED = (0, 1, 2), 500, 4, 500
IMAGE: dict[str, Any] = {"networks": "dense", "hidden": (128,), "latent": LATENT}
LADDER = {
    **IMAGE, "levels": (128, 128), "latent": (LATENT, 2), "likelihood": "soft_bernoulli",
    "emphasis": 4.0, "kl_warmup": 0,
}  # fmt: skip
WEIGHED = {**IMAGE, "hidden": (128, 128), "activation": "tanh", "emphasis": 4.0}
NOISE = 0.05  # nats, of a term that has nothing to do
# Pairs, the code that a term is put on, and their settings.
PAIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "beta_vae": ("z", {**WEIGHED, "beta": 1.0}),
    "cr_vae": ("z", WEIGHED),
    "guided_vae": ("z", WEIGHED),
    "overlap_vae": ("z", {**IMAGE, "beta": 1.0}),
    "vlae": ("z_1", LADDER),
    "ladder_vae": ("z_1", {**LADDER, "skips": True}),
    "cluster_ica": ("z", {"latent": LATENT, "hidden": (128,), "clusters": 5}),
    "s_vae": ("z", {**WEIGHED, "binarise": False}),
    "nashae": ("z", {**IMAGE, "weight": 0.0}),
}
TERMS = {
    "capacity of 3 nats": "capacity({}, gamma=100, capacity=3)",
    "DIP-VAE I": "code_covariance({}, lambda_od=10, lambda_d=10)",
    "DIP-VAE II": "code_covariance({}, lambda_od=10, lambda_d=10, of=aggregate)",
    "beta-TCVAE": "total_correlation({}, weight=10)",
    "HFS": "hausdorff_support({0}, weight=10) + support_scale({0}, weight=10)",
}


def value(term: inference.Objective, pair: zoo.Pair, batch: zoo.Batch) -> float:
    """The term per row, in nats."""
    torch.manual_seed(0)
    with torch.no_grad():
        return float(term.loss(pair.model, pair.guide, batch)) / len(batch["x"])


def measured(name: str, seed: int) -> dict[str, Any]:
    """By term, what it comes to without and with it; or why it makes nothing of this code."""
    began = time.monotonic()
    site, settings = PAIRS[name]
    rows = data.load("blob", correlated="positions", train=3_000, validation=0, test=0, seed=seed)
    table = rows.train.only("x")
    batch = zoo.Batch({"x": table.sites["x"][:ASKED]})

    def fitted(*terms: inference.Objective) -> zoo.Pair:
        pair = zoo.build(name, rows, seed=seed, **settings)
        *before, last = pair.stages()  # clusters begin at a VAE's codes
        last = dataclasses.replace(last, objective=sum(terms, start=last.objective))
        inference.fit(
            pair, table, stages=(*before, last), steps=STEPS, batch_size=64,
            learning_rate=1e-3, seed=seed, progress=False,
        )  # fmt: skip
        return pair

    plain, found = fitted(), {}
    for name_of, text in TERMS.items():
        term = parse_objective(text.format(site))
        try:
            found[name_of] = value(term, plain, batch), value(term, fitted(term), batch)
        except inference.UnhandledSite as error:
            found[name_of] = str(error)
    return {**found, "minutes": (time.monotonic() - began) / 60}


def cell(runs: list) -> str:
    """Means with and without, or none."""
    if isinstance(runs[0], str):
        return "none"
    without, with_it = zip(*runs, strict=True)
    return f"{spread(with_it)} of {statistics.mean(without):.2f}"


def page(found: dict[str, list]) -> str:
    """``docs/terms-on-pairs.md``."""
    lines = [
        (name, f"`{site}`", *(cell([run[term] for run in found[name]]) for term in TERMS))
        for name, (site, _) in PAIRS.items()
    ]
    why = sorted({run[t] for runs in found.values() for run in runs for t in TERMS
                  if isinstance(run[t], str)})  # fmt: skip
    reasons = "\n".join(f"- {reason}" for reason in why)
    shown = table(("pair", "code", *TERMS), lines)
    return f"""# Each term on each story and guide

What a term comes to per row after training with it, of what it comes to without: in nats, its
weight included, means over seeds {SEEDS[0]}-{SEEDS[-1]} with the standard deviation of the
former. A term is added to the pair's own objective, and is then asked at {ASKED} of the rows. The
games `permuted_codes` and `predictors_of` take every code that is drawn.

{shown}

"None" is an error of one line before the first step:

{reasons}

NashAE's code is a point under a uniform prior: its KL counts 0 and cannot be moved.

`blob` of 16 x 16 pixels with places near the diagonal, 3,000 rows; dense networks of one or two
layers of 128 units, codes of {LATENT}, {STEPS} steps of 64 rows, Adam 1e-3. Weights are round
numbers and were not tuned. What is left of a figure hangs on how much its pair's own objective
asks for the contrary.

Written by `pytest -m claims tests/claims/test_terms_on_pairs.py`. Terms beside other bounds are
in [Terms swapped across the family](disentangled-family.md).
"""


def test_each_term_acts_on_each_pair():
    jobs = [(name, seed) for name in PAIRS for seed in SEEDS]
    values = dict(zip(jobs, run_all(measured, jobs), strict=True))
    found = {name: [values[name, seed] for seed in SEEDS] for name in PAIRS}
    PAGE.write_text(page(found))
    for name, runs in found.items():
        for term in TERMS:
            if not isinstance(runs[0][term], str):
                without, with_it = (
                    statistics.mean(side)
                    for side in zip(*(run[term] for run in runs), strict=True)
                )
                assert with_it < without + NOISE, (name, term, without, with_it)
