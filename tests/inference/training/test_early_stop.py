"""Looks at validation rows whose loss is NaN or infinite."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pytest
import torch

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference.training import early_stop
from ppl_models.inference.training.early_stop import NotFiniteLook, better_of

SMALL = {"hidden": (8,), "latent": 2}
NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train=200, validation=50, test=50, labelled=30)


def fit(digits, **options):
    pair = zoo.build("m2", digits, **SMALL)
    settings = {"batch_size": 100, "progress": False, "device": "cpu", "seed": 3}
    return inference.fit(pair, digits, **{**settings, **options})


class Losses(inference.EnumeratedELBO):
    """The losses of the looks are given; weights are those of training."""

    def __init__(self, looks=()):
        super().__init__()
        self.looks = list(looks)

    def per_datum(self, model, guide, batch):
        loss = super().per_datum(model, guide, batch)
        value = self.looks.pop(0)
        loss[7] = loss[7] * 0 + value * len(loss) - loss[:7].sum() - loss[8:].sum()
        return loss


def weights_after(digits, epochs):
    run = fit(digits, epochs=epochs, objective=inference.EnumeratedELBO())
    return run.pair.state_dict()


@pytest.mark.parametrize(
    ("looks", "patience", "seen", "best"),
    [
        ([NAN, 3.0, 2.0, 4.0], 9, 4, 3),  # first: it does not win
        ([3.0, NAN, 2.0, 2.5], 9, 4, 3),  # in the midst
        ([3.0, 2.0, -INF, 2.5], 9, 4, 2),  # less than all, and yet no best one
        ([3.0, INF, 2.0, 4.0], 1, 4, 3),  # no look counts for patience that says nothing
        ([3.0, NAN, NAN, NAN, 2.0], 2, 5, 5),
        ([3.0, 4.0, NAN, 4.0, 1.0], 2, 4, 1),  # finite ones count as ever
        ([NAN, NAN, NAN, NAN], 1, 4, 4),  # none at all: the last weights
        ([INF, INF, 5.0], 1, 3, 3),
    ],
)
def test_a_look_that_is_not_finite_is_no_look(digits, looks, patience, seen, best):
    with pytest.warns(NotFiniteLook) as told:
        run = fit(digits, epochs=len(looks), patience=patience, objective=Losses(looks))
    assert sum(issubclass(w.category, NotFiniteLook) for w in told) == 1
    losses = run.validation["loss"]
    np.testing.assert_allclose(losses, looks[:seen], rtol=1e-4)
    expected = weights_after(digits, best)
    for name, value in run.pair.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_finite_looks_are_not_told_of(digits):
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotFiniteLook)
        fit(digits, epochs=2, patience=1)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_nothing_of_it_is_kept(value):
    pair = zoo.build("m2", **SMALL)
    assert better_of({}, value, pair) == {}
    best = {"loss": 1.0, "model": {}, "age": 2}
    assert better_of(best, value, pair) == best


@pytest.mark.parametrize(("place", "column"), [(0, 3), (33, 0), (49, 63)])
def test_site_and_row_are_told_once(digits, monkeypatch, place, column):
    monkeypatch.setattr(early_stop, "LOOK_ROWS", 20)
    look = early_stop.Watch(0)
    pair = zoo.build("m2", digits, **SMALL)
    rows = digits.validation.without("y")
    rows = type(rows)(rows.name, {"x": rows.sites["x"].clone()}, numbers=rows.numbers)
    rows.sites["x"][place, column] = NAN
    (stage,) = pair.stages()
    expected = re.escape(
        "validation loss counts neither as the best nor for patience, step 12: log density "
    )
    with pytest.warns(
        NotFiniteLook, match=rf"^{expected}of site '[xyz]' is nan at row {rows.numbers[place]}$"
    ):
        assert math.isnan(look.loss(pair, stage, rows, 12))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(look.loss(pair, stage, rows, 13))
        look.told = False
        look.loss(pair, stage, rows, 14, tell=False)  # another process of the run speaks


def test_the_command_line_says_it(tmp_path):
    from ppl_models.commands.main import main

    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\nfrom ppl_models import inference\n"
        "from ppl_models.semisupervised.m2 import M2\n"
        "class NotHere(inference.EnumeratedELBO):\n"
        "    def per_datum(self, model, guide, batch):\n"
        "        return super().per_datum(model, guide, batch) * float('nan')\n"
        "class Mine(M2):\n"
        "    def objective(self, bound=None):\n        return NotHere()\n"
    )
    line = f"fit {path}:Mine --data digits --train 200 --validation 20 --test 30 --labelled 30"
    line += f" --hidden 8 --latent 2 --epochs 3 --patience 2 --quiet --draws 9 --out {tmp_path}/r"
    with pytest.warns(NotFiniteLook, match="though every site's density is, at row 109$"):
        assert main(line.split()) == 0
