"""A step runs guide and model once: terms read what the bound beside them has drawn."""

from __future__ import annotations

import warnings
from functools import cache

import pytest
import torch
from torch.testing import assert_close
from worlds.two_codes import C, Counted, TwoCodes, rows

from ppl_models import inference
from ppl_models.inference import (
    IWELBO,
    TMC,
    Capacity,
    Classification,
    Emphasis,
    EnumeratedELBO,
    Penalty,
    Renyi,
    ScoreELBO,
    StopGradient,
    UnhandledSite,
    WakeSleep,
)
from ppl_models.inference.objectives.by_name import BOUNDS, TERMS, parse_objective

# Their guides are experts of sites that rows may lack: see test_modalities.py.
OF_MIXTURES = {"stratified", "mutual_supervision"}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    BOUND = {name: make() for name, make in BOUNDS.items() if name not in OF_MIXTURES} | {
        "analytic": EnumeratedELBO(2, kl="analytic"),
        "stl": EnumeratedELBO(grad="stl"),
        "dreg": IWELBO(2, grad="dreg"),
        "chunk": EnumeratedELBO(chunk=2),
        "sleep": WakeSleep(sleep=1.0),
    }
TERM = {
    "balance": "balance(y)",
    "blurred_error": "blurred_error(x, shape=(1, 3, 1), radius=1, weight=3)",
    "capacity": "capacity(a, gamma=1, capacity=1)",
    "classification": "classification(y)",
    "code_covariance": "code_covariance(a, lambda_od=1, lambda_d=2)",
    "distance_correlation": "distance_correlation(a, b)",
    "emphasis": "emphasis(x, weight=3)",
    "hat": "hat(y)",
    "hausdorff_support": "hausdorff_support(a)",
    "hinge": "hinge(y)",
    "support_scale": "support_scale(a)",
    "total_correlation": "total_correlation(a)",
}
WRAPPERS = {"imputed", "left_out", "weighted"}
OF_OTHER_ROWS = {"consistency", "subsets"}  # wrappers with runs of their own on other rows
PENALTIES = {
    "of codes": Penalty("codes", lambda run: run.codes("a").values.square().sum((0, 2))),
    "of the model": Penalty("model", lambda run: run.likelihood("x").mean.square().mean()),
}
TERMS_HERE = {name: parse_objective(text) for name, text in TERM.items()} | PENALTIES
OF_CODES = {
    *("code_covariance", "distance_correlation", "hausdorff_support", "support_scale"),
    *("total_correlation", "of codes"),
}
OF_MODEL = {"blurred_error", "capacity", "emphasis", "of the model"}
# Guide and model calls of a bound alone, where they are not one each, in rows that lack the
# label. Its path gradient scores the draws by a second call of the guide; pieces are runs of
# their own, besides a look at what there is and the draws that they share; a dream is a run.
ALONE = {"stl": (2, 1), "dreg": (2, 1), "chunk": (6, 6), "sleep": (2, 2)}
# What a term adds to that. Wake-sleep cuts its draws from the gradient, and pieces are never all
# there: the guide is run for the terms, the model for those that read it. TMC and DReG show the
# model other tensors than the guide drew: it is run again, for those terms alone that read it.
APART = {**dict.fromkeys(OF_CODES, (1, 0)), **dict.fromkeys(OF_MODEL, (1, 1))}
MORE = {
    "wake_sleep": APART,
    "sleep": APART,
    "chunk": APART,
    "tmc": dict.fromkeys(OF_MODEL, (0, 1)),
    "dreg": dict.fromkeys(OF_MODEL, (0, 1)),
}


def test_every_term_of_the_catalogue_is_here():
    assert set(TERM) | WRAPPERS | OF_OTHER_ROWS == set(TERMS)


def step(objective, world, batch):
    """Calls of guide and model, the loss and every parameter's gradient."""
    world.zero_grad()
    torch.manual_seed(5)
    guide, model = Counted(world.guide), Counted(world.model)
    loss = objective.differentiable_loss(model, guide, batch)
    loss.backward()
    return (guide.calls, model.calls), loss.detach()


@cache
def step_alone(bound):
    """The step of a bound without a term, of the same world and rows whatever the term."""
    return step(BOUND[bound], TwoCodes(), rows("x", scale=10))


@pytest.mark.parametrize("term", TERMS_HERE)
@pytest.mark.parametrize("bound", [name for name in BOUND if name != "elbo"])
def test_a_term_costs_no_run(bound, term):
    world, batch = TwoCodes(), rows("x", scale=10)
    alone, value = step_alone(bound)
    calls, total = step(BOUND[bound] + TERMS_HERE[term], world, batch)
    assert alone == ALONE.get(bound, (1, 1))
    more = MORE.get(bound, {}).get(term, (0, 0))
    assert calls == tuple(a + m for a, m in zip(alone, more, strict=True))
    # The bound has drawn what it draws alone: the term adds its own value, and nothing else.
    torch.manual_seed(5)
    run = BOUND[bound].run(world.model, world.guide, batch)
    BOUND[bound].rows(run)
    added = batch.scale * TERMS_HERE[term].rows(run).sum() + TERMS_HERE[term].across([run])
    assert_close(total, value + added, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("term", TERMS_HERE)
@pytest.mark.parametrize("bound", ["elbo", "enumerated", "iwelbo", "score", "relaxed"])
def test_a_term_costs_no_run_on_labelled_rows(bound, term):
    world, batch = TwoCodes(), rows("x", "y")
    calls, _ = step(BOUND[bound] + TERMS_HERE[term], world, batch)
    assert calls == (1, 1)


@pytest.mark.parametrize("term", ["total_correlation", "emphasis", "capacity"])
@pytest.mark.parametrize("wrap", sorted(WRAPPERS))
def test_a_bound_in_a_wrapper_leads_as_well(wrap, term):
    world, batch = TwoCodes(), rows("x", "y")
    options = {"bound": EnumeratedELBO(2)}
    bound = TERMS[wrap](**options, **({} if wrap == "weighted" else {"site": "y"}))
    calls, _ = step(bound + TERMS_HERE[term], world, batch)
    assert calls == (1, 1)
    inside = TERMS[wrap](
        EnumeratedELBO(2) + TERMS_HERE[term], **({} if wrap == "weighted" else {"site": "y"})
    )
    assert step(inside, world, batch)[0] == (1, 1)


@pytest.mark.parametrize("term", ["total_correlation", "emphasis", "capacity"])
def test_a_stopped_gradient_has_a_run_of_its_own(term):
    """The graph of what it draws does not lead to the networks; that of the others does."""
    world, batch = TwoCodes(), rows("x")
    more = APART[term]
    term, bound = TERMS_HERE[term], EnumeratedELBO(2)
    stopped = StopGradient(bound, world.guide)
    assert step(stopped + term, world, batch)[0] == (1 + more[0], 1 + more[1])
    assert step(bound + StopGradient(term, world.guide), world, batch)[0] == (2, 2)
    only_in_labelled = StopGradient(bound, world.guide, observed="y")
    assert step(only_in_labelled + term, world, batch)[0] == (1, 1)
    step(stopped + term, world, batch)
    got = [p.grad.clone() for p in world.guide.parameters() if p.grad is not None]
    assert any(bool(g.any()) for g in got)


@pytest.mark.parametrize("term", sorted(APART))
def test_a_term_alone_runs_what_it_reads(term):
    """Such as the loss of a critic of codes, which needs no decoder."""
    world, batch = TwoCodes(given=term != "distance_correlation"), rows("x")
    assert step(TERMS_HERE[term], world, batch)[0] == APART[term]


LED = {
    "one": EnumeratedELBO(),
    "many": EnumeratedELBO(4),
    "analytic": EnumeratedELBO(4, kl="analytic"),
    "iwelbo": IWELBO(3, lam=0.3),
    "dreg": IWELBO(3, grad="dreg"),
    "renyi": Renyi(3, 0.5),
    "tmc": TMC(3),
    "score": ScoreELBO(3),
}


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("seen", [("x",), ("x", "y")], ids=["missing", "known"])
@pytest.mark.parametrize("bound", LED)
def test_a_term_is_the_mean_over_the_bounds_draws(bound, seen, scale):
    """By loops over labels, particles and rows; with the gradient of that mean."""
    world, batch = TwoCodes(given=bound != "dreg"), rows(*seen, scale=scale)
    torch.manual_seed(3)
    run = LED[bound].run(world.model, world.guide, batch)
    LED[bound].rows(run)
    found = Emphasis("x", 3.0).rows(run)
    nodes = run.drawn.guide.nodes
    a, b = nodes["a"]["value"], nodes["b"]["value"]
    hand = []
    for row in range(batch.count):
        known = [int(batch["y"][row])] if "y" in batch else range(C)
        total = 0.0
        for place, y in enumerate(known):
            share = world.guide.factor("y", batch).probs[row, y] if "y" not in batch else 1.0
            draws = b.shape[-3] if b.dim() > 2 else 1
            for k in range(draws):
                of_label = b.reshape(-1, draws, batch.count, 2)
                z = of_label[place % len(of_label), k, row]
                at = a.reshape(-1, batch.count, 2)[k, row]
                log_p = world.likelihood(torch.tensor(y), at, z, batch["x"][row])
                total = total - 2.0 * share * log_p / draws
        hand.append(total)
    hand = torch.stack(hand)
    assert_close(found, hand, rtol=1e-10, atol=1e-10)
    parameters = list(world.parameters())
    grads = [
        torch.autograd.grad(loss.sum(), parameters, retain_graph=True, allow_unused=True)
        for loss in (found, hand)
    ]
    assert_close(grads[0], grads[1], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("bound", LED)
def test_a_closed_kl_is_the_same_whatever_the_bound_draws(bound):
    world, batch = TwoCodes(given=bound != "dreg"), rows("x")
    expected = Capacity("b", 2.0, 0.3, "row").rows(
        inference.Evaluation(world.model, world.guide, batch)
    )
    run = LED[bound].run(world.model, world.guide, batch)
    assert_close(Capacity("b", 2.0, 0.3, "row").rows(run), expected, rtol=1e-10, atol=1e-10)
    assert_close(
        Classification("y").rows(run), Classification("y").rows(run.like()), rtol=0, atol=0
    )


def test_a_density_that_no_term_can_weigh_is_named():
    world, batch = TwoCodes(), rows("x")
    run = EnumeratedELBO().run(world.model, world.guide, batch)
    with pytest.raises(
        UnhandledSite, match=r"codes are asked of site 'c'.*samples \['y', 'a', 'b'"
    ):
        run.codes("c")
    with pytest.raises(UnhandledSite, match="the model has no site 'c'; it has"):
        run.likelihood("c")
