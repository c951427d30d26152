"""Settings of all tests."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # two workers on two cores; small tensors gain nothing from more
gc.disable()  # until all tests are collected: they stay, and are not worth looking through

# Files of few tests that take long. Workers that share files begin with them: none is then left
# alone with one at the end, as where they go by the number of tests.
HEAVY = (
    *("test_readme", "test_example_", "test_compiled_step", "test_full_disk", "test_flows"),
    *("test_h5_store", "test_mcmc", "test_refine", "test_counts", "test_folder_lock"),
)


def pytest_configure(config: pytest.Config) -> None:
    """Take the order of files from below."""
    if hasattr(config.option, "loadscopereorder"):  # an option of pytest-xdist
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Heavy files first."""
    items.sort(key=lambda item: not item.path.name.startswith(HEAVY))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Claims are not even read where all of them would be deselected."""
    claims = collection_path == Path(__file__).parent / "claims"
    return True if claims and "not claims" in config.option.markexpr else None


def pytest_collection_finish() -> None:
    """What is there now stays to the end: the collector need not look at it again and again."""
    gc.freeze()
    gc.enable()
