"""A zoo of published deep generative models on Pyro: story + guide + objective + data."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppl_models.batch import Batch as Batch
    from ppl_models.catalogue import build as build
    from ppl_models.catalogue import names as names
    from ppl_models.catalogue import register as register
    from ppl_models.config import Config as Config
    from ppl_models.config import setting as setting
    from ppl_models.pair import Card as Card
    from ppl_models.pair import Pair as Pair

__version__ = "0.1.0"

# Imported on first use, so that `import ppl_models` and the command line's help stay fast.
_HOMES = {
    "Batch": "batch",
    "Card": "pair",
    "Config": "config",
    "Pair": "pair",
    "build": "catalogue",
    "names": "catalogue",
    "register": "catalogue",
    "setting": "config",
}
_ROOMS = ("data", "guides", "inference")

__all__ = sorted([*_HOMES, *_ROOMS])


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"ppl_models.{_HOMES[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"ppl_models.{name}")
    raise AttributeError(f"module 'ppl_models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
