"""The folder of a run: its description as JSON and its state, resumable step by step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ppl_models.files import remove_stale
from ppl_models.inference.training.folder_lock import (
    LOCK,
    RunFolderError as RunFolderError,
    locked,
)
from ppl_models.inference.training.run_description import (
    DESCRIPTION as DESCRIPTION,
    check_same,
    digest_of as digest_of,
    read_description as read_description,
    write_description as write_description,
)
from ppl_models.inference.training.state_file import (
    STATE as STATE,
    read_state as read_state,
    write_state as write_state,
)

POSTERIOR, REPORT = "posterior.nc", "report.html"  # what the command line adds
ROWS = "rows.h5"  # rows that were in memory; see run_rows


@contextlib.contextmanager
def claimed(
    folder: Path,
    description: Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    fixed: Mapping[int, str] = MappingProxyType({}),
) -> Iterator[dict[str, Any] | None]:
    """Take a folder for a run before any work is done, and hold it meanwhile.

    A new run that ends by an error before its first state is written leaves no trace.

    Args:
        folder: Made if absent.
        description: What the run is (JSON-able); ``identity`` must agree on resuming.
        resume: Continue the run in the folder, if there is one.
        overwrite: Start over: files of the run in the folder are removed, and no others.
        fixed: See :func:`ppl_models.inference.training.run_description.check_same`.

    Returns:
        The saved state to continue from, or None for a new run.

    Raises:
        RunFolderError: If another process is at work in the folder, or it holds another run, or
            one and ``resume`` and ``overwrite`` are off.
        OSError: If the folder cannot be written.
    """
    made = not folder.exists()
    if not made and not (folder / DESCRIPTION).exists():
        _check_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    new = False
    try:
        with locked(folder):
            remove_stale(folder)
            new, saved = _enter(folder, description, resume, overwrite, fixed)
            try:
                yield saved
            except BaseException:
                if new and not (folder / STATE).exists():
                    for name in (DESCRIPTION, ROWS):
                        (folder / name).unlink(missing_ok=True)
                raise
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # if there is nothing in it
        raise


def _check_empty(folder: Path) -> None:
    if not folder.is_dir() or any(
        path.name != LOCK and not path.name.endswith(".part") for path in folder.iterdir()
    ):
        raise RunFolderError(f"{folder} exists and is no run, expected a new or empty folder")


def _enter(
    folder: Path,
    description: Mapping[str, Any],
    resume: bool,
    overwrite: bool,
    fixed: Mapping[int, str],
) -> tuple[bool, dict[str, Any] | None]:
    """Whether the run is a new one, and the state of one that is not."""
    if (folder / DESCRIPTION).exists() and not overwrite:
        there = read_description(folder)
        if not resume:
            # A run that is at work holds the lock.
            status = there["status"].replace("running", "broken off")
            raise RunFolderError(
                f"{folder} holds a run of {there['paper']} ({status}); choose another folder, "
                "resume it, or overwrite it"
            )
        saved = read_state(folder) if (folder / STATE).exists() else None
        if saved is not None and saved.get("resumable") is False:
            raise RunFolderError(
                f"{folder} holds a run that was saved without the state of its training, and "
                "cannot be resumed; load it and fit its pair, or overwrite it"
            )
        stage = -1 if saved is None else saved.get("stage")
        if not isinstance(stage, int):
            raise RunFolderError(f"{folder / STATE} is damaged: its stage is {stage!r}")
        check_same(folder, there["identity"], description["identity"], stage, fixed)
        if saved is not None:
            check_run(folder, saved, there)
        return False, saved
    for name in (STATE, DESCRIPTION, ROWS, POSTERIOR, REPORT) if overwrite else ():
        (folder / name).unlink(missing_ok=True)
    write_description(folder, description)
    return True, None


def check_run(folder: Path, state: Mapping[str, Any], description: Mapping[str, Any]) -> None:
    """Refuse the state of another run.

    Raises:
        RunFolderError: Naming the file.
    """
    # The states of older versions do not say.
    if "run" in state and state["run"] != digest_of(description["identity"]):
        raise RunFolderError(
            f"{folder / STATE} is the state of another run than {folder / DESCRIPTION} describes"
        )
