"""Looks at validation rows that nobody has asked for: few, cheap, and without a trace."""

from __future__ import annotations

import pytest
import torch

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference import plots
from ppl_models.inference.training import validation_curve
from ppl_models.inference.training.early_stop import Watch
from ppl_models.inference.training.validation_curve import some_rows, spacing

OPTIONS = {"progress": False, "device": "cpu", "batch_size": 20, "seed": 3, "steps": 12}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train=100, validation=50, test=50, labelled=30)


def fit(rows, **options):
    pair = zoo.build("m2", rows, hidden=(8,), latent=2)
    return inference.fit(pair, rows, **{**OPTIONS, **options})


def curve(run):
    return {name: values for name, values in run.history.items() if name != "seconds"}


@pytest.mark.parametrize(
    ("total", "every", "batch_size", "rows", "expected"),
    [
        (49, 1, 100, 10, 0),  # too short for one
        (50, 1, 100, 10, 50),
        (99, 1, 100, 10, 99),
        (1000, 2, 100, 200, 50),  # 20 of them
        (1000, 2, 100, 1000, 100),  # 10: a tenth of the rows trained on
        (1001, 2, 100, 200, 52),  # 20, at points of the curve
        (10**6, 2500, 100, 1000, 50000),
        (1000, 2, 100, 0, 0),
        (100, 1, 1, 50, 0),
    ],
)
def test_how_far_apart_they_are(total, every, batch_size, rows, expected):
    assert spacing(total, every, batch_size, rows) == expected
    assert not expected or expected % every == 0


@pytest.fixture
def two_looks(monkeypatch):
    monkeypatch.setattr(validation_curve, "APART", 6)
    monkeypatch.setattr(validation_curve, "SHARE", 1)


def test_training_is_what_it_was_without_them(digits, tmp_path, two_looks):
    alone, run = fit(digits.train), fit(digits)
    assert alone.validation == {"step": [], "loss": []}
    assert run.validation["step"] == [6, 12]
    assert curve(alone) == curve(run)
    for name, value in alone.pair.state_dict().items():
        assert torch.equal(run.pair.state_dict()[name], value), name
    (stage,) = run.pair.stages()
    rows = digits.validation.without("y")
    assert run.validation["loss"][-1] == Watch(3).loss(run.pair, stage, rows, 12)
    lines = plots.training_curve(run).get_lines()
    assert [6, 12] in [line.get_xdata().tolist() for line in lines if len(line.get_xdata()) == 2]

    def stop(run, step):
        if step == 6 and run.validation["step"] == [6]:  # the look is there by then
            raise inference.StopTraining

    assert fit(digits, out=tmp_path, callbacks=(stop,)).taken == 6
    again = fit(digits, out=tmp_path, resume=True)
    assert again.validation == run.validation and curve(again) == curve(run)
    assert inference.load(tmp_path).validation == run.validation


def test_a_look_that_fails_ends_no_training(digits, caplog, two_looks):
    class Strict(inference.EnumeratedELBO):
        def rows(self, run):
            if not torch.is_grad_enabled():
                raise RuntimeError("no looks")
            return super().rows(run)

    caplog.set_level("INFO", logger="ppl_models")
    run = fit(digits, objective=Strict())
    assert run.status == "finished" and not run.validation["step"]
    assert caplog.messages.count("stage 'fit' has no validation curve: no looks") == 1


def test_rows_are_spread_over_a_large_table():
    table = data.from_arrays(x=torch.arange(2500.0)[:, None], splits=None).test
    found = some_rows(table)
    assert len(found) == 1000
    expected = torch.tensor([n * 2500 // 1000 for n in range(1000)])
    assert torch.equal(found.numbers, table.numbers[expected])
    assert some_rows(found) is found
