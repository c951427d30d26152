"""Linear worlds whose data hang on covariates as well, and whose evidence is known."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from worlds.linear import LinearConfig, LinearPair

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.data import Table
from ppl_models.networks import Label
from ppl_models.pair import Card

DONORS = ("ann", "bob", "eve")


class Dosed(LinearPair):
    """The linear world with x moved by a dose and by whose cells they are: m_y + c_donor + b u."""

    card = Card(
        "dosed", "A linear-Gaussian world with covariates", "-", 2026, "-", "test", {"x": "data"},
        {"y": "class", "z": "code"}, ("y",),
        covariates={"donor": "whose cells", "dose": "of a drug (1)"}, objectives=("enumerated",),
    )  # fmt: skip

    def __init__(self, config: LinearConfig) -> None:
        super().__init__(config)
        C, L, D = config.classes, config.latent, config.data_dim
        self.slope = nn.Parameter(torch.randn(D))
        self.donors = nn.Parameter(torch.randn(len(DONORS), D))
        given = {"x": D, "donor": Label(len(DONORS)), "dose": 1}
        self.guide = guides.Factored(
            y=guides.Categorical(C, given, (5,)),
            z=guides.Normal(L, {**given, "y": Label(C)}, (5,)),
        )

    def moved(self, batch: Batch) -> Tensor:
        return self.donors[batch["donor"]] + batch["dose"] * self.slope

    def model(self, batch: Batch) -> None:
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            y = pyro.sample("y", dist.Categorical(logits=self.prior_logits), obs=batch.get("y"))
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))
            loc = z @ self.A.T + self.means[y] + self.moved(batch)
            pyro.sample("x", dist.Normal(loc, self.noise).to_event(1), obs=batch.get("x"))

    def some_covariates(self, rows: int) -> dict[str, Tensor]:
        row = torch.arange(rows)
        return {
            "donor": row % len(DONORS),
            "dose": row.unsqueeze(-1).to(self.like().dtype) / 10,
        }


def dosed(dtype: torch.dtype = torch.float64, **settings: Any) -> Dosed:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Dosed(LinearConfig(**settings)).to(dtype)


def treated(pair: Dosed, count: int = 24, seed: int = 0, **changes: Any) -> Table:
    """Rows of the pair's own story."""
    draw = torch.Generator().manual_seed(seed)
    donor = torch.randint(3, (count,), generator=draw)
    dose = torch.rand(count, 1, generator=draw)
    y = torch.randint(pair.config.classes, (count,), generator=draw)
    known = Batch({"donor": donor, "dose": dose.to(pair.like().dtype)})
    z = torch.randn(count, pair.config.latent, generator=draw, dtype=pair.like().dtype)
    with torch.no_grad():
        x = z @ pair.A.T + pair.means[y] + pair.moved(known)
    sites = {"x": x.float(), "y": y, "donor": donor, "dose": dose}
    classes = {"donor": DONORS, "y": [f"c{n}" for n in range(pair.config.classes)]}
    return Table("cells", sites, **{"classes": classes, **changes})


def evidence(pair: Dosed, batch: Batch) -> Tensor:
    """Exact log p(x | donor, dose) of each row."""
    with torch.no_grad():
        found: Tensor = pair.log_evidence(batch["x"] - pair.moved(batch))[1]
    return found
