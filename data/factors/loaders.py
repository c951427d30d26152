"""Loaders of data sets that are made from factors, and the factors behind a loader's name."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

from ppl_models.config import plain
from ppl_models.data.factors.grid import FactorData
from ppl_models.data.tables.table import Dataset


def sampled(make: Callable[..., FactorData]) -> Callable[..., Dataset]:
    """A loader from what makes factors; it takes the options of both."""
    own = inspect.signature(make).parameters
    shared = inspect.signature(FactorData.dataset).parameters
    merged = [p for name, p in shared.items() if name not in ("self", "options")]

    @functools.wraps(make)
    def load(**options: Any) -> Dataset:
        mine = {name: options.pop(name, own[name].default) for name in own}
        world = {n: v for n, v in mine.items() if plain(v) != plain(own[n].default)}
        made = dataclasses.replace(make(**mine), world=f" {plain(world)}" if world else "")
        return made.dataset(**options, options=mine)

    load.__signature__ = inspect.Signature([*own.values(), *merged])  # type: ignore[attr-defined]
    return load
