"""Rows of a stored table in random order, with a bounded part of them in memory.

Each epoch the blocks of the file are shuffled; as many as half of the memory holds make a
window, and the rows of a window are shuffled. While one window is used up, a thread reads the
next. Where all rows fit, they are one window: it is read once, and the order is that of rows in
memory.

Blocks are read to where they stay and rows are taken out of them batch by batch, as stored
bytes, so a row is copied once before it is decoded. The two windows take turns in two buffers:
the kernel's making of new pages costs as much as the copy.
"""

from __future__ import annotations

import bisect
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.data.store.stored_array import Array, Stored
from ppl_models.data.tables.lazy_column import Column, is_lazy
from ppl_models.data.tables.regimes import Regime
from ppl_models.data.tables.seeds import ORDER, generator
from ppl_models.data.tables.table import Table

Window = tuple[int, int]  # epoch and place in it
Rows = dict[str, tuple[Tensor, Tensor]]  # by site, as they are stored, and places among them
Buffers = dict[str, Array]  # by site
Loaded = tuple[Tensor, Rows, Buffers]  # with the places of the rows in the regime


def stored(table: Table, regime: Regime) -> dict[str, Column]:
    """Columns of a regime that are read from files."""
    sites = {s: table.sites[s] for s in regime.sites}
    return {s: v for s, v in sites.items() if is_lazy(v) and isinstance(v.source, Stored)}


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
        self.size = self.sources[widest].block
        block = self.columns[widest].index[self.index] // self.size
        order = block.argsort(stable=True)
        _, counts = block[order].unique_consecutive(return_counts=True)
        if len(order) * row_bytes <= memory:
            order, counts = torch.arange(len(order)), torch.tensor([len(order)])
        self.blocks = order.split(counts.tolist())  # places in the regime
        # Where most of their rows are wanted, whole blocks of all sites that share them stay.
        index, dense = self.columns[widest].index, len(counts) * self.size <= 2 * len(order)
        self.kept_whole = {
            s
            for s, column in self.columns.items()
            if dense and self.sources[s].block == self.size and torch.equal(column.index, index)
        }
        self.per_window = max(1, memory // (2 * self.size * row_bytes))
        self._reader: ThreadPoolExecutor | None = None
        self._read: dict[Window, Future[Loaded]] = {}
        self._whole: Rows = {}  # where all rows fit
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
            column, (rows, places) = self.columns[site], now.rows[site]
            values = source.decode(rows.index_select(0, places[part]).numpy())
            sites[site] = values.to(column.device, column.dtype)
        return sites

    def _enter(self, start: int) -> Current:
        """The window that a row of the endless sequence is in."""
        epoch, first = divmod(start, len(self.index))
        _, ends = self._order(epoch)
        window = epoch, bisect.bisect_right(ends, first)
        places, rows = self._loaded(window, len(ends))
        stop = epoch * len(self.index) + ends[window[1]]
        index = self.regime.index[places.to(self.regime.index.device)]
        others = {
            s: self.table.sites[s].index_select(0, index)
            for s in self.regime.sites
            if s not in self.sources
        }
        numbers = self.table.numbers.index_select(0, index)
        return Current(stop - len(places), stop, rows, others, numbers)

    def _order(self, epoch: int) -> tuple[Tensor, list[int]]:
        """Order of the blocks in an epoch, and where each window ends in its rows."""
        if epoch not in self._orders:
            order = torch.randperm(len(self.blocks), generator=generator(*self.key, epoch))
            ends = list(accumulate(len(self.blocks[b]) for b in order.tolist()))
            ends = [*ends[self.per_window - 1 : -1 : self.per_window], ends[-1]]
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = order, ends
        return self._orders[epoch]

    def _loaded(self, window: Window, windows: int) -> tuple[Tensor, Rows]:
        """A window's rows and their places in the regime; the next window is on its way."""
        following = (window[0], window[1] + 1)
        if following[1] == windows:
            following = (window[0] + 1, 0)
        # Let go before asking for more: two windows are all the memory there is.
        self._current = EMPTY
        if self.resident:
            if not self._whole:
                self._whole = {s: self._rows(s, self.index, None) for s in self.sources}
            places = self._shuffled(self.blocks[0], window[0])
            return places, {s: (rows, places) for s, (rows, _) in self._whole.items()}
        kept = {w: f for w, f in self._read.items() if w in (window, following)}
        unused = [f for w, f in self._read.items() if w not in kept and not f.cancel()]
        spare = [f.result()[2] for f in unused if not f.exception()]
        self._read = kept
        for wanted in (window, following):
            if wanted not in kept:
                if self._reader is None:
                    self._reader = ThreadPoolExecutor(1, "ppl-models-read")
                first = wanted[1] * self.per_window
                blocks = self._order(wanted[0])[0][first : first + self.per_window]
                buffers = spare.pop() if spare else {}
                kept[wanted] = self._reader.submit(self._load, wanted, blocks.tolist(), buffers)
        return kept[window].result()[:2]

    def _load(self, window: Window, blocks: list[int], buffers: Buffers) -> Loaded:
        places = torch.cat([self.blocks[b] for b in blocks])
        places = self._shuffled(places, window[0], 1 + window[1])
        rows = self.index[places]
        return places, {s: self._rows(s, rows, buffers) for s in self.sources}, buffers

    def _shuffled(self, places: Tensor, *key: int) -> Tensor:
        return places[torch.randperm(len(places), generator=generator(*self.key, *key))]

    def _rows(self, site: str, rows: Tensor, buffers: Buffers | None) -> tuple[Tensor, Tensor]:
        """Stored rows, others among them, and where those at some places of the table are."""
        source, wanted = self.sources[site], self.columns[site].index[rows].numpy()
        if buffers is None or site not in self.kept_whole:
            return torch.from_numpy(source.raw(wanted)), torch.arange(len(wanted))
        numbers, places = source.blocks_of(wanted)
        if site not in buffers:
            buffers[site] = source.buffer(self.per_window)
        for place, number in enumerate(numbers.tolist()):
            source.read_block(number, buffers[site][place])
        return torch.from_numpy(buffers[site]).flatten(0, 1), torch.from_numpy(places)


@dataclass(frozen=True)
class Current:
    """A window that rows are taken from.

    Attributes:
        start: Its first row in the endless sequence of epochs.
        stop: The row after its last.
        rows: Stored columns, and where the shuffled rows are in them.
        others: Other sites, shuffled.
        numbers: Row numbers, shuffled.
    """

    start: int
    stop: int
    rows: Rows
    others: dict[str, Tensor]
    numbers: Tensor


EMPTY = Current(0, 0, {}, {}, torch.empty(0))
