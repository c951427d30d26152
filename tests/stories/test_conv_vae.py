"""Images through a pair's whole life: shapes from the data, conv and residual networks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from worlds.pages import run_page
from worlds.whole_life import whole_life

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.commands.main import main
from ppl_models.pages import describe
from ppl_models.testing import PairContract

NAME = f"{Path(__file__).parents[1] / 'worlds' / 'stories' / 'conv_vae.py'}:ConvVAE"
SMALL = {"latent": 2, "channels": (8, 16), "hidden": (16,), "features": 8}


class TestConvVAE(PairContract):
    pair = NAME


class TestColoured(PairContract):
    pair = NAME
    settings = {"shape": (5, 8, 3), "networks": "residual"}  # noqa: RUF012


def images(shape, rows=60, **options):
    """Rows of a bright or a dark half, with labels."""
    generator = np.random.default_rng(0)
    y = np.arange(rows) % 2
    x = 0.2 * generator.random((rows, *shape), dtype=np.float32)
    x[:, : shape[0] // 2] += 0.7 * y.reshape(-1, *[1] * len(shape))
    return data.from_arrays(x=x, y=y, name="halves", **options)


@pytest.mark.parametrize("networks", ["conv", pytest.param("residual", marks=pytest.mark.long)])
def test_the_whole_life(networks, tmp_path):
    rows = images((6, 5, 3))
    run, found = whole_life(
        lambda: zoo.build(NAME, rows, networks=networks, **SMALL),
        rows,
        tmp_path,
        epochs=3,
        batch_size=16,
    )
    assert run.pair.config.shape == (6, 5, 3)
    assert found.attrs["x_shape"].tolist() == [6, 5, 3]
    again = inference.load(tmp_path / "run", NAME)
    assert asdict(again.pair.config) == asdict(run.pair.config)
    assert again.pair.schema.sites["x"].image == (6, 5, 3)


def test_bfloat16_comes_near(tmp_path):
    rows = images((8, 8))
    options = {"epochs": 3, "batch_size": 16, "progress": False, "device": "cpu"}
    full, half = (
        inference.fit(zoo.build(NAME, rows, **SMALL), rows, precision=precision, **options)
        for precision in ("full", "bf16")
    )
    one, other = (torch.tensor(run.history["loss"]) for run in (full, half))
    assert one.dtype == other.dtype and not torch.equal(one, other)
    torch.testing.assert_close(one, other, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((14, 4), r"images of shape \(14, 4\)"),
        ((7, 8, 2), r"images of shape \(7, 8, 2\)"),
        ((57,), r"rows of shape \(57,\)"),
    ],
)
def test_a_pair_refuses_images_of_another_shape(shape, words):
    pair = zoo.build(NAME, images((7, 8)), **SMALL)
    assert pair.schema.sites["x"].image == (7, 8)
    zeros = np.zeros((40, *shape), np.float32)
    other = data.from_arrays(x=zeros, y=np.arange(40) % 2, name="other")
    words = f"^site 'x' of other/train has {words}, but the pair was built for images of "
    with pytest.raises(ValueError, match=words + r"\(7, 8, 1\)$"):
        inference.fit(pair, other, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"^site 'x' of other/test has .*, but the pair was fit"):
        inference.label_probabilities(pair, other.test)
    same = images((7, 8, 1))  # one channel, said or not
    inference.fit(pair, same, epochs=1, progress=False, device="cpu")


def test_vectors_say_their_shape_by_data_or_setting(tmp_path, capsys):
    flat = images((56,))
    with pytest.raises(ValueError, match=r"conv_vae.*needs images at the site 'x', but the data"):
        zoo.build(NAME, flat)
    with pytest.raises(ValueError, match=r"has rows of shape \(56,\), but .* images of \(7, 7, 1"):
        zoo.build(NAME, flat, shape=(7, 7), **SMALL)
    with pytest.raises(ValueError, match=r"has images of shape \(7, 8\), but .* \(8, 7, 1\)"):
        zoo.build(NAME, images((7, 8)), shape=(8, 7, 1), **SMALL)
    with pytest.raises(ValueError, match=r"^shape is \(56,\), expected \(H, W, C\), each at"):
        zoo.build(NAME, flat, shape=(56,), **SMALL)
    said = zoo.build(NAME, flat, shape=(7, 8), **SMALL)
    told = zoo.build(NAME, images((56,), shapes={"x": (7, 8)}), **SMALL)
    assert asdict(said.config) == asdict(told.config) and said.config.shape == (7, 8, 1)
    assert said.schema.sites["x"].image == (7, 8, 1)
    with pytest.raises(ValueError, match="has images of shape"):  # said once, it holds
        inference.fit(said, images((8, 7)), epochs=1, progress=False)


def test_the_command_line_takes_a_shape(tmp_path, capsys):
    rows = images((56,), rows=40).train
    np.savez(tmp_path / "rows.npz", x=rows.sites["x"].numpy(), y=rows.sites["y"].numpy())
    words = ["fit", NAME, "--data", str(tmp_path / "rows.npz"), "--epochs", "1", "--json"]
    words += ["--channels", "8", "--hidden", "8", "--out", str(tmp_path / "run")]
    assert main(words) != 0
    assert "needs images at the site 'x'" in capsys.readouterr().err
    assert main([*words, "--shape", "7", "8", "1"]) == 0
    run = inference.load(tmp_path / "run", NAME)
    assert run.pair.config.shape == (7, 8, 1)
    with pytest.raises(SystemExit):
        main(["fit", NAME, "--data", "digits", "--help"])
    assert "H, W, C of x (default that of the data)" in capsys.readouterr().out
    page = describe.page(NAME)
    assert "taken from the shape of the data's `x`" in page
    assert f"Written in `{NAME.removesuffix(':ConvVAE')}`." in page


def test_the_page_of_the_docs_runs():
    scope = run_page("pictures")
    rows, shape = scope["rows"], scope["shape"]
    assert rows.shapes == {"x": shape}
    batch = next(rows.train.batches())
    z = scope["guide"](batch)["z"]
    assert scope["decoder"](z=z, y=batch["y"]).shape == batch["x"].shape
