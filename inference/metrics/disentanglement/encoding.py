"""Codes of rows by a pair's guide, or by an encoder of your own, with the rows' known factors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import check_seed, names, unknown
from ppl_models.data.factors.grid import FactorData
from ppl_models.data.tables.from_parts import floats
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Table
from ppl_models.guides.experts import MixtureOfNormals
from ppl_models.inference.metrics.disentanglement.code_table import Array, CodeTable, from_arrays
from ppl_models.inference.metrics.disentanglement.sampler import Sampler
from ppl_models.inference.posterior.draws import guide_parameters
from ppl_models.inference.posterior.groups import entry_name, host
from ppl_models.inference.posterior.rows import Sites, conditioned, positions, undisturbed
from ppl_models.inference.posterior.support import as_fitted
from ppl_models.inference.posterior.target import rows_at_a_time, rows_of, sites_of_rows
from ppl_models.interventions import intervene
from ppl_models.pair import Pair

BLOCK = 1024  # rows of images that are drawn and encoded at once
LOOKS = 64  # cells that are drawn twice to see whether their nuisance is drawn anew
FAMILIES = (dist.Normal, MixtureOfNormals)
Encoder = Pair | Callable[[Batch], Tensor]  # the second gives codes (B, D)
Blocks = Iterator[tuple[Array, Array | None, tuple[str, ...]]]


@dataclass(frozen=True)
class _Asked:
    """How codes are taken: of which sites, and as means or as draws."""

    sites: tuple[str, ...]
    sampled: bool
    seed: int


def encode(
    pair: Encoder,
    data: Table | FactorData,
    rows: Any = None,
    *,
    sites: Sequence[str] = (),
    factors: Sequence[str] = (),
    sampled: bool = False,
    seed: int = 0,
) -> CodeTable:
    """Codes of rows with their factors, encoded once for all metrics.

    Means of a guide are those of its factor given the row. A code that hangs on a label or on
    another code takes the mean given the most probable class and the means above it, and has no
    standard deviation here.

    Args:
        pair: A fitted pair; or any encoder, a callable from a batch to codes ``(B, D)``, such as
            ``lambda batch: network(batch["x"])``.
        data: Rows with label sites for factors; or the factors of a set of images, as
            :func:`ppl_models.data.factor_data` gives them, whose cells are drawn once each.
        rows: Positions in the table, or numbers of cells; all by default.
        sites: Latent sites of the pair whose numbers are the codes, side by side; all continuous
            ones of the guide by default.
        factors: Label sites of the table that are the factors; all of its labels by default.
        sampled: Take draws of the guide, not its means.
        seed: Of these draws, and of nuisance in images that are drawn.

    Raises:
        ValueError: If the rows do not fit the pair, a site or factor is unknown, a factor is
            hidden in some of the rows, or codes are not ``(B, D)`` and finite.
    """
    asked = _Asked(names("sites", sites), sampled, check_seed(seed))
    if isinstance(data, FactorData):
        if factors:
            raise ValueError(f"factors are {factors!r}, expected none: {data.name} has its own")
        cells = cells_of(data, rows)
        known = data.classes(cells)
        parts = _blocks(pair, looks_at(data, cells, asked.seed), asked)
        nuisance = "one look at each cell" if is_redrawn(data) else "none"
        named = data.factor_names
    elif isinstance(data, Table):
        table, index = _fitted(pair, data), positions(data, rows)
        named = names("factors", factors) or tuple(table.classes)
        known = _factors(table, named, index)
        parts = _blocks(pair, (table.rows(block) for block in index.split(BLOCK)), asked)
        cells, nuisance = None, "as in the rows"
    else:
        raise ValueError(
            f"data are a {type(data).__name__}, expected a table, such as the test part of a data "
            "set, or its factors (data.factor_data)"
        )
    codes, scales, code_names = zip(*parts, strict=True)
    return from_arrays(
        np.concatenate(codes),
        known,
        code_names=code_names[0],
        factor_names=named,
        scale=None if any(scale is None for scale in scales) else np.concatenate(scales),
        cells=cells,
        source={
            "pair": pair.source if isinstance(pair, Pair) else _name(pair),
            "data": data.name,
            "representation": "sampled" if sampled else "mean",
            "nuisance": nuisance,
            "encode_seed": asked.seed,
        },
    )


def sampler_of(
    pair: Encoder,
    data: FactorData,
    *,
    sites: Sequence[str] = (),
    sampled: bool = False,
    seed: int = 0,
) -> Sampler:
    """An encoder of any combination of factors, whose nuisance is drawn anew at each look.

    Args:
        pair: As of :func:`encode`.
        data: The factors, all of whose combinations exist.
        sites: As of :func:`encode`.
        sampled: As of :func:`encode`.
        seed: Of the first look, which tells the names of the codes; a metric draws by its own.

    Raises:
        ValueError: If some combinations do not exist, and as :func:`encode`.
    """
    if data.cells is not None:
        raise ValueError(
            f"{data.name} has {len(data)} of {np.prod(data.factor_sizes)} combinations of its "
            "factors, expected all: independent factors would meet in others; encode its cells"
        )
    asked = _Asked(names("sites", sites), sampled, check_seed(seed))

    def codes(classes: Array, draw: np.random.Generator) -> Array:
        looks = (
            table_of(data, classes[start : start + BLOCK], draw)
            for start in range(0, len(classes), BLOCK)
        )
        anew = replace(asked, seed=int(draw.integers(2**62)))
        return np.concatenate([part for part, *_ in _blocks(pair, looks, anew)])

    first = encode(pair, data, cells_of(data, None)[:1], sites=sites, sampled=sampled, seed=seed)
    return Sampler(
        data.factor_sizes,
        data.factor_names,
        first.code_names,
        codes,
        {**first.source, "nuisance": "drawn anew at each look"},
    )


def is_redrawn(data: FactorData) -> bool:
    """Whether two looks at a cell differ: by noise, colours or backgrounds that are no factors.

    Args:
        data: The factors; up to 64 of their cells are drawn twice.
    """
    cells = np.unique(np.linspace(0, len(data) - 1, min(LOOKS, len(data))).astype(np.int64))
    classes = data.classes(cells if data.cells is None else data.cells[cells])
    one, other = (data.render(classes, numpy_generator(look, 0)) for look in range(2))
    return not np.array_equal(one, other)


def cells_of(data: FactorData, rows: Any) -> Array:
    """Numbers of the cells that are asked for, all by default.

    Args:
        data: The factors.
        rows: Numbers of cells ``(n,)``.

    Raises:
        ValueError: If there is no such cell.
    """
    there = np.arange(len(data)) if data.cells is None else data.cells
    if rows is None:
        return there
    cells = np.asarray(rows).astype(np.int64)
    if cells.ndim != 1 or not len(cells):
        raise ValueError(f"rows have shape {cells.shape}, expected numbers of cells (n,)")
    if not (known := np.isin(cells, there)).all():
        raise ValueError(f"{data.name} has no cell {cells[~known][0]}")
    return cells


def looks_at(data: FactorData, cells: Array, seed: int) -> Iterator[Table]:
    """Cells as tables, some at a time, each drawn once.

    Args:
        data: The factors.
        cells: Numbers of the cells ``(n,)``.
        seed: Of their nuisance.
    """
    generator = numpy_generator(seed, 0)
    for start in range(0, len(cells), BLOCK):
        yield table_of(data, data.classes(cells[start : start + BLOCK]), generator)


def table_of(data: FactorData, classes: Array, generator: np.random.Generator) -> Table:
    """Looks at cells as rows of a table, with their factors as labels.

    Args:
        data: The factors.
        classes: ``(n, F)``.
        generator: Of their nuisance.
    """
    drawn = data.sites(classes, generator)
    labels = {name: torch.from_numpy(classes[:, k]) for k, name in enumerate(data.factor_names)}
    images = {n: a.shape[1:] for n, a in drawn.items() if a.ndim > 2 and a.dtype.kind in "bfu"}
    sites = {
        name: floats(array) if array.dtype.kind in "bfu" else torch.from_numpy(array)
        for name, array in drawn.items()
    }
    kinds = {
        name: [v if isinstance(v, str) else f"{v:.6g}" for v in values]
        for name, values in data.values.items()
    }
    return Table(data.name, {**sites, **labels}, classes=kinds, shapes=images)


def _fitted(pair: Encoder, table: Table) -> Table:
    return as_fitted(pair, table) if isinstance(pair, Pair) else table


def _factors(table: Table, wanted: tuple[str, ...], index: Tensor) -> Array:
    """Classes ``(n, K)`` of the factors of these rows."""
    if not wanted:
        raise ValueError(f"{table.name} has no label that could be a factor, expected one or more")
    columns = []
    for name in wanted:
        if name not in table.classes:
            raise ValueError(f"{table.name}: {unknown('factor', name, table.classes)}")
        values = table.sites[name][:][index]
        if values.dim() != 1:
            raise ValueError(
                f"factor {name!r} of {table.name} has rows of shape {tuple(values.shape[1:])}, "
                "expected one class per row; name the others by factors="
            )
        if bool((hidden := values < 0).any()):
            row = int(table.numbers[index][hidden][0])
            raise ValueError(
                f"factor {name!r} of {table.name} is hidden in row {row}; choose rows in which it "
                f"is known (table.where_observed({name!r}))"
            )
        columns.append(host(values))
    return np.stack(columns, 1)


def _blocks(pair: Encoder, tables: Iterator[Table], asked: _Asked) -> Blocks:
    """Codes, deviations and names of codes of each table."""
    if not isinstance(pair, Pair):
        if asked.sites or asked.sampled:
            raise ValueError("sites and sampled are of pairs, expected neither with an encoder")
        yield from (_by_encoder(pair, table) for table in tables)
        return
    with undisturbed(pair, asked.seed), torch.no_grad():
        for given in tables:
            table = as_fitted(pair, given)
            seen = conditioned(pair, table, None, torch.arange(len(table)))
            sites = sites_of_rows(pair, seen, plates_within=True)
            wanted = code_sites(pair, sites, asked.sites)
            for block in torch.arange(len(seen)).split(rows_at_a_time(pair, sites, (), 1)):
                yield _of_pair(pair, rows_of(seen.rows(block), pair), sites, wanted, asked.sampled)


def _by_encoder(encoder: Callable[[Batch], Tensor], table: Table) -> Any:
    (batch,) = table.batches()
    with torch.no_grad():
        codes = encoder(batch)
    if codes.dim() != 2 or len(codes) != batch.count:
        raise ValueError(
            f"the encoder gives shape {tuple(codes.shape)} for {batch.count} rows, expected "
            f"({batch.count}, D)"
        )
    return host(codes), None, tuple(f"z[{place}]" for place in range(codes.shape[1]))


def code_sites(pair: Pair, sites: Sites, given: tuple[str, ...]) -> tuple[str, ...]:
    """The sites whose numbers are the codes: those given, or all continuous ones of the guide.

    Raises:
        ValueError: If there is none, or one is given that is no such site.
    """
    there = [name for name in sites.guided if sites.latents[name].support is None]
    for name in given:
        if name not in there:
            raise ValueError(f"{pair.card.name}: {unknown('continuous latent site', name, there)}")
    if not there:
        raise ValueError(f"{pair.card.name} has no continuous latent site whose values are codes")
    return given or tuple(there)


def _of_pair(
    pair: Pair, batch: Batch, sites: Sites, wanted: tuple[str, ...], sampled: bool
) -> tuple[Array, Array | None, tuple[str, ...]]:
    told = guide_parameters(pair.guide, batch, sites, FAMILIES)
    of_rows = {name: (loc, scale) for name, (labels, loc, scale) in told.items() if not labels}
    means: dict[str, Tensor] = {}
    scales = None
    if all(name in of_rows for name in wanted):
        means = {name: of_rows[name][0] for name in wanted}
        scales = _flat({name: of_rows[name][1] for name in wanted}, batch)
    if sampled or not means:
        found = intervene(pair, batch, {}, codes="draw" if sampled else "mean")
        means = {name: found[name] for name in wanted}
    return _flat(means, batch), scales, _entries(means, batch)


def _flat(values: dict[str, Tensor], batch: Batch) -> Array:
    return host(torch.cat([v.reshape(batch.count, -1).double() for v in values.values()], 1))


def _entries(values: dict[str, Tensor], batch: Batch) -> tuple[str, ...]:
    return tuple(
        entry_name(name, tuple(value.shape[1:]), place)
        for name, value in values.items()
        for place in range(value.numel() // batch.count)
    )


def _name(encoder: Callable[[Batch], Tensor]) -> str:
    return str(getattr(encoder, "__name__", type(encoder).__name__))
