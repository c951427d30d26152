"""A pair built from what a folder says, and never larger than the folder's own files."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook as on_parameter

from ppl_models import catalogue
from ppl_models.config import unknown
from ppl_models.pair import Pair


def build_saved(name: str, config: Mapping[str, Any], room: int) -> Pair:
    """A pair of the saved settings, whose weights fit into so many bytes.

    It is tried without memory for its weights first: settings may claim sizes that no machine
    has, and a state that holds them would be as large.

    Args:
        name: As :func:`ppl_models.catalogue.build` takes it.
        config: The settings.
        room: Size of the file that its weights are in.

    Raises:
        ValueError: If a setting does not exist or fit, or the weights would take more.
    """
    cls = catalogue.get(name)
    known = [field.name for field in dataclasses.fields(cls.Config)]
    for key in config:
        if key not in known:
            raise ValueError(unknown(f"setting of {name}", key, known))
    made = cls.Config(**config)
    with _bounded(room), torch.random.fork_rng(devices=[]):
        # Some pairs compute with their own numbers, which have no values without memory; what
        # they reserve then is not touched before it is counted.
        with contextlib.suppress(NotImplementedError, RuntimeError), torch.device("meta"):
            cls(made)
        torch.manual_seed(0)
        pair = cls(made)
    pair.source = name
    return pair


@contextlib.contextmanager
def _bounded(room: int) -> Iterator[None]:
    seen: set[nn.Parameter] = set()
    size = {"meta": 0}  # by device: each build counts for itself

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is None or parameter in seen:
            return
        seen.add(parameter)
        where = parameter.device.type
        size[where] = size.get(where, 0) + parameter.nbytes
        if size[where] > room:
            raise ValueError(
                f"its settings need {size[where]} bytes of weights or more, but its state has "
                f"{room}"
            )

    handle = on_parameter(count)
    try:
        yield
    finally:
        handle.remove()
