"""Networks of an image and its causes: constant maps, and heads, against products by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from ppl_models.parts.digit_scm import digit_scm
from ppl_models.parts.scm_networks import image_critic, image_reader

H, W, CLASSES = 5, 4, 3


def inputs(colours, dtype, before=()):
    """A few images and their causes, of draws in front if any."""
    g = torch.Generator().manual_seed(1)
    rows = 6
    return {
        "x": torch.rand(rows, H * W * colours, generator=g, dtype=dtype),
        "y": torch.arange(rows) % CLASSES,
        "thickness": 1 + 3 * torch.rand(*before, rows, generator=g, dtype=dtype),
        "intensity": 70 + 180 * torch.rand(*before, rows, generator=g, dtype=dtype),
    }


def numbers(scm, values):
    """What networks see of causes ``(..., rows, 5)``: three of the class, two more."""
    inner = scm.inner({n: values[n] for n in scm.mechanisms}, ("thickness", "intensity"))
    shape = values["thickness"].shape
    hot = functional.one_hot(values["y"], CLASSES).to(values["x"].dtype).expand(*shape, -1)
    return torch.cat([hot, inner["thickness"][..., None], inner["intensity"][..., None]], -1)


@pytest.mark.parametrize("before", [(), (2,)], ids=["rows", "draws"])
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_causes_are_maps_that_are_everywhere_the_same(colours, dtype, before):
    scm = digit_scm(classes=CLASSES).to(dtype)
    net = image_reader(scm, (H, W, colours), 7, (4, 6), (8,)).to(dtype)
    values = inputs(colours, dtype, before)
    pixels = 2 * values["x"].reshape(-1, H, W, colours) - 1
    told = numbers(scm, values)
    beside = told[..., None, None, :].expand(*before, -1, H, W, -1)
    whole = torch.cat([pixels.expand(*before, -1, -1, -1, -1), beside], -1)
    assert whole.shape == (*before, 6, H, W, colours + CLASSES + 2)
    assert_close(net(**values), net.net.net(x=whole.flatten(-3)), rtol=0, atol=0)


@pytest.mark.parametrize("channels", [(), (4, 6)], ids=["perceptrons", "convolutions"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_critic_is_the_mean_of_heads_of_the_image_the_codes_and_both(channels, dtype):
    scm = digit_scm(classes=CLASSES).to(dtype)
    critic = image_critic(scm, (H, W, 1), channels, (8, 9), z=2).to(dtype)
    assert critic.given == ("x", "z", "y", "thickness", "intensity")
    values = inputs(1, dtype)
    z = torch.linspace(-1, 1, 12, dtype=dtype).reshape(6, 2)
    heads, eye = critic.net, image_reader(scm, (H, W, 1), 8, channels, ()).to(dtype)
    eye.net.load_state_dict(heads.reader[0].state_dict())
    seen = functional.silu(eye(**values))
    codes = torch.cat([z, numbers(scm, values)], -1)
    of = heads.of_x(x=seen), heads.of_z(z=codes), heads.of_both(x=seen, z=codes)
    close = 1e-6 if dtype == torch.float32 else 1e-12
    assert_close(critic(z=z, **values), sum(of) / 3, rtol=close, atol=close)
