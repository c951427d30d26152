"""Settings of all tests."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # two workers on two cores; small tensors gain nothing from more
gc.disable()  # until all tests are collected: they stay, and are not worth looking through


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Claims are not even read where all of them would be deselected."""
    claims = collection_path == Path(__file__).parent / "claims"
    return True if claims and "not claims" in config.option.markexpr else None


def pytest_collection_finish() -> None:
    """What is there now stays to the end: the collector need not look at it again and again."""
    gc.freeze()
    gc.enable()
