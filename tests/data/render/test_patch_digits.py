"""Digits whose patch tells the label in training: what it says where, and how digits move."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ppl_models import data
from ppl_models.data.readers import digits
from ppl_models.data.render import patch_digits
from ppl_models.data.tables.seeds import numpy_generator

COUNTS = {"train": 600, "validation": 100, "test": 2000}


@pytest.fixture(scope="module")
def sets():
    return {p: data.load("patch_digits", patch=p, **COUNTS) for p in patch_digits.PATCHES}


def test_the_patch_says_what_was_asked_for(sets):
    for choice, d in sets.items():
        for table in (d.train, d.validation, d.test):
            x = table.sites["x"].reshape(-1, 10, 10)
            lit = table.sites["patch"]
            assert torch.equal(x[:, :2, :2], lit.float()[:, None, None].expand(-1, 2, 2))
            assert not bool(x[:, :2, 2:].any()) and not bool(x[:, 2:, :2].any())
            assert torch.equal(table.sites["y"], (table.sites["digit"] >= 5).long())
            right = (lit == table.sites["y"]).double().mean()
            says = choice if table is d.test else "label"
            if says == "random":
                assert abs(float(right) - 0.5) < 4 * 0.5 / 2000**0.5
            else:
                assert float(right) == (says == "label")


def test_the_digits_are_the_same_for_every_choice(sets):
    first, *others = (d.test.sites["x"].reshape(-1, 10, 10)[:, 2:] for d in sets.values())
    for other in others:
        assert torch.equal(first, other)
    train = [d.train.sites["x"] for d in sets.values()]
    assert torch.equal(train[0], train[1]) and torch.equal(train[0], train[2])


def test_a_table_of_known_shares(sets):
    d = data.load("patch_digits")
    assert [len(t) for t in (d.train, d.validation, d.test)] == [12_000, 1_000, 2_000]
    assert d.sizes == {"x": 100, "y": 2, "patch": 2, "digit": 10}
    assert d.train.shapes == {"x": (10, 10)}
    assert float(d.train.sites["y"].double().mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.bincount(d.train.sites["digit"]).tolist() == pytest.approx([1200] * 10, abs=40)
    # The source's digits fill all 8 rows: moves of 0.35 pixels on average cut an eighth of them.
    ink = d.train.sites["x"].reshape(-1, 10, 10)[:, 2:, 2:].sum((1, 2)).mean()
    source = digits.load().train.sites["x"].sum(1).mean()
    assert float(ink / source) == pytest.approx(0.879, abs=0.001)


def test_a_move_by_hand():
    """One pixel at the centre of 3 x 3, moved by part of a pixel, spreads over its neighbours."""

    class Fixed:
        def uniform(self, low, high, size):
            turn = np.zeros(1) if isinstance(size, int) else None
            return turn if turn is not None else np.array([0.25, -0.5]).reshape(size)

    image = np.zeros((1, 3, 3), np.float32)
    image[0, 1, 1] = 1
    found = patch_digits.moved(image, np.zeros(1, int), Fixed())
    hand = [[0, 0, 0], [0.375, 0.375, 0], [0.125, 0.125, 0]]  # down 0.25, left 0.5
    np.testing.assert_allclose(found[0], hand, atol=1e-6)


def test_a_turn_keeps_the_centre():
    image = np.zeros((1, 5, 5), np.float32)
    image[0, 2, 4] = 1  # right of the centre

    class Quarter:
        def uniform(self, low, high, size):
            return np.full(1, 90.0) if isinstance(size, int) else np.zeros(size)

    found = patch_digits.moved(image, np.zeros(1, int), Quarter())
    hand = np.zeros((5, 5))
    hand[0, 2] = 1  # above it
    np.testing.assert_allclose(found[0], hand, atol=1e-6)


def test_turns_and_moves_stay_in_their_range():
    draw = numpy_generator(0)
    image = np.zeros((1, 8, 8), np.float32)
    image[0, 3:5, 3:5] = 1
    found = patch_digits.moved(image, np.zeros(3000, int), draw)
    place = np.arange(8) - 3.5
    down = (found * place[:, None]).sum((1, 2)) / found.sum((1, 2))
    # Interpolation of a turned image moves its centre of mass by up to a hundredth more.
    assert 0.69 < np.abs(down).max() < 0.71
    assert abs(down.mean()) < 4 * 0.7 / 3**0.5 / 3000**0.5


def test_a_recipe_makes_it_again_and_labels_are_hidden():
    d = data.load("patch_digits", train=60, validation=9, test=9, labelled=20, patch="opposite")
    recipe = json.loads(json.dumps(d.recipe))
    assert recipe == d.recipe
    assert data.load(recipe["name"], **recipe["options"]).recipe == recipe
    assert int(d.train.observed["y"].sum()) == 20 and "patch" not in d.train.observed


def test_options_out_of_range():
    with pytest.raises(ValueError, match="unknown patch 'oposite': did you mean 'opposite'"):
        data.load("patch_digits", patch="oposite")
    with pytest.raises(ValueError, match="has 0 test rows, expected at least 1"):
        data.load("patch_digits", train=10, validation=10, test=0)
