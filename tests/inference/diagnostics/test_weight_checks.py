"""The width of Normal guides against targets of which the best width is known."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from worlds.combinations import in_turn

from ppl_models.inference.diagnostics.weight_checks import weight_checks
from ppl_models.inference.posterior.importance_weights import per_row

DRAWS, ROWS = 200, 300


def posterior(target, factor, classes=1, chains=1, seed=0, dtype=np.float64, kept=DRAWS):
    """Draws of a mean-field guide ``factor`` times as wide as the best, of a Normal target.

    Args:
        target: Precision matrix ``(K, K)``; the best scales are the inverse roots of its diagonal.
        factor: ``(K,)``.
        classes: Classes of a label y that moves the code by 10 each.
        chains: Fits, each with draws of its own.
        seed: Seed.
        dtype: Of all arrays.
        kept: Draws of the code that are kept.
    """
    g, size = np.random.default_rng(seed), len(factor)
    scale = factor / np.sqrt(np.diag(target))
    loc = g.normal(size=(ROWS, 1, size)) + 10 * np.arange(classes)[:, None]
    y = g.integers(0, classes, (chains, DRAWS, ROWS))
    u = g.normal(size=(chains, DRAWS, ROWS, size))
    z = loc[np.arange(ROWS), y] + scale * u
    apart = scale * u
    log_p = -0.5 * np.einsum("...i,ij,...j->...", apart, target, apart)
    log_w = log_p + 0.5 * (u**2).sum(-1) + 7.0
    dims = ("chain", "draw", "datum")
    by = ("datum", "y_class", "z_dim") if classes > 1 else ("datum", "z_dim")
    loc = loc if classes > 1 else loc[:, 0]
    wide = np.broadcast_to(scale, loc.shape)
    parameters = {"z_loc": (by, loc.astype(dtype)), "z_scale": (by, wide.astype(dtype))}
    if chains > 1:
        parameters = {
            n: (("chain", *d), np.stack([v] * chains)) for n, (d, v) in parameters.items()
        }
    drawn = {"z": ((*dims, "z_dim"), z[:, :kept].astype(dtype)), "y": (dims, y[:, :kept])}
    found = per_row(log_w[0])
    return {
        "posterior": xr.Dataset(drawn),
        "variational": xr.Dataset(parameters),
        "sample_stats": xr.Dataset({"log_weight": (dims, log_w.astype(dtype))}),
        "diagnostics": xr.Dataset({n: (("datum",), v) for n, v in found.items()}),
    }


def width(groups):
    (found,) = (check for check in weight_checks(groups) if check.name == "width")
    return found


@pytest.mark.parametrize(
    ("factor", "sizes", "dtype"),
    in_turn(
        [0.3, 0.7, 1.3, 3.0],
        [(1, 1, DRAWS), (3, 1, DRAWS), (3, 2, 90)],
        [np.float32, np.float64],
    ),
)
def test_the_factor_is_found(factor, sizes, dtype):
    """E[(u^2 - 1) log w] is 1 - k^2 by Stein's identity; over 10 seeds within 4 errors."""
    classes, chains, kept = sizes
    factors = []
    for seed in range(10):
        one = posterior(np.eye(1), [factor], classes, chains, seed, dtype, kept)
        found = width(one)
        assert found.ok == (0.5 <= factor <= 2)
        factors.append(found.figure)
    error = np.std(factors, ddof=1) / np.sqrt(10)
    assert np.mean(factors) == pytest.approx(factor, abs=4 * error + 0.01 * factor)


def test_best_guide_of_a_correlated_target_passes():
    """The best mean-field guide is narrower than the target, and is not called so."""
    target = np.linalg.inv(np.array([[1.0, 0.8], [0.8, 1.0]]))
    found = width(posterior(target, [1.0, 1.0]))
    assert found.ok and found.figure == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("factor", "wrong"), [(3.0, "wide"), (0.25, "narrow")])
def test_the_worst_number_is_named(factor, wrong):
    found = width(posterior(np.eye(3), [1.0, factor, 1.1]))
    assert not found.ok and found.variable == "z"
    assert found.sentence == (
        f"the guide's standard deviation of z[1] is {found.figure:.2g} times the best one (0.5 to "
        f"2). To try: train longer, with the ELBO (kl weight 1), or with another seed: it is too "
        f"{wrong}."
    )


def test_no_width_without_parameters_or_rows():
    groups = posterior(np.eye(1), [3.0])
    few = {name: group.isel(datum=slice(19)) for name, group in groups.items()}
    bare = {**groups, "variational": xr.Dataset()}
    for other in (few, bare):
        assert [check.name for check in weight_checks(other)] == ["k-hat", "gap"]


def test_parameters_of_more_rows_than_have_draws():
    groups = posterior(np.eye(1), [3.0])
    drawn = {name: groups[name].isel(datum=slice(50)) for name in ("posterior", "sample_stats")}
    assert width({**groups, **drawn}).figure == pytest.approx(3, abs=0.5)
