"""A world of sets whose posterior and evidence have closed forms, told in two ways.

c ~ N(0, 1) for a set; s_m ~ Cat(0.3, 0.7), z_m ~ N(a c + b[s_m], 1) and x_m ~ N(z_m, 0.7^2)
for each element; without labels b[s_m] = 0. The elements stand in a plate within the rows, or in
an event with a mask.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import elements
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.data import Table
from ppl_models.pair import Card, Pair

NOISE, SLOPE, SHIFTS, SHARES = 0.7, 0.8, (-1.5, 1.0), (0.3, 0.7)
SIZES = (1, 3, 2, 4)
KINDS: dict[str, dict[str, bool]] = {
    "no labels": {},
    "labels of the guide": {"labels": True},
    "labels of the model": {"labels": True, "guided": False},
}


@dataclass(frozen=True)
class ElementsConfig(Config):
    told: str = setting("plate", "elements in a plate or an event", choices=("plate", "event"))
    labels: bool = setting(False, "s, a class of each element")
    guided: bool = setting(True, "the guide samples s")
    most: int = setting(4, "M")


class SetGuide(nn.Module):
    """q(c | x) q(s_m | x_m) q(z_m | x_m, s_m, c)."""

    def __init__(self, config: ElementsConfig) -> None:
        super().__init__()
        self.config = config
        self.of_c = nn.Parameter(torch.tensor([0.1, 0.6, -0.3]))
        self.of_s = nn.Parameter(torch.tensor([0.6, 1.1]))
        self.of_z = nn.Parameter(torch.tensor([0.5, 0.3, -0.2]))

    def forward(self, batch: Batch) -> None:
        there = elements.present(batch, "x", self.config.most, batch.count)
        x = elements.filled(batch["x"], there)
        center, slope, width = self.of_c
        average = elements.mean(x.unsqueeze(-1), there).squeeze(-1)
        with batch.plate():
            c = pyro.sample("c", dist.Normal(center + slope * average, width.exp()))
            slope, of_c, width = self.of_z
            if self.config.told == "event":
                loc = slope * x + of_c * c.unsqueeze(-1)
                pyro.sample("z", dist.Normal(loc, width.exp()).mask(there).to_event(1))
                return
            with elements.plate("element", there):
                x, shift = elements.inside(x), 0.0
                if self.config.labels and self.config.guided:
                    logits = torch.stack([0 * x, self.of_s[0] + self.of_s[1] * x], -1)
                    shift = (
                        0.4
                        * x.new_tensor(SHIFTS)[pyro.sample("s", dist.Categorical(logits=logits))]
                    )
                pyro.sample("z", dist.Normal(slope * x + of_c * c + shift, width.exp()))


class Elements(Pair):
    """The world."""

    Config = ElementsConfig
    config: ElementsConfig
    plate_nesting = 2
    coordinates: ClassVar[dict[str, tuple[str, ...]]] = {
        "element": ("first", "second", "third", "fourth")
    }
    card = Card(
        "elements", "Sets of numbers", "-", 2026, "-", "test", {"x": "numbers"},
        {"c": "of the set", "s": "class of an element", "z": "code of an element"},
        covariates={"x_there": "which elements there are"},
    )  # fmt: skip

    def __init__(self, config: ElementsConfig) -> None:
        super().__init__(config)
        self.slope = nn.Parameter(torch.tensor(SLOPE))
        self.guide = SetGuide(config)

    def model(self, batch: Batch) -> None:
        there = elements.present(batch, "x", self.config.most, batch.count)
        zero = self.slope.new_zeros(())
        with self.plate(batch):
            c = pyro.sample("c", dist.Normal(zero, 1.0))
            if self.config.told == "event":
                z = dist.Normal(self.slope * c.unsqueeze(-1).expand(*c.shape, there.shape[1]), 1.0)
                z = pyro.sample("z", z.mask(there).to_event(1))
                seen = batch.get("x")
                seen = None if seen is None else elements.filled(seen, there)
                pyro.sample("x", dist.Normal(z, NOISE).mask(there).to_event(1), obs=seen)
                return
            with elements.plate("element", there):
                shift: Tensor | float = 0.0
                if self.config.labels:
                    s = pyro.sample("s", dist.Categorical(probs=zero.new_tensor(SHARES)))
                    shift = zero.new_tensor(SHIFTS)[s]
                z = pyro.sample("z", dist.Normal(self.slope * c + shift, 1.0))
                pyro.sample("x", dist.Normal(z, NOISE), obs=elements.observed(batch, "x", there))


def built(dtype: torch.dtype = torch.float64, **settings: object) -> Elements:
    torch.manual_seed(0)
    return Elements(ElementsConfig(**settings)).to(dtype)


def rows(
    dtype: torch.dtype = torch.float64, most: int = 4, padding: float = 0.0, scale: int = 1
) -> Batch:
    """Sets of 1, 3, 2 and 4 numbers."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(SIZES), max(SIZES), generator=generator, dtype=torch.float64)
    there = torch.arange(most) < torch.tensor(SIZES)[:, None]
    full = torch.full((len(SIZES), most), padding, dtype=torch.float64)
    full[:, : max(SIZES)] = x
    full[~there] = padding
    sites = {"x": full.to(dtype), "x_there": there.to(dtype)}
    return Batch(sites, size=scale * len(SIZES))


def table(most: int = 4) -> Table:
    return Table("sets", dict(rows(torch.float32, most)))


def numbers(row: int) -> np.ndarray:
    """The elements of a row."""
    return rows()["x"][row, : SIZES[row]].numpy()


def mixture(x: np.ndarray, labels: bool) -> list[tuple[float, float, float, tuple[int, ...]]]:
    """By labels: log p(s, x), mean and variance of p(c | s, x), and the labels s."""
    n, found = len(x), []
    for s in itertools.product(range(2), repeat=n) if labels else [(0,) * n]:
        shift = np.array([SHIFTS[v] if labels else 0.0 for v in s])
        cov = SLOPE**2 * np.ones((n, n)) + (1 + NOISE**2) * np.eye(n)
        r = x - shift
        log_p = -0.5 * (r @ np.linalg.solve(cov, r) + np.linalg.slogdet(2 * math.pi * cov)[1])
        log_p += sum(math.log(SHARES[v]) for v in s) if labels else 0.0
        variance = 1 / (1 + n * SLOPE**2 / (1 + NOISE**2))
        found.append((log_p, variance * SLOPE * r.sum() / (1 + NOISE**2), variance, s))
    return found


def log_evidence(x: np.ndarray, labels: bool) -> float:
    return float(np.logaddexp.reduce([part[0] for part in mixture(x, labels)]))


def moments_of_c(x: np.ndarray, labels: bool) -> tuple[float, float]:
    """Mean and standard deviation of p(c | x)."""
    parts = mixture(x, labels)
    weights = np.exp([p[0] - log_evidence(x, labels) for p in parts])
    means, variances = (np.array([p[i] for p in parts]) for i in (1, 2))
    mean = weights @ means
    return float(mean), float(np.sqrt(weights @ (variances + means**2) - mean**2))


def probability_of_s(x: np.ndarray) -> np.ndarray:
    """p(s_m = 1 | x) of each element."""
    whole = log_evidence(x, True)
    return sum(math.exp(p[0] - whole) * np.array(p[3]) for p in mixture(x, True))
