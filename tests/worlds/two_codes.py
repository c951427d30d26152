"""A label and two codes, of which the second may depend on the label; all parts count calls."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.networks import Label, Net

C, L, D = 3, 2, 3


class TwoCodes(nn.Module):
    """y, a, b; x ~ N(dec(y, a, b), 1), with q(y|x) q(a|x) q(b|x) or q(b|x, y)."""

    def __init__(self, given: bool = False, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.decoder = Net({"y": Label(C), "a": L, "b": L}, (4,), D)
        self.guide = guides.Factored(
            y=guides.Categorical(C, {"x": D}, (4,)),
            a=guides.Normal(L, {"x": D}, (4,)),
            b=guides.Normal(L, {"x": D, "y": Label(C)} if given else {"x": D}, (4,)),
        )
        self.double()

    def model(self, batch: Batch) -> None:
        zero = next(self.parameters()).new_zeros(L)
        with batch.plate():
            y = pyro.sample("y", dist.Categorical(zero.new_ones(C)), obs=batch.get("y"))
            a = pyro.sample("a", dist.Normal(zero, 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(zero, 1.5).to_event(1))
            loc = self.decoder(y=y, a=a, b=b)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=batch.get("x"))

    def likelihood(self, y: Tensor, a: Tensor, b: Tensor, x: Tensor) -> Tensor:
        """Log p(x | y, a, b) by hand."""
        return dist.Normal(self.decoder(y=y, a=a, b=b), 1.0).log_prob(x).sum(-1)


class Counted:
    """A model or guide that counts how often it is called."""

    def __init__(self, called: Any) -> None:
        self.called, self.calls = called, 0

    def __call__(self, batch: Batch) -> Any:
        self.calls += 1
        return self.called(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.called, name)


def rows(*sites: str, count: int = 6, scale: int = 1, seed: int = 1) -> Batch:
    """Rows that observe these of x and y."""
    g = torch.Generator().manual_seed(seed)
    values = {"x": torch.randn(count, D, generator=g).double(), "y": torch.arange(count) % C}
    return Batch({name: values[name] for name in sites}, size=count * scale)
