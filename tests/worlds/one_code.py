"""Toys of one label read off one code, and what estimates of their bound come to on average."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal
from worlds.two_labels import Toy

from ppl_models.batch import Batch


@dataclass(frozen=True)
class OneCode:
    """y ~ Bernoulli(1/2), z | y ~ N((2y - 1) apart, 1), x | z ~ N(z, 1), for one row.

    The guide is q(z|x) = N(x slope + start, exp(log_scale)) and q(y=1|z) = sigmoid(steep z + at).
    """

    apart: float
    slope: float
    start: float
    log_scale: float
    steep: float
    at: float
    x: float
    y: float

    def pair(self, dtype: torch.dtype = torch.float64) -> Toy:
        """The story and the guide; as a module with ``model`` and ``guide``."""
        return _Pair(self).to(dtype)

    def batch(self, rows: int, dtype: torch.dtype = torch.float64, scale: int = 1) -> Batch:
        """The row, so many times."""
        values = {
            n: torch.full((rows,), v, dtype=dtype) for n, v in (("x", self.x), ("y", self.y))
        }
        return Batch(values, size=rows * scale)

    def log_p(self) -> float:
        """Log p(x, y)."""
        marginal = Normal((2 * self.y - 1) * self.apart, math.sqrt(2.0))
        return float(marginal.log_prob(torch.tensor(self.x).double())) - math.log(2)

    def grid(self) -> tuple[Tensor, Tensor, Tensor]:
        """On a grid of z: its probability, v = q(y|z), and b = log p(x,y,z) / (q(z|x) v)."""
        z = torch.linspace(-16, 16, 3001, dtype=torch.float64)
        scale = torch.tensor(self.log_scale).double().exp()
        log_q = Normal(self.slope * self.x + self.start, scale).log_prob(z)
        log_v = F.logsigmoid((self.steep * z + self.at) * (2 * self.y - 1))
        log_p = Normal((2 * self.y - 1) * self.apart, 1.0).log_prob(z) - math.log(2)
        log_p = log_p + Normal(z, 1.0).log_prob(torch.tensor(self.x).double())
        return log_q.exp() * (z[1] - z[0]), log_v.exp(), log_p - log_q - log_v

    def limit(self, alpha: float = 0.0) -> float:
        """The bound that the estimate tends to."""
        p, v, b = self.grid()
        q = (p * v).sum()
        return float((p * v * b).sum() / q + (1 + alpha) * q.log())

    def mean(self, draws: int, alpha: float = 0.0, detach: str = "none") -> float:
        r"""What :class:`CharacteristicELBO` comes to on average.

        With S the sum of K values of v, :math:`E[1/S] = \int E[e^{-tv}]^K dt` and
        :math:`E[\log S] = \int (e^{-t} - E[e^{-tv}]^K) / t\,dt`.
        """
        p, v, b = self.grid()
        t = torch.linspace(-40, 40, 4001, dtype=torch.float64).exp()
        step = 80 / 4000  # of log t
        powers = torch.stack([(p * (-s * v).exp()).sum() for s in t]) ** draws
        inverse = draws * (powers * t).sum() * step
        log_q = ((-t).exp() - powers).sum() * step - math.log(draws)
        centre = (p * b).sum() if detach == "none" else torch.zeros(())
        weighed = inverse * ((p * v * b).sum() - (p * v).sum() * centre) + centre
        return float(weighed + (1 + alpha) * log_q)


class _Pair(Toy):
    def __init__(self, toy: OneCode) -> None:
        super().__init__()
        self.apart = toy.apart
        with torch.no_grad():
            z, y = (self.guide.factors[name].net.first for name in ("z", "y"))
            z.weights["x"].copy_(torch.tensor([[toy.slope], [0.0]]))
            z.bias.copy_(torch.tensor([toy.start, 2 * toy.log_scale]))
            y.weights["z"].fill_(toy.steep)
            y.bias.fill_(toy.at)

    def model(self, batch: Batch) -> None:
        with batch.plate():
            y = pyro.sample("y", dist.Bernoulli(batch["x"].new_full((), 0.5)), obs=batch.get("y"))
            loc = (2 * y - 1) * self.apart
            z = pyro.sample("z", dist.Normal(loc.unsqueeze(-1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.squeeze(-1), 1.0), obs=batch.get("x"))


USUAL = OneCode(2, 0.6, 0.1, -0.2, 1.4, -0.2, 0.8, 0.0)
SHIFTED = OneCode(1, 0.5, -0.5, 0.2, 1.0, -1.0, 0.5, 1.0)
RARE = OneCode(2, 0.5, -1.5, 0.3, 2.0, -1.5, 0.5, 1.0)
