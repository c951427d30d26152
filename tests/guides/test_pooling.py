"""Pools of sets against loops over sets and elements, and what may not change them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from ppl_models import guides

M, B, D = 5, 4, 6
SIZES = (5, 3, 1, 0)
THERE = torch.arange(M) < torch.tensor(SIZES)[:, None]


def pool_of(kind: str, size: int = D, heads: int = 3) -> guides.Pool:
    torch.manual_seed(0)
    return guides.Pool(kind, size, heads).double()


def values(*left: int, size: int = D) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(*left, M, B, size, generator=draw, dtype=torch.float64)


def by_hand(pool: guides.Pool, elements: torch.Tensor) -> torch.Tensor:
    """Of the elements ``(m, D)`` of one set."""
    if not len(elements):
        return elements.new_zeros(pool.size)
    if pool.kind == "mean":
        return sum(elements) / len(elements)
    if pool.kind == "max":
        return torch.stack([max(column) for column in elements.T])
    query = pool.query.weight @ (sum(elements) / len(elements))
    keys, value = (elements @ net.weight.T for net in (pool.key, pool.value))
    heads = []
    for part in torch.arange(pool.size).split(pool.size // pool.heads):
        scores = [float((query[part] @ key[part]).detach()) / math.sqrt(len(part)) for key in keys]
        weights = [math.exp(s) / sum(map(math.exp, scores)) for s in scores]
        heads.append(sum(w * v[part] for w, v in zip(weights, value, strict=True)))
    return torch.cat(heads)


@pytest.mark.parametrize("size", [6, 5])
@pytest.mark.parametrize("kind", guides.POOLS)
def test_loops(kind: str, size: int) -> None:
    """Also where the heads do not divide the size, and with draws on the left."""
    pool = pool_of(kind, size)
    assert pool.size == 6 if kind == "attention" else size
    x = values(size=size)
    found = pool(x, THERE)
    wanted = torch.stack([by_hand(pool, x[:n, b]) for b, n in enumerate(SIZES)])
    assert found.shape == (B, pool.size)
    assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    several = values(2, size=size)
    found = pool(several, THERE)
    assert found.shape == (2, 1, B, pool.size)
    for k in range(2):
        assert_close(found[k, 0], pool(several[k], THERE), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", guides.POOLS)
def test_order_and_padding_change_nothing(kind: str, dtype: torch.dtype) -> None:
    tolerance = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 1e-12}
    pool, x = pool_of(kind).to(dtype), values().to(dtype)
    plain = pool(x, THERE)
    order = torch.rand(B, M, generator=torch.Generator().manual_seed(2)).argsort(1)
    moved = x.gather(0, order.T[..., None].expand_as(x))
    assert_close(pool(moved, THERE.gather(1, order)), plain, **tolerance)
    longer = torch.cat([x, torch.full((3, B, D), 1e4, dtype=dtype)])
    there = torch.cat([THERE, torch.zeros(B, 3, dtype=torch.bool)], 1)
    assert_close(pool(longer, there), plain, **tolerance)


def test_attention_to_one_element_is_its_value() -> None:
    pool, x = pool_of("attention"), values()[:1]
    there = torch.ones(B, 1, dtype=torch.bool)
    assert_close(pool(x, there), x[0] @ pool.value.weight.T, rtol=1e-14, atol=1e-14)
    maps = x.unsqueeze(-2).unsqueeze(-2) * torch.arange(1, 7).reshape(2, 3, 1)
    wanted = maps[0] @ pool.value.weight.T
    assert_close(pool(maps, there, within=2), wanted, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("kind", guides.POOLS)
def test_gradients_stop_at_padding(kind: str) -> None:
    pool, x = pool_of(kind), values().requires_grad_()
    (grad,) = torch.autograd.grad(pool(x, THERE).square().sum(), x)
    assert (grad[~THERE.T] == 0).all()
    alone = [pool(x[:n, b : b + 1], torch.ones(1, n) > 0) for b, n in enumerate(SIZES) if n]
    (wanted,) = torch.autograd.grad(torch.cat(alone).square().sum(), x)
    assert_close(grad, wanted, rtol=1e-12, atol=1e-12)


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="pool"):
        guides.Pool("maximum", 3)
    with pytest.raises(ValueError, match="heads is 0, expected at least 1"):
        guides.Pool("attention", 3, 0)


@pytest.mark.parametrize("kind", guides.POOLS)
def test_maps_have_one_weight_of_each_head(kind: str) -> None:
    """Values of several pixels: heads look at all pixels, and draws on the left stay."""
    pool = pool_of(kind)
    h, w = 2, 3
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(2, M, B, h, w, D, generator=draw, dtype=torch.float64)
    found = pool(x, THERE, within=2)
    assert found.shape == (2, 1, B, h, w, pool.size)
    assert_close(pool(x[1], THERE, within=2), found[1, 0], rtol=1e-12, atol=1e-12)
    assert_close(pool(x[0], THERE.flip(1), within=2), pool(x[0].flip(0), THERE, within=2))
    for b, n in enumerate(SIZES[:3]):
        maps = x[1, :n, b]  # m x h x w x D
        if kind != "attention":
            wanted = maps.mean(0) if kind == "mean" else maps.amax(0)
        else:
            parts = []
            query, key, value = (
                given @ net.weight.T
                for net, given in (
                    (pool.query, maps.mean(0)),
                    (pool.key, maps),
                    (pool.value, maps),
                )
            )
            for part in torch.arange(pool.size).split(pool.size // pool.heads):
                scores = (query[..., part] * key[..., part]).sum((1, 2, 3))
                weights = (scores / math.sqrt(len(part) * h * w)).softmax(0)
                parts.append(torch.einsum("m,mhwd->hwd", weights, value[..., part]))
            wanted = torch.cat(parts, -1)
        assert_close(found[1, 0, b], wanted, rtol=1e-12, atol=1e-12)
    assert not found[:, :, 3].any()
