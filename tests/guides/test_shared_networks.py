"""Networks that several factors of a guide have in common."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.testing import assert_close

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.networks import Label, Net, Part, Scalar, SumLinear

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


# ---- trunks and what may be missing -----------------------------------------------------


def ladder(dtype=torch.float32):
    torch.manual_seed(0)
    trunk = {
        "low": Net({"x": 6, "y?": Label(3)}, (), 5),
        "high": Net({"low": 5}, (4,), 4),
    }
    top = guides.Normal(2, {"high": 4}, scale=(0.1, 2.0))
    z = guides.Normal(3, {"low": 5, "top": 2}, (7,))
    return guides.Factored(trunk, top=top, z=z).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("labelled", [False, True])
def test_a_trunk_with_heads_at_two_depths_runs_once(dtype, labelled):
    guide = ladder(dtype)
    runs = dict.fromkeys(guide.shared, 0)
    for name, net in guide.shared.items():
        net.register_forward_hook(lambda *_, n=name: runs.__setitem__(n, runs[n] + 1))
    sites = {"x": torch.randn(4, 6, dtype=dtype)}
    if labelled:
        sites["y"] = torch.tensor([0, 2, 1, 0])
    values = guide(Batch(sites))
    assert runs == {"low": 1, "high": 1}
    assert guide.given == {"top": ("x", "y"), "z": ("x", "y", "top")}
    low = guide.shared["low"](**sites)
    expected = guide.factors["top"](high=guide.shared["high"](low=low))
    assert_close(guide.factor("top", sites).mean, expected.mean)
    z = guide.factors["z"](low=low, top=values["top"])
    assert_close(guide.factor("z", {**sites, "top": values["top"]}).mean, z.mean)


@pytest.mark.parametrize("seen", [(), ("a",), ("y",), ("a", "y")], ids="".join)
def test_an_input_that_may_be_missing_is_an_indicator_and_a_product(seen):
    torch.manual_seed(0)
    net = SumLinear({"x": 2, "a?": Scalar(), "y?": Label(3)}, 4).double()
    for mark in net.there.values():
        nn.init.normal_(mark)
    every = {"a": torch.randn(5).double(), "y": torch.tensor([0, 1, 2, 0, 1])}
    x = torch.randn(5, 2).double()
    expected = x @ net.weights["x"].T + net.bias
    if "a" in seen:
        expected = expected + every["a"][:, None] @ net.weights["a"].T + net.there["a"]
    if "y" in seen:
        expected = expected + net.weights["y"][every["y"]] + net.there["y"]
    assert_close(net(x=x, **{n: every[n] for n in seen}), expected)


def test_a_network_of_nothing_but_what_may_be_missing():
    net = SumLinear({"a?": 2}, 3)
    assert_close(net(), net.bias)


def test_what_is_required_is_still_required():
    guide = ladder()
    with pytest.raises(ValueError, match=r"factor 'top' .* \['x'\] is neither in the batch"):
        guide.factor("top", {"y": torch.zeros(2, dtype=torch.long)})


def test_a_network_before_the_one_it_is_given_is_one_line():
    nets = {"high": Net({"low": 5}, (), 4), "low": Net({"x": 6}, (), 5)}
    message = r"shared network 'high' is given \['low'\], expected sites or networks before it"
    with pytest.raises(ValueError, match=message):
        guides.Factored(nets, z=guides.Normal(2, {"high": 4}))
