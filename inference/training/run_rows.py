"""The rows that a run was fitted on: made again by their recipe, or kept beside the run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ppl_models.config import plain
from ppl_models.data import catalogue
from ppl_models.data.store.h5_store import open as open_rows, write
from ppl_models.data.tables.table import Dataset, Table
from ppl_models.inference.training.run_folder import ROWS

log = logging.getLogger(__name__)

LARGEST = 256 << 20  # bytes of rows in memory that are kept beside a run


def recipe_of(data: Dataset | Table) -> dict[str, Any]:
    """What a run says of its data, as plain values."""
    made = data.recipe if isinstance(data, Dataset) else {"name": data.name, "rows": len(data)}
    told: dict[str, Any] = plain(made)
    return told


def can_be_made(recipe: Any) -> bool:
    """Whether a recipe names a data set or a file, and not arrays in memory.

    Args:
        recipe: What a run says of its data; from a folder it may be anything.
    """
    if not isinstance(recipe, Mapping) or "rows" in recipe:
        return False
    name = str(recipe.get("name", ""))
    steps = [step for step in recipe.get("steps", ()) if isinstance(step, Mapping)]
    named = name in catalogue.names() or catalogue.is_file(name)
    return named and all(can_be_made(step["second"]) for step in steps if "second" in step)


def keep_rows(folder: Path, data: Dataset | Table) -> None:
    """Write rows that no recipe names beside their run, unless they are larger than ``LARGEST``.

    Rows that no file can hold are not kept, which is logged: training does not need it.

    Args:
        folder: The run's, which is held.
        data: What it is fitted on; the rows of a table are training rows.

    Raises:
        OSError: If they cannot be written; nothing is left behind.
    """
    recipe = recipe_of(data)
    if can_be_made(recipe):
        return
    if isinstance(data, Table):
        none = data.part(data.name, torch.arange(0))
        data = Dataset(data.name, data, none, none, {**recipe, "seed": 0})
    parts = (data.train, data.validation, data.test)
    values = [value for part in parts for value in part.sites.values()]
    if sum(value.shape.numel() * value.dtype.itemsize for value in values) <= LARGEST:
        try:
            write(data, folder / ROWS)
        except ValueError as error:  # such as parts that have rows of the same number
            log.warning("rows are not kept beside the run in %s: %s", folder, error)


def rows_of_run(folder: Path, recipe: Mapping[str, Any]) -> Dataset:
    """The data that a run was fitted on.

    Args:
        folder: The run's.
        recipe: What its description says of them.

    Raises:
        FileNotFoundError: If files that they are made from are not there.
        ValueError: In one line, if they were arrays in memory and are not beside the run, or have
            changed since.
    """
    if can_be_made(recipe):
        try:
            dataset = catalogue.remake(recipe)
        except (TypeError, KeyError, AttributeError) as error:  # options that no loader takes
            why = " ".join(str(error).split())
            raise ValueError(f"{folder}/run.json: its data cannot be made again ({why})") from None
        if dataset.recipe["digest"] != recipe.get("digest"):
            raise ValueError(
                f"the data {recipe['name']} have changed since {folder}; name them (--data) to "
                "use them as they are"
            )
        return dataset
    path = folder / ROWS
    if not path.exists():
        raise ValueError(
            f"{folder} was fitted on arrays in memory ({recipe['name']}), which are not kept "
            f"beside it, as those of up to {LARGEST >> 20} MiB are; name rows of a file (--data)"
        )
    dataset = open_rows(path)
    if any(plain(dataset.recipe.get(key)) != told for key, told in recipe.items()):
        raise ValueError(f"{path} holds other rows than {folder}/run.json describes")
    return dataset
