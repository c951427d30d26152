"""InferenceData from arrays: named dimensions, coordinates, and attributes that files keep."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Protocol

import arviz as az
import numpy as np
import xarray as xr
from torch import Tensor

from ppl_models.config import native
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.netcdf_kinds import check_attribute, check_texts
from ppl_models.inference.posterior.rows import (
    Site,
    Sites,
)
from ppl_models.modalities import mark
from ppl_models.pair import Pair
from ppl_models.version import __version__

Array = np.ndarray[Any, Any]
Variables = dict[str, tuple[tuple[str, ...], Array]]
Assign = Callable[[tuple[slice, ...], Array], None]
SAMPLE = ("chain", "draw")
ROWS = "datum"
# Groups that hold only the rows whose draws are kept.
DRAWN = (
    "posterior", "sample_stats", "log_likelihood", "log_likelihood_by_site",
    "posterior_predictive", "observed_data", "counterfactual",
)  # fmt: skip
ARVIZ = int(version("arviz").split(".")[0])


def event_dims(site: Site) -> tuple[str, ...]:
    """Names of the dimensions of one row's values: plates, ``z_dim`` (or ``z_dim_0, z_dim_1``)."""
    plates = tuple(plate.name for plate in site.plates)
    event = len(site.shape) - len(plates)
    if event == 1:
        return (*plates, f"{site.name}_dim")
    return (*plates, *(f"{site.name}_dim_{place}" for place in range(event)))


class Memory:
    """A store of named arrays in memory."""

    def __init__(self) -> None:
        self.groups: dict[str, Variables] = {}
        self.named: set[tuple[str, str]] = set()  # coordinates that are not their dimension's
        self.attrs: dict[str | None, dict[str, Any]] = {}

    def create(
        self, group: str, name: str, dims: tuple[str, ...], shape: tuple[int, ...], like: Array
    ) -> Assign:
        """Reserve an array of the type of ``like``; returns what assigns to a part of it."""
        variables = self.groups.setdefault(group, {})
        if like.shape == shape:
            # The first part is all there is, and stays where it stands.
            variables[name] = (dims, like)
            return lambda at, part: None
        array = np.empty(shape, like.dtype)
        variables[name] = (dims, array)
        return array.__setitem__

    def coordinate(self, group: str, name: str) -> None:
        """Mark an array as a coordinate beside that of its dimension."""
        self.named.add((group, name))

    def attributes(self, group: str | None, attrs: Mapping[str, Any]) -> None:
        """Attributes of a group, or of the whole."""
        self.attrs[group] = dict(attrs)

    def inference_data(self) -> az.InferenceData:
        """The arrays as InferenceData (a DataTree under ArviZ 1)."""
        datasets = {}
        for group, variables in self.groups.items():
            named = {n for n, (dims, _) in variables.items() if dims == (n,)}
            named |= {n for n in variables if (group, n) in self.named}
            datasets[group] = xr.Dataset(
                {n: v for n, v in variables.items() if n not in named},
                {n: v for n, v in variables.items() if n in named},
                self.attrs.get(group),
            )
        return as_inference_data(datasets, self.attrs[None])


class Store(Protocol):
    """Where arrays go: :class:`Memory`, or ``netcdf_write.File``."""

    def create(
        self, group: str, name: str, dims: tuple[str, ...], shape: tuple[int, ...], like: Array
    ) -> Assign:
        """See :meth:`Memory.create`."""
        ...

    def coordinate(self, group: str, name: str) -> None:
        """See :meth:`Memory.coordinate`."""
        ...

    def attributes(self, group: str | None, attrs: Mapping[str, Any]) -> None:
        """See :meth:`Memory.attributes`."""
        ...


class Groups:
    """Collects groups whose dimensions take their coordinates from one place.

    Args:
        table: The rows; their numbers are the coordinate ``datum``, their class names those
            of the label dimensions, and names of its columns those of the vectors.
        sites: The random variables.
        store: Where the arrays go; memory by default.
        chains: Number of chains; that of the arrays when left out.
        drawn: Number of the first rows that have draws; all of them when left out.
        columns: Names of the vectors' numbers by site; the table's when left out.

    Attributes:
        coordinates: By dimension, the coordinate of its name, such as the names of columns.
        labels: By dimension, further coordinates along it by their own names, such as
            ``{"datum": {"datum_name": names}}``.
        told: By group, attributes of its own.
    """

    def __init__(
        self,
        table: Table,
        sites: Sites,
        store: Store | None = None,
        chains: int | None = None,
        drawn: int | None = None,
        columns: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        columns = table.columns if columns is None else columns
        self.store = Memory() if store is None else store
        self.drawn = drawn
        self.parts: dict[str, dict[str, Assign]] = {}
        self.written: dict[str, set[str]] = {}
        self.labels: dict[str, dict[str, Array]] = {}
        self.told: dict[str, Mapping[str, Any]] = {}
        if table.row_names is not None:
            self.labels[ROWS] = {f"{ROWS}_name": table.row_names.astype(str)}
        self.coordinates: dict[str, Any] = {ROWS: table.numbers.cpu().numpy()}
        self.coordinates |= {dim: np.array(names) for dim, names in sites.coordinates.items()}
        if chains is not None:
            self.coordinates["chain"] = np.arange(chains)
        for site in (*sites.data.values(), *sites.latents.values()):
            for dim, size in zip(event_dims(site), site.shape, strict=True):
                # Columns are those of a vector, plates apart.
                own = () if dim in sites.plates else columns.get(site.name, ())
                names = sites.coordinates.get(dim) or own
                named = len(names) == size
                self.coordinates[dim] = np.array(names) if named else np.arange(size)
            if site.support is not None:
                count = len(site.support)
                known = table.classes.get(site.name, ())
                names = tuple(sites.coordinates.get(f"{site.name}_class", known))
                names = names if len(names) == count else tuple(map(str, range(count)))
                try:
                    check_texts(names)
                except ValueError as error:
                    raise ValueError(f"a class of site {site.name!r} {error}") from None
                self.coordinates[f"{site.name}_class"] = np.array(names)

    def add(self, group: str, variables: Variables, chain: int = 0, row: int = 0) -> None:
        """Add ``name: (dimensions, array)`` to a group; nothing where there is no variable.

        Args:
            group: Its name.
            variables: Whole arrays, or parts of them: one chain, some rows.
            chain: First chain of the parts.
            row: First row of the parts.
        """
        parts = self.parts.setdefault(group, {})
        for name, (dims, array) in variables.items():
            places = {
                dim: self._coordinate(group, dim, size)
                for dim, size in zip(dims, array.shape, strict=True)
            }
            if name not in parts:
                for dim, values in places.items():
                    self._write_coordinate(group, dim, values)
                shape = tuple(len(places[dim]) for dim in dims)
                parts[name] = self.store.create(group, name, dims, shape, array)
            start = {"chain": chain, ROWS: row}
            at = tuple(
                slice(start.get(dim, 0), start.get(dim, 0) + size)
                for dim, size in zip(dims, array.shape, strict=True)
            )
            parts[name](at, array)

    def coordinate(self, group: str, dim: str, values: Any) -> None:
        """A coordinate of a group by itself, such as the names of classes that no array spans."""
        self.coordinates[dim] = np.asarray(values)
        self.parts.setdefault(group, {})
        self._write_coordinate(group, dim, self.coordinates[dim])

    def describe(self, attrs: Mapping[str, Any]) -> None:
        """Attributes on the root and the posterior, and the time on every group."""
        plain = plain_attrs(attrs)
        self.store.attributes(None, plain)
        for group, parts in self.parts.items():
            if parts:
                short = {
                    **plain_attrs(self.told.get(group, {})),
                    "created_at": plain["created_at"],
                }
                self.store.attributes(group, plain if group == "posterior" else short)

    def finish(self, attrs: Mapping[str, Any]) -> az.InferenceData:
        """What was collected in memory, with attributes on the root and the posterior."""
        self.describe(attrs)
        assert isinstance(self.store, Memory)
        return self.store.inference_data()

    def _coordinate(self, group: str, dim: str, size: int) -> Array:
        values: Array = self.coordinates.get(dim, np.arange(size))
        if len(values) != size and dim not in ("chain", ROWS):
            values = np.arange(size)  # sets of another length, as in draws from the prior
        return values[: self.drawn] if dim == ROWS and group in DRAWN else values

    def _write_coordinate(self, group: str, dim: str, values: Array) -> None:
        done = self.written.setdefault(group, set())
        if dim not in done:
            done.add(dim)
            assign = self.store.create(group, dim, (dim,), values.shape, values)
            assign((slice(None),), values)
            for name, labels in self.labels.get(dim, {}).items():
                labels = labels[: len(values)]  # those of the rows with draws come first
                assign = self.store.create(group, name, (dim,), labels.shape, labels)
                assign((slice(None),), labels)
                self.store.coordinate(group, name)


def as_inference_data(
    datasets: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]
) -> az.InferenceData:
    """Groups as ArviZ wants them: InferenceData before its version 1, a DataTree since.

    The two are read alike (``idata.posterior["z"]``, ``idata.attrs``). Only here and in
    :func:`groups_of`, :func:`with_groups` is it known how they are listed and changed.
    """
    if ARVIZ >= 1:
        root = {"/": xr.Dataset(attrs=dict(attrs))}
        return xr.DataTree.from_dict(root | {f"/{name}": ds for name, ds in datasets.items()})
    return az.InferenceData(attrs=dict(attrs), **datasets)


def groups_of(idata: az.InferenceData | xr.DataTree) -> dict[str, xr.Dataset]:
    """The groups of InferenceData, or of a DataTree, by name."""
    if isinstance(idata, xr.DataTree):
        return {str(name): node.to_dataset() for name, node in idata.children.items()}
    return {name: idata[name] for name in idata.groups()}


def with_groups(idata: az.InferenceData, **changed: xr.Dataset) -> az.InferenceData:
    """The same with other groups, which replace those of their name; arrays are shared."""
    return as_inference_data(groups_of(idata) | changed, idata.attrs)


def training(
    histories: Sequence[Mapping[str, Sequence[float]]],
) -> tuple[Variables, list[float]]:
    """Training curves as variables over ``(chain, step)``, and all steps of any of them.

    A chain that has no such step, or no such part of its loss, has NaN there.

    Raises:
        ValueError: If one has no steps, or lists of unequal length.
    """
    every = dict.fromkeys(name for history in histories for name in history if name != "step")
    for history in histories:
        lengths = {name: len(values) for name, values in history.items()}
        if "step" not in history or len(set(lengths.values())) > 1:
            raise ValueError(f"history has lists {lengths}, expected equal lengths and one 'step'")
    steps = sorted({step for history in histories for step in history["step"]})
    if not steps:
        return {}, []
    alike = all(set(history) - {"step"} == set(every) for history in histories)
    if alike and all(list(history["step"]) == steps for history in histories):
        curves = {name: np.array([history[name] for history in histories]) for name in every}
    else:
        place = {step: n for n, step in enumerate(steps)}
        curves = {name: np.full((len(histories), len(steps)), np.nan) for name in every}
        for chain, history in enumerate(histories):
            at = [place[step] for step in history["step"]]
            for name in set(history) - {"step"}:
                curves[name][chain, at] = history[name]
    return {name: (("chain", "step"), curve) for name, curve in curves.items()}, steps


def provenance(
    pair: Pair, table: Table, sites: Sites, method: str, seed: int, more: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Where a file came from, as its attributes.

    Args:
        pair: The pair.
        table: The rows, with what was conditioned on.
        sites: The random variables.
        method: ``"svi"``, or the function of ``inference`` that made the draws.
        seed: Seed of the draws.
        more: Further attributes; they win.
    """
    shapes = {f"{site}_shape": list(shape) for site, shape in table.shapes.items()}
    apart = {*pair.card.covariates, *map(mark, pair.may_lack)}
    return {
        "name": pair.card.name,
        "pair": pair.source,
        "data": table.name,
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(),
        "creation_library": "ppl-models",
        "creation_library_version": __version__,
        "creation_library_language": "Python",
        "inference_library": "pyro",
        "inference_library_version": version("pyro-ppl"),
        "inference_method": method,
        "objective": "not recorded",
        "sample_dims": list(SAMPLE),
        "sampled_variables": list(sites.latents),
        "given": ", ".join(n for n in table.sites if n not in apart),
        "density": pair.card.density,
        "seed": seed,
        "rows_sha256": digest(table.numbers),
        "card_json": dataclasses.asdict(pair.card),
        "config_json": dataclasses.asdict(pair.config),
        **({"ragged": ", ".join(sorted(sites.ragged))} if sites.ragged else {}),
        **({"covariates": ", ".join(pair.card.covariates)} if pair.card.covariates else {}),
        **shapes,
        **(more or {}),
    }


def digest(numbers: Tensor) -> str:
    """What tells these row numbers ``(n,)`` from others."""
    return hashlib.sha256(np.ascontiguousarray(numbers.cpu().numpy()).tobytes()).hexdigest()


def plain_attrs(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes that netCDF keeps: truth values as 0 or 1, what is nested as JSON.

    Raises:
        ValueError: Naming one that is neither a number, a text, nor made of them.
    """
    return {name: _plain_attr(name, value) for name, value in attrs.items()}


def _plain_attr(name: str, value: Any) -> Any:
    value = native(value)
    if isinstance(value, bool):
        value = int(value)
    # HDF5 arrays hold one kind of value.
    kinds = {type(entry) for entry in (value if isinstance(value, list | tuple) else [value])}
    if len(kinds) != 1 or not kinds <= {str, int, float}:
        value = _as_json(name, value)
    value = list(value) if isinstance(value, tuple) else value
    try:
        check_attribute(name, value, False)
    except ValueError as error:
        raise ValueError(f"attribute {name!r} {error}") from None
    return value


def _as_json(name: str, value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"attribute {name!r} is {value!r} and cannot be stored, expected text, numbers, or "
            "lists and dictionaries of them"
        ) from None


def host(value: Tensor) -> Array:
    """A tensor as an array."""
    array: Array = value.detach().cpu().numpy()
    return array


def entry_name(site: str, shape: tuple[int, ...], entry: int) -> str:
    """Name of one number of a site, such as ``z[3]``; the site's own where it is one number."""
    where = np.unravel_index(entry, shape) if shape else ()
    return site + "".join(f"[{place}]" for place in where)


# Most numbers that a group of draws holds; it keeps fewer draws where there would be more.
# A label summed out in the log-likelihood costs a decoder call per class, which is counted.
POSTERIOR_CELLS = PREDICTIVE_CELLS = 50_000_000
