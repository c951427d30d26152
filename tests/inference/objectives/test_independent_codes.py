"""Codes exchanged within groups, and what a critic and a pair make of them, against loops."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional
from torch.testing import assert_close
from worlds.labelled_codes import CLASSES, Codes, rows_of

from ppl_models.batch import Batch
from ppl_models.inference import (
    ELBO,
    Evaluation,
    ExchangedCritic,
    IndependentCodes,
    independent_codes,
)
from ppl_models.inference.objectives.code_terms.independent_codes import group_sizes, order_within
from ppl_models.inference.traces.sites import UnhandledSite
from ppl_models.networks import Label, Net

GROUPS = [[0], [1, 1, 1], [0, 1, 2, 0, 1, 0], [5, -1, 5, 5, 7, 7, -1, 3]]


def critic_of(dtype: torch.dtype, within: str, first: str = "z_1") -> Net:
    other = "z_2" if first == "z_1" else "z_1"
    sizes = {"z_1": 2, "z_2": 1}
    given = {first: sizes[first], other: sizes[other]}
    if within:
        given[within] = Label(CLASSES)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Net(given, (4,), 1, "tanh").to(dtype)


def by_loops(pair: Codes, critic: Net, batch: Batch, within: str, site: str, swapped: bool):
    """The paper's loss: a mean over each group, of BCE with labels right or swapped."""
    noise = torch.rand(batch.count, 1, dtype=batch["x"].dtype)[:, 0].tolist()
    z = dict(zip(("z_1", "z_2"), pair.codes(batch["x"]), strict=True))
    labels = batch[within].tolist() if within else [0] * batch.count
    total = pair.weights.new_zeros(())
    for value in sorted(set(labels)):
        rows = [row for row, label in enumerate(labels) if label == value]
        if len(rows) < 2:
            continue
        order = sorted(rows, key=noise.__getitem__)
        one_hot = {within: torch.full((len(rows),), value)} if within else {}
        own = {s: codes[rows] for s, codes in z.items()}
        real = critic(**own, **one_hot).squeeze(-1)
        fake = critic(**{**own, site: z[site][order]}, **one_hot).squeeze(-1)
        one, zero = torch.ones_like(real), torch.zeros_like(real)
        if swapped:
            one, zero = zero, one
        bce = functional.binary_cross_entropy_with_logits
        total = total + bce(real, one) + bce(fake, zero)
    return batch.size * total


@pytest.mark.parametrize("groups", GROUPS)
def test_rows_move_in_the_order_of_their_noise_within_their_group(groups) -> None:
    noise = torch.rand(len(groups), generator=torch.Generator().manual_seed(0))
    order = order_within(torch.tensor(groups), noise)
    assert sorted(order.tolist()) == list(range(len(groups)))
    for value in set(groups):
        rows = [row for row, group in enumerate(groups) if group == value]
        assert order[rows].tolist() == sorted(rows, key=noise.tolist().__getitem__)
    sizes = Counter(groups)
    assert group_sizes(torch.tensor(groups)).tolist() == [sizes[group] for group in groups]


def test_all_orders_of_the_groups_come_alike() -> None:
    """Groups of three and of two rows have 12 orders together."""
    groups, generator = torch.tensor([1, 0, 1, 0, 1]), torch.Generator().manual_seed(0)
    seen = Counter(
        tuple(order_within(groups, torch.rand(5, generator=generator)).tolist())
        for _ in range(2400)
    )
    expected = {
        (a[0], b[0], a[1], b[1], a[2])
        for a, b in itertools.product(
            itertools.permutations((0, 2, 4)), itertools.permutations((1, 3))
        )
    }
    assert set(seen) == expected and stats.chisquare(list(seen.values())).pvalue > 0.01


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("within", ["", "s"])
@pytest.mark.parametrize(("rows", "site"), [(1, "z_1"), (4, "z_2"), (9, "z_1")])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_gradients_are_those_of_loops(
    swapped, within, rows, site, scale, dtype
) -> None:
    pair, batch = Codes(dtype), rows_of(rows, dtype, scale)
    critic = critic_of(dtype, within, site)
    others = ("z_2",) if site == "z_1" else ("z_1",)
    objective = (IndependentCodes if swapped else ExchangedCritic)(critic, site, others, within)
    torch.manual_seed(5)
    loss = objective.differentiable_loss(pair.model, pair.guide, batch)
    torch.manual_seed(5)
    by_hand = by_loops(pair, critic, batch, within, site, swapped)
    assert_close(loss, by_hand)
    if rows == 1:
        assert loss.item() == 0
        return
    mine = [*critic.parameters(), *([pair.weights] if swapped else [])]
    found = torch.autograd.grad(loss, mine, retain_graph=True)
    # The critic's loss moves no code.
    assert_close(found, torch.autograd.grad(by_hand, mine))
    assert swapped or torch.autograd.grad(loss, pair.weights, allow_unused=True) == (None,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("within", ["", "s"])
def test_what_it_comes_to_exactly(dtype, within) -> None:
    """A blind critic's loss is 2 log 2 a group; codes that are the label cannot be told."""
    pair, batch = Codes(dtype), rows_of(30, dtype)
    values = len(batch["s"].unique()) if within else 1
    blind = critic_of(dtype, within)
    with torch.no_grad():
        for parameter in blind.parameters():
            parameter.zero_()
    for make in (ExchangedCritic, IndependentCodes):
        objective = make(blind, "z_1", ("z_2",), within)
        loss = objective.differentiable_loss(pair.model, pair.guide, batch) / 30
        assert_close(loss, loss.new_tensor(values * 2 * math.log(2)))
    if within:
        x = batch["s"].to(dtype).unsqueeze(-1).expand(-1, 3).clone()
        batch = Batch({"x": x, "s": batch["s"]})
        critic = critic_of(dtype, within)
        seen, moved, _ = ExchangedCritic(critic, "z_1", ("z_2",), within).exchanged(
            Evaluation(pair.model, pair.guide, batch), detach=False
        )
        assert_close(seen, moved, rtol=0, atol=0)


def test_rows_without_the_label_do_not_count_and_draw_nothing() -> None:
    pair, critic = Codes(), critic_of(torch.float64, "s")
    known, unknown = rows_of(6, torch.float64), rows_of(8, torch.float64, label=False)
    for make in (ExchangedCritic, IndependentCodes):
        objective = make(critic, "z_1", ("z_2",), "s")
        torch.manual_seed(1)
        alone = objective.differentiable_loss(pair.model, pair.guide, known)
        torch.manual_seed(1)
        both = objective.differentiable_loss(pair.model, pair.guide, (unknown, known))
        assert torch.equal(alone, both) and both.item() > 0
    with pytest.raises(UnhandledSite, match="exchanges 'z_1' within 't', which is no site of"):
        ExchangedCritic(critic, "z_1", ("z_2",), "t").differentiable_loss(
            pair.model, pair.guide, known
        )


def test_one_run_of_the_pair_and_one_player_for_all_critics() -> None:
    pair, calls = Codes(), []
    model = lambda batch: (calls.append("model"), pair.model(batch))  # noqa: E731
    guide = lambda batch: (calls.append("guide"), pair.guide(batch))  # noqa: E731
    critics = {site: critic_of(torch.float64, "s", site) for site in ("z_1", "z_2")}
    term, player = independent_codes(
        critics, ("z_1", "z_2"), {"z_1": "s", "z_2": "s"}, 3.0, learning_rate=0.1
    )
    batch = rows_of(6, torch.float64)
    player.objective.differentiable_loss(model, guide, batch)
    assert calls == ["guide"]
    calls.clear()
    told = (ELBO() + term).loss_by_part(model, guide, batch)
    assert calls == ["guide", "model"]
    assert told.names[:3] == (
        "bound", "independent_codes(z_1, s)", "independent_codes(z_2, s)"
    )  # fmt: skip
    assert str(term) == (
        "3 sum_s [log sigmoid D(z_1, z_2, s, z_1 exchanged) + log sigmoid -D(z_1, z_2, s)]  +  "
        "3 sum_s [log sigmoid D(z_2, z_1, s, z_2 exchanged) + log sigmoid -D(z_2, z_1, s)]"
    )
    assert set(player.module.keys()) == {"z_1", "z_2"} and player.learning_rate == 0.1
    # At weight 0 nothing is drawn: the pair is trained as by the bound alone.
    torch.manual_seed(0)
    state = torch.get_rng_state()
    free, _ = independent_codes(critics, ("z_1", "z_2"), {"z_1": "s"}, 0.0)
    free.differentiable_loss(pair.model, pair.guide, batch)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"critics": {}}, "critics is empty, expected a network by code"),
        ({"critics": {"z_3": nn.Linear(1, 1)}}, "unknown code 'z_3': did you mean 'z_2'"),
        ({"within": {"z": "s"}}, "unknown code 'z'"),
        ({"sites": ("z_1",)}, "has no others, expected some sites"),
        ({"weight": math.nan}, "weight of IndependentCodes.'z_1'. is nan"),
    ],
)
def test_what_it_cannot_be_is_one_line(options, message) -> None:
    given = {"critics": {"z_1": nn.Linear(3, 1)}, "sites": ("z_1", "z_2"), **options}
    with pytest.raises(ValueError, match=message) as told:
        independent_codes(**given)
    assert "\n" not in str(told.value)


def test_a_critic_of_other_inputs_is_named() -> None:
    pair = Codes()
    critic = Net({"z_1": 2, "z_2": 1}, (4,), 1).double()
    with pytest.raises(ValueError, match=r"critic of 'z_1' reads \['z_1', 'z_2'\], expected"):
        ExchangedCritic(critic, "z_1", ("z_2",), "s").differentiable_loss(
            pair.model, pair.guide, rows_of(4, torch.float64)
        )
