"""FactorVAE: with weight 0 the plain VAE to the bit, however its steps are taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from worlds.processes import together
from worlds.whole_life import QUIET, compiled, resumed, whole_life

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference.training.run import Run

FACTOR_VAE = f"{Path(__file__).parents[1] / 'worlds' / 'stories' / 'factor_vae.py'}:FactorVAE"
SMALL = {"hidden": (12,), "latent": 3}
OPTIONS = {"epochs": 4, "batch_size": 50, "seed": 3, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits", train=160, validation=20, test=20)


def vae(digits: data.Dataset) -> zoo.Pair:
    return zoo.build("vae", digits, seed=1, **SMALL)


def factor_vae(digits: data.Dataset, **options: float) -> zoo.Pair:
    return zoo.build(FACTOR_VAE, digits, seed=1, **SMALL, **options)


def fit(pair: zoo.Pair, digits: data.Dataset, **options: object) -> Run:
    return inference.fit(pair, digits, **{**QUIET, **OPTIONS, **options})


def told(run: Run) -> dict[str, torch.Tensor]:
    curve = {n: torch.tensor(v) for n, v in run.history.items() if n != "seconds"}
    weights = {f"weight {n}": v.detach() for n, v in run.pair.state_dict().items()}
    return {**curve, **weights}


def assert_the_same(game: dict[str, torch.Tensor], alone: dict[str, torch.Tensor]) -> None:
    """To the bit, in all that the run alone tells."""
    for name, value in alone.items():
        assert torch.equal(value, game[name]), name
    assert not game["density_ratio(z)"].any()
    assert game["critic.logistic"].isfinite().all()


@pytest.fixture(scope="module")
def alone(digits: data.Dataset) -> dict[str, torch.Tensor]:
    return told(fit(vae(digits), digits))


@pytest.mark.parametrize("turns", [1, 3])
def test_weight_0_is_the_vae_to_the_bit(digits, alone, turns) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(turns)  # what the critic's constructor draws decides nothing
        game = told(fit(factor_vae(digits, gamma=0.0, turns=turns), digits))
    assert_the_same(game, alone)
    assert float(game["critic.logistic"].std()) > 0  # it was trained


def test_weight_0_is_the_vae_when_resumed(digits, alone, tmp_path) -> None:
    make = lambda: factor_vae(digits, gamma=0.0, turns=2)  # noqa: E731
    again = resumed(make, digits, tmp_path / "run", **QUIET, **OPTIONS)
    assert_the_same(told(again), alone)
    assert_the_same(told(fit(make(), digits)), alone)


def test_weight_0_is_the_vae_when_compiled(digits) -> None:
    plain = compiled(lambda: vae(digits), digits, **QUIET, **OPTIONS)
    game = compiled(lambda: factor_vae(digits, gamma=0.0), digits, **QUIET, **OPTIONS)
    assert_the_same(told(game), told(plain))


def test_weight_0_is_the_vae_in_two_processes(digits, tmp_path) -> None:
    def train(rank: int) -> dict[str, dict[str, torch.Tensor]]:
        return {
            "alone": told(fit(vae(digits), digits)),
            "game": told(fit(factor_vae(digits, gamma=0.0), digits)),
        }

    for outcome in together(2, tmp_path, train):
        assert not outcome.error, outcome.error
        assert_the_same(outcome.value["game"], outcome.value["alone"])


@pytest.mark.parametrize("turns", [1, 2])
def test_two_processes_play_the_game_of_one(digits, tmp_path, turns) -> None:
    """The orders of the permuted codes, and what is permuted, are those of the whole batch."""

    def train() -> dict[str, torch.Tensor]:
        return told(fit(factor_vae(digits, gamma=20.0, turns=turns), digits))

    expected = train()
    for outcome in together(2, tmp_path, lambda rank: train()):
        assert not outcome.error, outcome.error
        assert list(outcome.value) == list(expected)
        for name, value in expected.items():
            torch.testing.assert_close(outcome.value[name], value, rtol=1e-5, atol=1e-5)


def test_a_game_of_compiled_steps_is_the_game(digits) -> None:
    make = lambda: factor_vae(digits, gamma=20.0, turns=2)  # noqa: E731
    expected = told(fit(make(), digits))
    found = told(compiled(make, digits, **QUIET, **OPTIONS))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_the_whole_life_of_a_game(digits, tmp_path) -> None:
    make = lambda: factor_vae(digits, gamma=10.0)  # noqa: E731
    run, idata = whole_life(make, digits, tmp_path, **OPTIONS)
    parts = ["bound", "density_ratio(z)", "reconstruction", "kl(z)", "critic.logistic"]
    assert list(run.history)[4:] == parts
    curve = {name: np.array(run.history[name]) for name in ("loss", *parts)}
    np.testing.assert_allclose(curve["bound"] + curve[parts[1]], curve["loss"], rtol=1e-5)
    np.testing.assert_allclose(curve[parts[2]] + curve["kl(z)"], curve["bound"], rtol=1e-5)
    for name in parts:
        np.testing.assert_array_equal(idata["training"][name].squeeze(), run.history[name])
