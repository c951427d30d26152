"""What networks take from rows at the start, and a critic that no layer of which stretches x."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from ppl_models.batch import Batch
from ppl_models.networks import Scalar
from ppl_models.parts.code_networks import Maker, Standardised, counting, joint_critic

SHAPE, R = (4, 3, 2), 2
SIZES = {"a": Scalar(), "rest": R}


class Same(torch.nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_x_is_seen_about_its_mean_as_first_counted(dtype):
    net = Standardised(Same(), 4).to(dtype)
    generator = torch.Generator().manual_seed(0)
    x = 5 + torch.randn(50, 4, generator=generator, dtype=dtype) * torch.tensor([0.0, 1, 2, 3])
    assert_close(net(x=x), x)
    net.count(x)
    spread = (x - x.mean(0)).square().mean().sqrt()
    assert_close(net(x=x), (x - x.mean(0)) / spread)
    assert float(net(x=x).square().mean()) == pytest.approx(1, rel=1e-5)
    net.count(x + 1)  # weights hang on the first
    assert_close(net(x=x), (x - x.mean(0)) / spread)


def test_rows_that_are_all_the_same_are_0():
    net = Standardised(Same(), 4)
    net.count(torch.ones(3, 4))
    assert_close(net(x=torch.ones(3, 4)), torch.zeros(3, 4))


def codes(dtype, rows=5):
    return {"a": torch.randn(rows, dtype=dtype), "rest": torch.randn(rows, R, dtype=dtype)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_begin_as_the_mean_image(dtype):
    """sigmoid(logit(mean) + net), the mean within 0.02 to 0.98; first rows alone are counted."""
    made, z = Maker(SIZES, SHAPE, (2,), (5,)).to(dtype), codes(dtype)
    before, x = made(**z), torch.rand(30, 24).to(dtype)
    x[:, 0], x[:, 1] = 0.0, 1.0
    counting(made)(Batch({"x": x}))
    mean = x.mean(0).clamp(0.02, 0.98)
    assert_close(made(**z), torch.sigmoid(before.logit() + mean.logit()))
    for parameter in made.parameters():
        parameter.data.zero_()
    assert_close(made(**z), mean.expand(5, -1))
    counting(made)(Batch({"x": 1 - x}))
    assert_close(made(**z), mean.expand(5, -1))


def test_vectors_begin_where_the_network_has_them():
    made, z = Maker(SIZES, SHAPE, (), (5,)), codes(torch.float32)
    before = made(**z)
    counting(made)(Batch({"x": torch.rand(30, 24)}))
    assert torch.equal(made(**z), before)


def test_no_layer_of_an_images_critic_stretches_what_it_is_given():
    """Two x are as far apart in its features, at most, as in units of x's deviation."""
    channels = (3, 4)
    torch.manual_seed(0)
    critic = joint_critic(SHAPE, SIZES, channels, (8, 6)).double()
    x, z = torch.randn(40, 24).double(), codes(torch.float64, 40)
    for weight in critic.parameters():
        if weight.dim() > 1:  # singular values that are far apart are found to all digits
            u, s, v = torch.linalg.svd(weight.detach().flatten(1), full_matrices=False)
            s[1:] *= 0.1
            weight.data = ((u * s) @ v).reshape(weight.shape)
    counting(critic)(Batch({"x": 3 * x + 1}))
    judged = critic(x=x, **z)
    for parameter in critic.parameters():
        parameter.data.mul_(20 if parameter.dim() > 1 else 1)
    assert_close(critic(x=x, **z), judged)

    inner = critic.net
    for parameter in inner.parameters():
        if parameter.dim() > 1:
            parameter.data /= torch.linalg.matrix_norm(parameter.data.flatten(1), 2)
    (eye, bend), both = inner.reader, torch.cat([z["a"][:, None], z["rest"]], -1)
    apart = torch.pdist(eye(x=x).detach()) / torch.pdist(x / eye.deviation)
    # A kernel of 4 x 4 at every other pixel sees a pixel four times: twice as far a layer.
    assert eye.mean.any() and float(apart.max()) <= 2 ** len(channels)
    seen = bend(eye(x=x))
    heads = inner.of_x(x=seen) + inner.of_z(z=both) + inner.of_both(x=seen, z=both)
    assert_close(inner(x=x, **z), heads)
    assert_close(judged, heads)
    # The slope of silu is 1.1 at most.
    for head, given in (("of_z", {"z": both}), ("of_both", {"x": seen, "z": both})):
        moved = getattr(inner, head)(**{**given, "z": both.flip(0)})
        far = (moved - getattr(inner, head)(**given)).abs().squeeze(-1)
        assert bool((far <= 1.2 * (both - both.flip(0)).norm(dim=-1)).all())
