"""Trainings that end before their plan without an error, and go on from there."""

from __future__ import annotations

import pytest
import torch
from worlds.processes import together

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.commands.main import main
from ppl_models.inference import StopTraining

OPTIONS = {"progress": False, "device": "cpu", "batch_size": 50, "seed": 3}
M1 = {"hidden": (8,), "latent": 2, "classifier": (4,)}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train=200, validation=50, test=50, labelled=30)


def fit(digits, paper="m2", **options):
    settings = M1 if paper == "m1" else {"hidden": (8,), "latent": 2}
    pair = zoo.build(paper, digits, **settings)
    return inference.fit(pair, digits, **{**OPTIONS, **options})


def at(stop, why="enough"):
    def callback(run, step):
        if step == stop:
            raise StopTraining(why)

    return callback


def check_same(one, other):
    for name, value in one.pair.state_dict().items():
        assert torch.equal(value, other.pair.state_dict()[name]), name
    for name in set(one.history) - {"seconds"}:
        # Not a number in stages that lack the part.
        assert repr(one.history[name]) == repr(other.history[name]), name
    assert one.validation == other.validation


def test_a_callback_ends_the_training_at_its_step(digits):
    seen = []
    run = fit(digits, steps=12, callbacks=(at(5), lambda run, step: seen.append(step)))
    check_same(run, fit(digits, steps=5))
    assert seen == [1, 2, 3, 4, 5]  # whichever is called first
    assert (run.status, run.reason, run.taken, run.planned) == ("stopped", "enough", 5, 12)


def test_at_the_last_step_there_is_nothing_to_end(digits):
    run = fit(digits, steps=3, callbacks=(at(3),))
    assert (run.status, run.reason) == ("finished", "")


def test_a_stop_with_patience_leaves_the_best_weights(digits, tmp_path):
    options = {"epochs": 9, "batch_size": 200, "learning_rate": 0.5, "patience": 9}

    def stop(run, step):
        looks = run.validation["loss"]
        assert len(looks) == step  # that of this step is there by now
        if looks[-1] > min(looks):
            raise StopTraining

    run = fit(digits, out=tmp_path / "r", callbacks=(stop,), **options)
    best = 1 + run.validation["loss"].index(min(run.validation["loss"]))
    assert run.status == "stopped" and best < run.taken
    expected = fit(digits, **{**options, "epochs": best, "patience": 0})
    loaded = inference.load(tmp_path / "r")
    for name, value in expected.pair.state_dict().items():
        assert torch.equal(run.pair.state_dict()[name], value), name
        assert torch.equal(loaded.pair.state_dict()[name], value), name
    check_same(fit(digits, out=tmp_path / "r", resume=True, **options), fit(digits, **options))


@pytest.mark.parametrize("stop", [3, 4, 6])  # in the first of two stages, at its end, in the last
def test_no_later_stage_is_begun_and_all_can_be_resumed(digits, tmp_path, stop):
    options = {"paper": "m1", "steps": (4, 4)}
    run = fit(digits, out=tmp_path, callbacks=(at(stop, "a\nlong day"),), **options)
    assert run.history["stage"] == [int(step > 4) for step in range(1, stop + 1)]
    loaded = inference.load(tmp_path)
    assert (loaded.status, loaded.reason) == ("stopped", "a long day")
    assert loaded.description["planned"] == run.planned == (4 if stop <= 4 else 8)
    again = fit(digits, out=tmp_path, resume=True, **options)
    check_same(again, fit(digits, **options))
    assert (again.status, again.reason) == ("finished", "")
    assert inference.load(tmp_path).reason == ""


def test_minutes_end_it_after_a_step_and_it_goes_on_bit_for_bit(digits, tmp_path):
    whole, statuses = fit(digits, "m1", steps=(1, 2)), []
    for resume in (False, True, True):
        part = fit(digits, "m1", steps=(1, 2), out=tmp_path, resume=resume, max_minutes=1e-9)
        statuses.append((part.status, part.reason, part.taken))
    over = "max_minutes are over"
    assert statuses == [("interrupted", over, 1), ("interrupted", over, 2), ("finished", "", 3)]
    check_same(part, whole)


def test_minutes_need_no_folder_and_change_nothing_while_they_last(digits):
    check_same(fit(digits, steps=4, max_minutes=60), fit(digits, steps=4))
    run = fit(digits, steps=4000, max_minutes=1e-9)  # before the first point of the curve
    assert (run.status, run.taken, run.history["loss"]) == ("interrupted", 0, [])
    idata = run.posterior(digits.test, rows=range(5), draws=5)
    assert idata.attrs["training_status"] == "interrupted"


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf"), "9", True])
def test_minutes_are_a_number_above_0(digits, minutes):
    with pytest.raises(ValueError, match=r"^max_minutes is .*, expected a number"):
        fit(digits, steps=1, max_minutes=minutes)


def test_all_processes_end_together(digits, tmp_path):
    stopped, limited = fit(digits, steps=3), fit(digits, steps=1)

    def work(rank):
        # The callback is given to one of them alone.
        mine = (at(3),) if rank == 0 else ()
        runs = [fit(digits, steps=9, callbacks=mine), fit(digits, steps=9, max_minutes=1e-9)]
        return [[run.status, run.reason, run.taken, dict(run.pair.state_dict())] for run in runs]

    outcomes = together(2, tmp_path, work)
    for outcome in outcomes:
        assert not outcome.error
        for told, expected, alone in zip(
            outcome.value,
            [["stopped", "enough", 3], ["interrupted", "max_minutes are over", 1]],
            (stopped, limited),
            strict=True,
        ):
            assert told[:3] == expected
            for name, value in alone.pair.state_dict().items():
                torch.testing.assert_close(told[3][name], value, rtol=1e-3, atol=1e-4)


def test_the_command_line(tmp_path, capsys):
    line = "fit vae --data digits --train 60 --validation 20 --test 20 --hidden 4 --latent 2 "
    line += f"--steps 2 --quiet --draws 5 --rows 5 --device cpu --out {tmp_path / 'r'}"
    assert main([*line.split(), "--max-minutes", "1e-9"]) == 0
    told = capsys.readouterr()
    assert "interrupted" in told.out
    assert told.err.splitlines()[-1] == (
        "ppl-models: max_minutes are over, after 1 of 2 planned steps; add --resume to go on"
    )
    log = tmp_path / "curve.csv"
    assert main([*line.split(), "--resume", "--log-csv", str(log), "--verbose"]) == 0
    told = capsys.readouterr()
    assert f"ppl-models: goes on from step 1 of the run in {tmp_path / 'r'}" in told.err
    assert "finished" in told.out
    assert [text.split(",")[0] for text in log.read_text().splitlines()] == ["step", "1", "2"]
