"""What a run is, as plain values: its pair, data, plan and seed."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from ppl_models.config import plain, whole
from ppl_models.data.tables.table import Dataset, Table
from ppl_models.inference.objectives import options
from ppl_models.inference.objectives.stage import Stage
from ppl_models.inference.training.run_rows import recipe_of
from ppl_models.pair import Pair


def describe_run(
    pair: Pair, data: Dataset | Table, plan: tuple[Stage, ...], seed: int
) -> dict[str, Any]:
    """What a run is, as plain values; two runs with equal ``identity`` are the same run."""
    config = dataclasses.asdict(pair.config)
    names = options.names_in(pair)
    identity = {
        "paper": pair.source,
        "config": plain(config),
        "data": recipe_of(data),
        "stages": [_identity(stage, names) for stage in plan],
        "seed": whole("seed", seed),
    }
    return {
        "paper": pair.source,
        "status": "running",
        "objective": str(plan[-1].objective),
        "stages": [
            {
                "name": stage.name,
                "objective": repr(stage.objective),
                "parts": list(stage.objective.part_names),
                "players": [options.text(player) for player in stage.players],
                **plain(dataclasses.asdict(stage.training)),
            }
            for stage in plan
        ],
        "config": identity["config"],
        "data": identity["data"],
        "identity": identity,
        "versions": {
            "python": sys.version.split()[0],
            **{name: version(name) for name in ("ppl-models", "pyro-ppl", "torch")},
        },
    }


def _identity(stage: Stage, names: Mapping[int, str]) -> dict[str, Any]:
    told: dict[str, Any] = options.identity(stage, names)
    training = told.pop("training")
    if stage.training.steps:
        training.pop("epochs")  # say nothing then
    return {key: value for key, value in {**told, **training}.items() if key != "class"}
