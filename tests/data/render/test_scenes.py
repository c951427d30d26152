"""Shapes3D-like and CANDLE-like scenes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ppl_models.data.catalogue import factor_data
from ppl_models.data.factors import published
from ppl_models.data.render import shapes3d
from ppl_models.data.render.candle import HALF, SCENES


def rng(seed=0):
    return np.random.default_rng(seed)


def information(a, b):
    """Mutual information in nats of two columns of classes."""
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1 / len(a))
    apart = table.sum(1, keepdims=True) * table.sum(0, keepdims=True)
    some = table > 0
    return float((table[some] * np.log(table[some] / apart[some])).sum())


def test_shapes3d_has_the_official_grid():
    shapes = factor_data("shapes3d_like")
    assert shapes.factor_sizes == (10, 10, 10, 8, 4, 15)
    assert len(shapes) == 480_000
    classes = shapes.sample(64, rng())
    x = shapes.render(classes, rng())
    assert x.shape == (64, 64, 64, 3)
    assert x.dtype == np.uint8


def test_each_surface_takes_its_own_hue():
    shapes = factor_data("shapes3d_like")
    # red floor, green wall, blue object: each channel is one surface's light alone
    hues = [0, 3, 7]  # hue 0.3 is nearly green, 0.7 nearly blue
    classes = np.array([[*hues, size, shape, 7] for shape in range(4) for size in (0, 7)])
    x = shapes.render(classes, rng()).reshape(8, -1, 3)
    cover = shapes3d.geometries()[classes[:, 4], classes[:, 5], classes[:, 3]]
    floor, wall, solid = (cover[..., k] for k in range(3))
    pure = [(cover > 0).sum(-1) == 1]
    for surface, rgb in ((floor, (1, 0, 0)), (wall, (0.2, 1, 0)), (solid, (0.2, 0, 1))):
        only = pure[0] & (surface > 0)
        expected = 255 * surface[only][:, None] * np.array(rgb)
        assert np.abs(x[only] - expected).max() <= 0.51
    # the larger object covers more
    area = (solid > 0).sum(1).reshape(4, 2)
    assert (area[:, 1] > 1.5 * area[:, 0]).all()


def shades(cover):
    """Shades of each surface that are seen in many pixels, not only where two sides meet."""
    pure = (cover > 0).sum(-1) == 1
    found = [np.unique(c[pure & (c > 0)].round(4), return_counts=True) for c in cover.T]
    return [values[counts >= 15] for values, counts in found]


def test_shades_are_those_of_their_normals():
    cover = shapes3d.geometries()[0, 0, 7]  # the largest cube from the left end of the arc
    floor, wall, solid = shades(cover)
    back, aside, up = 0.55 + 0.45 * shapes3d.LIGHT
    assert floor == pytest.approx([up], abs=1e-4)
    # Two walls in sight, lit differently: where the camera stands shows beside a sphere, too.
    assert wall == pytest.approx([0.55, back], abs=1e-4)
    assert solid == pytest.approx([0.55, back, up], abs=1e-4)
    _, wall, solid = shades(shapes3d.geometries()[0, 14, 7])
    assert wall == pytest.approx([aside, back], abs=1e-4)
    assert solid == pytest.approx([aside, back, up], abs=1e-4)


def test_a_sphere_has_the_outline_of_perspective():
    # Its outline is where the angle to its centre is asin(radius / distance).
    turn, size = 7, 3
    eye, rays = shapes3d._camera(np.deg2rad(published.AZIMUTHS[turn]))
    radius = 0.85 * published.SIZES[size]
    to_centre = np.array([0, 0, radius]) - eye
    cosine = rays @ to_centre / np.linalg.norm(to_centre)
    inside = cosine >= np.sqrt(1 - (radius / np.linalg.norm(to_centre)) ** 2)
    share = inside.reshape(64, 2, 64, 2).mean((1, 3)).ravel()
    cover = shapes3d.geometries()[2, turn, size, :, 2]
    assert ((cover > 0) == (share > 0)).all()
    assert (cover[share == 1] >= 0.55 - 1e-6).all()


def test_the_azimuth_mirrors_the_room():
    cover = shapes3d.geometries()[2].reshape(15, 8, 64, 64, 3) > 0
    assert (cover == cover[::-1, :, :, ::-1]).all()


def test_candle_has_the_published_cells_and_dependences():
    candle = factor_data("candle_like")
    assert len(candle) == 12_546
    assert int(np.prod(candle.factor_sizes)) == 21_600
    column = dict(zip(candle.factor_names, candle.classes(candle.cells).T, strict=True))
    published = {
        ("object", "size"): 0.133,
        ("colour", "scene"): 0.087,
        ("size", "scene"): 0.056,
        ("object", "scene"): 0.045,
    }
    for pair in itertools.combinations(candle.factor_names, 2):
        found = information(column[pair[0]], column[pair[1]])
        if pair in published:
            assert found == pytest.approx(published[pair], abs=6e-4)
        elif "light" in pair or "rotation" in pair:
            assert found == pytest.approx(0, abs=1e-9)
    large, garden = column["size"] == 2, column["scene"] == SCENES.index("garden")
    assert set(column["object"][large]) == {4}  # only the torus is ever large
    assert 0 not in column["size"][garden]


@pytest.fixture(scope="module")
def scenes():
    candle = factor_data("candle_like")
    classes = candle.sample(1200, rng(1))
    return dict(zip(candle.factor_names, classes.T, strict=True)), candle.sites(classes, rng(2))


def test_candle_stores_where_the_object_is(scenes):
    _, sites = scenes
    mask, box, centre = sites["mask"], sites["box"], sites["centre"]
    area = mask.sum((1, 2))
    assert 40 <= area.min() <= 60
    assert 600 <= area.max() <= 850
    for k in range(50):
        rows, columns = np.nonzero(mask[k])
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert (box[k] * 64).tolist() == expected
    assert np.abs(centre[:, 0]).max() <= 1.5
    assert centre[:, 1].min() >= -1
    assert centre[:, 1].max() <= 2
    # what is further to the right stands further right in the picture; ever so nearly
    middle = (box[:, 0] + box[:, 2]) / 2
    assert np.corrcoef(middle, centre[:, 0])[0, 1] > 0.98


def test_a_candle_sphere_has_the_outline_of_perspective():
    candle = factor_data("candle_like")
    classes = np.array([[1, 0, size, 0, 0, 1] for size in (0, 1)] * 5)
    sites = candle.sites(classes, rng())
    span = (np.arange(64) + 0.5) / 32 - 1
    v, u = np.meshgrid(-span, span, indexing="ij")
    rays = np.stack([0.6 * u, np.ones_like(u), 0.6 * v - 0.25], axis=-1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    wrong = 0
    for (_, _, size, *_), mask, centre in zip(
        classes, sites["mask"], sites["centre"], strict=True
    ):
        to_centre = np.array([*centre, HALF[size]]) - [0, -7, 3]
        along = rays @ to_centre
        inside = to_centre @ to_centre - along**2 <= HALF[size] ** 2
        wrong += (mask != inside).sum() / inside.sum()
    assert wrong / len(classes) < 0.03  # tracing stops 0.02 before the surface


def test_the_light_can_be_read_from_the_floor(scenes):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    column, sites = scenes
    # Ratios of brightness left, middle and right, near and far, whatever the scene's colours.
    grey = np.log(1e-2 + sites["x"].reshape(-1, 8, 8, 8, 8, 3).mean((2, 4, 5)) / 255)[:, 3:]
    ratios = (grey - grey.mean((1, 2), keepdims=True)).reshape(len(grey), -1)
    fit, held = slice(0, 900), slice(900, None)
    model = LinearDiscriminantAnalysis().fit(ratios[fit], column["light"][fit])
    assert model.score(ratios[held], column["light"][held]) >= 0.95


def test_the_confounder_is_the_scene():
    # The same scene twice differs little in how bright the lit floor is, two scenes much.
    candle = factor_data("candle_like")
    cells = np.array([[2, 0, 1, 0, scene, 1] for scene in (0, 1, 2, 4)] * 40)
    x = candle.render(cells, rng()).astype(float)
    lit = np.quantile(x[:, 40:].reshape(len(x), -1), 0.9, axis=1).reshape(40, 4)
    assert lit.std(0).max() < 0.35 * lit.mean(0).std()
