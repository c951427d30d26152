"""Attributes in coordinates of their own: every term by loops, and who learns from what."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from worlds.given_codes import GivenCodes
from worlds.linear import draw, linear

from ppl_models.batch import Batch
from ppl_models.inference import (
    IWELBO,
    AttributeReaders,
    Excitation,
    Inhibition,
    guided_attributes,
)
from ppl_models.networks import Net

D, B = 3, 5
PLACES = {"a": 0, "b": 2}
KNOWN = [("a", "b"), ("b",), ()]


def networks(inputs: int, dtype: torch.dtype = torch.float64) -> nn.ModuleDict:
    """One called by keyword, one by place."""
    torch.manual_seed(inputs)
    made = {"a": Net({"z": inputs}, (4,), 1), "b": nn.Linear(inputs, 1)}
    return nn.ModuleDict(made).to(dtype)


def rows_of(known: tuple[str, ...], scale: int, dtype: torch.dtype) -> Batch:
    torch.manual_seed(3)
    sites = {"x": torch.randn(B, D, dtype=dtype)}
    sites |= {label: torch.arange(B) % (2 + (label == "b")) % 2 for label in known}
    return Batch(sites, size=B * scale)


def logit(net: nn.Module, part: Tensor) -> Tensor:
    return (net(z=part) if isinstance(net, Net) else net(part)).squeeze()


def by_hand(nets: nn.ModuleDict, z: Tensor, batch: Batch, others: bool, confused: bool) -> list:
    """The cross-entropies of each row, one row and label at a time."""
    losses = []
    for row in range(len(z)):
        total = z.new_zeros(())
        for label, place in PLACES.items():
            if label not in batch:
                continue
            seen = [j for j in range(D) if (j != place) == others]
            p = logit(nets[label], z[row, seen]).sigmoid()
            y = 0.5 if confused else int(batch[label][row])
            total = total - y * p.log() - (1 - y) * (1 - p).log()
        losses.append(total)
    return losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1, 10])
def test_terms_and_players_are_the_papers_cross_entropies(dtype, scale) -> None:
    """Of rows that know both labels, one and none, together."""
    pair, heads, others = GivenCodes(D, dtype), networks(1, dtype), networks(D - 1, dtype)
    batches = [rows_of(known, scale, dtype) for known in KNOWN]
    for objective, nets, rest, confused, weight in (
        (Excitation(heads, "z", PLACES, 20.0), heads, False, False, 20.0),
        (Inhibition(others, "z", PLACES, 3.0), others, True, True, 3.0),
        (AttributeReaders(heads, "z", PLACES), heads, False, False, 1.0),
        (AttributeReaders(others, "z", PLACES, others=True), others, True, False, 1.0),
    ):
        expected = sum(
            weight * scale * sum(by_hand(nets, batch["x"], batch, rest, confused))
            for batch in batches
        )
        found = objective.differentiable_loss(pair.model, pair.guide, batches)
        assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert not objective.per_datum(pair.model, pair.guide, batches[2]).any()
        one = by_hand(nets, batches[1]["x"], batches[1], rest, confused)
        found = objective.per_datum(pair.model, pair.guide, batches[1])
        assert_close(found, weight * torch.stack(one))
    silent = nn.ModuleDict({label: nn.Linear(D - 1, 1) for label in PLACES}).to(dtype)
    for parameter in silent.parameters():
        nn.init.zeros_(parameter)
    least = Inhibition(silent, "z", PLACES, 3.0).per_datum(pair.model, pair.guide, batches[0])
    assert_close(least, torch.full_like(least, 2 * 3 * math.log(2)))


def test_each_side_learns_its_own_coordinates() -> None:
    """A head moves its coordinate, an adversary the others, and what trains them no code."""
    pair, batch = GivenCodes(D), rows_of(("b",), 1, torch.float64)
    place = {"b": 2}
    heads, others = ({"b": net["b"]} for net in (networks(1), networks(D - 1)))
    terms, players = guided_attributes(heads, others, "z", place, 2.0, 5.0, steps=3)
    (_, excited), (_, inhibited) = terms.parts
    for term, moved in ((excited, [2]), (inhibited, [0, 1])):
        loss = term.differentiable_loss(pair.model, pair.guide, batch)
        (grad,) = torch.autograd.grad(loss, pair.shift)
        assert grad.nonzero().flatten().tolist() == moved
    assert [p.name for p in players] == ["heads", "adversaries"] and players[1].steps == 3
    for player, nets in zip(players, (heads, others), strict=True):
        loss = player.objective.differentiable_loss(pair.model, pair.guide, batch)
        parameters = list(player.module.parameters())
        assert {id(p) for p in parameters} == {id(p) for p in nets["b"].parameters()}
        grads = torch.autograd.grad(loss, [*parameters, pair.shift], allow_unused=True)
        assert all(g.any() for g in grads[:-1]) and grads[-1] is None
    alone, (head,) = guided_attributes(heads, {}, "z", place)
    assert isinstance(alone, Excitation) and head.name == "heads"


def test_draws_count_as_much_as_their_labels_are_probable() -> None:
    """Three particles for each of four values of a missing label, one draw at a time."""
    pair = linear()
    x = draw(pair, B)[0]
    batch = Batch({"x": x, "a": torch.tensor([0, 1, 1, 0, 1])})
    net, place = nn.Linear(1, 1).double(), {"a": 1}
    term = Excitation(nn.ModuleDict({"a": net}), "z", place, 2.0)
    torch.manual_seed(0)
    run = (IWELBO(3) + term).run(pair.model, pair.guide, batch)
    found, codes = term.rows(run), run.codes("z")
    assert len(codes.values) == 3 * pair.config.classes
    expected = torch.zeros(B, dtype=torch.float64)
    for z, log_weight in zip(codes.values, codes.log_weights, strict=True):
        p = net(z[:, 1:2]).sigmoid().squeeze(-1)
        told = torch.where(batch["a"] == 1, p, 1 - p)
        expected = expected - 2.0 * log_weight.exp() * told.log()
    assert_close(found, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Excitation(networks(1), "z", {"a": 0}), r"of \['a', 'b'\], expected one for"),
        (lambda: Inhibition(networks(2), "z", PLACES, -1.0), "weight of Inhibition"),
        (
            lambda: guided_attributes(networks(1), {}, "z", {"a": 1, "b": 1}),
            "another one for each label",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(make, message) -> None:
    with pytest.raises(ValueError, match=message) as told:
        make()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("nets", "places", "message"),
    [
        ({"a": nn.Linear(1, 2)}, {"a": 0}, r"shape \(1, 5, 2\), expected one logit"),
        ({"a": nn.Linear(1, 1)}, {"a": 3}, "place is 3, expected 0 to 2"),
    ],
)
def test_codes_that_do_not_fit_are_one_line(nets, places, message) -> None:
    pair, batch = GivenCodes(D), rows_of(("a",), 1, torch.float64)
    term = Excitation(nn.ModuleDict(nets).double(), "z", places)
    with pytest.raises(ValueError, match=message):
        term.per_datum(pair.model, pair.guide, batch)


@pytest.mark.parametrize("reader", [Excitation, AttributeReaders])
@pytest.mark.parametrize("value", [2, -1, 0.5])
def test_a_label_of_more_classes_is_one_line(reader, value) -> None:
    pair, batch = GivenCodes(D), rows_of(("a",), 1, torch.float64)
    batch = batch.replace({"x": batch["x"], "a": torch.tensor([0, 1, value, 1, 0])})
    term = reader(nn.ModuleDict({"a": nn.Linear(1, 1)}).double(), "z", {"a": 0})
    with pytest.raises(ValueError, match=f"label 'a' has the value {value}, expected 0 or 1"):
        term.per_datum(pair.model, pair.guide, batch)
