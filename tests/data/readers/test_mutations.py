"""Damaged files of every kind: the same rows, or one line that names the file.

Where a format has a checksum, every change that counts is found. Plain idx files, SmallNORB's,
uncompressed MATLAB files, CIFAR's batches outside their tar file and h5 files of others have none:
a changed value there is a value, and only structure is checked. Counts over thousands of files,
with time and memory: ``python -m worlds.mutated_runs``.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from worlds.mutations import KINDS, TARGETS, mutated, verdict
from worlds.reader_files import own_folders as own_folders

WALKED = (  # in another process
    "dSprites h5",
    "own h5",
    "h5ad, sparse",
    "h5ad, by blocks",
    "h5ad, old",
    "store",
)
WARNINGS = "ignore::RuntimeWarning"  # of numbers that are none; the rows tell


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    made = {}
    for name, target in TARGETS.items():
        folder = tmp_path_factory.mktemp("whole")
        path = target.make(folder)
        made[name] = folder, path, path.read_bytes(), target.read(folder)
    return made


def check(whole, name, kind, seed):
    folder, path, content, expected = whole[name]
    try:
        path.write_bytes(mutated(content, kind, np.random.default_rng(seed)))
        found, words = verdict(TARGETS[name], folder, path, expected)
    finally:
        path.write_bytes(content)
    assert found in ("same", "refused") or (found == "silent" and not TARGETS[name].checksum), (
        name,
        kind,
        seed,
        found,
        words,
    )


def many(examples):
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


@pytest.mark.filterwarnings(WARNINGS)
@many(200)
@given(
    st.sampled_from([name for name in TARGETS if name not in WALKED]),
    st.sampled_from(KINDS),
    st.integers(0, 2**32),
)
def test_damage_is_found_or_harmless(whole, name, kind, seed):
    check(whole, name, kind, seed)


@pytest.mark.filterwarnings(WARNINGS)
@many(30)
@given(st.sampled_from(WALKED), st.sampled_from(KINDS), st.integers(0, 2**32))
def test_damage_to_h5_files_is_found_or_harmless(whole, name, kind, seed):
    check(whole, name, kind, seed)


@pytest.mark.parametrize("name", TARGETS)
def test_files_that_are_cut_short(whole, name):
    folder, path, content, expected = whole[name]
    for size in (0, 1, len(content) - 1):
        path.write_bytes(content[:size])
        found, words = verdict(TARGETS[name], folder, path, expected)
        assert found == "refused" or (found, size) == ("same", len(content) - 1), (size, words)
    path.write_bytes(content)
