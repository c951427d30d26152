"""Directions of an embedding against brute force, closed forms and known mixings."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from worlds.mixed_factors import (
    disjoint,
    four_bars,
    generator_jacobian,
    ideal_encoder,
    level_factors,
    mixing,
    normal_factors,
    orthogonal,
    rotated,
)
from worlds.pages import run_page

from ppl_models.inference.metrics import (
    closed_form_dma,
    closed_form_ima,
    concept_alignment,
    discover_concepts,
    jacobians,
)
from ppl_models.inference.metrics.disentanglement.concepts import concept_loss


def world(generate, seed=0, rows=120):
    """An ideal encoder of correlated factors, rows, and how it mixes the factors."""
    mixed, z = mixing(seed), normal_factors(rows, 0.6, seed)
    return ideal_encoder(generate, z, mixed), generate(z), mixed


def by_hand(directions, slopes, kind):
    """The loss of one row, entry by entry."""
    rows = directions.numpy() @ slopes.numpy()
    rows = np.abs(rows) if kind == "dma" else rows
    rows = [row / np.abs(row).sum() for row in rows]
    pairs = itertools.permutations(rows, 2)
    inner = [sum(a * b for a, b in zip(one, other, strict=True)) for one, other in pairs]
    return math.sqrt(sum(value**2 for value in inner))


@pytest.mark.parametrize("kind", ["dma", "ima"])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_the_loss_is_that_by_hand(kind, dtype, tol):
    generator = torch.Generator().manual_seed(0)
    slopes = torch.randn(5, 4, 11, generator=generator, dtype=torch.float64)
    directions = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    wanted = [by_hand(directions, row, kind) for row in slopes]
    found = concept_loss(directions.to(dtype), slopes.to(dtype), kind)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.numpy(), wanted, rtol=tol)
    # Neither the scale of a direction nor its sign counts.
    other = directions * torch.tensor([[3.0], [-0.2], [1e-6]], dtype=torch.float64)
    torch.testing.assert_close(concept_loss(other, slopes, kind), found.double(), rtol=tol, atol=0)


def test_the_loss_of_disjoint_rows_is_0_with_a_gradient_of_0():
    slopes = torch.eye(4).repeat_interleave(3, 1).unsqueeze(0)
    directions = torch.eye(4, requires_grad=True)
    loss = concept_loss(directions, slopes, "dma").sum()
    loss.backward()
    assert loss.item() == 0 and torch.equal(directions.grad, torch.zeros(4, 4))
    # Overlap with opposite signs: orthogonal, and not disjoint.
    slopes = torch.tensor([[[1.0, 1.0, 0.0], [1.0, -1.0, 1.0]]])
    assert concept_loss(torch.eye(2), slopes, "ima").item() == 0
    wanted = math.sqrt(2) * (1 / 2) * (2 / 3)
    assert concept_loss(torch.eye(2), slopes, "dma").item() == pytest.approx(wanted)


def test_an_ideal_encoder_is_the_generators_inverse_up_to_its_mixing():
    encode, x, mixed = world(disjoint)
    z = normal_factors(120, 0.6, 0)
    torch.testing.assert_close(encode(x), z @ mixed.T)
    product = jacobians(encode, x) @ generator_jacobian(disjoint, z)
    torch.testing.assert_close(product, mixed.expand_as(product))


@pytest.mark.parametrize(("dtype", "least"), [(torch.float64, 1 - 1e-10), (torch.float32, 0.999)])
def test_closed_forms_undo_the_mixing(dtype, least):
    encode, x, mixed = world(disjoint)
    slopes = jacobians(encode, x).to(dtype)
    found = closed_form_dma(slopes[3])
    assert found.dtype == dtype and concept_alignment(found, mixed) > least
    encode, x, mixed = world(orthogonal)
    slopes = jacobians(encode, x).to(dtype)
    found = closed_form_ima(slopes[0], slopes[1])
    assert found.directions.dtype == dtype and concept_alignment(found.directions, mixed) > least
    # The ratios are those of the encoder's gradients of single factors, 1 over the generator's.
    norm = generator_jacobian(orthogonal, normal_factors(120, 0.6, 0)[:2]).square().sum(1)
    wanted = (norm[0] / norm[1]).sort().values.to(dtype)
    torch.testing.assert_close(found.ratios, wanted, rtol=1e-3, atol=0)


@pytest.mark.training
@pytest.mark.parametrize("generate", [disjoint, four_bars])
def test_dma_undoes_the_mixing_of_correlated_factors(generate):
    """12 mixings: 0.9999 (0.0001) and 1.0000 (0.0000), loss at most 2e-5."""
    mixed = mixing(1)
    z = (normal_factors if generate is disjoint else lambda *a: level_factors(a[0], 4, *a[1:]))(
        100, 0.6, 1
    )
    state = torch.get_rng_state()
    found = discover_concepts(ideal_encoder(generate, z, mixed), generate(z), steps=200)
    assert torch.equal(state, torch.get_rng_state())
    assert concept_alignment(found.directions, mixed) > 0.99
    assert found.loss < 1e-3 < 0.03 < float(found.curve[0])
    assert found.curve.shape == (200,) and not found.grouped and found.separation is None
    torch.testing.assert_close(found.directions.norm(dim=1), torch.ones(4).double())


@pytest.mark.training
def test_ima_undoes_the_mixing_of_an_orthogonal_generator_and_dma_does_not():
    """12 mixings: IMA 0.96 (0.08), DMA 0.26 (0.03)."""
    encode, x, mixed = world(orthogonal)
    found = discover_concepts(encode, x, kind="ima", steps=200, restarts=2)
    assert concept_alignment(found.directions, mixed) > 0.6
    assert found.losses.shape == (2,) and found.loss == float(found.losses.min())
    assert found.separation > 0.1
    found = discover_concepts(encode, x, steps=200)
    assert concept_alignment(found.directions, mixed) < 0.4 and found.loss > 0.05


def test_ima_does_not_pretend_to_know_what_constant_gradients_do_not_tell():
    encode, x, mixed = world(rotated)
    slopes = jacobians(encode, x)
    with pytest.warns(UserWarning, match="IMA cannot tell these directions from their mixtures"):
        found = closed_form_ima(slopes[0], slopes[1])
    assert float(found.ratios.max() - found.ratios.min()) < 1e-6
    assert concept_alignment(found.directions, mixed) < 0.5
    with pytest.warns(UserWarning, match="the same ratio at all 120 rows"):
        whole = discover_concepts(encode, x, kind="ima", steps=2, restarts=1)
    assert whole.separation < 1e-6
    # Two that are tied are enough, and rounding hides none.
    scale = torch.tensor([1.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    second = mixed @ torch.diag(scale) @ torch.linalg.solve(mixed, slopes[0])
    for dtype in (torch.float32, torch.float64):
        with pytest.warns(UserWarning, match="two or more directions"):
            closed_form_ima(slopes[0].to(dtype), second.to(dtype))
    scale[1] = 1.01
    second = mixed @ torch.diag(scale) @ torch.linalg.solve(mixed, slopes[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert concept_alignment(closed_form_ima(slopes[0], second).directions, mixed) > 0.999


def test_scales_of_the_embedding_change_nothing():
    encode, x, _ = world(disjoint)
    scales = torch.tensor([1e-4, 1.0, 30.0, 1e3], dtype=torch.float64)
    for kind in ("dma", "ima"):
        one, other = (
            discover_concepts(e, x, kind=kind, steps=5, restarts=2, seed=3)
            for e in (encode, lambda rows: encode(rows) * scales)
        )
        same = other.directions * scales
        torch.testing.assert_close(one.directions, same / same.norm(dim=1, keepdim=True))
        torch.testing.assert_close(one.curve, other.curve)


@pytest.mark.training
def test_concepts_are_the_factors_and_lead_back_to_the_embedding():
    encode, x, _ = world(disjoint)
    found = discover_concepts(encode, x, steps=150)
    concepts = found.encode(x)
    torch.testing.assert_close(concepts, encode(x) @ found.directions.T)
    torch.testing.assert_close(found.embed(concepts), encode(x))
    torch.testing.assert_close(found.embed(concepts.reshape(2, 60, 4))[1], encode(x)[60:])
    z = normal_factors(120, 0.6, 0)
    seen = np.corrcoef(concepts.T.numpy(), z.T.numpy())[:4, 4:]
    best = np.abs(seen).max(0)
    assert (best > 0.99).all()  # the least of four, 12 mixings: 0.9999 (0.0004)


@pytest.mark.training
def test_fewer_directions_than_factors_are_groups():
    encode, x, mixed = world(disjoint)
    found = discover_concepts(encode, x, 2, steps=150)
    assert found.directions.shape == (2, 4) and found.grouped
    assert found.encode(x).shape == (120, 2)
    # The loss vanishes, as if each were a factor.
    assert found.loss < 1e-3  # 12 mixings: at most 4e-6
    with pytest.raises(ValueError, match="2 concepts of an embedding of 4 dimensions"):
        found.embed(found.encode(x))
    # A sum of two factors has the same loss, 0.
    inverse = torch.linalg.inv(mixed)
    merged = torch.stack([inverse[0] + inverse[1], inverse[2] - 5 * inverse[3]])
    assert float(concept_loss(merged, jacobians(encode, x), "dma").max()) < 1e-12


def test_rows_in_which_a_dimension_has_no_gradient_are_in_nobodys_way():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(5, 3, generator=generator)
    rows = torch.randn(40, 5, generator=generator)
    found = discover_concepts(lambda x: (x @ weights).relu(), rows, steps=30)
    slopes = jacobians(lambda x: (x @ weights).relu(), rows)
    still = ~slopes.any(-1).any(-1)
    assert still.any() and slopes.any()  # in some rows nothing moves at all
    losses = concept_loss(found.directions, slopes, "dma")
    shares = (found.directions @ slopes).abs()
    shares = shares / shares.sum(-1, keepdim=True).clamp(min=1e-30)
    met = shares @ shares.mT
    apart = met - torch.diag_embed(met.diagonal(dim1=-2, dim2=-1))
    assert (losses[still] == 0).all()
    torch.testing.assert_close(losses, apart.square().sum((-2, -1)).sqrt(), rtol=1e-4, atol=1e-6)
    assert found.loss == pytest.approx(float(losses.mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("product", "wanted"),
    [
        ([[0, -2.0], [1e-3, 0]], 1.0),
        ([[1.0, 1], [1, -1]], 0.0),
        ([[3.0, 0, 0], [1, 1, 0]], 1 - math.log(2) / 2 / math.log(3)),
    ],
)
def test_alignment_by_hand(product, wanted):
    product = torch.tensor(product)
    mixed = mixing(0, product.shape[1]).float()
    directions = product @ torch.linalg.inv(mixed)
    assert concept_alignment(directions, mixed) == pytest.approx(wanted, abs=1e-4)


def embedding(rows):
    return torch.stack([rows[:, 0], rows[:, 1] ** 2, rows.sum(1)], 1)


@pytest.mark.parametrize(
    ("encode", "options", "words"),
    [
        (embedding, {"kind": "da"}, "unknown kind 'da': did you mean 'dma'"),
        (embedding, {"n_directions": 4}, "4 directions of an embedding of 3 dim.*expected 2 to 3"),
        (embedding, {"n_directions": 1}, "n_directions is 1"),
        (lambda x: x[:, :1], {}, "1 directions of an embedding of 1"),
        (embedding, {"steps": 0}, "steps is 0"),
        (embedding, {"batch_size": 0}, "batch_size is 0"),
        (embedding, {"restarts": 0}, "restarts is 0"),
        (embedding, {"learning_rate": 0.0}, "learning_rate is 0.0, expected a number above 0"),
        (embedding, {"seed": -1}, "seed is -1"),
        (lambda x: embedding(x) * torch.tensor([1, 0, 1.0]), {}, r"dimensions \[1\] have no grad"),
        (lambda x: embedding(x) @ torch.ones(3, 3).tril(), {}, None),
        (lambda x: x[:, :3] @ torch.tensor([[1.0, 0, 1], [0, 1, 1], [0, 0, 0]]), {},
         "of the embedding's 3 dimensions have 2 independent directions"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_one_line(encode, options, words):
    rows = torch.rand(6, 5, generator=torch.Generator().manual_seed(0))
    if words is None:  # a mixture of all is nothing to refuse
        assert len(discover_concepts(encode, rows, steps=1).directions) == 3
        return
    with pytest.raises(ValueError, match=words) as error:
        discover_concepts(encode, rows, **options)
    assert "\n" not in str(error.value)


def test_closed_forms_and_scores_refuse_what_is_none():
    one = torch.rand(3, 9, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"shape \(9,\), expected finite \(K, P\)"):
        closed_form_dma(one[0])
    with pytest.raises(ValueError, match="fewer independent columns, expected 3"):
        closed_form_dma(one[:, :2])
    with pytest.raises(ValueError, match=r"\(3, 9\) and \(2, 9\), expected equal"):
        closed_form_ima(one, one[:2])
    with pytest.raises(ValueError, match="3 dimensions have 2 independent directions"):
        closed_form_ima(one, torch.stack([one[0], one[1], one[0] + one[1]]))
    with pytest.raises(ValueError, match=r"\(3, 9\) and the mixing \(3, 9\), expected"):
        concept_alignment(one, one)
    with pytest.raises(ValueError, match="factors is 1"):
        concept_alignment(one[:, :2], one[:2, :1])
    with pytest.raises(ValueError, match="direction 1 times the mixing is 0"):
        concept_alignment(torch.diag(torch.tensor([1.0, 0.0])), torch.eye(2))


def test_the_docs_page_runs():
    scope = run_page("metrics/identifiability")
    test, found = scope["test"], scope["found"]
    assert abs(test.score - 0.08) < 0.01 and abs(float(test.null.mean()) - 0.08) < 0.01
    assert test.p_value > 0.05 and scope["table"].codes.shape[1] == 4
    back = scope["encode"](scope["images"])
    torch.testing.assert_close(found.embed(scope["concepts"]), back, rtol=1e-3, atol=1e-4)
