"""Codes of rows: means and draws of the guide, every cell once, and tables of one's own."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import ppl_models as zoo
from ppl_models import data
from ppl_models.inference import metrics
from ppl_models.inference.metrics.disentanglement.encoding import is_redrawn, table_of

SPRITES = data.factor_data("mini_dsprites")
ROWS = SPRITES.dataset(train=50, validation=10, test=40)


@pytest.fixture(scope="module")
def vae():
    return zoo.build("vae", ROWS, latent=3, hidden=(8,))


def guide_of(pair, x):
    """Mean and deviation of q(z | x), by the guide's own factor."""
    q = pair.guide.factor("z", {"x": x})
    return q.base_dist.loc, q.base_dist.scale


def test_codes_are_the_guides_means_and_deviations(vae):
    table = metrics.encode(vae, ROWS.test)
    with torch.no_grad():
        loc, scale = guide_of(vae.eval(), ROWS.test.sites["x"])
    np.testing.assert_allclose(table.codes, loc.double(), atol=1e-6)
    np.testing.assert_allclose(table.scale, scale.double(), atol=1e-6)
    assert table.code_names == ("z[0]", "z[1]", "z[2]")
    assert table.factor_names == SPRITES.factor_names
    for place, name in enumerate(SPRITES.factor_names):
        assert (table.factors[:, place] == ROWS.test.sites[name].numpy()).all()
    chosen = metrics.encode(vae, ROWS.test, [3, 1], factors=("shape",))
    np.testing.assert_allclose(chosen.codes, table.codes[[3, 1]], atol=1e-6)
    assert chosen.factors[:, 0].tolist() == table.factors[[3, 1], 0].tolist()


def test_draws_are_those_of_a_seed_about_the_means(vae):
    state = torch.get_rng_state()
    rows = range(0, len(SPRITES), 6)  # 960
    means = metrics.encode(vae, SPRITES, rows)
    drawn, again, other = (
        metrics.encode(vae, SPRITES, rows, sampled=True, seed=s) for s in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert (drawn.codes == again.codes).all() and (drawn.codes != other.codes).all()
    far = ((drawn.codes - means.codes) / means.scale).ravel()
    # Of 2,880 standard normal numbers: mean within 4 of their errors, square likewise.
    assert (
        abs(far.mean()) < 4 / len(far) ** 0.5
        and abs((far**2).mean() - 1) < 4 * (2 / len(far)) ** 0.5
    )
    assert drawn.source["representation"] == "sampled" and means.source["pair"] == "vae"


def test_every_cell_of_a_grid_is_encoded_once(vae):
    table = metrics.encode(vae, SPRITES)
    assert len(table) == len(SPRITES) == len(np.unique(table.factors, axis=0))
    assert (table.cells == SPRITES.index(table.factors)).all()
    assert table.source["nuisance"] == "none"
    few = [7, 4000, 3]
    classes = SPRITES.classes(np.array(few))
    image = torch.from_numpy(SPRITES.render(classes, np.random.default_rng(0)))
    with torch.no_grad():
        loc, _ = guide_of(vae.eval(), image.reshape(3, -1).float())
    np.testing.assert_allclose(metrics.encode(vae, SPRITES, few).codes, loc, atol=1e-5)
    np.testing.assert_allclose(table.codes[few], loc, atol=1e-5)


def test_noise_that_is_no_factor_is_seen_and_recorded():
    noisy = data.factor_data("noisy_dsprites")
    assert is_redrawn(noisy) and not is_redrawn(SPRITES)
    of_pixel = metrics.encode(lambda batch: batch["x"][:, :4], noisy, range(0, 90), seed=3)
    again = metrics.encode(lambda batch: batch["x"][:, :4], noisy, range(0, 90), seed=3)
    other = metrics.encode(lambda batch: batch["x"][:, :4], noisy, range(0, 90), seed=4)
    assert (of_pixel.codes == again.codes).all() and (of_pixel.codes != other.codes).any()
    assert of_pixel.source["nuisance"] == "one look at each cell"
    assert of_pixel.scale is None and of_pixel.code_names[-1] == "z[3]"


def test_a_sampler_encodes_any_combination_with_nuisance_drawn_anew(vae):
    still = metrics.sampler_of(vae, SPRITES)
    classes = SPRITES.classes(np.array([7, 4000, 3]))
    found = still.encoded(classes, np.random.default_rng(0))
    np.testing.assert_allclose(found, metrics.encode(vae, SPRITES, [7, 4000, 3]).codes, atol=1e-6)
    assert still.factor_sizes == SPRITES.factor_sizes and still.code_names == (
        "z[0]",
        "z[1]",
        "z[2]",
    )
    assert still.source["nuisance"] == "drawn anew at each look"

    noisy = data.factor_data("noisy_dsprites")
    of_pixels = metrics.sampler_of(lambda batch: batch["x"][:, :4], noisy)
    same = np.repeat(noisy.classes(np.array([5])), 3, axis=0)
    looks = of_pixels.encoded(same, np.random.default_rng(0))
    assert len(np.unique(looks, axis=0)) == 3  # one cell, three looks
    assert (looks == of_pixels.encoded(same, np.random.default_rng(0))).all()
    drawn = metrics.sampler_of(vae, SPRITES, sampled=True)
    one, other = (drawn.encoded(classes, np.random.default_rng(s)) for s in (0, 1))
    assert (one != other).all()


def test_a_sampler_wants_every_combination():
    with pytest.raises(ValueError, match=r"candle_like has 12546 of 21600 combinations"):
        metrics.sampler_of(lambda batch: batch["x"], data.factor_data("candle_like"))


def test_codes_that_hang_on_a_label_take_its_most_probable_class():
    digits = data.load("digits")
    pair = zoo.build("m2", digits, hidden=(8,), latent=2)
    table = metrics.encode(pair, digits.test, range(20))
    assert table.factor_names == ("y",) and table.scale is None
    (batch,) = digits.test.rows(range(20)).only("x").batches()
    with torch.no_grad():
        y = pair.guide.factor("y", {"x": batch["x"]}).probs.argmax(-1)
        z = pair.guide.factor("z", {"x": batch["x"], "y": y}).base_dist.loc
    np.testing.assert_allclose(table.codes, z, atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (lambda p: metrics.encode(p, ROWS), "data are a Dataset, expected a table"),
        (lambda p: metrics.encode(p, ROWS.test, sites=("w",)), "continuous latent site 'w'"),
        (lambda p: metrics.encode(p, ROWS.test, factors=("shap",)), "did you mean 'shape'"),
        (lambda p: metrics.encode(p, SPRITES, factors=("shape",)), "has its own"),
        (lambda p: metrics.encode(p, SPRITES, [10**6]), "has no cell 1000000"),
        (
            lambda p: metrics.encode(p, ROWS.test.hide({"shape": torch.arange(40) != 5})),
            "factor 'shape' of mini_dsprites/test is hidden in row",
        ),
        (lambda p: metrics.encode(lambda b: b["x"][0], ROWS.test), "expected (40, D)"),
        (lambda p: metrics.encode(p, ROWS.test, seed=-1), "seed"),
    ],
)
def test_what_cannot_be_encoded_is_refused(vae, asked, words):
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        asked(vae)
    assert "\n" not in str(error.value)


# ---- tables of one's own -----------------------------------------------------------------


def test_arrays_and_tensors_make_the_same_table():
    codes, factors = np.arange(12.0).reshape(6, 2), np.arange(12).reshape(6, 2) % 3
    one = metrics.from_arrays(codes, factors)
    other = metrics.from_arrays(
        torch.from_numpy(codes).float().requires_grad_(),
        {"y[0]": torch.from_numpy(factors[:, 0]), "y[1]": factors[:, 1].astype(float)},
    )
    assert (one.codes == other.codes).all() and (one.factors == other.factors).all()
    assert one.factor_names == other.factor_names == ("y[0]", "y[1]")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"codes": [[1.0, np.nan], [0, 0]]}, "code 'z[1]' is nan in row 0"),
        ({"codes": [[1.0, 2], [np.inf, 0]]}, "code 'z[0]' is inf in row 1"),
        ({"codes": [1.0, 2.0]}, "expected (N, D) and (N, K) of the same rows"),
        ({"codes": [[1.0, 2.0]]}, "codes have shape (1, 2) and factors (2, 1)"),
        ({"factors": [[0.5], [1]]}, "factor 'y[0]' is 0.5 in row 0, expected a whole number"),
        ({"factors": [[1], [-1]]}, "factor 'y[0]' is -1 in row 1"),
        ({"factors": [["a"], ["b"]]}, "factor 'y[0]' is of type <U1"),
        ({"factors": {"a": [0, 1], "b": [0]}}, "expected (N,) of all"),
        ({"code_names": ("a", "a")}, "expected 2 names, each once"),
        ({"scale": [[1.0, 1.0]]}, "scale has shape (1, 2)"),
        ({"cells": [1]}, "expected one for each of 2 rows"),
    ],
)
def test_tables_that_do_not_fit_are_refused(given, words):
    whole = {"codes": [[1.0, 2.0], [3.0, 4.0]], "factors": [[0], [1]]} | given
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        metrics.from_arrays(**whole)
    assert "\n" not in str(error.value)


def test_constant_codes_and_factors_of_one_value_are_known():
    codes = np.stack([np.arange(5.0), np.full(5, 3.0), 3 + 1e-12 * np.arange(5)], 1)
    table = metrics.from_arrays(codes, {"a": np.arange(5) % 2, "b": np.full(5, 7)})
    assert table.varying.tolist() == [True, False, False]
    assert table.excluded == ("b",)
    assert table.with_factors(table.told).factor_names == ("a",)
    assert table.with_codes(table.varying).code_names == ("z[0]",)


def test_a_split_has_no_row_twice():
    table = metrics.from_arrays(np.arange(90.0)[:, None], np.arange(90)[:, None] % 2)
    train, test = table.split(20, 10, seed=1)
    again, _ = table.split(20, 10, seed=1)
    assert len(train) == 20 and len(test) == 10 and (train.codes == again.codes).all()
    assert not set(train.codes[:, 0]) & set(test.codes[:, 0])
    train, test = table.split()  # 10,000 and 5,000 are not there
    assert (len(train), len(test)) == (60, 30)


def test_cells_of_an_anndata_object():
    obs = pd.DataFrame(
        {"kind": pd.Categorical(["b", "a", "b"], ["b", "a"]), "batch": ["x", "y", "x"],
         "dose": [2, 0, 1], "age": [0.5, 1.0, 2.0], "lost": ["q", None, "q"]},
        index=["c1", "c2", "c3"],
    )  # fmt: skip
    cells = SimpleNamespace(obs=obs, obsm={"X_z": np.eye(3)}, obs_names=obs.index)
    table = metrics.from_anndata(cells, "X_z", ("kind", "batch", "dose"))
    assert table.factors.tolist() == [[0, 0, 2], [1, 1, 0], [0, 0, 1]]
    assert table.code_names[2] == "X_z[2]"
    for key, columns, words in (
        ("X_y", ("kind",), "unknown obsm key 'X_y'"),
        ("X_z", ("kin",), "did you mean 'kind'"),
        ("X_z", ("age",), "factor 'age' is 0.5 in row 0"),
        ("X_z", ("lost",), "factor 'lost' has no value in cell 'c2'"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            metrics.from_anndata(cells, key, columns)


def test_a_look_is_a_table_with_factors_as_labels():
    few = table_of(SPRITES, SPRITES.classes(np.arange(3)), np.random.default_rng(0))
    assert set(few.classes) == set(SPRITES.factor_names) and few.shapes["x"] == (32, 32)
