"""Built sets: each is built once, by whoever comes first, and never half."""

from __future__ import annotations

import multiprocessing
import threading

import numpy as np
import pytest
import torch

from ppl_models import data
from ppl_models.data.store import built_sets

N = 60


def source():
    rows = np.arange(N)
    return data.Blocks("set", iter([{"x": np.eye(N), "y": rows % 3}]), classes={"y": 3})


def build_digits(seed):
    made = built_sets.cached("digits", {"seed": 3}, lambda: data.load("digits", seed=3))
    return made.recipe["digest"], len(made.train.sites["x"][:])


def test_building_at_once_is_safe(tmp_path, monkeypatch):
    monkeypatch.setenv("PPL_DATA", str(tmp_path))
    with multiprocessing.get_context("fork").Pool(3) as pool:
        found = pool.map(build_digits, range(3))
    threads = [threading.Thread(target=build_digits, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = data.load("digits", seed=3)
    assert found == [(expected.recipe["digest"], len(expected.train))] * 3
    assert [p.name for p in (tmp_path / "built").iterdir()] == [
        built_sets.file_name("digits", {"seed": 3})
    ]
    made = built_sets.cached("digits", {"seed": 3}, lambda: pytest.fail("built again"))
    assert torch.equal(made.train.sites["x"][:], expected.train.sites["x"])
    assert torch.equal(made.train.sites["y"], expected.train.sites["y"])
    assert built_sets.file_name("digits", {"seed": 4}) != built_sets.file_name(
        "digits", {"seed": 3}
    )


def test_caches_that_cannot_be_written(tmp_path, monkeypatch):
    blocked, other = tmp_path / "blocked", tmp_path / "other"
    blocked.write_text("a file where a folder should be")
    monkeypatch.setenv("PPL_DATA", str(blocked))
    monkeypatch.setattr("pooch.os_cache", lambda name: other)
    made = built_sets.cached("set", {}, source)
    assert list((other / "built").iterdir()) == [other / "built" / built_sets.file_name("set", {})]
    assert len(made.train) + len(made.validation) + len(made.test) == N
    monkeypatch.setattr("pooch.os_cache", lambda name: blocked)
    with pytest.raises(OSError, match=r"no folder can be written to .*blocked.*; set PPL_DATA"):
        built_sets.cached("set", {}, source)


@pytest.mark.parametrize("depth", ["built", ""])
def test_a_read_only_cache_is_read_and_left_alone(tmp_path, monkeypatch, depth):
    folder, other = tmp_path / "data", tmp_path / "other"
    folder.mkdir()
    monkeypatch.setenv("PPL_DATA", str(folder))
    monkeypatch.setattr("pooch.os_cache", lambda name: other)
    if depth:
        built_sets.cached("set", {}, source)
    (folder / depth).chmod(0o555)
    if depth:
        built_sets.cached("set", {}, lambda: pytest.fail("built again"))
        assert not other.exists()
    before = sorted(folder.rglob("*"))
    built_sets.cached("set", {"seed": 1}, source)  # by root, too
    assert sorted(folder.rglob("*")) == before
    assert [p.name for p in (other / "built").iterdir()] == [
        built_sets.file_name("set", {"seed": 1})
    ]
    (other / "built").chmod(0o555)
    with pytest.raises(OSError, match=r"no folder can be written to .*read-only.*; set PPL_DATA"):
        built_sets.cached("set", {"seed": 2}, source)


def test_a_damaged_cache_is_an_error_not_a_new_set(tmp_path, monkeypatch):
    monkeypatch.setenv("PPL_DATA", str(tmp_path))
    (tmp_path / "built").mkdir()
    path = data.write(source(), tmp_path / "built" / built_sets.file_name("set", {}))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"built.set-.*\.h5 is damaged"):
        built_sets.cached("set", {}, source)
