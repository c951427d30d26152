"""Published grids of factors: tiny files in the official layouts."""

from __future__ import annotations

import io
import struct
import zipfile

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from worlds.reader_files import Foreign, own_folders as own_folders, remade, rows

from ppl_models import data
from ppl_models.data.factors import published
from ppl_models.data.readers import factor_grids, npz_stream, views


def test_npz_from_front_to_back(tmp_path):
    whole = np.arange(2500 * 6, dtype=np.uint8).reshape(2500, 2, 3)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, imgs=whole, other=np.array([{}], dtype=object))
    assert npz_stream.shape(path, "imgs") == (2500, 2, 3)
    blocks = list(npz_stream.rows(path, "imgs"))
    assert [len(b) for b in blocks] == [1024, 1024, 452]
    assert np.array_equal(np.concatenate(blocks), whole)
    for name, dtype in (("other", "uint8"), ("none", "uint8"), ("imgs", "float32")):
        with pytest.raises(ValueError, match=r"a\.npz: cannot be read"):
            list(npz_stream.rows(path, name, dtype))
    packed = path.read_bytes()
    for k in range(16):
        path.write_bytes(packed[: len(packed) * k // 16])
        with pytest.raises(ValueError, match=r"a\.npz: cannot be read"):
            list(npz_stream.rows(path, "imgs"))


@pytest.fixture
def tiny_grids(monkeypatch):
    """The official layouts with few values per factor."""
    sprites = {"shape": ("square", "heart"), "scale": (0.5, 1.0), "pos_x": (0.0, 0.5, 1.0)}
    monkeypatch.setattr(published, "DSPRITES", sprites)
    few = {k: v[:2] for k, v in published.SHAPES3D.items()}
    monkeypatch.setattr(published, "SHAPES3D", few)


@pytest.mark.parametrize("ending", ["npz", "h5", "hdf5"])
def test_official_layout_of_dsprites(tmp_path, tiny_grids, ending, monkeypatch):
    monkeypatch.setenv("PPL_DATA", str(tmp_path))
    images = (np.random.default_rng(0).random((12, 64, 64)) < 0.1).astype(np.uint8)
    path = tmp_path / f"{factor_grids.DSPRITES_STEM}.{ending}"
    if ending == "npz":
        metadata = np.array({"by": Foreign}, dtype=object)  # pickled, as in the original
        np.savez(path, imgs=images, latents_classes=np.zeros((12, 6)), metadata=metadata)
    else:
        with h5py.File(path, "w") as file:
            file["imgs"] = images
    found = data.load("dsprites_official", root=str(tmp_path), train=8, validation=2, test=2)
    assert torch.equal(rows(found, "x"), torch.from_numpy(images.reshape(12, -1)).float())
    code = rows(found, "shape") * 6 + rows(found, "scale") * 3 + rows(found, "pos_x")
    assert torch.equal(code, torch.arange(12))
    assert found.train.shapes == {"x": (64, 64)}
    remade(found)
    built = list((tmp_path / "built").iterdir())
    assert len(built) == 1
    assert data.open(built[0]).train.sites["x"].source.encoding == "bits"


def test_official_layout_of_shapes3d(tmp_path, tiny_grids):
    images = np.random.default_rng(0).integers(0, 256, (64, 64, 64, 3), dtype=np.uint8)
    with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        file["images"], file["labels"] = images, np.zeros((64, 6))
    found = data.load("shapes3d", root=str(tmp_path), train=50, validation=4, test=10)
    assert torch.equal(rows(found, "x"), torch.from_numpy(images.reshape(64, -1)).float() / 255)
    bits = [rows(found, name) for name in published.SHAPES3D]
    assert torch.equal(sum(b * 2 ** (5 - k) for k, b in enumerate(bits)), torch.arange(64))
    with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        file["images"] = images.astype(np.float32)
    with pytest.raises(ValueError, match=r"3dshapes.h5: .* expected .*uint8 .it is float32"):
        data.load("shapes3d", root=str(tmp_path))


def test_mpi3d_tells_its_factors_from_the_number_of_images(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "mpi3d_real.npz", "w") as archive:
        header = io.BytesIO()
        form = {"descr": "|u1", "fortran_order": False, "shape": (460_800, 64, 64, 3)}
        np.lib.format.write_array_header_1_0(header, form)
        archive.writestr("images.npy", header.getvalue())
    with pytest.raises(ValueError, match=r"mpi3d_real.npz: cannot be read.*length"):
        data.load("mpi3d", kind="real", root=str(tmp_path))
    blank = np.zeros((1, 64, 64, 3), np.uint8)

    class Many:
        def __len__(self):
            return 460_800

        def __getitem__(self, index):
            return (
                np.repeat(blank, len(index), 0)
                + (index % 251).astype(np.uint8)[:, None, None, None]
            )

    monkeypatch.setattr(npz_stream, "shape", lambda path, name: (460_800, 64, 64, 3))
    monkeypatch.setattr(factor_grids, "_kept", lambda *args, **options: Many())
    made = factor_grids.mpi3d("real", str(tmp_path))
    assert made.factor_sizes == (4, 4, 2, 3, 3, 40, 40)
    classes = made.classes(np.array([123_456]))
    assert int(made.render(classes, np.random.default_rng(0)).max()) == 123_456 % 251
    monkeypatch.undo()
    np.savez(tmp_path / "mpi3d_toy.npz", images=blank)
    with pytest.raises(ValueError, match="has 1 images, expected 1036800 or 460800"):
        data.load("mpi3d", root=str(tmp_path))
    with pytest.raises(ValueError, match="kind is 'toys', expected one of toy"):
        data.load("mpi3d", kind="toys")


# SmallNORB and Cars3D


def norb_matrix(array, magic):
    sizes = [*array.shape, 1, 1][: max(3, array.ndim)]
    return struct.pack(f"<ii{len(sizes)}i", magic, array.ndim, *sizes) + array.tobytes()


@pytest.mark.parametrize("shape", [(3,), (3, 4), (2, 2, 5, 3)])
def test_norb_matrices(tmp_path, shape):
    path = tmp_path / "m.mat"
    for dtype, magic in (("u1", 507333717), ("<i4", 507333716)):
        array = np.arange(200, 200 + np.prod(shape)).astype(dtype).reshape(shape)
        content = norb_matrix(array, magic)
        path.write_bytes(content)
        assert np.array_equal(views.matrix(path), array)
        for damaged in (content[:-1], content + b"\0", b"MAT" + content[3:], content[:6], b""):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"m\.mat: cannot be read, expected a binary"):
                views.matrix(path)


@pytest.mark.long
def test_smallnorb(tmp_path, monkeypatch):
    monkeypatch.setattr(views, "shrunk", lambda image: image[:64, :64])
    for part, instances in views.NORB.items():
        grid = np.indices((5, 5, 9, 18, 6)).reshape(5, -1).T
        grid = grid[np.random.default_rng(1).permutation(len(grid))]
        category, place, elevation, azimuth, lighting = grid.T
        instance = np.array(instances)[place]
        n = len(grid)
        # pixels tell the cell: one value each in the first camera, noise in the second
        dat = np.zeros((n, 2, 96, 96), np.uint8)
        for k, value in enumerate((category, instance, elevation, azimuth, lighting)):
            dat[:, 0, 0, k] = value + 200
        dat[:, 1] = 9
        info = np.stack([instance, elevation, 2 * azimuth, lighting], 1).astype("<i4")
        for what, array, magic in (
            ("dat", dat, 507333717),
            ("cat", category.astype("<i4"), 507333716),
            ("info", info, 507333716),
        ):
            (tmp_path / f"{part}-{what}.mat").write_bytes(norb_matrix(array, magic))
    made = views.smallnorb(str(tmp_path))
    assert made.factor_sizes == (5, 9, 18, 6)
    classes = made.sample(300, np.random.default_rng(0))
    seen = made.render(classes, np.random.default_rng(1))
    assert np.array_equal(seen[:, 0, [0, 2, 3, 4]] - 200, classes)
    toys = np.bincount(seen[:, 0, 1] - 200, minlength=10)
    assert len(toys) == 10 and toys.min() > 8  # of 30 expected, standard deviation 5.2
    path = tmp_path / f"{next(iter(views.NORB))}-info.mat"
    info = views.matrix(path).copy()
    info[0] = info[1]
    path.write_bytes(norb_matrix(info, 507333716))
    with pytest.raises(ValueError, match=r"SmallNORB has 48600 images for 4859[89] combinations"):
        views.smallnorb(str(tmp_path))


def test_cars3d(tmp_path):
    (tmp_path / "cars").mkdir()
    flat = np.arange(2 * 4 * 24).reshape(2, 4, 24) + 20
    for car in range(2):
        im = np.broadcast_to(flat[car].astype(np.uint8), (128, 128, 3, 4, 24))
        scipy.io.savemat(tmp_path / "cars" / f"car_{car}_mesh.mat", {"im": im, "z": 3})
    made = views.cars3d(str(tmp_path))
    assert made.factor_sizes == (4, 24, 2)
    classes = made.classes(np.arange(192))
    seen = made.render(classes, np.random.default_rng(0))
    assert seen.shape == (192, 64, 64, 3)
    assert np.array_equal(seen[:, 30, 30, 1], flat[classes[:, 2], classes[:, 0], classes[:, 1]])
    scipy.io.savemat(tmp_path / "cars" / "car_0_mesh.mat", {"im": np.zeros((2, 2))})
    with pytest.raises(ValueError, match=r"car_0_mesh\.mat: cannot be read, expected a MATLAB"):
        views.cars3d(str(tmp_path))
