"""CMI's loss by hand on every kind of rows, its sides, and all that is done with the pair."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close
from worlds.processes import together
from worlds.whole_life import whole_life

from ppl_models import build, data, inference
from ppl_models.batch import Batch
from ppl_models.inference.training.sides import sides

SMALL = {"latent": 2, "hidden": (6,), "head_rate": 3e-3, "critic_rate": 1e-2}
B = 6


def pair_of(**settings):
    return build("cmi", data_dim=5, classes_2=3, seed=0, **{**SMALL, **settings}).double()


def batches(known, scale):
    """A batch of rows of each kind, by the labels that it knows."""
    g = torch.Generator().manual_seed(0)
    found = []
    for labels in known:
        sites = {"x": torch.randn(B, 5, generator=g, dtype=torch.float64)}
        for label in labels:
            classes = 2 if label == "s_1" else 3
            sites[label] = torch.arange(B) % classes
        found.append(Batch(sites, size=B * scale, total=B * scale * len(known)))
    return found


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize(
    "known", [[("s_1", "s_2")], [()], [("s_1",), ("s_2",), ("s_1", "s_2"), ()]]
)
def test_the_bound_is_the_cross_entropy_of_known_labels(known, scale) -> None:
    """A label that is missing adds nothing, and its head learns nothing."""
    pair = pair_of()
    given = batches(known, scale)
    loss = pair.objective().differentiable_loss(pair.model, pair.guide, given)
    by_hand = torch.zeros((), dtype=torch.float64)
    for batch in given:
        code = pair.guide.shared["code"](x=batch["x"])
        for place, label in enumerate(("s_1", "s_2")):
            if label in batch:
                own = code[:, 2 * place : 2 * place + 2]
                logits = pair.heads[place](**{f"z_{place + 1}": own})
                by_hand = by_hand + scale * functional.cross_entropy(
                    logits, batch[label], reduction="sum"
                )
    assert_close(loss, by_hand)
    parameters = list(pair.parameters())
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    hand = [None] * len(parameters)
    if by_hand.requires_grad:
        hand = torch.autograd.grad(by_hand, parameters, allow_unused=True)
    for found, expected, parameter in zip(grads, hand, parameters, strict=True):
        zero = torch.zeros_like(parameter)
        assert_close(zero if found is None else found, zero if expected is None else expected)


@pytest.mark.parametrize("independence", ["given_label", "marginal", "none"])
def test_sides_and_rates(independence) -> None:
    pair = pair_of(independence=independence, weight=1.5)
    (stage,) = pair.stages()
    formula = str(stage.objective).replace(str(pair.objective()), "bound")
    assert (
        formula
        == {
            "none": "bound",
            "marginal": "bound  +  3 [log sigmoid D(z_1, z_2, z_1 exchanged) + "
            "log sigmoid -D(z_1, z_2)]",
            "given_label": "bound  +  "
            "3 sum_s_1 [log sigmoid D(z_1, z_2, s_1, z_1 exchanged) + "
            "log sigmoid -D(z_1, z_2, s_1)]  +  "
            "3 sum_s_2 [log sigmoid D(z_2, z_1, s_2, z_2 exchanged) + "
            "log sigmoid -D(z_2, z_1, s_2)]",
        }[independence]
    )
    own, *players = sides(pair, stage, rows=10)
    rates = {
        name: group["lr"]
        for group in own.optimiser.param_groups
        for name, parameter in pair.named_parameters()
        if any(parameter is p for p in group["params"])
    }
    for name, rate in rates.items():
        assert rate == (3e-3 if name.startswith("heads") else 1e-5), name
    assert [p.optimiser.param_groups[0]["lr"] for p in players] == [1e-2] * len(players)
    assert len(players) == (independence != "none")


def pairs(**labelled):
    return data.load(
        "correlated_digits", train=60, validation=16, test=16, source="digits",
        labelled=labelled or None, seed=0,
    )  # fmt: skip


OPTIONS = {"batch_size": 20, "learning_rate": 1e-2, "epochs": 2}


@pytest.mark.parametrize(
    ("independence", "labelled"),
    [
        ("given_label", {"s_1": 0.5}),
        ("given_label", {"s_1": 0.5, "s_2": 0.5}),
        ("marginal", {"s_1": 0.5}),
    ],
)
@pytest.mark.long
def test_the_whole_life(independence, labelled, tmp_path) -> None:
    rows = pairs(**labelled)
    run, idata = whole_life(
        lambda: build("cmi", rows, seed=0, independence=independence, weight=2.0, **SMALL),
        rows, tmp_path, **OPTIONS,
    )  # fmt: skip
    critics = [name for name in run.history if name.startswith("critic.")]
    assert (
        critics
        == {
            "given_label": ["critic.logistic(s_1)", "critic.logistic(s_2)"],
            "marginal": ["critic.logistic(z_1)"],
        }[independence]
    )
    assert set(run.errors(rows.test)) == {"s_1", "s_2"}
    assert idata.posterior["z_1"].shape[-1] == 2 and "s_1" in idata.posterior


@pytest.mark.long
def test_two_processes(tmp_path) -> None:
    rows = pairs()

    def curve(rank=0):
        pair = build("cmi", rows, seed=0, weight=2.0, **SMALL)
        run = inference.fit(pair, rows, seed=0, progress=False, device="cpu", **OPTIONS)
        return {name: torch.tensor(values) for name, values in run.history.items()
                if "code" in name or "critic" in name or name == "bound"}  # fmt: skip

    one = curve()
    assert len(one) == 5
    for outcome in together(2, tmp_path, curve):
        assert not outcome.error, outcome.error
        for name, values in one.items():
            assert_close(outcome.value[name], values, rtol=1e-4, atol=1e-5)
