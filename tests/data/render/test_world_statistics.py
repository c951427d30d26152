"""Simulated sets are what their options say, in closed form or within a standard error."""

from __future__ import annotations

import math

import numpy as np
import pytest
from worlds.render import arrays, share_is

from ppl_models import data
from ppl_models.data.render import (
    circle,
    faces,
    fewshot,
    noisy,
    outliers,
    paired,
    spectra,
    strokes,
)
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.parts.physics import clear_sky

FEW = {"train": 60, "validation": 4, "test": 40}


# ---- faces and canvases ------------------------------------------------------------------------


@pytest.mark.parametrize("people_seed", [0, 3, 8])
def test_people_and_pictures_have_seeds_of_their_own(people_seed):
    same = [data.load("faces", **FEW, seed=s, people_seed=people_seed) for s in (0, 1, 2)]
    normal, albedo = faces.people(8, 16, 1.6, people_seed)
    for d in same:
        for table in (d.train, d.test):
            own = arrays(table)
            who = own["identity"]
            np.testing.assert_allclose(own["albedo"], albedo[who], rtol=1e-6)
            shading = np.einsum("nhwk,nk->nhw", normal[who], own["light"]).clip(0)
            np.testing.assert_allclose(own["shading"], shading, atol=1e-6)
    lights = [arrays(d.test)["light"] for d in same]
    assert not np.isclose(lights[0], lights[1]).any()
    other = data.load("faces", **FEW, seed=0, people_seed=people_seed + 1)
    mine, others = arrays(same[0].test), arrays(other.test)
    for site in ("identity", "light"):
        assert (mine[site] == others[site]).all()
    assert not np.isclose(mine["albedo"], others["albedo"]).all(1).any()
    if people_seed == 0:
        assert same[0].recipe["digest"] == data.load("faces", **FEW).recipe["digest"]


@pytest.mark.parametrize("ends", [(0.3, 0.3), (-0.2, 0.9), (0.0, 1.5)])
def test_light_comes_from_where_it_is_asked(ends):
    d = data.load("faces", train=2000, validation=4, test=4, side=4, azimuth=ends, elevation=ends)
    x, y, z = arrays(d.train)["light"].T.astype(float)
    for angle in (np.arctan2(x, z), np.arcsin(y)):
        assert angle.min() >= ends[0] - 1e-5 and angle.max() <= ends[1] + 1e-5
        error = (ends[1] - ends[0]) / math.sqrt(12 * 2000)
        assert abs(angle.mean() - np.mean(ends)) <= 4 * error + 1e-5


def test_a_flat_relief_is_as_bright_as_the_light_is_frontal():
    own = arrays(data.load("faces", **FEW, relief=0, noise=0).train)
    towards = own["light"][:, 2, None, None].clip(0)
    np.testing.assert_allclose(own["shading"], np.broadcast_to(towards, own["shading"].shape))
    np.testing.assert_allclose(own["x"], own["albedo"] * own["shading"], rtol=1e-6)


SMALL = {"train": 20, "validation": 4}
DRAWN = {"faces": ("identity", SMALL), "stroke_digits": ("y", {**SMALL, "side": 4})}
DRAWN["spectra"] = "y", {"labelled": 10, "unlabelled": 10, "validation": 4, "bands": 2}


@pytest.mark.parametrize("name", sorted(DRAWN))
@pytest.mark.parametrize("first", [0.0, 0.3, 0.9])
def test_classes_have_the_frequencies_that_are_asked(name, first):
    (site, small), rows = DRAWN[name], 4000
    usual = data.load(name, test=rows, **small)
    count = usual.test.sizes[site]
    frequency = (first, *((1 - first) / (count - 1),) * (count - 1))
    found = (
        data.load(name, test=rows, **small, frequency=frequency).test.sites[site].bincount() / rows
    )
    assert all(share_is(f, e, rows) for f, e in zip(found.tolist(), frequency, strict=True))
    equal = data.load(name, test=rows, **small, frequency=(1 / count,) * count)
    assert equal.recipe["digest"] == usual.recipe["digest"]


@pytest.mark.parametrize(("most", "side", "size"), [(1, 28, 1.0), (3, 40, 0.8), (5, 56, 1.2)])
def test_canvases_of_other_sizes_and_counts(most, side, size):
    frequency = (0.5, *(0.5 / most,) * most)
    d = data.load(
        "multi_digits", source="digits", train=400, validation=4, test=4,
        most=most, side=side, scale=(size, size), frequency=frequency,
    )  # fmt: skip
    own = arrays(d.train)
    assert own["x"].shape == (400, side, side) and d.train.sizes["count"] == most + 1
    counts = np.bincount(own["count"], minlength=most + 1)
    assert counts[0] == 200 and (np.abs(counts[1:] - 200 / most) <= 1).all()
    for k in range(most):
        assert ((own[f"digit_{k}"] < 10) == (own["count"] > k)).all()
    drawn = own["x"][own["count"] == 1] > 0.1
    for axis in (1, 2):
        met = drawn.any(3 - axis)
        reach = side - met[:, ::-1].argmax(1) - met.argmax(1)
        assert reach.max() <= math.ceil(14 * size) + 1


# ---- errors and shortcuts ----------------------------------------------------------------------


@pytest.mark.parametrize("dirty", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize(
    "errors", [("column",), ("frame", "upper"), ("square", "row", "diagonal")]
)
def test_a_share_of_outliers_has_the_errors_asked_for(dirty, errors):
    d = data.load("outliers", train=300, validation=41, test=77, labelled=None, dirty=dirty,
                  errors=errors, width=2, shift=-1)  # fmt: skip
    usual = data.load("outliers", train=300, validation=41, test=77, labelled=None)
    masks = np.stack([np.zeros((28, 28), bool), *outliers.error_masks(errors, 2, -1)])
    for part in ("train", "validation", "test"):
        table = getattr(d, part)
        own, rows = arrays(table), len(table)
        assert table.classes["error"] == ("none", *errors)
        assert (own["y"] == 0).sum() == round(dirty * rows)
        counts = np.bincount(own["error"], minlength=len(errors) + 1)[1:]
        assert counts.max() - counts.min() <= 1
        assert (own["x"] == (own["clean"].astype(bool) | masks[own["error"]])).all()
        assert (own["clean"] == arrays(getattr(usual, part))["clean"]).all()


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("shift", [-2, 0, 1])
def test_errors_have_the_area_of_their_width_and_move(width, shift):
    kinds = ("column", "row", "diagonal", "square", "frame", "upper")
    masks = dict(zip(kinds, outliers.error_masks(kinds, width, shift), strict=True))
    assert masks["column"].sum() == masks["row"].sum() == 28 * width
    assert masks["column"][:, 20 + shift : 20 + shift + width].all()
    assert masks["row"][15 + shift : 15 + shift + width].all()
    assert masks["diagonal"].sum() == sum(28 - abs(k) for k in range(shift, shift + width))
    side = min(5 * width, 10 - shift)
    assert masks["square"].sum() == side**2 and masks["square"][18 + shift, 18 + shift]
    assert masks["frame"].sum() == 28**2 - (28 - 2 * width) ** 2
    lines = range(15 + 2 * shift, 15 + 2 * shift + 2 * width)
    assert masks["upper"].sum() == sum(28 - abs(27 - k) for k in lines)


def test_fewer_shapes_share_the_rows():
    d = data.load("outliers", train=90, validation=9, test=9, labelled=21,
                  shapes=("ellipse", "disk", "triangle"))  # fmt: skip
    assert d.train.classes["shape"] == ("ellipse", "disk", "triangle")
    assert d.train.sites["shape"].bincount().tolist() == [30] * 3
    own = arrays(d.train)
    masks = outliers.templates()
    areas = [own["clean"][own["shape"] == k].sum((1, 2)) for k in range(3)]
    assert [set(a) for a in areas] == [{float(masks[k].sum())} for k in (3, 2, 1)]
    known = d.train.observed["y"].numpy()
    assert np.bincount(own["error"][known]).tolist() == [9, 3, 3, 3, 3]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9, 1.0])
def test_the_shortcut_agrees_with_the_label_in_the_share_asked(share):
    sizes = {"train": 333, "validation": 40, "test": 205}
    d = data.load("patch_digits", **sizes, train_patch=share, patch=1 - share)
    usual = data.load("patch_digits", **sizes)
    more = data.load("patch_digits", **sizes, train_patch=min(1.0, share + 0.1))
    for part, rows in sizes.items():
        own, same = arrays(getattr(d, part)), arrays(getattr(usual, part))
        right = own["patch"] == own["y"]
        assert right.sum() == round(rows * (1 - share if part == "test" else share))
        assert (own["x"][:, 2:, 2:] == same["x"][:, 2:, 2:]).all()
    own, grown = (arrays(found.train) for found in (d, more))
    assert (grown["patch"] == grown["y"])[own["patch"] == own["y"]].all()  # nested
    if share in (0.0, 1.0):
        named = data.load("patch_digits", **sizes, train_patch=("opposite", "label")[int(share)])
        assert (arrays(named.train)["x"] == own["x"]).all()


@pytest.mark.parametrize("corner", ["top_left", "top_right", "bottom_left"])
@pytest.mark.parametrize(("width", "brightness"), [(1, 1.0), (2, 0.5), (2, -0.25)])
def test_the_patch_is_where_and_as_bright_as_asked(corner, width, brightness):
    d = data.load("patch_digits", **FEW, corner=corner, width=width, brightness=brightness)
    own = arrays(d.train)
    down = slice(10 - width, 10) if "bottom" in corner else slice(0, width)
    right = slice(10 - width, 10) if "right" in corner else slice(0, width)
    lit = own["patch"].astype(np.float32)[:, None, None]
    assert (own["x"][:, down, right] == brightness * lit).all()
    margin = own["x"].copy()
    margin[:, down, right] = margin[:, 2:, 2:] = 0
    assert not margin.any()


# ---- light on materials ------------------------------------------------------------------------


@pytest.mark.parametrize("sun", [1.0, 30.0, 60.0, 85.0])
@pytest.mark.parametrize("at", [(), (0.5, 1.0, 2.0)])
def test_the_sun_gives_its_ratio_of_irradiances(sun, at):
    d = data.load("spectra", labelled=50, unlabelled=50, validation=4, test=50, noise=0.0,
                  sun=sun, wavelengths=at)  # fmt: skip
    own = arrays(d.test)
    cosine, u = math.cos(math.radians(sun)), spectra.micrometres(None, at)
    r0 = 0.156 * cosine * u**-1.915
    factor = (own["irradiance"][:, None] + own["sky_view"][:, None] * r0) / (cosine + r0)
    np.testing.assert_allclose(own["x"], own["reflectance"] * factor, rtol=1e-5, atol=1e-7)
    light = clear_sky(len(u), sun, at)(d.test.sites["irradiance"], d.test.sites["sky_view"])
    np.testing.assert_allclose(light.numpy(), factor, rtol=1e-5)
    usual = arrays(data.load("spectra", labelled=50, unlabelled=50, validation=4, test=50).test)
    for site in ("irradiance", "sky_view", "y"):
        assert (own[site] == usual[site]).all()


@pytest.mark.parametrize("ends", [(0.0, 0.1), (0.5, 0.5), (0.3, 1.0)])
@pytest.mark.parametrize("site", ["irradiance", "sky_view"])
def test_light_is_uniform_in_its_ranges(ends, site):
    options = {"labelled": 1000, "unlabelled": 1000, "validation": 4, "test": 1000, "bands": 2}
    free = data.load("spectra", **options, **{site: ends})
    seen = data.load("spectra", **options, **{f"labelled_{site}": ends})
    usual = arrays(data.load("spectra", **options).train)[site]
    found = arrays(free.train)[site], arrays(seen.train)[site]
    for rows in (found[0][1000:], arrays(free.test)[site], found[1][:1000]):
        assert ends[0] - 1e-6 <= rows.min() and rows.max() <= ends[1] + 1e-6
        error = (ends[1] - ends[0]) / math.sqrt(12 * len(rows))
        assert abs(rows.mean(dtype=float) - np.mean(ends)) <= 4 * error + 1e-6
    assert (found[0][:1000] == usual[:1000]).all() and (found[1][1000:] == usual[1000:]).all()


@pytest.mark.parametrize("bands", [2, 20, 95])
def test_bands_are_those_of_the_model_of_light(bands):
    d = data.load("spectra", labelled=20, unlabelled=20, validation=4, test=20, bands=bands)
    assert d.test.sizes["x"] == bands
    pair_sky, own = clear_sky(bands), spectra.light_ratio(30.0, spectra.micrometres(bands))
    np.testing.assert_allclose(pair_sky.r0.numpy(), own[1], rtol=1e-6)
    assert all(
        s.shape[1] == bands for s in spectra.prototypes(spectra.micrometres(bands)).values()
    )
    for end in (0.45, 2.4):  # where wavelengths may end, materials still are materials
        ends = np.concatenate(list(spectra.prototypes(np.array([end, end])).values()))
        assert ends.min() >= 0 and ends.max() <= 1


# ---- parts, moons ------------------------------------------------------------------------------


@pytest.mark.parametrize("frequency", [(0.9, 0.5, 0.1), (1.0, 0.0, 0.25), (0.5, 0.5, 0.5)])
@pytest.mark.parametrize("least", [0.0, 0.7, 1.0])
def test_glyphs_have_parts_as_often_and_as_large_as_asked(frequency, least):
    rows = 3000
    d = data.load("glyphs", train=20, validation=4, test=rows, labelled=None,
                  frequency=frequency, least=least)  # fmt: skip
    usual = arrays(data.load("glyphs", train=20, validation=4, test=rows, labelled=None).test)
    own = arrays(d.test)
    for part, expected in zip(("bar", "blob", "square"), frequency, strict=True):
        there, degree = own[part] == 1, own[f"{part}_degree"]
        assert share_is(there.mean(), expected, rows)
        assert not degree[~there].any()
        if there.any():
            assert degree[there].min() >= least - 1e-6
            error = (1 - least) / math.sqrt(12 * there.sum())
            assert abs(degree[there].mean(dtype=float) - (1 + least) / 2) <= 4 * error + 1e-6
        # A part only comes or goes as far as it is asked for more often or less.
        assert (there >= (usual[part] == 1)).all() or (there <= (usual[part] == 1)).all()


@pytest.mark.parametrize("border", [-2.0, 0.0, 1.5])
@pytest.mark.parametrize("upper", [0.0, 0.3, 0.5, 0.77])
def test_moons_have_their_shares_and_flip_beyond_the_border(border, upper):
    rows = 250
    d = data.load("moons", train=rows, validation=4, test=rows, labelled=None, flip=1.0,
                  border=border, frequency=(upper, 1 - upper))  # fmt: skip
    own = arrays(d.test)
    assert (own["clean"] == 0).sum() == round(rows * upper)
    inside = own["x"][:, 0] * 0.866 + 0.5 > border
    assert (own["region"] == inside).all()
    assert (own["y"] == np.where(inside, 1 - own["clean"], own["clean"])).all()


# ---- strokes, hands, styles, captions ----------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "ends"),
    [("angle", (0.0, 0.0)), ("angle", (-1.0, 2.0)), ("scale", (0.5, 0.6)), ("width", (0.1, 0.2))],
)
def test_strokes_are_turned_sized_and_pressed_as_asked(option, ends):
    d = data.load("stroke_digits", train=20, validation=4, test=1000, **{option: ends})
    found = arrays(d.test)[option].astype(float)
    assert ends[0] - 1e-6 <= found.min() and found.max() <= ends[1] + 1e-6
    error = (ends[1] - ends[0]) / math.sqrt(12 * 1000)
    assert abs(found.mean() - np.mean(ends)) <= 4 * error + 1e-6


@pytest.mark.parametrize("thick", [0.0, 0.06, 0.1, 0.2])
def test_thick_strokes_are_wider_than_asked(thick):
    own = arrays(data.load("stroke_digits", train=20, validation=4, test=1000, thick=thick).test)
    assert (own["thick"] == (own["width"] > thick)).all()
    assert share_is(own["thick"].mean(), min(1, max(0, (0.12 - thick) / 0.08)), 1000)


@pytest.mark.parametrize("inverted", [0.0, 0.3, 1.0])
def test_styles_are_inverted_as_often_as_asked(inverted):
    digit = np.arange(2000) % 10
    images = strokes.styled(digit, numpy_generator(0), inverted=inverted, noise=0.0)
    # No stroke reaches a corner; grounds are 0 to 0.35, inks 0.65 to 1, less a slope of 0.14.
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(1)
    assert share_is((corners > 0.5).mean(), inverted, 2000)
    usual = strokes.styled(digit, numpy_generator(0), inverted=0.0, noise=0.0)
    assert (images[corners < 0.5] == usual[corners < 0.5]).all()


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.05])
def test_styles_have_the_noise_that_is_asked(noise):
    clean, noised = (
        arrays(data.load("paired_digits", train=200, validation=4, test=4, noise=n).train)["t"]
        for n in (0.0, noise)
    )
    inner = (clean > 6 * noise) & (clean < 1 - 6 * noise)  # none of it is cut
    found = (noised - clean)[inner].astype(float)
    assert abs(found.std() / noise - 1) < 4 / math.sqrt(2 * len(found))


@pytest.mark.parametrize(("option", "end"), [("angle", 0.4), ("scale", 0.5), ("width", 0.2)])
def test_styles_of_pairs_are_those_of_the_renderer(option, end):
    ends = (end, end)
    d = data.load("paired_digits", train=100, validation=4, test=4, **{option: ends})
    draw = numpy_generator(0, 0)
    draw.permutation(1200)  # which digits
    own = arrays(d.train)
    made = strokes.styled(own["y"], draw, **{option: ends})
    assert (own["t"] == made).all()


@pytest.mark.parametrize("network_seed", [0, 3, 11])
def test_captions_of_one_network_whatever_the_rows(network_seed):
    weights = numpy_generator(network_seed, 4)
    first, second = weights.normal(0, 0.5, (24, 64)), weights.normal(0, 64**-0.5, (64, 64))
    for seed in (0, 1):
        for noise in (0.0, 0.4):
            d = data.load("captions", train=20, validation=4, test=500, seed=seed, noise=noise,
                          network_seed=network_seed)  # fmt: skip
            own = arrays(d.test)
            values = np.stack([own[kind] for kind in paired.KINDS], 1)
            hidden = np.tanh(np.eye(4)[values].reshape(-1, 24) @ first)
            off = own["s"] - np.tanh(hidden @ second)
            assert abs(off.std() - noise) <= 4 * noise / math.sqrt(2 * off.size) + 1e-6


@pytest.mark.parametrize(("hands", "hands_seed"), [(5, 0), (10, 3), (40, 7)])
def test_sets_are_drawn_from_the_hands_of_a_seed(hands, hands_seed):
    (known, _), (held, _) = fewshot.stroke_concepts(numpy_generator(hands_seed, 3), hands)
    assert len(known) == 200 * (hands * 4 // 5) and len(known) + len(held) == 200 * hands
    pools = [{row.tobytes() for row in pool} for pool in (known, held)]
    for seed in (0, 5):
        d = data.load("few_shot", **FEW, source="strokes", seed=seed, hands=hands,
                      hands_seed=hands_seed)  # fmt: skip
        assert len(d.train.classes["concept"]) == 10 * hands
        for table, pool in ((d.train, pools[0]), (d.test, pools[1])):
            drawings = table.sites["x"].numpy().reshape(-1, 14, 14)
            assert {image.tobytes() for image in drawings} <= pool
        assert int(d.test.sites["concept"].min()) >= 10 * (hands * 4 // 5)


@pytest.mark.parametrize("option", ["lean", "stretch", "press"])
def test_hands_are_as_asked(option):
    ends = (0.5, 0.5)
    images = fewshot.stroke_concepts(numpy_generator(0, 3), 5, **{option: ends})[0][0]
    usual = fewshot.stroke_concepts(numpy_generator(0, 3), 5)[0][0]
    loaded = data.load("few_shot", **FEW, source="strokes", hands=5, **{option: ends})
    pool = {image.tobytes() for image in images}
    assert {i.tobytes() for i in loaded.train.sites["x"].numpy().reshape(-1, 14, 14)} <= pool
    if option == "press":
        assert images.mean() > 0.8 > 0.5 > usual.mean()
    if option == "stretch":  # 0.5 of a digit that is 0.6 wide at most
        upright = fewshot.stroke_concepts(numpy_generator(0, 3), 5, lean=(0, 0), stretch=ends)[0]
        assert not upright[0][:, :, :2].any() and not upright[0][:, :, -2:].any()


@pytest.mark.parametrize("floor", [0.0, 0.05, 0.5])
def test_signal_noise_has_its_floor_at_black(floor):
    black, grey = np.zeros((40, 16, 16)), np.full((40, 16, 16), 0.5)
    for clean in (black, grey):
        off = noisy.add_noise(clean, "signal", 0.2, numpy_generator(0), floor) - clean
        expected = floor + 0.2 * clean.max()
        assert abs(off.std() - expected) <= 4 * expected / math.sqrt(2 * off.size) + 1e-9
    d = data.load("noisy_images", **FEW, noise="signal", level=0.2, floor=floor)
    own = arrays(d.train)
    off = (own["a"] - own["clean"])[own["clean"] == 0].astype(float)
    assert abs(off.std() - floor) <= 4 * floor / math.sqrt(2 * len(off)) + 1e-9


@pytest.mark.parametrize("cycles", [1.0, 3.0, 6.0])
def test_gratings_have_their_cycles(cycles):
    """Half as many on half as many pixels is a part of the picture, but for its contrast."""
    part = noisy.gratings(20, 8, numpy_generator(0), cycles / 2).reshape(20, -1).astype(float)
    whole = noisy.gratings(20, 16, numpy_generator(0), cycles)[:, :8, :8]
    whole = whole.reshape(20, -1).astype(float)
    low, high = (f(whole, 1)[:, None] for f in (np.min, np.max))
    np.testing.assert_allclose((whole - low) / (high - low), part, atol=1e-5)
    d = data.load("noisy_images", **FEW, picture="gratings", cycles=cycles)
    made = noisy.gratings(60, 16, numpy_generator(0, 0), cycles)
    assert (arrays(d.train)["clean"] == made).all()


# ---- a circle through a network ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("world", "network"), [({}, 5), ({"noise": 0.0}, 5), ({"noise": 0.7, "network_seed": 2}, 2)]
)
def test_circles_lie_about_their_curve(world, network):
    d = data.load("circle", train=40, validation=4, test=500, seed=5, angle=(-1.0, 2.0), **world)
    own = arrays(d.test)
    angle, x = own["angle"].astype(float), own["x"].astype(float)
    assert angle.min() >= -1.0 - 1e-6 and angle.max() <= 2.0 + 1e-6
    assert abs(angle.mean() - 0.5) <= 4 * 3 / math.sqrt(12 * 500)
    rest = x - circle.seen(angle, network)
    noise = world.get("noise", 0.1)
    assert abs(rest.std() - noise) <= 4 * noise / math.sqrt(2 * rest.size) + 1e-6
    # One number of one point by hand: 50 units, then their sum, over 7.
    draw = numpy_generator(network, 3)
    first, second = draw.normal(size=(2, 50)), draw.normal(size=(50, 100))
    units = [math.tanh(math.cos(0.4) * a + math.sin(0.4) * b) for a, b in first.T]
    by_hand = sum(u * w for u, w in zip(units, second[:, 6], strict=True)) / 7
    assert circle.seen(np.array([0.4]), network)[0, 6] == pytest.approx(by_hand)
