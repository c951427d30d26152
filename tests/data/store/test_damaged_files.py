"""Damaged files and bad rows: an error that names them, or right rows; never wrong ones."""

from __future__ import annotations

import hashlib
import json
import re
import resource
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from ppl_models import data
from ppl_models.data import Stream

N = 700
PARTS = ("train", "validation", "test")
ONE_FOLDER = {"suppress_health_check": [HealthCheck.function_scoped_fixture], "deadline": None}


def image(rows):
    return ((rows[:, None] >> (np.arange(4000) % 10)) & 1).astype(bool)


def source(**changes):
    rows = np.arange(N)
    block = {
        "x": image(rows),
        "g": (rows[:, None] * np.arange(1, 40) % 256).astype(np.uint8),
        "f": np.sin(rows[:, None] + np.arange(5.0)),
        "y": (rows % 3, rows % 2 > 0),
        **changes.pop("block", {}),
    }
    given = {"classes": {"y": ["ant", "bee", "cat"]}, "splits": (0.8, 0.1, 0.1), **changes}
    return data.Blocks("set", iter([block]), **given)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return data.write(source(), tmp_path_factory.mktemp("whole") / "set.h5").read_bytes()


def all_rows(path):
    """Everything a reader can be given, by every way to it."""
    found = data.open(path)
    seen = []
    for part in PARTS:
        table = getattr(found, part)
        seen.append({s: v[:] for s, v in table.sites.items()} | {"": table.numbers})
        for batch in Stream(table, 64).step(3):
            assert torch.equal(batch["x"], torch.from_numpy(image(batch.rows.numpy())).float())
    return seen, [found.train.classes, found.train.shapes, found.roles, found.recipe["digest"]]


def harmless_or_named(path, expected):
    """Whether the damage was found; if not, all rows are as written."""
    try:
        seen, more = all_rows(path)
    except ValueError as error:
        named = str(error).startswith(str(path)) and "\n" not in str(error)
        if not named:
            raise
        return True
    for got, wanted in zip(seen, expected[0], strict=True):
        assert got.keys() == wanted.keys()
        for site in got:
            torch.testing.assert_close(got[site], wanted[site], rtol=0, atol=0, equal_nan=True)
    assert more == expected[1]
    return False


@pytest.fixture(scope="module")
def expected(whole, tmp_path_factory):
    path = tmp_path_factory.mktemp("expected") / "set.h5"
    path.write_bytes(whole)
    return all_rows(path)


@pytest.mark.parametrize(
    "sixteenth", [pytest.param(n, marks=() if n % 4 == 0 else pytest.mark.long) for n in range(16)]
)
def test_truncated_at_every_sixteenth(tmp_path, whole, expected, sixteenth):
    path = tmp_path / "set.h5"
    path.write_bytes(whole[: len(whole) * sixteenth // 16])
    assert harmless_or_named(path, expected)
    path.write_bytes(whole[: len(whole) - 1 - sixteenth])
    assert harmless_or_named(path, expected)


@settings(max_examples=30, **ONE_FOLDER)
@given(st.integers(0, 10**9), st.integers(1, 255))
def test_a_flipped_byte_is_found_or_harmless(tmp_path, whole, expected, place, flip):
    damaged = bytearray(whole)
    damaged[place % len(whole)] ^= flip
    path = tmp_path / "set.h5"
    path.write_bytes(damaged)
    harmless_or_named(path, expected)


@settings(max_examples=20, **ONE_FOLDER)
@given(st.integers(0, 10**9), st.integers(1, 5000), st.booleans())
def test_a_lost_or_moved_stretch_is_found_or_harmless(
    tmp_path, whole, expected, place, size, zeros
):
    place %= len(whole)
    stretch = bytes(size) if zeros else whole[-size:]
    damaged = (whole[:place] + stretch + whole[place + size :])[: len(whole)]
    path = tmp_path / "set.h5"
    path.write_bytes(damaged)
    harmless_or_named(path, expected)


def chunks_of(path, name):
    found = []
    with h5py.File(path) as file:
        file[name].id.chunk_iter(lambda c: found.append((c.byte_offset, c.size)))
    return found


@pytest.mark.parametrize(
    "name", ["sites/x", "sites/g", "sites/f", "sites/y", "masks/y", "numbers"]
)
def test_damage_to_an_array_names_it(tmp_path, whole, expected, name):
    path = tmp_path / "set.h5"
    path.write_bytes(whole)
    place, size = chunks_of(path, name)[0]
    named = 0
    for offset in np.linspace(0, size // 2, 7).astype(int):
        damaged = bytearray(whole)
        damaged[place + offset] ^= 1
        path.write_bytes(damaged)
        if harmless_or_named(path, expected):  # some bits of gzip's own say nothing
            message = rf"set\.h5 is damaged: rows \d+.* of array '{name}'"
            with pytest.raises(ValueError, match=message):
                all_rows(path)
            named += 1
    assert named >= 5


def test_swapped_blocks_are_found(tmp_path, whole):
    path = tmp_path / "set.h5"
    path.write_bytes(whole)
    (a, size), (b, other) = chunks_of(path, "sites/g")[:2]
    assert size == other
    swapped = bytearray(whole)
    swapped[a : a + size], swapped[b : b + size] = whole[b : b + size], whole[a : a + size]
    path.write_bytes(swapped)
    with pytest.raises(ValueError, match=r"rows .* of array 'sites/g' are not what was written"):
        all_rows(path)


def rewrite(path, name, values):
    with h5py.File(path, "r+") as file:
        shape = file[name].shape
        del file[name]
        file.create_dataset(name, data=values, chunks=True if len(shape) else None)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sites/x", np.zeros((N, 500), np.float32)),
        ("sites/x", np.zeros((N - 1, 500), np.uint8)),
        ("sites/x", np.zeros((N, 499), np.uint8)),
        ("sites/x", np.zeros((N, 500), np.uint8)),
        ("sites/y", np.zeros((N, 1), np.int32)),
        ("sites/y", np.zeros((N, 1), np.int64)),
        ("sites/f", np.full((N, 5), np.nan)),
        ("splits/train", np.zeros((560, 1), np.int64)),
        ("masks/y", np.ones((N, 1), bool)),
        ("checksums/sites/x", np.zeros(2, np.uint32)),
    ],
)
def test_an_array_of_another_make_is_named(tmp_path, whole, name, values):
    path = tmp_path / "set.h5"
    path.write_bytes(whole)
    rewrite(path, name, values)
    array = re.escape(name.removeprefix("checksums/"))
    with pytest.raises(ValueError, match=rf"set\.h5 .*array '{array}'"):
        all_rows(path)


def test_a_header_of_another_make_is_named(tmp_path, whole):
    path = tmp_path / "set.h5"
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        header = json.loads(file["header"][()].tobytes())
        header["format"] = "ppl-models data 9"
        text = json.dumps(header).encode()
        del file["header"]
        file["header"] = np.frombuffer(text, np.uint8)
    with pytest.raises(ValueError, match=r"cannot read 'header' .its checksum differs"):
        data.open(path)
    with h5py.File(path, "r+") as file:
        file.attrs["sha256"] = hashlib.sha256(text).hexdigest()
    with pytest.raises(
        ValueError, match="format 'ppl-models data 9', expected 'ppl-models data 1'"
    ):
        data.open(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89HDF\r\n\x1a\n", bytes(10_000)])
def test_what_is_no_such_file(tmp_path, content):
    path = tmp_path / "set.h5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"set\.h5 is damaged, or no file of data\.write"):
        data.open(path)
    with pytest.raises(ValueError, match=r"set\.h5"):
        data.load(str(path))
    with pytest.raises(FileNotFoundError, match="no such file"):
        data.open(tmp_path / "none.h5")


ROWS = np.arange(N)


def with_value(value, row=5):
    values = np.sin(ROWS[:, None] + np.arange(5.0))
    values[row, 2] = value
    return values


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"block": {"f": with_value(np.nan)}},
            "site 'f', row 5, column 2: got nan, expected a fi",
        ),
        ({"block": {"f": with_value(-np.inf)}}, "site 'f', row 5, column 2: got -inf"),
        ({"block": {"y": ROWS % 4}}, "site 'y', row 3, column 0: got 3, expected a label in 0..2"),
        ({"block": {"y": ROWS % 3 - 2}}, "got -2, expected a label in 0..2, or -1 if missing"),
        ({"block": {"y": ROWS / 3}}, "has type float64, expected labels of an integer type"),
        ({"block": {"g": ROWS[:, None]}}, "'g' has type int64, expected bool, uint8 or floats"),
        ({"block": {"g": ROWS[:5, None] > 2}}, "'g' has 5 rows, expected 700"),
        (
            {"block": {"y": (ROWS % 3, ROWS[:4] > 2)}},
            r"mask of site 'y'.*expected bool and \(700,",
        ),
        ({"block": {"y": (ROWS % 3, ROWS % 2)}}, "mask of site 'y' has type int64"),
        ({"classes": {}}, "site 'y' has type int64, expected .* or its class names in classes"),
        ({"classes": {"y": ["a", "b", "a"]}}, "'a' stands there twice"),
        ({"classes": {"y": 3, "z": 2}}, "lacks site 'z' of classes"),
        ({"roles": {"z": "factor"}}, "lacks site 'z' of roles"),
        ({"splits": (0.9, 0.1, 1e-5)}, r"shares that add up to at most 1"),
        ({"splits": (0.9, 0.1)}, "expected three"),
        ({"splits": {"train": [0], "validation": [1], "test": [N]}}, "'test' of set has rows 700"),
        (
            {"splits": {"train": [0, 1], "validation": [1], "test": [2]}},
            "row 1 of set is in the spl",
        ),
        (
            {"splits": {"train": [0, 0], "validation": [1], "test": [2]}},
            "row 0 of set is in the spl",
        ),
        ({"splits": {"train": [0]}}, r"splits of set are \['train'\], expected"),
        ({"numbers": ROWS // 2}, "has two rows of number 0, expected one"),
        ({"numbers": ROWS[:5]}, r"numbers of set have shape \(5,\), expected \(700,\)"),
    ],
)
def test_rows_that_do_not_fit_are_not_written(tmp_path, changes, words):
    path = tmp_path / "set.h5"
    path.write_bytes(b"before")
    with pytest.raises(ValueError, match=words) as error:
        data.write(source(**changes), path)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["set.h5"]


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([], "set has no rows"),
        ([{}], "block 0 of set has no sites"),
        ([{"x": np.eye(3, dtype=bool)}, {}], "block 1 of set has no sites"),
        (
            [{"x": np.eye(3, dtype=bool)}, {"z": np.eye(3)}],
            r"block 1 of set has sites \['z'\], exp",
        ),
        ([{"x": np.eye(3, dtype=bool)}, {"x": np.eye(3)}], "block 1 .*'x' has type float64"),
        ([{"x": np.eye(3)}, {"x": np.eye(4)}], r"rows of shape \(4,\), but the first block"),
    ],
)
def test_blocks_that_do_not_fit_together(tmp_path, blocks, words):
    with pytest.raises(ValueError, match=words):
        data.write(data.Blocks("set", blocks), tmp_path / "set.h5")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_being_written_is_not_there_yet(tmp_path):
    path = tmp_path / "set.h5"
    seen = []

    def rows():
        for start in range(0, N, 100):
            seen.append(path.exists())
            part = np.arange(start, start + 100)
            yield {"x": image(part)}

    data.write(data.Blocks("set", rows()), path)
    assert seen == [False] * 7
    before = data.open(path)
    data.write(data.Blocks("set", iter([{"x": ~image(ROWS)}])), path)
    # who reads goes on with the old file
    rows_of = before.train.numbers[:300].numpy()
    assert torch.equal(before.train.sites["x"][:300], torch.from_numpy(image(rows_of)).float())


def test_a_killed_writer_leaves_no_file(tmp_path):
    code = (
        "import os, sys, numpy as np\n"
        "from ppl_models import data\n"
        "def rows():\n"
        "    yield {'x': np.zeros((3000, 4000), bool)}\n"
        "    os._exit(9)\n"
        "data.write(data.Blocks('set', rows()), sys.argv[1])\n"
    )
    path = tmp_path / "set.h5"
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == 9
    assert not path.exists()
    for left in tmp_path.iterdir():  # and what it has left is no data set
        with pytest.raises(ValueError, match=r"is damaged, or no file of data.write"):
            data.open(left)


def test_another_process_writes_in_place(tmp_path, whole):
    path = tmp_path / "set.h5"
    path.write_bytes(whole)
    code = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print('held', flush=True); input()"
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert writer.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=r"set\.h5 is damaged, or .*cannot read the file"):
            data.open(path)
    finally:
        writer.communicate("\n")


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    path = tmp_path / "set.h5"
    path.write_bytes(b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for most in (20_000, 60_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
            with pytest.raises(OSError, match=r"^cannot write .*set\.h5: .+$") as error:
                data.write(source(), path)
            assert "\n" not in str(error.value)
            assert [p.name for p in tmp_path.iterdir()] == ["set.h5"]
            assert path.read_bytes() == b"before"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    data.write(source(), path)
    found = data.open(path)
    assert sum(len(getattr(found, part)) for part in PARTS) == N


def crafted(path, change):
    """A header of a stranger, whose checksum is right."""
    with h5py.File(path, "r+") as file:
        text = json.dumps(change(json.loads(file["header"][()].tobytes()))).encode()
        del file["header"]
        file["header"] = np.frombuffer(text, np.uint8)
        file.attrs["sha256"] = hashlib.sha256(text).hexdigest()


def of_array(name, **changes):
    def change(header):
        header["arrays"][name] |= changes
        return header

    return change


def nested(header):
    for _ in range(500):
        header = [header, header] if len(str(header)) < 2000 else [header]
    return header


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: [h], "cannot read 'header'"),
        (nested, "cannot read 'header'"),
        (lambda h: {k: v for k, v in h.items() if k != "arrays"}, "cannot read 'header'"),
        (lambda h: h | {"arrays": []}, "cannot read 'header' (its arrays is '[]')"),
        (lambda h: h | {"arrays": {"sites/x": 5}}, "cannot read array 'sites/x'"),
        (lambda h: h | {"arrays": {"../x": h["arrays"]["sites/x"]}}, "cannot read array '../x'"),
        (lambda h: h | {"roles": 5}, "cannot read 'header'"),
        (lambda h: h | {"recipe": 5}, "cannot read 'header'"),
        (lambda h: h | {"name": ["\x1b[2J"]}, "cannot read 'header'"),
        (lambda h: h | {"seed": "a", "recipe": None}, "cannot read 'header'"),
        (of_array("sites/x", block=0), "array 'sites/x' (its sizes are [0, 700, 4000])"),
        (of_array("sites/x", block=2**40), "array 'sites/x' (it has blocks (452, 500), expected"),
        (of_array("sites/x", shape=[700, -1, -4000]), "its sizes are [452, 700, -1, -4000]"),
        (of_array("sites/x", shape=["a", 4000]), "its sizes are [452, 'a', 4000]"),
        (of_array("sites/g", encoding="O"), "it is of O, expected numbers"),
        (of_array("sites/g", encoding="float32"), "it is uint8 of shape (700, 39), expected fl"),
        (of_array("sites/g", divisor="a"), "its values are divided by a"),
        (of_array("sites/g", divisor=0), "its values are divided by 0"),
        (of_array("sites/y", classes=["a"]), "cannot read 'header'"),
        (of_array("sites/y", classes=7), "cannot read 'header'"),
        (of_array("sites/x", image=[5, 5]), "cannot read 'header'"),
        (of_array("sites/x", checksums="a"), "its checksums are not what was written"),
    ],
)
def test_a_header_of_a_stranger_is_one_line(tmp_path, whole, change, words):
    path = tmp_path / "set.h5"
    path.write_bytes(whole)
    crafted(path, change)
    start = re.escape(f"{path} is damaged, or no file of data.write: cannot read ")
    with pytest.raises(ValueError, match=rf"^{start}.*; copy or build the file again$") as error:
        data.open(path)
    assert words in str(error.value) and str(error.value).isprintable()
