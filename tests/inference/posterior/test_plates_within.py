"""Plates within the rows, by hand, by loops over rows of one set each, and in closed form."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from worlds import inner_plates as world

from ppl_models import elements, inference
from ppl_models.batch import Batch
from ppl_models.data import Table
from ppl_models.inference import ELBO, IWELBO, EnumeratedELBO, Evaluation, Renyi, WakeSleep
from ppl_models.inference.posterior.export import posterior
from ppl_models.inference.posterior.target import rows_of, target
from ppl_models.inference.traces.contraction import Torch
from ppl_models.inference.traces.sites import latent_sites
from ppl_models.testing.fixed_draws import FixedDraws

ROWS = range(len(world.SIZES))


def drawn(pair: world.Elements, batch: Batch) -> dict[str, Tensor]:
    """Draws of the continuous sites."""
    torch.manual_seed(3)
    trace = Evaluation(pair.model, pair.guide, batch).weights().guide
    return {
        name: site["value"].detach()
        for name, site in latent_sites(trace)
        if "_enumerate_dim" not in site["infer"]
    }


def cut(draws: dict[str, Tensor], row: int, size: int) -> dict[str, Tensor]:
    """The draws of one row of so many elements."""
    z = draws["z"][..., :size, row : row + 1]
    return {"c": draws["c"][..., row : row + 1], "z": z}


def with_gradient(pair: world.Elements, loss: Tensor) -> list[Tensor]:
    grads = torch.autograd.grad(loss, list(pair.parameters()), allow_unused=True)
    return [loss.detach(), *(torch.zeros(()) if g is None else g for g in grads)]


@pytest.mark.parametrize("kind", world.KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize(
    "objective",
    [EnumeratedELBO(), IWELBO(1, lam=0.5), IWELBO(1, lam=0.0), EnumeratedELBO(backend="funsor")],
    ids=repr,
)
def test_rows_with_padding_are_single_rows_without_it(
    dtype: torch.dtype,
    tolerance: float,
    kind: str,
    scale: int,
    objective: inference.Objective,
) -> None:
    """The loss and gradient of the whole batch, from one set at a time."""
    pair = world.built(dtype, **world.KINDS[kind])
    batch = world.rows(dtype, most=6, padding=math.nan, scale=scale)
    draws = drawn(pair, batch)
    whole = objective.differentiable_loss(pair.model, FixedDraws(pair.guide, draws), batch)
    total = 0.0
    for row, size in enumerate(world.SIZES):
        one = Batch({n: v[row : row + 1, :size] for n, v in batch.items()})
        fixed = FixedDraws(pair.guide, cut(draws, row, size))
        total = total + scale * objective.differentiable_loss(pair.model, fixed, one)
    found, expected = with_gradient(pair, whole), with_gradient(pair, total)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, rtol=10 * tolerance, atol=100 * tolerance * scale)


def by_hand(row: int, c: float, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log of p(s_m, z_m, x_m | c) and of p(s_m, z_m | c), each ``(elements, classes)``."""
    x = world.numbers(row)
    loc = world.SLOPE * c + np.array(world.SHIFTS)
    log_z = -0.5 * (z[:, None] - loc) ** 2 - 0.5 * math.log(2 * math.pi)
    log_x = -0.5 * ((x - z) / world.NOISE) ** 2 - math.log(world.NOISE * math.sqrt(2 * math.pi))
    rest = np.log(world.SHARES) + log_z
    return rest + log_x[:, None], rest


@pytest.mark.parametrize("guided", [True, False])
def test_an_export_has_the_densities_of_a_loop_over_elements(guided: bool) -> None:
    """Of the draws that it keeps: at the guide's labels, or with those of the model summed out."""
    pair = world.built(labels=True, guided=guided)
    idata = posterior(pair, world.table(most=6), draws=7)
    post, stats = idata.posterior, idata.sample_stats
    for draw, row in itertools.product(range(7), ROWS):
        c, size = float(post.c[0, draw, row]), world.SIZES[row]
        z, s = (post[n].values[0, draw, row] for n in ("z", "s"))
        assert np.isnan(z[size:]).all() and (s[size:] == -1).all()
        whole, rest = by_hand(row, c, z[:size])
        log_p = -0.5 * c**2 - 0.5 * math.log(2 * math.pi)
        summed = np.logaddexp.reduce(whole, 1)
        log_p += (whole[np.arange(size), s[:size]] if guided else summed).sum()
        log_x = summed.sum() - np.logaddexp.reduce(rest, 1).sum()
        np.testing.assert_allclose(stats.log_p.values[0, draw, row], log_p, rtol=2e-6)
        found = idata.log_likelihood.x.values[0, draw, row]
        np.testing.assert_allclose(found, log_x, rtol=2e-5, atol=2e-5)


def test_an_export_names_plates_and_leaves_padding_empty() -> None:
    """In all groups, with the names that the pair has for the entries."""
    pair = world.built(labels=True)
    idata = posterior(pair, world.table(), draws=5, prior_draws=6)
    gaps = np.arange(4) >= np.array(world.SIZES)[:, None]
    assert idata.posterior.z.dims == ("chain", "draw", "datum", "element")
    assert idata.posterior.c.dims == ("chain", "draw", "datum")
    assert list(idata.posterior.element.values) == ["first", "second", "third", "fourth"]
    assert (np.isnan(idata.posterior.z.values) == gaps).all()
    assert ((idata.posterior.s.values == -1) == gaps).all()
    assert (np.isnan(idata.posterior_predictive.x.values) == gaps).all()
    assert (np.isnan(idata.observed_data.x.values) == gaps).all()
    assert idata.variational.s_probs.dims == ("datum", "element", "s_class")
    assert (np.isnan(idata.variational.s_probs.values) == gaps[..., None]).all()
    assert idata.prior_predictive.x.dims == ("chain", "draw", "element")
    sizes = idata.prior.x_there.values.sum(-1)
    assert (np.isfinite(idata.prior_predictive.x.values).sum(-1) == sizes).all()
    logits = (0.6 + 1.1 * world.rows()["x"]).numpy()
    probs = idata.variational.s_probs.values[..., 1]
    np.testing.assert_allclose(probs[~gaps], 1 / (1 + np.exp(-logits[~gaps])), rtol=1e-5)


def test_the_elements_of_an_event_have_gaps_too() -> None:
    pair = world.built(told="event")
    idata = posterior(pair, world.table(most=5), draws=5)
    gaps = np.arange(5) >= np.array(world.SIZES)[:, None]
    assert (np.isnan(idata.posterior.z.values) == gaps).all()
    assert (np.isnan(idata.observed_data.x.values) == gaps).all()


OBJECTIVES = [
    ELBO(2),
    ELBO(1, grad="stl"),
    IWELBO(3),
    IWELBO(3, grad="dreg"),
    IWELBO(1, grad="dreg"),
    Renyi(3),
    WakeSleep(3),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_a_plate_and_an_event_with_a_mask_are_one(
    objective: inference.Objective, dtype: torch.dtype, tolerance: float
) -> None:
    """The same noise gives the same loss and gradient: of one row, it has the same shape."""
    found = []
    for told in ("plate", "event"):
        pair = world.built(dtype, told=told)
        batch = world.rows(dtype, most=5, padding=math.nan, scale=10)
        one = Batch({n: v[1:2] for n, v in batch.items()}, size=10)
        torch.manual_seed(5)
        found.append(
            with_gradient(pair, objective.differentiable_loss(pair.model, pair.guide, one))
        )
    for one, other in zip(*found, strict=True):
        assert_close(one, other, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize(
    ("told", "labels"),
    [pytest.param("plate", False, marks=pytest.mark.long), ("plate", True), ("event", False)],
)
@pytest.mark.parametrize("most", [4, 5, 9])
@pytest.mark.parametrize("padding", [0.0, 1e30, math.nan, math.inf])
def test_padding_changes_nothing(told: str, labels: bool, most: int, padding: float) -> None:
    """Neither its length nor what stands in it: loss, gradient, and the weights of k-hat."""
    pair = world.built(told=told, labels=labels)
    usual = world.rows()
    draws, event = drawn(pair, usual), told == "event"
    expected = observed(pair, usual, draws)
    more = torch.full((most - 4,), 7.0, dtype=torch.float64)
    wide = more.expand(4, -1) if event else more[:, None].expand(-1, 4)
    longer = torch.cat(
        [draws["z"], wide.expand(*draws["z"].shape[:-2], *wide.shape)], -1 if event else -2
    )
    found = observed(pair, world.rows(most=most, padding=padding), {**draws, "z": longer})
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, rtol=1e-12, atol=1e-12)


def observed(pair: world.Elements, batch: Batch, draws: dict[str, Tensor]) -> list[Tensor]:
    guide = FixedDraws(pair.guide, draws)
    loss = EnumeratedELBO().per_datum(pair.model, guide, batch)
    weights = Evaluation(pair.model, guide, batch).weights()
    return [
        loss.detach(),
        weights.log_evidence(Torch(64)).detach(),
        *with_gradient(pair, loss.sum()),
    ]


@pytest.mark.parametrize("kind", world.KINDS)
def test_importance_finds_the_evidence(kind: str) -> None:
    """And the labels of elements, summed out in each weight and drawn within it."""
    pair, labels = world.built(torch.float64, **world.KINDS[kind]), "labels" in world.KINDS[kind]
    idata = inference.importance(pair, world.table(most=5), draws=4000)
    told = idata.diagnostics
    for row in ROWS:
        exact = world.log_evidence(world.numbers(row), labels)
        error = float(told.log_evidence_error[row])
        assert abs(float(told.log_evidence[row]) - exact) < 4 * error < 0.2
        assert float(told.khat[row]) < 0.7
    picked = inference.sir(pair, world.table(most=5), draws=3000, proposals=4000).posterior
    for row, size in enumerate(world.SIZES):
        mean, _ = world.moments_of_c(world.numbers(row), labels)
        assert abs(float(picked.c[0, :, row].mean()) - mean) < 0.1
        if labels:
            share = picked.s.values[0, :, row, :size].mean(0)
            exact = world.probability_of_s(world.numbers(row))
            np.testing.assert_allclose(share, exact, atol=0.06)
        assert np.isnan(picked.z.values[0, :, row, size:]).all()


def test_importance_draws_labels_where_asked() -> None:
    pair = world.built(torch.float64, labels=True)
    idata = inference.importance(pair, world.table(), draws=4000, enumerate_labels=False)
    for row in ROWS:
        exact = world.log_evidence(world.numbers(row), True)
        error = float(idata.diagnostics.log_evidence_error[row])
        assert abs(float(idata.diagnostics.log_evidence[row]) - exact) < 4 * error < 0.4


@pytest.mark.parametrize(
    ("told", "labels"),
    [
        ("plate", False),
        pytest.param("plate", True, marks=pytest.mark.long),
        pytest.param("event", False, marks=pytest.mark.long),
    ],
)
def test_nuts_finds_the_posterior(told: str, labels: bool) -> None:
    """Labels summed out; only the numbers of elements that are there are sampled."""
    pair = world.built(torch.float64, told=told, labels=labels)
    idata = inference.nuts(
        pair, world.table(most=5), draws=300, warmup=100, chains=1, progress=False
    )
    for row, size in enumerate(world.SIZES):
        mean, deviation = world.moments_of_c(world.numbers(row), labels)
        c = idata.posterior.c.values[0, :, row]
        assert abs(c.mean() - mean) < 0.25 * deviation
        assert 0.8 < c.std() / deviation < 1.25
        z = idata.posterior.z.values[0, :, row]
        assert np.isfinite(z[:, :size]).all() and np.isnan(z[:, size:]).all()
        if labels:
            probs = idata.posterior.s_probs.values[0, :, row]
            exact = world.probability_of_s(world.numbers(row))
            np.testing.assert_allclose(probs[:, :size, 1].mean(0), exact, atol=0.08)
            assert np.isnan(probs[:, size:]).all()


def test_the_density_that_nuts_climbs_is_that_of_a_loop() -> None:
    """At any values, with the labels of elements summed one by one."""
    pair = world.built(labels=True)
    found = target(pair, rows_of(world.table(most=6), pair), plates_within=True)
    assert found.shapes == {"c": (1, 4), "z": (sum(world.SIZES),)}
    torch.manual_seed(0)
    free = {name: torch.randn(shape, dtype=torch.float64) for name, shape in found.shapes.items()}
    z = found.constrained(free)["z"]
    total = 0.0
    for row, size in enumerate(world.SIZES):
        c = float(free["c"][0, row])
        whole, _ = by_hand(row, c, z[:size, row].numpy())
        total += -0.5 * c**2 - 0.5 * math.log(2 * math.pi) + np.logaddexp.reduce(whole, 1).sum()
    assert_close(float(found.joint(free).detach()), total, rtol=1e-6, atol=1e-6)


class Counts(world.Elements):
    """The same with counts."""

    def model(self, batch: Batch) -> None:
        there = elements.present(batch, "x", 4, batch.count)
        with self.plate(batch):
            c = pyro.sample("c", dist.Normal(self.slope.new_zeros(()), 1.0))
            with elements.plate("element", there):
                z = pyro.sample("z", dist.Normal(c, 1.0))
                seen = elements.observed(batch, "x", there)
                pyro.sample("x", dist.Poisson(z.exp()), obs=seen)


def test_an_element_outside_the_support_is_named_and_padding_is_not_looked_at() -> None:
    pair = Counts(world.ElementsConfig())
    good = dict(world.rows(torch.float32))
    good["x"] = torch.where(good["x_there"] > 0, 2.0, -3.0)
    inference.check_data(pair, Table("counts", good))
    bad = {**good, "x": good["x"].clone()}
    bad["x"][1, 2] = -1.0
    where = "'x', row 1 of counts, column 2: the value -1 is outside the support of Poisson"
    with pytest.raises(ValueError, match=where):
        inference.check_data(pair, Table("counts", bad))


@pytest.mark.parametrize("function", [inference.map, inference.log_evidence])
@pytest.mark.parametrize(
    ("told", "why"),
    [("plate", "stands in plate 'element' within the rows"), ("event", "is masked in part")],
)
def test_what_does_not_look_at_elements_says_so(
    function: Callable[..., object], told: str, why: str
) -> None:
    with pytest.raises(ValueError, match=f"'z' of elements {why}, where this") as error:
        function(world.built(torch.float32, told=told), world.table())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("told", ["plate", "event"])
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_predictions_at_other_elements_have_those_that_the_row_has_as_well(
    told: str, kept: int
) -> None:
    """A code of an element comes from the row; of one that it has not there is none."""
    table = world.table()
    asked = (torch.arange(4) < kept).float()
    pair = world.built(torch.float32, told=told)
    found = posterior(pair, table, draws=4, prior_draws=3, covariates={"x_there": asked})
    own = table.sites["x_there"][:].numpy() > 0
    both = own & (asked.numpy() > 0)
    assert (np.isfinite(found.posterior_predictive.x.values[0, 0]) == both).all()
    assert (np.isfinite(found.posterior.z.values[0, 0]) == own).all()
    assert (np.isfinite(found.prior_predictive.x.values[0]) == (asked.numpy() > 0)).all()


@pytest.mark.parametrize("told", ["plate", "event"])
@pytest.mark.parametrize("empty", [(0,), (0, 1), (0, 1, 2, 3)])
def test_sets_without_elements_are_rows_like_others(told: str, empty: tuple[int, ...]) -> None:
    """Their likelihood is 1, and that they stand first says nothing of the pair."""
    table = world.table()
    there = table.sites["x_there"].clone()
    there[list(empty)] = 0
    table = table.replace(sites={**table.sites, "x_there": there})
    found = posterior(world.built(torch.float32, told=told), table, draws=4, prior_draws=3)
    assert "no_evidence" not in found.attrs
    found = found.log_likelihood.x.values[0]
    assert (found[:, list(empty)] == 0).all() and np.isfinite(found).all()
