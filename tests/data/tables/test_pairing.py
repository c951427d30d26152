"""Pairs of two sets by class, and patterns of what is missing: exact counts, seeds, recipes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ppl_models import data
from ppl_models.data.tables.pairing import zipped

NAMES = ("a", "b", "c", "d")


def labelled(counts, offset, splits=(0.6, 0.2, 0.2), classes=NAMES, **more):
    """Rows that tell themselves: x is (number, class)."""
    y = np.repeat(np.arange(len(counts)), counts)
    x = np.stack([np.arange(len(y)) + offset, y], 1).astype(np.float32)
    return data.from_arrays(x, y, classes={"y": classes}, splits=splits, seed=offset, **more)


ONE = labelled((20, 40, 30, 0), 0)
OTHER = labelled((50, 10, 0, 30), 1000)
PARTS = ("train", "validation", "test")


def test_each_row_is_used_once_as_often_as_both_have_its_class():
    d = data.pair_by_class(ONE, OTHER, seed=3)
    assert list(d.train.sites) == ["s", "t", "y"]
    numbers = torch.cat([getattr(d, part).numbers for part in PARTS])
    assert torch.equal(numbers, torch.arange(len(numbers)))
    for part in PARTS:
        made, one, other = (getattr(v, part) for v in (d, ONE, OTHER))
        counts = [torch.bincount(t.sites["y"], minlength=4) for t in (one, other, made)]
        assert torch.equal(counts[2], torch.minimum(counts[0], counts[1]))
        for site, source in (("s", one), ("t", other)):
            x = made.sites[site]
            assert torch.equal(x[:, 1].long(), made.sites["y"])
            assert len(x[:, 0].unique()) == len(x)
            # of the same part: no row is in two splits
            assert bool(torch.isin(x[:, 0], source.sites["x"][:, 0]).all())
    assert d.train.classes["y"] == NAMES
    assert not torch.equal(d.train.sites["y"], d.train.sites["y"].sort().values)
    again, another = data.pair_by_class(ONE, OTHER, seed=3), data.pair_by_class(ONE, OTHER, seed=4)
    assert torch.equal(again.train.sites["t"], d.train.sites["t"])
    assert not torch.equal(another.train.sites["t"], d.train.sites["t"])


@pytest.mark.parametrize("pairs", [500, (500, 30, 40)])
def test_many_pairs_use_rows_in_turn_beside_any_of_their_class(pairs):
    d = data.pair_by_class(ONE, OTHER, pairs=pairs, seed=1)
    assert len(d.train) == 500
    if pairs == 500:
        assert len(d.test) == len(data.pair_by_class(ONE, OTHER).test)
    else:
        assert (len(d.validation), len(d.test)) == (30, 40)
    s, t = d.train.sites["s"], d.train.sites["t"]
    assert torch.equal(s[:, 1], t[:, 1])
    used = s[:, 0].unique(return_counts=True)[1]
    shared = int((ONE.train.sites["y"] < 2).sum())  # classes c and d are in one set only
    assert len(used) == shared and int(used.max() - used.min()) <= 1
    assert bool(torch.isin(t[:, 0], OTHER.train.sites["x"][:, 0]).all())


def test_partners_are_uniform_among_those_of_the_class():
    first, second = np.array([0, 0, 1]), np.array([1, 0, 0, 0, 7])
    left, right = zipped(first, second, np.random.default_rng(0), 12_000)
    met = np.zeros((3, 5))
    np.add.at(met, (left, right), 1)
    expected = np.array([[0, 4, 4, 4, 0], [0, 4, 4, 4, 0], [12, 0, 0, 0, 0]]) * 1000 / 3
    assert np.abs(met - expected).max() < 4.5 * (4000 * 2 / 9) ** 0.5
    assert (met[2] == expected[2]).all()
    assert [len(v) for v in zipped(first, second + 9, np.random.default_rng(0), 5)] == [0, 0]
    assert [len(v) for v in zipped(first, second + 9, np.random.default_rng(0))] == [0, 0]


def test_classes_by_other_names_and_hidden_labels():
    other = labelled((50, 10, 0, 30), 1000, classes=("w", "x", "y", "z"))
    with pytest.raises(ValueError, match=r"no class of 'y' by one name; say which go together"):
        data.pair_by_class(ONE, other)
    d = data.pair_by_class(ONE, other, classes={"a": "z", "b": "w"})
    s, t = d.train.sites["s"][:, 1], d.train.sites["t"][:, 1]
    assert set(zip(s.tolist(), t.tolist(), strict=True)) == {(0, 3), (1, 0)}
    assert d.train.classes["y"] == NAMES
    few = data.supervise(ONE, {"y": {"a": 5}}, 0)
    assert int((data.pair_by_class(few, OTHER).train.sites["y"] == 0).sum()) == 5
    hidden = data.supervise(ONE, {"x": 0.5}, 0)
    paired = data.pair_by_class(hidden, OTHER).train
    assert 0 < paired.counts["s"] < len(paired) == paired.counts["t"]
    assert bool(paired.sites["s"].isnan().all(1).eq(~paired.observed["s"]).all())


def test_images_keep_their_shape_and_the_recipe_makes_it_again():
    digits = data.load("digits", train=300, validation=100, test=100)
    drawn = data.load("stroke_digits", train=200, validation=50, test=50, labelled={"y": 0.75})
    d = data.pair_by_class(digits, drawn, pairs=(700, 80, 60), seed=2)
    assert d.train.shapes == {"s": (8, 8), "t": (12, 12)}
    d = data.unpair(d, ("s", "t"), 0.125, ("s",), seed=5)
    assert (d.train.counts["s"], d.train.counts["t"]) == (700, round(0.125 * 700))
    recipe = json.loads(json.dumps(d.recipe))
    again = data.remake(recipe)
    assert again.recipe == d.recipe and again.name == d.name
    assert torch.equal(again.test.sites["t"], d.test.sites["t"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"of": ("x", "z")}, "unknown site 'z'"),
        ({"label": "x"}, "unknown label site 'x'"),
        ({"sites": ("y", "t")}, r"sites are \('y', 't'\) of"),
        ({"classes": {"a": "e"}}, "site 'y': unknown class 'e'"),
        ({"pairs": 0}, "pairs is 0, expected a number above 0"),
        ({"pairs": (1, 2)}, "expected a number above 0, three of them"),
        ({"classes": {"d": "c"}, "pairs": 9}, "pairs of train is 9, but .* share no row's class"),
        ({"second": {"name": "digits"}}, "expected two data sets"),
    ],
)
def test_pairs_that_cannot_be(options, words):
    with pytest.raises(ValueError, match=words) as told:
        data.pair_by_class(ONE, **{"second": OTHER, **options})
    assert "\n" not in str(told.value)


def five(rows=400):
    y = np.arange(rows)
    return data.from_arrays(
        sites={f"m{k}": np.random.default_rng(k).normal(size=(rows, 2)) for k in range(5)},
        labels=y % 3, splits=(rows - 40, 20, 20),
    )  # fmt: skip


def test_patterns_have_their_shares_of_the_rows():
    whole = five()
    shares = {"m0+m1+m2+m3+m4": 0.2, "m0": 0.3, "m3+m1": 0.25, "m4": 0.0, "": 0.25}
    d = data.missing_patterns(whole, shares, seed=1)
    seen = torch.stack([d.train.observed[f"m{k}"] for k in range(5)], 1)
    kinds = {"": [0] * 5, "m0": [1, 0, 0, 0, 0], "m3+m1": [0, 1, 0, 1, 0]}
    for pattern, share in shares.items():
        flags = torch.tensor(kinds.get(pattern, [1] * 5 if "m2" in pattern else [0] * 4 + [1]))
        assert int((seen.long() == flags).all(1).sum()) == share * 360, pattern
    assert "labels" not in d.train.observed and not d.test.observed
    assert not torch.equal(seen, seen.sort(0).values)
    other = data.missing_patterns(whole, shares, seed=2).train.observed["m0"]
    assert not torch.equal(other, d.train.observed["m0"])
    steps = json.loads(json.dumps(d.recipe["steps"]))
    assert data.repeat(whole, steps).recipe == d.recipe
    for site, value in d.train.sites.items():
        mask = d.train.observed.get(site, torch.ones(360, dtype=torch.bool))
        assert torch.equal(value[mask], whole.train.sites[site][mask])
        assert not bool(mask.all()) or site == "labels"


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({"m0": 0.5}, "expected shares in 0..1 that add up to 1"),
        ({"m0": 1.5, "m1": -0.5}, "expected shares in 0..1 that add up to 1"),
        ({"m0+m9": 1.0}, "unknown site 'm9'"),
        ({"m0+m1": 0.5, "m1+m0": 0.5}, "name a pattern twice"),
    ],
)
def test_patterns_that_cannot_be(shares, words):
    with pytest.raises(ValueError, match=words):
        data.missing_patterns(five(), shares)
