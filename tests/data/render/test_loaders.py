"""All rendered sets by name: recipes make them again, seeds matter, contact sheets show them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ppl_models import data
from ppl_models.data import catalogue
from ppl_models.data.catalogue import factor_data
from ppl_models.data.render import contact_sheet

FEW = {"train": 6, "validation": 3, "test": 4}
SMALL = {
    **dict.fromkeys(
        (
            "beamsynthesis",
            "blob",
            "boxhead",
            "candle_like",
            "captions",
            "circle",
            "color_dsprites",
            "dsprites",
            "entangled_vectors",
            "faces",
            "ica_segments",
            "mini_dsprites",
            "moons",
            "noisy_dsprites",
            "noisy_images",
            "paired_digits",
            "patch_digits",
            "pendulum_vectors",
            "stroke_digits",
            "textured_dsprites",
            "xyobject",
            "xysquare",
            "xysquares",
        ),
        FEW,
    ),
    "bright_digits": {**FEW, "source": "digits"},
    "ball_in_boxes": {**FEW, "side": 8},
    "correlated_digits": {**FEW, "source": "digits"},
    "concepts": {"source": "strokes", "size": [2, 5]},
    "few_shot": {**FEW, "source": "strokes"},
    "glyphs": {**FEW, "labelled": 2},
    "interventional_pong": {**FEW, "side": 8},
    "morpho_mnist": {**FEW, "source": "digits"},
    "multi_digits": {**FEW, "source": "digits"},
    "outliers": {**FEW, "labelled": None},
    "pendulum": {"side": 4},
    "pendulum_dear": {"side": 4},
    "perturb_sim": {"perturbations": 5, "cells": 12, "validation": 6, "test": 6},
    "shapes3d_like": FEW,
    "spectra": {"labelled": 10, "unlabelled": 6, "validation": 3, "test": 4},
}


def test_all_rendered_sets_are_named():
    rendered = {n for n, where in catalogue.LOADERS.items() if ".render." in where}
    assert rendered == set(SMALL)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_recipe_makes_a_set_again(name):
    d = data.load(name, **SMALL[name])
    recipe = json.loads(json.dumps(d.recipe))
    assert recipe == d.recipe
    assert recipe["name"] == name
    assert data.load(name, **recipe["options"]).recipe == recipe
    other = data.load(name, **{**recipe["options"], "seed": 1})
    assert other.recipe["digest"] != recipe["digest"]
    for table in (d.train, d.validation, d.test):
        for site in table.shapes:
            assert table.sites[site].dtype == torch.float32


PAGE = Path(__file__).parents[3] / "docs" / "data.md"
PICTURELESS = {
    "captions", "circle", "concepts", "digits", "entangled_vectors", "ica_segments", "moons",
    "pendulum_vectors", "spectra",
}  # fmt: skip


def test_each_set_of_the_docs_has_its_sheet():
    text = PAGE.read_text()
    listed = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert set(SMALL) | PICTURELESS <= listed <= set(catalogue.LOADERS)
    pictured = listed - PICTURELESS
    assert pictured == set(re.findall(r"^!\[.+\]\(data/(\w+)\.png\)$", text, re.MULTILINE))
    assert pictured == {p.stem for p in (PAGE.parent / "data").glob("*.png")}
    for name in pictured:
        with Image.open(PAGE.parent / "data" / f"{name}.png") as image:
            page = np.asarray(image.convert("L"), np.float32)
        assert len(np.unique(page)) > 2 and page.std() > 20, name


def test_a_sheet_lays_images_side_by_side():
    images = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3)
    page = contact_sheet.sheet(images, columns=3, gap=1)
    assert page.shape == (2 * 3 + 1, 3 * 4 + 1, 3)
    for place, (top, left) in enumerate(((1, 1), (1, 5), (1, 9), (4, 1), (4, 5))):
        for channel in range(3):
            assert (page[top : top + 2, left : left + 3, channel] == images[place]).all()
    assert (page[4:, 9:] == 128).all()
    floats = np.array([[[-1.0, 0.5], [np.nan, 2.0]]])
    assert contact_sheet.sheet(floats, gap=0)[..., 0].tolist() == [[0, 128], [0, 255]]
    with pytest.raises(ValueError, match=r"shape \(2, 2\), expected \(n, h, w\)"):
        contact_sheet.sheet(np.zeros((2, 2)))


def test_strips_show_all_images_of_a_row():
    d = data.load("few_shot", train=8, validation=2, test=2, source="strokes")
    page = contact_sheet.strips(d.train, rows=4)
    assert page.shape == (4, 14, 5 * 15 - 1, 3)
    chosen = d.train.sites["x"][[0, 2, 4, 7]].reshape(4, 5, 14, 14).numpy()
    for k in range(5):
        assert (page[:, :, 15 * k : 15 * k + 14, 1] == chosen[:, k]).all()
    colour = data.load("xysquares", **FEW).train
    assert (contact_sheet.strips(colour, 6).reshape(6, -1) == colour.sites["x"].numpy()).all()
    two = data.load("paired_digits", train=8, validation=2, test=2).train
    page = contact_sheet.strips(two, 8)
    assert page.shape == (8, 12, 21, 3)
    assert (page[:, 8:, :8] == 0.5).all()  # below the smaller image
    with pytest.raises(ValueError, match="captions/train has no images, only s, t, crown"):
        contact_sheet.strips(data.load("captions", **FEW).train)


def test_a_saved_sheet_is_what_was_laid_out(tmp_path):
    images = factor_data("xysquares").render(np.array([[0, 1, 2, 3, 4, 5], [7] * 6]), None)
    contact_sheet.save(tmp_path / "sheet.png", images, zoom=2)
    with Image.open(tmp_path / "sheet.png") as saved:
        page = np.asarray(saved.convert("RGB"))
    assert (page[::2, ::2] == contact_sheet.sheet(images)).all()
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]
