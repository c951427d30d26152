"""Networks of images against hand-written torch with the same weights, at every side."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_models import Batch, guides
from ppl_models.image_networks import (
    KERNELS,
    SMALL,
    STUDY,
    ResidualBlock,
    conv_decoder,
    conv_encoder,
    residual_decoder,
    residual_encoder,
)
from ppl_models.inference.training.precision import bfloat16
from ppl_models.networks import Label, SumLinear

SHAPES = [
    *[(side, side, 1) for side in (4, 5, 7, 8, 12, 28, 33, 63, 64)],
    *[(4, 64, 3), (11, 6, 2), (28, 27, 3), (1, 9, 1)],
]
FEW = {"channels": (3, 4, 8), "hidden": (6,)}
NETWORKS = {
    "conv": (conv_encoder, conv_decoder),
    "residual": (residual_encoder, residual_decoder),
}
EXACT = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-12},
    torch.float32: {"rtol": 2e-4, "atol": 2e-5},
}


# ---- by hand: rows of channels first, every side padded apart ----------------------------


def padded(maps, kernel):
    """Zeros around so that a stride of 2 gives half the sides, upwards."""
    pads = []
    for side, entries in zip(reversed(maps.shape), reversed(kernel), strict=False):
        total = 2 * (-(-side // 2) - 1) + entries - side
        before = (entries - 1) // 2 + (side % 2 if entries % 2 == 0 else 0)
        pads += [before, total - before]
    return F.pad(maps, pads)


def halved(maps, weight, bias=None):
    return F.conv2d(padded(maps, weight.shape[2:]), weight, bias, stride=2)


def doubled(maps, weight, bias, sides):
    """The transpose of ``halved``, as autograd knows it."""
    zero = maps.new_zeros(len(maps), weight.shape[1], *sides)
    _, turned = torch.autograd.functional.vjp(
        lambda image: halved(image, weight), zero, maps, create_graph=True
    )
    return turned + bias[:, None, None]


def normed(maps, norm):
    groups = maps.reshape(len(maps), norm.num_groups, -1)
    middle, spread = groups.mean(-1, keepdim=True), groups.var(-1, keepdim=True, correction=0)
    flat = ((groups - middle) / (spread + norm.eps).sqrt()).reshape(maps.shape)
    return flat * norm.weight[:, None, None] + norm.bias[:, None, None]


def block_by_hand(block, maps):
    norm1, _, conv1, norm2, _, conv2 = block.branch
    inner = F.conv2d(F.silu(normed(maps, norm1)), conv1.weight, conv1.bias, padding=1)
    return maps + F.conv2d(F.silu(normed(inner, norm2)), conv2.weight, conv2.bias, padding=1)


def dense_by_hand(net, value, act):
    (weight,) = net.first.weights.values()
    value = F.linear(value, weight, net.first.bias)
    for layer in net.rest:
        value = act(value) if not isinstance(layer, nn.Linear) else layer(value)
    return value


def maps_by_hand(layers, maps, sides, act):
    """Layer by layer; ``sides`` are those after each transposed convolution."""
    for layer in layers:
        if isinstance(layer, ResidualBlock):
            maps = block_by_hand(layer, maps)
        elif isinstance(layer, nn.GroupNorm):
            maps = normed(maps, layer)
        elif isinstance(layer, nn.ConvTranspose2d):
            maps = doubled(maps, layer.weight, layer.bias, sides.pop())
        elif isinstance(layer, nn.Conv2d):
            maps = halved(maps, layer.weight, layer.bias)
        else:
            maps = act(maps)
    return maps


def sides_of(shape, layers):
    sides = [tuple(shape[:2])]
    while len(sides) < layers:
        sides.append(tuple(-(-side // 2) for side in sides[-1]))
    return sides


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_written_by_hand(shape, kind, dtype):
    """Values and gradients of every weight, with one number and two for each entry."""
    torch.manual_seed(0)
    act = {"conv": F.relu, "residual": F.silu}[kind]
    make_encoder, make_decoder = NETWORKS[kind]
    height, width, depth = shape
    encoder = make_encoder(shape, 5, **FEW).to(dtype)
    decoder = make_decoder({"z": 4}, shape, each=2, **FEW).to(dtype)
    for net in (encoder, decoder):  # biases that are not 0
        for weight in net.parameters():
            weight.data += 0.1 * torch.randn_like(weight)
    x, z = torch.rand(3, math.prod(shape), dtype=dtype), torch.randn(3, 4, dtype=dtype)

    images = x.reshape(3, height, width, depth).movedim(-1, 1).contiguous()
    maps = maps_by_hand(encoder.maps, images, [], act)
    theirs = dense_by_hand(encoder.dense, maps.movedim(1, -1).flatten(1), act)
    ours = encoder(x=x)
    assert ours.shape == (3, 5) and ours.dtype == dtype
    assert_close(ours, theirs, **EXACT[dtype])
    same_gradients(encoder, ours, theirs, EXACT[dtype])

    start = dense_by_hand(decoder.dense, z, act).reshape(3, *decoder.start).movedim(-1, 1)
    sides = sides_of(shape, 3)
    maps = maps_by_hand(decoder.maps, start, sides, act)
    assert not sides
    theirs = torch.cat([maps[:, :depth].movedim(1, -1).flatten(1),
                        maps[:, depth:].movedim(1, -1).flatten(1)], -1)  # fmt: skip
    ours = decoder(z=z)
    assert ours.shape == (3, 2 * math.prod(shape))
    assert_close(ours, theirs, **EXACT[dtype])
    same_gradients(decoder, ours, theirs, EXACT[dtype])


def same_gradients(net, ours, theirs, exact):
    weights = list(net.parameters())
    found = torch.autograd.grad(ours.square().sum(), weights)
    expected = torch.autograd.grad(theirs.square().sum(), weights)
    for one, other in zip(found, expected, strict=True):
        assert one.any()
        size = float(other.abs().max())
        assert_close(one / size, other / size, rtol=exact["rtol"], atol=20 * exact["atol"])


@pytest.mark.parametrize(
    ("shape", "channels", "sides"),
    [
        ((64, 64, 1), STUDY, [32, 16, 8, 4]),
        ((28, 28, 1), SMALL, [14, 7]),
        ((12, 12, 3), SMALL, [6, 3]),
        ((4, 4, 1), STUDY, [2, 1, 1, 1]),
    ],
)
def test_the_studys_layers(shape, channels, sides):
    encoder = conv_encoder(shape, 20, channels=channels)
    convs = [layer for layer in encoder.maps if isinstance(layer, nn.Conv2d)]
    seen = []
    for conv in convs:
        conv.register_forward_hook(lambda _, args, out: seen.append(out.shape[-1]))
    assert encoder(x=torch.rand(2, math.prod(shape))).shape == (2, 20)
    assert seen == sides
    # Of a map of one pixel a kernel sees as much.
    before = [shape[0], *sides]
    kernels = [kernel if side > 1 else 1 for kernel, side in zip(KERNELS, before, strict=False)]
    assert [conv.kernel_size[0] for conv in convs] == kernels[: len(channels)]
    assert tuple(conv.out_channels for conv in convs) == channels
    decoder = conv_decoder({"z": 10}, shape, channels=channels)
    turned = [layer for layer in decoder.maps if isinstance(layer, nn.ConvTranspose2d)]
    assert [c.out_channels for c in turned] == [*reversed(channels[:-1]), shape[2]]
    there = [side for side, _ in zip(before, channels, strict=False)][::-1]
    assert [c.kernel_size for c in turned] == [(4, 4) if side > 1 else (1, 1) for side in there]
    assert decoder.start == (sides[-1], sides[-1], channels[-1])
    if shape[0] == 64:  # Table 1 of Locatello et al. (2019) counts these
        dense = 1024 * 256 + 256, 256 * 20 + 20
        maps = 16 * 32 + 32, 16 * 32 * 32 + 32, 4 * 32 * 64 + 64, 4 * 64 * 64 + 64
        assert sum(p.numel() for p in encoder.parameters()) == sum(dense) + sum(maps)


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 5, 2), (5, 1, 2), (2, 1, 2), (4, 3, 1)], ids=str)
def test_gradients_of_maps_of_one_pixel_in_bfloat16(shape):
    """A kernel that is wider than such maps had some that torch 2.13 does not write."""
    torch.manual_seed(0)
    options = {**FEW, "activation": "tanh"}  # no kinks
    for net, value in (
        (conv_encoder(shape, 5, **options), {"x": torch.rand(B, math.prod(shape))}),
        (conv_decoder({"z": 4}, shape, **options), {"z": torch.randn(B, 4)}),
    ):
        weights = list(net.parameters())
        full = torch.autograd.grad(net(**value).square().sum(), weights)
        littered = [torch.full((n,), torch.nan).bfloat16() for n in range(1, 600)]
        with bfloat16([net], torch.device("cpu")):
            loss = net(**value).square().sum()
        del littered  # what is not written would be what lay there
        half = torch.autograd.grad(loss, weights)
        for one, other in zip(half, full, strict=True):
            # Over ten seeds at most 0.09.
            assert float((one - other).norm() / other.norm()) < 0.2


# ---- draws, labels, rows -----------------------------------------------------------------

K, C, B, L = 3, 4, 5, 2
SHAPE = (7, 6, 2)


def inputs(kind):
    """Label and code as one row has them, or enumerated and drawn."""
    rows = torch.arange(B) % C
    return {
        "a row": (rows[0], torch.randn(L)),
        "rows": (rows, torch.randn(B, L)),
        "labels": (torch.arange(C).reshape(C, 1), torch.randn(B, L)),
        "labels and draws": (torch.arange(C).reshape(C, 1), torch.randn(K, 1, B, L)),
        "all": (torch.arange(C).reshape(C, 1), torch.randn(K, C, B, L)),
        "no row": (rows[:0], torch.randn(K, 0, L)),
    }[kind]


@pytest.mark.parametrize("kind", ["a row", "rows", "labels", "labels and draws", "all", "no row"])
@pytest.mark.parametrize("networks", NETWORKS)
def test_dimensions_before_equal_a_loop(networks, kind):
    torch.manual_seed(0)
    make_encoder, make_decoder = NETWORKS[networks]
    given = {"y": Label(C), "z": L}
    encoder = make_encoder(SHAPE, 5, given=given, **FEW).double()
    decoder = make_decoder(given, SHAPE, **FEW).double()
    y, z = inputs(kind)
    z = z.double().requires_grad_()
    images = torch.rand(*([B] if kind != "a row" else []), math.prod(SHAPE), dtype=torch.float64)
    if kind == "no row":
        images = images[:0]
    values = {"x": images.requires_grad_(), "y": y, "z": z}
    assert encoder.given == ("x", "y", "z") and decoder.given == ("y", "z")
    full = torch.broadcast_shapes(y.shape, z.shape[:-1])
    every = {
        "x": images.expand(*full, -1).reshape(-1, images.shape[-1]),
        "y": y.expand(full).reshape(-1),
        "z": z.expand(*full, -1).reshape(-1, L),
    }
    for net in (encoder, decoder):
        ours = net(**{name: values[name] for name in net.given})
        one_by_one = [
            net(**{name: every[name][i : i + 1] for name in net.given})
            for i in range(math.prod(full))
        ]
        empty = ours.new_zeros(0, ours.shape[-1])
        theirs = torch.cat([empty, *one_by_one]).reshape(*full, -1) if one_by_one else ours
        assert ours.shape == (*full, ours.shape[-1])
        assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
        wrt = [*net.parameters(), *(values[n] for n in net.given if n != "y")]
        if one_by_one:
            mine = torch.autograd.grad(ours.square().sum(), wrt)
            for one, other in zip(
                mine, torch.autograd.grad(theirs.square().sum(), wrt), strict=True
            ):
                assert_close(one, other, rtol=1e-8, atol=1e-9)


def test_per_row_gradients_by_vmap():
    """What importance weights and influence of rows ask for."""
    torch.manual_seed(0)
    net = residual_encoder(SHAPE, 3, **FEW).double()
    x = torch.rand(B, math.prod(SHAPE), dtype=torch.float64)
    weights = dict(net.named_parameters())

    def loss(weights, row):
        return torch.func.functional_call(net, weights, (), {"x": row}).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, x)
    for i, row in enumerate(x):
        expected = torch.autograd.grad(loss(weights, row), list(weights.values()))
        for one, other in zip(found.values(), expected, strict=True):
            assert_close(one[i], other, rtol=1e-9, atol=1e-10)


class Convolutions(TorchDispatchMode):
    """Inputs of every convolution."""

    def __init__(self):
        super().__init__()
        self.inputs, self.outputs, self.copies = [], [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        if name == "convolution":
            self.inputs.append(args[0])
            self.outputs.append(out)
        self.copies += name in ("clone", "copy_", "_to_copy", "cat", "repeat")
        return out


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("networks", NETWORKS)
def test_nothing_is_copied(networks, depth):
    """Images go in and out as they lie, and are seen once whatever the label."""
    make_encoder, make_decoder = NETWORKS[networks]
    shape = (16, 16, depth)
    encoder = make_encoder(shape, 5, given={"y": Label(C)}, **FEW)
    decoder = make_decoder({"y": Label(C), "z": L}, shape, **FEW)
    x, y = torch.rand(B, math.prod(shape)), torch.arange(C).reshape(C, 1)
    with torch.no_grad(), Convolutions() as seen:
        assert encoder(x=x, y=y).shape == (C, B, 5)
    assert {maps.shape[0] for maps in seen.inputs} == {B}
    assert seen.inputs[0].data_ptr() == x.data_ptr() and not seen.copies
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in seen.outputs)
    with torch.no_grad(), Convolutions() as seen:
        image = decoder(y=y, z=torch.randn(B, L))
    assert image.data_ptr() == seen.outputs[-1].data_ptr() and not seen.copies
    assert image.is_contiguous()


# ---- initialisation, options, where they are used ----------------------------------------


@pytest.mark.parametrize("networks", NETWORKS)
def test_weights_start_as_glorot_says(networks):
    torch.manual_seed(0)
    make_encoder, make_decoder = NETWORKS[networks]
    given = {"y": Label(C), "z": L}
    for net in (make_encoder((64, 64, 3), 20, given=given), make_decoder(given, (64, 64, 3))):
        for module in net.modules():
            if isinstance(module, SumLinear):
                fans = sum(module.given.values()) + len(module.bias)
                weights = torch.cat([w.flatten() for w in module.weights.values()])
            elif isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                first, second, *kernel = module.weight.shape
                fans, weights = (first + second) * math.prod(kernel), module.weight
            else:
                continue
            bound = math.sqrt(6 / fans)
            assert float(weights.detach().abs().max()) <= bound
            spread = float(weights.detach().std() / (bound / math.sqrt(3)))
            assert spread == pytest.approx(1, abs=4 / math.sqrt(weights.numel()))
            assert not module.bias.any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: conv_encoder((8,), 2), r"shape is \(8,\), expected \(H, W, C\), each at"),
        (lambda: conv_decoder({"z": 1}, (8, 0, 1)), r"shape is \(8, 0, 1\), expected \(H, W, C\)"),
        (lambda: residual_encoder((8, 8, 1), 2, channels=()), "channels are \\(\\), expected at"),
        (
            lambda: conv_encoder((8, 8, 1), 2, channels=(3,))(x=torch.zeros(2, 32)),
            r"the image 'x' has 32 numbers, expected 64 for \(8, 8, 1\)",
        ),
    ],
)
def test_what_does_not_fit(make, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        make()


@pytest.mark.parametrize("networks", NETWORKS)
def test_in_a_guide_and_in_half_precision(networks):
    torch.manual_seed(0)
    make_encoder, _ = NETWORKS[networks]
    D = math.prod(SHAPE)
    guide = guides.Factored(
        {"maps": make_encoder(SHAPE, 6, **FEW)},
        y=guides.Categorical(C, {"maps": 6}),
        z=guides.Normal(L, {"x": D, "y": Label(C)}, net=make_encoder(
            SHAPE, 2 * L, given={"y": Label(C)}, **FEW)),
    )  # fmt: skip
    assert guide.given == {"y": ("x",), "z": ("x", "y")}
    batch = Batch({"x": torch.rand(B, D)})
    values = guide(batch)
    assert values["z"].shape == (B, L)
    full = guide.factor("z", values).base_dist.loc
    with bfloat16([guide.factors["z"].net], torch.device("cpu")):
        half = guide.factor("z", values).base_dist.loc
    assert half.dtype == torch.float32 and not torch.equal(half, full)
    assert_close(half, full, rtol=0.05, atol=0.05)
    half.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in guide.factors["z"].net.maps.parameters())
