"""The order of rows: every row once per epoch, and a function of seed and step alone."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings, strategies as st

from ppl_models.data import Stream, Table


def table(labelled, unlabelled):
    n = labelled + unlabelled
    seen = torch.arange(n) < labelled
    y = torch.zeros(n, dtype=torch.int64)
    return Table("t", {"x": torch.arange(n).float()[:, None], "y": y}, {"y": seen})


def regimes_rows(stream, steps):
    return [torch.cat([b.rows for b in lane]) for lane in zip(*steps, strict=True)]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(2, 60), st.integers(0, 5))
def test_every_row_once_per_epoch(labelled, unlabelled, batch_size, seed):
    t = table(labelled, unlabelled)
    stream = Stream(t, batch_size, seed=seed)
    epochs = 3
    steps = [stream.step(i) for i in range(epochs * max(labelled, unlabelled))]
    for regime, size, rows in zip(
        t.regimes(), stream.sizes, regimes_rows(stream, steps), strict=True
    ):
        n = len(regime.index)
        for epoch in range(len(rows) // n):
            once = rows[epoch * n : (epoch + 1) * n].sort().values
            assert torch.equal(once, t.numbers[regime.index])
        assert all(len(r) == size for r in rows.split(size))
    for batches in steps:
        for batch in batches:
            assert torch.equal(batch["x"][:, 0].long(), batch.rows)
            assert batch.total == len(t)


def test_a_fresh_stream_resumes_anywhere():
    t = table(10, 47)
    stream = Stream(t, 12, seed=3)
    straight = [stream.step(i) for i in range(40)]
    for i in (39, 0, 17, 16, 4, 25):  # another object, any order of asking
        for a, b in zip(Stream(t, 12, seed=3).step(i), straight[i], strict=True):
            assert torch.equal(a.rows, b.rows)
        for a, b in zip(stream.step(i), straight[i], strict=True):
            assert torch.equal(a.rows, b.rows)


def test_the_order_depends_on_seed_epoch_and_nothing_global():
    t = table(50, 50)
    orders = set()
    for seed in range(4):
        torch.manual_seed(seed)
        stream = Stream(t, 100 - 50, seed=seed)
        for epoch in range(4):
            steps = [stream.step(2 * epoch), stream.step(2 * epoch + 1)]
            for regime, rows in enumerate(regimes_rows(stream, steps)):
                orders.add(tuple((rows - rows.min()).tolist()))
                assert len(rows) == 50, regime
    assert len(orders) == 4 * 4 * 2  # regimes do not share an order either
    torch.manual_seed(0)
    before = torch.get_rng_state()
    Stream(t, 10).step(5)
    assert torch.equal(before, torch.get_rng_state())


def test_first_rows_are_uniform():
    t = table(0, 5).only("x")
    counts = torch.zeros(5)
    for seed in range(2000):
        counts[Stream(t, 1, seed=seed).step(0)[0].rows] += 1
    # 400 expected in each, standard deviation 18
    assert (counts - 400).abs().max() < 4.5 * 18


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "sizes", "steps", "options"),
    [
        (100, 49_900, [1, 499], 100, {"batch_size": 500}),  # as in Kingma et al. 2014
        (100, 3000, [100, 50], 60, {"batch_size": 50, "labelled_batch_size": 100}),
        (3, 997, [1, 9], 111, {"batch_size": 10}),
        (5, 5, [5, 5], 1, {"batch_size": 1000}),
        (30, 70, [3, 7], 10, {"batch_size": 10}),
        (100, 20, [40, 7], 3, {"batch_size": 7, "labelled_batch_size": 40}),
    ],
)
def test_rows_per_step(labelled, unlabelled, sizes, steps, options):
    stream = Stream(table(labelled, unlabelled), **options)
    assert stream.sizes == sizes
    assert stream.steps_per_epoch == steps
    assert [b.count for b in stream.step(7)] == sizes


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=3), st.integers(3, 900))
def test_shares_add_up_and_are_proportional(rows, batch_size):
    n = sum(rows)
    group = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(rows))
    sites = {s: torch.zeros(n).long() for s in ("a", "b")}
    masks = {"a": group == 0, "b": group == 1}
    t = Table("t", sites, masks)
    batch_size = min(batch_size, n)
    if batch_size < len(t.regimes()):
        with pytest.raises(ValueError, match=f"batch_size is {batch_size}"):
            Stream(t, batch_size)
        return
    stream = Stream(t, batch_size)
    assert sum(stream.sizes) == batch_size
    for regime, size in zip(t.regimes(), stream.sizes, strict=True):
        quota = batch_size * len(regime.index) / n
        assert 1 <= size <= max(1, quota + 1)
        assert size > quota - len(rows)


def test_a_regime_that_fits_comes_whole():
    stream = Stream(table(4, 20), 6, labelled_batch_size=4)
    for i in range(5):
        assert stream.step(i)[0].rows.tolist() == [0, 1, 2, 3]


def test_options_out_of_range():
    for options, word in (
        ({"batch_size": 1}, "batch_size is 1, expected at least 2"),
        ({"batch_size": 5, "labelled_batch_size": 0}, "labelled_batch_size is 0"),
        ({"batch_size": 5, "seed": -1}, "seed is -1"),
    ):
        with pytest.raises(ValueError, match=word):
            Stream(table(4, 20), **options).step(0)


def test_a_step_is_cheap():
    stream = Stream(table(100, 3000), 50, labelled_batch_size=40)
    stream.step(0)
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        for i in range(20):
            stream.step(i)
        best = min(best, (time.perf_counter() - began) / 20)
    assert best < 5e-4  # about 5e-5 on a free core


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_step_on_a_gpu_waits_for_nothing():
    stream = Stream(table(100, 3000).to("cuda"), 50, labelled_batch_size=40)
    on_cpu = Stream(table(100, 3000), 50, labelled_batch_size=40)
    stream.step(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = stream.step(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for a, b in zip(batches, on_cpu.step(1), strict=True):
        assert torch.equal(a.rows.cpu(), b.rows)


# ---- several processes -------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(2, 60), st.integers(1, 5))
def test_processes_share_each_batch(labelled, unlabelled, batch_size, processes):
    t = table(labelled, unlabelled)
    one = Stream(t, batch_size, seed=1)
    shared = [
        Stream(t, batch_size, seed=1, process=p, processes=processes) for p in range(processes)
    ]
    assert all(s.steps_per_epoch == one.steps_per_epoch for s in shared)
    for place, size in enumerate(one.sizes):
        parts = [s.shares[place] for s in shared]
        assert sum(p.weight for p in parts) == pytest.approx(1, abs=1e-15)
        assert max(p.weight for p in parts) - min(p.weight for p in parts) <= 1 / size + 1e-15
        assert all(p.of == size for p in parts)
        for i in range(7):
            batch = one.step(i)[place]
            mine = [s.step(i)[place] for s in shared]
            counted = [b.rows for b, p in zip(mine, parts, strict=True) if p.weight]
            assert torch.equal(torch.cat(counted), batch.rows)
            for b, p in zip(mine, parts, strict=True):  # one that has none looks at any one
                assert torch.equal(b.rows, batch.rows[p.start : p.start + p.count])
                assert (b.size, b.total) == (batch.size, batch.total)
