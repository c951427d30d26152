"""The order in which training sees the rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.data.streams.windows import Windows, stored
from ppl_models.data.tables.regimes import Regime
from ppl_models.data.tables.seeds import ORDER, generator
from ppl_models.data.tables.table import Table


@dataclass(frozen=True)
class Share:
    """The rows of a step's batch that one of several processes takes.

    Attributes:
        start: Position of its first row in the batch.
        count: Number of its rows, at least 1.
        of: Number of rows B of the whole batch.
        weight: Its share of the batch, ``count / of``; the shares of all processes add up to
            1. It is 0 where there are fewer rows than processes and none is left for this
            one: it looks at a row that counts for nothing, so as to take the same steps.
    """

    start: int
    count: int
    of: int
    weight: float


def share_of(rows: int, process: int = 0, processes: int = 1) -> Share:
    """The share of one process; shares differ by at most one row.

    Args:
        rows: Rows B of the whole batch.
        process: Number of the process.
        processes: Number of processes.
    """
    start, stop = rows * process // processes, rows * (process + 1) // processes
    if start == stop:
        return Share(min(start, rows - 1), 1, rows, 0.0)
    return Share(start, stop - start, rows, (stop - start) / rows)


class Stream:
    """Batches of a table, one per regime and step, in an order that only the seed decides.

    Each regime runs through its rows in a new order each epoch; the epochs follow one another
    without a gap, so every batch has the same number of rows and may straddle two epochs. A
    regime with no more rows than its batch gives all of them at each step.

    Vectors of a file of :func:`ppl_models.data.write` are read ahead in windows of shuffled
    blocks, and shuffled there; the memory they take is that of :func:`ppl_models.data.open`,
    shared by the regimes. Where a regime fits into its share it is read once, and its order is
    the one it has in memory.

    Args:
        table: The rows, on any device.
        batch_size: Rows per step, split over the regimes in proportion to their rows, at
            least 1 each.
        labelled_batch_size: Rows per step of each regime in which a partially observed site
            is observed; ``batch_size`` is then for the other regimes.
        seed: Seed of the order.
        process: Number of this process, of several that share each batch.
        processes: Number of processes.

    Attributes:
        sizes: Rows per step of each regime, in the order of ``table.regimes()``.
        shares: This process's share of them.

    Raises:
        ValueError: If there are fewer rows per step than regimes.
    """

    def __init__(
        self,
        table: Table,
        batch_size: int,
        labelled_batch_size: int | None = None,
        seed: int = 0,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        if labelled_batch_size is not None and labelled_batch_size < 1:
            raise ValueError(f"labelled_batch_size is {labelled_batch_size}, expected at least 1")
        self.table, self.seed = table, seed
        regimes = table.regimes()
        apart = [
            labelled_batch_size is not None and any(s in table.observed for s in r.sites)
            for r in regimes
        ]
        shared = iter(
            _shares(
                batch_size, [len(r.index) for r, a in zip(regimes, apart, strict=True) if not a]
            )
        )
        wanted = [labelled_batch_size if a else next(shared) for a in apart]
        self.sizes = [
            min(size or 0, len(r.index)) for size, r in zip(wanted, regimes, strict=True)
        ]
        self.shares = [share_of(size, process, processes) for size in self.sizes]
        self._lanes = [
            _Lane(table, regime, share, seed, place, len(regimes))
            for place, (regime, share) in enumerate(zip(regimes, self.shares, strict=True))
        ]

    @property
    def steps_per_epoch(self) -> int:
        """Steps that one pass over the largest regime takes."""
        return max(
            (len(lane.regime.index), math.ceil(len(lane.regime.index) / lane.size))
            for lane in self._lanes
        )[1]

    def step(self, i: int) -> tuple[Batch, ...]:
        """This process's rows of step ``i``, one batch per regime.

        A function of the seed, ``i`` and the number of processes alone.
        """
        return tuple(lane.step(i) for lane in self._lanes)


class _Lane:
    """The rows of one regime in order."""

    def __init__(
        self, table: Table, regime: Regime, share: Share, seed: int, place: int, places: int
    ) -> None:
        self.table, self.regime, self.size = table, regime, share.of
        self.seed, self.place = seed, place
        self.own = slice(share.start, share.start + share.count)
        whole = share.of == len(regime.index)
        self._all = table.gather(regime, regime.index[self.own]) if whole else None
        self._orders: dict[int, Tensor] = {}  # of the epoch at hand and the next
        from_file = not whole and stored(table, regime)
        self._windows = Windows(table, regime, seed, place, places) if from_file else None

    def step(self, i: int) -> Batch:
        if self._all is not None:
            return self._all
        if self._windows is not None:
            own = self.own
            return self._windows.take(i * self.size + own.start, own.stop - own.start)
        rows = len(self.regime.index)
        epoch, start = divmod(i * self.size, rows)
        index = self._order(epoch)[start : start + self.size]
        if missing := self.size - len(index):
            index = torch.cat((index, self._order(epoch + 1)[:missing]))
        return self.table.gather(self.regime, index[self.own])

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            draw = generator(self.seed, ORDER, self.place, epoch)
            order = torch.randperm(len(self.regime.index), generator=draw)
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = self.regime.index[order.to(self.regime.index.device)]
        return self._orders[epoch]


def _shares(total: int, rows: list[int]) -> list[int]:
    # Largest remainders, but nobody goes empty; exact integers, so it never drifts.
    if not rows:
        return []
    if total < len(rows):
        raise ValueError(
            f"batch_size is {total}, expected at least {len(rows)}, one row for each kind of "
            "rows (by what is observed in them)"
        )
    everyone = sum(rows)
    shares = [max(1, total * n // everyone) for n in rows]
    lack = [total * n - share * everyone for n, share in zip(rows, shares, strict=True)]
    spare = total - sum(shares)
    for place in sorted(range(len(rows)), key=lambda r: -lack[r])[: max(0, spare)]:
        shares[place] += 1
    while sum(shares) > total:
        shares[shares.index(max(shares))] -= 1
    return shares
