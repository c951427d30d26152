"""Runs that go on for longer, start over, or were told otherwise."""

from __future__ import annotations

import re

import pytest
import torch
from worlds import run_files

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference.objectives.schedule import Anneal, follows_progress
from ppl_models.inference.training import run_folder

SMALL = {"hidden": (8,), "latent": 2}
PAPERS = {
    "m2": SMALL,
    "m1": {**SMALL, "classifier": (4,)},
    "m1m2": {**SMALL, "code": 3, "hidden_top": (4,), "dead": 0.0},
    "mmdcgm": SMALL,
}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train=200, validation=50, test=50, labelled=30)


def fit(digits, paper="m2", out=None, **options):
    pair = zoo.build(paper, digits, **PAPERS[paper])
    settings = {"batch_size": 50, "progress": False, "device": "cpu", "seed": 3}
    return inference.fit(pair, digits, out=out, **{**settings, **options})


def same(one, other):
    weights = zip(one.pair.state_dict().items(), other.pair.state_dict().values(), strict=True)
    for (name, a), b in weights:
        assert torch.equal(a, b), name
    assert one.history["loss"] == other.history["loss"]
    assert one.history["step"] == other.history["step"]
    assert one.validation == other.validation


@pytest.mark.parametrize(
    ("paper", "first", "then"),
    [
        ("m2", 5, 10),
        ("m1", (2, 3), (2, 6)),
        ("m1m2", (2, 1), (2, 4)),
        ("mmdcgm", 2, 5),
    ],
)
def test_a_run_of_more_epochs_goes_on_from_the_fewer(digits, tmp_path, paper, first, then):
    out = tmp_path / "run"
    whole = fit(digits, paper, epochs=then)
    fit(digits, paper, out, epochs=first)
    rest = fit(digits, paper, out, epochs=then, resume=True)
    same(rest, whole)
    loaded = inference.load(out)
    description = loaded.description
    same(loaded, whole)
    assert description["status"] == "finished"
    told = [stage["epochs"] for stage in description["stages"]]
    assert told == list(then if isinstance(then, tuple) else (then,))


def test_again_and_again(digits, tmp_path):
    out = tmp_path / "run"
    for epochs in (1, 2, 4, 4):
        rest = fit(digits, out=out, epochs=epochs, resume=True)
    same(rest, fit(digits, epochs=4))


def test_the_best_weights_are_kept_and_the_last_ones_go_on(digits, tmp_path):
    out, options = tmp_path / "run", {"learning_rate": 0.8, "patience": 6}
    whole = fit(digits, epochs=12, **options)
    losses = whole.validation["loss"]
    stop = next(n for n in range(1, len(losses)) if losses[n] > losses[n - 1])  # not at its best
    few = fit(digits, out=out, epochs=stop + 1, **options)
    best = losses[: stop + 1].index(min(losses[: stop + 1]))
    same(inference.load(out), few)
    same(few, fit(digits, epochs=stop + 1, **options))
    assert best < stop
    same(fit(digits, out=out, epochs=12, resume=True, **options), whole)
    same(inference.load(out), whole)


def test_a_stage_that_has_not_begun_may_have_any_length(digits, tmp_path):
    out = tmp_path / "run"

    def stop(run, step):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(digits, "m1", out, epochs=(2, 5), callbacks=(stop,), checkpoint_seconds=0)
    rest = fit(digits, "m1", out, epochs=(2, 3), resume=True)
    same(rest, fit(digits, "m1", epochs=(2, 3)))


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        ({"epochs": 3}, {"epochs": 2}, "another run: its stages.fit.epochs is 3, not 2"),
        ({"batch_size": 50}, {"batch_size": 40}, "its stages.fit.batch_size is 50, not 40"),
        ({"seed": 1}, {"seed": 2}, "another run: its seed is 1, not 2"),
        ({"patience": 0}, {"patience": 9}, "its stages.fit.patience is 0, not 9"),
    ],
)
def test_another_setting_is_named_with_both_values(digits, tmp_path, first, then, message):
    out = tmp_path / "run"
    fit(digits, out=out, **{"epochs": 3, **first})
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    expected = re.escape(f"{out} holds another run: ") + ".*" + re.escape(message[-20:]) + "$"
    with pytest.raises(inference.RunFolderError, match=expected):
        fit(digits, out=out, resume=True, **{"epochs": 3, **first, **then})
    assert before == {p.name: p.read_bytes() for p in out.iterdir()}


def test_a_stage_that_is_over_keeps_its_length(digits, tmp_path):
    out = tmp_path / "run"
    fit(digits, "m1", out, epochs=(1, 1))
    name = zoo.build("m1", digits, **PAPERS["m1"]).stages()[0].name
    expected = f"{out} holds another run: its stages.{name}.epochs is 1, not 2"
    with pytest.raises(inference.RunFolderError, match=f"^{re.escape(expected)}$"):
        fit(digits, "m1", out, epochs=(2, 2), resume=True)


class Slower(inference.EnumeratedELBO):
    def rows(self, run):
        return super().rows(run) * (1 - self.progress / 2)


@pytest.mark.parametrize(
    "objective",
    [
        inference.EnumeratedELBO(beta=Anneal(0, 1)),
        inference.EnumeratedELBO(beta={"z": Anneal(0, 1)}),
        inference.EnumeratedELBO() + 0.5 * inference.Emphasis("y", weight=Anneal(1, 2)),
        Slower(),
    ],
)
def test_objectives_that_change_with_the_share_of_epochs_are_not_prolonged(
    digits, tmp_path, objective
):
    assert follows_progress(objective)
    out = tmp_path / "run"
    fit(digits, out=out, epochs=2, objective=objective)
    expected = (
        f"{out} holds a run whose stage 'fit' has 2 epochs, not 3, and cannot be prolonged: its "
        "objective changes with the share of the epochs that is done"
    )
    with pytest.raises(inference.RunFolderError, match=f"^{re.escape(expected)}$"):
        fit(digits, out=out, epochs=3, objective=objective, resume=True)
    fit(digits, out=out, epochs=2, objective=objective, resume=True)


@pytest.mark.parametrize("name", ["m2", "mmdcgm", "ccvae"])
def test_other_objectives_do_not(name):
    assert not follows_progress(zoo.build(name).stages()[-1].objective)


# ---- starting over -----------------------------------------------------------------------


@pytest.mark.parametrize("damage", [None, "run.json", "state.pt"])
def test_overwrite_starts_over_and_leaves_other_files(digits, tmp_path, damage):
    out = run_files.make(tmp_path / "run")
    (out / "notes.txt").write_text("mine")
    (out / "report.html").write_text("of the old run")
    if damage:
        (out / damage).write_bytes(b"x")
    run = fit(digits, out=out, epochs=1, overwrite=True)
    same(inference.load(out), run)
    assert sorted(p.name for p in out.iterdir()) == ["notes.txt", "run.json", "state.pt"]


def test_overwrite_is_for_runs_alone(digits, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "state.pt").write_text("not a run's")
    expected = f"{tmp_path} exists and is no run, expected a new or empty folder"
    with pytest.raises(inference.RunFolderError, match=f"^{re.escape(expected)}$"):
        fit(digits, out=tmp_path, epochs=1, overwrite=True)
    assert (tmp_path / "state.pt").read_text() == "not a run's"
    fit(digits, out=tmp_path / "new", epochs=1, overwrite=True)


def test_overwrite_and_resume_exclude_each_other(digits, tmp_path):
    with pytest.raises(ValueError, match=r"^resume and overwrite are both on"):
        fit(digits, out=tmp_path / "run", resume=True, overwrite=True)
    assert not (tmp_path / "run").exists()


def test_data_that_moved_are_the_same_data(tmp_path):
    import numpy as np

    draw = torch.Generator().manual_seed(0)
    x, y = torch.rand(100, 6, generator=draw).numpy(), np.arange(100) % 3
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)
    np.savez(tmp_path / "c.npz", x=x[::-1], y=y)
    sets = {n: data.load(str(tmp_path / f"{n}.npz"), labelled=30) for n in ("a", "b", "c")}
    out = tmp_path / "run"
    fit(sets["a"], out=out, epochs=1)
    same(fit(sets["b"], out=out, epochs=2, resume=True), fit(sets["a"], epochs=2))
    assert run_folder.read_description(out)["data"]["name"] == str(tmp_path / "b.npz")
    with pytest.raises(inference.RunFolderError, match=r"holds another run: its data\."):
        fit(sets["c"], out=out, epochs=2, resume=True)
