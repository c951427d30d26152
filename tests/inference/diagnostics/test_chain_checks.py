"""Chains that have settled, that have not, and whose components stand in different orders."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from ppl_models.inference.diagnostics.chain_checks import chain_checks


def draws(dims, array, **more):
    posterior = xr.Dataset({"z": (("chain", "draw", *dims), array), **more})
    quiet = np.zeros(array.shape[:2], bool)
    stats = xr.Dataset({"diverging": (("chain", "draw"), quiet)})
    return {"posterior": posterior, "sample_stats": stats}


def noise(*shape):
    return np.random.default_rng(1).normal(size=shape)


def names(groups):
    return [check.name for check in chain_checks(groups) if not check.ok]


def test_chains_that_agree():
    found = chain_checks(draws((), noise(2, 400)))
    assert all(check.ok for check in found)
    assert [check.name for check in found] == ["R-hat", "effective draws", "divergences"]
    assert chain_checks(draws((), noise(1, 400)))[0].name == "effective draws"


def test_the_variable_and_its_place_are_named():
    z = noise(2, 400, 3, 2)
    z[1, :, 2, 1] += 3
    groups = draws(("datum", "unit"), z, w=(("chain", "draw"), noise(2, 400)))
    groups["posterior"] = groups["posterior"].assign_coords(datum=[10, 11, 12])
    first = chain_checks(groups)[0]
    assert (first.variable, first.ok, first.limit) == ("z", False, 1.05)
    assert f"the largest R-hat is {first.figure:.3f}, of z (datum 12, unit 1)" in first.fact


@pytest.mark.parametrize("components", [2, 3, 5])
def test_label_switching_is_named(components):
    """Components a permutation apart agree once they are put in one order."""
    centres = 5.0 * np.arange(components)
    first = centres[:, None] + noise(4, 300, components, 2)
    first[2] = first[2][:, np.roll(np.arange(components), 1)]
    found = {check.name: check for check in chain_checks(draws(("component", "D"), first))}
    assert not found["R-hat"].ok
    said = found["label switching"]
    assert said.variable == "z" and "components of z along component" in said.fact
    assert "ordered constraint on z" in said.sentence


def test_switching_within_a_chain_is_named():
    array = np.array([0.0, 5.0]) + noise(2, 400, 2)
    array[0, 100:350] = array[0, 100:350, ::-1]
    assert "label switching" in names(draws(("component",), array))


def test_chains_that_disagree_are_no_label_switching():
    apart = np.array([0.0, 5.0]) + noise(2, 400, 2)
    apart[1] += 20  # no order of the components mends this
    assert names(draws(("component",), apart)) == ["R-hat", "effective draws"]


def test_draws_that_hang_together_and_diverge():
    slow = np.cumsum(noise(2, 400), 1) / 5
    assert "effective draws" in names(draws((), slow))
    groups = draws((), noise(2, 400))
    groups["sample_stats"]["diverging"][0, :3] = True
    (found,) = (check for check in chain_checks(groups) if not check.ok)
    assert found.sentence == (
        "3 divergent transitions (at most 0). To try: more warmup, or fewer rows at a time."
    )


def test_values_that_never_move_count_for_nothing():
    still = draws((), noise(2, 400), w=(("chain", "draw"), np.ones((2, 400))))
    assert names(still) == []
