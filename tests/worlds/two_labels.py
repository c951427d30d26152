"""Labels last: a toy with a quadrature, and two labels."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.networks import Label, Scalar


class Toy(nn.Module):
    """p(y=1) = 1/2, z | y ~ N(+-2, 1), x | z ~ N(z, 1); q(z|x) q(y|x, z), y last."""

    def __init__(self) -> None:
        super().__init__()
        self.guide = guides.Factored(
            z=guides.Normal(1, {"x": Scalar()}), y=guides.Bernoulli({"z": 1})
        )
        with torch.no_grad():
            z, y = (self.guide.factors[name].net.first for name in ("z", "y"))
            z.weights["x"].copy_(torch.tensor([[0.6], [0.0]]))
            z.bias.copy_(torch.tensor([0.1, -0.4]))
            y.weights["z"].fill_(1.4)
            y.bias.fill_(-0.2)

    def model(self, batch: Batch) -> None:
        with batch.plate():
            y = pyro.sample("y", dist.Bernoulli(0.5), obs=batch.get("y"))
            z = pyro.sample("z", dist.Normal((4 * y - 2).unsqueeze(-1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.squeeze(-1), 1.0), obs=batch.get("x"))


def quadrature(x: float, y: float) -> tuple[float, float, float]:
    """The bound of log p(x, y) with q(z|x,y), log q(y|x) and E_q(z|x) log q(y|z)."""
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    q = Normal(0.6 * x + 0.1, torch.tensor(-0.2, dtype=torch.float64).exp()).log_prob(z)
    log_v = F.logsigmoid((1.4 * z - 0.2) * (2 * y - 1))
    log_p = Normal(4 * y - 2, 1.0).log_prob(z) + Normal(z, 1.0).log_prob(torch.tensor(x))
    log_p = log_p - math.log(2)
    step = z[1] - z[0]
    log_q_y = torch.logsumexp(q + log_v, 0) + step.log()
    posterior = (q + log_v - log_q_y).exp()
    elbo = (posterior * (log_p - q - log_v + log_q_y)).sum() * step
    return float(elbo), float(log_q_y), float((q.exp() * log_v).sum() * step)


class Two(nn.Module):
    """Labels t (first) and y (last, given t and z) around a code z."""

    def __init__(self) -> None:
        super().__init__()
        given = {"x": Scalar(), "t": Label(3)}
        self.guide = guides.Factored(
            t=guides.Categorical(3, {"x": Scalar()}),
            z=guides.Normal(1, given),
            y=guides.Categorical(2, {"t": Label(3), "z": 1}),
        )
        self.means = nn.Parameter(torch.randn(3, 2))

    def model(self, batch: Batch) -> None:
        with batch.plate():
            t = pyro.sample("t", dist.Categorical(torch.ones(3) / 3), obs=batch.get("t"))
            y = pyro.sample("y", dist.Categorical(torch.ones(2) / 2), obs=batch.get("y"))
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            loc = z.squeeze(-1) + self.means[t, y]
            pyro.sample("x", dist.Normal(loc, 1.0), obs=batch.get("x"))
