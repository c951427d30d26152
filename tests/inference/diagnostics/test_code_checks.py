"""Codes in use, counted on made-up draws, and decoders that listen to them or not."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from ppl_models.inference.diagnostics.code_checks import code_checks


def noise(*shape):
    return np.random.default_rng(1).normal(size=shape)


def codes(told, rows=100, draws=50, chains=1, dtype=float):
    """Codes whose mean varies over rows with these standard deviations, around it by 1."""
    scale = np.asarray(told)
    z = scale * noise(rows, len(scale)) + noise(chains, draws, rows, len(scale))
    return xr.Dataset({"z": (("chain", "draw", "datum", "unit"), z.astype(dtype))})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_units_that_say_nothing_of_the_rows_are_counted(dtype):
    """A mean that varies by a tenth is 1 % of the variance; the noise of 50 draws would be 2 %."""
    (found,) = code_checks({"posterior": codes([0.0, 0.0, 0.03, 2.0], dtype=dtype)})
    assert (found.ok, found.figure, found.limit, found.variable) == (True, 1, 1, "z")
    assert found.sentence == (
        "1 of 4 numbers of z tell rows apart, the others are drawn as by their prior (at least 1 "
        "of any code)."
    )
    (most,) = code_checks({"posterior": codes([0.2, 0.0, 1.0, 2.0], dtype=dtype)})
    assert most.fact == "3 of 4 numbers of z tell rows apart (at least 1 of any code)"
    assert not code_checks({"posterior": codes([1.0], rows=19)})  # too few rows to tell


@pytest.mark.parametrize("chains", [1, 2])
def test_a_code_of_which_nothing_is_in_use_has_collapsed(chains):
    (found,) = code_checks({"posterior": codes([0.0, 0.03], chains=chains)})
    assert (found.name, found.ok) == ("units in use", False)
    assert found.fact == "0 of 2 numbers of z tell rows apart (at least 1 of any code)"
    assert found.sentence.endswith("the codes have collapsed.")


@pytest.mark.parametrize(("told", "ok"), [(1.0, True), (0.0, False)])
def test_one_code_of_several_may_stay_as_its_prior(told, ok):
    """Such as the style where labels explain all there is; but not all of them."""
    both = codes([told]).assign(w=codes([0.0])["z"].rename(unit="other"))
    z, w = code_checks({"posterior": both})
    assert (z.variable, z.ok, w.variable, w.ok) == ("z", ok, "w", ok)
    assert w.figure == 0
    assert ok is ("they are drawn as by their prior" in w.fact)


@pytest.mark.parametrize(("deviation", "ok"), [(0.0, False), (0.09, False), (0.11, True)])
def test_a_decoder_that_ignores_codes(deviation, ok):
    steps = deviation * noise(1, 50, 1) / noise(1, 50, 1).std(ddof=1) * np.ones((1, 1, 100))
    rows = np.arange(100)  # how well single rows fit does not matter
    likelihood = xr.Dataset({"x": (("chain", "draw", "datum"), rows + steps)})
    found = code_checks({"posterior": codes([1.0]), "log_likelihood": likelihood})[1]
    assert (found.name, found.ok) == ("decoder", ok)
    assert found.figure == pytest.approx(deviation, abs=1e-9)
    assert found.fact == (
        f"log p(x | codes) of the median row changes by {deviation:.2g} nats from draw to draw "
        "(at least 0.1)"
    )


def test_data_sites_are_heard_together():
    """What one site loses by a code and another gains is no change of their density."""
    up = xr.DataArray(noise(1, 50, 100), dims=("chain", "draw", "datum"))
    groups = {"posterior": codes([1.0]), "log_likelihood": xr.Dataset({"x": up, "w": -up})}
    assert code_checks(groups)[1].figure == 0
