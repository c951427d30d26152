"""Pairs: what they refuse, and how Pyro sees their parameters."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from worlds.linear import LinearConfig, linear

import ppl_models as zoo
from ppl_models.batch import Batch
from ppl_models.pair import Pair

B, D = 4, 3
X, Y = torch.arange(B * D, dtype=torch.float32).reshape(B, D), torch.arange(B)


def test_a_pair_without_a_story_says_so():
    class Blank(Pair):
        Config, card = LinearConfig, linear().card

    with pytest.raises(NotImplementedError, match=r"Blank needs a model\(batch\)"):
        Blank(LinearConfig()).model(Batch({"x": X, "y": Y}))


def test_parameters_enter_pyros_store_only_under_svi():
    pair = linear(dtype=torch.float32)
    seen = Batch({"x": X, "y": Y})
    with pyro.get_param_store().scope():
        poutine.trace(pair.model).get_trace(seen)
        zoo.inference.EnumeratedELBO().loss(pair.model, pair.guide, seen)
        assert not list(pyro.get_param_store().keys())
        SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(seen)
        stored = {n.split("$$$")[1] for n in pyro.get_param_store().keys()}  # noqa: SIM118
        assert stored == {n for n, _ in pair.named_parameters()}


def test_two_pairs_of_a_class_keep_their_own_parameters_under_svi():
    first, second = linear(seed=0, dtype=torch.float32), linear(seed=1, dtype=torch.float32)
    seen = Batch({"x": X, "y": Y})
    before = second.A.detach().clone()
    with pyro.get_param_store().scope():
        for pair in (first, second):
            SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-6}), Trace_ELBO()).step(seen)
    torch.testing.assert_close(second.A.detach(), before, rtol=0, atol=1e-5)


def test_a_parameter_that_svi_would_copy_is_an_error():
    pair = linear(dtype=torch.float32)
    pair.A.data = pair.A.data.T.contiguous().T
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    with pyro.get_param_store().scope(), pytest.raises(ValueError, match="'A' is not contiguous"):
        svi.step(Batch({"x": X, "y": Y}))
