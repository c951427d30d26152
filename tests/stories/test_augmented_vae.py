"""Views in training: the contract, a whole life, and two processes that see what one would."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from worlds.processes import together
from worlds.whole_life import QUIET, whole_life

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.testing import PairContract

PAIR = f"{Path(__file__).parents[1] / 'worlds' / 'stories' / 'augmented_vae.py'}:AugmentedVAE"
OPTIONS = {"epochs": 3, "batch_size": 20, "seed": 3}


class TestAugmentedVAE(PairContract):
    pair = PAIR


def squares() -> data.Dataset:
    x = torch.rand(120, 64, generator=torch.Generator().manual_seed(0)).round()
    return data.from_arrays(x, splits=(80, 20, 20))


def small():
    return zoo.build(PAIR, squares(), hidden=(8,))


def test_it_lives_wholly(tmp_path):
    run, _ = whole_life(small, squares(), tmp_path, **OPTIONS)
    pair = small()
    (stage,) = pair.stages()
    plain = inference.Stage(stage.objective)
    other = inference.fit(pair, squares(), stages=(plain,), **OPTIONS, **QUIET)
    assert other.history["loss"] != run.history["loss"]  # the views were seen


@pytest.mark.parametrize("count", [2, 3])
def test_processes_train_as_one_would(tmp_path, count):
    def train(rank=0):
        pair = small()
        run = inference.fit(pair, squares(), **OPTIONS, **QUIET)
        return {"loss": run.history["loss"], "state": pair.state_dict()}

    expected = train()
    for outcome in together(count, tmp_path, train):
        assert not outcome.error, outcome.error
        assert_close(
            torch.tensor(outcome.value["loss"]), torch.tensor(expected["loss"]), rtol=1e-5, atol=0
        )
        for name, value in expected["state"].items():
            assert_close(outcome.value["state"][name], value, rtol=1e-3, atol=1e-4)
