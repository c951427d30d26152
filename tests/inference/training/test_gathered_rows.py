"""Rows that look at each other over several processes: values and gradients of one process."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from worlds.processes import together
from worlds.two_codes import C, L, TwoCodes

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.data import Stream, Table
from ppl_models.inference import (
    ELBO,
    IWELBO,
    Balance,
    Capacity,
    CodeCovariance,
    Consistency,
    DistanceCorrelation,
    EnumeratedELBO,
    FreeBits,
    GaussianInformation,
    HausdorffSupport,
    Imputed,
    Penalty,
    StopGradient,
    SupportScale,
    TotalCorrelation,
    Weighted,
    independent_codes,
)
from ppl_models.inference.training.process_noise import Draws
from ppl_models.inference.training.processes import group
from ppl_models.networks import Label, Net


def spread(run):
    """Off-diagonal covariance of the codes, over all rows of the batch."""
    every = run.every_row(run.codes("a").only("spread"), 0)
    return torch.cov(every.T, correction=0)[0, 1].square()


def told_apart():
    """A term and its critic's objective, of codes that are exchanged within and among labels."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        critics = {
            "a": Net({"a": L, "b": L, "y": Label(C)}, (), 1).double(),
            "b": Net({"b": L, "a": L}, (), 1).double(),
        }
    return independent_codes(critics, ("a", "b"), {"a": "y"}, 2.0)[0]


def objectives(world):
    bound = EnumeratedELBO(kl="analytic")
    return {
        "distance": bound + DistanceCorrelation("a", "b", 2.0),
        "batch": IWELBO(2) + TotalCorrelation("a", 3.0),
        "mws": bound + TotalCorrelation("b", 3.0, "mws"),
        "mss": bound + TotalCorrelation("b", 3.0, "mss"),
        "means": bound + CodeCovariance("b", 2.0, 3.0),
        "aggregate": bound + CodeCovariance("b", 2.0, 3.0, "aggregate"),
        "gaussian": bound + GaussianInformation("a", "b", "y", 2.0),
        "independent": bound + told_apart(),
        "balance": bound + Balance("y", 5.0),
        "capacity": bound + Capacity("a", 4.0, 0.7),
        "free bits": ELBO(free_bits=FreeBits(0.2)),
        "penalty": bound + Penalty("cov", spread, 2.0, across_rows=True),
        "weighted": Weighted(bound + TotalCorrelation("a"), "y"),
        "support": bound + HausdorffSupport("b", 3.0) + SupportScale("b", 2.0),
        "some support": bound + HausdorffSupport("a", 3.0, pairs=1, points=9),
        "consistency": Consistency(bound, "x", data.Noise((0.1, 0.4)), weight=2.0),
        "imputed": Imputed(ELBO() + TotalCorrelation("a"), "y", 0.1),
        "stopped": bound + StopGradient(TotalCorrelation("a"), world.guide.factors["b"]),
    }


NAMES = list(objectives(TwoCodes()))


def table_of(labelled, size=60):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(size, 3, generator=g, dtype=torch.float64)
    y = torch.arange(size) % 3
    return Table("t", {"x": x, "y": y}, {"y": torch.arange(size) < labelled})


def gradients(world, name, table, size, process=0, processes=1):
    """This process's part of loss and gradients."""
    world.zero_grad()
    torch.manual_seed(7)
    stream = Stream(table, size, process=process, processes=processes)
    draws = Draws(0, process, processes, torch.device("cpu"))
    draws.shares = stream.shares
    told = draws.loss(objectives(world)[name], world.model, world.guide, stream.step(2), (0, 2))
    told.total.backward()
    grads = {n: p.grad.clone() for n, p in world.named_parameters() if p.grad is not None}
    parts = dict(zip(told.names, told.values.tolist(), strict=True))
    return {"loss": told.total.detach(), "grads": grads, "parts": parts}


APART = {"distance", "gaussian", "independent"}  # terms of codes that are not given the label
CASES = [  # labelled rows, rows per step: N / B of 10 and 1, and an empty share
    (0, 6), (0, 60), (60, 7), (24, 13), (60, 60), (3, 20),
]  # fmt: skip


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.long)])
def test_processes_add_up_to_one(count, tmp_path):
    """Shares of several sizes, down to none; each objective at each kind of rows."""
    asked = [
        (name, labelled, size)
        for name in NAMES
        for labelled, size in CASES
        if name != "free bits" or labelled == 60  # ELBO() sums out no label
        if name != "gaussian" or labelled == 0 or size == 60  # more rows than numbers and classes
    ]

    def work(rank):
        with group("cpu"):
            return [
                gradients(TwoCodes(name not in APART), name, table_of(labelled), size, rank, count)
                for name, labelled, size in asked
            ]

    outcomes = together(count, tmp_path, work)
    assert not any(o.error for o in outcomes), outcomes[0].error
    for place, (name, labelled, size) in enumerate(asked):
        told = f"{name}, {labelled} labelled rows, {size} in a step"
        one = gradients(TwoCodes(name not in APART), name, table_of(labelled), size)
        found = [o.value[place] for o in outcomes]
        total = sum(f["loss"] for f in found)
        assert_close(total, one["loss"], rtol=1e-10, atol=1e-10, msg=told)
        for key, value in one["grads"].items():
            summed = sum(f["grads"][key] for f in found)
            assert_close(summed, value, rtol=1e-8, atol=1e-9, msg=f"{told}, {key}")
        for key, value in one["parts"].items():
            assert sum(f["parts"][key] for f in found) == pytest.approx(value, rel=1e-9, abs=1e-9)


def fitted(name, out=None, **options):
    """The curve of a paper whose rows look at each other."""
    source = "outliers" if name == "clsvae" else "digits"
    rows = data.load(source, train=120, validation=40, test=20, labelled=32)
    pair = zoo.build(name, rows, hidden=(8,), seed=0)
    objective = pair.objective()
    if name == "vae":
        objective = ELBO(kl="analytic") + TotalCorrelation("z", 5.0)
    run = inference.fit(
        pair, rows, objective, epochs=2, batch_size=50, progress=False, device="cpu", **options
    )
    return {"loss": list(run.history["loss"]), "seen": list(run.validation["loss"])}


@pytest.mark.parametrize("name", ["vae", "clsvae"])
def test_the_curve_of_two_processes_is_that_of_one(name, tmp_path):
    options = {"patience": 5}
    one = fitted(name, **options)
    outcomes = together(2, tmp_path, lambda rank: fitted(name, **options))
    for outcome in outcomes:
        assert not outcome.error, outcome.error
        for key, curve in one.items():
            found, expected = (torch.tensor(c) for c in (outcome.value[key], curve))
            assert_close(found, expected, rtol=1e-5, atol=1e-5)
