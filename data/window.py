"""Rows of a stored table in random order, with a bounded part of them in memory.

Each epoch the blocks of the file are shuffled; as many as half of the memory holds make a
window, and the rows of a window are shuffled. While one window is used up, a thread reads the
next. Where all rows fit, they are one window: it is read once, and the order is that of rows in
memory.
"""

from __future__ import annotations

import bisect
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.data.chunks import Array, Stored
from ppl_models.data.column import Column
from ppl_models.data.seeds import ORDER, generator
from ppl_models.data.table import Regime, Table

Window = tuple[int, int]  # epoch and place in it
Rows = dict[str, Array]  # as they are stored, by site


def stored(table: Table, regime: Regime) -> dict[str, Column]:
    """Columns of a regime that are read from files."""
    sites: dict[str, Any] = {s: table.sites[s] for s in regime.sites}
    return {
        s: v for s, v in sites.items() if isinstance(v, Column) and isinstance(v.source, Stored)
    }


class Windows:
    """The rows of one regime in an order that only the seed decides.

    Args:
        table: A table with stored columns.
        regime: The rows.
        seed: Seed of the order.
        place: Number of the regime, of ``places`` that share the memory.
        places: Number of regimes.
    """

    def __init__(self, table: Table, regime: Regime, seed: int, place: int, places: int) -> None:
        self.table, self.regime, self.key = table, regime, (seed, ORDER, place)
        self.columns = stored(table, regime)
        self.sources: dict[str, Stored] = {s: c.source for s, c in self.columns.items()}  # type: ignore[misc]
        self.index = regime.index.cpu()
        row_bytes = sum(s.row_bytes for s in self.sources.values())
        memory = min(s.memory for s in self.sources.values()) // places
        # Blocks of the widest site: rows side by side there are read together.
        widest = max(self.sources, key=lambda s: self.sources[s].row_bytes)
        size = self.sources[widest].block
        block = self.columns[widest].index[self.index] // size
        order = block.argsort(stable=True)
        _, counts = block[order].unique_consecutive(return_counts=True)
        if len(order) * row_bytes <= memory:
            order, counts = torch.arange(len(order)), torch.tensor([len(order)])
        self.blocks = order.split(counts.tolist())  # places in the regime
        self.per_window = max(1, memory // (2 * size * row_bytes))
        self._reader: ThreadPoolExecutor | None = None
        self._read: dict[Window, Future[Rows]] = {}
        self._orders: dict[int, tuple[Tensor, list[int]]] = {}
        self._current = EMPTY

    @property
    def resident(self) -> bool:
        """Whether all rows are in memory at once."""
        return len(self.blocks) == 1

    def take(self, start: int, count: int) -> Batch:
        """Rows ``start .. start + count - 1`` of the endless sequence of epochs, as a batch."""
        parts = []
        while count:
            now = self._current
            if not now.start <= start < now.stop:
                now = self._current = self._enter(start)
            stop = min(start + count, now.stop)
            parts.append(self._part(now, slice(start - now.start, stop - now.start)))
            start, count = stop, count - (stop - start)
        whole = parts[0]
        if len(parts) > 1:
            whole = {s: torch.cat([part[s] for part in parts]) for s in whole}
        numbers = whole.pop("")
        return Batch(
            whole,
            numbers,
            size=len(self.index),
            total=len(self.table),
            observed=self.table.counts,
        )

    def _part(self, now: Current, part: slice) -> dict[str, Tensor]:
        sites = {"": now.numbers[part]}
        for site in self.regime.sites:
            if (source := self.sources.get(site)) is None:
                sites[site] = now.others[site][part]
                continue
            raw = now.rows[site]
            raw = raw[now.order[part]] if self.resident else raw[part]
            sites[site] = source.decode(raw).to(self.columns[site].dtype)
            sites[site] = sites[site].to(self.columns[site].device)
        return sites

    def _enter(self, start: int) -> Current:
        """The window that a row of the endless sequence is in."""
        epoch, first = divmod(start, len(self.index))
        _, ends = self._order(epoch)
        window = epoch, bisect.bisect_right(ends, first)
        rows = self._rows(window, len(ends))
        stop = epoch * len(self.index) + ends[window[1]]
        places = self._places(window)
        index = self.regime.index[places.to(self.regime.index.device)]
        others = {
            s: self.table.sites[s].index_select(0, index)
            for s in self.regime.sites
            if s not in self.sources
        }
        numbers = self.table.numbers.index_select(0, index)
        return Current(stop - len(places), stop, rows, others, numbers, places.numpy())

    def _order(self, epoch: int) -> tuple[Tensor, list[int]]:
        """Order of the blocks in an epoch, and where each window ends in its rows."""
        if epoch not in self._orders:
            order = torch.randperm(len(self.blocks), generator=generator(*self.key, epoch))
            ends = list(accumulate(len(self.blocks[b]) for b in order.tolist()))
            ends = [*ends[self.per_window - 1 : -1 : self.per_window], ends[-1]]
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = order, ends
        return self._orders[epoch]

    def _places(self, window: Window) -> Tensor:
        """Places in the regime of a window's rows, shuffled."""
        epoch, number = window
        first = number * self.per_window
        blocks = self._order(epoch)[0][first : first + self.per_window]
        places = torch.cat([self.blocks[b] for b in blocks.tolist()])
        key = (epoch,) if self.resident else (epoch, 1 + number)
        return places[torch.randperm(len(places), generator=generator(*self.key, *key))]

    def _rows(self, window: Window, windows: int) -> Rows:
        """A window's rows as they are stored; the next window is on its way."""
        following = (window[0], window[1] + 1)
        if following[1] == windows:
            following = (window[0] + 1, 0)
        if self.resident:
            window = following = (0, 0)
        # Let go before asking for more: two windows are all the memory there is.
        self._current = EMPTY
        self._read = {w: f for w, f in self._read.items() if w in (window, following)}
        for wanted in (window, following):
            if wanted not in self._read:
                if self._reader is None:
                    self._reader = ThreadPoolExecutor(1, "ppl-models-read")
                places = self.blocks[0] if self.resident else self._places(wanted)
                self._read[wanted] = self._reader.submit(self._load, places)
        return self._read[window].result()

    def _load(self, places: Tensor) -> Rows:
        rows = self.index[places]
        return {
            site: self.sources[site].raw(column.index[rows].numpy())
            for site, column in self.columns.items()
        }


@dataclass(frozen=True)
class Current:
    """A window that rows are taken from.

    Attributes:
        start: Its first row in the endless sequence of epochs.
        stop: The row after its last.
        rows: Stored columns; shuffled, but for a window that is all there is.
        others: Other sites, shuffled.
        numbers: Row numbers, shuffled.
        order: Places in the regime.
    """

    start: int
    stop: int
    rows: Rows
    others: dict[str, Tensor]
    numbers: Tensor
    order: Array


EMPTY = Current(0, 0, {}, {}, torch.empty(0), np.empty(0))
