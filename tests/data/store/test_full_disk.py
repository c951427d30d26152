"""What disks do to files: they fill up, lose ends, and change under who reads."""

from __future__ import annotations

import os
import pickle
import subprocess

import h5py
import numpy as np
import pytest
import torch

from ppl_models import data
from ppl_models.data import Stream
from ppl_models.data.store import built_sets

ROWS, WIDTH = 3000, 2000  # 131 rows a block


def grey(rows):
    return (rows[:, None] * np.arange(1, WIDTH + 1) % 251).astype(np.uint8)


def source():
    rows = np.arange(ROWS)
    return data.Blocks("set", iter([{"x": grey(rows), "y": rows % 3}]), classes={"y": 3})


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        made = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        made = False
    if not made:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_small_disk_is_left_as_it_was(small_disk, tmp_path, monkeypatch):
    path = small_disk / "set.h5"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match=r"^cannot write .*set\.h5: No space left on device$"):
        data.write(source(), path)
    assert path.read_bytes() == b"before"
    assert [p.name for p in small_disk.iterdir()] == ["set.h5"]
    # a cache that is full gives way to the next, and where there is none, says so
    monkeypatch.setenv("PPL_DATA", str(small_disk))
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "other")
    made = built_sets.cached("set", {}, source)
    assert [p.parent for p in tmp_path.rglob("set-*.h5")] == [tmp_path / "other" / "built"]
    assert len(made.train) + len(made.validation) + len(made.test) == ROWS
    monkeypatch.setattr("pooch.os_cache", lambda name: small_disk / "cache")
    with pytest.raises(OSError, match=r"set cannot be built, .*No space left on device.*PPL_DATA"):
        built_sets.cached("set", {}, source)
    assert not list(small_disk.rglob("set-*"))
    assert not list(small_disk.rglob(".set-*"))


@pytest.mark.parametrize("keep_time", [False, True])
@pytest.mark.parametrize("memory", [4 << 20, 64 << 20])
def test_a_file_that_changes_while_it_is_read(tmp_path, keep_time, memory):
    path = data.write(source(), tmp_path / "set.h5")
    table = data.open(path, memory).train
    stream, everything = Stream(table, 100, seed=1), torch.arange(len(table))
    stored = table.sites["x"].source
    place = int(stored.places[3, 0]) + 17  # in a row of the fourth block
    content, was = path.read_bytes(), path.stat()

    def pixels(rows):
        return torch.from_numpy(grey(rows.numpy())).float() / 255

    def epoch(number):
        steps = stream.steps_per_epoch
        for i in range(number * steps, (number + 1) * steps):
            (batch,) = stream.step(i)
            assert torch.equal(batch["x"], pixels(batch.rows))

    def put(value, seconds):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes([value]))
        later = was.st_mtime_ns + (0 if keep_time else seconds * 10**9)
        os.utime(path, ns=(was.st_atime_ns, later))

    epoch(0)
    epoch(1)
    put(content[place] ^ 1, 1)
    message = r"set\.h5 is damaged: rows 393\.\.523 of array 'sites/x'"
    with pytest.raises(ValueError, match=message):
        table.sites["x"][everything]
    with pytest.raises(ValueError, match=message):  # in another process
        pickle.loads(pickle.dumps(table)).sites["x"][everything]
    if memory > ROWS * WIDTH:
        epoch(2)  # all of it has been read
    else:
        with pytest.raises(ValueError, match=message):
            epoch(3)
    put(content[place], 2)
    assert torch.equal(table.sites["x"][everything], pixels(table.numbers))


def write_other(path, x, y):
    if path.suffix == ".npz":
        np.savez_compressed(path, x=x, y=y)
        return
    with h5py.File(path, "w") as file:
        if path.suffix == ".h5":
            file["x"], file["y"] = x, y
        else:
            file["X"] = x
            file["obs/gene/codes"] = y
            file["obs/gene/categories"] = np.array(["a", "b", "c"], dtype="S")
            file.create_group("var")


@pytest.mark.parametrize("ending", [".npz", ".h5", ".h5ad"])
def test_files_of_others_truncated_at_every_sixteenth(tmp_path, ending):
    path = tmp_path / f"set{ending}"
    y = np.arange(200) % 3
    write_other(path, grey(np.arange(200))[:, :50].astype(np.float32), y)
    options = {"labels": "gene"} if ending == ".h5ad" else {}
    whole = path.read_bytes()
    data.load(str(path), **options)
    for sixteenth in range(16):
        path.write_bytes(whole[: len(whole) * sixteenth // 16])
        with pytest.raises(ValueError, match=r"^.*set\.") as error:
            data.load(str(path), **options)
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
