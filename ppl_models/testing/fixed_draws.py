"""Programs whose draws are given, so that a loss is a function of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_models.batch import Batch


class FixedDraws:
    """A guide, or a model, whose sites take given values; everything else is its own."""

    def __init__(self, guide: Any, values: Mapping[str, Tensor]) -> None:
        self.guide, self.values = guide, values

    def __call__(self, batch: Batch) -> Any:
        """Run the guide at the given values."""
        with _Fix(self.values):
            return self.guide(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.guide, name)


class _Fix(Messenger):
    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True
