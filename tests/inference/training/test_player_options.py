"""Options of the sides of a game, and what does not fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from worlds.games import Judged, fit, game, normalised, same, state, vae
from worlds.processes import together

from ppl_models import data, inference
from ppl_models.inference import ELBO, Player, Stage
from ppl_models.inference.training.parameter_names import by_rate
from ppl_models.inference.training.run_folder import read_state
from ppl_models.inference.training.sides import sides


@pytest.fixture(scope="module")
def digits() -> data.Table:
    return data.load("digits", train=120, validation=0, test=20).train.only("x")


# ---- rates and decays --------------------------------------------------------------------


def test_the_options_of_each_side_reach_its_optimiser(digits) -> None:
    pair, critic = vae(digits), nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    player = Player(
        "critic", Judged(critic, -1.0), critic, learning_rate=0.5, betas=(0, 0.9),
        weight_decay=0.1, rates={"1": 0.25},
    )  # fmt: skip
    rates = {"guide": 0.02, "guide.factors.z.net.first": 0.03, "decoder.rest.1.bias": 0.0}
    stage = Stage(pair.objective(), players=(player,), rates=rates)
    own, theirs = sides(pair, stage, 100)
    found = {id(p): g["lr"] for g in own.optimiser.param_groups for p in g["params"]}
    for name, parameter in pair.named_parameters():
        expected = 0.02 if name.startswith("guide") else 1e-3
        expected = 0.03 if name.startswith("guide.factors.z.net.first.") else expected
        assert found[id(parameter)] == (0.0 if name == "decoder.rest.1.bias" else expected), name
    first, last = theirs.optimiser.param_groups
    assert (first["lr"], last["lr"]) == (0.5, 0.25) and last["params"] == [*critic[1].parameters()]
    assert first["betas"] == last["betas"] == (0.0, 0.9) and last["weight_decay"] == 0.1
    assert own.optimiser.param_groups[0]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_parameter_moves_by_its_own_rate(digits, rate) -> None:
    """Adam's first step is the rate, whatever the gradient is."""
    pair = vae(digits)
    before = state(pair)
    stage = Stage(pair.objective(), rates={"decoder.rest": rate})
    fit(pair, digits, stage, epochs=1, batch_size=120, learning_rate=0.01)
    for name, value in pair.state_dict().items():
        moved = (value - before[name]).abs().max()
        expected = rate if name.startswith("decoder.rest.") else 0.01
        assert_close(moved, torch.tensor(expected), rtol=1e-2, atol=1e-6)


def test_a_game_with_rates_resumes_to_the_bit(digits, tmp_path) -> None:
    ends = []
    for folder in (None, tmp_path / "run"):
        pair, critic = vae(digits), normalised()
        stage = game(pair, critic, steps=2, betas=(0.5, 0.9), rates={"2": 0.1})
        stage = Stage(stage.objective, players=stage.players, rates={"decoder": 0.05})
        if folder is not None:

            def stop(run: inference.Run, step: int) -> None:
                if step == 3:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                fit(pair, digits, stage, out=folder, callbacks=(stop,), checkpoint_seconds=0.0)
            assert len(read_state(folder)["sides"]) == 2
            pair, critic = vae(digits), normalised()
            stage = game(pair, critic, steps=2, betas=(0.5, 0.9), rates={"2": 0.1})
            stage = Stage(stage.objective, players=stage.players, rates={"decoder": 0.05})
        run = fit(pair, digits, stage, out=folder, resume=folder is not None)
        ends.append((state(pair), state(critic), run.history["critic.judged"]))
    assert same(ends[0][0], ends[1][0]) and same(ends[0][1], ends[1][1])
    assert ends[0][2] == ends[1][2]


def critic(**options):
    """A player whose options are read when it is made."""

    def make(pair, net, objective):
        given = {"name": "c", "objective": objective, "module": net, **options}
        return {"players": (Player(**given),)}

    return make


def players(*names, apart=True):
    def make(pair, net, objective):
        nets = [nn.Linear(1, 1) if apart else net for _ in names]
        return {"players": tuple(map(Player, names, [objective] * len(names), nets))}

    return make


def stage(**options):
    return lambda pair, net, objective: options


MISFITS = {
    "stage 'fit' has a rate for 'decode', which is no parameter of the pair: did you mean "
    "'decoder'?": stage(rates={"decode": 0.1}),
    "rates of stage 'fit', 'decoder', is -1, expected a finite number >= 0": stage(
        rates={"decoder": -1}
    ),
    "rates of stage 'fit', 'decoder', is 'fast', expected a number": stage(
        rates={"decoder": "fast"}
    ),
    "rates of stage 'fit' is 0.1, expected a mapping": stage(rates=0.1),
    "stage 'fit' has a rate for 'decoder', of which it trains nothing": stage(
        rates={"decoder": 0.1}, freeze=("decoder",)
    ),
    "player 'c' has a rate for 'wait', which is no parameter of its module: did you mean "
    "'weight'?": critic(rates={"wait": 1}),
    "stage 'fit' has two sides named 'c'": players("c", "c"),
    "stage 'fit' has two sides named 'pair'": players("pair"),
    "player 'd' trains 'weight', which player 'c' already has": players("c", "d", apart=False),
    "module of player 'c' holds 'decoder.first.bias' of the pair": (
        lambda pair, net, objective: {"players": (Player("c", objective, pair.decoder),)}
    ),
    "name of a player is 'a/b', expected letters and digits": critic(name="a/b"),
    "objective of player 'c' is 'elbo', expected an Objective": critic(objective="elbo"),
    "module of player 'c' is 'net', expected a torch module": critic(module="net"),
    "module of player 'c' has no parameters": critic(module=nn.ReLU()),
    "betas of player 'c' is (0.5, 1.0), expected numbers below 1": critic(betas=(0.5, 1.0)),
    "betas of player 'c' is 0.5, expected two numbers": critic(betas=0.5),
    "learning_rate of player 'c' is -1": critic(learning_rate=-1),
    "weight_decay of player 'c' is True, expected a number": critic(weight_decay=True),
    "weights of player 'c' is 'best', expected one of seed, given": critic(weights="best"),
}


@pytest.mark.parametrize("message", MISFITS)
def test_what_does_not_fit_is_one_line_before_any_work(digits, tmp_path, message) -> None:
    pair, net = vae(digits), nn.Linear(2, 1)

    def run() -> None:
        made = Stage(pair.objective(), **MISFITS[message](pair, net, Judged(net, -1.0)))
        fit(pair, digits, made, out=tmp_path / "run")

    with pytest.raises(ValueError) as error:
        run()
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_two_rates_for_one_parameter_are_refused() -> None:
    pair = nn.Module()
    pair.first = pair.second = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"it has two rates for 'second.weight': 0.1 by 'first'"):
        by_rate(list(pair.parameters()), {"first": 0.1, "second": 0.2}, pair, "it")
    assert len(by_rate(list(pair.parameters()), {"first": 0.1, "second": 0.1}, pair, "it")) == 1


def test_a_loss_that_a_player_cannot_move_is_told(digits) -> None:
    pair, critic = vae(digits), nn.Linear(2, 1)
    player = Player("critic", ELBO(), critic)
    with pytest.raises(ValueError, match="the loss of 'critic' in stage 'fit' depends on nothing"):
        fit(pair, digits, Stage(pair.objective(), players=(player,)))


def test_a_players_loss_that_is_not_finite_names_it(digits) -> None:
    class Exploding(Judged):
        def rows(self, run: inference.Evaluation) -> Tensor:
            return super().rows(run) / 0.0 * self.critic.weight.sum()

    pair, critic = vae(digits), nn.Linear(2, 1)
    player = Player("critic", Exploding(critic, -1.0), critic)
    with pytest.raises(inference.NotFinite, match="step 1: the loss of player 'critic' is not"):
        fit(pair, digits, Stage(pair.objective(), players=(player,)))


def test_a_player_that_normalises_over_rows_is_refused_in_two_processes(digits, tmp_path) -> None:
    def train(rank: int) -> None:
        pair = vae(digits)
        fit(pair, digits, game(pair, normalised()))

    for outcome in together(2, tmp_path, train):
        assert outcome.error.startswith("player 'critic': 1 is a BatchNorm1d, which would see")
