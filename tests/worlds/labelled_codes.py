"""Two codes that are columns of the rows, and a label of the rows that depends on neither."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models.batch import Batch

CLASSES = 3


class Codes(nn.Module):
    """z_1 and z_2 are the columns of x times weights; s is a label of the data."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([1.0, 0.5, -2.0], dtype=dtype))

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = x * self.weights
        return z[:, :2], z[:, 2:]

    def model(self, batch: Batch) -> None:
        with batch.plate():
            for name, size in (("z_1", 2), ("z_2", 1)):
                flat = dist.Normal(self.weights.new_zeros(size), 1.0).to_event(1).mask(False)
                pyro.sample(name, flat)
            uniform = self.weights.new_zeros(CLASSES)
            pyro.sample("s", dist.Categorical(logits=uniform), obs=batch.get("s"))

    def guide(self, batch: Batch) -> None:
        with batch.plate():
            for name, z in zip(("z_1", "z_2"), self.codes(batch["x"]), strict=True):
                pyro.sample(name, dist.Delta(z, event_dim=1))
            if "s" not in batch:
                uniform = self.weights.new_zeros(CLASSES)
                infer = {"enumerate": "parallel"}
                pyro.sample("s", dist.Categorical(logits=uniform), infer=infer)


def rows_of(rows: int, dtype: torch.dtype, scale: int = 1, label: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 3, generator=generator, dtype=torch.float64).to(dtype)
    s = torch.randint(CLASSES, (rows,), generator=generator)
    return Batch({"x": x, **({"s": s} if label else {})}, size=rows * scale)
