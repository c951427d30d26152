"""Few-shot sets, stroke digits, faces and canvases."""

from __future__ import annotations

import itertools
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from ppl_models import data
from ppl_models.data.readers import mnist
from ppl_models.data.render import fewshot, strokes
from ppl_models.data.render.faces import canvases

FOLDER = Path(os.environ.get("PPL_DATA", "nowhere"))
needs_omniglot = pytest.mark.skipif(
    not (FOLDER / "omniglot" / "images_background_small2.zip").is_file(), reason="no Omniglot here"
)
has_mnist = all(mnist._file(FOLDER / "mnist", name) for name in mnist.MD5)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_sets_have_one_concept_and_no_image_twice():
    concept = rng().permutation(np.repeat([3, 5, 9], [4, 6, 20]))
    members = fewshot.sets(concept, 6000, 4, rng())
    of = concept[members]
    assert (of == of[:, :1]).all()
    assert all(len(set(row)) == 4 for row in members[:500].tolist())
    share = np.bincount(of[:, 0])[[3, 5, 9]] / 6000
    assert share == pytest.approx(1 / 3, abs=4 * (2 / 9 / 6000) ** 0.5)
    # within a concept each image is as likely
    counts = np.bincount(members[of[:, 0] == 5].ravel(), minlength=30)[concept == 5]
    mean = counts.mean()
    assert counts == pytest.approx(mean, abs=4.5 * (mean / 3) ** 0.5)
    with pytest.raises(ValueError, match="size is 5, expected 1 to 4, the images of concept 3"):
        fewshot.sets(concept, 10, 5, rng())


def test_episodes_keep_support_and_queries_apart():
    concept = rng().permutation(np.repeat(np.arange(8), 6))
    support, queries = fewshot.episode(concept, ways=5, shots=2, queries=3, generator=rng())
    assert support.shape == (5, 2)
    assert queries.shape == (5, 3)
    of = concept[np.hstack([support, queries])]
    assert (of == of[:, :1]).all()
    assert len(set(of[:, 0])) == 5
    assert len(np.unique(np.hstack([support, queries]))) == 25
    with pytest.raises(ValueError, match="ways is 9, expected 1 to 8 concepts"):
        fewshot.episode(concept, 9, 1, 1, rng())
    with pytest.raises(ValueError, match="shots and queries are 4 and 3, but a concept has 6"):
        fewshot.episode(concept, 2, 4, 3, rng())


def test_stroke_concepts_are_told_apart_and_new_in_the_test():
    d = data.load("few_shot", train=800, validation=50, test=300, source="strokes")
    assert d.train.shapes["x"] == (5, 14, 14)
    train, test = (set(t.sites["concept"].tolist()) for t in (d.train, d.test))
    assert not train & test
    assert {c % 10 for c in test} == set(range(10))
    # Drawings of one concept are more alike than those of the same digit in another hand.
    x, concept = d.test.sites["x"].reshape(-1, 5, 196), d.test.sites["concept"]
    within = (x[:, 0] - x[:, 1]).square().sum(1).mean()
    hands = [x[concept % 10 == k][:, 0] for k in range(10)]
    between = torch.stack(
        [torch.cdist(h, h).square().sum() / (len(h) * (len(h) - 1)) for h in hands]
    )
    assert float(within) < 0.7 * float(between.mean())


@needs_omniglot
def test_omniglot_sets_are_the_published_recipe(tmp_path):
    d = data.load("few_shot", train=3000, validation=20, test=200, size=20, source="omniglot")
    assert len(d.train.classes["concept"]) == 1888 + 56
    assert int(d.train.sites["concept"].max()) < 1888 <= int(d.test.sites["concept"].min())
    x = d.train.sites["x"].reshape(-1, 20, 14, 14)
    assert (x.amax((2, 3)) == 1).all()
    assert float(x.min()) == 0

    # a set of 20 is the whole concept: turned versions are turned pictures of the same
    def picture(concept):
        (row,) = (d.train.sites["concept"] == concept).nonzero()[0]
        return x[row].sum(0)

    of = {int(c) for c in d.train.sites["concept"]}
    base = next(c for c in range(236) if {c, c + 236, c + 4 * 236} <= of)
    plain, turned, mirrored = (picture(base + k * 236) for k in (0, 1, 4))
    assert torch.allclose(torch.rot90(plain), turned, atol=1e-5)
    assert torch.allclose(plain.flip(1), mirrored, atol=1e-5)
    names = d.train.classes["concept"]
    assert names[0] == "Balinese/character01 0"
    assert names[236 * 5] == "Balinese/character01 90 mirrored"
    assert len(set(names)) == len(names)  # Greek and Latin are in both zip files
    written = data.open(data.write(d, tmp_path / "sets.h5"))
    assert written.train.classes["concept"] == names


@pytest.mark.parametrize(
    "source",
    ["strokes", pytest.param("omniglot", marks=[needs_omniglot, pytest.mark.long]),
     pytest.param("mnist", marks=[pytest.mark.skipif(not has_mnist, reason="no MNIST here"),
                                  pytest.mark.long])],
)  # fmt: skip
def test_concepts_are_pools_of_their_drawings(source):
    d = data.load("concepts", source=source, size=20, test_size=5)
    parts = (d.train, d.validation, d.test)
    concepts = [set(t.sites["concept"].tolist()) for t in parts]
    if source == "mnist":
        assert concepts == [set(range(10))] * 3 and len(d.train.classes["concept"]) == 10
    else:  # unseen characters, and each with all that there is of it
        assert not any(a & b for a, b in itertools.combinations(concepts, 2))
        assert len(d.train) == len(concepts[0]) and len(d.test) == 4 * len(concepts[2])
        assert d.train.sites["x_there"].sum(1).eq(20).all()
    if source == "omniglot":  # neither a turned copy nor the other file's drawings of it are seen
        names = d.train.classes["concept"]
        known, own, _ = ({names[c].split()[0] for c in part} for part in concepts)
        assert not known & own and len(concepts[1]) > 8 * len(own) - 1 > 0
    for table, most in zip(parts, (20, 5, 5), strict=True):
        x, there = table.sites["x"], table.sites["x_there"]
        assert int(there.sum(1).max()) == most and x.shape[2] == 196
        grey = ((x > 0) & (x < 1)).any()
        assert bool(grey) == (table is d.train)
    real = d.train.sites["x"][d.train.sites["x_there"] > 0]
    # Greek and Latin are in both small sets, and some characters are their own mirror image.
    images, unique = {
        "strokes": (6020, 6020), "omniglot": (35580, 28436), "mnist": (57030, 57030)
    }[source]  # fmt: skip
    assert (len(real), len(real.unique(dim=0))) == (images, unique)
    brightest = real.amax(1)
    if source == "strokes":  # of seeds 0 to 9 the faintest image has 0.62
        assert float(brightest.min()) > 0.6
    else:
        assert bool((brightest == 1).all())


def test_few_shot_without_files(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "ppl_models.data.readers.files.folders", lambda name, root=None: [tmp_path]
    )
    d = data.load("few_shot", train=20, validation=5, test=5)
    assert d.recipe["options"]["source"] == "strokes"
    with pytest.raises(FileNotFoundError, match=r"put images_background_small1\.zip into"):
        data.load("few_shot", source="omniglot")


def test_ink_is_the_distance_to_the_nearest_stroke():
    segments = strokes.strokes(np.array([7]), np.eye(2)[None])
    image = strokes.ink(segments, np.array([0.08]), 12, 0.06)[0]
    corners = ((0.2, 0.1), (0.8, 0.1), (0.4, 0.9))
    for row, column in ((1, 5), (6, 7), (10, 2), (0, 0)):
        point = np.array([column + 0.5, row + 0.5]) / 12
        nearest = []
        for a, b in pairwise(corners):
            a, b = np.array(a), np.array(b)
            t = np.clip((point - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
            nearest.append(np.linalg.norm(point - a - t * (b - a)))
        expected = np.clip((0.08 - min(nearest)) / 0.06 + 0.5, 0, 1)
        assert image[row, column] == pytest.approx(expected, abs=1e-5)


def test_stroke_digits_follow_their_numbers():
    d = data.load("stroke_digits", train=3000, validation=10, test=10)
    s = d.train.sites
    assert torch.equal(s["thick"], (s["width"] > 0.08).long())
    for site, (low, high) in {
        "angle": (-0.5, 0.5),
        "scale": (0.7, 1.05),
        "width": (0.04, 0.12),
    }.items():
        error = 4 * (high - low) / 12**0.5 / 3000**0.5
        assert float(s[site].mean()) == pytest.approx((low + high) / 2, abs=error)
        assert low <= float(s[site].min())
        assert float(s[site].max()) <= high
    ink = s["x"].sum(1).double()
    ones = s["y"] == 1
    size = (s["width"] * s["scale"]).double()
    assert float(torch.corrcoef(torch.stack((ink[ones], size[ones])))[0, 1]) > 0.95
    # a 1 is nearly upright: its slope across rows is its angle
    x = s["x"][ones].reshape(-1, 12, 12).double()
    rows = torch.arange(12).double()
    weight = x / x.sum((1, 2), keepdim=True)
    dx, dy = (rows[None, None] - (weight * rows).sum((1, 2))[:, None, None],
              rows[:, None] - (weight * rows[:, None]).sum((1, 2))[:, None, None])  # fmt: skip
    slope = (weight * dx * dy).sum((1, 2)) / (weight * dy**2).sum((1, 2))
    assert float(torch.corrcoef(torch.stack((slope, s["angle"][ones].double())))[0, 1]) < -0.95


def test_faces_are_lambertian():
    d = data.load("faces", train=2000, validation=10, test=500)
    s = d.train.sites
    clean = s["albedo"] * s["shading"]
    assert float((s["x"] - clean).std()) == pytest.approx(0.05, rel=0.01)
    assert s["light"].norm(dim=1).sub(1).abs().max() < 1e-6
    azimuth = torch.atan2(s["light"][:, 0], s["light"][:, 2])
    elevation = torch.asin(s["light"][:, 1])
    assert 1.1 < float(azimuth.abs().max()) <= 1.2
    assert 0.75 < float(elevation.abs().max()) <= 0.8
    assert float(s["albedo"].min()) >= 0.35
    assert float(s["albedo"].max()) <= 0.95
    for who in range(8):
        rows = s["identity"] == who
        assert (s["albedo"][rows] == s["albedo"][rows][0]).all()
        # where no light is cut off, shading is linear in the light, by the unit normal
        lit = (s["shading"][rows] > 0).all(0).nonzero().flatten()[:1]
        for pixel in lit.tolist():
            normal = torch.linalg.lstsq(s["light"][rows], s["shading"][rows][:, pixel, None])[0]
            assert float(normal.norm()) == pytest.approx(1, abs=1e-4)
            assert float(normal[2]) > 0
    same = data.load("faces", train=20, validation=10, test=500).test.sites["albedo"].unique(dim=0)
    assert len(same) == 8
    with pytest.raises(ValueError, match="identities is 1, expected at least 2"):
        data.load("faces", identities=1)


@pytest.mark.parametrize("source", ["digits", *(["mnist"] if has_mnist else [])])
def test_canvases_have_as_many_digits_as_they_say(source):
    d = data.load("multi_digits", train=400, validation=20, test=40, source=source)
    assert torch.bincount(d.train.sites["count"]).tolist() == [100] * 4
    digits = torch.stack([d.train.sites[f"digit_{k}"] for k in range(3)], 1)
    assert torch.equal((digits < 10).sum(1), d.train.sites["count"])
    ink = d.train.sites["x"].sum(1)
    mean = torch.stack([ink[d.train.sites["count"] == c].mean() for c in range(4)])
    assert float(mean[0]) == 0
    assert (mean.diff() > 0.5 * mean[1]).all()
    assert d.train.shapes["x"] == (40, 40)


def test_digits_on_a_canvas_keep_their_shape():
    # A filled square of 14 x 14 comes out with scale x 14 pixels per side, within the canvas.
    images = np.full((300, 3, 14, 14), 255, np.uint8)
    there = np.tile([True, False, False], (300, 1))
    page = canvases(images, there, rng())
    rows, columns = ((page > 127).any(axis) for axis in (2, 1))
    for sides in (rows.sum(1), columns.sum(1)):
        assert 11 <= sides.min() <= 12
        assert 16 <= sides.max() <= 17
        assert sides.mean() == pytest.approx(14, abs=4 * 0.2 * 14 / 3**0.5 / 300**0.5 + 0.05)
    for side in (rows, columns):
        assert side[:, 0].any()
        assert side[:, 39].any()
