"""Data: tables with hidden entries, the order training sees them in, and loaders."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from ppl_models.config import unknown
from ppl_models.data.arrays import from_arrays
from ppl_models.data.masking import hide_labels
from ppl_models.data.stream import Stream
from ppl_models.data.table import Dataset, Regime, Table

__all__ = [
    "Dataset",
    "Regime",
    "Stream",
    "Table",
    "from_arrays",
    "hide_labels",
    "load",
    "loader",
    "names",
]

LOADERS = {
    "digits": "ppl_models.data.digits:load",
    "mnist": "ppl_models.data.mnist:load",
}


def names() -> list[str]:
    """Names of the data sets; any path of an ``.npz`` file is one too."""
    return sorted(LOADERS)


def loader(name: str) -> Callable[..., Dataset]:
    """The function that loads a data set; its signature says which options there are.

    Args:
        name: One of :func:`names`, or the path of an ``.npz`` file.

    Raises:
        ValueError: If there is no such data set, naming the nearest.
    """
    if name.endswith(".npz"):
        from ppl_models.data.arrays import load_file

        return functools.partial(load_file, name)
    if name not in LOADERS:
        raise ValueError(f"{unknown('data set', name, LOADERS)}, or the path of an .npz file")
    module, _, function = LOADERS[name].partition(":")
    found: Callable[..., Dataset] = getattr(importlib.import_module(module), function)
    return found


def load(name: str, **options: Any) -> Dataset:
    """Load a data set.

    Args:
        name: One of :func:`names`, or the path of an ``.npz`` file with an array per site.
        options: See the loader, ``help(data.loader(name))``.

    Raises:
        FileNotFoundError: If its files are not there, saying which ones to put where.
        ValueError: If there is no such data set or option, naming the nearest.
    """
    function = loader(name)
    known = inspect.signature(function).parameters
    for option in options:
        if option not in known:
            raise ValueError(unknown(f"option of {name}", option, known))
    return function(**options)
