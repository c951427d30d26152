"""The folder of a run: its description as JSON and its state, resumable step by step."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ppl_models.files import temporary, write_atomically

DESCRIPTION, STATE = "run.json", "state.pt"
FORMAT = 1


class RunFolderError(ValueError):
    """A run folder that is missing, damaged, or another run's."""


def claim(folder: Path, description: Mapping[str, Any], resume: bool) -> dict[str, Any] | None:
    """Take a folder for a run before any work is done.

    Args:
        folder: Made if absent.
        description: What the run is (JSON-able); ``identity`` must agree on resuming.
        resume: Continue the run in the folder, if there is one.

    Returns:
        The saved state to continue from, or None for a new run.

    Raises:
        RunFolderError: If the folder holds another run, or one and ``resume`` is off.
        OSError: If the folder cannot be written.
    """
    for name in (DESCRIPTION, STATE):  # what a kill in the midst of a write left behind
        for part in folder.glob(temporary(Path(name), "*").name):
            part.unlink(missing_ok=True)
    if (folder / DESCRIPTION).exists():
        there = read_description(folder)
        if not resume:
            raise RunFolderError(
                f"{folder} holds a run of {there['paper']} ({there['status']}); "
                "choose another folder, or resume it"
            )
        for key, value in description["identity"].items():
            if differing := _difference(there["identity"].get(key), value, key):
                setting, old, new = differing
                raise RunFolderError(
                    f"{folder} holds another run: its {setting} is {_shown(old)}, "
                    f"not {_shown(new)}"
                )
        return read_state(folder) if (folder / STATE).exists() else None
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(f"{folder} exists and is no run, expected a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_description(folder, description)
    return None


def _difference(there: Any, here: Any, path: str) -> tuple[str, Any, Any] | None:
    """The first setting in which two runs differ, by its path, and both values."""
    if there == here:
        return None
    parts: list[tuple[str, Any, Any]] = []
    if isinstance(there, dict) and isinstance(here, dict):
        if there.get("class") == here.get("class"):
            keys = dict.fromkeys([*here, *there])
            parts = [(f"{path}.{key}", there.get(key), here.get(key)) for key in keys]
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for place, (old, new) in enumerate(zip(there, here, strict=True)):
            named = isinstance(new, dict) and "name" in new
            parts.append((f"{path}.{new['name']}" if named else f"{path}[{place}]", old, new))
    inner = (_difference(old, new, name) for name, old, new in parts)
    return next((differing for differing in inner if differing), (path, there, here))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("name", value.get("class", value)))
    return f"[{', '.join(map(_shown, value))}]" if isinstance(value, list) else str(value)


def write_description(folder: Path, description: Mapping[str, Any]) -> None:
    """Write ``run.json``."""
    text = json.dumps({"format": FORMAT, **description}, indent=2) + "\n"
    write_atomically(folder / DESCRIPTION, lambda path: _write(path, text.encode()))


def read_description(folder: Path) -> dict[str, Any]:
    """Read ``run.json``.

    Raises:
        RunFolderError: If it is missing, damaged or of another format.
    """
    path = folder / DESCRIPTION
    if not path.exists():
        raise RunFolderError(f"{folder} holds no run, expected a {DESCRIPTION} in it")
    try:
        description = json.loads(path.read_text())
        if description["format"] != FORMAT:
            raise RunFolderError(f"{path} has format {description['format']}, expected {FORMAT}")
        missing = {"paper", "status", "identity", "config", "data"} - description.keys()
    except (ValueError, TypeError, KeyError, UnicodeDecodeError) as error:
        if isinstance(error, RunFolderError):
            raise
        raise RunFolderError(f"{path} is damaged: {error}") from None
    if missing:
        raise RunFolderError(f"{path} is damaged: it lacks {', '.join(sorted(missing))}")
    return dict(description)


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write weights, optimiser, random state and history as one file."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    data = buffer.getvalue()
    write_atomically(folder / STATE, lambda path: _write(path, data))


def read_state(folder: Path) -> dict[str, Any]:
    """Read the state; only tensors and plain values are unpickled.

    Raises:
        RunFolderError: If it is missing or damaged.
    """
    path = folder / STATE
    if not path.exists():
        raise RunFolderError(f"{folder} holds no weights yet, expected a {STATE} in it")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or "model" not in state:
            raise ValueError("it holds no weights")
    except Exception as error:  # torch raises many kinds for a damaged archive
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunFolderError(f"{path} is damaged: {reason}") from None
    return dict(state)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
