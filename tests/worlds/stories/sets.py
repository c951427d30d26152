"""Sets of points: a context for each set, a code for each of its elements.

Story   c ~ N(0, I)   z_m | c ~ N(A c, I)   x_m | c, z_m ~ N(f(c, z_m), s^2 I), m in the set
Guide   q(c | mean over the set of e(x_m)) prod_m q(z_m | x_m, c)
Paper   Edwards, Storkey. Towards a neural statistician. ICLR 2017
Shapes  B rows, M elements, C context, K code, D data
"""

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import Batch, Card, Config, Pair, elements, setting


@dataclass(frozen=True)
class SetsConfig(Config):
    """Settings."""

    data_dim: int = setting(2, "D, size of an element of x", from_data="x", minimum=1)
    most: int = setting(7, "M, elements of a set that is drawn from the prior", minimum=1)
    context: int = setting(2, "C, size of c", minimum=1)
    latent: int = setting(1, "K, size of z", minimum=1)
    hidden: int = setting(16, "units", minimum=1)


class SetGuide(nn.Module):
    """q(c | x) q(z | x, c), which no order of the elements and no padding changes."""

    def __init__(self, config: SetsConfig) -> None:
        super().__init__()
        D, C, K, H = config.data_dim, config.context, config.latent, config.hidden
        self.most = config.most
        self.element = _mlp(D, H, H)
        self.context, self.code = _mlp(H, H, 2 * C), _mlp(D + C, H, 2 * K)

    def forward(self, batch: Batch) -> None:
        """Sample c and z."""
        there = elements.present(batch, "x", self.most, batch.count)
        x = elements.filled(batch["x"], there)  # B x M x D
        with batch.plate():
            q = _normal(self.context(elements.mean(self.element(x), there)))
            c = pyro.sample("c", q)  # B x C, with draws K x 1 x B x C
            with elements.plate("element", there):
                x = elements.inside(x)
                pyro.sample("z", _normal(self.code(_joined(x, c))))  # M x B x K


class Sets(Pair):
    """A hierarchy of a set and its elements."""

    Config = SetsConfig
    config: SetsConfig
    plate_nesting = 2
    card = Card(
        name="sets",
        title="Sets of one to seven points, after the neural statistician",
        authors="Harrison Edwards, Amos Storkey",
        year=2017,
        arxiv="1606.02185",
        task="sets",
        data={"x": "elements (M, D)"},
        covariates={"x_there": "which elements there are (M)"},
        latents={"c": "context of the set (C)", "z": "code of each element (M, K)"},
        objectives=("elbo",),
    )

    def __init__(self, config: SetsConfig) -> None:
        super().__init__(config)
        C, K = config.context, config.latent
        self.prior = nn.Linear(C, K)
        self.decoder = _mlp(C + K, config.hidden, config.data_dim)
        self.log_scale = nn.Parameter(torch.tensor(-1.0))
        self.guide = SetGuide(config)

    def some_covariates(self, rows: int) -> dict[str, Tensor]:
        """Sets of one element, of two, and so on."""
        most = self.config.most
        there = torch.arange(most) <= torch.arange(rows)[:, None] % most
        return {"x_there": there.to(self.like())}

    def model(self, batch: Batch) -> None:
        """p(c) prod_m p(z_m | c) p(x_m | c, z_m)."""
        there = elements.present(batch, "x", self.config.most, batch.count)
        zero = self.like().new_zeros(self.config.context)
        with self.plate(batch):
            c = pyro.sample("c", dist.Normal(zero, 1.0).to_event(1))  # B x C
            with elements.plate("element", there):
                z = pyro.sample("z", dist.Normal(self.prior(c), 1.0).to_event(1))  # M x B x K
                loc = self.decoder(_joined(c, z))
                x = dist.Normal(loc, self.log_scale.exp()).to_event(1)
                pyro.sample("x", x, obs=elements.observed(batch, "x", there))  # M x B x D


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))


def _joined(*parts: Tensor) -> Tensor:
    """Vectors side by side, whatever draws and elements they are of."""
    shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*shape, -1) for part in parts], -1)


def _normal(moments: Tensor) -> dist.TorchDistribution:
    loc, scale = moments.chunk(2, -1)
    return dist.Normal(loc, nn.functional.softplus(scale) + 1e-3).to_event(1)
