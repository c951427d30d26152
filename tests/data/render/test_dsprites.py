"""dSprites and its variants against the geometry they are fitted to."""

from __future__ import annotations

import numpy as np
import pytest

from ppl_models.data.catalogue import factor_data
from ppl_models.data.factors.published import DSPRITES
from ppl_models.data.render.dsprites import sprites, texture


def rng(seed=0):
    return np.random.default_rng(seed)


def look(shape, scale=5, orientation=0, x=0, y=0, name="dsprites"):
    classes = np.broadcast_arrays(shape, scale, orientation, x, y)
    return factor_data(name).render(np.stack(classes, -1).reshape(-1, 5), rng())


def inside(shape, u, v):
    """Brute force: whether points are in a shape at scale 1; the heart by its 4,000 vertices."""
    if shape == "square":
        return (np.abs(u) <= 9.6) & (np.abs(v) <= 9.6)
    if shape == "ellipse":
        return (u / 12.766) ** 2 + (v / 7.214) ** 2 <= 1
    t = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    x = 9.5946 * np.sin(t) ** 3
    bend = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    y = -0.66252 * bend - 1.4312
    ahead = np.roll(x, -1), np.roll(y, -1)
    # crossing number of a ray to the right
    between = (y > v[..., None]) != (ahead[1] > v[..., None])
    with np.errstate(divide="ignore", invalid="ignore"):
        cross = x + (v[..., None] - y) * (ahead[0] - x) / (ahead[1] - y)
    return ((between & (u[..., None] < cross)).sum(-1) % 2).astype(bool)


@pytest.mark.parametrize("shape", DSPRITES["shape"])
def test_each_pixel_is_lit_as_its_centre_is_inside(shape):
    pixel = np.arange(64) + 0.5
    lit = wrong = 0
    for _ in range(6):
        draw = rng(lit)
        k, px, py = draw.integers((40, 32, 32))
        scale = draw.choice(DSPRITES["scale"])
        angle, cx, cy = 2 * np.pi * k / 39, 16 + 32 * px / 31, 16 + 32 * py / 31
        dx, dy = pixel[None, :] - cx, pixel[:, None] - cy
        u = (np.cos(angle) * dx - np.sin(angle) * dy) / scale
        v = (np.sin(angle) * dx + np.cos(angle) * dy) / scale
        expected = inside(shape, u, v)
        one = (
            np.array([value]) for value in (DSPRITES["shape"].index(shape), scale, angle, cx, cy)
        )
        image = sprites(*one)[0]
        lit, wrong = lit + expected.sum(), wrong + (image != expected).sum()
    assert lit > 300
    assert wrong == 0


def test_areas_at_full_size():
    areas = {
        s: look(k, orientation=np.arange(40)).sum((1, 2)) for k, s in enumerate(DSPRITES["shape"])
    }
    assert areas["square"][0] == 400
    assert 366 <= np.median(areas["square"]) <= 373
    assert areas["ellipse"].mean() == pytest.approx(np.pi * 12.766 * 7.214, rel=0.01)
    assert areas["ellipse"].mean() == pytest.approx(290, abs=2)
    assert np.all((areas["heart"] >= 218) & (areas["heart"] <= 232))
    assert 222 <= areas["heart"].mean() <= 226


def test_the_lit_fraction_of_random_images():
    dsprites = factor_data("dsprites")
    images = dsprites.render(dsprites.sample(3000, rng(1)), rng())
    fraction = images.mean((1, 2))
    assert images.dtype == bool
    assert fraction.mean() == pytest.approx(0.0432, abs=4 * fraction.std() / 3000**0.5)
    # scale^2 times the area at full size, averaged over the grid
    squares = np.mean(np.square(DSPRITES["scale"]))
    areas = np.mean([19.2**2, np.pi * 12.766 * 7.214, 224])
    exact = squares * areas / 4096
    assert fraction.mean() == pytest.approx(exact, abs=4 * fraction.std() / 3000**0.5)


def test_the_last_orientation_is_the_first():
    place = rng().integers(32, size=(2, 18))
    shape, scale = np.repeat(np.arange(3), 6), np.tile(np.arange(6), 3)
    first, last = (look(shape, scale, k, *place) for k in (0, 39))
    assert (first == last).all()


def test_symmetries():
    # about the middle of the image: turned by a quarter, half or no turn, nothing changes
    turn = rng().uniform(0, 2 * np.pi, 30)
    middle = np.full(30, 32.0)
    for shape, period in ((0, np.pi / 2), (1, np.pi)):
        code, size = np.full(30, shape), np.full(30, 0.9)
        a, b = (sprites(code, size, turn + more, middle, middle) for more in (0, period))
        assert (a != b).mean() < 1e-4
        c = sprites(code, size, turn + period / 2, middle, middle)
        assert (a != c).mean() > 1e-3
    heart = look(2)
    assert (heart == sprites(*(np.array([v]) for v in (2, 1.0, 0.0, 16.0, 16.0)))).all()
    assert (heart[0, :, :32] == heart[0, :, :32][:, ::-1]).all()  # its axis is upright
    # a quarter turn of the factor turns the picture counter-clockwise
    upright, turned = (
        sprites(*(np.array([v]) for v in (2, 1.0, a, 32.0, 32.0))) for a in (0, np.pi / 2)
    )
    assert (np.rot90(upright[0]) == turned[0]).all()


def test_positions_move_right_and_down():
    def centre(image):
        rows, columns = np.nonzero(image)
        return columns.mean() + 0.5, rows.mean() + 0.5

    images = look(1, x=[0, 31, 0, 16], y=[0, 0, 31, 8])
    for image, (x, y) in zip(images, ((0, 0), (31, 0), (0, 31), (16, 8)), strict=True):
        expected = (16 + 32 * x / 31, 16 + 32 * y / 31)
        assert centre(image) == pytest.approx(expected, abs=0.1)


def test_all_official_cells_are_there():
    assert len(factor_data("dsprites")) == 737_280
    assert factor_data("dsprites").factor_sizes == (3, 6, 40, 32, 32)
    assert len(factor_data("mini_dsprites")) == 5760


def test_mini_sprites_are_pooled_sprites():
    mini = factor_data("mini_dsprites")
    classes = mini.sample(200, rng())
    images = mini.render(classes, rng())
    assert images.shape == (200, 32, 32)
    values = [np.array(v)[classes[:, k]] for k, v in enumerate(mini.values.values()) if k]
    full = sprites(classes[:, 0], values[0], values[1], 16 + 32 * values[2], 16 + 32 * values[3])
    share = sum(full[:, i::2, j::2].astype(float) for i in (0, 1) for j in (0, 1)) / 4
    assert (images == (share >= 0.5)).all()
    # 64 places; steps of 36 degrees show hearts in 10 ways, ellipses and squares in 5; some
    # of the smallest squares are too small for that
    cells = mini.classes(np.arange(5760)).reshape(3, 3, 640, 5)
    pictures = np.packbits(mini.render(cells.reshape(-1, 5), rng()), axis=-1)
    kinds = [[len(np.unique(p, axis=0)) for p in row] for row in pictures.reshape(3, 3, 640, -1)]
    assert kinds[1:] == [[320] * 3, [640] * 3]
    assert kinds[0][1:] == [320, 320]


def masks(name, n=64):
    variant, classes = factor_data(name), factor_data("dsprites").sample(n, rng(3))
    lit = factor_data("dsprites").render(classes, rng())
    return variant, classes, lit


def test_colours_are_uniform_between_a_half_and_one():
    variant, classes, lit = masks("color_dsprites", 800)
    x = variant.render(classes, rng())
    assert x.dtype == np.float32
    assert (x[~lit] == 0).all()
    colour = x.max((1, 2))
    assert (x[lit] == np.repeat(colour, lit.sum((1, 2)), axis=0)).all()
    assert colour.min() >= 0.5
    assert colour.mean(0) == pytest.approx([0.75] * 3, abs=4 / 48**0.5 / 800**0.5)
    assert np.abs(np.corrcoef(colour.T) - np.eye(3)).max() < 4 / 800**0.5


def test_noise_is_uniform_around_white_sprites():
    variant, classes, lit = masks("noisy_dsprites")
    x = variant.render(classes, rng())
    assert (x[lit] == 1).all()
    ground = x[~lit].ravel()
    assert ground.mean() == pytest.approx(0.5, abs=4 / 12**0.5 / len(ground) ** 0.5)
    assert ground.std() == pytest.approx(12**-0.5, rel=0.01)


def test_texture_is_inverted_under_the_sprite():
    variant, classes, lit = masks("textured_dsprites")
    x = variant.render(classes, rng())
    positive = np.where(lit[..., None], 1 - x, x)
    assert positive.min() >= 0
    assert positive.max() <= 1
    # negated back, the sprite's edge is as smooth as the texture itself
    steps = np.abs(np.diff(positive, axis=2))
    smooth = np.abs(np.diff(texture(), axis=1)).max() / 2
    assert steps.max() <= smooth + 1e-6
    assert texture().shape == (274, 350, 3)
    assert texture().min() == 0
    assert texture().max() == 1


@pytest.mark.parametrize("name", ["color_dsprites", "noisy_dsprites", "textured_dsprites"])
def test_noise_is_new_at_each_look_and_known_by_its_generator(name):
    variant, classes, _ = masks(name, 4)
    same = np.repeat(classes[:1], 4, axis=0)
    generator = rng(8)
    x, later = variant.render(same, generator), variant.render(same, generator)
    looks = np.concatenate([x, later]).reshape(8, -1)
    assert len(np.unique(looks, axis=0)) == 8
    assert (variant.render(same, rng(8)) == x).all()
