"""Two digits with correlated classes behind occlusion: joint, field, hidden pixels, pools."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppl_models import data
from ppl_models.data.render import correlated_digits
from ppl_models.data.render.handwriting import handwritten
from ppl_models.data.tables.seeds import numpy_generator

COUNTS = {"train": 600, "validation": 200, "test": 600, "source": "digits"}


def shares(table):
    s_1, s_2 = table.sites["s_1"], table.sites["s_2"]
    return torch.bincount(2 * s_1 + s_2, minlength=4).double().reshape(2, 2) / len(s_1)


@pytest.mark.parametrize("c", [0.9, 0.6, 0.0, -0.9, 1.0])
def test_the_joint_of_the_classes(c) -> None:
    rows = 40_000
    s = correlated_digits.classes(rows, c, np.random.default_rng(0))
    found = np.bincount(2 * s[0] + s[1], minlength=4) / rows
    joint = np.array([1 + c, 1 - c, 1 - c, 1 + c]) / 4
    assert (np.abs(found - joint) <= 4 * np.sqrt(joint * (1 - joint) / rows)).all()
    if c == 0.9:
        assert np.corrcoef(s)[0, 1] == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("occlusion", [0.2, 0.4, 0.8])
def test_a_field_is_uniform_in_the_middle_of_its_cells_and_linear_between(occlusion) -> None:
    rows = 4_000
    numbers = np.random.default_rng(1).random((rows, 4, 4), dtype=np.float32)
    found = correlated_digits.field(rows, np.random.default_rng(1))
    assert found.shape == (rows, 28, 28)
    np.testing.assert_allclose(found[:, 3::7, 3::7], numbers, atol=1e-6)
    np.testing.assert_allclose(found[:, :3, 3], np.repeat(numbers[:, :1, 0], 3, 1), atol=1e-6)
    by_hand = (4 * numbers[:, 0, 0] + 3 * numbers[:, 0, 1]) / 7  # pixel 6 is 3 of 7 further
    np.testing.assert_allclose(found[:, 3, 6], by_hand, atol=1e-6)
    hidden = (found[:, 3::7, 3::7] <= occlusion).mean()
    assert abs(hidden - occlusion) < 4 * np.sqrt(occlusion * (1 - occlusion) / (16 * rows))


def test_pixels_are_grey_where_the_field_is_low_and_the_digits_elsewhere() -> None:
    digits = data.load("correlated_digits", **COUNTS, side=28, occlusion=0.0)
    hidden = data.load("correlated_digits", **COUNTS, side=28, occlusion=0.4)
    seen, x = (d.train.sites["x"].reshape(-1, 28, 56) for d in (digits, hidden))
    assert digits.train.shapes == {"x": (28, 56)}
    looks = numpy_generator(0, 3)
    field = [correlated_digits.field(600, looks) for _ in range(2)]
    low = torch.from_numpy(np.concatenate(field, 2) <= 0.4)
    assert torch.equal(x, torch.where(low, 0.5, seen))
    # Every digit is one of the source's training rows, of its class.
    _, ((images, label), _) = handwritten("digits", 28, (3, 8))
    images = images / np.float32(255)
    known = {image.tobytes(): y for image, y in zip(images, label, strict=True)}
    for site, half in (("s_1", seen[:, :, :28]), ("s_2", seen[:, :, 28:])):
        found = [known[image.tobytes()] for image in half.contiguous().numpy()]
        assert found == [(3, 8)[s] for s in digits.train.sites[site].tolist()]
    assert data.load("correlated_digits", **COUNTS, occlusion=1.0).train.sites["x"].unique() == 0.5


def test_the_fast_variant_is_the_means_of_pixels() -> None:
    fine, small = (data.load("correlated_digits", **COUNTS, side=side) for side in (28, 14))
    x = fine.test.sites["x"].reshape(-1, 1, 28, 56)
    means = torch.nn.functional.avg_pool2d(x, 2).reshape(-1, 14 * 28)
    torch.testing.assert_close(small.test.sites["x"], means)
    assert small.test.shapes == {"x": (14, 28)} and small.sizes == {"x": 392, "s_1": 2, "s_2": 2}
    assert small.train.classes == {"s_1": ("3", "8"), "s_2": ("3", "8")}


def test_parts_have_digits_of_their_own_and_the_test_rows_another_correlation() -> None:
    made = {
        c: data.load("correlated_digits", **COUNTS, test_correlation=c) for c in (0.9, 0, -0.9)
    }
    usual = data.load("correlated_digits", **COUNTS)
    for c, rows in made.items():
        assert torch.equal(rows.train.sites["x"], usual.train.sites["x"])
        assert float(shares(rows.test).diagonal().sum()) == pytest.approx((1 + c) / 2, abs=0.06)
        assert float(shares(rows.validation).diagonal().sum()) == pytest.approx(0.95, abs=0.06)
        assert torch.equal(rows.test.sites["s_1"], usual.test.sites["s_1"])
    # Rows whose classes are the same in both have the same pixels.
    same = made[0].test.sites["s_2"] == made[-0.9].test.sites["s_2"]
    assert 0.4 < float(same.double().mean()) < 0.7
    assert torch.equal(made[0].test.sites["x"][same], made[-0.9].test.sites["x"][same])
    clear = data.load("correlated_digits", **COUNTS, occlusion=0.0, side=28)
    halves = [
        {
            half.numpy().tobytes()
            for x in t.sites["x"].reshape(-1, 28, 56)
            for half in x.split(28, 1)
        }
        for t in (clear.train, clear.validation, clear.test)
    ]
    assert not (halves[0] & halves[1] or halves[0] & halves[2] or halves[1] & halves[2])


def test_labels_are_missing_for_each_attribute_alone() -> None:
    rows = data.load("correlated_digits", **COUNTS, labelled={"s_1": 0.1, "s_2": 300})
    known = [rows.train.observed[s] for s in ("s_1", "s_2")]
    assert [int(k.sum()) for k in known] == [60, 300]
    both = int((known[0] & known[1]).sum())  # hypergeometric: 30 on average, deviation 4.2
    assert 13 <= both <= 47
    full = data.load("correlated_digits", **COUNTS)
    assert torch.equal(rows.train.sites["x"], full.train.sites["x"])
