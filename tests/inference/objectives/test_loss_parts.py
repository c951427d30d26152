"""What losses are made of: parts that add up, bounds against closed forms, names that are true."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from worlds.combinations import in_turn
from worlds.exact_guides import exact
from worlds.linear import ROWS, batches, hand_bound, hand_loss, hand_weights, linear

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.data import Table
from ppl_models.inference import (
    ELBO,
    IWELBO,
    TMC,
    Anneal,
    Balance,
    Capacity,
    CharacteristicELBO,
    Classification,
    Emphasis,
    EnumeratedELBO,
    Evaluation,
    FreeBits,
    Hat,
    Hinge,
    Imputed,
    LeftOut,
    Penalty,
    RelaxedELBO,
    Renyi,
    ScoreELBO,
    SelfNormalisedELBO,
    StopGradient,
    TotalCorrelation,
    WakeSleep,
    Weighted,
)
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.loss_parts import LossByPart, distinct, is_addend, parts_of
from ppl_models.networks import Scalar

DTYPES = [torch.float32, torch.float64]
REGIMES = ["unlabelled", "labelled", "mixed"]
PAIR = linear()

# Each with the names of its parts, the same for all batches.
OBJECTIVES = {
    "elbo": (EnumeratedELBO(), "bound"),
    "analytic": (EnumeratedELBO(3, kl="analytic"), "bound"),
    "beta": (EnumeratedELBO(2, beta=4.0), "bound extra_kl"),
    "annealed": (EnumeratedELBO(beta=Anneal(0, 1)), "bound extra_kl"),
    "free": (EnumeratedELBO(free_bits=FreeBits(0.5)), "bound extra_kl"),
    "funsor": (EnumeratedELBO(beta={"z": 0.5}, backend="funsor"), "bound extra_kl"),
    "pieces": (EnumeratedELBO(chunk=2), "bound"),
    "beta in pieces": (EnumeratedELBO(chunk=2, beta=2.0), "weighted_bound"),
    "iwelbo": (IWELBO(3), "bound"),
    "distilled": (IWELBO(3, lam=0.3), "bound distillation"),
    "dreg": (IWELBO(3, lam=0.0, grad="dreg", distil=2.0), "bound distillation"),
    "dropped": (IWELBO(2, lam=Anneal(1, 0, 0.6, 0.6)), "bound distillation"),
    "undistilled": (IWELBO(2, lam=0.0, distil=0.0), "bound"),
    "above": (IWELBO(2, lam=1.5), "bound"),
    "tmc": (TMC(2, lam=0.5), "bound distillation"),
    "renyi": (Renyi(3, 0.5), "bound"),
    "renyi 2": (Renyi(3, 2.0), "bound"),
    "renyi below": (Renyi(3, -0.5), "estimate"),
    "wake": (WakeSleep(3, sleep=0.5), "bound"),
    "score": (ScoreELBO(2), "bound"),
    "normalised": (SelfNormalisedELBO(3), "bound"),
    "normalised more": (SelfNormalisedELBO(3, alpha=0.3, gamma=2.0),
                        "weighted_bound classification"),
    "characteristic": (CharacteristicELBO(32, alpha=0.5), "estimate classification"),
    "characteristic rows": (CharacteristicELBO(32, gamma=3.0), "weighted_estimate"),
    "weighted": (Weighted(IWELBO(2, lam=0.5), "y"), "weighted_bound distillation"),
    "not weighted": (Weighted(EnumeratedELBO()), "bound"),
    "stopped": (StopGradient(IWELBO(2, lam=0.5), PAIR.guide, missing="y"), "bound distillation"),
    "sum": (EnumeratedELBO() + Classification("y", 0.1) + Emphasis("x", 3.0),
            "bound classification(y) emphasis(x)"),
    "margins": (EnumeratedELBO() + Hinge("y") + Hat("y", 0.3) + Balance("y", 0.1) + 2 * Hinge("y"),
                "bound hinge(y) hat(y) balance(y) hinge(y)_2"),
    "halved": (0.5 * IWELBO(2, lam=0.5) + 0.5 * EnumeratedELBO() + EnumeratedELBO(),
               "weighted_bound distillation weighted_bound_2 bound"),
    "capacity": (EnumeratedELBO(beta={"z": 0.0}, kl="analytic") + Capacity("z", 5.0, 1.0),
                 "bound extra_kl capacity(z)"),
    "total correlation": (IWELBO(2, lam=0.5) + 2 * TotalCorrelation("z"),
                          "bound distillation total_correlation(z)"),
    "penalty": (EnumeratedELBO() + Penalty("a/b", lambda run: run.factor("y").probs[:, 0]),
                "bound penalty(a_b)"),
}  # fmt: skip


@pytest.mark.parametrize(("regime", "scale", "dtype"), in_turn(REGIMES, [1, 10], DTYPES))
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_parts_add_up_to_the_loss(name, regime, scale, dtype):
    objective, names = OBJECTIVES[name]
    pair = PAIR.to(dtype)
    tolerance = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {}
    seen = batches(pair, scale, regime, dtype)
    objective.at(0.7)
    assert objective.part_names == tuple(names.split())
    for batch in seen:
        run = objective.run(pair.model, pair.guide, batch)
        parts = parts_of(objective, "rows", run)
        assert tuple(parts) == objective.part_names
        assert all(part.shape == (batch.count,) for part in parts.values())
        assert_close(sum(parts.values()), objective.rows(run), **tolerance)
        torch.manual_seed(3)
        told = objective.loss_by_part(pair.model, pair.guide, batch)
        torch.manual_seed(3)
        run = objective.run(pair.model, pair.guide, batch)
        by_hand = {n: scale * p.sum() for n, p in parts_of(objective, "rows", run).items()}
        values = addends(told).values()
        assert_close(
            torch.stack([*values]), torch.stack([*by_hand.values()]).detach(), **tolerance
        )
    torch.manual_seed(3)
    told = objective.loss_by_part(pair.model, pair.guide, seen)
    assert tuple(addends(told)) == objective.part_names and not told.values.requires_grad
    assert_close(sum(addends(told).values()), told.total.detach(), **tolerance)
    torch.manual_seed(3)
    assert_close(objective.differentiable_loss(pair.model, pair.guide, seen), told.total)


def addends(told):
    """The parts of a loss without what the bound among them is made of."""
    parts = zip(told.names, told.values, strict=True)
    return {name: value for name, value in parts if is_addend(name)}


@pytest.mark.parametrize(("regime", "scale", "dtype"), in_turn(REGIMES, [1, 10], DTYPES))
@pytest.mark.parametrize(("lam", "distil"), [(0.0, 1.0), (0.3, 1.0), (0.6, 2.5)])
@pytest.mark.parametrize("particles", [1, 5])
def test_the_distillation_is_the_cross_entropy_by_hand(
    particles, lam, distil, regime, scale, dtype
):
    pair = linear(dtype=dtype)
    objective = IWELBO(particles, lam=lam, distil=distil)
    for batch in batches(pair, scale, regime, dtype):
        run = Evaluation(pair.model, pair.guide, batch)
        parts = objective.rows_by_part(run)
        tolerance = {"rtol": 2e-5, "atol": 2e-4} if dtype == torch.float32 else {}
        assert_close(parts["bound"], hand_loss(pair, batch, run, lam, particles), **tolerance)
        expected = torch.zeros(batch.count, dtype=dtype)
        if "y" not in batch:
            z = objective.weights(run).guide.nodes["z"]["value"]
            log_w, log_q = hand_weights(pair, batch, z)
            pi = log_w.logsumexp(1).softmax(0)
            expected = -distil * (1 - lam) * (pi * log_q).sum(0)
        assert_close(parts["distillation"], expected, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("make", [lambda lam: IWELBO(3, lam=lam), lambda lam: TMC(3, lam=lam)])
def test_at_the_exact_guide_the_bound_is_log_p_and_the_loss_has_the_entropy(make, lam, dtype):
    """The figure that asked for parts: 2.7 nats on seven rows that are no gap of any bound."""
    pair = exact(dtype=dtype)
    (batch,) = batches(pair, 1, "unlabelled", dtype)
    objective = make(lam)
    joint, log_p = pair.log_evidence(batch["x"])
    entropy = -(joint.softmax(-1) * joint.log_softmax(-1)).sum(-1)
    table = Table("rows", {"x": batch["x"]})
    tolerance = {"rtol": 1e-4, "atol": 1e-3} if dtype == torch.float32 else {}
    bound = inference.bound_per_row(pair, table, objective)
    assert_close(bound, log_p.detach(), **tolerance)
    loss = inference.loss_per_row(pair, table, objective)
    assert_close(loss + bound, (1 - lam) * entropy.detach(), **tolerance)
    run = inference.Run(pair, "test")
    assert_close(run.bound_per_row(table, objective), bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beta", [0.5, 4.0, {"z": 0.0}, {"y": 3.0}])
@pytest.mark.parametrize("kl", ["sampled", "analytic"])
@pytest.mark.parametrize("backend", ["torch", "funsor"])
def test_weights_of_kl_terms_leave_the_bound_as_it_is(backend, kl, beta, dtype):
    pair = linear(dtype=dtype)
    for batch in batches(pair, 10, "mixed", dtype):
        run = Evaluation(pair.model, pair.guide, batch)
        plain = EnumeratedELBO(2, kl=kl, backend=backend)
        objective = EnumeratedELBO(2, kl=kl, beta=beta, backend=backend)
        parts = objective.rows_by_part(run)
        assert_close(parts["bound"], plain.rows(run))
        if kl == "sampled":
            assert_close(plain.rows(run), hand_loss(pair, batch, run, 1.0, 2, inside=False),
                         rtol=1e-4, atol=1e-4)  # fmt: skip
        extra = {}
        for site in ("y", "z"):
            weight = beta.get(site, 1.0) if isinstance(beta, dict) else beta
            twice = EnumeratedELBO(2, kl=kl, beta={site: 2.0}, backend=backend)
            extra[site] = (weight - 1) * twice.rows_by_part(run)["extra_kl"]
        assert_close(parts["extra_kl"], sum(extra.values()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0, 5.0, -1.0, Anneal(1, 0), Anneal(1, -1)])
def test_renyi_is_a_bound_where_alpha_is_never_below_zero(alpha):
    """Draw by draw below D_K, the log of an unbiased estimate; above it where alpha is below 0."""
    pair = linear()
    (batch,) = batches(pair, 1, "unlabelled")
    objective = Renyi(3, alpha)
    objective.at(1.0)
    run = Evaluation(pair.model, pair.guide, batch)
    z = objective.weights(run).guide.nodes["z"]["value"]
    above = -objective.rows(run) - hand_bound(*hand_weights(pair, batch, z), lam=0.0)
    never = alpha not in (-1.0, Anneal(1, -1))
    assert bool((above <= 1e-12).all()) == never
    assert objective.part_names == (("bound",) if never else ("estimate",))


def test_bounds_at_one_label_and_of_relaxed_sites_say_what_they_are():
    assert Imputed(IWELBO(2, lam=0.5), "y").part_names == ("bound", "distillation")
    assert LeftOut(EnumeratedELBO(beta=2.0), "y").part_names == ("bound", "extra_kl")
    assert RelaxedELBO().part_names == ("estimate",)
    assert Weighted(RelaxedELBO(), outside=0.5).part_names == ("weighted_estimate",)
    distance = inference.DistanceCorrelation("a", "b")
    assert distance.part_names == ("distance_correlation(a, b)",)
    assert ELBO(beta={"z": 1.0}).part_names == ("bound", "extra_kl")
    assert distinct(["a", "b", "a", "a_2", "a"]) == ("a", "b", "a_2", "a_2_2", "a_3")


def test_what_is_no_bound_is_not_handed_out_as_one():
    pair = linear()
    table = Table("rows", {"x": torch.randn(3, 3).double()})
    for objective, names in (
        (CharacteristicELBO(), "estimate"),
        (Renyi(2, -1.0), "estimate"),
        (2 * EnumeratedELBO() + Emphasis("x", 2.0), "weighted_bound, emphasis(x)"),
    ):
        with pytest.raises(ValueError, match="expected a bound among them") as error:
            inference.bound_per_row(pair, table, objective)
        assert f"has the parts {names}, expected" in str(error.value)


class World(nn.Module):
    """A weight w outside the rows, a label y and a number x in each."""

    def __init__(self) -> None:
        super().__init__()
        local = guides.Factored(y=guides.Bernoulli({"x": Scalar()}))
        self.loc, self.local = nn.Parameter(torch.tensor(0.3)), local

    def guide(self, batch):
        pyro.sample("w", dist.Normal(self.loc, 0.5))
        return self.local(batch)

    def model(self, batch):
        w = pyro.sample("w", dist.Normal(self.loc.new_zeros(()), 1.0))
        with batch.plate():
            y = pyro.sample("y", dist.Bernoulli(self.loc.new_full((), 0.5)), obs=batch.get("y"))
            pyro.sample("x", dist.Normal(w + y, 1.0), obs=batch["x"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_sites_outside_the_rows_count_once_in_the_bounds_part(weight, scale, dtype):
    torch.manual_seed(0)
    world = World().to(dtype)
    x, y = torch.randn(4, dtype=dtype), torch.ones(4, dtype=dtype)
    sizes = {"size": 4 * scale, "total": 8 * scale}
    kinds = [Batch({"x": x}, **sizes), Batch({"x": x + 1, "y": y}, **sizes)]
    objective = Weighted(IWELBO(1, lam=0.5), outside=weight)
    torch.manual_seed(1)
    told = objective.loss_by_part(world.model, world.guide, kinds)
    torch.manual_seed(1)
    bound = distillation = 0.0
    for batch in kinds:
        run = Evaluation(world.model, world.guide, batch)
        parts = IWELBO(1, lam=0.5).rows_by_part(run)
        w = run.weights(1).guide.nodes["w"]["value"]
        gap = dist.Normal(0.0, 1.0).log_prob(w) - dist.Normal(world.loc, 0.5).log_prob(w)
        bound = bound + scale * parts["bound"].sum() - weight * 0.5 * gap.sum()
        distillation = distillation + scale * parts["distillation"].sum()
    assert_close(told.values, torch.stack([bound, distillation]).detach())
    assert told.names == (("bound" if weight == 1 else "weighted_bound"), "distillation")


def test_an_objective_of_ones_own_needs_no_parts_and_may_have_some():
    class Loss(Objective):
        formula = "-1"

        def rows(self, run):
            return torch.ones(run.batch.count, dtype=torch.float64)

    class Doubled(IWELBO):  # its own word counts
        def rows(self, run):
            return 2 * super().rows(run)

    class Nothing(Objective):
        formula = "-"

    pair = linear()
    (batch,) = batches(pair, 10, "unlabelled")
    assert Loss().part_names == ("loss_loss",)
    told = (Loss() + 3 * Loss()).loss_by_part(pair.model, pair.guide, batch)
    assert told.names == ("loss_loss", "loss_loss_2")
    assert told.values.tolist() == [10 * ROWS, 30 * ROWS]
    torch.manual_seed(0)
    once = IWELBO(2, lam=0.5).loss_by_part(pair.model, pair.guide, batch)
    torch.manual_seed(0)
    twice = Doubled(2, lam=0.5).loss_by_part(pair.model, pair.guide, batch)
    assert_close(twice.total, 2 * once.total)
    assert_close(twice.values, 2 * once.total.detach().reshape(1))
    with pytest.raises(NotImplementedError):
        Nothing().per_datum(pair.model, pair.guide, batch)
    with pytest.raises(ValueError, match="no batch given"):
        Loss().loss_by_part(pair.model, pair.guide, [])


def test_parts_of_other_names_are_added_up_by_name():
    one = LossByPart.of_rows({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}, 2)
    other = LossByPart.of_rows({"b": torch.tensor([5.0])}, 1).times(0.5)
    both = one.plus(other).plus_scalars({"c": torch.tensor(1.0), "a": 0.0, "b": 2.0}, 3).per(2)
    assert both.names == ("a", "b", "c")
    assert both.values.tolist() == [3.0, (14 + 2.5 + 6) / 2, 1.5]
    assert float(both.total) == float(both.values.sum())
