"""From three full tables to a data set: labels hidden, and a recipe of what was done."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ppl_models.config import unknown
from ppl_models.data.tables.hiding import Kept, keep
from ppl_models.data.tables.lazy_column import is_lazy
from ppl_models.data.tables.table import Dataset, Table
from ppl_models.version import __version__

Labelled = int | float | Mapping[str, Kept]


def assemble(
    name: str,
    train: Table,
    validation: Table,
    test: Table,
    *,
    labelled: Labelled | None,
    seed: int,
    options: Mapping[str, Any],
    source: str = "",
    covariates: Collection[str] = (),
) -> Dataset:
    """Hide labels of the training rows and write down how the data set was made.

    Args:
        name: Name of the data set.
        train: Training rows; some labels may be hidden already.
        validation: Validation rows.
        test: Test rows.
        labelled: Training rows that keep their label, in all, or their share; by site where
            there are several label sites, and there by class name if wanted (see
            :func:`ppl_models.data.tables.hiding.keep`). All of them if None.
        seed: Seed of the choice.
        options: What the loader was asked for, seed and labelled left out.
        source: What :func:`ppl_models.data.load` calls these data; ``name`` if empty.
        covariates: Sites whose classes are no labels to hide.

    Raises:
        ValueError: If there is no such label site, or too few labels.
    """
    labelled, seed = plain(labelled), plain(seed)
    if labelled is not None:
        train = _hide(train, labelled, seed, covariates)
    recipe = {
        "name": source or name,
        "options": {**plain(options), "labelled": labelled, "seed": seed},
        "seed": seed,
        "version": __version__,
        "digest": digest(train, validation, test),
    }
    return Dataset(name, train, validation, test, recipe)


def plain(value: Any) -> Any:
    """Options as they come back from JSON: no types of numpy or torch, paths as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):  # of numpy, torch or pandas
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple | range):
        return [plain(entry) for entry in value]
    return value


def _hide(table: Table, labelled: Labelled, seed: int, covariates: Collection[str]) -> Table:
    codes = [s for s, value in table.sites.items() if not value.is_floating_point()]
    labels = [site for site in codes if site not in covariates]
    if not isinstance(labelled, Mapping):
        if len(labels) != 1:
            raise ValueError(
                f"labelled is {labelled}, but {table.name} has the label sites {labels}; expected "
                "one label site, or a number by site"
            )
        labelled = {labels[0]: labelled}
    for site in labelled:
        if site not in labels:
            raise ValueError(f"labelled: {unknown('label site', site, labels)}")
    # By the place among the labels: whether there are vectors, too, must not change the choice.
    places = {site: seed + labels.index(site) for site in labelled}
    return table.hide({s: keep(table, s, kept, places[s]) for s, kept in labelled.items()})


def digest(*tables: Table) -> str:
    """SHA-256 of all values, hidden ones as the tables hold them, so that it covers masks."""
    total = hashlib.sha256()
    for table in tables:
        for site, value in (*table.sites.items(), ("", table.numbers)):
            total.update(f"{site} {tuple(value.shape)} {value.dtype} ".encode())
            if len(table):  # which an empty view of memory is not asked for
                total.update(
                    value.fingerprint() if is_lazy(value) else value.contiguous().numpy().data
                )
    return total.hexdigest()
