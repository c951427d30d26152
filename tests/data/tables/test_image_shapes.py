"""What a table knows of images that stand flat in it, and that it never forgets it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from ppl_models import data
from ppl_models.data.tables.image_shapes import same, with_channels
from ppl_models.data.tables.schema import Schema
from ppl_models.data.tables.table import Table

N = 24
SHAPES = [(3, 4), (3, 4, 1), (3, 4, 3), (7, 6, 5), (2, 5, 5)]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((28, 28), (28, 28, 1)),
        ((4, 9, 1), (4, 9, 1)),
        ((2, 3, 3), (2, 3, 3)),
        ((64, 64, 13), (64, 64, 13)),
        ((5, 14, 14), None),  # five images
        ((40, 14, 14), None),
        ((2, 3, 4), None),
        ((9,), None),
        ((2, 8, 8, 3), None),
    ],
)
def test_height_width_channels(shape, expected):
    assert with_channels(shape) == expected
    assert same(shape, list(shape))
    assert not same(shape, (*shape, 2))
    assert expected is None or same(shape, expected)


@pytest.fixture(params=["array", "uint8", "torch", "said"])
def kind(request):
    return request.param


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_table_knows_its_images_through_everything(shape, kind, tmp_path):
    raw = np.random.default_rng(0).integers(0, 256, (N, *shape)).astype(np.uint8)
    given = {
        "array": raw.astype(np.float32) / 255,
        "uint8": raw,
        "torch": torch.from_numpy(raw).float() / 255,
        "said": (raw.astype(np.float32) / 255).reshape(N, -1),
    }[kind]
    y = np.arange(N) % 3
    said = {"x": shape} if kind == "said" else None
    made = data.from_arrays(x=given, y=y, labelled=6, shapes=said, name="own")
    assert made.shapes == {"x": shape}
    x = made.train.sites["x"]
    assert x.shape == (len(made.train), np.prod(shape))
    flat = torch.from_numpy(raw.astype(np.float32).reshape(N, -1))
    flat = flat if kind == "uint8" else flat / 255
    rows = made.train.numbers
    assert torch.equal(x, flat[rows])  # the channels of a pixel beside each other
    table = made.train
    data.write(made, tmp_path / "own.h5")
    read = data.open(tmp_path / "own.h5")
    seen = torch.arange(len(table)) % 2 == 0
    for one in (
        made.validation,
        made.test,
        table.rows(seen),
        table.where_observed("y"),
        table.only("x"),
        table.without("y"),
        table.hide({"x": seen}),
        table.hide({"x": seen}).where_observed("x"),
        table.to(torch.float64),
        pickle.loads(pickle.dumps(table)),
        table.replace(name="other"),
        Schema.of(table).bring(Table("bare", {"x": x})),
        *(read.train, read.test, read.train.rows(seen), read.train.only("x")),
        data.open(data.write(read, tmp_path / "again.h5")).test,
    ):
        assert one.shapes == {"x": shape}, one
    assert table.only("y").shapes == {}


def test_one_channel_is_none():
    x = torch.zeros(2, 6)
    grey, one = (
        Table("t", {"x": x}, shapes={"x": (2, 3)}),
        Table("t", {"x": x}, shapes={"x": (2, 3, 1)}),
    )
    assert Schema.of(grey).bring(one).shapes == {"x": (2, 3)}
    assert Schema.of(one).bring(grey).shapes == {"x": (2, 3, 1)}


def test_images_that_a_pair_was_built_for():
    x = torch.zeros(2, 12)
    told = Schema.of(Table("t", {"x": x})).of_images("t", "x", (2, 3, 2))
    assert told.sites["x"].image == (2, 3, 2)
    assert Schema.of(Table("t", {"x": x}, shapes={"x": (3, 4)})).of_images(
        "t", "x", (3, 4, 1)
    ).sites["x"].image == (3, 4)
    line = (
        r"^site 'x' of t has rows of shape \(12,\), but the pair was built for images of \(2, 3, 1"
    )
    with pytest.raises(ValueError, match=line):
        Schema.of(Table("t", {"x": x})).of_images("t", "x", (2, 3, 1))


@pytest.mark.parametrize("most", [1, 5])
def test_images_of_the_elements_of_a_set(most):
    of = Schema.of(Table("t", {"x": torch.zeros(2, most, 12)}))
    told = of.of_images("t", "x", (2, 3, 2), elements=True)
    assert told.sites["x"].shape == (most, 12) and told.sites["x"].image == ()
    line = (
        rf"^site 'x' of t has rows of shape \({most}, 12\), but the pair was built for images of "
        r"\(2, 3, 1\)$"
    )
    with pytest.raises(ValueError, match=line):
        of.of_images("t", "x", (2, 3, 1), elements=True)
    with pytest.raises(ValueError, match="has rows of shape"):
        of.of_images("t", "x", (2, 3, 2))
