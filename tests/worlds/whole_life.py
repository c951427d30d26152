"""All that is done with a pair, once: trained, resumed, compiled, exported, reported."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import arviz as az
import torch
from torch.testing import assert_close
from worlds.compiled_steps import as_traced

from ppl_models import inference
from ppl_models.data import Dataset
from ppl_models.inference.training import compiled_step
from ppl_models.inference.training.compiled_step import NotCompiled
from ppl_models.inference.training.run import Run
from ppl_models.pages import report
from ppl_models.pair import Pair

QUIET: dict[str, Any] = {"progress": False, "device": "cpu"}


class Killed(Exception):
    """In place of a power cut."""


def whole_life(
    make_pair: Callable[[], Pair], data: Dataset, folder: Path, **options: Any
) -> tuple[Run, az.InferenceData]:
    """Train a pair; a killed and a compiled run come out the same; export it and write its page.

    Args:
        make_pair: Builds the pair, the same each time, by ``zoo.build("FILE:Class", ...)``.
        data: What it is trained on; its test rows are exported.
        folder: An empty one.
        options: Of ``fit``; a few epochs.

    Returns:
        The run and its posterior, as read back from its file.
    """
    options = {**QUIET, **options}
    run = inference.fit(make_pair(), data, out=folder / "run", **options)
    assert run.status == "finished" and len(run.history["loss"]) > 2
    _same(resumed(make_pair, data, folder / "killed", **options), run)
    _same(compiled(make_pair, data, **options), run, rtol=1e-4, atol=1e-5)

    path = folder / "run" / "posterior.nc"
    run.posterior(data.test, path=path, draws=20)
    page = folder / "page.html"
    report.write(folder / "run", page, pair=run.pair.source, simulations=20)
    assert run.pair.card.name in page.read_text()
    return run, az.from_netcdf(str(path), engine="h5netcdf")


def resumed(make_pair: Callable[[], Pair], data: Dataset, folder: Path, **options: Any) -> Run:
    """A run that is killed in its midst, and then taken up again."""

    def kill(run: Run, step: int) -> None:
        if step >= run.planned // 2:
            raise Killed

    options = {**options, "checkpoint_seconds": 0.0, "out": folder}
    try:
        inference.fit(make_pair(), data, callbacks=(kill,), **options)
    except Killed:
        return inference.fit(make_pair(), data, resume=True, **options)
    raise AssertionError("the run was over before it could be killed")


def compiled(make_pair: Callable[[], Pair], data: Dataset, **options: Any) -> Run:
    """A run of compiled steps; what is traced is run operation by operation."""
    with warnings.catch_warnings(), patch.object(compiled_step, "inductor", as_traced):
        warnings.simplefilter("error", NotCompiled)
        return inference.fit(make_pair(), data, **{**options, "compile": True})


def _same(one: Run, other: Run, **tolerance: float) -> None:
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    first, second = one.pair.state_dict(), other.pair.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert_close(value, second[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)
    assert_close(
        torch.tensor(one.history["loss"]), torch.tensor(other.history["loss"]), **tolerance
    )
