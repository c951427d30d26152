"""Networks that several factors of a guide have in common."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine
from torch.testing import assert_close

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.networks import Net, Part

SIZES = {"u": 2, "v": 1}


def guide():
    """q(u | x) q(v | x) q(y | u), the codes from one encoder."""
    torch.manual_seed(0)
    return guides.Factored(
        {"codes": Net({"x": 3}, (4,), 6)},
        u=guides.Normal(2, {"codes": 6}, net=Part(0, 4)),
        v=guides.Normal(1, {"codes": 6}, net=Part(4, 2)),
        y=guides.Categorical(2, {"u": 2}),
    )


def test_the_network_is_run_once_and_each_factor_takes_its_part():
    subject, calls = guide(), []
    subject.shared["codes"].register_forward_hook(lambda *_: calls.append(1))
    batch = Batch({"x": torch.randn(5, 3)})
    trace = poutine.trace(subject).get_trace(batch)
    assert len(calls) == 1 and set(trace.nodes["_RETURN"]["value"]) == {"x", "u", "v", "y"}
    raw = subject.shared["codes"](x=batch["x"])
    for name, first, size in (("u", 0, 2), ("v", 4, 1)):
        q = subject.factor(name, batch).base_dist
        assert_close(q.loc, raw[:, first : first + size])
        assert_close(q.scale, (0.5 * raw[:, first + size : first + 2 * size]).exp())
        assert_close(trace.nodes[name]["fn"].base_dist.loc, q.loc)


def test_factors_are_given_what_the_network_is_given():
    subject = guide()
    assert subject.given == {"u": ("x",), "v": ("x",), "y": ("u",)}
    x = torch.randn(5, 3)
    mean = subject.upstream("y", {"x": x})["u"]
    assert_close(mean, subject.factor("u", {"x": x}).mean)
    with pytest.raises(ValueError, match=r"factor 'v' is given \['x'\], but \['x'\]"):
        subject.factor("v", {"u": mean})


def test_a_network_may_read_sites_sampled_before_and_not_those_after():
    shared = {"both": Net({"x": 3, "u": 2}, (4,), 2)}
    u, v = guides.Normal(2, {"x": 3}), guides.Normal(1, {"both": 2}, net=Part(0, 2))
    subject = guides.Factored(shared, u=u, v=v)
    with pyro.validation_enabled(True):
        values = subject(Batch({"x": torch.randn(4, 3)}))
    mean = shared["both"](x=values["x"], u=values["u"])[:, :1]
    assert_close(subject.factor("v", values).mean, mean)
    with pytest.raises(ValueError, match=r"factor 'v' is given \['u'\]"):
        guides.Factored(shared, v=v, u=u)
    with pytest.raises(ValueError, match=r"shared networks \['u'\] are called as sites are"):
        guides.Factored({"u": Net({"x": 3}, (), 2)}, u=u)
