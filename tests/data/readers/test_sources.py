"""Sets made from files: other files make another set, and a file of another kind says so."""

from __future__ import annotations

import functools
import gzip
import inspect
import io
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from ppl_models import data
from ppl_models.commands.main import main
from ppl_models.data import catalogue
from ppl_models.data.readers import mnist
from ppl_models.data.store import built_sets

ROWS = {"train": 60, "t10k": 20}  # of a small MNIST
SIZES = {"train": 6, "validation": 4, "test": 6}


def write_mnist(folder, side):
    """Digits that are white squares, in files whose size does not depend on them."""
    folder.mkdir(exist_ok=True)
    for part, rows in ROWS.items():
        x = np.zeros((rows, 28, 28), np.uint8)
        x[:, 8 : 8 + side, 8 : 8 + side] = 255
        y = (np.arange(rows) % 10).astype(np.uint8)
        for what, array in (("images-idx3", x), ("labels-idx1", y)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (folder / f"{part}-{what}-ubyte").write_bytes(head + array.tobytes())


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A data folder for a small MNIST, and a network on which nobody answers."""
    monkeypatch.setenv("PPL_DATA", str(tmp_path))
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")
    monkeypatch.setattr(mnist, "URL", "http://127.0.0.1:9/")
    monkeypatch.setattr(mnist, "ROWS", ROWS)
    monkeypatch.setattr(mnist, "HELD_OUT", 20)
    whole = functools.partial(mnist.load, train=40, validation=20, test=20)
    monkeypatch.setattr(mnist, "load", whole)
    return tmp_path


def build(capsys, name, **options):
    words = [f"--{option}={value}" for option, value in (SIZES | options).items()]
    assert main(["data", "build", name, *words, "--json"]) == 0
    path = json.loads(capsys.readouterr().out)["file"]
    return path, os.stat(path).st_ino, data.open(path).train.sites["x"][:]


@pytest.mark.parametrize("name", ["mnist", "morpho_mnist", "multi_digits"])
def test_a_changed_source_makes_another_set(capsys, own, name):
    write_mnist(own / "mnist", side=6)
    first, inode, x = build(capsys, name)
    again, same_inode, same = build(capsys, name)
    assert (again, same_inode) == (first, inode)  # not built again
    assert torch.equal(same, x)
    write_mnist(own / "mnist", side=12)
    second, _, changed = build(capsys, name)
    assert second != first
    assert torch.equal(changed, data.load(name, **SIZES).train.sites["x"])
    assert not torch.equal(changed, x)


def test_a_set_made_without_files_is_made_again_once_they_are_there(capsys, own):
    first, _, x = build(capsys, "morpho_mnist")
    digits = build(capsys, "morpho_mnist", source="digits")
    assert torch.equal(digits[2], x)
    write_mnist(own / "mnist", side=12)
    second, _, found = build(capsys, "morpho_mnist")
    assert second != first
    assert torch.equal(found, data.load("morpho_mnist", **SIZES, source="mnist").train.sites["x"])
    assert build(capsys, "morpho_mnist", source="digits")[:2] == digits[:2]


def plain(content):
    return content


def zipped(content):
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("a"), content)
        archive.writestr(zipfile.ZipInfo("b"), np.random.default_rng(0).bytes(1 << 17))
    return file.getvalue()


@pytest.mark.parametrize("pack", [plain, zipped, lambda content: gzip.compress(content, mtime=0)])
def test_what_tells_files_apart(tmp_path, pack):
    path, kept, draw = tmp_path / "source", tmp_path / "kept", np.random.default_rng(0)
    content = bytearray(draw.bytes(1 << 18))
    path.write_bytes(pack(content))
    os.utime(path, ns=(0, 10**18))
    shutil.copy2(path, kept)
    was = built_sets.identity(path)
    assert built_sets.identity(path) == was
    content[1000] ^= 1
    path.write_bytes(pack(content))
    assert path.stat().st_size == kept.stat().st_size
    assert built_sets.identity(path) != was  # for its time
    os.utime(path, ns=(0, 10**18))
    # Under the old time, too, where the file ends with a checksum.
    assert (built_sets.identity(path) != was) == (pack is not plain)
    os.replace(kept, path)
    assert built_sets.identity(path) == was


def test_every_set_of_files_says_which(own):
    loaders = {name: data.loader(name) for name in data.names()}
    rooted = {n for n, load in loaders.items() if "root" in inspect.signature(load).parameters}
    modules = {n: sys.modules[catalogue.LOADERS[n].partition(":")[0]] for n in loaders}
    handwritten = {n for n, m in modules.items() if hasattr(m, "handwritten")} - {"faces"}
    assert rooted | handwritten == set(catalogue.SOURCES)
    for name in rooted:  # what is asked for must be there; what may be made otherwise need not
        with pytest.raises(FileNotFoundError, match=r"is not there: put .* into .*nowhere"):
            data.sources(name, root=str(own / "nowhere"), labelled=3)
    assert data.sources("few_shot") == data.sources("morpho_mnist") == []
    assert data.sources("dsprites", train=5) == data.sources("none.h5") == []
    for name in ("images_background_small1.zip", "images_background_small2.zip"):
        (own / name).touch()
    assert [p.name for p in data.sources("few_shot")] == sorted(p.name for p in own.glob("*.zip"))
    assert data.sources("few_shot", source="strokes") == []
    (own / "mine.npz").touch()
    assert data.sources(str(own / "mine.npz")) == [own / "mine.npz"]


@pytest.mark.parametrize(
    ("ending", "kind", "words"),
    [
        (
            ".h5ad",
            "store",
            r"expected an h5ad file of AnnData with 'X' \(it is a file of data.write with sites "
            r"x, y: name it .h5\)",
        ),
        (".h5ad", "arrays", r"expected an h5ad file of AnnData .*\(no 'X'; there is x, y\)"),
        (".h5ad", "npz", r"expected an h5ad file of AnnData .*signature not found"),
        (".h5", "anndata", r"expected an h5 file .*\(it is a file of AnnData: name it .h5ad\)"),
        (".h5", "npz", r"is damaged, or no file of data.write: .*signature not found"),
        (".npz", "store", r"expected an .npz .*not a zip file"),
    ],
)
def test_a_file_of_another_kind_says_so(tmp_path, ending, kind, words):
    path = tmp_path / f"set{ending}"
    x, y = np.eye(20, dtype=np.float32), np.arange(20) % 2
    if kind == "store":
        data.write(data.Blocks("set", iter([{"x": x, "y": y}]), classes={"y": 2}), path)
    elif kind == "npz":
        np.savez(tmp_path / "arrays.npz", x=x, y=y)
        Path(tmp_path / "arrays.npz").rename(path)
    else:
        with h5py.File(path, "w") as file:
            for name in ("X", "obs/gene", "var/name") if kind == "anndata" else ("x", "y"):
                file[name] = x if name in "xX" else y
    with pytest.raises(ValueError, match=words) as error:
        data.load(str(path))
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
