"""Rows that are elements, put together into sets by whose they are."""

from __future__ import annotations

import numpy as np
import pytest

from ppl_models import data

WHO = np.array(["ann", "bo", "cy"])[[0, 1, 2, 1, 0, 1, 1, 2, 1, 0]]
X = np.arange(20.0).reshape(10, 2)


def members(table):
    """By row: whose it is and which elements it has, in order."""
    names = table.classes["who"]
    found = []
    for x, there, who in zip(*(table.sites[s][:] for s in ("x", "x_there", "who")), strict=True):
        own = x[there > 0][:, 0].long() // 2
        assert (x[there > 0][:, 1] == 2 * own + 1).all()
        found.append((names[int(who)], sorted(own.tolist())))
    return sorted(found)


def test_a_group_is_a_row() -> None:
    d = data.from_groups("who", x=X, who=WHO, splits=None)
    assert members(d.test) == [("ann", [0, 4, 9]), ("bo", [1, 3, 5, 6, 8]), ("cy", [2, 7])]
    assert d.test.sites["x"].shape == (3, 5, 2) and d.roles == {"who": "group"}
    again = data.from_groups("who", x=X, who=WHO, splits=None)
    assert again.recipe["digest"] == d.recipe["digest"]
    images = data.from_groups("who", x=X.reshape(10, 1, 2), who=WHO, splits=None)
    assert images.recipe["digest"] == d.recipe["digest"]  # elements are flat


@pytest.mark.parametrize("size", [1, 2, (1, 3)])
def test_large_groups_make_several_rows(size) -> None:
    """Every element is in one row of its group, and no row has too many."""
    d = data.from_groups("who", x=X, who=WHO, size=size, splits=None, seed=3)
    rows = members(d.test)
    assert sorted(e for _, own in rows for e in own) == list(range(10))
    assert all(set(WHO[own]) == {who} for who, own in rows)
    most = size if isinstance(size, int) else size[1]
    assert max(len(own) for _, own in rows) == most
    if size == 2:
        assert [len(own) for who, own in rows if who == "bo"].count(1) == 1
    other = data.from_groups("who", x=X, who=WHO, size=size, splits=None, seed=4)
    assert size == 1 or members(other.test) != rows


def test_groups_are_split_and_not_their_elements() -> None:
    who = np.repeat(np.arange(100, 140), 3)
    d = data.from_groups(
        "who", x=np.arange(240.0).reshape(-1, 2), who=who, size=2, splits=(30, 4, 6)
    )
    names = [{name for name, _ in members(t)} for t in (d.train, d.validation, d.test)]
    assert list(map(len, names)) == [30, 4, 6]
    assert len(set.union(*names)) == 40
    assert d.train.classes["who"][0] == "100"


def test_parts_of_elements_and_sizes_by_part() -> None:
    part = np.array(["train"] * 6 + ["test"] * 4)
    d = data.from_groups("who", x=X, who=WHO, splits=part, size={"train": 2})
    assert members(d.test) == [("ann", [9]), ("bo", [6, 8]), ("cy", [7])]
    assert sorted(e for _, own in members(d.train) for e in own) == list(range(6))
    assert max(len(own) for _, own in members(d.train)) == 2


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("there is no site|site", {"by": "whom"}),
        ("site 'x' has shape \\(9, 2\\), expected 10 rows", {"x": X[:9]}),
        ("site 'who' has type float64", {"who": np.arange(10.0)}),
        ("size is \\(3, 1\\), expected a number", {"size": (3, 1)}),
        ("size is -1, expected at least 1", {"size": -1}),
        ("size: .*trian", {"size": {"trian": 2}}),
        ("expected at least 1 in each", {"splits": (0.9, 0.05, 0.05)}),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(message, options) -> None:
    given = {"by": "who", "x": X, "who": WHO, **options}
    with pytest.raises(ValueError, match=message) as error:
        data.from_groups(given.pop("by"), **given)
    assert "\n" not in str(error.value)
