"""The late-broadcasting layer against a linear layer on concatenated one-hot inputs."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_models.image_networks import SMALL, conv_encoder
from ppl_models.networks import (
    ACTIVATIONS,
    Label,
    Net,
    Scalar,
    SpectrallyNormalised,
    SumLinear,
    _largest_singular_value,
)

B, C, D, L, H = 7, 4, 6, 3, 5


class Products(TorchDispatchMode):
    """Records the rows of each matrix product with a given number of columns."""

    def __init__(self, columns):
        super().__init__()
        self.columns, self.rows = columns, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        if name in ("mm", "addmm", "bmm", "matmul"):
            left = args[1] if name == "addmm" else args[0]
            if left.shape[-1] == self.columns:
                self.rows.append(left.numel() // self.columns)
        return func(*args, **(kwargs or {}))


def label_of(kind):
    if kind == "enumerated":
        return torch.arange(C).reshape(C, 1)
    rows = torch.arange(B) % C
    if kind == "per row":
        return rows
    return (F.one_hot(rows, C) + torch.randn(B, C, dtype=torch.float64)).softmax(-1)


def concatenated(given, values):
    """The inputs as one vector, every one copied to the full shape."""
    parts = []
    for name, size in given.items():
        value = values[name]
        if isinstance(size, Label) and not value.is_floating_point():
            value = F.one_hot(value, size).double()
        elif isinstance(size, Scalar):
            value = value.unsqueeze(-1)
        parts.append(value)
    shape = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
    return torch.cat([p.expand(*shape, p.shape[-1]) for p in parts], -1)


def twin(layer):
    """nn.Linear with the layer's weights."""
    blocks = [
        layer.weights[n].T if isinstance(size, Label) else layer.weights[n]
        for n, size in layer.given.items()
    ]
    linear = nn.Linear(sum(layer.given.values()), len(layer.bias), dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.cat(blocks, 1))
        linear.bias.copy_(layer.bias)
    return linear


def test_a_network_of_numbers_can_be_copied():
    net = Net({"s": Scalar(), "y": Label(C)}, (H,), 1)
    values = {"s": torch.randn(B), "y": torch.arange(B) % C}
    assert torch.equal(copy.deepcopy(net)(**values), net(**values))


@pytest.mark.parametrize("kind", ["enumerated", "per row", "relaxed"])
@pytest.mark.parametrize(
    "given",
    [
        {"x": D, "y": Label(C)},
        {"y": Label(C), "x": D, "s": Scalar()},
        {"y": Label(C)},
        {"s": Scalar(), "y": Label(C)},
    ],
    ids=" ".join,
)
def test_sum_linear_is_a_linear_layer_on_the_concatenated_inputs(given, kind):
    torch.manual_seed(0)
    layer = SumLinear(given, H).double()
    linear = twin(layer)
    x, s, y = torch.randn(B, D).double(), torch.randn(B).double(), label_of(kind)
    values = {n: {"x": x, "s": s, "y": y}[n] for n in given}
    leaves = [v.requires_grad_() for v in values.values() if v.is_floating_point()]
    weight = torch.randn(*layer(**values).shape).double()

    mine = layer(**values)
    theirs = linear(concatenated(given, values))
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    (mine * weight).sum().backward()
    inputs = [v.grad.clone() for v in leaves]
    for leaf in leaves:
        leaf.grad = None
    (theirs * weight).sum().backward()
    torch.testing.assert_close(inputs, [v.grad for v in leaves], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.bias.grad, linear.bias.grad, rtol=1e-12, atol=1e-12)
    blocks = [
        layer.weights[n].grad.T if isinstance(size, Label) else layer.weights[n].grad
        for n, size in given.items()
    ]
    torch.testing.assert_close(torch.cat(blocks, 1), linear.weight.grad, rtol=1e-12, atol=1e-12)


def test_x_is_multiplied_once_per_row_not_once_per_label():
    layer = SumLinear({"x": D, "y": Label(C)}, H)
    x, y = torch.randn(B, D), torch.arange(C).reshape(C, 1, 1)
    with Products(D) as products:
        out = layer(x=x, y=y)
        out.sum().backward()
    assert out.shape == (C, 1, B, H)
    assert products.rows == [B]
    assert layer.weights["x"].grad.shape == (H, D)
    with Products(D + C) as copied:  # a test of the test: concatenation does copy
        twin(layer)(concatenated(layer.given, {"x": x.double(), "y": y}))
    assert copied.rows == [C * B]


def test_initial_weights_have_the_scale_of_a_linear_layer():
    torch.manual_seed(0)
    layer = SumLinear({"x": 60, "y": Label(40)}, 500)
    bound = 1 / (60 + 40) ** 0.5
    for parameter in map(torch.Tensor.detach, layer.parameters()):
        n = parameter.numel()
        assert float(parameter.abs().max()) <= bound
        # A uniform's square has mean bound^2 / 3 and standard deviation bound^2 sqrt(4 / 45).
        error = bound**2 * (4 / 45 / n) ** 0.5
        assert abs(float(parameter.square().mean()) - bound**2 / 3) < 4.5 * error


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_net_is_the_stack_of_its_layers(activation):
    torch.manual_seed(0)
    net = Net({"x": D, "y": Label(C)}, (H, 8), L, activation).double()
    assert net.given == ("x", "y")
    x, y = torch.randn(B, D).double(), torch.arange(C).reshape(C, 1)
    act = ACTIVATIONS[activation]()
    h = twin(net.first)(concatenated(net.first.given, {"x": x, "y": y}))
    first, second = (m for m in net.rest if isinstance(m, nn.Linear))
    expected = second(act(first(act(h))))
    torch.testing.assert_close(net(x=x, y=y), expected, rtol=1e-12, atol=1e-12)


def test_net_without_hidden_layers_is_linear():
    net = Net({"x": D}, (), L)
    x = torch.randn(B, D)
    torch.testing.assert_close(net(x=x), F.linear(x, net.first.weights["x"], net.first.bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalised_weights_are_divided_by_their_largest_singular_value(dtype):
    """Of every layer, and of each input of a sum; biases stay, and so do the parameters."""
    torch.manual_seed(0)
    net = Net({"x": D, "y": Label(C), "a": Scalar()}, (7, 4), L).to(dtype)
    maps = conv_encoder((6, 5, 2), 3, channels=(3,), hidden=(4,)).to(dtype)
    for module, values in (
        (net, {"x": torch.randn(B, D), "y": torch.arange(B) % C, "a": torch.randn(B)}),
        (maps, {"x": torch.randn(B, 60)}),
    ):
        values = {n: v if n == "y" else v.to(dtype) for n, v in values.items()}
        for weight in module.parameters():
            if weight.dim() > 1:  # one that is far above the others is found to all digits
                u, s, v = torch.linalg.svd(weight.detach().flatten(1), full_matrices=False)
                s[1:] *= 0.1
                weight.data = ((u * s) @ v).reshape(weight.shape)
        divided, before = copy.deepcopy(module), copy.deepcopy(module.state_dict())
        for weight in divided.parameters():
            if weight.dim() > 1:
                weight.data /= torch.linalg.matrix_norm(weight.data.flatten(1), 2)
        normalised = SpectrallyNormalised(module)
        assert normalised.given == module.given
        out = normalised(**values)
        torch.testing.assert_close(out, divided(**values))
        assert torch.equal(normalised(**values), out)
        assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())


def test_singular_values_of_any_weights_are_found_from_below():
    torch.manual_seed(0)
    for rows, columns in ((128, 1024), (16, 48), (1, 128), (5, 1)):
        weight = nn.Linear(columns, rows).weight
        found = _largest_singular_value(weight)
        (gradient,) = torch.autograd.grad(found, weight)
        true = torch.linalg.matrix_norm(weight, 2)
        assert 0.9 * true <= found <= 1.0001 * true  # 30 seeds: at least 0.938 times
        # Of u' W v it is u v', vectors of length 1.
        torch.testing.assert_close(gradient.norm(), torch.tensor(1.0))
        torch.testing.assert_close((gradient * weight).sum(), found)


def test_a_layer_without_inputs_is_an_error():
    with pytest.raises(ValueError, match="at least one input"):
        SumLinear({}, H)


def test_an_input_of_another_size_is_named():
    net = Net({"y": Label(C), "x": D}, (3,), L)
    with pytest.raises(ValueError, match=rf"^input .x. of a network .* expected \(\.\.\., {D}\)$"):
        net(y=torch.zeros(B, dtype=torch.long), x=torch.ones(B, D + 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Net({"x": D}, 32, L), r"^hidden is 32, expected the units .* \(32,\)$"),
        (
            lambda: Net({"x": D}, (3,), L, "rely"),
            "^unknown activation 'rely': did you mean 'relu'",
        ),
        (
            lambda: conv_encoder((4, 4, 1), L, channels=SMALL, activation="x"),
            "^unknown activation",
        ),
    ],
)
def test_bad_options_are_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
