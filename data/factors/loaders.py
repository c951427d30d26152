"""Loaders of data sets that are made from factors, and the factors behind a loader's name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from ppl_models.config import unknown
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
        return make(**mine).dataset(**options, options=mine)

    load.__signature__ = inspect.Signature([*own.values(), *merged])  # type: ignore[attr-defined]
    return load


def factor_data(name: str, **options: Any) -> FactorData:
    """The factors behind a data set, for rendering on demand and for metrics.

    Args:
        name: A name of :func:`ppl_models.data.names` that has factors.
        options: What it is made with, such as ``spacing`` of ``xysquares``.

    Raises:
        ValueError: If there is no such data set or option, or it has no factors.
    """
    from ppl_models.data.catalogue import loader

    make = getattr(loader(name), "__wrapped__", None)
    if make is None:
        raise ValueError(f"{name} has no factors, expected a set that is made from them")
    for option in options:
        if option not in (known := inspect.signature(make).parameters):
            raise ValueError(unknown(f"option of {name}", option, known))
    made: FactorData = make(**options)
    return made
