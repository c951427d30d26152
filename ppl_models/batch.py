"""A batch: the observed sites of some rows of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyro
import torch
from torch import Tensor

from ppl_models import html_tables
from ppl_models.sample_sites import DATA


class MissingSite(KeyError):
    """A site that is asked of a batch which does not have it."""

    def __str__(self) -> str:
        """What was asked for, and what there is: made only when somebody reads it."""
        name, there = self.args
        return f"the batch has no site {name!r}, it has {list(there)}"


class Batch(Mapping[str, Tensor]):
    """Observed values by site name, for rows that share what is observed.

    What is in the batch is observed, what is absent is latent: a model writes
    ``pyro.sample("y", d, obs=batch.get("y"))`` and serves labelled, unlabelled and
    prior draws (an empty batch) with the same line.

    Args:
        sites: Tensors of shape ``(B, ...)`` by site name.
        rows: Row numbers ``(B,)`` in the data set; ``arange(B)`` when left out.
        size: Number of rows N that the batch stands for, which is the size of the data
            plate: its log-densities count N / B times. ``B`` when left out.
        total: Number of rows of the whole data set. It exceeds ``size`` where labelled
            and unlabelled rows come as two batches.
        observed: For each site the number of rows in the data set in which it is
            observed; ``size`` when left out.

    Raises:
        ValueError: If a site and the row numbers disagree in length.
    """

    __slots__ = ("_sites", "observed", "rows", "size", "total")

    def __init__(
        self,
        sites: Mapping[str, Tensor],
        rows: Tensor | None = None,
        *,
        size: int | None = None,
        total: int | None = None,
        observed: Mapping[str, int] | None = None,
    ) -> None:
        self._sites = dict(sites)
        if rows is None:
            if not self._sites:
                raise ValueError("an empty batch needs rows=, the row numbers to draw for")
            first = next(iter(self._sites.values()))
            rows = torch.arange(first.shape[0], device=first.device)
        for name, value in self._sites.items():
            if value.shape[:1] != rows.shape:
                raise ValueError(
                    f"site {name!r} has shape {tuple(value.shape)}, expected {len(rows)} rows"
                )
        self.rows = rows
        self.size = len(rows) if size is None else size
        self.total = self.size if total is None else total
        self.observed = dict.fromkeys(self._sites, self.size) if observed is None else observed

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._sites[name]
        except KeyError:
            raise MissingSite(name, self._sites) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        """Number of observed sites (a batch is a mapping); rows are ``batch.count``."""
        return len(self._sites)

    def __repr__(self) -> str:
        sites = ", ".join(f"{name} {tuple(v.shape)}" for name, v in self.items())
        return f"Batch({sites or 'nothing observed'}; {self.count} of {self.size} rows)"

    def _repr_html_(self) -> str:
        kinds = ((v, str(v.dtype).removeprefix("torch."), str(v.device)) for v in self.values())
        shapes = ((" x ".join(map(str, v.shape)), *kind) for v, *kind in kinds)
        rows = [(name, *shape) for name, shape in zip(self, shapes, strict=True)]
        return html_tables.notebook(
            f"Batch: {self.count:,} of {self.size:,} rows",
            html_tables.table(("observed", "shape", "type", "device"), rows),
        )

    @property
    def count(self) -> int:
        """Number of rows B."""
        return len(self.rows)

    @property
    def scale(self) -> float:
        """How many rows of the data set one row stands for, N / B."""
        return self.size / len(self.rows)

    def plate(self) -> pyro.plate:
        """The data plate over these rows: dimension -1, scale N / B, real row numbers."""
        return pyro.plate(DATA, self.size, subsample=self.rows, dim=-1)

    def replace(self, sites: Mapping[str, Tensor]) -> Batch:
        """The same rows with other observed sites."""
        return Batch(sites, self.rows, size=self.size, total=self.total, observed=self.observed)

    def unscaled(self) -> Batch:
        """The same rows and sites, standing for themselves alone: each counts once."""
        return Batch(self._sites, self.rows)

    def only(self, *names: str) -> Batch:
        """The same rows with just these sites observed (those that are there)."""
        return self.replace({n: v for n, v in self._sites.items() if n in names})

    def without(self, *names: str) -> Batch:
        """The same rows with these sites latent."""
        return self.replace({n: v for n, v in self._sites.items() if n not in names})

    def to(self, *args: torch.device | torch.dtype | str) -> Batch:
        """Move to a device, or cast floating sites to a dtype (integer labels stay)."""
        dtype = next((a for a in args if isinstance(a, torch.dtype)), None)
        device = next((a for a in args if not isinstance(a, torch.dtype)), None)
        moved = {
            n: v.to(device=device, dtype=dtype if v.is_floating_point() else None)
            for n, v in self._sites.items()
        }
        return Batch(
            moved,
            self.rows.to(device=device),
            size=self.size,
            total=self.total,
            observed=self.observed,
        )
