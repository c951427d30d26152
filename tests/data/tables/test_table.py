"""Tables: what is hidden stays hidden, and rows are grouped by what is observed."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings, strategies as st

from ppl_models.data import Stream, Table

N = 12
Y = torch.arange(N) % 3
X = torch.linspace(0, 1, 2 * N).reshape(N, 2)
SEEN = torch.tensor([True, False, False] * 4)


def table(y=Y, x=X, seen=SEEN, **changes):
    options = {"observed": {"y": seen}, "classes": {"y": "abc"}, "numbers": torch.arange(100, 112)}
    return Table("t", {"x": x, "y": y}, **{**options, **changes})


@pytest.mark.parametrize("garbage", [0, 2, -7, 10**12])
def test_hidden_labels_cannot_be_seen(garbage):
    y = Y.masked_fill(~SEEN, garbage)
    clean, poisoned = table(), table(y)
    assert (poisoned.sites["y"] == Y.masked_fill(~SEEN, -1)).all()
    assert (y == Y.masked_fill(~SEEN, garbage)).all()  # the caller's tensor is not touched
    for a, b in zip(
        [*clean.batches(limit=5), *Stream(clean, 5).step(3)],
        [*poisoned.batches(limit=5), *Stream(poisoned, 5).step(3)],
        strict=True,
    ):
        assert {**a, "rows": a.rows}.keys() == {**b, "rows": b.rows}.keys()
        assert all(torch.equal(a[s], b[s]) for s in a)
        assert torch.equal(a.rows, b.rows)
        assert (a.size, a.total, a.observed) == (b.size, b.total, b.observed)


def test_hidden_vectors_are_nan_and_may_hold_anything():
    x = X.clone()
    x[1], x[2] = float("inf"), float("nan")
    t = table(x=x, observed={"x": SEEN})
    assert t.sites["x"][~SEEN].isnan().all()
    assert torch.equal(t.sites["x"][SEEN], X[SEEN])
    assert sorted(t.regimes()[0].sites) == ["x", "y"]
    assert t.regimes()[1].sites == ("y",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y": Y.where(torch.arange(N) != 3, 3)}, ["'y'", "row 103", "got 3", "0..2"]),
        ({"y": Y.where(torch.arange(N) != 0, -1)}, ["'y'", "row 100", "got -1"]),
        ({"y": Y[:5]}, ["'y'", "(5,)", "12 rows"]),
        ({"y": Y.int()}, ["'y'", "torch.int32", "int64"]),
        ({"x": X.where(X[4, 1] != X, float("nan"))}, ["'x'", "row 104", "column 1", "nan"]),
        ({"x": X.where(X[4, 1] != X, -float("inf"))}, ["'x'", "row 104", "column 1", "-inf"]),
        ({"seen": SEEN.long()}, ["mask", "'y'", "torch.int64", "torch.bool"]),
        ({"observed": {"z": SEEN}}, ["mask", "'z'", "expected one of x, y"]),
        ({"classes": {"why": "abc"}}, ["classes", "'why'"]),
        ({"classes": {"y": "aba"}}, ["site 'y' of t has the class 'a' twice"]),
        ({"shapes": {"x": (2, 2)}}, ["'x'", "(2,)", "(2, 2)"]),
    ],
)
def test_what_does_not_fit_is_named(changes, words):
    with pytest.raises(ValueError) as error:
        table(**changes)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_no_sites():
    with pytest.raises(ValueError, match="no sites"):
        Table("t", {})


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(0, 4), st.integers(0, 2**31))
def test_regimes_are_the_patterns_of_a_loop(rows, hideable, seed):
    g = torch.Generator().manual_seed(seed)
    masks = {f"s{i}": torch.rand(rows, generator=g) < 0.5 for i in range(hideable)}
    sites = {"x": torch.rand(rows, 2, generator=g), **{s: torch.zeros(rows).long() for s in masks}}
    t = Table("t", sites, masks)
    by_hand: dict[tuple[str, ...], list[int]] = {}
    for row in range(rows):
        seen = tuple(s for s in sites if s not in masks or masks[s][row])
        by_hand.setdefault(seen, []).append(row)
    assert {r.sites: r.index.tolist() for r in t.regimes()} == by_hand
    counts = [len(r.sites) for r in t.regimes()]
    assert counts == sorted(counts, reverse=True)
    for batch in t.batches():
        assert batch.size == batch.count == len(by_hand[tuple(batch)])
        assert batch.total == rows
        for site, mask in masks.items():
            assert batch.observed[site] == int(mask.sum())


def test_batches_of_chosen_rows_are_grouped_and_bounded():
    t = table()
    index = torch.tensor([5, 0, 4, 3, 11, 7])
    got = list(t.batches(index, limit=2))
    assert [(tuple(b), (b.rows - 100).tolist()) for b in got] == [
        (("x", "y"), [0, 3]),
        (("x",), [5, 4]),
        (("x",), [11, 7]),
    ]
    assert [(b.size, b.total, b.observed["y"]) for b in got] == [
        (4, 12, 4),
        (8, 12, 4),
        (8, 12, 4),
    ]
    for batch in got:
        assert torch.equal(batch["x"], X[batch.rows - 100])
        if "y" in batch:
            assert torch.equal(batch["y"], Y[batch.rows - 100])
    assert sum(b.count for b in t.batches(limit=5)) == N
    assert max(b.count for b in t.batches(limit=5)) == 5


def test_parts_of_a_table():
    t = table(shapes={"x": (1, 2)})
    some = t.rows(torch.tensor([3, 0]))
    assert some.numbers.tolist() == [103, 100]
    assert "y" not in some.observed  # both labels are there
    assert some.sites["y"].tolist() == [0, 0]
    labelled = t.where_observed("y")
    assert torch.equal(labelled.numbers - 100, SEEN.nonzero().flatten())
    assert t.where_observed("x") is t
    for x_only in (t.only("x"), t.without("y"), t.without("y", "no such site")):
        assert (list(x_only.sites), x_only.observed, x_only.sizes) == (["x"], {}, {"x": 2})
        assert x_only.shapes == {"x": (1, 2)}
        assert len(x_only.regimes()) == 1
    double = t.to(torch.float64)
    assert double.sites["x"].dtype == torch.float64
    assert double.sites["y"].dtype == torch.int64
    assert t.sizes == {"x": 2, "y": 3}
    with pytest.raises(ValueError, match="unknown site 'z'"):
        t.only("z")
    with pytest.raises(ValueError, match="no rows chosen of t"):
        t.rows(torch.tensor([], dtype=torch.int64))
    with pytest.raises(ValueError, match="observed in no row of t"):
        table(seen=torch.zeros(N).bool()).where_observed("y")


def test_a_mask_that_hides_nothing_is_no_mask():
    t = table(seen=torch.ones(N).bool())
    assert t.observed == {}
    assert [r.sites for r in t.regimes()] == [("x", "y")]


def test_more_sites_come_first_among_all_patterns():
    masks = torch.tensor(list(itertools.product([False, True], repeat=3))).T
    sites = {s: torch.zeros(8).long() for s in "abc"}
    t = Table("t", sites, dict(zip("abc", masks, strict=True)))
    assert ["".join(r.sites) for r in t.regimes()] == ["abc", "ab", "ac", "bc", "a", "b", "c", ""]
