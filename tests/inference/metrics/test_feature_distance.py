"""Distances of images: what a value says, and which values are refused in one table."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import xarray as xr
from worlds.pages import run_page

from ppl_models.inference.metrics import (
    FrechetDistance,
    distance_table,
    frechet_bias,
    frechet_distance,
    kernel_distance,
    pca_features,
    random_features,
)

SHAPE = (4, 4)


def images(count, seed=0):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


REAL, FAKE = images(60), images(50, 1) ** 2
NET = pca_features(REAL, 5)


def compared(net=NET, fake=FAKE, **options):
    found = FrechetDistance(net, REAL, **options)
    found.update(fake)
    return found


def test_values_are_those_of_the_features_however_images_come():
    whole = compared()
    parts = FrechetDistance(NET, REAL)
    for part in FAKE.split([1, 30, 19]):
        parts.update(part)
    value = whole.compute()
    assert value.value == pytest.approx(frechet_distance(NET(REAL), NET(FAKE)), rel=1e-12)
    assert parts.compute().value == pytest.approx(value.value, rel=1e-12)
    spectrum = torch.linalg.eigvalsh(torch.cov(NET(REAL).T))
    wanted = frechet_bias(spectrum, 50) + frechet_bias(spectrum, 60)
    assert value.bias == pytest.approx(wanted)
    kid = whole.kid(seed=3)
    assert (kid.value, kid.error) == kernel_distance(NET(REAL), NET(FAKE), seed=3)
    parts.reset()
    parts.update(REAL)
    assert abs(parts.compute().value) < 1e-10


def test_few_images_take_the_other_way_and_have_no_bias():
    net = random_features(SHAPE, d=64)
    value = compared(net).compute()
    assert value.value == pytest.approx(frechet_distance(net(REAL), net(FAKE)), rel=1e-12)
    assert math.isnan(value.bias)
    assert compared(net, REAL).compute().value == pytest.approx(0, abs=1e-10)


def test_extrapolation_takes_bias_off():
    # Of one distribution, 12 seeds: plain 0.0369 (0.0047), of infinitely many -0.0071 (0.0048).
    real = images(2000, 5)
    found = FrechetDistance(pca_features(real, 16), real)
    found.update(images(200, 6))
    plain, limit = found.compute(), found.extrapolate()
    assert limit.metric == "fd_infinity" and limit.error > 0
    assert limit.value < plain.value / 2
    assert found.extrapolate(seed=1).value != limit.value == found.extrapolate(seed=0).value


def test_a_value_says_what_it_is():
    value = compared(split="test", images="samples, drawn").compute()
    assert value.key == "fd[pca:5]"
    data = value.dataset()
    assert set(data) == {"fd[pca:5]", "fd_bias[pca:5]"}
    attrs = data["fd[pca:5]"].attrs
    assert attrs["comparable_to_inception_fid"] == 0
    told = ("pca:5", NET.digest, "principal components", 5, 60, 50, "test", "samples, drawn")
    names = ("network", "digest", "layer", "d", "n_real", "n_fake", "split", "images")
    assert tuple(attrs[name] for name in names) == told
    assert math.isnan(attrs["test_accuracy"])
    assert float(data["fd[pca:5]"]) == value.value
    assert str(value).startswith("fd[pca:5] = ")
    assert "50 of 'samples, drawn' against 60 of 'test'" in str(value)


def test_a_table_goes_through_a_file(tmp_path):
    values = {"vae": compared().kid(), "beta": compared(fake=FAKE.flip(0)).kid()}
    table = distance_table(values)
    assert table["kid[pca:5]"].sel(model="vae").item() == values["vae"].value
    assert table["kid_error[pca:5]"].sel(model="beta").item() == values["beta"].error
    table.to_netcdf(tmp_path / "table.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "table.nc", engine="h5netcdf") as back:
        assert back.equals(table)
        assert back["kid[pca:5]"].attrs["digest"] == NET.digest


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (lambda: compared(random_features(SHAPE, 5)).compute(), "network 'pca:5'"),
        (lambda: compared(pca_features(FAKE, 5)).compute(), f"digest '{NET.digest}'"),
        (lambda: compared(fake=FAKE[:40]).compute(), "n_fake 50"),
        (lambda: compared(split="test").compute(), "split 'train'"),
        (lambda: compared(images="reconstructions").compute(), "images 'samples'"),
        (lambda: compared().kid(), "metric 'fd'"),
    ],
)
def test_values_that_are_not_comparable_are_refused(other, what):
    value = compared().compute()
    with pytest.raises(ValueError, match=f"'one' has {what}") as error:
        distance_table({"one": value, "two": other()})
    assert "\n" not in str(error.value)


def test_xarray_does_not_merge_two_networks_of_one_name_either():
    one = compared().compute()
    two = dataclasses.replace(one, digest="0" * 64, value=2.0)
    with pytest.raises(xr.MergeError):
        xr.merge([one.dataset(), two.dataset()])
    stacked = xr.concat([one.dataset(), two.dataset()], "model")
    assert stacked["digest[pca:5]"].values.tolist() == [NET.digest, "0" * 64]
    # Of different names they stand side by side, each under its own.
    other = compared(random_features(SHAPE, 5)).compute()
    both = xr.merge([one.dataset(), other.dataset()])
    assert {"fd[pca:5]", "fd[random:0]"} <= set(both)


def test_what_is_missing_is_one_line():
    with pytest.raises(ValueError, match="features of the reference have 1 rows, expected at"):
        FrechetDistance(NET, REAL[:1])
    found = FrechetDistance(NET, REAL)
    with pytest.raises(ValueError, match="0 images were added, expected at least 2"):
        found.compute()
    found.update(FAKE[:19])
    for ask in (found.extrapolate, found.kid):
        with pytest.raises(ValueError, match="19 images were added, expected at least 20"):
            ask()
    with pytest.raises(ValueError, match="images have shape"):
        found.update(torch.rand(3, 5, 4))
    with pytest.raises(ValueError, match="no values were given"):
        distance_table({})


def test_numbers_of_one_table_are_in_its_order():
    values = {name: compared(fake=FAKE**power).compute() for name, power in (("b", 1), ("a", 2))}
    table = distance_table(values, dim="run")
    assert table["run"].values.tolist() == ["b", "a"]
    np.testing.assert_array_equal(table["fd[pca:5]"], [v.value for v in values.values()])


def test_the_python_of_the_page_runs(capsys):
    run_page("metrics/frechet")
    told = capsys.readouterr().out
    assert "fd[classifier:digits] = " in told
    assert "1197 of 'samples, mean' against 1197 of 'train'" in told
    assert "'ours' has network 'classifier:digits' and 'theirs' 'pca:8'" in told
