"""The data sets themselves: counts, known values, where MNIST is looked for, errors."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import inspect
import json
import os
import pydoc
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest, uniform

from ppl_models import data
from ppl_models.data.readers import mnist

FOLDER = Path(os.environ.get("PPL_DATA", "nowhere")) / "mnist"
needs_mnist = pytest.mark.skipif(
    not all(mnist._file(FOLDER, name) for name in mnist.MD5),
    reason="no MNIST under $PPL_DATA/mnist",
)


def test_digits():
    d = data.load("digits", labelled=100, seed=3)
    assert [len(t) for t in (d.train, d.validation, d.test)] == [1197, 200, 400]
    numbers = torch.cat([t.numbers for t in (d.train, d.validation, d.test)])
    assert torch.equal(numbers.sort().values, torch.arange(1797))
    x = torch.cat([t.sites["x"] for t in (d.train, d.validation, d.test)])[numbers.argsort()]
    assert x.dtype == torch.float32
    assert float(x.max()) == 1.0
    # the first image of the source, its second row of dark pixels out of 16
    assert (x[0, 8:16] * 16).tolist() == [0, 0, 13, 15, 10, 15, 5, 0]
    assert int(x.double().mul(16).sum()) == 561_718
    assert d.sizes == {"x": 64, "y": 10}
    assert d.train.shapes == {"x": (8, 8)}
    seen = d.train.observed["y"]
    assert torch.bincount(d.train.sites["y"][seen]).tolist() == [10] * 10
    assert (d.train.sites["y"][~seen] == -1).all()
    assert "y" not in d.validation.observed
    assert "y" not in d.test.observed
    assert torch.bincount(d.test.sites["y"]).tolist() == pytest.approx([40] * 10, abs=2)


def test_digits_of_random_ink():
    plain, inked = data.load("digits", seed=3), data.load("digits", seed=3, ink=(0.4, 1))
    level = inked.train.sites["ink"]
    expected = level.unsqueeze(-1) * plain.train.sites["x"]
    assert torch.equal(inked.train.sites["x"], expected)
    assert torch.equal(inked.train.sites["y"], plain.train.sites["y"])
    assert kstest(level.numpy(), uniform(0.4, 0.6).cdf).pvalue > 0.01
    again = data.load("digits", **inked.recipe["options"])
    assert again.recipe == inked.recipe
    assert "ink" not in plain.recipe["options"]


def test_a_recipe_makes_the_data_again():
    d = data.load("digits", labelled=50, seed=5, test=300)
    recipe = json.loads(json.dumps(d.recipe))
    assert recipe == d.recipe
    again = data.load(recipe["name"], **recipe["options"])
    assert again.recipe == recipe
    assert torch.equal(again.train.sites["y"], d.train.sites["y"])
    for change in ({"seed": 6}, {"labelled": 60}, {"labelled": None}):
        other = data.load("digits", **{**recipe["options"], **change})
        assert other.recipe["digest"] != recipe["digest"]
    assert set(recipe) == {"name", "options", "seed", "version", "digest"}


def test_unknown_names_and_options():
    with pytest.raises(ValueError, match=r"'digit': did you mean 'digits'\?.*npz"):
        data.load("digit")
    with pytest.raises(ValueError, match=r"option of digits 'labeled': did you mean 'labelled'\?"):
        data.load("digits", labeled=100)
    for name in data.names():
        parameters = inspect.signature(data.loader(name)).parameters.values()
        assert all(p.default is not p.empty for p in parameters)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labelled": 5}, "labelled is 5, expected at least one row per class"),
        ({"labelled": 5000}, "only 1197 rows have a label"),
        ({"train": 2000}, "need 2600 rows, but there are 1797"),
        ({"seed": -2}, "seed is -2"),
        ({"ink": (0.0, 1.0)}, r"ink is \(0.0, 1.0\), expected two numbers with 0 < low <= high"),
        ({"ink": 0.5}, "ink is 0.5, expected two numbers"),
    ],
)
def test_digits_options_out_of_range(options, words):
    with pytest.raises(ValueError, match=words):
        data.load("digits", **options)


def test_the_loader_of_a_file_shows_the_options_of_its_reader():
    loader = data.loader("cells.h5ad")
    options = inspect.signature(loader).parameters
    assert list(options)[:3] == ["labels", "layer", "counts"] and options["layer"].default == "X"
    text = pydoc.plain(pydoc.render_doc(loader))
    assert "load_file(labels: " in text and "library: A site of this name" in text


def test_importing_data_is_light():
    code = "import sys, ppl_models.data; print({'sklearn', 'pooch', 'pandas'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@needs_mnist
def test_mnist():
    d = data.load("mnist", labelled=100)
    assert [len(t) for t in (d.train, d.validation, d.test)] == [50_000, 10_000, 10_000]
    assert d.train.numbers.tolist() == list(range(50_000))
    assert (d.validation.numbers[0], d.test.numbers[0]) == (50_000, 60_000)
    # the official files: first digits, and a known row of the first "5"
    assert d.test.sites["y"][:5].tolist() == [7, 2, 1, 0, 4]
    assert (d.train.sites["x"][0].reshape(28, 28)[5, 12:20] * 255).round().tolist() == [
        3, 18, 18, 18, 126, 136, 175, 26,
    ]  # fmt: skip
    # of all 60,000 training images, as printed in many tutorials
    mean = (d.train.sites["x"].double().mean() * 5 + d.validation.sites["x"].double().mean()) / 6
    assert float(mean) == pytest.approx(0.1307, abs=5e-5)
    assert torch.bincount(d.test.sites["y"]).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    seen = d.train.observed["y"]
    assert torch.bincount(d.train.sites["y"][seen]).tolist() == [10] * 10
    assert d.sizes == {"x": 784, "y": 10}


@needs_mnist
def test_the_content_is_that_of_the_official_files():
    official = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }
    for name, md5 in official.items():
        path = mnist._file(FOLDER, name)
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        assert hashlib.md5(content).hexdigest() == md5


@needs_mnist
def test_small_mnist_is_pooled_and_stratified():
    d = data.load("mnist", root=FOLDER, side=14, train=3100, validation=500, test=2000, seed=4)
    assert [len(t) for t in (d.train, d.validation, d.test)] == [3100, 500, 2000]
    assert d.train.shapes == {"x": (14, 14)}
    full = data.load("mnist", root=FOLDER, train=50_000)
    row = int(d.train.numbers[17])
    image = full.train.sites["x"][row].reshape(14, 2, 14, 2).mean((1, 3))
    torch.testing.assert_close(d.train.sites["x"][17].reshape(14, 14), image)
    assert d.train.sites["y"][17] == full.train.sites["y"][row]
    share = torch.bincount(full.train.sites["y"]) / 50_000
    assert (torch.bincount(d.train.sites["y"]) - 3100 * share).abs().max() <= 2
    json.dumps(d.recipe)


def fake_mnist(folder, names=tuple(mnist.MD5), zipped=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        rows = 60_000 if name.startswith("train") else 10_000
        shape = (rows, 28, 28) if "images" in name else (rows,)
        content = bytes([0, 0, 8, len(shape)])
        content += b"".join(n.to_bytes(4, "big") for n in shape)
        content += (np.arange(np.prod(shape)) % 10).astype(np.uint8).tobytes()
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1, mtime=0))
        else:
            (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """No data folder, an empty cache, and a network on which nobody answers."""
    monkeypatch.delenv("PPL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mnist, "URL", "http://127.0.0.1:9/")
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)
    return tmp_path


def test_mnist_offline_fails_fast_and_says_what_to_do(elsewhere):
    began = time.monotonic()
    with pytest.raises(FileNotFoundError) as error:
        data.load("mnist")
    assert time.monotonic() - began < 5
    message = str(error.value)
    assert "\n" not in message
    for word in (*mnist.MD5, str(elsewhere / "cache" / "ppl-models" / "mnist"), "root=", "failed"):
        assert word in message
    assert not [p for p in (elsewhere / "cache").rglob("*") if p.is_file()]


def test_mnist_is_looked_for_in_order(elsewhere, monkeypatch):
    env, flat, cache = (elsewhere / n for n in ("env", "flat", "cache"))
    for folder in (env / "mnist", flat, cache / "ppl-models" / "mnist"):
        folder.mkdir(parents=True)
        for name in mnist.MD5:
            (folder / name).touch()
    assert mnist._find(None) == cache / "ppl-models" / "mnist"
    monkeypatch.setenv("PPL_DATA", str(flat))
    assert mnist._find(None) == flat
    monkeypatch.setenv("PPL_DATA", str(env))
    assert mnist._find(None) == env / "mnist"
    assert mnist._find(str(flat)) == flat
    (flat / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"put t10k-labels-idx1-ubyte \(or .gz\) into"):
        mnist._find(str(flat))


def test_a_damaged_mnist_file_is_named(elsewhere):
    folder = fake_mnist(elsewhere / "own")
    assert data.load("mnist", root=str(folder), train=20, test=20, validation=20).sizes["x"] == 784
    fake_mnist(folder, ["train-labels-idx1-ubyte"])
    labels = folder / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte: truncated, 92 bytes"):
        data.load("mnist", root=str(folder))
    (folder / "train-images-idx3-ubyte").write_bytes(
        bytes([0, 0, 8, 3]) + (60_000).to_bytes(4, "big") + b"\0\0\0\1\0\0\0\1" + bytes(60_000)
    )
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte: .*expected uint8 of shape"):
        data.load("mnist", root=str(folder))
    with pytest.raises(ValueError, match="side is 20, expected 28 or 14"):
        data.load("mnist", side=20)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_download_with_checksum(elsewhere, monkeypatch):
    source = fake_mnist(elsewhere / "server", zipped=True)
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Quiet, directory=source)
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setattr(mnist, "URL", f"http://127.0.0.1:{server.server_port}/")
        cache = elsewhere / "cache" / "ppl-models" / "mnist"
        with pytest.raises(FileNotFoundError, match=r"(?i)hash of downloaded file") as error:
            data.load("mnist")
        assert "\n" not in str(error.value)
        assert not list(cache.iterdir())  # the wrong file is not kept
        sums = {
            name: hashlib.md5((source / f"{name}.gz").read_bytes()).hexdigest()
            for name in mnist.MD5
        }
        monkeypatch.setattr(mnist, "MD5", sums)
        d = data.load("mnist", train=100, validation=100, test=100, labelled=30)
        assert sorted(p.name for p in cache.iterdir()) == sorted(f"{n}.gz" for n in sums)
        assert int(d.train.observed["y"].sum()) == 30
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    data.load("mnist", train=100, validation=100, test=100)  # now from the cache
