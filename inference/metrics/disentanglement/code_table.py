"""Codes of rows beside the factors that the rows were made from: what metrics of codes read."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from ppl_models.config import at_least, check_seed, names, unknown
from ppl_models.data.tables.seeds import numpy_generator

Array = np.ndarray[Any, Any]
Made = TypeVar("Made")
CONSTANT = 1e-9  # a code whose deviation is less than this, relative to its size, is constant


@dataclass(frozen=True, eq=False)
class CodeTable:
    """A table of codes that all metrics of codes share.

    What several metrics need, such as the binned codes, is made once and kept with the table.
    Make one with :func:`from_arrays`, :func:`from_anndata` or :func:`encode`, which check what
    they are given.

    Attributes:
        codes: ``(N, D)`` in double precision.
        factors: ``(N, K)``, whole numbers.
        code_names: Names of the D codes.
        factor_names: Names of the K factors.
        scale: Standard deviations of the guide ``(N, D)``, where there are any.
        cells: Which cell of the grid of factors each row shows ``(N,)``, where there is a grid.
        source: What a result records of them: the pair, the data, whether codes are means or
            draws, seeds.
    """

    codes: Array
    factors: Array
    code_names: tuple[str, ...]
    factor_names: tuple[str, ...]
    scale: Array | None = None
    cells: Array | None = None
    source: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    _kept: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.codes)

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What is made of this table when it is first asked for, and kept.

        Args:
            key: What tells it from all else, with every option that changes it.
            make: Makes it.
        """
        if key not in self._kept:
            self._kept[key] = make()
        made: Made = self._kept[key]
        return made

    @property
    def varying(self) -> Array:
        """Which codes ``(D,)`` are not constant: their deviation is above 1e-9 of their size."""

        def found() -> Array:
            size = np.maximum(np.abs(self.codes).max(0), 1e-300)
            spread: Array = self.codes.std(0) > CONSTANT * size
            return spread

        return self.once("varying", found)

    @property
    def told(self) -> Array:
        """Which factors ``(K,)`` have more than one value in these rows, as metrics need."""
        return self.once("told", lambda: (self.factors != self.factors[:1]).any(0))

    @property
    def excluded(self) -> tuple[str, ...]:
        """Names of the factors of one value, which metrics leave out."""
        return tuple(
            name for name, told in zip(self.factor_names, self.told, strict=True) if not told
        )

    def rows(self, index: Any) -> CodeTable:
        """These rows, in their order.

        Args:
            index: Positions, a slice or a mask.
        """

        def of(values: Array | None) -> Array | None:
            return None if values is None else values[index]

        return replace(
            self,
            codes=self.codes[index],
            factors=self.factors[index],
            scale=of(self.scale),
            cells=of(self.cells),
        )

    def split(
        self, train: int = 10_000, test: int = 5_000, seed: int = 0
    ) -> tuple[CodeTable, CodeTable]:
        """Rows to fit on and rows to ask, drawn at random, none of them twice.

        Where there are fewer rows than asked for, both parts are smaller by the same share.

        Args:
            train: Rows to fit on; 10,000 in the study (Locatello et al. 2019).
            test: Rows to ask; 5,000 there.
            seed: Of the draw.

        Raises:
            ValueError: If there are fewer than two rows.
        """
        at_least(rows=(len(self), 2), train=(train, 1), test=(test, 1))
        share = min(1.0, len(self) / (train + test))
        first = min(max(1, round(share * train)), len(self) - 1)
        second = max(1, min(round(share * test), len(self) - first))
        order = numpy_generator(check_seed(seed), 0).permutation(len(self))
        return self.rows(order[:first]), self.rows(order[first : first + second])

    def with_factors(self, chosen: Array) -> CodeTable:
        """The same rows with some of the factors.

        Args:
            chosen: Positions or a mask of the factors.
        """
        kept = tuple(np.array(self.factor_names, dtype=object)[chosen])
        return replace(self, factors=self.factors[:, chosen], factor_names=kept)

    def with_codes(self, chosen: Array) -> CodeTable:
        """The same rows with some of the codes.

        Args:
            chosen: Positions or a mask of the codes.
        """
        kept = tuple(np.array(self.code_names, dtype=object)[chosen])
        scale = None if self.scale is None else self.scale[:, chosen]
        return replace(self, codes=self.codes[:, chosen], code_names=kept, scale=scale)


def from_arrays(
    codes: Array | Tensor,
    factors: Array | Tensor | Mapping[str, Array | Tensor],
    *,
    code_names: Sequence[str] | None = None,
    factor_names: Sequence[str] | None = None,
    scale: Array | Tensor | None = None,
    cells: Array | Tensor | None = None,
    source: Mapping[str, Any] | None = None,
) -> CodeTable:
    """A table of your own codes and factors.

    Args:
        codes: ``(N, D)``, of any encoder.
        factors: Whole numbers ``(N, K)``, the class or level of each factor; or ``(N,)`` by name.
        code_names: Names of the codes; ``z[0]`` and so on by default.
        factor_names: Names of the factors; ``y[0]`` and so on by default.
        scale: Standard deviations ``(N, D)`` of a guide.
        cells: Which cell of a grid each row shows ``(N,)``.
        source: What results are to record of them.

    Raises:
        ValueError: If shapes do not fit, a code is not finite, or a factor is not a whole
            number of at least 0; naming row and code or factor.
    """
    if isinstance(factors, Mapping):
        if factor_names is not None:
            raise ValueError("factor_names are given, and the factors have names; expected one")
        factor_names = tuple(factors)
        columns = [_array(value) for value in factors.values()]
        if len({column.shape for column in columns}) > 1 or any(c.ndim != 1 for c in columns):
            shapes = dict(zip(factor_names, (c.shape for c in columns), strict=True))
            raise ValueError(f"factors have shapes {shapes}, expected (N,) of all")
        of_rows = np.stack(columns, 1) if columns else np.empty((0, 0))
    else:
        of_rows = _array(factors)
    values = _array(codes).astype(np.float64)
    if values.ndim != 2 or of_rows.ndim != 2 or len(values) != len(of_rows):
        raise ValueError(
            f"codes have shape {values.shape} and factors {of_rows.shape}, expected (N, D) and "
            "(N, K) of the same rows"
        )
    at_least(rows=(len(values), 1), codes=(values.shape[1], 1), factors=(of_rows.shape[1], 1))
    named = _names("code_names", code_names, values.shape[1], "z")
    of_factors = _names("factor_names", factor_names, of_rows.shape[1], "y")
    _check_finite("code", named, values)
    spread = None
    if scale is not None:
        spread = _array(scale).astype(np.float64)
        if spread.shape != values.shape:
            raise ValueError(f"scale has shape {spread.shape}, expected that of {values.shape}")
        _check_finite("the scale of code", named, spread)
    places = None
    if cells is not None:
        places = _whole(("cells",), _array(cells).reshape(-1, 1))[:, 0]
        if len(places) != len(values):
            raise ValueError(
                f"cells are {len(places)}, expected one for each of {len(values)} rows"
            )
    told = MappingProxyType(dict(source or {}))
    whole = _whole(of_factors, of_rows)
    return CodeTable(values, whole, named, of_factors, spread, places, told)


def from_anndata(
    cells: Any, codes: str, factors: Sequence[str], scale: str | None = None
) -> CodeTable:
    """Codes of cells with what is known of them, of an AnnData object.

    Args:
        cells: The object; only its ``obsm``, ``obs`` and ``obs_names`` are read.
        codes: Key in ``obsm`` of the codes, such as ``"X_scVI"``.
        factors: Columns of ``obs``: categories, text, truth values or whole numbers.
        scale: Key in ``obsm`` of their standard deviations.

    Raises:
        ValueError: If there is no such key or column, a column is continuous, or a cell has no
            value there, naming it.
    """
    for key in (codes, *([scale] if scale else [])):
        if key not in cells.obsm:
            raise ValueError(unknown("obsm key", key, [str(k) for k in cells.obsm]))
    columns = {}
    for name in names("factors", factors):
        if name not in cells.obs:
            raise ValueError(unknown("obs column", name, [str(c) for c in cells.obs]))
        columns[name] = _classes(name, cells.obs[name], cells.obs_names)
    return from_arrays(
        np.asarray(cells.obsm[codes]),
        columns,
        code_names=[f"{codes}[{place}]" for place in range(cells.obsm[codes].shape[1])],
        scale=None if scale is None else np.asarray(cells.obsm[scale]),
        source={"data": "AnnData", "representation": codes},
    )


def _classes(name: str, column: Any, cells: Sequence[str]) -> Array:
    """Classes ``(N,)`` of a column of a data frame."""
    missing = column.isna().to_numpy()
    if missing.any():
        raise ValueError(
            f"factor {name!r} has no value in cell {cells[int(missing.argmax())]!r}; leave out "
            "such cells"
        )
    if hasattr(column, "cat"):
        return np.asarray(column.cat.codes)
    values = column.to_numpy()
    return np.unique(values.astype(str), return_inverse=True)[1] if values.dtype == "O" else values


def _array(values: Array | Tensor) -> Array:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _names(what: str, given: Sequence[str] | None, count: int, stem: str) -> tuple[str, ...]:
    named = tuple(given) if given is not None else tuple(f"{stem}[{n}]" for n in range(count))
    if len(named) != count or len(set(named)) != count:
        raise ValueError(f"{what} are {named}, expected {count} names, each once")
    return named


def _check_finite(what: str, named: tuple[str, ...], values: Array) -> None:
    if not (finite := np.isfinite(values)).all():
        row, place = np.argwhere(~finite)[0]
        raise ValueError(
            f"{what} {named[place]!r} is {values[row, place]} in row {row}, expected a finite one"
        )


def _whole(named: tuple[str, ...], values: Array) -> Array:
    """Values ``(N, K)`` as int64."""
    if values.dtype.kind not in "biuf":
        raise ValueError(
            f"factor {named[0]!r} is of type {values.dtype}, expected whole numbers; "
            "np.unique(values, return_inverse=True)[1] numbers kinds"
        )
    known = np.isfinite(values)
    whole = np.where(known, values, -1).astype(np.int64)
    good = known & (whole == values) & (whole >= 0)
    if not good.all():
        row, place = np.argwhere(~good)[0]
        raise ValueError(
            f"factor {named[place]!r} is {values[row, place]} in row {row}, expected a whole "
            "number of at least 0; leave out rows where it is not known, and bin a continuous one"
        )
    return whole
