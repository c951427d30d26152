"""h5 files of strangers: what leads out of them, claims too much or has no end is refused."""

from __future__ import annotations

import os
import re
import signal
import time

import h5py
import numpy as np
import pytest

from ppl_models import data
from ppl_models.data.store import checked_h5


def external_link(file):
    file["x"] = h5py.ExternalLink("other.h5", "/x")


def external_link_within(file):
    file.create_group("uns/deep")["x"] = h5py.ExternalLink("/etc/passwd\n", "/")


def external_storage(file):
    file.create_dataset("x", shape=(40, 2), dtype="f4", external=[("raw.bin", 0, 320)])


def virtual(file):
    layout = h5py.VirtualLayout((40, 2), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(40, 2))
    file.create_virtual_dataset("x", layout)


def dangling(file):
    file["x"] = h5py.SoftLink("/nowhere")


def out_by_two_links(file):
    file["out"] = h5py.ExternalLink("other.h5", "/")
    file["x"] = h5py.SoftLink("/out/x")


def around(file):
    file["x"] = h5py.SoftLink("/y")
    file["y"] = h5py.SoftLink("/x")


def never_written(file):
    file.create_dataset("x", shape=(10**5, 10**5), dtype="f4", chunks=(100, 100))


def never_allocated(file):
    file.create_dataset("x", shape=(10**4, 10**4), dtype="f8")


def one_block_of_many(file):
    file.create_dataset("x", (10**5, 10**5), "u1", chunks=(64, 64), compression="gzip")[:64] = 1


def one_block_too_large(file):
    file.create_dataset("x", (10**6, 10**3), "u1", chunks=(10**6, 10**3), compression="gzip")
    file["x"].id.write_direct_chunk((0, 0), b"x\x9c\x03\0\0\0\0\1")


FOREIGN = {
    external_link: "'/x' is a link into another file, 'other.h5'",
    external_link_within: "'/uns/deep/x' is a link into another file, '/etc/passwd\\\\n'",
    external_storage: "'/x' is stored in another file, 'raw.bin'",
    virtual: "'/x' is a virtual data set, made of other files",
    dangling: "'/x' is a link to nothing, '/nowhere'",
    out_by_two_links: "'/out' is a link into another file, 'other.h5'",
    around: "is a link to nothing, '/",
    never_written: "'/x' claims 40000000000 bytes, but at most 0 are stored",
    never_allocated: "'/x' claims 800000000 bytes, but at most 0 are stored",
    one_block_of_many: "'/x' claims 10000000000 bytes, but at most 6",
    one_block_too_large: "'/x' claims blocks of 1000000000 bytes, the file has ",
}


@pytest.mark.parametrize("make", FOREIGN)
@pytest.mark.parametrize("ending", [".h5", ".h5ad"])
def test_what_leads_out_or_claims_too_much_is_refused_by_every_reader(tmp_path, make, ending):
    path = tmp_path / f"set{ending}"
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.ones((40, 2), np.float32)
    with h5py.File(path, "w", libver="latest" if ending == ".h5" else None) as file:
        file["obs/y"] = np.arange(40) % 2
        make(file)
    with pytest.raises(ValueError, match=FOREIGN[make].replace("(", r"\(")) as error:
        data.load(str(path))
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def write_texts(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.ones((3, 2))
        file["y"] = np.array(["a", "bb", "ccc"], dtype=h5py.string_dtype())
    return path.read_bytes()


@pytest.mark.parametrize("damage", ["size", "object", "every"])
def test_a_heap_without_an_end_ends(tmp_path, damage, monkeypatch):
    """The library goes on for ever at an object of no size."""
    monkeypatch.setattr(checked_h5, "SECONDS", 1)
    path = tmp_path / "set.h5"
    content = bytearray(write_texts(path))
    heap = content.index(b"GCOL")
    for start, size in {"size": [(24, 8)], "object": [(16, 16)], "every": [(40, 16), (64, 16)]}[
        damage
    ]:
        content[heap + start : heap + start + size] = bytes(size)
    path.write_bytes(content)
    began = time.monotonic()
    message = "its structure has no end, not after 1 s of processor time"
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} .*{message}"):
        data.load(str(path))
    with pytest.raises(ValueError, match=message):
        checked_h5.check(path)
    assert time.monotonic() - began < 30  # and once, however busy the machine is


def test_links_inside_a_file_and_groups_in_circles_are_read(tmp_path):
    path = tmp_path / "set.h5"
    with h5py.File(path, "w") as file:
        file["inner/z"] = np.arange(80.0).reshape(40, 2)
        file["x"], file["y"] = h5py.SoftLink("/inner/z"), np.arange(40) % 2
        file["inner/again"] = file["/"]
    assert data.load(str(path)).sizes == {"x": 2, "y": 2}


def test_a_file_is_walked_once_until_it_changes(tmp_path, monkeypatch):
    walked = []
    monkeypatch.setattr(checked_h5, "_passes", lambda path, seconds: not walked.append(path))
    path = tmp_path / "set.h5"
    write_texts(path)
    for _ in range(3):
        checked_h5.check(path)
    assert walked == [str(path)]
    with h5py.File(path, "a") as file:
        file["more"] = np.ones(5)
    checked_h5.check(path)
    assert len(walked) == 2
    rows = np.eye(20, dtype=np.float32)
    data.open(data.write(data.Blocks("set", iter([{"x": rows}])), tmp_path / "own.h5"))
    assert len(walked) == 2  # what this process has written it need not walk


def test_what_the_system_says_comes_first(tmp_path):
    with pytest.raises(FileNotFoundError):
        checked_h5.check(tmp_path / "none.h5")
    with pytest.raises(IsADirectoryError):
        checked_h5.check(tmp_path)
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(ValueError, match="file signature not found"):
        checked_h5.check(tmp_path / "text.h5")


@pytest.mark.parametrize(
    "change", ["nothing", "copied", "written to", "replaced", "marked by others"]
)
def test_other_processes_know_what_was_written_here(tmp_path, monkeypatch, change):
    walked = []
    monkeypatch.setattr(checked_h5, "_passes", lambda path, seconds: not walked.append(path))
    path, other = tmp_path / "own.h5", tmp_path / "other.h5"
    rows = np.eye(20, dtype=np.float32)
    data.write(data.Blocks("set", iter([{"x": rows}])), path)
    try:
        mark = os.getxattr(path, checked_h5.MARK)
    except OSError:
        pytest.skip("this file system keeps no marks beside files")
    if change in ("copied", "marked by others"):
        path.rename(other)
        path.write_bytes(other.read_bytes())
        os.utime(path, ns=(other.stat().st_atime_ns, other.stat().st_mtime_ns))
    if change == "written to":
        with h5py.File(path, "a") as file:
            file.attrs["more"] = 1
    if change == "replaced":
        write_texts(path)
    if change == "marked by others":
        os.setxattr(path, checked_h5.MARK, mark)
    monkeypatch.setattr(checked_h5, "_walked", {})  # as in a new process
    checked_h5.check(path)
    assert walked == ([] if change == "nothing" else [str(path)])


@pytest.mark.parametrize("fault", ["raises", "hangs", "is killed"])
def test_a_fork_that_fails_has_not_the_last_word(tmp_path, monkeypatch, fault):
    def walk(path, seconds):
        if fault == "hangs":
            time.sleep(60)
        if fault == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("a lock of another thread")

    monkeypatch.setattr(checked_h5.h5_walk, "main", walk)
    monkeypatch.setattr(checked_h5, "PATIENCE", 0.2)
    path = tmp_path / "set.h5"
    write_texts(path)
    checked_h5.check(path)  # by a new process, which finds nothing wrong
    assert not checked_h5._passes(str(path), 2)
