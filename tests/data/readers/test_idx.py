"""idx files: what was written comes back, and whatever is wrong is one named error."""

from __future__ import annotations

import gzip
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from ppl_models.data.readers import idx

ONE_FOLDER = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
IMAGES = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)


def encode(array, code=0x08, shape=None):
    shape = array.shape if shape is None else shape
    sizes = b"".join(n.to_bytes(4, "big") for n in shape)
    return bytes([0, 0, code, len(shape)]) + sizes + array.astype(idx.CODES[code]).tobytes()


PLAIN = encode(IMAGES)
ZIPPED = gzip.compress(PLAIN, mtime=0)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("code", idx.CODES)
def test_round_trip_of_every_type(tmp_path, code, pack):
    dtype = np.dtype(idx.CODES[code])
    array = np.array([[0, 1, 2], [100, 7, -3 if dtype.kind != "u" else 255]]).astype(dtype)
    path = tmp_path / "file"  # the name says nothing about compression
    path.write_bytes(pack(encode(array, code)))
    got = idx.read(path)
    assert got.dtype == dtype.newbyteorder("=")
    np.testing.assert_array_equal(got, array)


@ONE_FOLDER
@given(st.integers(0, len(PLAIN) - 1))
def test_truncated_anywhere(tmp_path, size):
    _fails(tmp_path, PLAIN[:size])


@ONE_FOLDER
@given(st.integers(0, len(ZIPPED) - 1))
def test_truncated_gzip_anywhere(tmp_path, size):
    _fails(tmp_path, ZIPPED[:size])


@ONE_FOLDER
@given(st.integers(0, len(ZIPPED) - 1), st.integers(1, 255))
def test_a_flipped_byte_of_gzip_is_found_or_harmless(tmp_path, place, flip):
    data = bytearray(ZIPPED)
    data[place] ^= flip
    path = tmp_path / "f.gz"
    path.write_bytes(data)
    try:
        got = idx.read(path)
    except ValueError as error:
        if not str(error).startswith(f"{path}: "):
            raise
    else:
        np.testing.assert_array_equal(got, IMAGES)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (PLAIN + b"\0", "has bytes after its 60 bytes of elements"),
        (b"\0\1" + PLAIN[2:], "starts with 00010803, expected the magic number"),
        (b"\0\0\x07" + PLAIN[3:], "starts with 00000703"),
        (b"\0\0\x08\0" + PLAIN[4:], "announces 0 dimensions"),
        (b"\0\0\x08\x40" + b"\0\0\0\1" * 64 + b"\0", "announces 64 dimensions"),
        (PLAIN[:9], "truncated, 5 bytes of sizes, expected 12"),
        (PLAIN[:-1], "truncated, 59 bytes of elements, expected 60"),
        (encode(IMAGES, shape=(0, 4, 3)), "no elements"),
        (b"{}", "starts with 7b7d"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, data, words, pack):
    assert words in _fails(tmp_path, pack(data))


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_huge_header_allocates_nothing(tmp_path, pack):
    data = pack(encode(IMAGES, shape=(2**32 - 1,) * 3))
    tracemalloc.start()
    try:
        assert {
            bytes: "truncated, 60 bytes of elements",
            gzip.compress: f"truncated, its {len(data)} bytes cannot hold",
        }[pack] in _fails(tmp_path, data)
        assert tracemalloc.get_traced_memory()[1] < 4 * idx.BLOCK
    finally:
        tracemalloc.stop()


def test_junk_after_the_gzip_stream(tmp_path):
    assert "damaged" in _fails(tmp_path, ZIPPED + b"junk")


def test_expected_dimensions_and_missing_file(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(PLAIN)
    with pytest.raises(ValueError, match="announces 3 dimensions, expected 1"):
        idx.read(path, dims=1)
    with pytest.raises(FileNotFoundError, match="no such file"):
        idx.read(tmp_path / "none")


def test_images_and_labels_must_agree(tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.write_bytes(PLAIN)
    labels.write_bytes(encode(np.arange(5)))
    x, y = idx.read_labelled(images, labels)
    assert (x.shape, y.tolist()) == ((5, 4, 3), [0, 1, 2, 3, 4])
    labels.write_bytes(encode(np.arange(4)))
    message = f"{images} has 5 images but {labels} has 4 labels"
    with pytest.raises(ValueError, match=re.escape(message)):
        idx.read_labelled(images, labels)


def _fails(folder, data):
    path = folder / "file-idx"
    path.write_bytes(data)
    with pytest.raises(ValueError) as error:
        idx.read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "expected" in message or "no elements" in message
    assert "\n" not in message
    return message
