"""Factor grids: index, sampling, correlation, weak pairs, tables; against brute force."""

from __future__ import annotations

import itertools

import h5py
import numpy as np
import pytest
import torch

from ppl_models import data
from ppl_models.data.catalogue import factor_data
from ppl_models.data.factors.grid import FactorData, from_images
from ppl_models.data.tables import correlations

VALUES = {"kind": ("a", "b"), "size": (0.0, 1.0, 4.0), "turn": (0.0, 0.5, 1.0, 1.5)}


def rng(seed=0):
    return np.random.default_rng(seed)


def toy(cells=None):
    """A set whose image says which cell it is, under noise."""

    def draw(classes, generator):
        code = classes @ [12, 4, 1]
        noise = generator.random((len(classes), 2, 2), dtype=np.float32) / 2
        return {"x": code[:, None, None] + noise, "extra": code.astype(np.float32)}

    return FactorData("toy", VALUES, draw, cells=cells)


def test_the_index_counts_with_the_last_factor_fastest():
    grid = np.array(list(itertools.product(range(2), range(3), range(4))))
    assert (toy().index(grid) == np.arange(24)).all()
    assert (toy().classes(np.arange(24)) == grid).all()
    assert len(toy()) == 24
    assert toy().factor_sizes == (2, 3, 4)


def test_classes_and_cells_out_of_range_are_named():
    with pytest.raises(ValueError, match=r"toy, row 1: size is 3, expected a class in 0\.\.2"):
        toy().render(np.array([[0, 0, 0], [1, 3, 0]]), rng())
    with pytest.raises(ValueError, match=r"shape \(2,\), expected \(n, 3\)"):
        toy().index(np.array([0, 1]))
    with pytest.raises(ValueError, match=r"cells 0\.\.23, got 24 to 24"):
        toy().classes(np.array([24]))


def test_more_than_a_block_is_rendered_in_order():
    classes = toy().sample(2500, rng())
    sites = toy().sites(classes, rng())
    assert (sites["extra"] == toy().index(classes)).all()
    assert (np.floor(sites["x"][:, 0, 0]) == toy().index(classes)).all()


def test_draws_are_uniform_over_the_cells_that_exist():
    cells = np.array([0, 3, 7, 20])
    drawn = toy(cells).index(toy(cells).sample(8000, rng()))
    kinds, counts = np.unique(drawn, return_counts=True)
    assert kinds.tolist() == cells.tolist()
    assert np.abs(counts - 2000).max() < 4 * np.sqrt(8000 * 0.25 * 0.75)


def test_weights_are_the_product_over_pairs():
    pairs, sigma = [("kind", "size"), ("size", "turn")], 0.3
    expected = []
    for kind, size, turn in itertools.product((0, 1), (0, 0.25, 1), (0, 1 / 3, 2 / 3, 1)):
        distance = (kind - size) ** 2 + (size - turn) ** 2
        expected.append(np.exp(-distance / (2 * sigma**2)))
    assert toy().weights(pairs, sigma) == pytest.approx(np.array(expected))
    kept = np.array([1, 5, 9])
    assert toy(kept).weights(pairs, sigma) == pytest.approx(np.array(expected)[kept])
    falling = toy().weights([("kind", "turn")], sigma, inverse=True).reshape(2, 3, 4)
    rising = toy().weights([("kind", "turn")], sigma).reshape(2, 3, 4)
    assert falling == pytest.approx(rising[:, :, ::-1])


def test_draws_follow_their_weights():
    weights = toy().weights([("size", "turn")], 0.4)
    weights[5] = 0
    counts = np.bincount(toy().index(toy().sample(40_000, rng(), weights)), minlength=24)
    share = weights / weights.sum()
    assert counts[5] == 0
    assert (np.abs(counts - 40_000 * share) <= 4.5 * np.sqrt(40_000 * share)).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda d: d.weights([("kind", "siez")], 1), "factor of toy 'siez': did you mean 'size'"),
        (lambda d: d.weights([("kind", "size")], 0), "sigma is 0, expected more than 0"),
        (lambda d: d.sample(3, rng(), np.ones(5)), r"shape \(5,\), expected \(24,\)"),
        (lambda d: d.sample(3, rng(), np.zeros(24)), "not all 0"),
        (lambda d: d.sample_pair(3, 4, rng()), "k is 4, expected 1 to 3 factors of toy"),
        (lambda d: d.correlated("single-1"), "unknown correlation of toy 'single-1'"),
        (lambda d: d.dataset(sigma=0.1), "sigma is 0.1 but nothing is correlated"),
    ],
)
def test_what_does_not_fit_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(toy())


@pytest.mark.parametrize("k", [1, 2, 3])
def test_pairs_differ_in_k_factors_each_as_often(k):
    first, second, changed = toy().sample_pair(6000, k, rng())
    assert ((first != second) == changed).all()
    assert (changed.sum(1) == k).all()
    assert np.abs(changed.mean(0) - k / 3).max() < 4 * np.sqrt(k / 3 * (1 - k / 3) / 6000) + 1e-9
    # a changed factor goes to every other value equally often
    step = (second - first)[changed[:, 2], 2] % 4
    counts = np.bincount(step, minlength=4)
    assert counts[0] == 0
    assert np.abs(counts[1:] - len(step) / 3).max() < 4 * np.sqrt(len(step) / 3)


def test_pairs_stay_where_cells_exist():
    candle = factor_data("candle_like")
    first, second, changed = candle.sample_pair(500, 2, rng())
    for classes in (first, second):
        assert np.isin(candle.index(classes), candle.cells).all()
    assert ((first != second) == changed).all()
    assert (changed.sum(1) == 2).all()


@pytest.mark.parametrize(
    ("settings", "name"),
    [(correlations.DSPRITES, "dsprites"), (correlations.SHAPES3D, "shapes3d_like")],
)
def test_published_settings_name_factors_that_exist(settings, name):
    known = factor_data(name)
    assert known.correlations is settings
    for setting, how in settings.items():
        assert {factor for pair in how.pairs for factor in pair} <= set(known.factor_names)
        assert how.sigma == (0.2 if setting.startswith("conf") else 0.1)
    confounded = settings["conf-1"].pairs
    assert [b for _, b in confounded] == [n for n in known.factor_names if n != "shape"]
    assert {a for a, _ in confounded} == {"shape"}
    assert known.correlated("conf-2").min() > 0  # all combinations remain possible


def test_tables_hold_what_their_cells_look_like():
    d = toy().dataset(train=12, validation=4, test=8, seed=3)
    numbers = torch.cat([t.numbers for t in (d.train, d.validation, d.test)])
    assert torch.equal(numbers.sort().values, torch.arange(24))
    for table in (d.train, d.validation, d.test):
        classes = np.stack([table.sites[f].numpy() for f in VALUES], axis=1)
        assert (toy().index(classes) == table.numbers.numpy()).all()
        assert torch.equal(table.sites["x"].floor()[:, 3].long(), table.numbers)
        assert torch.equal(table.sites["extra"].long(), table.numbers)
    assert d.train.shapes["x"] == (2, 2)
    assert d.train.classes["size"] == ("0", "1", "4")
    assert d.roles == {"kind": "factor", "size": "factor", "turn": "factor"}
    some = toy().dataset(train=12, validation=4, test=8, labelled={"kind": 4}, seed=3)
    assert some.train.counts["kind"] == 4
    assert some.train.counts["size"] == 12


def test_only_training_rows_are_correlated_and_none_is_in_the_test():
    mini = factor_data("mini_dsprites")
    d = mini.dataset(train=4000, validation=500, test=1500, correlated="single-2", sigma=0.2)

    def correlation(table):
        x, y = (table.sites[f].double() for f in ("pos_x", "pos_y"))
        return float(torch.corrcoef(torch.stack((x, y)))[0, 1])

    grid = np.arange(8) / 7
    weight = np.exp(-((grid[:, None] - grid) ** 2) / (2 * 0.2**2)).ravel()
    x, y = np.repeat(grid, 8), np.tile(grid, 8)
    cov = np.cov(np.stack([x, y]), aweights=weight)
    expected = cov[0, 1] / cov[0, 0]
    error = (1 - expected**2) / 4000**0.5
    assert correlation(d.train) == pytest.approx(expected, abs=4 * error)
    assert abs(correlation(d.test)) < 4 / 1500**0.5
    classes = np.stack([d.train.sites[f].numpy() for f in mini.factor_names], axis=1)
    held = torch.cat((d.validation.numbers, d.test.numbers)).numpy()
    assert not np.isin(mini.index(classes), held).any()
    assert d.train.numbers.tolist() == list(range(5760, 9760))


def test_on_demand_shows_the_same_cells_and_new_noise():
    kept = toy().dataset(train=12, validation=4, test=8, seed=1)
    asked = toy().dataset(train=12, validation=4, test=8, seed=1, on_demand=True)
    assert torch.equal(asked.train.numbers, kept.train.numbers)
    rows = torch.tensor([5, 0, 5])
    first, second = (asked.train.sites["x"].index_select(0, rows) for _ in range(2))
    assert first.dtype == torch.float32
    assert torch.equal(first.floor(), kept.train.sites["x"].index_select(0, rows).floor())
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[2])
    again = toy().dataset(train=12, validation=4, test=8, seed=1, on_demand=True)
    assert again.recipe == asked.recipe
    assert torch.equal(again.train.sites["x"].index_select(0, rows), first)
    assert "extra" not in asked.train.sites
    (batch,) = data.Stream(asked.train, 4, seed=2).step(0)
    assert torch.equal(batch["x"].floor()[:, 0].long(), batch.rows)


@pytest.mark.parametrize("kept_in", ["memory", "file"])
def test_images_that_are_there_already(kept_in, tmp_path):
    images = np.arange(24 * 6, dtype=np.uint8).reshape(24, 2, 3)
    with h5py.File(tmp_path / "images.h5", "w") as file:
        file["images"] = images
        held = images if kept_in == "memory" else file["images"]
        d = from_images("mine", VALUES, held)
        classes = d.sample(50, rng())
        assert (d.render(classes, rng()) == images[d.index(classes)]).all()
        assert d.source == "official"
    with pytest.raises(ValueError, match=r"mine has 23 images, expected 24 for \(2, 3, 4\)"):
        from_images("mine", VALUES, images[:23])


def test_all_cells_go_to_a_file_and_come_back(tmp_path):
    blob = factor_data("blob")
    d = data.open(data.write(blob.whole(splits=(400, 76, 100), seed=1), tmp_path / "blob.h5"))
    assert [len(t) for t in (d.train, d.validation, d.test)] == [400, 76, 100]
    for table in (d.train, d.test):
        classes = blob.classes(table.numbers.numpy())
        expected = blob.render(classes, rng()).reshape(len(table), -1)
        assert (table.sites["x"].numpy() == expected).all()
        assert (table.sites["row"].numpy() == classes[:, 1]).all()
    assert d.roles == {"column": "factor", "row": "factor"}


def test_factors_behind_a_name():
    assert factor_data("xysquares", spacing=2).values["x_red"][:2] == (21.0, 23.0)
    with pytest.raises(ValueError, match="digits has no factors"):
        factor_data("digits")
    with pytest.raises(ValueError, match="option of xysquares 'space': did you mean 'spacing'"):
        factor_data("xysquares", space=2)


def test_the_global_generators_are_left_alone():
    np.random.seed(5)
    torch.manual_seed(5)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    data.load("color_dsprites", train=5, validation=2, test=2)
    data.load("candle_like", train=5, validation=2, test=2)
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.get_rng_state(), before[1])
