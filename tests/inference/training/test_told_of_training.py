"""What a training tells while it runs, and what it says to options of other libraries."""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stderr

import pytest

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.commands.main import main
from ppl_models.inference.objectives.habits import OURS, as_flag
from ppl_models.inference.training import pace
from ppl_models.inference.training.pace import Pace, spoken


@pytest.fixture
def digits(caplog):
    caplog.set_level(logging.INFO, logger="ppl_models")
    found = data.load("digits", train=100, validation=50, test=50, labelled=30)
    assert caplog.messages == ["read digits: 100 training, 50 validation and 50 test rows"]
    caplog.clear()
    return found


def test_the_logger_tells_of_each_step_of_the_work(digits, caplog, tmp_path):
    options = {"progress": False, "device": "cpu", "batch_size": 20, "out": tmp_path}
    options |= {"learning_rate": 0.5, "epochs": 20, "patience": 1}
    inference.fit(zoo.build("m2", digits, hidden=(8,), latent=2), digits, **options)
    began, early, wrote, over = caplog.messages
    assert began == "stage 'fit': 100 rows on cpu, 100 of 100 steps to go, each of 20 rows"
    assert early.startswith("stage 'fit' stops early at step ") and "better" in early
    assert wrote.endswith(f" to {tmp_path}") and over.startswith("finished at step ")
    assert logging.getLogger("ppl_models").handlers  # nobody is told who has not asked


def test_the_rate_is_told_once_it_is_known(monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="ppl_models")
    clock = iter([100.0, 102.0, 106.0])
    monkeypatch.setattr(pace.time, "monotonic", lambda: next(clock, 0.0))
    stage = inference.Stage(inference.ELBO())
    told = Pace(stage, 50, "cpu", 10, 1000, False, True)
    for step in range(11, 20):  # the first two are not timed, and nothing is asked once it is told
        told.step(step)
    assert caplog.messages[1:] == ["stage 'fit': 0.333 steps a second, about 49 min to go"]


def test_the_bar_moves_at_each_step_and_says_what_is_ahead():
    stage = inference.Stage(inference.ELBO(), training=inference.Training(compile=True))
    with (
        redirect_stderr(text := io.StringIO()),
        Pace(stage, 1500, "cpu", 3, 10**6, True, True) as p,
    ):
        p.bar.mininterval = 0
        p.step(4)
        assert p.bar.n == 4
    first, second = text.getvalue().split("\r")[-3:-1]
    assert first.startswith("fit, 1,500 rows on cpu:") and "compiling, about a minute" in first
    assert " 4/1000000 " in second


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (90, "1.5 min"),
        (840, "14 min"),
        (12960, "3.6 h"),
        (50000, "14 h"),
    ],
)
def test_times_in_words(seconds, words):
    assert spoken(seconds) == words


@pytest.mark.parametrize(
    ("habit", "name"),
    [
        ("lr", "learning_rate"),
        ("weight_decay", "optimiser='adamw(weight_decay=0.05)'"),
        ("max_epochs", "epochs"),
        ("optimizer", "optimiser"),
        ("lr_schedule", "schedule"),
        ("grad_clip", "clip_norm"),
    ],
)
def test_options_of_other_libraries(habit, name, digits):
    pair = zoo.build("m2", digits, hidden=(8,), latent=2)
    with pytest.raises(ValueError) as told:
        inference.fit(pair, digits, **{habit: 1})
    assert str(told.value) == f"fit has no option {habit!r}; it is {name}"


def test_every_habit_leads_to_an_option(digits):
    import inspect

    known = {*inspect.signature(inference.fit).parameters, *vars(inference.Training())}
    for name in OURS.values():
        assert {word.partition("=")[0] for word in name.split(" and ")} <= known, name
    assert not known & set(OURS)


def test_flags_of_other_programs(capsys, tmp_path):
    assert as_flag("beta1 and beta2") == "--beta1 and --beta2"
    for flag, words in (
        ("--lr", "fit has no flag --lr; it is --learning-rate"),
        (
            "--weight-decay=1",
            "no flag --weight-decay; it is --optimiser 'adamw(weight_decay",
        ),
        ("--enable-progress-bar", "unknown flag '--enable-progress-bar'"),
    ):
        assert main(["fit", "m2", "--data", "digits", "--out", str(tmp_path / "r"), flag]) == 2
        assert words in capsys.readouterr().err
