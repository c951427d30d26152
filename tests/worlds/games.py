"""Small games on digits, whose critic marks the codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference import Objective, Player, Stage

OPTIONS = {"progress": False, "device": "cpu", "epochs": 2, "batch_size": 40}
STEPS = 2 * 3


def vae(digits: data.Table) -> zoo.Pair:
    return zoo.build("vae", digits, seed=0, hidden=(8,), latent=2)


def fit(pair: zoo.Pair, digits: data.Table, *stages: Stage, **options: object) -> inference.Run:
    return inference.fit(pair, digits, stages=stages, **{**OPTIONS, **options})


class Judged(Objective):
    """A critic's mark of the codes, which a draw of its own makes uneven."""

    formula = "mark(z)"

    def __init__(self, critic: nn.Module, sign: float) -> None:
        super().__init__()
        self.critic, self.sign = critic, sign

    def rows(self, run: inference.Evaluation) -> Tensor:
        z = run.codes("z").only("a critic")
        mark = self.critic(z).square().mean(-1)
        return self.sign * (mark + 0.1 * torch.rand(())).tanh()


def game(pair: zoo.Pair, critic: nn.Module, **options: object) -> Stage:
    player = Player("critic", Judged(critic, -1.0), critic, **options)
    return Stage(pair.objective() + Judged(critic, 1.0), players=(player,))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
