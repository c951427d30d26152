"""Few-shot likelihoods of sets against closed forms of a linear Gaussian world."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from worlds import inner_plates

import ppl_models as zoo
from ppl_models import inference
from ppl_models.data import Table

LONGER = Table(
    "sets",
    {
        "x": torch.randn(3, 5, generator=torch.Generator().manual_seed(2)),
        # Elements anywhere: those that are there count, in their order.
        "x_there": torch.tensor([[1.0, 1, 1, 1, 1], [0, 1, 0, 1, 1], [1, 1, 0, 0, 0]]),
    },
)


def exact(row: int, context: int) -> float:
    x = LONGER.sites["x"][row][LONGER.sites["x_there"][row] > 0].double().numpy()
    return inner_plates.log_evidence(x, False) - (
        inner_plates.log_evidence(x[:context], False) if context else 0.0
    )


@pytest.mark.parametrize("told", ["plate", "event"])
@pytest.mark.parametrize("context", [0, 1])
def test_closed_form(told: str, context: int) -> None:
    """Within four standard errors, which are small."""
    pair = inner_plates.built(told=told)
    found = inference.set_likelihood(pair, LONGER, context=context, draws=20_000, seed=0)
    wanted = np.array([exact(row, context) for row in range(3)])
    error = found.log_likelihood_error.values
    assert (error < 0.05).all() and (found.khat.values < 0.7).all()
    assert (abs(found.log_likelihood.values - wanted) < 4 * error + 1e-3).all()
    assert found.targets.values.tolist() == [5 - context, 3 - context, 2 - context]
    np.testing.assert_allclose(found.per_element * found.targets, found.log_likelihood)


def test_padding_and_values_in_it_change_no_number() -> None:
    pair = inner_plates.built()
    there = LONGER.sites["x_there"]
    other = torch.where(there > 0, LONGER.sites["x"], torch.tensor(7.0))
    moved = LONGER.replace(sites={"x": other, "x_there": there})
    one, two = (
        inference.set_likelihood(pair, t, context=1, draws=50, seed=1) for t in (LONGER, moved)
    )
    np.testing.assert_allclose(one.log_likelihood, two.log_likelihood, rtol=1e-12)


def test_what_does_not_fit_is_said_in_one_line() -> None:
    pair = inner_plates.built()
    with pytest.raises(ValueError, match=r"^row 2 of sets has 2 elements in site 'x', expected m"):
        inference.set_likelihood(pair, LONGER, context=2)
    with pytest.raises(ValueError, match="context is -1, expected at least 0"):
        inference.set_likelihood(pair, LONGER, context=-1)
    vae = zoo.build("vae", data_dim=5, hidden=(4,), latent=2)
    with pytest.raises(ValueError, match=r"^vae has the sets \[\], expected one site of the"):
        inference.set_likelihood(vae, LONGER, context=1)
