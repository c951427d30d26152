"""What a side of a game may move on its turn, and what its networks start from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.testing import assert_close
from worlds.games import STEPS, Judged, fit, game, normalised, same, state, vae

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference import Anneal, DensityRatio, Encoded, Player, Stage
from ppl_models.networks import Net


@pytest.fixture(scope="module")
def digits() -> data.Table:
    return data.load("digits", train=120, validation=0, test=20).train.only("x")


# ---- streams -----------------------------------------------------------------------------


@pytest.mark.parametrize("others", [(), ("a",), ("a", "b")])
def test_no_side_sees_what_others_draw(digits, others) -> None:
    """With players that train what nobody looks at, the pair is trained as alone."""
    pair, alone = vae(digits), vae(digits)
    players = []
    for name in others:
        critic = nn.Linear(2, 1)
        players.append(Player(name, Judged(critic, 1.0), critic, steps=len(players) + 1))
    run = fit(pair, digits, Stage(pair.objective(), players=tuple(players)))
    plain = fit(alone, digits, Stage(alone.objective()))
    assert run.history["loss"] == plain.history["loss"]
    assert same(state(pair), state(alone))


@pytest.mark.parametrize("turns", [1, 2])
def test_a_player_draws_the_same_whoever_else_plays(digits, turns) -> None:
    """Its moves are a function of the seed, the stage, the step, its place and its turn."""
    ends = []
    for beside in ((), ("other",)):
        pair, critic = vae(digits), nn.Linear(2, 1)
        players = [Player("critic", Judged(critic, -1.0), critic, steps=turns)]
        for name in beside:
            other = nn.Linear(2, 1)
            players.append(Player(name, Judged(other, -1.0), other, steps=3))
        run = fit(pair, digits, Stage(pair.objective(), players=tuple(players)))
        ends.append((state(critic), run.history["critic.judged"]))
    assert same(ends[0][0], ends[1][0]) and ends[0][1] == ends[1][1]


def test_turns_of_a_step_have_draws_of_their_own(digits) -> None:
    class Seen(Judged):
        def rows(self, run: inference.Evaluation) -> Tensor:
            draws.append(float(torch.rand(())))
            return super().rows(run)

    draws: list[float] = []
    pair, critic = vae(digits), nn.Linear(2, 1)
    player = Player("critic", Seen(critic, -1.0), critic, steps=3)
    fit(pair, digits, Stage(pair.objective(), players=(player,)))
    assert len(draws) == len(set(draws)) == 3 * STEPS


# ---- what is constant --------------------------------------------------------------------


@pytest.mark.parametrize("simultaneous", [False, True])
@pytest.mark.parametrize("still", ["pair", "critic"])
def test_a_side_of_rate_0_stays_as_it_was(digits, still, simultaneous) -> None:
    pair, critic = vae(digits), nn.Linear(2, 1)
    before = state(pair), state(critic)
    rates = {"pair": 0.01, "critic": 0.01, still: 0.0}
    player = Player(
        "critic", Judged(critic, -1.0), critic, learning_rate=rates["critic"], weights="given"
    )
    objective = pair.objective() + Judged(critic, 1.0)
    stage = Stage(objective, players=(player,), simultaneous=simultaneous)
    fit(pair, digits, stage, learning_rate=rates["pair"])
    assert same(before[0], state(pair)) == (still == "pair")
    assert same(before[1], state(critic)) == (still == "critic")


def test_gradients_reach_only_the_side_that_moves(digits) -> None:
    class Watching(Judged):
        def rows(self, run: inference.Evaluation) -> Tensor:
            for name, parameter in (*pair.named_parameters(), *critic.named_parameters("critic.")):
                seen.add((self.sign, name.startswith("critic."), parameter.requires_grad))
            return super().rows(run)

    seen: set[tuple[float, bool, bool]] = set()
    pair, critic = vae(digits), nn.Linear(2, 1)
    critic.unused = nn.Linear(1, 1)
    idle = nn.Linear(2, 1)  # of nobody
    objective = pair.objective() + Watching(critic, 1.0) + DensityRatio(idle, Encoded("z"))
    player = Player("critic", Watching(critic, -1.0), critic)
    fit(pair, digits, Stage(objective, players=(player,)))
    assert seen == {
        (1.0, False, True),
        (1.0, True, False),
        (-1.0, False, False),
        (-1.0, True, True),
    }
    assert idle.weight.grad is None and idle.weight.requires_grad


def spectral() -> nn.Module:
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(2, 4)), nn.Linear(4, 1))


@pytest.mark.parametrize("turns", [1, 2])
@pytest.mark.parametrize("make", [normalised, spectral])
def test_buffers_of_a_critic_move_on_its_turns_alone(digits, make, turns) -> None:
    """As in a game in which the pair does not look at the critic, with the same codes."""
    buffers = []
    for looks in (True, False):
        pair = vae(digits)
        torch.manual_seed(0)
        critic = make()
        player = Player(
            "critic", Judged(critic, -1.0), critic, steps=turns, learning_rate=0.0, weights="given"
        )
        own = pair.objective() + Judged(critic, 1.0) if looks else pair.objective()
        fit(pair, digits, Stage(own, players=(player,)), learning_rate=0.0)
        buffers.append({name: b.clone() for name, b in critic.named_buffers()})
    for name, buffer in buffers[0].items():
        assert_close(buffer, buffers[1][name], rtol=1e-6, atol=1e-7)
        if name.endswith("num_batches_tracked"):
            assert int(buffer) == turns * STEPS


def test_buffers_of_the_pair_move_on_its_own_turns_alone(digits) -> None:
    class Normed(nn.Module):
        given = ("x",)

        def __init__(self) -> None:
            super().__init__()
            self.norm, self.last = nn.BatchNorm1d(64), nn.Linear(64, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.norm(x))

    pair, critic = vae(digits), nn.Linear(2, 1)
    pair.guide.factors["z"].net = Normed()
    fit(pair, digits, game(pair, critic, steps=3))
    assert int(pair.guide.factors["z"].net.norm.num_batches_tracked) == STEPS


class Counting(nn.Module):
    """Sets its count anew, in place of counting where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(2, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        self.calls = self.calls + 1
        found: Tensor = self.last(z)
        return found


@pytest.mark.parametrize("make", [normalised, Counting])
@pytest.mark.parametrize("start", [0.0, 0.5])
@pytest.mark.parametrize("turns", [1, 2])
def test_a_term_that_comes_late_moves_no_buffers_of_a_critic(digits, make, start, turns) -> None:
    pair, critic = vae(digits), make()
    term = DensityRatio(critic, Encoded("z"), Anneal(0.0, 1.0, start, start))
    player = Player("critic", Judged(critic, -1.0), critic, steps=turns)
    fit(pair, digits, Stage(pair.objective() + term, players=(player,)))
    counts = {n: int(b) for n, b in critic.named_buffers() if b.dim() == 0}
    assert list(counts.values()) == [turns * STEPS]


# ---- first weights -----------------------------------------------------------------------


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))


def zoos() -> nn.Module:
    net = Net({"z": 2}, (3,), 1)
    return nn.Sequential(nn.Flatten(), _Named(net))


class _Named(nn.Module):
    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z=z)


def weighed() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 3)), nn.Linear(3, 1))


def predictors() -> nn.Module:
    return inference.Predictors(2, (3,))


@pytest.mark.parametrize("make", [plain, normalised, zoos, weighed, predictors])
@pytest.mark.parametrize("double", [False, True])
def test_first_weights_are_those_of_the_seed(digits, make, double) -> None:
    """Whatever the constructor drew, and the module had learned."""
    ends = []
    for constructed, seed in ((0, 0), (1, 0), (None, 0), (0, 1)):
        pair = vae(digits)
        pair = pair.double() if double else pair
        if constructed is not None:
            torch.manual_seed(constructed)
            critic = make()
        fit(pair, digits, game(pair, critic, learning_rate=0.0), seed=seed, epochs=1)
        ends.append(state(critic))
    parameters = [name for name, _ in critic.named_parameters()]
    for other in ends[1:3]:
        for name in parameters:
            assert torch.equal(ends[0][name], other[name]), name
    assert not all(torch.equal(ends[0][name], ends[3][name]) for name in parameters)
    assert ends[0][parameters[0]].dtype == (torch.float64 if double else torch.float32)


@pytest.mark.parametrize("weights", ["seed", "given"])
def test_given_weights_are_taken_as_they_are(digits, weights) -> None:
    pair, critic = vae(digits), plain()
    before = state(critic)
    fit(pair, digits, game(pair, critic, learning_rate=0.0, weights=weights))
    assert same(before, state(critic)) == (weights == "given")


def test_two_players_start_apart_and_a_later_stage_goes_on(digits, tmp_path) -> None:
    def stages(pair: zoo.Pair) -> tuple[list[nn.Module], tuple[Stage, ...]]:
        nets = [plain(), plain()]
        players = [
            Player(f"p{n}", Judged(net, -1.0), net, learning_rate=0.0)
            for n, net in enumerate(nets)
        ]
        own = pair.objective() + Judged(nets[1], 1.0)
        last = Stage(own, name="last", players=(players[0],))
        return nets, (Stage(pair.objective(), players=tuple(players)), last)

    pair = vae(digits)
    nets, plan = stages(pair)
    fit(pair, digits, *plan)
    assert not torch.equal(nets[0][0].weight, nets[1][0].weight)

    # Stopped in the second stage, and taken up with other networks.
    def stop(run: inference.Run, step: int) -> None:
        if step == STEPS + 2:
            raise KeyboardInterrupt

    options = {"out": tmp_path / "run", "checkpoint_seconds": 0.0}
    again = vae(digits)
    with pytest.raises(KeyboardInterrupt):
        fit(again, digits, *stages(again)[1], callbacks=(stop,), **options)
    last = vae(digits)
    found, plan = stages(last)
    fit(last, digits, *plan, resume=True, **options)
    assert same(state(pair), state(last))
    assert all(same(state(a), state(b)) for a, b in zip(nets, found, strict=True))
