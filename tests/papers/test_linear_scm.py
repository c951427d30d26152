"""Linear structural causal models against matrices."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch.testing import assert_close

from ppl_models.parts.linear_scm import LinearSCM
from ppl_models.parts.mechanisms import Curve

NAMES = ("a", "b", "c")
SLOPES = {(0, 1): 0.8, (0, 2): -0.5, (1, 2): 1.3}  # of the cause's u on the effect's
LOCS = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
SCALES = torch.tensor([1.5, 0.6, 0.4], dtype=torch.float64)


def world(dtype=torch.float64):
    """z = loc + scale u, u = eps (I - A)^-1."""
    scm = LinearSCM(NAMES).to(dtype)
    with torch.no_grad():
        for place, slope in SLOPES.items():
            scm.weights[place] = slope
        for name, loc, scale in zip(NAMES, LOCS, SCALES, strict=True):
            (line,) = scm.mechanisms[name].outer
            line.loc.copy_(loc)
            line.log_scale.copy_(scale.log())
    return scm


def in_units(dtype=torch.float64):
    """The same in z: slopes ``(3, 3)``, own deviations, and locations without causes."""
    slopes = torch.zeros(3, 3, dtype=dtype)
    scales, locs = SCALES.to(dtype), LOCS.to(dtype)
    for (i, j), slope in SLOPES.items():
        slopes[i, j] = slope * scales[j] / scales[i]
    return slopes, scales, locs - locs @ slopes


def moments(slopes, scales, own, do):
    """Mean and covariance of row vectors where some variables are cut from their causes."""
    slopes, scales, own = slopes.clone(), scales.clone(), own.clone()
    for place, value in do.items():
        slopes[:, place], scales[place], own[place] = 0, 0, value
    solved = torch.linalg.inv(torch.eye(3).to(slopes) - slopes)
    return own @ solved, solved.T @ torch.diag(scales.square()) @ solved


@pytest.mark.parametrize("do", [{}, {"a": 2.0}, {"b": -1.0}, {"c": 3.0}, {"a": 0.5, "b": 4.0}])
def test_mean_and_covariance_under_interventions_are_those_of_matrices(do):
    scm = world()
    # Noise of exactly mean 0 and covariance 1: what is linear has no sampling error.
    draw = torch.randn(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    draw = draw - draw.mean(0)
    draw = draw @ torch.linalg.inv(torch.linalg.cholesky(draw.T @ draw / 500)).T
    noise = {name: draw[:, place : place + 1] for place, name in enumerate(NAMES)}
    with torch.no_grad():
        found = scm.join(scm.push(noise, **do))
    mean, covariance = moments(*in_units(), {NAMES.index(n): v for n, v in do.items()})
    assert_close(found.mean(0), mean, rtol=0, atol=1e-10)
    apart = found - found.mean(0)
    assert_close(apart.T @ apart / 500, covariance, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("site", NAMES)
def test_counterfactuals_are_those_of_the_closed_form(site, dtype, near):
    """z' = z + (change of the set one) times its total effects."""
    scm, place = world(dtype), NAMES.index(site)
    draw = torch.Generator().manual_seed(1)
    values = scm.split(torch.randn(20, 3, generator=draw, dtype=torch.float64).to(dtype))
    slopes = in_units(dtype)[0]
    with torch.no_grad():
        found = scm.join(scm.push(scm.noise(values), **{site: values[site] + 2}))
    total = torch.linalg.inv(torch.eye(3, dtype=dtype) - slopes)[place]
    assert_close(found, scm.join(values) + 2 * total, rtol=0, atol=near * 10)


def test_one_arrow_points_from_row_to_column():
    scm = LinearSCM(("a", "b"))
    with torch.no_grad():
        scm.weights[0, 1] = 3.0
    noise = {"a": torch.ones(1, 1), "b": torch.zeros(1, 1)}
    assert {n: v.item() for n, v in scm.push(noise).items()} == {"a": 1.0, "b": 3.0}


@pytest.mark.parametrize("mask", [{"c": ("a",)}, [[0, 0, 1], [0, 0, 0], [0, 0, 0]]])
def test_what_is_masked_stays_exactly_zero(mask):
    """Also where an optimiser with momentum has moved it before."""
    torch.manual_seed(0)
    scm = LinearSCM(NAMES, mask, Curve)
    assert scm.graph == {"a": (), "b": (), "c": ("a",)}
    assert copy.deepcopy(scm).state_dict().keys() == scm.state_dict().keys()
    truth = world(torch.float32)
    steps = torch.optim.Adam(scm.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(5):
        steps.zero_grad()
        with torch.no_grad():
            rows = truth.joint().sample((64,))
        (-scm.joint().log_prob(rows).mean()).backward()
        steps.step()
    expected = torch.zeros(3, 3).bool()
    expected[0, 2] = True
    assert torch.equal(scm.adjacency != 0, expected)
    assert torch.equal(scm.weights != 0, expected)


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        ({"a": ("c",)}, "mask has an arrow from 'c' to 'a', expected arrows from earlier to later "
                        "ones of a, b, c"),
        (torch.eye(3), "mask has an arrow from 'a' to 'a', expected"),
        (torch.ones(2, 2), "mask has shape (2, 2), expected (3, 3)"),
        ({"d": ("a",)}, "mask: unknown variable 'd': expected one of a, b, c"),
    ],
)  # fmt: skip
def test_masks_that_are_none_are_refused_in_one_line(mask, sentence):
    with pytest.raises(ValueError, match="^" + re.escape(sentence)) as error:
        LinearSCM(NAMES, mask)
    assert "\n" not in str(error.value)
