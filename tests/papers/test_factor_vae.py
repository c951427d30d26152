"""FactorVAE: with gamma 0 the plain VAE to the bit, however its steps are taken."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from worlds.processes import together
from worlds.whole_life import QUIET, compiled, resumed, whole_life

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference.training.run import Run

SMALL = {"networks": "dense", "hidden": (12,), "latent": 3}
CRITIC = {"critic": (16, 16), "critic_rate": 0.01}
OPTIONS = {"epochs": 4, "batch_size": 50, "seed": 3, "learning_rate": 0.01, "steps": 0}


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits", train=160, validation=20, test=20)


def vae(digits: data.Dataset) -> zoo.Pair:
    return zoo.build("beta_vae", digits, seed=1, beta=1.0, **SMALL)


def factor_vae(digits: data.Dataset, gamma: float) -> zoo.Pair:
    return zoo.build("factor_vae", digits, seed=1, gamma=gamma, **SMALL, **CRITIC)


def fit(pair: zoo.Pair, digits: data.Dataset, turns: int = 1, **options: object) -> Run:
    """Trained on the pair's stages, with as many steps of a critic per step of the pair."""
    stages = tuple(
        replace(stage, players=tuple(replace(player, steps=turns) for player in stage.players))
        for stage in pair.stages()
    )
    return inference.fit(pair, digits, stages=stages, **{**QUIET, **OPTIONS, **options})


def told(run: Run) -> dict[str, torch.Tensor]:
    curve = {n: torch.tensor(v) for n, v in run.history.items() if n != "seconds"}
    weights = {f"weight {n}": v.detach() for n, v in run.pair.state_dict().items()}
    return {**curve, **weights}


def assert_the_same(game: dict[str, torch.Tensor], alone: dict[str, torch.Tensor]) -> None:
    """To the bit, in all that the run alone tells."""
    for name, value in alone.items():
        assert torch.equal(value, game[name]), name
    assert not game["density_ratio(z)"].any()


@pytest.fixture(scope="module")
def alone(digits: data.Dataset) -> dict[str, torch.Tensor]:
    return told(fit(vae(digits), digits))


@pytest.mark.parametrize("turns", [1, 3])
def test_gamma_0_is_the_vae_to_the_bit(digits, alone, turns) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(turns)  # what the critic's constructor draws decides nothing
        game = told(fit(factor_vae(digits, 0.0), digits, turns))
    assert_the_same(game, alone)
    assert float(game["critic.logistic"].std()) > 0  # it was trained


def test_gamma_0_is_the_vae_when_resumed(digits, alone, tmp_path) -> None:
    make = lambda: factor_vae(digits, 0.0)  # noqa: E731
    again = told(resumed(make, digits, tmp_path / "run", **QUIET, **OPTIONS))
    assert_the_same(again, alone)
    # The critic goes on from where it was, too.
    assert torch.equal(again["critic.logistic"], told(fit(make(), digits))["critic.logistic"])


def test_gamma_0_is_the_vae_when_compiled(digits) -> None:
    plain = compiled(lambda: vae(digits), digits, **QUIET, **OPTIONS)
    game = compiled(lambda: factor_vae(digits, 0.0), digits, **QUIET, **OPTIONS)
    assert_the_same(told(game), told(plain))


@pytest.mark.parametrize("turns", [1, 2])
def test_two_processes_play_the_game_of_one(digits, tmp_path, turns) -> None:
    """The orders of the permuted codes, and what is permuted, are those of the whole batch."""

    def train() -> dict[str, dict[str, torch.Tensor]]:
        return {
            "game": told(fit(factor_vae(digits, 20.0), digits, turns)),
            "no weight": told(fit(factor_vae(digits, 0.0), digits)),
            "alone": told(fit(vae(digits), digits)),
        }

    expected = train()["game"]
    for outcome in together(2, tmp_path, lambda rank: train()):
        assert not outcome.error, outcome.error
        found = outcome.value["game"]
        assert list(found) == list(expected)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)
        assert_the_same(outcome.value["no weight"], outcome.value["alone"])


def test_a_game_of_compiled_steps_is_the_game(digits) -> None:
    expected = told(fit(factor_vae(digits, 20.0), digits))
    found = told(compiled(lambda: factor_vae(digits, 20.0), digits, **QUIET, **OPTIONS))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_the_whole_life_of_a_game(digits, tmp_path) -> None:
    make = lambda: factor_vae(digits, 10.0)  # noqa: E731
    run, idata = whole_life(make, digits, tmp_path, **OPTIONS)
    parts = ["bound", "density_ratio(z)", "reconstruction", "kl(z)", "critic.logistic"]
    assert list(run.history)[4:] == parts
    curve = {name: np.array(run.history[name]) for name in ("loss", *parts)}
    np.testing.assert_allclose(curve["bound"] + curve[parts[1]], curve["loss"], rtol=1e-5)
    np.testing.assert_allclose(curve[parts[2]] + curve["kl(z)"], curve["bound"], rtol=1e-5)
    for name in parts:
        np.testing.assert_array_equal(idata["training"][name].squeeze(), run.history[name])


@pytest.mark.parametrize("still", ["critic", "pair"])
def test_neither_side_moves_the_others_weights(digits, still) -> None:
    """A side of rate 0 stays to the bit while the other is trained.

    With gamma 0 the pair is the VAE's to the bit beside a critic that learns, so that nothing of
    the critic's loss reaches its gradients, either.
    """
    rates = {"critic": 0.01, "pair": 0.01, still: 0.0}
    pair = zoo.build(
        "factor_vae",
        digits,
        seed=1,
        gamma=20.0,
        **SMALL,
        **{**CRITIC, "critic_rate": rates["critic"]},
    )
    (stage,) = pair.stages()
    (player,) = stage.players
    modules = {"pair": pair, "critic": player.module}
    before = {n: [p.detach().clone() for p in m.parameters()] for n, m in modules.items()}
    stage = replace(stage, players=(replace(player, weights="given"),))
    options = {**OPTIONS, "epochs": 1, "learning_rate": rates["pair"]}
    inference.fit(pair, digits, stages=(stage,), **QUIET, **options)
    for name, module in modules.items():
        same = [torch.equal(*of) for of in zip(before[name], module.parameters(), strict=True)]
        assert all(same) if name == still else not any(same)
