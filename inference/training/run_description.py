"""``run.json``: what a run is, as JSON with a checksum, and what tells it from another."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ppl_models.files import write_atomically
from ppl_models.inference.training.folder_lock import RunFolderError

DESCRIPTION = "run.json"
FORMAT = 2  # 1 had no checksum
FIELDS: dict[str, type] = {  # by their path in the file; * stands for each entry
    "paper": str,
    "status": str,
    "config": dict,
    "data": dict,
    "data.name": str,
    "identity": dict,
    "identity.seed": int,
}
OPTIONAL: dict[str, type] = {
    "objective": str,
    "versions": dict,
    "schema": dict,
    "planned": int,
    "reason": str,
    "labelled": dict,
    "data.options": dict,
    "data.digest": str,
    "data.steps": list,
    "data.steps.*": dict,
    "stages": list,
    "stages.*": dict,
    "stages.*.name": str,
    "stages.*.objective": str,
    "stages.*.parts": list,
    "identity.config": dict,
    "identity.data": dict,
    "identity.stages": list,
    "identity.stages.*": dict,
    "identity.stages.*.name": str,
}
LENGTHS = ("epochs", "steps")  # of a stage
WORDS = {str: "a text", int: "a whole number", dict: "a table", list: "a list"}


def write_description(folder: Path, description: Mapping[str, Any]) -> None:
    """Write ``run.json``."""
    told = {"format": FORMAT, "sha256": _digest(description), **description}
    text = json.dumps(told, indent=2) + "\n"
    write_atomically(folder / DESCRIPTION, lambda path: _write(path, text.encode()))


def read_description(folder: Path) -> dict[str, Any]:
    """Read ``run.json``; what it says of the run is what was written, or of that kind at least.

    Raises:
        RunFolderError: If it is missing, damaged or of another format, naming it.
    """
    path = folder / DESCRIPTION
    if not path.exists():
        raise RunFolderError(f"{folder} holds no run, expected a {DESCRIPTION} in it")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(description, dict):
            raise ValueError("expected a table")
        if (found := description.pop("format", None)) not in (1, FORMAT):
            raise RunFolderError(f"{path} has format {found}, expected {FORMAT}")
        told = description.pop("sha256", None)
        if found != 1 and told != _digest(description):
            raise ValueError("its checksum differs")
        _check(description)
    except (ValueError, RecursionError) as error:
        if isinstance(error, RunFolderError):
            raise
        raise RunFolderError(f"{path} is damaged: {error}") from None
    return dict(description)


def _digest(description: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _check(description: dict[str, Any]) -> None:
    for needed, fields in ((True, FIELDS), (False, OPTIONAL)):
        for path, kind in fields.items():
            for name, value in _found(description, path.split("."), ""):
                if value is _found and needed:
                    raise ValueError(f"it lacks {name}")
                if value is not _found and type(value) is not kind:
                    raise ValueError(f"its {name} is {value!r}, expected {WORDS[kind]}")
    for part in ("paper", "config", "data"):
        if part in description["identity"] and description["identity"][part] != description[part]:
            raise ValueError(f"its {part} and its identity.{part} differ")


def _found(value: Any, path: list[str], name: str) -> Iterator[tuple[str, Any]]:
    """Values at a path, with the names of their places; this function where there is none."""
    if not path:
        yield name, value
    elif path[0] == "*":
        for place, entry in enumerate(value if isinstance(value, list) else ()):
            yield from _found(entry, path[1:], f"{name}[{place}]")
    else:
        name = f"{name}.{path[0]}" if name else path[0]
        value = value.get(path[0], _found) if isinstance(value, dict) else _found
        yield from _found(value, path[1:], name) if value is not _found else [(name, _found)]


def digest_of(identity: Mapping[str, Any]) -> str:
    """What tells a run from another in few characters, however long it is trained."""
    return _digest(_lasting(identity))


def _lasting(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without what may change on resuming: where its data are, and its length."""
    lasting = copy.deepcopy(dict(identity))
    if isinstance(data := lasting.get("data"), dict) and "digest" in data:
        data.pop("name", None)
    for stage in lasting.get("stages", ()):
        for unit in LENGTHS:
            stage.pop(unit, None)
    return lasting


def check_same(
    folder: Path,
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    stage: int,
    fixed: Mapping[int, str],
) -> None:
    """Refuse to go on with a run under other settings.

    Stages that are not over may become longer, in the unit that they are told in, and those that
    have not begun have any length.

    Args:
        folder: The run's.
        there: Its identity.
        here: The identity of what is to go on.
        stage: The place of the stage that it has come to.
        fixed: By the place of a stage whose length says how each step is taken, what of it
            changes with the share of steps that is done.

    Raises:
        RunFolderError: Naming the setting, and both values.
    """
    old, new = copy.deepcopy(dict(there)), copy.deepcopy(dict(here))
    was_of, is_of = old.get("data", {}), new.get("data", {})
    if "digest" in was_of and was_of["digest"] == is_of.get("digest"):
        was_of["name"] = is_of.get("name")  # the same rows, wherever they are now
    stages = [side.get("stages", []) for side in (old, new)]
    for place, (was, now) in enumerate(zip(*stages, strict=False)):
        unit = "steps" if "steps" in now else "epochs"
        lengths = was.get(unit), now.get(unit)
        longer = all(isinstance(n, int) for n in lengths) and lengths[1] > lengths[0]
        if place > stage or (place == stage and longer and place not in fixed):
            for name in LENGTHS:
                was.pop(name, None)
                was.update({name: now[name]} if name in now else {})
        elif place == stage and longer:
            raise RunFolderError(
                f"{folder} holds a run whose stage {now['name']!r} has {lengths[0]} {unit}, not "
                f"{lengths[1]}, and cannot be prolonged: its {fixed[place]} changes with the "
                f"share of the {unit} that is done"
            )
    for key, value in new.items():
        if differing := _difference(old.get(key), value, key):
            setting, old_value, new_value = differing
            raise RunFolderError(
                f"{folder} holds another run: its {setting} is {_shown(old_value)}, not "
                f"{_shown(new_value)}"
            )


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


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
