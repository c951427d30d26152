"""What a stage makes of its rows before a step, and what it changes after it."""

from __future__ import annotations

import contextlib
import json

import pytest
import torch
from worlds.linear import draw, linear
from worlds.processes import together

from ppl_models import inference
from ppl_models.data import Dataset, Table
from ppl_models.inference import (
    Anneal,
    Classification,
    EnumeratedELBO,
    Objective,
    Progress,
    Stage,
    moving_average,
    target_of,
)  # fmt: skip

SETTINGS = {"batch_size": 10, "progress": False, "device": "cpu", "learning_rate": 0.05}


def raw(count=30, **sites):
    x, _ = draw(linear(), count)
    return Table("raw", {"raw": 10 * x.double(), **sites})


def noisy(batch):
    x = batch["raw"] / 10
    return batch.replace({"x": x + 0.1 * torch.randn(x.shape, dtype=x.dtype)})


def plain(batch):
    return batch.replace({"x": batch["raw"] / 10})


def fit(stage, data=None, pair=None, **options):
    pair = pair or linear()
    stages = stage if isinstance(stage, tuple) else (stage,)
    data = raw() if data is None else data
    run = inference.fit(pair, data, stages=stages, **{**SETTINGS, "steps": 5, **options})
    return run


def same(one, other):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


# ---- prepare ---------------------------------------------------------------------------------


def test_a_site_that_is_only_prepared_is_none_that_lacks():
    run = fit(Stage(EnumeratedELBO(), prepare=plain))
    table = Table("ready", {"x": raw().sites["raw"] / 10})
    same(fit(Stage(EnumeratedELBO()), table).pair, run.pair)


@pytest.mark.parametrize(
    "stages",
    [
        (Stage(EnumeratedELBO(), prepare=lambda b: b.replace({"other": b["raw"]})),),
        (Stage(EnumeratedELBO()),),
        (Stage(EnumeratedELBO()), Stage(EnumeratedELBO(), prepare=lambda b: b.only())),
    ],
)
def test_a_site_that_nobody_makes_lacks(stages):
    with pytest.raises(ValueError, match="raw lacks the site 'x' of linear"):
        fit(stages)


def test_a_later_stage_makes_a_site_of_its_own():
    first = Stage(EnumeratedELBO(), name="first", prepare=plain)
    later = Stage(
        Classification("y"), name="later", observed="y",
        prepare=lambda b: b.replace({**b.only("y"), "x": b["raw"]}),
    )  # fmt: skip
    table = raw(y=draw(linear(), 30)[1])
    assert fit((first, later), table).history["step"][-1] == 10


@pytest.mark.parametrize("row", [3, 17])
def test_prepared_values_are_compared_with_their_support(row, tmp_path):
    def spoiled(batch):
        ready = plain(batch)
        ready["x"][batch.rows == row, 1] = float("nan")
        return ready

    with pytest.raises(ValueError, match=rf"site 'x', row {row} of raw, column 1: the value nan"):
        fit(Stage(EnumeratedELBO(), prepare=spoiled), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_prepared_shape_is_compared():
    stage = Stage(EnumeratedELBO(), prepare=lambda b: b.replace({"x": b["raw"][:, :2]}))
    with pytest.raises(ValueError, match=r"'x' of raw has rows of shape \(2,\), expected \(3,\)"):
        fit(stage)


def test_what_prepares_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="prepare gives NoneType, expected a Batch"):
        fit(Stage(EnumeratedELBO(), prepare=lambda b: None), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for option in ("prepare", "prepare_validation"):
        with pytest.raises(ValueError, match=f"{option} of stage 'fit' is 3, expected a function"):
            Stage(EnumeratedELBO(), **{option: 3})


def test_a_check_draws_nothing_from_the_run():
    seen = []

    def counted(batch):
        seen.append(batch.count)
        return noisy(batch)

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    inference.check_data(linear(), raw(), prepare=counted)
    assert sum(seen) >= 30 and torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("ready", [None, plain])
def test_validation_rows_are_prepared_alike_or_by_a_rule_of_their_own(ready):
    data = Dataset("raw", raw(), raw(20), raw(20), {"name": "raw"})
    stage = Stage(EnumeratedELBO(), prepare=noisy, prepare_validation=ready)
    run = fit(stage, data, patience=9, learning_rate=0.0, steps=9)
    losses = run.validation["loss"]
    assert len(losses) == 3 and len(set(losses)) == 1  # the same draws at each look
    table = Table("ready", {"x": raw(20).sites["raw"] / 10})
    told = inference.training.early_stop.Watch(0).loss(run.pair, Stage(EnumeratedELBO()), table, 0)
    assert (losses[0] == told) is (ready is plain)


NOISE = {
    "of a shape": lambda x: torch.randn(x.shape, dtype=x.dtype),
    "normal, as a tensor is": torch.randn_like,
    "uniform, as a tensor is": torch.rand_like,
    "filled": lambda x: torch.empty_like(x).uniform_(-1, 1),
}


@pytest.mark.parametrize("noise", NOISE)
def test_draws_are_resumed_and_shared(noise, tmp_path):
    def made(batch):
        x = batch["raw"] / 10
        return batch.replace({"x": x + 0.1 * NOISE[noise](x)})

    stage = Stage(EnumeratedELBO(), prepare=made)
    whole = fit(stage)
    fit(stage, steps=2, out=tmp_path / "r")
    same(fit(stage, out=tmp_path / "r", resume=True).pair, whole.pair)
    expected = dict(whole.pair.state_dict())
    for outcome in together(2, tmp_path / "p", lambda rank: dict(fit(stage).pair.state_dict())):
        assert not outcome.error, outcome
        for name, value in expected.items():
            torch.testing.assert_close(outcome.value[name], value, rtol=1e-7, atol=1e-9)


def test_what_is_not_finite_is_looked_for_in_prepared_rows(monkeypatch):
    """As on a GPU, where losses are looked at when the curve gets a point."""
    from ppl_models.inference.training.state import State

    mean = State.mean
    monkeypatch.setattr(State, "mean", lambda self: (float("nan"), mean(self)[1]))
    with pytest.raises(inference.NotFinite, match="every site's density is"):
        fit(Stage(EnumeratedELBO(), prepare=plain))


# ---- after -----------------------------------------------------------------------------------

DECAYS = (0.9, 0.0, Anneal(0.8, 1, shape="cosine"), Anneal(0.5, 1, steps=3))


def following(decay=0.9):
    pair = linear()
    source = pair.guide.factors["y"].net
    pair.target = target_of(source)
    pair.counts = torch.nn.Buffer(torch.zeros(2))

    def count(progress):
        pair.counts.add_(torch.tensor([1.0, progress.steps]))

    stage = Stage(
        EnumeratedELBO(), after=(moving_average(pair.target, source, decay), count), name="s"
    )
    return pair, stage


def ready():
    return Table("ready", {"x": raw().sites["raw"] / 10})


@pytest.mark.parametrize(
    ("decay", "compiled"),
    [*((d, False) for d in DECAYS), pytest.param(DECAYS[2], True, marks=pytest.mark.long)],
)
def test_a_target_is_a_moving_average_from_the_first_step_on(decay, compiled):
    pair, stage = following(decay)
    source, steps = pair.guide.factors["y"].net, 5
    expected = {n: p.detach().clone() for n, p in source.named_parameters()}

    def look(run, step):
        progress = Progress((step - 1) / steps, step - 1)
        tau = decay(progress) if isinstance(decay, Anneal) else decay
        there = dict(pair.target.named_buffers())
        for name, parameter in source.named_parameters():
            expected[name] = tau * expected[name] + (1 - tau) * parameter.detach()
            torch.testing.assert_close(there[name], expected[name], rtol=1e-14, atol=1e-14)

    run = fit(stage, ready(), pair, callbacks=(look,), compile=compiled)
    assert run.history["step"] == [1, 2, 3, 4, 5]
    assert pair.counts.tolist() == [5, 10]
    assert not [n for n, _ in pair.named_parameters() if n.startswith("target")]


@pytest.mark.parametrize("decay", DECAYS)
def test_it_is_resumed_bit_for_bit_and_prolonged_by_steps(decay, tmp_path):
    whole, stage = following(decay)
    fit(stage, ready(), whole)
    if isinstance(decay, Anneal) and not decay.steps:
        fit(stage, ready(), following(decay)[0], out=tmp_path / "r", steps=3)
        pair, stage = following(decay)
        with pytest.raises(inference.RunFolderError, match="change after each step changes with"):
            fit(stage, ready(), pair, out=tmp_path / "r", resume=True)
        return
    pair, stage = following(decay)
    stage = inference.Stage(EnumeratedELBO(), name="s", after=stage.after[0])
    fit(stage, ready(), pair, out=tmp_path / "r", steps=3)
    pair, stage = following(decay)
    stage = inference.Stage(EnumeratedELBO(), name="s", after=stage.after[0])
    fit(stage, ready(), pair, out=tmp_path / "r", resume=True)
    for name, value in whole.target.state_dict().items():
        assert torch.equal(pair.target.state_dict()[name], value), name
    told = json.loads((tmp_path / "r" / "run.json").read_text())["identity"]["stages"][0]
    assert "pair.target" in json.dumps(told["after"]) or told["after"]


class Near(Objective):
    """How far a guide's scores are from those of a target that it holds itself."""

    formula = "near"

    def __init__(self, target, source):
        super().__init__()
        self.target, self.source = target, source

    def rows(self, run):
        x = run.batch["x"]
        return (self.target(x=x) - self.source(x=x)).square().sum(-1)


def held():
    """A target that is no part of the pair, but of its objective."""
    pair = linear()
    source = pair.guide.factors["y"].net
    target = target_of(source)
    objective = EnumeratedELBO() + Near(target, source)
    return pair, target, Stage(objective, after=moving_average(target, source, 0.9))


@pytest.mark.parametrize("later", [False, True])
def test_a_target_that_an_objective_holds_is_resumed(later, tmp_path):
    def train(**options):
        pair, target, stage = held()
        stages = (Stage(EnumeratedELBO(), name="first"), stage) if later else stage
        with contextlib.suppress(KeyboardInterrupt):
            fit(stages, ready(), pair, **options)
        return pair, target

    def stop(run, step):
        if step == run.planned - 2:
            raise KeyboardInterrupt

    whole, target = train()
    options = {"out": tmp_path / "r", "checkpoint_seconds": 0.0}
    train(callbacks=(stop,), **options)
    pair, again = train(resume=True, **options)
    same(pair, whole)
    same(again, target)


def test_two_processes_follow_as_one(tmp_path):
    def train():
        pair, stage = following(DECAYS[2])
        fit(stage, ready(), pair)
        return dict(pair.state_dict())

    expected = train()
    outcomes = together(2, tmp_path, lambda rank: train())
    for outcome in outcomes:
        assert not outcome.error, outcome
        for name, value in expected.items():
            torch.testing.assert_close(outcome.value[name], value, rtol=1e-7, atol=1e-9)
            assert torch.equal(outcome.value[name], outcomes[0].value[name])


def test_a_stage_without_is_told_as_in_older_versions(tmp_path):
    fit(Stage(EnumeratedELBO()), ready(), out=tmp_path / "r", steps=0, epochs=1)
    told = json.loads((tmp_path / "r" / "run.json").read_text())["identity"]["stages"][0]
    added = {
        "after",
        "prepare_validation",
        "steps",
        "schedule",
        "warmup",
        "clip_norm",
        "optimiser",
    }
    assert not added & told.keys() and told["epochs"] == 1
