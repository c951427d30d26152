"""Target networks that follow by a moving average."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ppl_models.inference import Anneal, Progress, moving_average, target_of


def network(dtype):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False)).to(dtype)


def test_a_target_has_buffers_in_place_of_parameters():
    source = network(torch.float32)
    target = target_of(source)
    assert not list(target.parameters())
    assert target.state_dict().keys() == source.state_dict().keys()
    x = torch.randn(5, 3)
    assert torch.equal(target.eval()(x), source.eval()(x))
    moved = nn.ModuleList([target]).to(torch.float64)
    assert moved[0][0].weight.dtype == torch.float64
    with torch.no_grad():
        source[0].weight.add_(1)
    assert not torch.equal(target[0].weight.float(), source[0].weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0, 0.5, 0.99, 1, Anneal(0.9, 1, shape="cosine")])
def test_every_update_is_exact_from_the_first_on(dtype, decay):
    source = network(dtype)
    target = target_of(source)
    change = moving_average(target, source, decay)
    expected = {n: p.detach().clone() for n, p in source.named_parameters()}
    statistics = {n: b.clone() for n, b in source.named_buffers()}
    for step in range(4):
        with torch.no_grad():
            for parameter in source.parameters():
                parameter.add_(torch.randn_like(parameter))
        progress = Progress(step / 4, step)
        change(progress)
        tau = decay(progress) if isinstance(decay, Anneal) else decay
        for name, parameter in source.named_parameters():
            expected[name] = tau * expected[name] + (1 - tau) * parameter.detach()
            found = dict(target.named_buffers())[name]
            if tau in (0, 1):
                assert torch.equal(found, expected[name])
            eps = 4 * torch.finfo(dtype).eps  # a product and a sum may be rounded once or twice
            torch.testing.assert_close(found, expected[name], rtol=eps, atol=eps)
            expected[name] = found.clone()
    for name, value in statistics.items():
        assert torch.equal(dict(target.named_buffers())[name], value)


@pytest.mark.parametrize("decay", [-0.1, 1.5, float("nan"), Anneal(0.5, 1.1)])
def test_decays_that_are_none(decay):
    source = network(torch.float32)
    with pytest.raises(ValueError, match="decay is"):
        moving_average(target_of(source), source, decay)


def test_networks_that_do_not_fit():
    source = network(torch.float32)
    with pytest.raises(ValueError, match=r"the target has no '0.weight', which its source has"):
        moving_average(nn.ReLU(), source, 0.9)
    other = nn.Sequential(nn.Linear(3, 5))
    with pytest.raises(ValueError, match=r"'0.weight' of the target has shape \(5, 3\), expected"):
        moving_average(target_of(other), source, 0.9)
