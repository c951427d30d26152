"""Funke et al. 2022: readable attributes when their correlation changes sign."""

from __future__ import annotations

import contextlib
import time
from unittest.mock import patch

import matplotlib
import pytest
import torch
from claims.measuring import needs_mnist

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference.objectives import independent_codes

matplotlib.use("Agg")
pytestmark = [pytest.mark.claims, needs_mnist]
SEEDS = (0, 1, 2)
EPOCHS, TRAINED_AT, MISSING = 20, 0.9, 0.9
RATES = {"weight": 3.0, "heads_rate": 3e-3, "critic_rate": 1e-3}
METHODS = {"CMI": "given_label", "MI": "marginal", "Base": "none", "whole batch": "given_label"}
SETTINGS = (
    "20,000 fixed pairs of MNIST's 3 and 8, 14 x 14 pixels each, occlusion 0.4, c = 0.9; 20 "
    "passes of 100 rows; w 3, rates 1e-4 (encoder; Base 3e-4), 3e-3 (heads), 1e-3 (critics); mean "
    "accuracy of both labels in 8,000 test pairs weighed to c, 0 and -c; seeds 0-2"
)


def rows_of(seed: int, c: float, missing: float) -> data.Dataset:
    """Training rows at c, and test rows whose classes are independent."""
    kept = {"s_1": 1 - missing, "s_2": 1 - missing} if missing else None
    rows = data.load(
        "correlated_digits", correlation=c, test=8_000, test_correlation=0.0, labelled=kept,
        source="mnist", seed=seed,
    )  # fmt: skip
    return rows


def measured(method: str, seed: int, c: float = TRAINED_AT, missing: float = 0.0):
    """Accuracy of each label ``(2, 2, 2)`` by both classes, and the critics' last losses."""
    rows = rows_of(seed, c, missing)
    train = rows.train
    if missing:  # rows that know no label change nothing in any step
        known = train.observed["s_1"] | train.observed["s_2"]
        train = train.rows(known.nonzero().flatten())
    pair = zoo.build("cmi", rows, seed=seed, independence=METHODS[method], **RATES)
    # Rows by kind: 100 of each step know s_1 on average, and 100 know s_2.
    batch = round(100 * len(train) / (len(rows.train) * (1 - missing)))
    over_all = contextlib.nullcontext()
    if method == "whole batch":
        over_all = patch.object(
            independent_codes, "order_within", lambda groups, noise: noise.argsort()
        )
    began = time.monotonic()
    with over_all:
        run = inference.fit(
            pair, train, seed=seed, progress=False, compile=True,
            epochs=round(EPOCHS / (1 - missing)), batch_size=batch,
            learning_rate=3e-4 if method == "Base" else 1e-4,
        )  # fmt: skip
    found = {
        "critics": {n: float(v[-1]) for n, v in run.history.items() if "logistic" in n},
        "seconds": time.monotonic() - began,
        "steps": run.planned,
    }
    (test,) = rows.test.batches()
    with torch.no_grad():
        given = test.only("x")
        right = [
            pair.guide.scores(s, pair.guide.upstream(s, given)).argmax(-1) == test[s]
            for s in ("s_1", "s_2")
        ]
    cells = [[(test["s_1"] == a) & (test["s_2"] == b) for b in (0, 1)] for a in (0, 1)]
    found["accuracy"] = [
        [[float(hit[cell].double().mean()) for cell in line] for line in cells] for hit in right
    ]
    if method == "CMI" and seed == 0 and not missing:
        found["images"] = {
            "same": test["x"][cells[0][0] | cells[1][1]][:5].numpy(),
            "other": test["x"][cells[0][1] | cells[1][0]][:5].numpy(),
        }
    return found


def accuracy(found, c: float) -> float:
    """Mean accuracy of both labels where the test rows have the correlation c."""
    total = 0.0
    for of_label in found["accuracy"]:
        for a in (0, 1):
            for b in (0, 1):
                total += (1 + c if a == b else 1 - c) / 4 * of_label[a][b] / 2
    return total
