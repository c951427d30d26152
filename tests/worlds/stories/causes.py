"""A linear Gaussian structural causal model of three variables and an image-like vector.

a -> b, a -> c, b -> c and x of (b, c, z): all in closed form. Twisted, c stands behind an
exponential, and a class k hangs on b.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import transforms

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.pair import Card, Pair


@dataclass(frozen=True)
class CausesConfig(Config):
    """Settings."""

    size: int = setting(6, "D, size of x", from_data="x", minimum=1)
    latent: int = setting(2, "L, size of z", minimum=1)
    classes: int = setting(3, "C, of k", minimum=2)
    made: bool = setting(False, "x is made by an implicit generator and not scored")


class Causes(Pair):
    """The world."""

    Config = CausesConfig
    config: CausesConfig
    card = Card(
        "causes", "A linear structural causal model", "-", 2026, "-", "test",
        {"a": "first cause", "b": "its effect", "c": "of both", "x": "of b, c and z (D)"},
        {"k": "class by b (C)", "z": "all else in x (L)"}, labels=("k",), causes=("a", "b", "c"),
    )  # fmt: skip

    def __init__(self, config: CausesConfig) -> None:
        super().__init__(config)
        D, L, C = config.size, config.latent, config.classes
        self.slopes = nn.Parameter(torch.tensor([0.8, -0.5, 1.3]))  # a -> b, a -> c, b -> c
        self.scales = nn.Parameter(torch.tensor([1.5, 0.6, 0.4, 0.3]))  # of a, b, c, x
        self.decoder = nn.Parameter(torch.randn(2 + L + C, D))
        self.classes = nn.Parameter(torch.randn(C))
        self.guide = guides.Factored(
            k=guides.Categorical(C, {"x": D}, (5,)), z=guides.Normal(L, {"x": D, "b": 1}, (5,))
        )

    def model(self, batch: Batch) -> None:
        """a, b, c, k, z and x."""
        s, (ab, ac, bc), zero = self.scales, self.slopes, self.like().new_zeros(1)
        with self.plate(batch):
            a = pyro.sample("a", dist.Normal(zero, s[0]).to_event(1), obs=batch.get("a"))
            b = pyro.sample("b", dist.Normal(ab * a, s[1]).to_event(1), obs=batch.get("b"))
            noise = dist.Normal(zero.expand(a.shape), 1.0).to_event(1)
            loc = transforms.AffineTransform(ac * a + bc * b, s[2], event_dim=1)
            c = dist.TransformedDistribution(noise, [loc])
            c = pyro.sample("c", c, obs=batch.get("c"))
            k = pyro.sample("k", dist.Categorical(logits=b * self.classes), obs=batch.get("k"))
            z = pyro.sample("z", dist.Normal(zero.expand(self.config.latent), 1.0).to_event(1))
            x = dist.Normal(self.decoded(b, c, k, z), s[3]).to_event(1)
            if self.config.made:
                x = dist.Delta(x.mean, event_dim=1).mask(False)
            pyro.sample("x", x, obs=batch.get("x"))

    def decoded(self, b: Tensor, c: Tensor, k: Tensor, z: Tensor) -> Tensor:
        """The mean of x."""
        of_b, of_c, of_z, of_k = self.decoder.split([1, 1, self.config.latent, len(self.classes)])
        return b @ of_b + c @ of_c + z @ of_z + of_k[k.long()]


def causes(dtype: torch.dtype = torch.float64, **settings: object) -> Causes:
    torch.manual_seed(0)
    return Causes(CausesConfig(**settings)).to(dtype)


def rows(dtype: torch.dtype = torch.float64, count: int = 7, known: bool = True) -> Batch:
    draw = torch.Generator().manual_seed(1)
    sizes = {"a": 1, "b": 1, "c": 1, "x": 6}
    sites = {
        name: 2 * torch.randn(count, size, generator=draw, dtype=torch.float64)
        for name, size in sizes.items()
    }
    batch = {name: value.to(dtype) for name, value in sites.items()}
    labels = {"k": torch.arange(count) % 3} if known else {}
    return Batch({**batch, **labels})
