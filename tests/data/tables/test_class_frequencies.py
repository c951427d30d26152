"""Shares of classes among labelled rows: what counts, and what is refused by name."""

from __future__ import annotations

import re

import pytest
import torch

from ppl_models import data
from ppl_models.data import Table
from ppl_models.data.tables.class_frequencies import class_frequencies


def table(**masks):
    sites = {"x": torch.zeros(8, 2), "y": torch.tensor([0, 1, 1, 2, 0, 1, 1, 1])}
    names = {"y": ("ant", "bee", "cow")}
    return Table("t", sites, observed={n: torch.tensor(m) == 1 for n, m in masks.items()},
                 classes=names)  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "shares"),
    [
        (table(), (2 / 8, 5 / 8, 1 / 8)),
        (table(y=[1, 1, 1, 1, 0, 0, 0, 0]), (1 / 4, 2 / 4, 1 / 4)),
        (table(y=[1, 1, 0, 1, 0, 0, 0, 1]), (1 / 4, 2 / 4, 1 / 4)),
        (table(x=[0, 0, 0, 0, 0, 0, 0, 1]), (2 / 8, 5 / 8, 1 / 8)),  # another site's mask
    ],
)
def test_labelled_rows_count_and_hidden_ones_do_not(rows, shares):
    assert class_frequencies(rows, "y") == shares


def test_classes_stand_in_the_order_of_their_codes():
    rows = table()
    other = rows.replace(
        sites={"y": torch.tensor([1, 2, 2, 0, 1, 2, 2, 2])}, classes={"y": ("cow", "ant", "bee")}
    )
    assert class_frequencies(other, "y") == (1 / 8, 2 / 8, 5 / 8)


def test_rows_on_disk_are_counted_as_those_in_memory(tmp_path):
    rows = data.load("digits", labelled=50)
    stored = data.open(data.write(rows, tmp_path / "digits.h5"))
    assert class_frequencies(stored.train, "y") == class_frequencies(rows.train, "y")
    assert class_frequencies(rows.train, "y") == (0.1,) * 10  # `labelled` takes as many of each


@pytest.mark.parametrize(
    ("rows", "site", "words"),
    [
        (table(y=[1, 1, 1, 0, 1, 1, 1, 1]), "y", "class 'cow' of site 'y' has no labelled row in"),
        (table(y=[0] * 8), "y", "site 'y' is observed in no row of t"),
        (table(), "x", "site 'x' of t holds vectors, expected labels"),
        (table(), "yy", "unknown site of t 'yy': did you mean 'y'?"),
    ],
)
def test_what_has_no_frequencies_is_named(rows, site, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        class_frequencies(rows, site)
