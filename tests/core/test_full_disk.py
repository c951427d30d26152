"""A file that remembers its first failure."""

from __future__ import annotations

import errno
import os

import h5py
import numpy as np
import pytest

from ppl_models.full_disk import Disk


def test_what_is_written_is_read_and_gaps_are_zeros(tmp_path):
    with Disk(tmp_path / "f") as disk:
        assert disk.write(b"abc") == 3
        assert disk.seek(2, 1) == 5 == disk.tell()
        disk.write(np.arange(2, dtype="<u2"))
        assert disk.seek(-4, 2) == 5
        assert disk.read(6) == b"\0\0\1\0\0\0"  # past the end, too
        disk.seek(0)
        assert disk.read(5) == b"abc\0\0"
        assert disk.truncate(2) == 2
        disk.check()
    assert (tmp_path / "f").read_bytes() == b"ab"


@pytest.mark.parametrize("call", ["pwrite", "ftruncate"])
def test_the_first_failure_is_raised_when_asked_for(tmp_path, monkeypatch, call):
    real, calls = getattr(os, call), []

    def fails(*args):
        calls.append(args)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, f"full at call {len(calls)}")
        return real(*args)

    monkeypatch.setattr(os, call, fails)
    with Disk(tmp_path / "f") as disk:
        for part in (b"ab", b"cd", b"ef"):
            assert disk.write(part) == 2
            assert disk.truncate(disk.tell()) == disk.tell()
        assert disk.tell() == 6
        with pytest.raises(OSError, match="full at call 2"):
            disk.check()
    if call == "pwrite":
        assert len(calls) == 2  # nothing is written after a failure


def test_a_short_write_goes_on(tmp_path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda f, data, place: real(f, data[:3], place))
    with Disk(tmp_path / "f") as disk:
        assert disk.write(b"0123456789") == 10
        disk.check()
    assert (tmp_path / "f").read_bytes() == b"0123456789"


def test_hdf5_finishes_after_a_failure(tmp_path, monkeypatch):
    real, room = os.pwrite, 20_000

    def small(handle, data, place):
        if place + len(data) > room:
            raise OSError(errno.ENOSPC, "no space left")
        return real(handle, data, place)

    monkeypatch.setattr(os, "pwrite", small)
    with Disk(tmp_path / "f") as disk:
        with h5py.File(disk, "w") as file:
            file["x"] = np.random.default_rng(0).random((100, 100))
            file["y"] = np.arange(10)
        with pytest.raises(OSError, match="no space left"):
            disk.check()
