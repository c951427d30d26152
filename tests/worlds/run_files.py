"""A small run's folder, ways to damage its files, and what is read from them."""

from __future__ import annotations

import copy
import io
import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference.posterior import export
from ppl_models.inference.training import run_description, run_folder, state_file

NAMES = ("run.json", "state.pt", "posterior.nc")


def make(folder: Path, **options: Any) -> Path:
    """A run of two epochs on a few digits, with its posterior."""
    digits = data.load("digits", train=200, validation=20, test=20, labelled=30)
    pair = zoo.build("m2", digits, hidden=(4,), latent=2)
    settings = {"epochs": 2, "batch_size": 100, "progress": False, "device": "cpu"}
    run = inference.fit(pair, digits, out=folder, **{**settings, **options})
    run.posterior(digits.test, path=folder / "posterior.nc", draws=20, prior_draws=5)
    return folder


def read(folder: Path, name: str) -> Any:
    """What is read from a file of a run's folder, as values that can be compared."""
    if name == "posterior.nc":
        idata = export.load(folder / name)
        groups = {g: idata[g] for g in ("posterior", "diagnostics", "training")}
        return {f"{g}/{n}": v.values.tolist() for g, d in groups.items() for n, v in d.items()}
    run = inference.load(folder)
    description = run.description
    weights = {n: v.tolist() for n, v in run.pair.state_dict().items()}
    return weights, run.history, run.objective, description


def entries(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all entries of nested tables and lists."""
    places = value if isinstance(value, dict) else range(len(value))
    for place in places:
        yield (*path, place)
        if isinstance(value[place], dict | list):
            yield from entries(value[place], (*path, place))


def described(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value in one place; without that place where it is ``...``."""
    made = copy.deepcopy(value)
    inner = made
    for place in path[:-1]:
        inner = inner[place]
    if new is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return made


def rewrite(folder: Path, description: dict[str, Any]) -> None:
    """Write a description as a stranger would: with a checksum that is right."""
    plain = {k: v for k, v in description.items() if k not in ("format", "sha256")}
    run_description.write_description(folder, plain)


def restate(folder: Path, change: Any) -> None:
    """Write the state changed by a function, with a checksum that is right."""
    state = torch.load(folder / "state.pt", weights_only=True)
    change(state)
    state.pop("format", None)
    run_folder.write_state(folder, state)


def as_saved(state: Any) -> bytes:
    """A state file of anything, with a checksum that is right."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    told = state_file.MARK + state_file.hashlib.sha256(data).hexdigest().encode()
    return data[:-2] + struct.pack("<H", len(told)) + told


def mutated(whole: bytes, seed: int) -> bytes:
    """Bytes with a bit flipped, bytes overwritten, cut off, doubled or left out."""
    draw = random.Random(seed)
    data, place = bytearray(whole), draw.randrange(len(whole))
    length = draw.choice((1, 2, 8, 64))
    match draw.randrange(5):
        case 0:
            data[place] ^= 1 << draw.randrange(8)
        case 1:
            data[place : place + length] = draw.randbytes(length)
        case 2:
            del data[place:]
        case 3:
            data[place:place] = data[place : place + length]
        case 4:
            del data[place : place + length]
    return bytes(data)
