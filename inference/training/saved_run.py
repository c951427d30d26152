"""A run written to a folder of its own, after it was fitted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ppl_models.files import write_atomically
from ppl_models.inference.training import run_folder
from ppl_models.inference.training.run_rows import keep_rows

if TYPE_CHECKING:
    from ppl_models.inference.training.run import Run


def save(run: Run, folder: str | Path, overwrite: bool = False) -> None:
    """See :meth:`ppl_models.inference.Run.save`."""
    folder = Path(folder)
    if not run.description:
        raise ValueError("this run does not say what it is, expected one of fit or load")
    if run.folder is not None and folder.exists() and folder.samefile(run.folder):
        raise ValueError(f"{folder} is where this run stands, expected another folder")
    state = _state(run)
    description = {
        **run.description,
        "status": run.status,
        "planned": run.planned,
        "labelled": {name: found.plain() for name, found in run.labelled.items()},
        "schema": {} if run.pair.schema is None else run.pair.schema.plain(),
    }
    with run_folder.claimed(folder, description, overwrite=overwrite):
        _save_rows(run, folder)
        run_folder.write_state(folder, state)


def _state(run: Run) -> dict[str, Any]:
    """All that the run's own folder holds, if its pair is as it is there; else its weights."""
    weights = run.pair.state_dict()
    if run.folder is not None and (run.folder / run_folder.STATE).exists():
        state = run_folder.read_state(run.folder)
        if _same(state["model"], weights):
            return state
    return {
        "resumable": False,
        "run": run_folder.digest_of(run.description["identity"]),
        "model": weights,
        "history": run.history,
        "validation": run.validation,
    }


def _same(there: dict[str, Any], here: dict[str, Any]) -> bool:
    return there.keys() == here.keys() and all(
        torch.equal(value, here[name].cpu()) for name, value in there.items()
    )


def _save_rows(run: Run, folder: Path) -> None:
    if run.data is not None:
        keep_rows(folder, run.data)
    elif run.folder is not None and (there := run.folder / run_folder.ROWS).exists():
        write_atomically(folder / run_folder.ROWS, lambda path: _copy(there, path))


def _copy(source: Path, path: Path) -> None:
    shutil.copyfile(source, path)
