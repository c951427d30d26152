"""The number of plate dimensions is the pair's, unless somebody says more."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from worlds import inner_plates as world
from worlds.two_codes import TwoCodes, rows

from ppl_models.batch import Batch
from ppl_models.inference import (
    ELBO,
    IWELBO,
    TMC,
    Capacity,
    Classification,
    CodeCovariance,
    DistanceCorrelation,
    Emphasis,
    Encoded,
    EnumeratedELBO,
    Evaluation,
    HausdorffSupport,
    Penalty,
    TotalCorrelation,
    density_ratio,
    kl_parts,
)
from ppl_models.inference.objectives.loss_parts import is_addend
from ppl_models.inference.traces.nesting import nesting_of
from ppl_models.inference.traces.sites import UnhandledSite
from ppl_models.networks import Net


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


def kl_of(site: str) -> Penalty:
    return Penalty(site, lambda run: sum(kl_parts(run, site)))


TERMS = [
    TotalCorrelation("b"),
    TotalCorrelation("b", estimator="mss"),
    CodeCovariance("b", 2.0, 3.0, "aggregate"),
    DistanceCorrelation("a", "b"),
    HausdorffSupport("b"),
    Capacity("b", 2.0, 0.1),
    Emphasis("x", 3.0),
    Classification("y"),
    kl_of("b"),
]


@pytest.mark.parametrize("particles", [1, 2, 3])
@pytest.mark.parametrize("sites", [("x",), ("x", "y")])
@pytest.mark.parametrize("given", [False, True])
def test_terms_and_addends_are_the_same_under_more(particles, sites, given) -> None:
    pair, batch = TwoCodes(given), rows(*sites)
    for term in TERMS:
        found = []
        for nesting in (1, 2, 3):
            torch.manual_seed(0)
            bound = EnumeratedELBO(particles, beta=2.0, plate_nesting=nesting)
            try:
                told = (bound + term).loss_by_part(pair.model, pair.guide, batch)
            except UnhandledSite as error:
                found.append(str(error))
            else:
                found.append(dict(zip(told.names, told.values.tolist(), strict=True)))
        assert found[1] == pytest.approx(found[0]) and found[2] == pytest.approx(found[0]), term
        if isinstance(found[0], dict):
            parts = [v for name, v in found[0].items() if not is_addend(name)]
            assert sum(parts) == pytest.approx(found[0]["bound"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("particles", [1, 2, 3])
def test_a_bound_of_sets_has_its_addends(particles, scale, dtype) -> None:
    pair = world.built(dtype)
    told = EnumeratedELBO(particles).loss_by_part(
        pair.model, pair.guide, world.rows(dtype, scale=scale)
    )
    bound, *parts = told.values.tolist()
    assert told.names == ("bound", "reconstruction", "kl(c)", "kl(z)")
    assert sum(parts) == pytest.approx(bound, rel=1e-5)


@pytest.mark.parametrize("kind", world.KINDS)
def test_terms_of_a_sets_code(kind) -> None:
    """Labels of its elements do not matter to a code that is not given them."""
    pair, batch = world.built(**world.KINDS[kind]), world.rows()
    critic = Net({"c": 1}, (), 1).double()

    def codes(run: Evaluation) -> tuple[torch.Tensor, ...]:
        return tuple(value.unsqueeze(-1) for value in Encoded("c")(run))

    capacity = Capacity("c", 2.0, 0.5, over="row")
    ratio, player = density_ratio(critic, codes, codes)
    torch.manual_seed(0)
    run = (EnumeratedELBO() + ratio).run(pair.model, pair.guide, batch)
    c, q = run.codes("c").only("a test"), run.codes("c").q
    kl = torch.distributions.kl_divergence(q, dist.Normal(torch.zeros_like(c), 1.0))
    torch.testing.assert_close(capacity.rows(run), 2 * (kl.reshape(-1) - 0.5).abs())
    torch.testing.assert_close(ratio.rows(run), critic(c=c.unsqueeze(-1)).reshape(-1))
    assert player.objective.loss(pair.model, pair.guide, batch) > 0


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
