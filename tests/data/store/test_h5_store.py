"""The h5 store: what is read equals what was written, in an order and memory that are stated."""

from __future__ import annotations

import dataclasses
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.data import Stream, Table
from ppl_models.data.store import row_blocks
from ppl_models.data.streams.windows import Windows

PARTS = ("train", "validation", "test")
N, SIDE = 20_000, 40  # 200 bytes a row as bits, so 1,310 rows a block


def image(row):
    return ((row[:, None] >> (np.arange(SIDE * SIDE) % 13)) & 1).astype(bool)


def some_blocks(size=777, masked=False):
    for start in range(0, N, size):
        row = np.arange(start, min(N, start + size))
        x = image(row).reshape(-1, SIDE, SIDE)
        block = {"x": x, "y": row % 7, "u": np.float32(row)[:, None] / [[1, 3]]}
        yield {**block, "x": (x, row % 3 > 0)} if masked else block


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("store")
    splits = (0.9, 0.05, 0.05)
    for name, masked in (("whole", False), ("masked", True)):
        source = data.Blocks(name, some_blocks(masked=masked), classes={"y": 7}, splits=splits)
        data.write(source, path / f"{name}.h5")
    return path


def same(a, b):
    assert list(a.sites) == list(b.sites)
    assert (a.classes, a.shapes, a.sizes, a.counts) == (b.classes, b.shapes, b.sizes, b.counts)
    assert torch.equal(a.numbers, b.numbers)
    assert a.observed.keys() == b.observed.keys()
    for site in a.sites:
        assert a.sites[site].dtype == b.sites[site].dtype
        torch.testing.assert_close(
            a.sites[site][:], b.sites[site][:], rtol=0, atol=0, equal_nan=True
        )


FORMS = {
    "bits": (torch.tensor([0.0, 1.0]), "bits"),
    "bytes": (torch.arange(256.0) / 255, "uint8"),
    "counts": (torch.tensor([0.0, 3.0, 200.0]), "uint8"),
    "sixteenths": (torch.arange(17.0) / 16, "uint8"),
    "negative zero": (torch.tensor([-0.0, 1.0]), "float32"),
    "negative": (torch.tensor([-1.0, 0.0]), "float32"),
    "floats": (torch.tensor([0.1, 1e-30, 3e30]), "float32"),
    "doubles": (torch.tensor([0.1, 1e-300], dtype=torch.float64), "float64"),
}


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_tables_come_back_bit_by_bit(tmp_path, form, compress):
    values, encoding = FORMS[form]
    draw = torch.Generator().manual_seed(0)
    x = values[torch.randint(len(values), (2500, 6), generator=draw)]
    y = torch.arange(2500) % 3
    masks = {"x": torch.rand(2500, generator=draw) < 0.8, "y": torch.rand(2500) < 0.5}
    table = Table("t", {"x": x, "v": x[:, 0], "y": y, "k": (y[:, None] == y[:3]).long()}, masks)
    parts = [table.rows(torch.arange(a, b)) for a, b in ((0, 2000), (2000, 2100), (2100, 2500))]
    recipe = {"name": "t", "options": {}, "seed": 4, "version": "0", "digest": ""}
    written = data.Dataset("t", *parts, recipe, {"y": "factor"})
    read = data.open(data.write(written, tmp_path / "t.h5", compress))
    for part in PARTS:
        same(getattr(written, part), getattr(read, part))
    assert read.recipe == recipe
    assert read.roles == {"y": "factor"}
    assert read.train.sites["x"].source.encoding == encoding
    again = data.open(data.write(read, tmp_path / "again.h5", compress))
    same(again.train, read.train)
    assert (tmp_path / "again.h5").read_bytes() == (tmp_path / "t.h5").read_bytes()


def test_blocks_of_any_size_make_the_same_file(folder, tmp_path):
    for size in (1311, 500, N):
        source = data.Blocks(
            "whole", some_blocks(size), classes={"y": 7}, splits=(0.9, 0.05, 0.05)
        )
        data.write(source, tmp_path / "other.h5")
        assert (tmp_path / "other.h5").read_bytes() == (folder / "whole.h5").read_bytes()
    read = data.open(folder / "whole.h5")
    rows = torch.cat([getattr(read, part).numbers for part in PARTS])
    assert torch.equal(rows.sort().values, torch.arange(N))
    assert read.train.shapes == {"x": (SIDE, SIDE)}
    for part in PARTS:
        table = getattr(read, part)
        assert torch.equal(
            table.sites["x"][:], torch.from_numpy(image(table.numbers.numpy())).float()
        )
        assert torch.equal(table.sites["y"], table.numbers % 7)
        assert torch.equal(table.sites["u"][:][:, 0], table.numbers.float())
    # stratified, as from_arrays splits
    counts = torch.bincount(read.test.sites["y"])
    assert int(counts.max() - counts.min()) <= 2


def test_a_lazy_table_behaves_like_one_in_memory(folder):
    lazy = data.open(folder / "masked.h5").train
    loaded = {s: v[:] for s, v in lazy.sites.items()}
    for row in (0, -1, torch.tensor(3)):
        assert torch.equal(lazy.sites["x"][row].nan_to_num(-9), loaded["x"][row].nan_to_num(-9))
    table = Table(lazy.name, loaded, lazy.observed, lazy.numbers, lazy.classes, lazy.shapes)
    index = torch.tensor([5000, 3, 12, 17, 4000, 2])
    pairs = [
        (lazy, table),
        (lazy.rows(index), table.rows(index)),
        (lazy.rows(index).rows(index % 6), table.rows(index).rows(index % 6)),
        (lazy.only("x"), table.only("x")),
        (lazy.without("y"), table.without("y")),
        (lazy.where_observed("x"), table.where_observed("x")),
        (lazy.to(torch.float64), table.to(torch.float64)),
        (lazy.hide({"u": lazy.numbers % 2 > 0}), table.hide({"u": lazy.numbers % 2 > 0})),
    ]
    for a, b in pairs:
        same(a, b)
        assert repr(a) == repr(b)
        for one, other in zip(a.batches(limit=997), b.batches(limit=997), strict=True):
            assert list(one) == list(other)
            assert all(torch.equal(one[s], other[s]) for s in one)
            assert torch.equal(one.rows, other.rows)
            assert (one.size, one.total, one.observed) == (other.size, other.total, other.observed)
    mask = lazy.numbers < 100
    torch.testing.assert_close(lazy.sites["x"][mask], table.sites["x"][mask], equal_nan=True)


@settings(max_examples=8, deadline=None)
@given(st.integers(90, 3000), st.integers(0, 3), st.sampled_from([1.2, 2.5, 40]), st.booleans())
def test_every_row_once_per_epoch_and_a_fresh_stream_resumes(folder, batch, seed, memory, masked):
    path = folder / f"{'masked' if masked else 'whole'}.h5"
    table = data.open(path, int(memory * 1e6)).train
    stream = Stream(table, batch, seed=seed)
    for lane, regime in enumerate(table.regimes()):
        n, size = len(regime.index), stream.sizes[lane]
        steps = -(-2 * n // size)
        taken = [stream.step(i)[lane] for i in range(steps)]
        rows = torch.cat([b.rows for b in taken])
        for epoch in range(2):
            once = rows[epoch * n : (epoch + 1) * n]
            assert torch.equal(once.sort().values, table.numbers[regime.index])
        for i in (steps - 1, 0, steps // 2):
            again = Stream(table, batch, seed=seed).step(i)[lane]
            assert torch.equal(again.rows, taken[i].rows)
            assert all(torch.equal(again[s], taken[i][s]) for s in again)
            if "x" in again:
                assert torch.equal(again["x"], torch.from_numpy(image(again.rows.numpy())).float())
            assert torch.equal(again["y"], again.rows % 7)


@pytest.fixture(scope="module")
def small_blocks(tmp_path_factory):
    """A file with blocks of few rows, so that windows are many, and its rows."""
    path = tmp_path_factory.mktemp("blocks") / "w.h5"
    wide = np.random.default_rng(0).integers(0, 2, (4000, 32_000), dtype=bool)
    data.write(data.Blocks("wide", iter([{"x": wide}]), splits=(0.98, 0.01, 0.01)), path)
    return path, wide


def holds(batch, wide):
    """Whether a batch has the rows that it says."""
    return bool((batch["x"] == torch.from_numpy(wide[batch.rows])).all())


def test_windows_are_shuffled_and_bounded(small_blocks):
    path, wide = small_blocks
    table = data.open(path, memory=4 << 20).train
    windows = Windows(table, table.regimes()[0], 0, 0, 1)
    per_block = table.sites["x"].source.block
    assert per_block == 65
    assert windows.per_window == 8
    orders = []
    for epoch in range(2):
        rows = windows.take(epoch * len(table), len(table)).rows
        blocks_met = rows // per_block
        first = blocks_met[: 8 * per_block - 100].unique()
        assert len(first) <= 8  # rows of one window come from few blocks,
        assert int(first.max() - first.min()) > 8  # from anywhere in the file,
        assert int((blocks_met[1:300] == blocks_met[:299]).sum()) < 100  # and mixed
        orders.append(rows)
    assert not torch.equal(*orders)
    held = 0
    for step in range(100):
        batch = windows.take(40 * step, 40)
        assert holds(batch, wide)
        held = max(held, sum(f.result()[2]["x"].nbytes for f in windows._read.values()))
    assert held <= 4 << 20


@pytest.mark.parametrize("every", [1, 3, 10])
def test_few_rows_of_many_blocks(small_blocks, every):
    path, wide = small_blocks
    table = data.open(path, memory=5 << 18).train
    table = table.rows((table.numbers % every == 0).nonzero().flatten())
    windows = Windows(table, table.regimes()[0], 0, 0, 1)
    assert not windows.resident
    assert windows.kept_whole == ({"x"} if every == 1 else set())
    for epoch in range(2):
        rows, held = [], 0
        for start in range(0, len(table), 50):
            count = min(50, len(table) - start)
            batch = windows.take(epoch * len(table) + start, count)
            assert holds(batch, wide)
            rows.append(batch.rows)
            held = max(held, sum(f.result()[1]["x"][0].nbytes for f in windows._read.values()))
        assert torch.equal(torch.cat(rows).sort().values, table.numbers.sort().values)
        assert held <= 5 << 18


def test_processes_share_each_batch(small_blocks):
    table = data.open(small_blocks[0], memory=4 << 20).train
    alone = Stream(table, 50, seed=1)
    together = [Stream(table, 50, seed=1, process=p, processes=3) for p in range(3)]
    for i in (0, 11, 85):
        parts = [s.step(i)[0] for s in together]
        assert torch.equal(torch.cat([p.rows for p in parts]), alone.step(i)[0].rows)


def test_a_set_that_fits_has_the_order_of_memory_and_trains_the_same(tmp_path):
    digits = data.load("digits", labelled=100, seed=1)
    read = data.open(data.write(digits, tmp_path / "digits.h5"))
    for i in (0, 3, 50):
        for a, b in zip(
            Stream(digits.train, 60).step(i), Stream(read.train, 60).step(i), strict=True
        ):
            assert torch.equal(a.rows, b.rows)
            assert all(torch.equal(a[s], b[s]) for s in a)
    losses, posteriors = [], []
    for dataset in (digits, read):
        pair = zoo.build("m2", dataset, hidden=(16,), seed=0)
        run = inference.fit(pair, dataset, epochs=2, progress=False, device="cpu")
        losses.append((run.history["loss"], run.error(dataset.test)))
        posteriors.append(run.posterior(dataset.test, rows=range(20), draws=5))
    assert losses[0] == losses[1]
    assert posteriors[0].posterior.equals(posteriors[1].posterior)


def test_recipes_of_files(folder, tmp_path):
    path = str(folder / "whole.h5")
    made = data.load(path, labelled=70, seed=3)
    assert json.loads(json.dumps(made.recipe)) == made.recipe
    assert data.remake(made.recipe).recipe == made.recipe
    assert int(made.train.observed["y"].sum()) == 70
    other = data.load(path, labelled=70, seed=4)
    assert other.recipe["digest"] != made.recipe["digest"]
    digits = data.load("digits", seed=2)
    read = data.open(data.write(digits, tmp_path / "d.h5"))
    assert read.recipe == digits.recipe
    # content decides, not the name of the file
    moved = tmp_path / "moved.h5"
    moved.write_bytes((folder / "whole.h5").read_bytes())
    assert data.open(moved).recipe["digest"] == data.open(path).recipe["digest"]


def test_several_readers_at_once(folder):
    table = data.open(folder / "whole.h5").train
    draws = [
        torch.randint(len(table), (200,), generator=torch.Generator().manual_seed(i))
        for i in range(40)
    ]
    expected = [table.numbers[d] for d in draws]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda d: table.sites["x"][d], draws))
    for rows, values in zip(expected, got, strict=True):
        assert torch.equal(values, torch.from_numpy(image(rows.numpy())).float())
    copied = pickle.loads(pickle.dumps(table))  # as for the workers of a loader
    assert torch.equal(copied.sites["x"][:50], table.sites["x"][:50])


def test_memory_must_hold_some_blocks(folder):
    with pytest.raises(ValueError, match=r"memory is 1000 bytes, expected at least \d+ for"):
        data.open(folder / "whole.h5", memory=1000)


def test_hidden_values_are_not_in_the_file(tmp_path):
    digits = data.load("digits", labelled=100, seed=1)
    files = []
    for poison in (0, 9):
        y = data.load("digits", seed=1).train.sites["y"].clone()
        seen = digits.train.observed["y"]
        y[~seen] = poison
        t = digits.train
        train = Table(t.name, {**t.sites, "y": y}, {"y": seen}, t.numbers, t.classes, t.shapes)
        poisoned = dataclasses.replace(digits, train=train)
        files.append(data.write(poisoned, tmp_path / f"{poison}.h5").read_bytes())
    assert files[0] == files[1]
    as_blocks = data.Blocks(
        "b",
        iter([{"x": np.eye(30, dtype=bool), "y": (np.arange(30) % 3, np.arange(30) % 2 > 0)}]),
        classes={"y": 3},
        splits={"train": range(20), "validation": [21, 23], "test": [25, 27]},
    )
    read = data.open(data.write(as_blocks, tmp_path / "b.h5"))
    assert read.train.sites["y"].tolist() == [r % 3 if r % 2 else -1 for r in range(20)]
    assert row_blocks.of_dataset(read).classes == {"y": ("0", "1", "2")}


@pytest.mark.parametrize(
    "known",
    [
        {"columns": {"x": ("a", "b", "ü")}},
        {"units": {"x": "mm", "y": "class"}, "row_names": [f"cell {k}" for k in range(6)]},
        {"columns": {"x": list("abc")}, "row_names": ["日本", *"bcdef"], "units": {"x": "µm"}},
    ],
)
def test_names_of_columns_and_rows_and_units_come_back(tmp_path, known):
    x, y = torch.arange(18.0).reshape(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])
    table = Table("named", {"x": x, "y": y}, **known)
    parts = [table.rows(torch.tensor(rows)) for rows in ([0, 3, 4], [1, 5], [2])]
    recipe = {"name": "named", "options": {}, "seed": 0}
    written = data.Dataset("named", *parts, recipe)
    read = data.open(data.write(written, tmp_path / "named.h5"))
    for part in PARTS:
        one, other = getattr(written, part), getattr(read, part)
        same(one, other)
        assert (one.columns, one.units) == (other.columns, other.units)
        if one.row_names is None:
            assert other.row_names is None
        else:
            assert one.row_names.tolist() == other.row_names.tolist()
