"""Tiny pairs, one per kind of latent site: what a method takes is found out by trying it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models.batch import Batch
from ppl_models.config import Config
from ppl_models.data.tables.table import Table
from ppl_models.guides.factored import Factored
from ppl_models.guides.factors import Categorical, Conditional, Factor, Normal
from ppl_models.networks import Label, Net, Scalar
from ppl_models.pair import Card, Pair

ROWS, CLASSES, CODE, BITS = 3, 3, 2, 40
X = {"x": Scalar()}


class Poisson(Factor):
    """A count; the network gives the log rate."""

    def __init__(self) -> None:
        super().__init__(1, X)

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """Batch shape ``(...)``."""
        return dist.Poisson(raw.squeeze(-1).exp())


class Bits(Factor):
    """Independent bits; the network gives their logits."""

    def __init__(self) -> None:
        super().__init__(BITS, X)

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """Batch shape ``(...)``, event shape ``(BITS,)``."""
        return dist.Bernoulli(logits=raw).to_event(1)


def _class(zero: Tensor) -> Any:
    return dist.Categorical(logits=zero.new_zeros(CLASSES))


@dataclass(frozen=True)
class Kind:
    """A kind of latent sites.

    Attributes:
        about: The kind in a few words.
        prior: By site name its distribution and the input that it is for a network; called
            with a zero of the right type.
        factors: The guide's factors by site name; empty for what only the model samples.
        shared: Whether a site outside the data plate joins in.
    """

    about: str
    prior: dict[str, tuple[Callable[[Tensor], Any], int]]
    factors: Callable[[], dict[str, Conditional]]
    shared: bool = False


_CODE = {"z": (lambda zero: dist.Normal(zero.new_zeros(CODE), 1.0).to_event(1), CODE)}
_LABEL = {"y": (_class, Label(CLASSES))}

KINDS: dict[str, Kind] = {
    "code": Kind("a continuous vector", _CODE, lambda: {"z": Normal(CODE, X)}),
    "codes": Kind(
        "two continuous vectors",
        {"a": _CODE["z"], "b": _CODE["z"]},
        lambda: {"a": Normal(CODE, X), "b": Normal(CODE, X)},
    ),
    "label": Kind(
        "a class and a continuous vector",
        {**_LABEL, **_CODE},
        lambda: {
            "y": Categorical(CLASSES, X),
            "z": Normal(CODE, {**X, "y": Label(CLASSES)}),
        },
    ),
    "two labels": Kind(
        "two classes, the second given the first",
        {"a": (_class, Label(CLASSES)), "b": (_class, Label(CLASSES))},
        lambda: {
            "a": Categorical(CLASSES, X),
            "b": Categorical(CLASSES, {**X, "a": Label(CLASSES)}),
        },
    ),
    "label of the model": Kind(
        "a class that the guide leaves to the model",
        {**_LABEL, **_CODE},
        lambda: {"z": Normal(CODE, X)},
    ),
    "many bits": Kind(
        f"a vector of {BITS} bits",
        {"b": (lambda zero: dist.Bernoulli(logits=zero.new_zeros(BITS)).to_event(1), BITS)},
        lambda: {"b": Bits()},
    ),
    "count": Kind(
        "a count without bound",
        {"n": (lambda zero: dist.Poisson(zero.exp()), Scalar())},
        lambda: {"n": Poisson()},
    ),
    "global": Kind(
        "a number outside the data plate, and a continuous vector",
        _CODE,
        lambda: {"z": Normal(CODE, X)},
        shared=True,
    ),
}


@dataclass(frozen=True)
class ProbeConfig(Config):
    """A probe has no settings."""


class Probe(Pair):
    """x ~ N(net(latent sites), 1)."""

    Config = ProbeConfig

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        latents = dict.fromkeys(kind.prior, kind.about)
        self.card = Card("probe", "-", "-", 2026, "-", "probe", {"x": "a number"}, latents)
        super().__init__(ProbeConfig())
        self.net = Net({name: size for name, (_, size) in kind.prior.items()}, (), 1)
        local = Factored(**kind.factors())
        self.drawn = tuple(local.given)  # sites that the guide draws
        self.guide = _Shared(local) if kind.shared else local

    def model(self, batch: Batch) -> None:
        """The story."""
        zero = self.like().new_zeros(())
        shared = pyro.sample("shared", dist.Normal(zero, 1.0)) if self.kind.shared else zero
        with self.plate(batch):
            values = {}
            for name, (prior, _) in self.kind.prior.items():
                fn = prior(zero)
                summed = fn.has_enumerate_support and name not in self.drawn
                infer = {"enumerate": "parallel"} if summed else {}
                values[name] = pyro.sample(name, fn, infer=infer)
            mean = self.net(**values).squeeze(-1) + shared
            pyro.sample("x", dist.Normal(mean, 1.0), obs=batch.get("x"))


class _Shared(nn.Module):
    """A guide with one number outside the data plate."""

    def __init__(self, local: Factored) -> None:
        super().__init__()
        self.local = local
        self.loc = nn.Parameter(torch.zeros(()))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        pyro.sample("shared", dist.Normal(self.loc, 1.0))
        values: dict[str, Tensor] = self.local(batch)
        return values

    def factor(self, name: str, values: Any) -> dist.TorchDistribution:
        return self.local.factor(name, values)


def probe(name: str) -> Pair:
    """The pair of a kind, the same whatever the random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Probe(KINDS[name])


def probe_table() -> Table:
    """The rows that probes are tried on."""
    return Table("probe", {"x": torch.linspace(-1.0, 1.0, ROWS)})
