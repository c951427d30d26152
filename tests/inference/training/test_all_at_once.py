"""A stage that uses all that a stage can: the same compiled, resumed and over two processes."""

from __future__ import annotations

import contextlib
import warnings
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from worlds.combinations import in_turn
from worlds.compiled_steps import as_traced
from worlds.games import normalised, vae
from worlds.processes import together

from ppl_models import data, inference
from ppl_models.batch import Batch
from ppl_models.inference import Anneal, Stage, moving_average, permuted_codes, target_of
from ppl_models.inference.training import compiled_step
from ppl_models.inference.training.compiled_step import NotCompiled

OPTIONS = {
    "progress": False, "device": "cpu", "steps": 9, "batch_size": 40, "patience": 2,
    "schedule": "cosine", "warmup": 2, "clip_norm": 0.5, "learning_rate": 0.01,
}  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits", train=120, validation=40, test=20)


def noisy(batch: Batch) -> Batch:
    return batch.replace({"x": (batch["x"] + 0.1 * torch.rand_like(batch["x"])).clamp(0, 1)})


def told(digits: data.Dataset, simultaneous: bool, normed: bool, **options: object) -> dict:
    """Curves and networks of a run: rows prepared, a game, rates by prefix, a target."""
    pair = vae(digits.train.only("x"))
    critic = normalised() if normed else nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1))
    term, player = permuted_codes(
        critic, "z", Anneal(0.0, 2.0, 0.2, 0.8),
        rates={"1": 0.05}, learning_rate=0.01, steps=1 if simultaneous else 2,
    )  # fmt: skip
    source = pair.guide.factors["z"].net
    pair.target = target_of(source)
    stage = Stage(
        pair.objective() + term,
        sites=("x",),
        players=(player,),
        simultaneous=simultaneous,
        rates={"decoder": 1e-2},
        prepare=noisy,
        prepare_validation=lambda batch: batch,
        after=moving_average(pair.target, source, Anneal(0.5, 1.0, steps=6)),
    )
    run = inference.fit(pair, digits, stages=(stage,), **{**OPTIONS, **options})
    curves = {name: torch.tensor(run.history[name]) for name in ("loss", "critic.logistic")}
    curves["validation"] = torch.tensor(run.validation["loss"])
    weights = {f"critic.{name}": value for name, value in critic.state_dict().items()}
    return {**curves, **pair.state_dict(), **weights}


def agree(one: dict, other: dict, **tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert_close(other[name], value, msg=lambda m, n=name: f"{n}: {m}", **tolerance)


@pytest.mark.parametrize(("normed", "simultaneous"), in_turn([False, True], [False, True]))
def test_compiled_and_resumed(digits, simultaneous, normed, tmp_path) -> None:
    expected = told(digits, simultaneous, normed)
    with warnings.catch_warnings(), patch.object(compiled_step, "inductor", as_traced):
        warnings.simplefilter("error", NotCompiled)
        agree(told(digits, simultaneous, normed, compile=True), expected, rtol=1e-5, atol=1e-6)

    def stop(run: inference.Run, step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    options = {"out": tmp_path / "run", "checkpoint_seconds": 0.0}
    with contextlib.suppress(KeyboardInterrupt):
        told(digits, simultaneous, normed, callbacks=(stop,), **options)
    agree(told(digits, simultaneous, normed, resume=True, **options), expected, rtol=0, atol=0)


@pytest.mark.parametrize("simultaneous", [False, True])
def test_two_processes(digits, simultaneous, tmp_path) -> None:
    expected = told(digits, simultaneous, False)
    for outcome in together(2, tmp_path, lambda rank: told(digits, simultaneous, False)):
        assert not outcome.error, outcome.error
        agree(outcome.value, expected, rtol=1e-5, atol=1e-5)
