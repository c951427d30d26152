"""Views: each step against loops, draws row by row, and the sites of a batch."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch.testing import assert_close

from ppl_models import data
from ppl_models.batch import Batch
from ppl_models.data import Stream, Table
from ppl_models.inference.training.process_noise import Draws

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
TOLERANCE = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-9},
    torch.float32: {"rtol": 1e-4, "atol": 2e-5},
}
ROWS, SHAPE = 6, (7, 5, 3)  # H, W, C

IMAGE_STEPS = [
    data.Crop(),
    data.Crop((0.08, 0.5), (0.5, 2.0)),
    data.Flip(),
    data.Flip(along="height"),
    data.Affine(),
    data.Affine(40, 0.2, (0.7, 1.4), 25, "border"),
    data.Blur(),
    data.Blur((1.0, 3.0), 1.0),
    data.CutOut(2),
    data.CutOut(3, 0.5, 0.5),
    data.Colour(),
    data.Colour(0.8, 0.8, 0.8, 0.5, 1.0),
    data.Colour(0.4, 0.4, 0.4, 0.0, clip=False),
    data.Grey(),
    data.Solarise(0.4, 0.7),
    data.DropChannels(2),
]
ROW_STEPS = [data.Noise(), data.Noise((0.1, 2.0), 0.5), data.Dropout(0.3), data.TimeJitter()]
ROW_STEPS.append(data.TimeJitter(0.3, (0.5, 2.0)))


def images(dtype=torch.float64, rows=ROWS):
    draw = torch.Generator().manual_seed(1)
    return torch.rand((rows, math.prod(SHAPE)), generator=draw, dtype=torch.float64).to(dtype)


def seen(step, rows, seed=0):
    """A view of rows, which are flat images where the step is one of images."""
    shape = None if isinstance(step, ROW_KINDS) else SHAPE
    torch.manual_seed(seed)
    return data.views("x", ("v",), [step], shape)(Batch({"x": rows}))["v"]


ROW_KINDS = data.Noise, data.Dropout, data.TimeJitter


def shares(count, rows=ROWS, seed=0):
    """The uniform numbers that a view's draws begin with."""
    torch.manual_seed(seed)
    return torch.rand((rows, count), dtype=torch.float64).numpy()


def read(image, x, y, outside):
    """Bilinear, pixel by pixel; (x, y) in pixels from the centre of the first."""
    height, width, _ = image.shape
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            weight = (1 - abs(y - row)) * (1 - abs(x - column))
            inside = 0 <= row < height and 0 <= column < width
            if inside or outside == "border":
                r, c = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
                total = total + weight * image[r, c]
    return total + np.zeros(image.shape[2])


def by_loops(rows, place, outside):
    """Each pixel of each image read where ``place(row, x, y)`` says."""
    made = rows.double().numpy().reshape(-1, *SHAPE)
    found = np.zeros_like(made)
    for row, image in enumerate(made):
        for y in range(SHAPE[0]):
            for x in range(SHAPE[1]):
                at = place(row, x, y)
                if outside == "border":  # of the place, as grid_sample has it
                    at = np.clip(at, 0, [SHAPE[1] - 1, SHAPE[0] - 1])
                found[row, y, x] = read(image, *at, outside)
    return torch.from_numpy(found.reshape(len(rows), -1))


@DTYPES
@pytest.mark.parametrize("step", [s for s in IMAGE_STEPS if isinstance(s, data.Crop)], ids=str)
def test_crops(step, dtype):
    height, width, _ = SHAPE
    u = shares(4)

    def place(row, x, y):
        area = step.area[0] + u[row, 0] * (step.area[1] - step.area[0])
        low, high = np.log(step.ratio)
        ratio = math.exp(low + u[row, 1] * (high - low))
        w, h = min(1, math.sqrt(area * ratio)) * width, min(1, math.sqrt(area / ratio)) * height
        left, top = u[row, 2] * (width - w), u[row, 3] * (height - h)
        return left + (x + 0.5) / width * w - 0.5, top + (y + 0.5) / height * h - 0.5

    found = seen(step, images(dtype))
    assert found.dtype == dtype
    assert_close(found.double(), by_loops(images(dtype), place, "border"), **TOLERANCE[dtype])


@DTYPES
@pytest.mark.parametrize("step", [s for s in IMAGE_STEPS if isinstance(s, data.Affine)], ids=str)
def test_affine_maps(step, dtype):
    height, width, _ = SHAPE
    u = 2 * shares(5) - 1
    middle = np.array([(width - 1) / 2, (height - 1) / 2])

    def place(row, x, y):
        angle, lean = math.radians(step.degrees * u[row, 0]), step.shear * u[row, 2]
        low, high = np.log(step.scale)
        scale = math.exp(low + (u[row, 1] + 1) / 2 * (high - low))
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        there = scale * turn @ np.array([[1, math.tan(math.radians(lean))], [0, 1]])
        by = step.shift * u[row, 3:] * (width, height)
        return middle + np.linalg.solve(there, np.array([x, y]) - middle - by)

    expected = by_loops(images(dtype), place, step.outside)
    assert_close(seen(step, images(dtype)).double(), expected, **TOLERANCE[dtype])


def test_a_quarter_turn_moves_pixels_only():
    """Of a square: scipy's rot90, exactly."""
    image = torch.rand(1, 5, 5, 2, dtype=torch.float64)
    step = data.Affine(90, 0, (1, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda shape, **_: torch.ones(shape, dtype=torch.float64))
        found = step(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert_close(found[0], torch.from_numpy(np.rot90(image[0].numpy(), -1).copy()))


@DTYPES
def test_blur_is_scipys_with_weights_that_add_to_one(dtype):
    step = data.Blur((0.3, 2.5), 0.6)
    u = shares(2)
    rows = images(dtype)
    expected = rows.double().numpy().reshape(-1, *SHAPE).copy()
    for row in np.flatnonzero(u[:, 0] < 0.6):
        deviation = 0.3 + 2.2 * u[row, 1]
        for axis in (0, 1):
            options = {"axis": axis, "mode": "constant", "truncate": 40.0}
            blur = scipy.ndimage.gaussian_filter1d(expected[row], deviation, **options)
            inside = np.ones_like(expected[row])
            expected[row] = blur / scipy.ndimage.gaussian_filter1d(inside, deviation, **options)
    expected = torch.from_numpy(expected.reshape(ROWS, -1))
    assert_close(seen(step, rows).double(), expected, **TOLERANCE[dtype])


def grey(pixel):
    return 0.299 * pixel[..., 0] + 0.587 * pixel[..., 1] + 0.114 * pixel[..., 2]


@DTYPES
@pytest.mark.parametrize(
    "step",
    [data.Colour(), data.Colour(0.8, 0.8, 0.8, 0.5, 1.0), data.Colour(0.0, 0.0, 0.0, 0.3, 1.0)],
    ids=str,
)
def test_colours_by_loops(step, dtype):
    u = shares(5)
    rows = images(dtype)
    expected = rows.double().numpy().reshape(-1, *SHAPE).copy()
    for row, (some, *rest) in enumerate(u):
        if some >= step.probability:
            continue
        sizes = step.brightness, step.contrast, step.saturation
        light, spread, colour = (1 + s * (2 * v - 1) for s, v in zip(sizes, rest, strict=False))
        image = np.clip(expected[row] * light, 0, 1)
        middle = grey(image).mean()
        image = np.clip(middle + spread * (image - middle), 0, 1)
        shade = grey(image)[..., None]
        image = np.clip(shade + colour * (image - shade), 0, 1)
        for y in range(SHAPE[0]):
            for x in range(SHAPE[1]):
                hue, s, v = colorsys.rgb_to_hsv(*image[y, x])
                hue = (hue + step.hue * (2 * rest[3] - 1)) % 1
                expected[row, y, x] = colorsys.hsv_to_rgb(hue, s, v)
    expected = torch.from_numpy(expected.reshape(ROWS, -1))
    assert_close(seen(step, rows).double(), expected, **TOLERANCE[dtype])


@DTYPES
def test_grey_solarised_and_lost_channels(dtype):
    rows = images(dtype)
    image = rows.double().numpy().reshape(-1, *SHAPE)
    (some,) = shares(1).T
    pick = (some < 0.5)[:, None, None, None]
    alike = np.where(pick, grey(image)[..., None], image)
    turned = np.where(pick & (image >= 0.4), 1 - image, image)
    for step, expected in ((data.Grey(0.5), alike), (data.Solarise(0.4, 0.5), turned)):
        expected = torch.from_numpy(expected.reshape(ROWS, -1))
        assert_close(seen(step, rows).double(), expected, **TOLERANCE[dtype])
    many = images(dtype, 4000)
    lost = (seen(data.DropChannels(2, 0.6), many).reshape(-1, *SHAPE) == 0).all(2).all(1)
    counts = torch.stack([(lost.sum(1) == k).double().mean() for k in range(4)])
    assert_close(counts, torch.tensor([0.4, 0.3, 0.3, 0]).double(), atol=0.035, rtol=0)  # 4.5 sd
    assert_close(lost.double().mean(0), torch.full((3,), 0.3).double(), atol=0.035, rtol=0)


def test_squares_are_cut_out_everywhere_alike():
    rows = torch.ones(6000, math.prod(SHAPE))
    gone = seen(data.CutOut(3, 0.0), rows).reshape(-1, *SHAPE)[..., 0] == 0
    assert bool((gone.sum((1, 2)) == 9).all())
    down, across = (gone.any(dim).double().argmax(-1).bincount() for dim in (2, 1))
    for counts in (down, across):  # where it begins
        share = 1 / len(counts)
        gap = (counts / 6000 - share).abs().max()
        assert float(gap) < 4.5 * math.sqrt(share * (1 - share) / 6000)
    assert (len(down), len(across)) == (5, 3)


@DTYPES
def test_series_are_interpolated(dtype):
    step, length = data.TimeJitter(0.3, (0.5, 2.0)), 9
    u = shares(2)
    for shape in ((ROWS, length), (ROWS, length, 2)):
        rows = torch.randn(shape, dtype=dtype)
        at = (0.5 + 1.5 * u[:, 1:]) * (np.arange(length) - 4) + 4
        at = at + 0.3 * (2 * u[:, :1] - 1) * length
        columns = rows.double().numpy().reshape(ROWS, length, -1)
        expected = np.stack(
            [
                [np.interp(a, np.arange(length), c) for c in row.T]
                for a, row in zip(at, columns, strict=True)
            ]
        ).swapaxes(1, 2)
        found = seen(step, rows).double()
        assert_close(found, torch.from_numpy(expected.reshape(shape)), **TOLERANCE[dtype])
    assert_close(seen(data.TimeJitter(1.0), torch.ones(3, 1)), torch.ones(3, 1))


@DTYPES
def test_noise_and_dropped_entries(dtype):
    rows = torch.full((20_000, 4), 2.0, dtype=dtype)
    noisy = seen(data.Noise((0.5, 0.5), 0.25), rows)
    same = (noisy == rows).all(1)
    assert abs(float(same.double().mean()) - 0.75) < 4.5 * math.sqrt(0.25 * 0.75 / 20_000)
    moved = (noisy - rows)[~same].double()
    assert float(moved.std()) == pytest.approx(0.5, rel=4.5 / math.sqrt(2 * moved.numel()))
    gone = (seen(data.Dropout(0.3, -1.0), rows) == -1).double()
    assert float(gone.mean()) == pytest.approx(0.3, abs=4.5 * math.sqrt(0.21 / 80_000))


@DTYPES
@pytest.mark.parametrize(
    "step",
    [
        data.Crop((1, 1), (1, 1)),
        data.Flip(0),
        data.Affine(0, 0, (1, 1)),
        data.Blur((1e-3, 1e-3), 1),
        data.Colour(0, 0, 0, 0, 1),
        data.Colour(probability=0),
        data.Grey(0),
        data.Solarise(probability=0),
        data.CutOut(probability=0),
        data.DropChannels(probability=0),
        data.Noise(probability=0),
        data.Dropout(0),
        data.TimeJitter(0),
    ],
    ids=str,
)
def test_nothing_asked_is_nothing_done(step, dtype):
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6}[dtype]
    assert_close(seen(step, images(dtype)), images(dtype), rtol=0, atol=tolerance)


@pytest.mark.parametrize("step", [*IMAGE_STEPS, *ROW_STEPS], ids=str)
def test_a_row_knows_no_other(step):
    """Its view is a function of itself and its draws; float32 sees what float64 sees."""
    rows, other = images(), images()
    other[1:] = 1 - images()[1:].flip(0)
    assert_close(seen(step, other)[0], seen(step, rows)[0], rtol=0, atol=1e-15)
    assert not torch.equal(seen(step, rows, seed=0), seen(step, rows, seed=4))
    before = rows.clone()
    seen(step, rows)
    assert torch.equal(rows, before)
    if not isinstance(step, data.Noise):  # torch draws other Normals for another dtype
        assert_close(seen(step, rows.float()), seen(step, rows).float(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("step", [*IMAGE_STEPS, *ROW_STEPS], ids=str)
def test_processes_see_what_one_would(step, count):
    table = Table("t", {"x": images(rows=20)})
    shape = None if isinstance(step, ROW_KINDS) else SHAPE
    prepare = data.views("x", ("a", "b"), [step], shape)
    torch.manual_seed(1)
    (whole,) = (prepare(b) for b in Stream(table, 8).step(1))
    parts = []
    for rank in range(count):
        stream = Stream(table, 8, process=rank, processes=count)
        draws = Draws(0, rank, count, torch.device("cpu"))
        draws.shares = stream.shares
        torch.manual_seed(1)
        parts += draws.prepared(prepare, stream.step(1), (0, 1))
    assert not torch.equal(whole["a"], whole["b"])
    for name in ("x", "a", "b"):
        assert_close(torch.cat([p[name] for p in parts]), whole[name], rtol=0, atol=1e-14)


def test_sites_of_the_batch():
    batch = Batch(
        {"x": images(), "y": torch.arange(ROWS)}, size=60, total=90, observed={"x": 90, "y": 60}
    )
    strong, weak = [data.Crop(), data.Grey(1)], [data.Flip(1)]
    made = data.views("x", ("a", "b"), [strong, weak], SHAPE, keep=False)(batch)
    assert list(made) == ["y", "a", "b"] and made.observed == {"y": 60, "a": 90, "b": 90}
    assert (made.size, made.total) == (60, 90) and torch.equal(made.rows, batch.rows)
    flipped = images().reshape(-1, *SHAPE).flip(2).reshape(ROWS, -1)
    assert torch.equal(made["b"], flipped) and not torch.equal(made["a"], images())
    alone = data.views("x", ("x",), weak, SHAPE)(batch)
    assert list(alone) == ["x", "y"] and torch.equal(alone["x"], flipped)
    grey = data.views("x", ("x",), weak, (6, 2))  # as a table has it
    assert grey == data.views("x", ("x",), weak, (6, 2, 1))
    kept = data.views("x", ("x", "other"), [[], weak], SHAPE)(batch)
    assert torch.equal(kept["x"], images()) and torch.equal(kept["other"], flipped)


BATCH = Batch({"x": torch.rand(2, 12), "y": torch.arange(2)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.views("x", (), []), "expected names that differ"),
        (lambda: data.views("x", ("a", "a"), []), "expected names that differ"),
        (lambda: data.views("x", ("a", "b"), [[data.Noise()]]), "1 lists of steps, expected one"),
        (lambda: data.views("x", "a", []), r"into of views of site 'x' is 'a', expected a tuple"),
        (lambda: data.views("x", ("a",), [data.Flip]), r"is Flip, expected a call such as Flip\("),
        (lambda: data.views("x", ("a",), [3]), "a step of site 'x' is 3, expected a call"),
        (lambda: data.views("x", ("a",), [data.Crop()]), "Crop of site 'x': expected images"),
        (lambda: data.views("x", ("a",), [data.Grey()]), "Grey of site 'x': expected images"),
        (lambda: data.views("x", ("a",), [], (12,)), r"expected \(H, W, C\)"),
        (lambda: data.views("x", ("a",), [], (4, 0)), r"expected \(H, W, C\)"),
        (lambda: data.views("x", ("a",), [data.CutOut(4)], (4, 3, 1)), "of at least side=4"),
        (lambda: data.views("x", ("a",), [data.Colour()], (4, 3, 1)), "hue=0, or three channels"),
        (lambda: data.views("x", ("a",), [data.DropChannels()], (4, 3, 1)), "most < 1"),
        (lambda: data.views("x", ("a",), [data.TimeJitter()], (4, 3, 1)), "expected series"),
        (lambda: data.views("z", ("a",), [])(BATCH), r"site 'z', but the batch has \['x', 'y'\]"),
        (lambda: data.views("x", ("y",), [])(BATCH), "called 'y', as a site of the batch is"),
        (lambda: data.views("y", ("a",), [])(BATCH), "torch.int64, expected floating"),
        (lambda: data.views("x", ("a",), [], (4, 4, 1))(BATCH), "expected 4 x 4 x 1 numbers"),
        (lambda: data.Crop((0.2, 1.5)), "area of Crop"),
        (lambda: data.Crop((0.5, 0.2)), "area of Crop"),
        (lambda: data.Crop(ratio=(0.0, 1.0)), "ratio of Crop"),
        (lambda: data.Affine(degrees=-1), "degrees of Affine is -1"),
        (lambda: data.Affine(shear=90), "shear of Affine is 90"),
        (lambda: data.Affine(outside="wrap"), "outside of Affine"),
        (lambda: data.Flip(along="depth"), "along of Flip"),
        (lambda: data.Flip(1.5), "probability of Flip is 1.5, expected a number from 0 to 1"),
        (lambda: data.Blur((0.0, 1.0)), "deviation of Blur"),
        (lambda: data.CutOut(0), "side is 0"),
        (lambda: data.Colour(hue=0.6), "hue of Colour is 0.6"),
        (lambda: data.Noise((1.0, math.inf)), "deviation of Noise"),
        (lambda: data.Dropout(-0.1), "share of Dropout"),
        (lambda: data.TimeJitter(speed=2.0), "speed of TimeJitter is 2.0"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_grey_image_may_come_without_its_channel():
    """A table knows images of one channel as (H, W)."""
    rows = images()[:, :12]
    made = [
        data.views("x", ("v",), [data.CutOut(2, 0.5)], shape)(seeded(rows))["v"]
        for shape in ((4, 3), (4, 3, 1))
    ]
    assert torch.equal(*made) and not torch.equal(made[0], rows)


def seeded(rows):
    torch.manual_seed(0)
    return Batch({"x": rows})
