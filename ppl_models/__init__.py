"""A zoo of published deep generative models on Pyro: story + guide + objective + data."""

import logging
from typing import TYPE_CHECKING

from ppl_models.faces import lazy
from ppl_models.version import __version__ as __version__

if TYPE_CHECKING:
    from ppl_models import (
        data as data,
        elements as elements,
        guides as guides,
        inference as inference,
        modalities as modalities,
    )
    from ppl_models.batch import Batch as Batch
    from ppl_models.catalogue import build as build, names as names, register as register
    from ppl_models.config import Config as Config, setting as setting
    from ppl_models.inference.training.run import load as load
    from ppl_models.pair import Card as Card, Pair as Pair

_HOMES = {
    "Batch": "batch",
    "Card": "pair",
    "Config": "config",
    "Pair": "pair",
    "build": "catalogue",
    "data": "",
    "elements": "",
    "guides": "",
    "inference": "",
    "load": "inference.training.run",
    "modalities": "",
    "names": "catalogue",
    "register": "catalogue",
    "setting": "config",
}
# What the library tells is shown where the user asks for it: logging.basicConfig(level="INFO").
logging.getLogger(__name__).addHandler(logging.NullHandler())

__all__ = list(_HOMES)
__getattr__, __dir__ = lazy(__name__, _HOMES)
