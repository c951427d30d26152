"""InferenceData from arrays: named dimensions, coordinates, and attributes that files keep."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import arviz as az
import numpy as np
import xarray as xr
from torch import Tensor

import ppl_models
from ppl_models.data import Table
from ppl_models.inference.export_sites import (
    Site,
    Sites,
)
from ppl_models.pair import Pair

Array = np.ndarray[Any, Any]
Variables = dict[str, tuple[tuple[str, ...], Array]]
SAMPLE = ("chain", "draw")


def event_dims(site: Site) -> tuple[str, ...]:
    """Names of the dimensions of one stored value: ``z_dim``, or ``z_dim_0, z_dim_1, ...``."""
    if len(site.shape) == 1:
        return (f"{site.name}_dim",)
    return tuple(f"{site.name}_dim_{place}" for place in range(len(site.shape)))


class Groups:
    """Collects groups whose dimensions take their coordinates from one place.

    Args:
        table: The rows; their numbers are the coordinate ``datum``, their class names those
            of the label dimensions.
        sites: The random variables.
    """

    def __init__(self, table: Table, sites: Sites) -> None:
        self.datasets: dict[str, xr.Dataset] = {}
        self.coordinates: dict[str, Any] = {"datum": table.numbers.cpu().numpy()}
        for site in (*sites.data.values(), *sites.latents.values()):
            for dim, size in zip(event_dims(site), site.shape, strict=True):
                self.coordinates[dim] = np.arange(size)
            if site.support is not None:
                count = len(site.support)
                names = table.classes.get(site.name, ())
                names = names if len(names) == count else tuple(map(str, range(count)))
                self.coordinates[f"{site.name}_class"] = np.array(names)

    def add(
        self, group: str, variables: Variables, attrs: Mapping[str, Any] | None = None
    ) -> None:
        """Add a group of ``name: (dimensions, array)``; nothing where there is no variable."""
        if not variables:
            return
        sizes = {
            dim: size
            for dims, array in variables.values()
            for dim, size in zip(dims, array.shape, strict=True)
        }
        coordinates = {dim: self.coordinates.get(dim, np.arange(n)) for dim, n in sizes.items()}
        self.datasets[group] = xr.Dataset(variables, coordinates, attrs)

    def finish(self, attrs: Mapping[str, Any]) -> az.InferenceData:
        """The InferenceData, with attributes on the root and the posterior."""
        plain = {name: plain_attr(value) for name, value in attrs.items()}
        for group, dataset in self.datasets.items():
            dataset.attrs = plain if group == "posterior" else {"created_at": plain["created_at"]}
        return az.InferenceData(attrs=plain, **self.datasets)


def constants(table: Table, given: Sequence[str]) -> Variables:
    """What is known of the rows but was not conditioned on: labels, -1 where hidden."""
    found: Variables = {}
    for name in table.classes:
        if name in given or table.sites[name].dim() > 1:
            continue
        found[f"{name}_true"] = (("datum",), table.sites[name].cpu().numpy())
        if name in table.observed:
            found[f"{name}_mask"] = (("datum",), table.observed[name].cpu().numpy())
    return found


def observations(table: Table) -> Variables:
    """What was conditioned on, as the table has it."""
    found: Variables = {}
    for name, value in table.sites.items():
        dims = event_dims(Site(name, tuple(value.shape[1:]), None))
        found[name] = (("datum", *dims), value.cpu().numpy())
    return found


def training(history: Mapping[str, Sequence[float]] | None) -> tuple[Variables, list[float]]:
    """A training curve as variables over ``(chain, step)``, and its steps.

    Raises:
        ValueError: If it has no steps, or lists of unequal length.
    """
    if not history:
        return {}, []
    lengths = {name: len(values) for name, values in history.items()}
    if "step" not in history or len(set(lengths.values())) > 1:
        raise ValueError(f"history has lists {lengths}, expected equal lengths and one 'step'")
    steps = list(history["step"])
    if not steps:
        return {}, []
    curve = {name: np.asarray(v)[None] for name, v in history.items() if name != "step"}
    return {name: (("chain", "step"), values) for name, values in curve.items()}, steps


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
    numbers = np.ascontiguousarray(table.numbers.cpu().numpy())
    shapes = {f"{site}_shape": list(shape) for site, shape in table.shapes.items()}
    return {
        "name": pair.card.name,
        "pair": pair.source,
        "data": table.name,
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(),
        "creation_library": "ppl-models",
        "creation_library_version": ppl_models.__version__,
        "creation_library_language": "Python",
        "inference_library": "pyro",
        "inference_library_version": version("pyro-ppl"),
        "inference_method": method,
        "objective": "not recorded",
        "sample_dims": list(SAMPLE),
        "sampled_variables": list(sites.latents),
        "given": ", ".join(table.sites),
        "seed": seed,
        "rows_sha256": hashlib.sha256(numbers.tobytes()).hexdigest(),
        "card_json": dataclasses.asdict(pair.card),
        "config_json": dataclasses.asdict(pair.config),
        **shapes,
        **(more or {}),
    }


def plain_attr(value: Any) -> Any:
    """An attribute that netCDF keeps: truth values as 0 or 1, what is nested as JSON.

    Raises:
        ValueError: If it is neither a number, a string, nor made of them.
    """
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple) and value:
        # HDF5 arrays hold one kind of value.
        for kind in (str, int, float):
            if all(type(entry) is kind for entry in value):
                return list(value)
    try:
        return json.dumps(value)
    except TypeError:
        raise ValueError(
            f"attribute {value!r} cannot be stored, expected strings, numbers, or lists and "
            "dictionaries of them"
        ) from None


def host(value: Tensor) -> Array:
    """A tensor as an array."""
    array: Array = value.detach().cpu().numpy()
    return array
