"""Files from strangers: what runs code, claims what it does not hold or hides a part."""

from __future__ import annotations

import gzip
import io
import pickle
import re
import struct
import tarfile
import zipfile
import zlib

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image
from worlds.mutations import TARGETS
from worlds.reader_files import own_folders as own_folders

from ppl_models import data
from ppl_models.data.readers import cifar, idx, mat5, omniglot, plain_pickle, views

# Pickles


def call(module, name, arguments):
    """A pickle that calls what it names, with opcodes that make the arguments."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + arguments + b"R."


def doubled(times):
    """A tuple of two of the same, of two of the same, and so on: huge, in few bytes."""
    return b")" + b"".join(b"q%c" % k + b"h%c" % k + b"\x86" for k in range(times))


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
EMPTY = RECONSTRUCT + b"cnumpy\nndarray\nK\0\x85U\1b\x87R"
UINT8 = b"cnumpy\ndtype\nU\2u1K\0K\1\x87R(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"


def filled(shape, dtype=UINT8, content=b"U\6abcdef"):
    return b"\x80\x02" + EMPTY + b"(K\1" + shape + dtype + b"\x89" + content + b"tb."


PICKLES = {
    "an array of objects": (
        call("numpy", "ndarray", b"K\1\x85U\1OU\x08abcdefgh\x87"),
        "it calls numpy ndarray for another thing than an array of bytes",
    ),
    "a type of objects": (
        call("numpy", "dtype", b"U\1OK\0K\1\x87"),
        "it calls numpy dtype for another thing than an array of bytes",
    ),
    "an array made of another": (
        call("numpy.core.multiarray", "_reconstruct", b"cnumpy\ndtype\nK\0\x85U\1b\x87"),
        "it calls numpy.core.multiarray _reconstruct for another thing than an array of bytes",
    ),
    "a size at once": (
        call("numpy.core.multiarray", "_reconstruct", b"cnumpy\nndarray\nJ\0\0\0\x7f\x85U\1b\x87"),
        "it calls numpy.core.multiarray _reconstruct for another thing than an array of bytes",
    ),
    "another codec": (
        call("_codecs", "encode", b"X\1\0\0\0aX\7\0\0\0punycode"[:-1] + b"\x86"),
        "it calls _codecs encode for another thing than an array of bytes",
    ),
    "a call of a text": (b"\x80\x02U\3absK\1\x85R.", "it has a bytes where a _Name is expected"),
    "a shape that lies": (filled(b"K\7\x85"), "an array of shape (7,) has 6 bytes"),
    "a shape below zero": (filled(b"J\xff\xff\xff\xff\x85"), "an array of it has no shape"),
    "many sides": (filled(b"(" + b"K\1" * 200 + b"t"), "an array of it has no shape"),
    "no type": (filled(b"K\6\x85", b"N"), "it has a NoneType where a _Unfilled is expected"),
    "no content": (
        filled(b"K\6\x85", content=b"N"),
        "it has a NoneType where a bytes is expected",
    ),
    "never filled": (b"\x80\x02" + EMPTY + b".", "an array of it has no content"),
    "a huge key": (b"\x80\x02}" + doubled(60) + b"Ns.", "a key of it is no text, bytes or number"),
    "a huge shape": (filled(doubled(60)), "an array of it has no shape"),
    "a set": (b"\x80\x04\x8f.", "it has the opcode EMPTY_SET, which is not allowed"),
    "an object": (
        b"\x80\x02cnumpy\ndtype\n)\x81.",
        "it has the opcode NEWOBJ, which is not allowed",
    ),
    "another file": (b"\x80\x02Pother\n.", "it has the opcode PERSID, which is not allowed"),
    "an end too early": (b"\x80\x02}q\1", "pickle exhausted before seeing STOP"),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_makes_nothing_but_arrays_of_bytes(tmp_path, name):
    content, words = PICKLES[name]
    TARGETS["CIFAR batches"].make(tmp_path)
    path = tmp_path / cifar.BATCHES / "data_batch_2"
    path.write_bytes(content)
    message = f"{path}: cannot be read, expected a batch of CIFAR-10 ({words})"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cifar.load(tmp_path)


def test_an_array_of_bytes_is_made():
    assert plain_pickle.loads(filled(b"K\2K\3\x86")).tolist() == [[97, 98, 99], [100, 101, 102]]


@pytest.mark.parametrize(
    "labels", [["a"] * 10, [True] * 10, [[0]] * 10, list(range(9)), [10] * 10, None]
)
def test_labels_that_are_none(tmp_path, labels):
    TARGETS["CIFAR batches"].make(tmp_path)
    path = tmp_path / cifar.BATCHES / "test_batch"
    path.write_bytes(pickle.dumps({b"data": np.zeros((10, 3072), np.uint8), b"labels": labels}, 2))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: .*labels"):
        cifar.load(tmp_path)


# Tar files


def tar(members, **options):
    with tarfile.open(fileobj=(packed := io.BytesIO()), mode="w", **options) as archive:
        for name, content in members:
            member = tarfile.TarInfo(f"{cifar.BATCHES}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def batches(tmp_path):
    TARGETS["CIFAR batches"].make(tmp_path)
    return [(p.name, p.read_bytes()) for p in sorted((tmp_path / cifar.BATCHES).iterdir())]


def with_size(content, size):
    """The first member claims another size, and its header's sum is right."""
    head = bytearray(content)
    head[124:136] = b"%011o\0" % size
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head[:512])
    return bytes(head)


TARS = {
    "a batch is missing": (
        lambda b: gzip.compress(tar([m for m in b if m[0] != "data_batch_4"])),
        "it has data_batch_1, data_batch_2, data_batch_3, data_batch_5, test_batch, expected ",
    ),
    "a batch is there twice": (
        lambda b: gzip.compress(tar([*b, b[0]])),
        "'data_batch_1' claims 46456 bytes, or is twice there",
    ),
    "a checksum is wrong": (
        lambda b: (g := gzip.compress(tar(b)))[:-8] + bytes([g[-8] ^ 1]) + g[-7:],
        "CRC check failed",
    ),
    "the checksum is cut off": (lambda b: gzip.compress(tar(b))[:-8], "Compressed file ended"),
    "more after the end": (
        lambda b: gzip.compress(tar(b) + b"more"),
        "something stands after its end",
    ),
    "zeros without an end": (
        lambda b: gzip.compress(tar(b) + bytes(3 << 20)),
        "something stands after its end",
    ),
    "more after the stream": (lambda b: gzip.compress(tar(b)) + b"more", "Not a gzipped file"),
    "a huge batch": (
        lambda b: gzip.compress(with_size(tar(b), 8**11 - 1)),
        "'data_batch_1' claims 8589934591 bytes",
    ),
    "a huge name": (
        lambda b: gzip.compress(
            with_size(tar([("x" * 200, b"")], format=tarfile.GNU_FORMAT), 8**11 - 1)
        ),
        "",
    ),
}


@pytest.mark.parametrize("name", TARS)
def test_tar_files_are_read_to_their_end(tmp_path, name):
    make, words = TARS[name]
    members = batches(tmp_path)
    path = tmp_path / "tar" / cifar.TAR
    path.parent.mkdir()
    path.write_bytes(make(members))
    start = f"{path}: cannot be read, expected the official tar file ("
    with pytest.raises(ValueError, match=f"^{re.escape(start)}.*{re.escape(words)}"):
        cifar.load(path.parent)


def test_batches_in_a_folder_are_all_there(tmp_path):
    batches(tmp_path)
    (tmp_path / cifar.BATCHES / "data_batch_5").unlink()
    with pytest.raises(ValueError, match=r"cifar-10-batches-py: .* expected data_batch_1, .*_5"):
        cifar.load(tmp_path)


# Zip files and npz


def npz(folder, **arrays):
    x, y = np.arange(60.0).reshape(20, 3), np.arange(20) % 2
    np.savez(folder / "own.npz", **{"x": x, "y": y, "z": x} | arrays)
    return folder / "own.npz"


def forgotten(path):
    """A member that the directory does not list."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.filelist.pop(1)
        archive._didModify = True


def claiming(path, sizes):
    """The directory claims sizes, compressed and not, of the first member."""
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\1\2")
    content[entry + 20 : entry + 28] = struct.pack("<II", *sizes)
    path.write_bytes(content)


def appended(path, content):
    path.write_bytes(path.read_bytes() + content)


def again(path, name):
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"")


def with_array(path, shape, content, descr="<f8"):
    header = io.BytesIO()
    form = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, form)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header.getvalue() + content)


ZIPS = {
    "a forgotten member": (forgotten, "leave a gap or overlap by "),
    "more after the end": (lambda p: appended(p, b"more"), "something stands after its end"),
    "more before the start": (
        lambda p: p.write_bytes(b"more" + p.read_bytes()),
        "4 bytes stand before its first member",
    ),
    "a huge member": (
        lambda p: claiming(p, (608, 2**32 - 2)),
        "'x.npy' claims 4294967294 bytes, but has 608",
    ),
    "members that overlap": (lambda p: claiming(p, (900, 900)), "leave a gap or overlap by -"),
    "two of one name": (
        lambda p: again(p, "x.npy"),
        "two members have one name",
    ),
    "a huge shape": (
        lambda p: with_array(p, (2**40, 2**20), bytes(80)),
        "it claims float64 of shape (1099511627776, 1048576); its length is not that of its "
        "shape, it has 80 bytes",
    ),
    "a shape of less": (
        lambda p: with_array(p, (9,), bytes(80)),
        "it claims float64 of shape (9,)",
    ),
    "a shape below zero": (
        lambda p: with_array(p, (-2, -5), bytes(80)),
        "it claims float64 of shape (-2, -5)",
    ),
    "entries of no size": (
        lambda p: with_array(p, (2**40,), b"", "|S0"),
        "it claims |S0 of shape (1099511627776,)",
    ),
    "objects": (
        lambda p: np.savez(p, x=np.array([{}], object)),
        "it holds Python objects, which are not read",
    ),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ZIPS)
def test_npz_files_are_whole(tmp_path, name):
    make, words = ZIPS[name]
    make(path := npz(tmp_path))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: .*{re.escape(words)}"):
        data.load(str(path))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", [70, 200, 500])
def test_a_flipped_bit_of_an_npz_is_found(tmp_path, packed, place):
    path = npz(tmp_path)
    if packed:
        np.savez_compressed(path, **np.load(path))
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: cannot read "):
        data.load(str(path))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_files_of_others_are_read(tmp_path, stream, order):
    """Written front to back, with the sizes behind each member; of columns first."""
    x = np.asarray(np.arange(60.0).reshape(20, 3), order=order)
    write = streamed if stream else np.savez
    write(packed := io.BytesIO(), x=x, y=np.array(["a", "b"] * 10))
    (tmp_path / "own.npz").write_bytes(packed.getvalue())
    found = data.load(str(tmp_path / "own.npz"))
    assert found.train.sites["x"][0].tolist() == x[found.train.numbers[0]].tolist()


def streamed(packed, **arrays):
    class Pipe:
        write, flush = packed.write, packed.flush

    with zipfile.ZipFile(Pipe(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)


# Omniglot


def drawings(path, drop=(), size=(105, 105), name="{:04}_{:02}.png"):
    with zipfile.ZipFile(path, "w") as archive:
        for k in range(40):
            if k not in drop:
                Image.new("1", size if k == 7 else (105, 105)).save(file := io.BytesIO(), "PNG")
                place = f"{path.stem}/Greek/character{k // 20:02}/"
                archive.writestr(place + name.format(k // 20, k % 20 + 1), file.getvalue())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"drop": [3]},
            "character 'Greek/character00' has 19 drawings, expected one of each of 20",
        ),
        ({"drop": range(39)}, "character 'Greek/character01' has 1 drawings"),
        ({"drop": range(40)}, "need at least one array"),
        (
            {"name": "{:04}_1.png"},
            "character 'Greek/character00' has 20 drawings, expected one of",
        ),
        ({"size": (106, 105)}, "0000_08.png' is (106, 105), expected (105, 105)"),
        ({"size": (9000, 9000)}, "0000_08.png' is (9000, 9000), expected (105, 105)"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_drawings_are_all_there(tmp_path, options, words):
    path = tmp_path / "images_background_small1.zip"
    drawings(path, **options)
    if "name" in options:
        words = "two members have one name"
    start = f"{path}: cannot be read, expected a zip of alphabet/characterNN/NNNN_NN.png ("
    with pytest.raises(ValueError, match=f"^{re.escape(start)}.*{re.escape(words)}"):
        omniglot.read(root=tmp_path)


# idx, MATLAB


@pytest.mark.parametrize("sizes", [(2**31,), (2**20, 2**12), (2**32 - 1,) * 32])
def test_an_idx_file_claims_no_more_than_gzip_can_hold(tmp_path, sizes):
    path = tmp_path / "images.gz"
    head = bytes([0, 0, 8, len(sizes)]) + b"".join(n.to_bytes(4, "big") for n in sizes)
    path.write_bytes(gzip.compress(head + bytes(100), mtime=0))
    size = path.stat().st_size
    with pytest.raises(
        ValueError, match=f"truncated, its {size} bytes cannot hold .* expected at"
    ):
        idx.read(path)


def matrix(kind=9, shape=(4, 4, 3, 4, 24), stored=2, content=None, name=b"im"):
    """A MATLAB file with one array, part by part."""

    def element(code, data):
        return struct.pack("<II", code, len(data)) + data + bytes(-len(data) % 8)

    content = bytes(4 * 4 * 3 * 4 * 24) if content is None else content
    parts = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack("<5i", *shape))
    return element(14, parts + element(1, name) + element(stored, content))


HEAD = b"MATLAB 5.0".ljust(124) + struct.pack("<H", 0x0100) + b"IM"


def packed(content, size=None):
    small = zlib.compress(content)
    return struct.pack("<II", 15, len(small) if size is None else size) + small


MATRICES = {
    "another class": (HEAD + matrix(6), "its array is of class 6, expected 9, uint8"),
    "objects": (HEAD + matrix(3), "its array is of class 3, expected 9, uint8"),
    "wider numbers": (HEAD + matrix(stored=4), "its array is of class 9, expected 9, uint8"),
    "a shape that lies": (
        HEAD + matrix(shape=(4, 4, 3, 4, 25)),
        "of shape (4, 4, 3, 4, 25) has 4608",
    ),
    "a huge shape": (HEAD + matrix(shape=(2**31 - 1,) * 5), "has 4608 bytes"),
    "a shape below zero": (HEAD + matrix(shape=(-4, -4, 3, 4, 24)), "has 4608 bytes"),
    "another name": (HEAD + matrix(name=b"i\x1bm"), "it has no array 'im', but"),
    "twice": (HEAD + matrix() * 2, "it has two arrays 'im'"),
    "cut short": ((HEAD + matrix())[:-8], "an element claims "),
    "more after the end": (HEAD + matrix() + b"more", "it is cut short"),
    "a wrong checksum": (
        HEAD + (p := packed(matrix()))[:-1] + bytes([p[-1] ^ 1]),
        "incorrect data check",
    ),
    "no checksum": (HEAD + struct.pack("<II", 15, len(p) - 12) + p[8:-4], "and has others"),
    "a huge array": (
        HEAD + packed(struct.pack("<II", 14, 2**32 - 1) + bytes(999)),
        "a compressed array claims 4294967295 bytes, but has",
    ),
    "more than it says": (HEAD + packed(matrix() + bytes(9)), "and has others"),
    "of version 7.3": (HEAD[:124] + b"\0\2IM" + matrix(), "no MATLAB file of version 5 to 7"),
}


@pytest.mark.parametrize("name", MATRICES)
def test_matlab_files_are_whole(tmp_path, name):
    content, words = MATRICES[name]
    path = tmp_path / "car.mat"
    path.write_bytes(content)
    start = f"{path}: cannot be read, expected a MATLAB file with an array 'im'"
    with pytest.raises(ValueError, match=f"^{re.escape(start)}.*{re.escape(words)}") as error:
        views._car(path)
    assert error.value.args[0].isprintable()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4), (2, 1), (1, 1)])
def test_matlab_files_are_read_as_scipy_writes_them(tmp_path, compressed, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    more = {"a": np.arange(3.0), "text": "abc", "cell": np.array([1, "b"], object)}
    path = tmp_path / "m.mat"
    scipy.io.savemat(path, {**more, "im": array, "z": 1j}, do_compression=compressed)
    assert np.array_equal(mat5.array(path.read_bytes(), "im"), array)
    with pytest.raises(ValueError, match="its array is of class 6, expected 9"):
        mat5.array(path.read_bytes(), "a")


# AnnData


@pytest.mark.parametrize("var", ["new", "old", "none"])
@pytest.mark.parametrize("encoding", ["csr_matrix", "csc_matrix"])
def test_a_sparse_matrix_is_no_wider_than_its_genes(tmp_path, var, encoding):
    path = tmp_path / "cells.h5ad"
    rows = 40 if encoding == "csr_matrix" else 2**30
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group["data"], group["indices"] = np.ones(3), np.zeros(3, np.int64)
        group["indptr"] = np.append(np.zeros(40, np.int64), 3)
        group.attrs["encoding-type"] = encoding
        group.attrs["shape"] = (40, 2**30) if encoding == "csr_matrix" else (rows, 40)
        if var == "new":
            file["var/names"] = np.arange(6)
            file["var"].attrs["_index"] = "names"
        elif var == "old":
            file["var"] = np.zeros(6, [("index", "S3")])
    has = {"new": 6, "old": 6, "none": "no"}[var]
    shape = str((40, 2**30) if encoding == "csr_matrix" else (rows, 40))
    message = f"{path}: cannot be read, expected an h5ad file of AnnData with 'X' ("
    message += f"X has shape {shape}, but var has {has} rows)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        data.load(str(path))
