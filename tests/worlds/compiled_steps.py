"""Compiled steps beside uncompiled ones."""

from __future__ import annotations

import dataclasses

import pyro
import torch
from torch import nn
from torch.testing import assert_close

import ppl_models as zoo
from ppl_models import catalogue, guides, inference
from ppl_models.inference.traces.sites import latent_sites
from ppl_models.inference.training.compiled_step import Compiled

SMALL = {"hidden": (8,), "latent": 2}


def as_traced(graph, inputs):
    """In place of a compiler, which takes half a minute: the graph run operation by operation."""
    return graph


def step_of(case, compiler=as_traced):
    return Compiled(case.objective, case.pair, list(case.pair.parameters()), (), compiler)


def gradients(pair):
    found = {name: p.grad for name, p in pair.named_parameters()}
    pair.zero_grad(set_to_none=True)
    return found


def uncompiled(case, rows):
    with pyro.validation_enabled(False):
        told = case.objective.loss_by_part(case.pair.model, case.pair.guide, case.batch).per(rows)
    told.total.backward()
    return told


def assert_same_steps(case, compiler=as_traced, **tolerance):
    """Two moments on the same rows: losses, gradients and random state, by the same graph."""
    step, rows, losses = step_of(case, compiler), case.batch.size, []
    for progress in (0.3, 0.45):
        case.objective.at(progress)
        before = torch.get_rng_state()
        told = step.gradient((case.batch,), rows)
        after, ours = torch.get_rng_state(), gradients(case.pair)
        torch.set_rng_state(before)
        expected = uncompiled(case, rows)
        assert_close(told.total, expected.total.detach(), **tolerance)
        assert told.names == expected.names
        assert_close(told.values, expected.values, **tolerance)
        theirs = gradients(case.pair)
        assert [n for n, g in ours.items() if g is None] == [
            n for n, g in theirs.items() if g is None
        ]
        for name, grad in theirs.items():
            if grad is not None:
                assert_close(ours[name], grad, msg=lambda m, n=name: f"{n}: {m}", **tolerance)
        assert torch.equal(after, torch.get_rng_state())
        losses.append(float(told.total))
    assert len(step.graphs) == 1
    return losses


def latent(case):
    return latent_sites(case.draws())


class Encoder(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, 7, bias=False), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(0.3)
        )
        self.out = nn.Linear(7, outputs)

    def forward(self, x):
        return self.out(self.layers(x))


def normed(inputs=6):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        pair = zoo.build("vae", data_dim=inputs, **SMALL)
        pair.guide = guides.Factored(z=guides.Normal(2, {"x": inputs}, net=Encoder(inputs, 4)))
        return pair.train()


def fit(pair, rows, **options):
    return inference.fit(pair, rows, progress=False, **{"epochs": 2, "batch_size": 50, **options})


def build(paper, digits):
    extra = {"m1m2": {"hidden_top": (4,), "code": 3, "dead": 0.0}, "m1": {"classifier": (4,)}}
    known = {field.name for field in dataclasses.fields(catalogue.get(paper).Config)}
    small = {key: value for key, value in SMALL.items() if key in known}
    return zoo.build(paper, digits, **small, **extra.get(paper, {}))
