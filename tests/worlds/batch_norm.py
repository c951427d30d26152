"""A VAE whose encoder and decoder normalise over the batch, and which counts its calls."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.data import Table
from ppl_models.pair import Card, Pair

D, L, ROWS = 3, 2, 24


@dataclass(frozen=True)
class NormedConfig(Config):
    """How many bits it sums out."""

    bits: int = setting(0, "bits b in a chain, the first of which shifts x")


def normalising(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, outputs))


class _Encoder(nn.Module):
    anew = False  # whether the count is set anew

    def __init__(self) -> None:
        super().__init__()
        self.net = normalising(D, 2 * L)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.anew:
            self.calls = self.calls + 1
        else:  # as BatchNorm changes its own
            self.calls.add_(1)
        found: Tensor = self.net(x)
        return found


class Normed(Pair):
    """bits b in a chain; z ~ N(0, I); x | z, b ~ N(f(z) + b0, 1)."""

    Config = NormedConfig
    config: NormedConfig
    card = Card("normed", "-", "-", 2026, "-", "test", {"x": "data"}, {"z": "code"})

    def __init__(self, config: NormedConfig) -> None:
        super().__init__(config)
        self.decoder = normalising(L, D)
        factors = {f"b{n}": guides.Bernoulli({"x": D}) for n in range(config.bits)}
        z = guides.Normal(L, {"x": D}, net=_Encoder())
        self.guide = guides.Factored(z=z, **factors)

    def model(self, batch: Batch) -> None:
        zero = self.like().new_zeros(L)
        with self.plate(batch):
            b, bits = zero[0], []
            for n in range(self.config.bits):
                b = pyro.sample(f"b{n}", dist.Bernoulli(0.3 + 0.4 * b), obs=batch.get(f"b{n}"))
                bits.append(b)
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1), obs=batch.get("z"))
            loc = self.decoder(z.reshape(-1, L)).reshape(*z.shape[:-1], D)
            if self.config.bits:
                loc = loc + bits[0].unsqueeze(-1)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=batch.get("x"))


def normed(bits: int = 0, dtype: torch.dtype = torch.float32) -> Normed:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Normed(NormedConfig(bits)).to(dtype)


def rows(count: int = ROWS) -> Table:
    generator = torch.Generator().manual_seed(1)
    return Table("normed", {"x": torch.randn(count, D, generator=generator)})


def buffers(pair: nn.Module) -> dict[str, Tensor]:
    """Copies of all buffers by name."""
    return {name: value.clone() for name, value in pair.named_buffers()}
