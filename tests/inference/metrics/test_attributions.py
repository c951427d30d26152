"""Jacobians of encoders against closed forms; what cannot be differentiated row by row."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ppl_models as zoo
from ppl_models.inference.metrics import GuideMean, jacobians

SLOPES = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]], dtype=torch.float64)


def rows(count: int = 7, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)


def curved(x: torch.Tensor) -> torch.Tensor:
    return torch.sin(x @ SLOPES.T.to(x)) + x.square().sum(1, keepdim=True)


def by_hand(x: torch.Tensor) -> torch.Tensor:
    slopes = SLOPES.to(x)
    return torch.cos(x @ slopes.T).unsqueeze(-1) * slopes + 2 * x.unsqueeze(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk", [2, 3, 64])
def test_jacobians_are_those_by_hand_in_any_chunks(dtype, chunk):
    x = rows(dtype=dtype)
    found = jacobians(curved, x, chunk=chunk)
    assert found.dtype == dtype and not found.requires_grad
    torch.testing.assert_close(found, by_hand(x))


def test_rows_of_any_shape_are_flattened_in_order():
    x = torch.rand(3, 2, 2, 3, generator=torch.Generator().manual_seed(0))

    def encode(values: torch.Tensor) -> torch.Tensor:
        return torch.stack([values[:, 1, 0, 2] ** 2, values.flatten(1).sum(1)], 1)

    found = jacobians(encode, x)
    wanted = torch.zeros(3, 2, 12)
    wanted[:, 0, 8], wanted[:, 1] = 2 * x[:, 1, 0, 2], 1.0
    torch.testing.assert_close(found, wanted)


def test_the_integral_along_the_way_from_nothing():
    """The mean over t of cos(t s x) s + 2 t x is sin(s x) / (s x) s + x."""
    x = rows()
    inner = (x @ SLOPES.T).unsqueeze(-1)
    wanted = inner.sin() / inner * SLOPES + x.unsqueeze(1)
    found = jacobians(curved, x, "integrated")
    assert float((found - wanted).abs().max()) < 2e-3 * float(wanted.abs().max())  # 20 points


def test_smoothed_gradients_are_those_of_a_wider_function():
    """With noise of deviation d, E cos(s (x + e)) = cos(s x) exp(-|s|^2 d^2 / 2)."""
    x = rows(4)
    x = (x - x.min()) / (x.max() - x.min()) * 20  # a range of 20: noise of 0.4
    many = x.repeat_interleave(400, 0)
    found = jacobians(curved, many, "smooth", chunk=1600).reshape(4, 400, 2, 3).mean(1)
    wider = torch.exp(-SLOPES.square().sum(1) * 0.4**2 / 2)[:, None]
    wanted = (torch.cos(x @ SLOPES.T) * wider.T).unsqueeze(-1) * SLOPES + 2 * x.unsqueeze(1)
    # 8,000 draws: a standard error of at most 3 * 0.7 / 90, and of 2 * 0.4 / 90.
    assert float((found - wanted).abs().max()) < 0.12
    again = [jacobians(curved, x, "smooth", seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(again[0], again[1]) and not torch.equal(again[0], again[2])


def test_networks_are_run_in_eval_mode_and_left_as_they_were():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    found = jacobians(net, rows(dtype=torch.float32))
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters())
    scale = 1 / (1 + net[1].eps) ** 0.5  # running variance 1
    wanted = net[3].weight @ net[0].weight * scale
    torch.testing.assert_close(found, wanted.detach().expand(7, 2, 3))


def test_the_mean_of_a_code_of_a_pair():
    x = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    pair = zoo.build("vae", seed=0, data_dim=8, hidden=(5,), latent=3)
    encode = GuideMean(pair)
    mean = pair.guide.factor("z", {"x": x}).mean
    assert torch.equal(encode(x), mean)
    found, step = jacobians(encode, x), 1e-2
    for pixel in (0, 5):
        moved = torch.zeros(8)
        moved[pixel] = step
        wanted = (encode(x + moved) - encode(x - moved)) / (2 * step)
        torch.testing.assert_close(found[:, :, pixel], wanted, atol=1e-4, rtol=0)
    with pytest.raises(TypeError, match="the guide's factor is wanted for site 'z'"):
        GuideMean(type("Plain", (), {"guide": print})())
    with pytest.raises(ValueError, match="no factor 'w'"):
        GuideMean(pair, "w")(x)


@pytest.mark.parametrize(
    ("encode", "x", "words"),
    [
        (curved, rows().int(), r"rows are torch.int32, expected floating"),
        (curved, rows(1), r"rows is 1, expected"),
        (lambda x: curved(x).sum(1), rows(), r"shape \(7,\) for 7 rows, expected \(7, K\)"),
        (lambda x: curved(x.detach()), rows(), "no gradient, expected encode without no_grad"),
        (lambda x: curved(x) - curved(x).mean(0), rows(), "changes with the rows beside it"),
        (lambda x: x.abs().sqrt() @ SLOPES.T, rows() * 0, "dimension 0 at row 0 is not finite"),
    ],
)  # fmt: skip
def test_what_has_no_derivatives_row_by_row_is_one_line(encode, x, words):
    with pytest.raises(ValueError, match=words):
        jacobians(encode, x)


def test_unknown_attributions_name_the_nearest():
    with pytest.raises(ValueError, match="unknown attribution 'smoth': did you mean 'smooth'"):
        jacobians(curved, rows(), "smoth")
