"""Several modalities of the same cells, such as RNA and protein: MuData h5mu files, h5ad files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from ppl_models.config import unknown
from ppl_models.data.readers.files import naming, reading
from ppl_models.data.readers.h5ad_layout import column, columns_of, names_along, text, values_of
from ppl_models.data.store.checked_h5 import opened
from ppl_models.data.store.stored_array import Array
from ppl_models.data.tables.cells import sums_of
from ppl_models.data.tables.given import Given
from ppl_models.data.tables.labels import Classes, categories_of
from ppl_models.data.tables.lazy_column import Column
from ppl_models.data.tables.names import twice_in
from ppl_models.data.tables.own_arrays import SPLITS, Splits, build, names_in
from ppl_models.data.tables.table import Dataset

MEMORY = 256 << 20  # bytes
Layer = str | Mapping[str, str]
Counts = bool | str | Sequence[str]


@dataclass(frozen=True)
class Modality:
    """What one modality has of its own cells, in its own order.

    Attributes:
        x: Values ``(cells, features)``, or a column of them that stays in the file.
        features: Names of the numbers, if there are some.
        cells: Names of the cells.
        obs: Columns of its ``obs`` that are asked for, by name there.
        columns: Names of all of them.
    """

    x: Array | Column
    features: Sequence[str] | None
    cells: Sequence[str]
    obs: Mapping[str, Given]
    columns: Sequence[str]


def load_file(
    path: str,
    modalities: str | Sequence[str] = "",
    labels: str | Sequence[str] = "",
    layer: Layer = "X",
    counts: Counts = True,
    labelled: int | None = None,
    splits: Splits = SPLITS,
    seed: int = 0,
    classes: Mapping[str, Classes] | None = None,
    covariates: str | Sequence[str] = "",
    memory: int = MEMORY,
) -> Dataset:
    """A site for each modality of an h5mu file, such as ``rna`` and ``prot``.

    Rows are the cells of the file's own table. In those that a modality lacks its site is missing;
    drawn splits put them into training. Values that would take more than ``memory`` stay in the
    file, as those of h5ad files do.

    Args:
        path: The file; read with h5py, in the layout of mudata 0.1 to 0.3.
        modalities: Which ones, in which order: several with commas between, or a list; all in the
            file's order if empty.
        labels: Columns that become label sites of their names: of the file's ``obs``, or of a
            modality's as ``rna:celltype``; several with commas between, or a list.
        layer: Where values are, ``X``, ``raw/X`` or ``layers/NAME``; or that by modality, ``X``
            where it is left out.
        counts: Whether values must be counts; or the modalities whose values must be.
        labelled: Training rows that keep their label, balanced over the classes; all if None.
        splits: Shares, or numbers, of training, validation and test rows; or the column that says
            the part of each cell; or None for all in the test part, to predict.
        seed: Seed of the split and of the labels that are kept.
        classes: Names of the classes in order, by label site.
        covariates: Columns that condition a story, named as labels are.
        memory: Bytes that the values of a modality may take, dense.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or has no such modality, column or layer, naming it.
    """
    _there(path)
    wanted = _wanted(labels, covariates, splits)
    what = "an h5mu file of MuData with cells along its first axis"
    with reading(Path(path), what), opened(path) as file:
        if int(file.attrs.get("axis", 0)) == 1:
            raise ValueError("its modalities share features (axis 1), expected shared cells")
        order = [text(name) for name in file["mod"].attrs.get("mod-order", ())]
        known = order if sorted(order) == sorted(file["mod"]) else sorted(file["mod"])
        chosen = names_in("modality", modalities, known) or known
        layers = _by_site("layer", layer, chosen)
        cells = names_along(file, "obs")
        if cells is None:
            raise ValueError("obs has no names of cells")
        own = columns_of(file)
        shared = {n: column(file, n) for n in wanted if n in own}
        if any(len(given.values) != len(cells) for given in shared.values()):
            raise ValueError(f"columns of obs have not {len(cells)} rows")
        found = {
            name: _modality(name, file["mod"][name], path, layers[name], memory, wanted)
            for name in chosen
        }
        at = {name: _places(name, cells, part.cells) for name, part in found.items()}
        for name, places in at.items():
            told = file.get(f"obsmap/{name}")
            if told is not None and (told[()].ravel() != places + 1).any():
                raise ValueError(f"obsmap/{name} and the names of the cells do not agree")
    options = {"modalities": chosen, "layer": layer, "counts": counts, "splits": splits}
    given = _given(path, options, labels, covariates, labelled, splits, seed, classes, memory)
    with naming(path):
        _check_columns(wanted, own, found)
        return _joined(found, at, cells, shared, layers, given, memory)


def load_files(
    files: Mapping[str, str],
    labels: str | Sequence[str] = "",
    layer: Layer = "X",
    counts: Counts = True,
    labelled: int | None = None,
    splits: Splits = SPLITS,
    seed: int = 0,
    classes: Mapping[str, Classes] | None = None,
    covariates: str | Sequence[str] = "",
    memory: int = MEMORY,
) -> Dataset:
    """A site for each of some h5ad files of the same cells, which are known by their names.

    Rows are the cells of the first file, then those that are in later ones alone. All else is as
    of :func:`load_file`; a column is that of the first file that has it, or ``prot:depth``.

    Args:
        files: Paths by the names of their sites.
        labels: See :func:`load_file`; and so all else.
        layer: See there.
        counts: See there.
        labelled: See there.
        splits: See there.
        seed: See there.
        classes: See there.
        covariates: See there.
        memory: See there.
    """
    wanted, found = _wanted(labels, covariates, splits), {}
    layers = _by_site("layer", layer, list(files))
    for site, path in files.items():
        _there(path)
        what = f"an h5ad file of AnnData with {layers[site]!r}"
        with reading(Path(path), what), opened(path) as file:
            found[site] = _modality(site, file, path, layers[site], memory, wanted)
    cells = tuple(dict.fromkeys(name for part in found.values() for name in part.cells))
    at = {site: _places(site, cells, part.cells) for site, part in found.items()}
    first, *others = files
    options = {
        "layer": layer,
        "counts": counts,
        "splits": splits,
        "site": first,
        "beside": {site: os.path.abspath(files[site]) for site in others},
    }
    path = files[first]
    given = _given(path, options, labels, covariates, labelled, splits, seed, classes, memory)
    with naming(", ".join(files.values())):
        _check_columns(wanted, (), found)
        return _joined(found, at, cells, {}, layers, given, memory)


def listed(columns: str | Sequence[str]) -> list[str]:
    """Names of columns: several with commas between, or a list."""
    return [n for n in columns.split(",") if n] if isinstance(columns, str) else list(columns)


def _there(path: str) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file, expected an {Path(path).suffix} file")


def _wanted(labels: Any, covariates: Any, splits: Splits) -> list[str]:
    part = [splits] if isinstance(splits, str) else []
    return [*listed(labels), *listed(covariates), *part]


def _by_site(what: str, given: Layer, sites: Sequence[str]) -> dict[str, str]:
    if isinstance(given, str):
        return dict.fromkeys(sites, given)
    for site in given:
        if site not in sites:
            raise ValueError(f"{what}: {unknown('modality', site, sites)}")
    return {site: given.get(site, "X") for site in sites}


def _modality(
    name: str, group: h5py.Group, path: str, layer: str, memory: int, wanted: Sequence[str]
) -> Modality:
    x = values_of(group, layer, path, memory)
    cells = names_along(group, "obs")
    if cells is None or len(cells) != len(x):
        raise ValueError(f"{name} has {len(cells or ())} names of cells, expected {len(x)}")
    if (twice := twice_in(cells)) is not None:
        raise ValueError(f"{name} has the cell {twice!r} twice, expected different names")
    there = columns_of(group)
    own = [n.removeprefix(f"{name}:") for n in wanted]
    obs = {n: column(group, n) for n in own if n in there}
    for given in obs.values():
        if len(given.values) != len(cells):
            raise ValueError(f"obs of {name} has not {len(cells)} rows")
    features = names_along(group, "raw/var" if layer == "raw/X" else "var")
    return Modality(x, features, cells, obs, there)


def _check_columns(
    wanted: Sequence[str], own: Sequence[str], found: Mapping[str, Modality]
) -> None:
    known = list(own)
    for site, part in found.items():
        known += [*part.columns, *(f"{site}:{name}" for name in part.columns)]
    for name in wanted:
        if name not in known:
            raise ValueError(unknown("obs column", name, known))


def _places(name: str, cells: Sequence[str], own: Sequence[str]) -> Array:
    """Where each of all cells is among those of a modality ``(N,)``, -1 where it is not."""
    if (twice := twice_in(cells)) is not None:
        raise ValueError(f"the cell {twice!r} stands in obs twice, expected different names")
    row = {cell: place for place, cell in enumerate(cells)}
    places = np.full(len(cells), -1, np.int64)
    for place, cell in enumerate(own):
        if cell not in row:
            raise ValueError(f"the cell {cell!r} of {name} is not in obs")
        places[row[cell]] = place
    return places


def _given(
    path: str, options: Mapping[str, Any], labels: Any, covariates: Any, labelled: int | None,
    splits: Splits, seed: int, classes: Mapping[str, Classes] | None, memory: int,
) -> dict[str, Any]:  # fmt: skip
    """What is built of the cells, and how the recipe says it."""
    said = {
        **options,
        "labels": listed(labels),
        **({"covariates": listed(covariates)} if listed(covariates) else {}),
        **({"classes": classes} if classes else {}),
        **({"memory": memory} if memory != MEMORY else {}),
    }
    return {
        "name": Path(path).stem,
        "labelled": labelled,
        "splits": splits,
        "seed": seed,
        "classes": classes,
        "options": said,
        "source": str(path),
    }


def _joined(
    found: Mapping[str, Modality],
    at: Mapping[str, Array],
    cells: Sequence[str],
    shared: Mapping[str, Given],
    layers: Mapping[str, str],
    given: dict[str, Any],
    memory: int,
) -> Dataset:
    """All cells, with their sites."""
    options = given["options"]
    fixed = options.get("covariates", [])
    labels = options["labels"]
    if (twice := twice_in([*found, *labels, *fixed])) is not None:
        raise ValueError(f"two sites are called {twice!r}, expected different names")
    counts = options["counts"]
    if isinstance(counts, bool):
        counted = list(found) if counts else []
    else:
        counted = names_in("modality with counts", counts, list(found))
    for site, part in found.items():
        values = part.x if isinstance(part.x, Column) else Given(part.x)
        sums_of(values, f"site {site!r}: ", layers[site], site in counted)
    if isinstance(given["splits"], str):
        given["splits"] = _column(given["splits"], found, at, shared)
    obs = {name: _column(name, found, at, shared) for name in (*labels, *fixed)}
    measured = [n for n in fixed if obs[n].categories is None and obs[n].values.dtype.kind == "f"]
    sites: dict[str, Any] = {s: _values(s, part, at[s], memory) for s, part in found.items()}
    for name, values in obs.items():
        sites[name] = values if name in measured else categories_of(name, values)
    return build(
        sites,
        labels=tuple(labels),
        columns={s: tuple(part.features) for s, part in found.items() if part.features},
        roles=dict.fromkeys(fixed, "covariate"),
        row_names=cells,
        **given,
    )


def _values(site: str, part: Modality, places: Array, memory: int) -> Given | Column:
    """Values of all cells, missing where the modality lacks one."""
    none = places < 0
    if isinstance(part.x, Column):
        rows = part.x.rows(torch.from_numpy(np.maximum(places, 0)))
        return rows.masked_fill(torch.from_numpy(none), float("nan"))
    shape = (len(places), *part.x.shape[1:])
    # A few cells of a wide modality must not become as many as another one has.
    if (size := 4 * shape[0] * shape[1]) > memory and len(places) > 2 * len(part.x):
        raise ValueError(
            f"site {site!r} has {len(part.x)} of {len(places)} cells, and would take {size} "
            f"bytes; expected at most memory={memory}, which may be raised"
        )
    out = np.zeros(shape, np.float32)
    out[~none] = part.x[places[~none]]
    return Given(out, np.broadcast_to(none[:, None], shape) if none.any() else None)


def _column(
    name: str, found: Mapping[str, Modality], at: Mapping[str, Array], shared: Mapping[str, Given]
) -> Given:
    """A column of the table of all cells, or of the first modality that has it."""
    if name in shared:
        return shared[name]
    for site, part in found.items():
        own = name.removeprefix(f"{site}:")
        if own not in part.obs:
            continue
        places, values = np.maximum(at[site], 0), part.obs[own]
        none = at[site] < 0
        taken = values.values[places]
        if values.categories is not None:
            return Given(np.where(none, -1, taken), categories=values.categories)
        missing = none if values.missing is None else none | values.missing[places]
        return Given(taken, missing if missing.any() else None)
    raise AssertionError  # columns have been checked
