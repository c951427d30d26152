"""Data whose every image is made from known factors: an index of them, sampling, rendering."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ppl_models.config import unknown
from ppl_models.data.store.row_blocks import Blocks
from ppl_models.data.tables.correlations import Correlation, log_weights
from ppl_models.data.tables.from_parts import Array, Rendered, from_parts
from ppl_models.data.tables.lazy_column import Column
from ppl_models.data.tables.recipe import Labelled
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.splits import split
from ppl_models.data.tables.table import Dataset

Values = Mapping[str, tuple[float | str, ...]]
Draw = Callable[[Array, np.random.Generator], Mapping[str, Array]]
BLOCK = 1024  # images drawn at once: the working arrays of a renderer stay below 200 MB


@dataclass(frozen=True)
class FactorData:
    """A grid of factor values and the images that belong to its cells.

    A cell's index counts through the grid in mixed radix, last factor fastest, which is the
    order of the official files. Each look at a cell draws its noise anew, so that noise is
    no hidden factor.

    Attributes:
        name: What :func:`ppl_models.data.load` calls it.
        values: Values of each factor in order: numbers, or names of kinds.
        draw: From classes ``(n, F)`` and a generator to arrays by site with n rows each, the
            image ``x`` among them: truth values, uint8 (0 to 255) or floating (0 to 1).
        source: ``official`` (read from the published files) or ``rendered``.
        cells: Increasing indices of the cells that exist; all when left out.
        correlations: Named settings of correlated sampling.
        world: Options that are not the usual ones, in words: pictures that are drawn on demand
            have no other digest.
    """

    name: str
    values: Values = field(repr=False)
    draw: Draw = field(repr=False)
    source: str = "rendered"
    cells: Array | None = field(default=None, repr=False)
    correlations: Mapping[str, Correlation] = field(default_factory=dict, repr=False)
    world: str = ""

    @property
    def factor_names(self) -> tuple[str, ...]:
        """Names of the F factors, slowest first."""
        return tuple(self.values)

    @property
    def factor_sizes(self) -> tuple[int, ...]:
        """Number of values of each factor."""
        return tuple(len(v) for v in self.values.values())

    def __len__(self) -> int:
        """Number of cells that exist."""
        return int(np.prod(self.factor_sizes)) if self.cells is None else len(self.cells)

    def index(self, classes: Array) -> Array:
        """Cell indices ``(n,)`` of classes ``(n, F)``.

        Raises:
            ValueError: If a class is out of range, naming row and factor.
        """
        classes = np.asarray(classes)
        sizes = np.array(self.factor_sizes)
        if classes.ndim != 2 or classes.shape[1] != len(sizes):
            raise ValueError(
                f"classes of {self.name} have shape {classes.shape}, expected (n, {len(sizes)})"
            )
        if (bad := (classes < 0) | (classes >= sizes)).any():
            row, place = np.argwhere(bad)[0]
            raise ValueError(
                f"{self.name}, row {row}: {self.factor_names[place]} is {classes[row, place]}, "
                f"expected a class in 0..{sizes[place] - 1}"
            )
        index: Array = np.ravel_multi_index(tuple(classes.T), self.factor_sizes)
        return index

    def classes(self, index: Array) -> Array:
        """Classes ``(n, F)`` of cell indices ``(n,)``.

        Raises:
            ValueError: If an index is outside the grid.
        """
        index = np.asarray(index)
        cells = int(np.prod(self.factor_sizes))
        if ((index < 0) | (index >= cells)).any():
            raise ValueError(
                f"{self.name} has cells 0..{cells - 1}, got {index.min()} to {index.max()}"
            )
        return np.stack(np.unravel_index(index, self.factor_sizes), axis=1)

    def scaled(self, classes: Array) -> Array:
        """Factor values ``(n, F)`` scaled to 0..1; kinds by their place."""
        columns = []
        for place, values in enumerate(self.values.values()):
            kinds = any(isinstance(v, str) for v in values)
            numbers = np.arange(len(values)) if kinds else np.array(values, dtype=float)
            span = np.ptp(numbers) or 1
            columns.append(((numbers - numbers.min()) / span)[classes[:, place]])
        return np.stack(columns, axis=1)

    def render(self, classes: Array, generator: np.random.Generator) -> Array:
        """Images ``(n, H, W)`` or ``(n, H, W, 3)`` of classes ``(n, F)``."""
        return self.sites(classes, generator)["x"]

    def sites(self, classes: Array, generator: np.random.Generator) -> dict[str, Array]:
        """The image ``x`` and whatever else the renderer knows, of classes ``(n, F)``."""
        self.index(classes)  # checks the classes
        blocks = [
            self.draw(classes[start : start + BLOCK], generator)
            for start in range(0, max(1, len(classes)), BLOCK)
        ]
        if len(blocks) == 1:
            return dict(blocks[0])
        return {site: np.concatenate([b[site] for b in blocks]) for site in blocks[0]}

    def whole(self, splits: Sequence[float] = (0.7, 0.1, 0.2), seed: int = 0) -> Blocks:
        """All cells in order, one look at each, for :func:`ppl_models.data.write`.

        Args:
            splits: Shares or numbers of training, validation and test rows.
            seed: Seed of the split and of the noise.
        """
        cells = np.arange(len(self)) if self.cells is None else self.cells
        draw = numpy_generator(seed, 0)

        def blocks() -> Iterator[dict[str, Array]]:
            for start in range(0, len(cells), BLOCK):
                classes = self.classes(cells[start : start + BLOCK])
                yield {**self.sites(classes, draw), **self._columns(classes)}

        return Blocks(
            self.name,
            blocks(),
            classes=self._class_names,
            roles=dict.fromkeys(self.values, "factor"),
            splits=splits,
            numbers=cells,
            seed=seed,
        )

    def _look(self, generator: np.random.Generator, classes: Array) -> Array:
        return self.render(classes, generator)

    def _columns(self, classes: Array) -> dict[str, Array]:
        return {name: classes[:, place] for place, name in enumerate(self.factor_names)}

    @property
    def _class_names(self) -> dict[str, tuple[str, ...]]:
        # Six digits tell any two angles apart.
        return {
            name: tuple(v if isinstance(v, str) else f"{v:.6g}" for v in values)
            for name, values in self.values.items()
        }

    def sample(
        self, n: int, generator: np.random.Generator, weights: Array | None = None
    ) -> Array:
        """Classes ``(n, F)`` drawn with replacement.

        Args:
            n: Number of draws.
            generator: Source of the draws.
            weights: Weight of each cell that exists, as of :meth:`weights`; equal if None.

        Raises:
            ValueError: If the weights do not fit the cells.
        """
        if weights is None:
            place = generator.integers(len(self), size=n)
        else:
            total = np.cumsum(weights, dtype=np.float64)
            if total.shape != (len(self),) or not (total[-1] > 0 and np.min(weights) >= 0):
                raise ValueError(
                    f"weights of {self.name} have shape {np.shape(weights)}, expected "
                    f"({len(self)},), none of them negative and not all 0"
                )
            # Weight 0 is never met: its interval is empty.
            place = np.searchsorted(total, generator.random(n) * total[-1], side="right")
        return self.classes(place if self.cells is None else self.cells[place])

    def weights(
        self, pairs: Sequence[tuple[str, str]], sigma: float, inverse: bool = False
    ) -> Array:
        """Weights of the cells under which pairs of factors are correlated.

        The product over pairs of ``exp(-(a - b)^2 / (2 sigma^2))`` of the factors scaled to
        0..1 (Traeuble et al. 2021; Roth et al. 2023); no cell has weight 0 unless sigma is
        so small that it underflows.

        Args:
            pairs: Names of the factors.
            sigma: Width, in units of a factor's range: 0.4 weak, 0.1 strong, 0.04 nearly
                deterministic.
            inverse: Make each second factor fall as the first grows.

        Returns:
            Weights ``(len(self),)``, unnormalised.

        Raises:
            ValueError: If there is no such factor or sigma is not positive.
        """
        for pair in pairs:
            for name in pair:
                if name not in self.values:
                    raise ValueError(unknown(f"factor of {self.name}", name, self.values))
        cells = np.arange(len(self)) if self.cells is None else self.cells
        scaled = dict(zip(self.factor_names, self.scaled(self.classes(cells)).T, strict=True))
        return np.exp(log_weights(scaled, pairs, sigma, inverse))

    def correlated(self, setting: str, sigma: float | None = None) -> Array:
        """Weights of a named setting, with its published sigma unless another is given.

        Raises:
            ValueError: If there is no such setting.
        """
        if setting not in self.correlations:
            raise ValueError(unknown(f"correlation of {self.name}", setting, self.correlations))
        known = self.correlations[setting]
        return self.weights(known.pairs, known.sigma if sigma is None else sigma)

    def sample_pair(
        self, n: int, k: int, generator: np.random.Generator
    ) -> tuple[Array, Array, Array]:
        """Pairs of cells that differ in exactly k factors, for weak supervision.

        Args:
            n: Number of pairs.
            k: Number of factors that change, drawn anew for each pair.
            generator: Source of the draws.

        Returns:
            Classes ``(n, F)`` of the first and of the second, and which factors changed.

        Raises:
            ValueError: If k is not between 1 and the number of factors that can change.
        """
        sizes = np.array(self.factor_sizes)
        free = np.flatnonzero(sizes > 1)
        if not 1 <= k <= len(free):
            raise ValueError(f"k is {k}, expected 1 to {len(free)} factors of {self.name}")
        first = self.sample(n, generator)
        second, changed = first.copy(), np.zeros((n, len(sizes)), dtype=bool)
        left = np.arange(n)
        while len(left):  # cells that do not exist are drawn again, the pair's first one too
            order = generator.permuted(np.tile(free, (len(left), 1)), axis=1)[:, :k]
            changed[left] = False
            np.put_along_axis(part := changed[left], order, True, axis=1)
            changed[left] = part
            # A step of 1..size-1 round the circle lands on every other value equally often.
            step = generator.integers(1, np.maximum(sizes, 2), size=(len(left), len(sizes)))
            second[left] = np.where(part, (first[left] + step) % sizes, first[left])
            if self.cells is None:
                break
            left = left[~np.isin(self.index(second[left]), self.cells)]
            first[left] = self.sample(len(left), generator)
        return first, second, changed

    def dataset(
        self,
        train: int | None = None,
        validation: int | None = None,
        test: int | None = None,
        labelled: Labelled | None = None,
        seed: int = 0,
        correlated: str | None = None,
        sigma: float | None = None,
        on_demand: bool = False,
        *,
        options: Mapping[str, Any] | None = None,
    ) -> Dataset:
        """Site ``x`` and one label site per factor, of cells drawn at random.

        No cell is in two parts. Row numbers are cell indices; those of correlated training
        rows, which are drawn with replacement, count on from the size of the grid.

        Args:
            train: Training rows; 70 % of the cells, but at most 10,000, if None.
            validation: Validation rows; 10 %, at most 1,000.
            test: Test rows; 20 %, at most 5,000.
            labelled: Training rows that keep a factor's value, by factor; see
                :func:`ppl_models.data.tables.recipe.assemble`. All if None.
            seed: Seed of the rows, their noise and the labels that are kept.
            correlated: Named setting under which training rows are drawn; validation and
                test rows stay uncorrelated.
            sigma: Width of the correlation; the setting's own if None.
            on_demand: Render an image whenever it is asked for, with new noise each time,
                instead of one look at each row that is kept in memory. What the renderer
                knows beside the image is then left out, and a run that is resumed sees other
                noise than one that was never stopped.
            options: What the factors themselves were made with, for the recipe.

        Raises:
            ValueError: If there are too few cells, or no such setting.
        """
        if sigma is not None and correlated is None:
            raise ValueError(f"sigma is {sigma} but nothing is correlated, expected correlated=")
        shares, most = (0.7, 0.1, 0.2), (10_000, 1_000, 5_000)
        sizes = [
            max(1, min(limit, round(share * len(self)))) if rows is None else rows
            for rows, share, limit in zip((train, validation, test), shares, most, strict=True)
        ]
        # Correlated rows come from the cells that are left, so only one is set aside for them.
        apart = sizes if correlated is None else [1, *sizes[1:]]
        parts = [part.numpy() for part in split(len(self), apart, seed)]
        cells = np.arange(len(self)) if self.cells is None else self.cells
        numbers = [cells[part] for part in parts]
        classes = [self.classes(own) for own in numbers]
        if correlated is not None:
            weights = self.correlated(correlated, sigma)
            weights[np.concatenate(parts[1:])] = 0
            classes[0] = self.sample(sizes[0], numpy_generator(seed, 3), weights)
            numbers[0] = int(np.prod(self.factor_sizes)) + np.arange(sizes[0])
        draws = [numpy_generator(seed, place) for place in range(3)]
        shapes = {}
        sites: list[Mapping[str, Array | Column]] = []
        for own, draw in zip(classes, draws, strict=True):
            if on_demand:
                known = self.name + self.world
                source = Rendered(known, own, functools.partial(self._look, draw))
                shapes["x"] = source.image
                sites.append({"x": Column(source), **self._columns(own)})
            else:
                sites.append({**self.sites(own, draw), **self._columns(own)})
        asked = {
            **(options or {}),
            **dict(zip(("train", "validation", "test"), sizes, strict=True)),
            "correlated": correlated,
            "sigma": sigma,
            "on_demand": on_demand,
        }
        return from_parts(
            self.name,
            sites,
            options=asked,
            labelled=labelled,
            seed=seed,
            classes=self._class_names,
            numbers=numbers,
            shapes=shapes,
            roles=dict.fromkeys(self.values, "factor"),
        )


def from_images(
    name: str,
    values: Mapping[str, Sequence[float | str]],
    images: Any,
    source: str = "official",
    correlations: Mapping[str, Correlation] | None = None,
) -> FactorData:
    """Factors of images that are there already, one for each cell in order.

    Args:
        name: Name of the set.
        values: Values of each factor.
        images: Array or h5 data set ``(N, H, W)`` or ``(N, H, W, 3)``; read by row as asked.
        source: Where they come from.
        correlations: Named settings of correlated sampling.

    Raises:
        ValueError: If there are not as many images as cells.
    """
    sizes = tuple(len(v) for v in values.values())
    if len(images) != np.prod(sizes):
        raise ValueError(f"{name} has {len(images)} images, expected {np.prod(sizes)} for {sizes}")

    def draw(classes: Array, generator: np.random.Generator) -> dict[str, Array]:
        # h5 files want each row once and in order.
        rows, back = np.unique(np.ravel_multi_index(tuple(classes.T), sizes), return_inverse=True)
        return {"x": np.asarray(images[rows])[back]}

    kept = {factor: tuple(v) for factor, v in values.items()}
    return FactorData(name, kept, draw, source, correlations=correlations or {})
