"""Rows whose label is known, counted by that label and by the one the fit gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.groups import Array, Variables
from ppl_models.inference.posterior.prediction import label_probabilities
from ppl_models.pair import Pair

ROWS = 1000  # most labelled rows that are looked at
CLASSES = 2000  # of a label with more there is no table of C x C


@dataclass(frozen=True)
class Confusion:
    """How rows of known label were told.

    Attributes:
        counts: Rows by their own class and by their most probable one ``(C, C)``.
        sure: Mean over the rows of their largest class probability.
    """

    counts: Array
    sure: float

    @classmethod
    def of(cls, truth: Array, probs: Array) -> Confusion:
        """From known classes ``(N,)`` and probabilities ``(N, C)``, at least one row."""
        classes = probs.shape[-1]
        cells = truth.astype(np.int64) * classes + probs.argmax(-1)
        counts = np.bincount(cells, minlength=classes**2).reshape(classes, classes)
        return cls(counts, float(probs.max(-1).mean(dtype=np.float64)))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.counts.sum())

    @property
    def error(self) -> float:
        """Share of rows whose most probable class is not their own."""
        return 1 - float(np.trace(self.counts)) / self.rows

    def plain(self) -> dict[str, Any]:
        """As plain values; what is zero is left out."""
        cells = [[int(t), int(g), int(self.counts[t, g])] for t, g in np.argwhere(self.counts)]
        return {"classes": len(self.counts), "cells": cells, "sure": self.sure}

    @classmethod
    def read(cls, told: Any) -> Confusion:
        """From :meth:`plain`.

        Raises:
            ValueError: If the values are none of its kind.
        """
        fits = isinstance(told, Mapping) and {"classes", "cells", "sure"} == set(told)
        count = told["classes"] if fits else None
        if type(count) is not int or not 0 < count <= CLASSES:
            raise ValueError(f"labelled rows have {count!r} classes, expected 1 to {CLASSES}")
        sure, cells = told["sure"], told["cells"]
        counts = np.zeros((count, count), np.int64)
        good = type(sure) is float and 0 <= sure <= 1.001 and isinstance(cells, list)
        for cell in cells if good else ():
            good = good and isinstance(cell, list) and len(cell) == 3
            good = good and all(type(n) is int and n >= 0 for n in cell)
            if not good or max(cell[:2]) >= count or not 0 < cell[2] <= ROWS:
                good = False
                break
            counts[cell[0], cell[1]] += cell[2]
        if not good or not 0 < counts.sum() <= ROWS:
            raise ValueError("labelled rows are no table of counts by class")
        return cls(counts, sure)


def labelled_rows(pair: Pair, table: Table) -> dict[str, Confusion]:
    """How a fitted pair tells the rows that it was taught with.

    Args:
        pair: The pair.
        table: Rows it was trained on; of each label at most 1,000 are looked at, evenly spaced.

    Returns:
        By label of the card; without those that no row has, that have too many classes, or whose
        probabilities the guide cannot say.
    """
    found = {}
    for site in pair.card.labels:
        if not table.counts.get(site) or table.sizes[site] > CLASSES:
            continue
        if table.sites[site].is_floating_point() or table.sites[site].dim() > 1:
            continue
        there = np.ones(len(table), bool)
        for name in (site, *pair.card.given):
            if name in table.observed:
                there &= table.observed[name].cpu().numpy()
        (known,) = there.nonzero()
        if not len(known):
            continue
        chosen = known[
            np.unique(np.linspace(0, len(known) - 1, min(len(known), ROWS)).astype(int))
        ]
        rows = table.only(site, *(n for n in pair.card.given if n in table.sites)).rows(chosen)
        try:
            probs = label_probabilities(pair, rows, site)
        except (TypeError, ValueError, NotImplementedError):
            continue  # a guide that cannot say them is no fault of the fit
        found[site] = Confusion.of(rows.sites[site][:].cpu().numpy(), probs.cpu().numpy())
    return found


def confusions(chains: list[dict[str, Confusion]]) -> Variables:
    """Counts ``y_confusion`` over ``(chain, y_true_class, y_class)``, and ``y_sure``."""
    found: Variables = {}
    for site in chains[0] if chains else ():
        told = [chain[site] for chain in chains if site in chain]
        if len(told) == len(chains):
            dims = ("chain", f"{site}_true_class", f"{site}_class")
            found[f"{site}_confusion"] = (dims, np.stack([c.counts for c in told]))
            found[f"{site}_sure"] = (("chain",), np.array([c.sure for c in told]))
    return found
