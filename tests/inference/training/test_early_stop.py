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


class Company(inference.EnumeratedELBO):
    """What a row loses is how many rows it is looked at with, and each row is told."""

    across_rows = True

    def __init__(self):
        super().__init__()
        self.seen = []

    def rows(self, run):
        self.seen.append(run.batch.rows.tolist())
        return torch.full((run.batch.count,), float(run.batch.count))


@pytest.mark.parametrize(
    ("validation", "batch_size", "labelled_batch_size", "expected"),
    [
        (50, 20, 0, {20: [20, 20, 10]}),  # filled up to 20
        (50, 50, 0, {50: [50]}),
        (7, 20, 0, {7: [7]}),  # all there is
    ],
)
def test_rows_that_look_at_each_other_have_company_as_in_training(
    digits, validation, batch_size, labelled_batch_size, expected
):
    objective = Company()
    options = inference.Training(
        batch_size=batch_size, labelled_batch_size=labelled_batch_size, epochs=1
    )
    stage = inference.Stage(objective, training=options)
    pair = zoo.build("m2", digits, **SMALL)
    table = digits.validation.without("y").rows(slice(0, validation))
    loss = early_stop.Watch(0).loss(pair, stage, table, 0)
    ((size, counted),) = expected.items()
    assert [len(rows) for rows in objective.seen] == [size] * len(counted)
    assert all(len(set(rows)) == size for rows in objective.seen)  # nobody meets itself
    first = [row for rows, c in zip(objective.seen, counted, strict=True) for row in rows[:c]]
    assert first == table.numbers.tolist()  # each counts once
    assert loss == size


def test_each_kind_of_rows_has_its_share_of_a_step(digits):
    objective = Company()
    stage = inference.Stage(objective, training=inference.Training(batch_size=20, epochs=1))
    table = digits.train  # 30 of its rows have labels
    pair = zoo.build("m2", digits, **SMALL)
    loss = early_stop.Watch(0).loss(pair, stage, table, 0)
    sizes = data.Stream(table, 20).sizes
    kinds = [len(regime.index) for regime in table.regimes()]
    looks = [
        size for size, rows in zip(sizes, kinds, strict=True) for _ in range(-(-rows // size))
    ]
    assert [len(rows) for rows in objective.seen] == looks
    mean = sum(size * rows for size, rows in zip(sizes, kinds, strict=True)) / len(table)
    assert loss == pytest.approx(mean)
