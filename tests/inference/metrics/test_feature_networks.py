"""Feature networks: what they compute, their names and digests, and their files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from worlds.mutations import KINDS, Target, mutated, verdict

from ppl_models.data import Table
from ppl_models.inference.metrics import (
    classifier_features,
    load_features,
    pca_features,
    random_features,
    save_features,
    user_features,
)

SHAPE = (6, 5)
RGB = (6, 5, 3)


def images(count=40, shape=SHAPE, seed=0, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(count, *shape, generator=draw, dtype=dtype)


def bars(count=120, seed=0, name="bars/train", shift=0):
    """Images with a bright row and a bright column, and which these are."""
    x = 0.3 * images(count, seed=seed)
    at = torch.arange(count) + shift
    row, column = at % 6, at // 6 % 5
    x[torch.arange(count), row] += 0.7
    x[torch.arange(count), :, column] += 0.7
    return Table(
        name,
        {"x": x.flatten(1).clamp(0, 1), "row": row, "column": column},
        shapes={"x": SHAPE},
        classes={"row": tuple("abcdef"), "column": tuple("vwxyz")},
    )


class Mean(nn.Module):
    """Means of rows of pixels, noisy in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(1), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.norm(x)).mean(3).flatten(1)


# ---- what they compute -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_components_keep_the_variance_that_numpy_says(dtype):
    x = images(50, dtype=dtype)
    net = pca_features(x, 4)
    assert (net.label, net.d, net.shape) == ("pca:4", 4, (6, 5, 1))
    found = net(x)
    assert found.dtype == torch.float64
    flat = x.flatten(1).double().numpy()
    values = np.linalg.svd(flat - flat.mean(0), compute_uv=False)[:4]
    np.testing.assert_allclose(found.T @ found, np.diag(values**2), atol=1e-9)
    assert torch.allclose(found.mean(0), torch.zeros(4).double(), atol=1e-12)


def test_images_come_flat_or_in_shape():
    x = images(7, RGB)
    net = random_features(RGB, d=5, seed=1)
    assert (net.label, net.d) == ("random:1", 5)
    assert net(x).shape == (7, 5)
    assert torch.equal(net(x), net(x.flatten(1)))
    grey = random_features(SHAPE, d=5)
    y = images(3)
    assert torch.equal(grey(y), grey(y.unsqueeze(3)))
    # Images by themselves: what else is in the block does not count.
    assert torch.allclose(grey(y)[:1], grey(y[:1]), atol=1e-6)


def test_random_networks_depend_on_the_seed_alone():
    state = torch.random.get_rng_state()
    one, again, other = (random_features(SHAPE, 8, seed=k) for k in (3, 3, 4))
    assert one.digest == again.digest != other.digest
    assert len(one.digest) == 64
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.training
def test_a_classifier_learns_all_its_labels():
    state = torch.random.get_rng_state()
    train, test = bars(), bars(60, seed=1, name="bars/test", shift=1)
    net = classifier_features(train, ("row", "column"), test, d=16, steps=100)
    assert (net.label, net.d, net.layer) == ("classifier:bars", 16, "last hidden layer")
    # 12 seeds: 1.000 (0.000); by chance 0.18.
    assert net.test_accuracy > 0.9
    assert torch.equal(torch.random.get_rng_state(), state)
    assert bool((net(test.sites["x"]) >= 0).all())  # after the ReLU


def test_a_classifier_is_told_apart_by_seed_and_rows():
    rows = bars()
    ask = {"labels": "row", "d": 4, "steps": 3}
    first = classifier_features(rows, **ask)
    assert first.test_accuracy is None and not first.comparable_to_inception_fid
    assert first.digest == classifier_features(rows, **ask).digest
    assert first.digest != classifier_features(rows, **ask, seed=1).digest
    assert first.digest != classifier_features(rows.rows(slice(0, 60)), **ask).digest
    # Rows whose label is hidden teach nothing.
    half = torch.arange(len(rows)) < 60
    hidden = rows.hide({"row": half})
    assert (
        classifier_features(hidden, **ask).digest
        == classifier_features(rows.rows(slice(0, 60)), **ask).digest
    )


# ---- networks of the user --------------------------------------------------------------------


def test_a_users_network_is_copied_and_evaluated():
    module = Mean()
    module.norm.running_mean.fill_(0.25)
    net = user_features(module, SHAPE, "none")
    x = images(9, dtype=torch.float64)
    wanted = (x.mean(2) - 0.25) / (1 + 1e-5) ** 0.5
    assert torch.allclose(net(x), wanted, atol=1e-6)
    before = net(x)
    with torch.no_grad():
        module.norm.running_mean.fill_(7.0)
    module.train()
    assert torch.equal(net(x), before)
    assert module.training  # the user's own is as it was
    assert net.label == f"user:{net.digest[:12]}"
    assert user_features(module, SHAPE, "none").digest != net.digest
    module.norm.running_mean.fill_(0.25)
    assert user_features(module, SHAPE, "none").digest == net.digest
    assert user_features(module, SHAPE, "other").digest != net.digest


def test_grey_images_are_repeated_where_channels_are_wanted():
    flat = nn.Flatten()
    x = images(4)
    found = user_features(flat, SHAPE, "none", channels=3)(x)
    assert torch.allclose(found, x.flatten(1).repeat(1, 3).double())
    colours = images(4, RGB)
    planes = user_features(flat, RGB, "none")(colours)
    assert torch.allclose(planes, colours.permute(0, 3, 1, 2).flatten(1).double())


def test_a_scripted_module_is_taken_as_a_module():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(30, 4))
    scripted = torch.jit.script(plain)
    x = images(5)
    assert torch.equal(
        user_features(scripted, SHAPE, "none")(x), user_features(plain, SHAPE, "none")(x)
    )


def test_inception_is_a_word_of_the_user_that_must_have_its_size():
    wide = nn.Sequential(nn.Flatten(), nn.Linear(30, 2048))
    assert user_features(wide, SHAPE, "299", inception=True).comparable_to_inception_fid
    assert not user_features(wide, SHAPE, "299").comparable_to_inception_fid
    with pytest.raises(ValueError, match="gives 30 features, expected 2048 of Inception"):
        user_features(nn.Flatten(), SHAPE, "299", inception=True)


# ---- files -----------------------------------------------------------------------------------


def test_files_bring_networks_back_to_the_bit(tmp_path):
    x, path = images(), tmp_path / "net.npz"
    for net in (
        random_features(SHAPE, 5),
        pca_features(x, 3),
        classifier_features(bars(), "row", bars(), d=4, activation="silu", steps=2),
    ):
        save_features(net, path)
        back = load_features(path)
        assert torch.equal(back(x), net(x))
        assert (back.label, back.digest, back.layer, back.d, back.shape, back.test_accuracy) == (
            net.label, net.digest, net.layer, net.d, net.shape, net.test_accuracy,
        )  # fmt: skip


def test_damaged_files_are_named(tmp_path):
    def make(folder):
        save_features(random_features(SHAPE, 2), folder / "net.npz")
        return folder / "net.npz"

    def read(folder):
        net = load_features(folder / "net.npz")
        return [net.digest, net.label, net(images(3))]

    target = Target(make, read, True)
    path = make(tmp_path)
    expected, content, rng = read(tmp_path), path.read_bytes(), np.random.default_rng(0)
    for kind in KINDS:
        for _ in range(8):
            path.write_bytes(mutated(content, kind, rng))
            found, why = verdict(target, tmp_path, path, expected)
            assert found in ("same", "refused"), (kind, why)


def test_what_a_file_says_is_compared_with_what_it_holds(tmp_path):
    path = tmp_path / "net.npz"
    save_features(random_features(SHAPE, 2), path)
    with np.load(path) as file:
        arrays = dict(file)
    about = json.loads(str(arrays["about"]))
    for change, line in {
        ("d", 1 << 30): "1073741824 features are of images",
        ("d", 3): "of other names, shapes or types than it says",
        ("shape", (6, 900_000)): "2 features are of images of shape",
        ("label", "user:0"): "its label is 'user:0'",
        ("activation", "os.system"): "unknown activation 'os.system'",
        ("digest", "0"): "its digest is another one than it says",
        ("test_accuracy", 7): "its accuracy is 7",
    }.items():
        text = np.array(json.dumps(about | dict([change])))
        np.savez(path, **(arrays | {"about": text}))
        with pytest.raises(ValueError, match=line) as error:
            load_features(path)
        assert str(error.value).startswith(f"{path} is no whole feature network")
    np.savez(path, **(arrays | {"about": np.array([{}], dtype=object)}))
    with pytest.raises(ValueError, match="holds Python objects"):
        load_features(path)
    with pytest.raises(FileNotFoundError, match="no such file, expected an"):
        load_features(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="is a network of your own, expected one made here"):
        save_features(user_features(nn.Flatten(), SHAPE, "none"), path)
    with pytest.raises(ValueError, match=r"ends in '.pt', expected .npz"):
        save_features(random_features(SHAPE, 2), tmp_path / "net.pt")


# ---- what does not fit -----------------------------------------------------------------------


def test_images_that_do_not_fit_are_one_line():
    net = random_features(SHAPE, 4)
    for wrong in (images(3, (5, 6)), images(0), images(3).long(), images(3, (31,)), images(3)[0]):
        with pytest.raises(ValueError, match=r"expected floating \(n, 30\) or \(n, 6, 5, 1\)"):
            net(wrong)
    broken = images(3)
    broken[1, 2, 2] = float("nan")
    with pytest.raises(ValueError, match="image 1 has a number that is not finite"):
        net(broken)


def test_networks_that_cannot_be_are_one_line():
    rows = bars()
    x = rows.sites["x"]
    alike = Table("alike", {"x": x, "y": torch.zeros(120).long()}, shapes={"x": SHAPE})
    other = rows.known_by(classes={**rows.classes, "row": tuple("bacdef")})
    wrong = {
        "unknown site 'z'": lambda: classifier_features(rows, "z"),
        "site 'x' of bars/train is no label": lambda: classifier_features(rows, "x"),
        r"labels are \(\)": lambda: classifier_features(rows, ()),
        "label 'y' of alike is 0 in all rows": lambda: classifier_features(alike),
        "has no shape of images": lambda: classifier_features(
            rows.known_by(shapes={}), "row"
        ),
        "label 'row' of bars/train has other classes": lambda: classifier_features(
            rows, "row", other
        ),
        "unknown activation 'no'": lambda: classifier_features(rows, "row", activation="no"),
        "steps is 0, expected at least 1": lambda: classifier_features(rows, "row", steps=0),
        "k is 31, expected at most 30": lambda: pca_features(x, 31, SHAPE),
        "k is 9, expected at most 8": lambda: pca_features(x[:9], 9, SHAPE),
        r"shape is \(30,\), expected \(H, W\)": lambda: pca_features(x, 3),
        r"shape is \(4, 5, 6, 7\)": lambda: random_features((4, 5, 6, 7)),
        "seed is -1": lambda: random_features(SHAPE, seed=-1),
        "module is a str, expected a torch module, no file": lambda: user_features(
            "net.pt", SHAPE, "none"
        ),
        "preprocessing is empty": lambda: user_features(nn.Flatten(), SHAPE, " "),
        "channels is 4 for images of 3": lambda: user_features(
            nn.Flatten(), RGB, "none", channels=4
        ),
        r"gives shape \(2, 1, 6, 5\) for 2 images, expected \(2, d\)": lambda: user_features(
            nn.Identity(), SHAPE, "none"
        ),
    }  # fmt: skip
    for line, ask in wrong.items():
        with pytest.raises(ValueError, match=line) as error:
            ask()
        assert "\n" not in str(error.value)
