"""Callbacks that write the curve: what stands in their files, also after a resume."""

from __future__ import annotations

import csv
import sys

import pytest
import torch

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference.training import validation_curve

OPTIONS = {"progress": False, "device": "cpu", "batch_size": 20, "seed": 3, "steps": 10}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train=100, validation=50, test=50, labelled=30)


@pytest.fixture(scope="module", autouse=True)
def short_trainings_are_looked_at():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation_curve, "APART", 5)
        patch.setattr(validation_curve, "SHARE", 1)
        yield


def fit(digits, *callbacks, **options):
    pair = zoo.build("m2", digits, hidden=(8,), latent=2)
    options = {**OPTIONS, "schedule": "step(every=3)", **options}
    return inference.fit(pair, digits, callbacks=callbacks, **options)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(found):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "new" / "curve.csv"
    return fit(digits, inference.CSVLogger(path)), rows(path)


def test_the_file_is_the_curve(digits, whole):
    run, found = whole
    first = ("step", "stage", "seconds", "loss", "validation", "learning_rate")
    names = [*first, *(name for name in run.history if name not in first)]
    assert list(found[0]) == names and "classification(y)" in names
    for name, column in run.history.items():
        assert [float(row[name]) for row in found] == column, name
    rates = [float(row["learning_rate"]) for row in found]
    assert rates == pytest.approx([1e-3 * 0.1 ** (step // 3) for step in range(10)])
    looks = [(int(row["step"]), float(row["validation"])) for row in found if row["validation"]]
    assert looks == list(zip(run.validation["step"], run.validation["loss"], strict=True))
    for name, value in fit(digits).pair.state_dict().items():
        assert torch.equal(run.pair.state_dict()[name], value), name


def test_a_run_that_goes_on_has_no_row_twice(digits, whole, tmp_path):
    path = tmp_path / "curve.csv"

    def stop(run, step):
        if step == 4:
            raise inference.StopTraining

    fit(digits, inference.CSVLogger(path), stop, out=tmp_path / "run")
    with path.open("a") as file:  # of a process that was killed after its last state
        file.write("5,0,9.9,1.5,,0.5,1,1,1,1,1\n6,0,9")
    fit(digits, inference.CSVLogger(path), out=tmp_path / "run", resume=True)
    assert without_seconds(rows(path)) == without_seconds(whole[1])
    run = fit(digits, inference.CSVLogger(path), steps=3)  # a new run begins it anew
    assert [float(row["loss"]) for row in rows(path)] == run.history["loss"]


def test_parts_of_a_later_stage_have_columns_from_then_on(digits, tmp_path):
    pair = zoo.build("m1", digits, hidden=(8,), latent=2, classifier=(4,))
    log = inference.CSVLogger(tmp_path / "curve.csv")
    options = {**OPTIONS, "steps": (2, 2)}
    run = inference.fit(pair, digits, callbacks=(log,), **options)
    found = rows(tmp_path / "curve.csv")
    for name, column in run.history.items():
        assert [float(row[name] or "nan") for row in found] == pytest.approx(column, nan_ok=True)
    assert [row["learning_rate"] for row in found] == ["0.001"] * 4


def test_another_file_is_not_written_over(tmp_path):
    path = tmp_path / "mine.csv"
    for text in ("gene,cell\n1,2\n", ""):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"mine\.csv is there and no curve of a CSVLogger"):
            inference.CSVLogger(path)
        assert path.read_text() == text
    with pytest.raises(ValueError, match="no curve"):
        inference.CSVLogger(tmp_path)


def test_tensorboard(digits, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def stop(run, step):
        if step == 6:
            raise inference.StopTraining

    board = tmp_path / "board"
    fit(digits, inference.TensorBoard(board), steps=5)  # is written over
    fit(digits, inference.TensorBoard(board), stop, out=tmp_path / "run")
    run = fit(digits, inference.TensorBoard(board), out=tmp_path / "run", resume=True)
    events = EventAccumulator(str(board), size_guidance={"scalars": 0}).Reload()
    parts = set(run.history) - {"step", "stage", "loss", "seconds"}
    assert set(events.Tags()["scalars"]) == {
        "loss", "seconds", "validation", "learning_rate", *(f"parts/{name}" for name in parts)
    }  # fmt: skip

    def told(name):
        scalars = events.Scalars(name)
        return [s.step for s in scalars], [s.value for s in scalars]

    assert told("loss") == (run.history["step"], pytest.approx(run.history["loss"], rel=1e-6))
    looks = run.validation
    assert told("validation") == (looks["step"], pytest.approx(looks["loss"], rel=1e-6))


def test_without_its_package_tensorboard_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"^TensorBoard needs its package: pip install tensorb"):
        inference.TensorBoard(tmp_path)
