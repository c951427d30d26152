"""Games of several players, against loops written by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from worlds.linear import draw, linear

import ppl_models as zoo
from ppl_models import inference
from ppl_models.batch import Batch
from ppl_models.data import Table
from ppl_models.inference import EnumeratedELBO, Objective, Player, Stage, Training

ROWS = 12


class Saddle(Objective):
    """sign * (a b + a^2 / 8) for every row: a game whose moves are known in closed form."""

    def __init__(self, a: nn.Parameter, b: nn.Parameter, sign: float) -> None:
        super().__init__()
        self.a, self.b, self.sign = a, b, sign

    formula = "a b"

    def rows(self, run: inference.Evaluation) -> Tensor:
        value = self.sign * (self.a * self.b + self.a.square() / 8).sum()
        return value.expand(run.batch.count)


class Number(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value]))


def game(simultaneous: bool, steps: int = 1):
    """The pair's log-variance bias plays a, a number outside the pair plays b."""
    pair = zoo.build("vae", data_dim=3, latent=1, hidden=(2,))
    a = pair.decoder.rest[-1].bias
    with torch.no_grad():
        a.copy_(torch.tensor([0.5, 0.0, 0.0]))
    b = Number(0.25)
    player = Player("critic", Saddle(a[:1], b.value, 1), b, steps=steps, learning_rate=0.02)
    player.objective.a = a  # the parameter itself, not the slice of one moment
    stage = Stage(
        Saddle(a, b.value, -1),
        players=(player,),
        simultaneous=simultaneous,
        training=Training(epochs=7, batch_size=ROWS, learning_rate=0.01),
    )
    return pair, a, b, stage


def by_hand(simultaneous: bool, steps: int, turns: int) -> tuple[Tensor, Tensor]:
    a, b = torch.tensor([0.5, 0.0, 0.0], requires_grad=True), torch.tensor([0.25])
    b.requires_grad_(True)
    of_a, of_b = torch.optim.Adam([a], 0.01), torch.optim.Adam([b], 0.02)

    def value(a: Tensor, b: Tensor) -> Tensor:
        return (a * b + a.square() / 8).sum()

    def gradient_a() -> None:
        (a.grad,) = torch.autograd.grad(-value(a, b.detach()), a)

    def gradient_b() -> None:
        (b.grad,) = torch.autograd.grad(value(a.detach(), b), b)

    for _ in range(turns):
        gradient_a()
        if simultaneous:
            gradient_b()
            of_a.step(), of_b.step()
            continue
        of_a.step()
        for _ in range(steps):
            gradient_b()
            of_b.step()
    return a.detach(), b.detach()


@pytest.mark.parametrize(("simultaneous", "steps"), [(True, 1), (False, 1), (False, 3)])
def test_players_move_as_a_loop_by_hand(simultaneous: bool, steps: int) -> None:
    pair, a, b, stage = game(simultaneous, steps)
    others = {n: p.clone() for n, p in pair.named_parameters() if p is not a}
    table = Table("rows", {"x": torch.rand(ROWS, 3)})
    inference.fit(pair, table, stages=(stage,), progress=False)
    expected = by_hand(simultaneous, steps, 7)
    assert_close((a.detach(), b.value.detach()), expected, rtol=1e-5, atol=1e-7)
    assert all(torch.equal(p, others[n]) for n, p in pair.named_parameters() if n in others)


def test_a_game_resumes_where_it_was(tmp_path) -> None:
    table = Table("rows", {"x": torch.rand(ROWS, 3)})
    pair, a, b, stage = game(False, 2)
    inference.fit(pair, table, stages=(stage,), progress=False)

    def stop(run: inference.Run, step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    again, _, b2, stage2 = game(False, 2)
    options = {"out": tmp_path / "run", "progress": False, "checkpoint_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        inference.fit(again, table, stages=(stage2,), callbacks=(stop,), **options)
    assert not torch.equal(b2.value, b.value)
    final, a3, b3, stage3 = game(False, 2)
    inference.fit(final, table, stages=(stage3,), resume=True, **options)
    assert torch.equal(a3, a) and torch.equal(b3.value, b.value)


def test_a_player_may_hold_part_of_the_pair() -> None:
    """Max-min over one pair: the other side's parameters move by its own loss alone."""
    pair = linear(dtype=torch.float32)
    x, _ = draw(pair, ROWS)
    before = {n: p.detach().clone() for n, p in pair.named_parameters()}
    against = -1.0 * EnumeratedELBO()
    stage = Stage(
        EnumeratedELBO(),
        players=(Player("worst", against, parameters=("means",)),),
        simultaneous=True,
        training=Training(epochs=1, batch_size=ROWS, learning_rate=0.1),
    )
    inference.fit(pair, Table("rows", {"x": x}), stages=(stage,), progress=False)
    # Adam's first step is the sign of the gradient: the same draws tell which way is up.
    torch.manual_seed(0)
    start = linear(dtype=torch.float32)
    losses = []
    for loss_of in (EnumeratedELBO(), against):
        loss = loss_of.differentiable_loss(start.model, start.guide, Batch({"x": x}))
        grads = torch.autograd.grad(loss, list(start.parameters()))
        losses.append(dict(zip(before, grads, strict=True)))
    for name, parameter in pair.named_parameters():
        moved = (parameter - before[name]).sign()
        wanted = -losses[name == "means"][name].sign()
        clear = losses[0][name].abs() > 0.5 * losses[0][name].abs().max()
        assert torch.equal(moved[clear], wanted[clear]), name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: Player("p", o), "trains nothing"),
        (
            lambda o: Player("p", o, parameters=("means",), steps=0),
            "steps of player .p. is 0, expected at least 1",
        ),
        (lambda o: (Player("p", o, parameters=("mean",)),), "'mean', which is no parameter"),
        (
            lambda o: tuple(Player(n, o, parameters=("means",)) for n in "pq"),
            "player 'q' trains 'means', which player 'p' already has",
        ),
    ],
)
def test_players_that_do_not_fit_are_named(make, message: str) -> None:
    pair = linear(dtype=torch.float32)

    def run() -> None:
        stage = Stage(EnumeratedELBO(), players=make(EnumeratedELBO()))
        inference.fit(pair, Table("rows", {"x": draw(pair, 4)[0]}), stages=(stage,))

    with pytest.raises(ValueError, match=message):
        run()


def test_simultaneous_moves_are_single_steps() -> None:
    pair = linear(dtype=torch.float32)
    player = Player("p", EnumeratedELBO(), parameters=("means",), steps=2)
    stage = Stage(EnumeratedELBO(), players=(player,), simultaneous=True)
    with pytest.raises(ValueError, match="steps=2"):
        inference.fit(pair, Table("rows", {"x": draw(pair, 4)[0]}), stages=(stage,))
