"""Small pairs of two or five modalities, and rows of every pattern of what is there."""

from __future__ import annotations

import itertools

import torch

import ppl_models as zoo
from ppl_models import Batch
from ppl_models.modalities import mark

FIVE = ("pixels", "bits", "words", "counts", "numbers")
KINDS = ("laplace", "bernoulli", "tokens", "counts", "normal")
SIZES = (4, 3, 5, 6, 2)
LATENT = 3


def patterns(sites):
    """Every non-empty subset: 31 of five."""
    return [p for n in range(1, len(sites) + 1) for p in itertools.combinations(sites, n)]


def five(name, dtype=torch.float64, **settings):
    """A pair of five modalities, each of another likelihood."""
    pair = zoo.build(
        name, modalities=FIVE, sizes=SIZES, kinds=KINDS, scales=(0.3,) * 5, words=4,
        latent=LATENT, hidden=(6,), **settings,
    )  # fmt: skip
    return pair.to(dtype)


def two(name, dtype=torch.float64, **settings):
    """A pair of two."""
    settings = {"sizes": (4, 2), "kinds": ("laplace", "normal"), "scales": (0.4, 0.6), **settings}
    return zoo.build(name, latent=LATENT, hidden=(6,), **settings).to(dtype)


def values(pair, rows, seed=0):
    """Values of all modalities."""
    torch.manual_seed(seed)
    c, dtype = pair.config, pair.like().dtype
    made = {
        "laplace": lambda size: torch.rand(rows, size, dtype=dtype),
        "bernoulli": lambda size: torch.randint(2, (rows, size)).to(dtype),
        "tokens": lambda size: torch.randint(size, (rows, c.words)),
        "counts": lambda size: torch.randint(9, (rows, size)).to(dtype),
        "normal": lambda size: torch.randn(rows, size, dtype=dtype),
    }
    each = zip(c.modalities, c.kinds, c.sizes, strict=True)
    return {name: made[kind](size) for name, kind, size in each}


def every_pattern(pair, scale=1, times=1):
    """Rows of each pattern as one batch under marks, and each row as a batch of what it has."""
    sites = pair.config.modalities
    which = patterns(sites) * times
    found = values(pair, len(which))
    apart = []
    for place, pattern in enumerate(which):
        one = {name: found[name][place : place + 1] for name in pattern}
        apart.append(Batch(one, torch.tensor([place]), size=scale))
    marks = {}
    for name in sites:
        there = torch.tensor([name in pattern for pattern in which])
        marks[mark(name)] = there.to(pair.like().dtype)
        wide = there.reshape(-1, *[1] * (found[name].dim() - 1))
        found[name] = torch.where(wide, found[name], found[name][-1])  # the last row has all
    return Batch({**found, **marks}, size=scale * len(which)), apart
