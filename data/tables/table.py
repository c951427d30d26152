"""Tables of rows with named sites, some of them hidden in some rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import unknown
from ppl_models.data.tables import notebook
from ppl_models.data.tables.lazy_column import Values, is_lazy
from ppl_models.data.tables.names import check_columns, twice_in
from ppl_models.data.tables.positions import positions
from ppl_models.data.tables.regimes import Regime, grouped

Names = np.ndarray[Any, Any]  # of text
BY_SITE = ("classes", "shapes", "columns", "units")  # what a table knows of a site besides values


class Table:
    """Rows of named sites.

    What is hidden is overwritten, on a copy, with -1 (labels) or NaN (vectors), so that
    nothing downstream can see it.

    Args:
        name: Name for messages, such as ``"digits/train"``.
        sites: Vectors ``(N, D)`` or numbers ``(N,)`` of floating type, or int64 labels
            ``(N, ...)``, by site name; columns for vectors that do not stand in memory.
        observed: Masks ``(N,)``, True where a site is observed, for the sites that are
            hidden in some rows.
        numbers: Row numbers ``(N,)`` in the source data set; ``arange(N)`` when left out.
        classes: Class names of each label site; ``0 .. max`` of the observed labels when
            left out.
        shapes: Image shape of vectors that are flattened images, by site name: ``(H, W)``, or
            ``(H, W, C)``, the channel of a pixel beside each other.
        columns: Names of the numbers of a vector, such as genes, by site name.
        units: Units, by site name.
        row_names: A name for each row ``(N,)``, such as those of cells.

    Attributes:
        observed: Masks of the sites that are hidden in at least one row.

    Raises:
        ValueError: If lengths or types disagree, a label is outside its classes, an observed
            number is not finite, or a column or class is named twice; naming site, row and
            column. A table may have no rows, but whoever looks at them is told.
    """

    def __init__(
        self,
        name: str,
        sites: Mapping[str, Values],
        observed: Mapping[str, Tensor] | None = None,
        numbers: Tensor | None = None,
        classes: Mapping[str, Sequence[str]] | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
        *,
        columns: Mapping[str, Sequence[str]] | None = None,
        units: Mapping[str, str] | None = None,
        row_names: Sequence[str] | Names | None = None,
    ) -> None:
        if not sites and numbers is None:
            raise ValueError(f"{name} has no sites, expected at least one")
        self.name = name
        self.sites: dict[str, Values] = dict(sites)
        if numbers is None:
            first = next(iter(self.sites.values()))
            numbers = torch.arange(len(first), device=first.device)
        self.numbers = numbers
        masks = dict(observed or {})
        self.classes = {s: tuple(c) for s, c in (classes or {}).items()}
        self.shapes = {s: tuple(c) for s, c in (shapes or {}).items()}
        self.columns = {s: tuple(c) for s, c in (columns or {}).items()}
        self.units = dict(units or {})
        self.row_names = None if row_names is None else np.asarray(row_names, dtype=object)
        for what, given in (("mask", masks), *((p, getattr(self, p)) for p in BY_SITE)):
            for site in given:
                if site not in self.sites:
                    raise ValueError(f"{name}, {what}: {unknown('site', site, self.sites)}")
        if self.row_names is not None and self.row_names.shape != numbers.shape:
            raise ValueError(
                f"{name} has {len(self.row_names)} names of rows, expected {len(self)}"
            )
        for site, value in self.sites.items():
            self._check_form(site, value)
            if (mask := masks.get(site)) is not None:
                if mask.dtype != torch.bool or mask.shape != numbers.shape:
                    raise ValueError(
                        f"the mask of site {site!r} of {name} has type {mask.dtype} and shape "
                        f"{tuple(mask.shape)}, expected torch.bool and ({len(self)},)"
                    )
                hidden = (~mask).reshape(-1, *[1] * (value.dim() - 1))
                fill = float("nan") if value.is_floating_point() else -1
                self.sites[site] = value.masked_fill(hidden, fill)
            if not is_lazy(value):  # whose source has been checked
                self._check_values(site, self.sites[site][:], mask)
        self.observed = _partial(masks)

    def _check_form(self, site: str, value: Values) -> None:
        where = f"site {site!r} of {self.name}"
        if value.shape[:1] != self.numbers.shape:
            raise ValueError(
                f"{where} has shape {tuple(value.shape)}, expected {len(self)} rows first"
            )
        if value.is_floating_point():
            shape = self.shapes.get(site)
            if shape is not None and value.shape[1:].numel() != torch.Size(shape).numel():
                raise ValueError(
                    f"{where} has rows of shape {tuple(value.shape[1:])}, which is no "
                    f"flattened image of shape {shape}"
                )
            if (names := self.columns.get(site)) is not None:
                check_columns(where, names, value.shape)
            return
        if value.dtype != torch.int64:
            raise ValueError(
                f"{where} has type {value.dtype}, expected floating vectors or torch.int64 labels"
            )
        if (twice := twice_in(self.classes.get(site, ()))) is not None:
            raise ValueError(f"{where} has the class {twice!r} twice, expected different names")

    def _check_values(self, site: str, value: Tensor, mask: Tensor | None) -> None:
        if value.is_floating_point():
            bad = ~value.isfinite()
            expected = "a finite number"
        else:
            most = max(0, int(value.max())) if value.numel() else -1
            self.classes.setdefault(site, tuple(map(str, range(most + 1))))
            bad = (value < 0) | (value >= len(self.classes[site]))
            expected = f"a label in 0..{len(self.classes[site]) - 1}"
        if mask is not None:
            bad = bad & mask.reshape(-1, *[1] * (value.dim() - 1))
        if not bool(bad.any()):
            return
        row, *column = bad.nonzero()[0].tolist()
        where = f"site {site!r}, row {int(self.numbers[row])} of {self.name}"
        if column:
            where += f", column {column[0] if len(column) == 1 else tuple(column)}"
            if site in self.columns:
                where += f" ({self.columns[site][column[0]]!r})"
        raise ValueError(f"{where}: got {value[(row, *column)].item()}, expected {expected}")

    def __len__(self) -> int:
        """Number of rows N."""
        return len(self.numbers)

    def check_rows(self) -> None:
        """Make sure that there are rows.

        Raises:
            ValueError: If there are none, as in a part that the splits left empty.
        """
        if not len(self):
            raise ValueError(f"{self.name} has no rows, expected at least one")

    def __repr__(self) -> str:
        parts = []
        for site, value in self.sites.items():
            size = self.sizes[site]
            kind = f"{size} numbers" if value.is_floating_point() else f"{size} classes"
            seen = f", in {self.counts[site]} rows" if site in self.observed else ""
            parts.append(f"{site} ({kind}{seen})")
        return f"Table({self.name}: {len(self)} rows of {', '.join(parts) or 'nothing'})"

    def _repr_html_(self) -> str:
        return notebook.of_table(self)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of classes of each label site, last dimension of each vector."""
        return {
            site: (value.shape[-1] if value.dim() > 1 else 1)
            if value.is_floating_point()
            else len(self.classes[site])
            for site, value in self.sites.items()
        }

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of rows in which each site is observed."""
        return {
            site: int(self.observed[site].sum()) if site in self.observed else len(self)
            for site in self.sites
        }

    def regimes(self) -> list[Regime]:
        """The rows, grouped by what is observed in them; most observed sites first.

        Raises:
            ValueError: If there are no rows.
        """
        self.check_rows()
        return self._grouped[0]

    @cached_property
    def _grouped(self) -> tuple[list[Regime], Tensor]:
        return grouped(self.name, tuple(self.sites), self.observed, self.numbers)

    def batches(self, index: Tensor | None = None, limit: int | None = None) -> Iterator[Batch]:
        """Rows as batches, one regime after another.

        Args:
            index: Positions of the rows; all when left out.
            limit: Most rows of a batch.
        """
        for place, regime in enumerate(self.regimes()):
            part = regime.index
            if index is not None:
                index = index.to(self.numbers.device)
                part = index[self._grouped[1][index] == place]
            step = limit or max(1, len(part))
            for start in range(0, len(part), step):
                yield self.gather(regime, part[start : start + step])

    def gather(self, regime: Regime, index: Tensor) -> Batch:
        """One batch of rows of a regime, at these positions; nothing is read on the host."""
        return Batch(
            {site: self.sites[site].index_select(0, index) for site in regime.sites},
            self.numbers.index_select(0, index),
            size=len(regime.index),
            total=len(self),
            observed=self.counts,
        )

    def rows(self, index: Any) -> Table:
        """The rows at these positions, in their order.

        Args:
            index: Positions, a slice, or a mask; see
                :func:`ppl_models.data.tables.positions.positions`.

        Raises:
            ValueError: If there are none, one is outside the table, or a mask of another length.
        """
        index = positions(index, len(self), self.name)
        if not len(index):
            raise ValueError(f"no rows chosen of {self.name}, expected at least one")
        return self.part(self.name, index)

    def part(self, name: str, index: Tensor) -> Table:
        """The rows at these positions, which may be none, as a table of its own name."""
        index = index.to(self.numbers.device)
        return self._like(
            name=name,
            sites={s: v.rows(index) if is_lazy(v) else v[index] for s, v in self.sites.items()},
            observed=_partial({s: m[index] for s, m in self.observed.items()}),
            numbers=self.numbers[index],
            row_names=None if self.row_names is None else self.row_names[index.cpu().numpy()],
        )

    def only(self, *names: str) -> Table:
        """The same rows with just these sites.

        Raises:
            ValueError: If there is no such site, naming the nearest.
        """
        for name in names:
            if name not in self.sites:
                raise ValueError(f"{self.name}: {unknown('site', name, self.sites)}")
        return self._like(
            **{
                part: {s: v for s, v in getattr(self, part).items() if s in names}
                for part in ("sites", "observed", *BY_SITE)
            }
        )

    def without(self, *names: str) -> Table:
        """The same rows, these sites dropped."""
        return self.only(*(s for s in self.sites if s not in names))

    def where_observed(self, site: str) -> Table:
        """The rows in which a site is observed.

        Raises:
            ValueError: If there is no such site or no such row.
        """
        if site not in self.sites:
            raise ValueError(f"{self.name}: {unknown('site', site, self.sites)}")
        if site not in self.observed:
            return self
        if not self.counts[site]:
            raise ValueError(f"site {site!r} is observed in no row of {self.name}")
        return self.rows(self.observed[site].nonzero().flatten())

    def hide(self, masks: Mapping[str, Tensor]) -> Table:
        """The same rows with more hidden.

        Args:
            masks: Masks ``(N,)`` by site, True where what is observed stays so.
        """
        kept = {s: self.observed[s] & m if s in self.observed else m for s, m in masks.items()}
        observed = {**self.observed, **kept}
        return self.replace(observed=observed)

    def replace(self, **changes: Any) -> Table:
        """A table with some of the constructor's arguments changed, and all else as it is."""
        parts = ("name", "sites", "observed", "numbers", "row_names", *BY_SITE)
        return Table(**{**{part: getattr(self, part) for part in parts}, **changes})

    def known_by(self, **known: Mapping[str, Any]) -> Table:
        """The same values under other ``classes``, ``shapes``, ``columns`` or ``units``."""
        return self._like(**known)

    def to(self, *args: torch.device | torch.dtype | str) -> Table:
        """Move to a device, or cast floating sites to a dtype (labels stay)."""
        dtype = next((a for a in args if isinstance(a, torch.dtype)), None)
        device = next((a for a in args if not isinstance(a, torch.dtype)), None)
        return self._like(
            sites={
                s: v.to(device=device, dtype=dtype if v.is_floating_point() else None)
                for s, v in self.sites.items()
            },
            observed={s: m.to(device=device) for s, m in self.observed.items()},
            numbers=self.numbers.to(device=device),
        )

    def _like(self, **changes: Any) -> Table:
        # What comes out of a checked table needs no second check of all its values.
        new = object.__new__(Table)
        for part in ("name", "sites", "observed", "numbers", "row_names", *BY_SITE):
            setattr(new, part, changes.get(part, getattr(self, part)))
        return new


def _partial(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {site: mask for site, mask in masks.items() if not bool(mask.all())}


@dataclass(frozen=True)
class Dataset:
    """Three tables of the same sites.

    Attributes:
        name: Name of the data set.
        train: Rows to learn from.
        validation: Rows to choose settings by, with all labels unless the splits were given by
            row; may be empty, and so may the others.
        test: Rows to report on, likewise.
        recipe: What made it, as plain values: ``load(recipe["name"], **recipe["options"])``
            makes it again where the data came from a loader; ``digest`` tells whether it did.
        roles: What a site is where it is no plain observation or label: ``factor``,
            ``intervention``, ``group`` or ``covariate``.
    """

    name: str
    train: Table
    validation: Table
    test: Table
    recipe: dict[str, Any]
    roles: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        parts = (self.train, self.validation, self.test)
        lines = [f"Dataset({self.name}", *(f"  {part}" for part in parts)]
        for site, value in self.train.sites.items():
            counts = [part.counts[site] for part in parts]
            if not value.is_floating_point() and sum(counts) < sum(map(len, parts)):
                rows = ", ".join(f"{n} of {len(p)}" for n, p in zip(counts, parts, strict=True))
                lines.append(f"  rows with a label {site}: {rows}")
        return "\n".join(lines) + ")"

    def _repr_html_(self) -> str:
        return notebook.of_dataset(self)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of classes of each label site, last dimension of each vector."""
        return self.train.sizes

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of the image that a vector is, of each site that holds images."""
        return self.train.shapes
