"""Codes of any combination of factors: what metrics ask that choose their rows themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from ppl_models.config import at_least

Array = np.ndarray[Any, Any]
Codes = Callable[[Array, np.random.Generator], Array]


@dataclass(frozen=True)
class Sampler:
    """An encoder of fresh rows, whose factors are independent and uniform.

    For sets whose nuisance, such as noise or a colour, is drawn anew at each look; where every
    cell of a grid looks the same each time, a table of all cells says as much and is faster.

    Attributes:
        factor_sizes: Number of values of each of the K factors.
        factor_names: Names of the factors.
        code_names: Names of the D codes.
        codes: From classes ``(n, K)`` and a generator to codes ``(n, D)``, with new nuisance and
            all combinations of classes allowed; asked of a few thousand rows at once.
        source: What a result records of them.

    Raises:
        ValueError: If there are not as many names as factors, or a factor has no value.
    """

    factor_sizes: tuple[int, ...]
    factor_names: tuple[str, ...]
    code_names: tuple[str, ...]
    codes: Codes = field(repr=False)
    source: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if len(self.factor_sizes) != len(self.factor_names):
            raise ValueError(
                f"factor_names are {len(self.factor_names)}, expected one for each of "
                f"{len(self.factor_sizes)} factors"
            )
        at_least(factors=(len(self.factor_sizes), 1), codes=(len(self.code_names), 1))
        at_least(**{f"the size of {n}": (s, 1) for n, s in self._sizes})

    @property
    def _sizes(self) -> tuple[tuple[str, int], ...]:
        return tuple(zip(self.factor_names, self.factor_sizes, strict=True))

    @property
    def told(self) -> Array:
        """Which factors ``(K,)`` have more than one value."""
        return np.array(self.factor_sizes) > 1

    @property
    def excluded(self) -> tuple[str, ...]:
        """Names of the factors of one value, which metrics leave out."""
        return tuple(name for name, size in self._sizes if size == 1)

    def classes(self, rows: int, draw: np.random.Generator) -> Array:
        """Classes ``(rows, K)`` of independent, uniform factors."""
        unit = draw.random((rows, len(self.factor_sizes)))
        return (unit * self.factor_sizes).astype(np.int64)

    def encoded(self, classes: Array, draw: np.random.Generator) -> Array:
        """Codes ``(n, D)`` of classes ``(n, K)``, in double precision.

        Raises:
            ValueError: If codes have another shape, or one is not finite.
        """
        codes = np.asarray(self.codes(classes, draw), dtype=np.float64)
        if codes.shape != (len(classes), len(self.code_names)):
            raise ValueError(
                f"codes of {len(classes)} rows have shape {codes.shape}, expected "
                f"({len(classes)}, {len(self.code_names)})"
            )
        if not (finite := np.isfinite(codes)).all():
            row, place = np.argwhere(~finite)[0]
            raise ValueError(
                f"code {self.code_names[place]!r} is {codes[row, place]} of classes "
                f"{classes[row].tolist()}, expected a finite one"
            )
        return codes
