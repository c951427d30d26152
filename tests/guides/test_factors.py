"""Factors with a network and without, and the names under which their weights are saved."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ppl_models import guides
from ppl_models.networks import Scalar

X = {"x": 3}
OF_A_SIZE = {
    "Normal": guides.Normal,
    "Categorical": guides.Categorical,
    "OneHotCategorical": guides.OneHotCategorical,
    "Flow": guides.Flow,
    "Dirichlet": guides.Dirichlet,
}
OUTPUTS = {"Normal": 4, "Categorical": 2, "OneHotCategorical": 2, "Flow": 36, "Dirichlet": 2}


@pytest.mark.parametrize("name", OF_A_SIZE)
def test_factors_of_a_size_take_the_same_arguments(name):
    factor = OF_A_SIZE[name]
    torch.manual_seed(0)
    by_place = factor(2, X, (4,), "relu")
    torch.manual_seed(0)
    by_name = factor(size=2, given=X, hidden=(4,), activation="relu")
    weights = [tuple(f.state_dict().values()) for f in (by_place, by_name)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert by_place.net.rest[-1].out_features == OUTPUTS[name]
    own = factor(2, X, net=nn.Identity())
    assert isinstance(own.net, nn.Identity) and own.given == ("x",)


def test_a_factor_without_a_network_has_nothing_to_learn():
    prior = guides.Prior(3, 0.5)
    assert prior.given == () and not list(prior.parameters()) and not prior.state_dict()
    q = prior(x=torch.ones(2, 3))
    assert torch.equal(q.base_dist.scale, torch.full((3,), 0.5)) and q.event_shape == (3,)


def test_the_names_of_saved_weights():
    torch.manual_seed(0)
    guide = guides.Factored(
        n=guides.Categorical(3, X, (4,)),
        z_0=guides.Present(guides.Normal(Scalar(), X), "n", 0),
        e=guides.Prior(2),
    )
    assert list(guide.state_dict()) == [
        "factors.n.net.first.bias",
        "factors.n.net.first.weights.x",
        "factors.n.net.rest.1.weight",
        "factors.n.net.rest.1.bias",
        "factors.z_0.net.net.first.bias",
        "factors.z_0.net.net.first.weights.x",
    ]
    assert guide.given["z_0"] == ("x", "n")
    q = guide.factor("z_0", {"x": torch.ones(2, 3), "n": torch.ones(2, dtype=torch.long)})
    assert q.batch_shape == (2,) and q.event_shape == ()
