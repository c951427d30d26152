"""The number of plate dimensions is the pair's, unless somebody says more."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from worlds import inner_plates as world

from ppl_models.batch import Batch
from ppl_models.inference import ELBO, IWELBO, TMC, EnumeratedELBO, Evaluation
from ppl_models.inference.traces.nesting import nesting_of
from ppl_models.inference.traces.sites import UnhandledSite


def test_it_is_found_through_handlers() -> None:
    pair = world.built()
    seen = poutine.condition(poutine.block(pair.model), data={})
    for model in (pair.model, seen, poutine.mask(mask=True)(seen)):
        assert nesting_of(model) == 2
        assert nesting_of(model, 3) == 3
    assert nesting_of(lambda batch: None) == 1


@pytest.mark.parametrize("objective", [ELBO, EnumeratedELBO, IWELBO, TMC])
def test_too_few_are_one_line_and_more_do_no_harm(objective: type[ELBO]) -> None:
    pair, batch = world.built(), world.rows()
    with pytest.raises(ValueError, match="plate_nesting is 1, expected at least the 2") as error:
        objective(plate_nesting=1).loss(pair.model, pair.guide, batch)
    assert "\n" not in str(error.value)
    losses = []
    for nesting in (None, 2, 3):
        torch.manual_seed(0)
        losses.append(ELBO(plate_nesting=nesting).loss(pair.model, pair.guide, batch))
    assert losses[0] == losses[1] == pytest.approx(losses[2])


def test_a_sum_takes_the_most_that_its_terms_say() -> None:
    assert (ELBO() + IWELBO()).max_plate_nesting is None
    assert (ELBO() + IWELBO(plate_nesting=2)).max_plate_nesting == 2
    assert repr(ELBO(plate_nesting=2)) == "ELBO(plate_nesting=2)" and repr(ELBO()) == "ELBO()"


def test_a_plate_that_nobody_told_of_is_named() -> None:
    def model(batch: Batch) -> None:
        with batch.plate(), pyro.plate("time", 3, dim=-2):
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

    message = r"'z' stands in plate 'time' \(dimension -2\), but plate_nesting is 1; set"
    with pytest.raises(UnhandledSite, match=message):
        Evaluation(model, model, Batch({}, torch.arange(2))).weights()
