"""Hidden labels and splits: balanced, seeded, and impossible wishes named."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings, strategies as st

from ppl_models.data import hide_labels
from ppl_models.data.tables.splits import split

Y = torch.arange(60).remainder(7).clamp_max(3)  # 9, 9, 9, 33 rows of four classes, about


@settings(max_examples=50, deadline=None)
@given(st.integers(4, 32), st.integers(0, 1000))
def test_balanced_labels(labelled, seed):
    mask = hide_labels(Y, labelled, 4, seed)
    kept = torch.bincount(Y[mask], minlength=4)
    assert int(mask.sum()) == labelled
    assert int(kept.max() - kept.min()) <= (1 if labelled % 4 else 0)
    assert torch.equal(mask, hide_labels(Y, labelled, 4, seed))


def test_the_seed_decides_rows_and_remainder():
    masks = [hide_labels(Y, 14, 4, seed) for seed in range(30)]
    assert len({tuple(m.tolist()) for m in masks}) == 30
    extra = {tuple((torch.bincount(Y[m], minlength=4) > 3).tolist()) for m in masks}
    assert len(extra) == 6  # every way to give two of four classes one more


def test_every_row_of_a_class_is_as_likely():
    y = torch.tensor([0] * 6 + [1] * 3)
    kept = torch.stack([hide_labels(y, 4, 2, s) for s in range(1500)]).double().sum(0)
    for rows, share in ((kept[:6], 2 / 6), (kept[6:], 2 / 3)):
        sd = (1500 * share * (1 - share)) ** 0.5
        assert (rows - 1500 * share).abs().max() < 4.5 * sd


def test_rows_without_a_label_keep_none():
    y = Y.masked_fill(torch.arange(60) % 2 == 0, -1)
    for balanced in (True, False):
        assert (y[hide_labels(y, 12, 4, 0, balanced)] >= 0).all()


def test_unbalanced_labels_follow_the_data():
    counts = sum(
        torch.bincount(Y[hide_labels(Y, 20, 4, s, balanced=False)], minlength=4)
        for s in range(200)
    )
    share = torch.bincount(Y) / len(Y)
    # hypergeometric, hence narrower than binomial
    sd = (4000 * share * (1 - share)).sqrt()
    assert ((counts - 4000 * share).abs() < 4.5 * sd).all()


@pytest.mark.parametrize(
    ("labelled", "words"),
    [
        (3, "labelled is 3, expected at least one row per class"),
        (61, "labelled is 61, but only 60 rows have a label"),
        (40, "asks for 10 rows of class [012], but there are [89]"),
    ],
)
def test_impossible_numbers(labelled, words):
    with pytest.raises(ValueError, match=words):
        hide_labels(Y, labelled, 4, 0)


@settings(max_examples=50, deadline=None)
@given(st.integers(10, 200), st.integers(1, 5), st.integers(0, 100))
def test_splits_are_disjoint_and_stratified(rows, classes, seed):
    u = torch.rand(rows, generator=torch.Generator().manual_seed(seed))
    y = (classes * u**3).long() - 1  # uneven, and -1 is a class like another
    parts = split(rows, (0.7, 0.1, 0.2), seed, y)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(rows))
    ends = [round(rows * share) for share in (0, 0.7, 0.8, 1.0)]
    assert [len(p) for p in parts] == [b - a for a, b in itertools.pairwise(ends)]
    for part in parts:
        assert torch.equal(part, part.sort().values)
        for c in y.unique():
            share = float((y == c).double().mean())
            # at each end a row for the class itself, and its share of the other classes' rows
            error = int((y[part] == c).sum()) - share * len(part)
            assert abs(error) <= 2 * (1 + classes * share)
    again = split(rows, (0.7, 0.1, 0.2), seed, y)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


def test_rare_classes_are_spread_over_the_parts():
    y = torch.cat((torch.zeros(300).long(), torch.arange(1, 101)))
    first = split(len(y), (0.3, 0.7), 0, y)[0]
    assert abs(int((y[first] > 0).sum()) - 30) < 4.5 * 4.6  # binomial standard deviation


def test_splits_by_counts_and_without_labels():
    parts = split(100, (50, 20, 10), 1)
    assert [len(p) for p in parts] == [50, 20, 10]
    assert len(torch.cat(parts).unique()) == 80
    assert not torch.equal(parts[0], split(100, (50, 20, 10), 2)[0])


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((0.7, 0.2, 0.2), "add up to at most 1"),
        ((50, 40, 20), "need 110 rows, but there are 100"),
        ((50, -1, 20), r"splits are \(50, -1, 20\), expected numbers of at least 0"),
        ((0.5, float("nan"), 0.2), "expected numbers of at least 0"),
        ((0.999, 0.0005, 0.0005), "expected at least 1"),
    ],
)
def test_impossible_splits(parts, words):
    with pytest.raises(ValueError, match=words):
        split(100, parts, 0)
