"""Checkpoints along a training: how many steps led to each, at which rate, and of which stage."""

from __future__ import annotations

import pytest
import torch
from worlds.factors import ClosedForm, factors, table

from ppl_models import inference
from ppl_models.inference import metrics


def test_checkpoints_are_kept_along_the_way_and_at_the_end_of_each_stage():
    pair, train = factors(), table()
    stages = tuple(
        inference.Stage(ClosedForm(), name, training=inference.Training(steps=steps))
        for name, steps in (("one", 7), ("two", 5))
    )
    kept, seen = metrics.Checkpoints(every=3), []
    inference.fit(
        pair, train, stages=stages, optimiser=("adam", "sgd"), learning_rate=(0.1, 0.01),
        batch_size=6, device="cpu", progress=False,
        callbacks=(kept, lambda run, step: seen.append(run.pair.decoder.bias.detach().clone())),
    )  # fmt: skip
    assert [c.steps for c in kept] == [3, 3, 1, 3, 2]
    assert [c.rate for c in kept] == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01])
    assert [c.stage for c in kept] == [0, 0, 0, 1, 1]
    assert [c.optimiser for c in kept] == ["adam"] * 3 + ["sgd"] * 2
    told = [(float(c.progress), c.progress.steps) for c in kept]
    assert told == [(3 / 7, 3), (6 / 7, 6), (1, 7), (0.6, 3), (1, 5)]
    for checkpoint, step in zip(kept, (3, 6, 7, 10, 12), strict=True):
        assert torch.equal(checkpoint.state["decoder.bias"], seen[step - 1])
    assert [c.steps for c in kept[3:]] == [3, 2]
    adam = metrics.influence(pair, train, train, kept[:3], 1, ClosedForm())
    assert adam.attrs["weights"].startswith("a heuristic") and adam.attrs["optimiser"] == "adam"
    with pytest.raises(ValueError, match="of the stages 0, 1, expected those of one stage"):
        metrics.influence(pair, train, train, kept, 1, ClosedForm())
    with pytest.raises(ValueError, match="expected a collector of its own for each run"):
        inference.fit(pair, train, steps=2, device="cpu", progress=False, callbacks=(kept,))


def test_a_run_that_goes_on_gives_the_checkpoints_that_are_left(tmp_path):
    train, how = table(), {"learning_rate": 0.1, "batch_size": 6, "device": "cpu"}
    how |= {"out": tmp_path / "run", "progress": False, "objective": ClosedForm()}
    inference.fit(factors(), train, steps=5, **how)
    kept = metrics.Checkpoints(every=2)
    inference.fit(factors(), train, steps=10, resume=True, callbacks=(kept,), **how)
    assert [c.steps for c in kept] == [2, 2, 1]
    assert [c.rate for c in kept] == pytest.approx([0.1] * 3)
    assert [float(c.progress) for c in kept] == [0.7, 0.9, 1]
