"""Faults that are planted into pairs that are not fitted: each figure by its closed form."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import xarray as xr
from torch.testing import assert_close
from worlds import planted_counterfactuals as planted
from worlds.made_up import made_up
from worlds.planted_counterfactuals import FAULTS, VECTORS
from worlds.stories.shifted import Shifted, ShiftedConfig
from worlds.stories.vectors import Vectors, VectorsConfig

from ppl_models import Batch, inference
from ppl_models.parts.sparse_shifts import SURE

ROWS = 9


@pytest.fixture(scope="module")
def world():
    """A pair whose effects are linear in their causes, with noise of one scale; and rows."""
    torch.manual_seed(0)
    pair = Vectors(VectorsConfig()).double()
    with torch.no_grad():
        for name in "bc":
            for weight in pair.scm.mechanisms[name].layers[0].raw.net.first.weights.values():
                weight.copy_(torch.randn(2, 1) * torch.tensor([[1.0], [0.0]]))
        for weight in pair.guide.named_parameters():
            if weight[0].startswith("factors.z") and "weights" in weight[0]:
                weight[1][2:] = 0  # log-variances
    draw = torch.Generator().manual_seed(1)
    sizes = {"a": 1, "b": 1, "c": 1, "x": 12}
    sites = {n: torch.randn(ROWS, d, generator=draw).double() for n, d in sizes.items()}
    return pair, Batch({**sites, "k": torch.arange(ROWS) % 3})


def faulty(world, fault, made=False):
    pair, batch = world
    pair = copy.deepcopy(pair)
    pair.made = made
    return pair, batch, FAULTS[fault].plant(pair, VECTORS)


def loc(pair, batch, **at):
    """Mean of c, at causes that may be others."""
    values = {name: at.get(name, batch[name]) for name in "ab"}
    mean, _ = pair.scm.mechanisms["c"].layers[0].raw(**values).chunk(2, -1)
    return mean.detach()


def span(value):
    return value.max() - value.min()


def figure(found, name, **at):
    return torch.tensor(float(found[name].sel(**at)), dtype=torch.float64)


def test_no_axiom_tells_which_way_arrows_run(world):
    turned, batch = copy.deepcopy(world[0]), world[1]
    turned.scm = planted.vectors_reversed().double()
    null = inference.null_intervention(turned, batch)
    assert float(null["largest"].max()) < 1e-12
    back = inference.reversibility(turned, batch)["error"].sel(site=["a", "b", "c"])
    assert float(back.max()) < 1e-12


def test_an_inverse_that_is_off(world):
    pair, batch, plant = faulty(world, "inverse is not that of the mechanism")
    off = 0.2 * (batch["c"] - loc(pair, batch)).abs().max() / span(batch["c"])
    with torch.no_grad(), plant:
        found = inference.null_intervention(pair, batch)
    assert_close(figure(found, "largest", set_site="a", site="c"), off)
    assert float(found["largest"].sel(site="b").max()) < 1e-12  # which is not above c


def test_abduction_at_other_parents(world):
    """The noise of c is what is left of it about the mean at mean parents."""
    pair, batch, plant = faulty(world, "abduction at other parents")
    means = {name: batch[name].mean(0, keepdim=True).expand(ROWS, 1) for name in "ab"}
    off = (loc(pair, batch) - loc(pair, batch, **means)).abs()
    with plant:
        found = inference.null_intervention(pair, batch)
    assert_close(figure(found, "error", set_site="b", site="c"), off.mean() / span(batch["c"]))


def test_effects_that_move_causes(world):
    pair, batch, plant = faulty(world, "effects move causes")
    by = 0.2 * (batch["c"].roll(1, 0) - batch["c"]).abs().max() / span(batch["a"])
    with plant:
        null = inference.null_intervention(pair, batch)
        found = inference.non_descendants(pair, batch)
    assert float(null["largest"].max()) < 1e-12  # what is set to what it is moves nothing
    assert_close(figure(found, "largest", set_site="c", site="a"), by)
    assert np.isnan(found["largest"].sel(set_site="a", site="c"))


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("fault", ["data ignore a cause", "parents in another order"])
def test_data_that_do_not_show_what_was_set(world, fault, made):
    """The oracle reads the true direction of c, along which nothing else moves the data."""
    pair, batch, plant = faulty(world, fault, made)
    first = pair.decoder.first
    columns = [first.weights[name].detach() for name in ("c", "b", "z")]
    basis = torch.cat([*columns, first.weights["k"].detach().mT], 1)
    reads = torch.linalg.pinv(basis)[:1].mT
    with torch.no_grad(), plant:
        found = inference.effectiveness(pair, batch, None, {"c": lambda x: x @ reads})
    shown = batch["x"] @ reads  # as it was; b stands where c stood, if data are made
    if made:
        shown = first.bias.detach() @ reads + (batch["b"] if "order" in fault else 0)
    off = (shown - batch["c"].roll(1, 0)).abs().mean()
    assert_close(figure(found, "error", set_site="c"), off / span(batch["c"]))


def test_a_code_that_hangs_on_a_cause(world):
    """What is made comes back with nine times the cause's own part of the code too much."""
    pair, batch, plant = faulty(world, "code hangs on a cause", made=True)
    to_z = pair.guide.factors["z"].net.first.weights["c"][:2].detach().clone()
    torch.manual_seed(0)
    before = pair.counterfactual(batch, c=batch["c"])["x"]
    with torch.no_grad(), plant:
        torch.manual_seed(0)
        after = pair.counterfactual(batch, c=batch["c"])["x"]
        found = inference.null_intervention(pair, batch)
    moved = 9 * batch["c"] @ to_z.T @ pair.decoder.first.weights["z"].detach().T
    assert_close(after - before, moved)
    assert float(found["error"].sel(set_site="a", site="x")) > 0


# ---- masks -------------------------------------------------------------------------------------

TRUTH = np.random.default_rng(0).permuted(np.arange(72) < 14).reshape(12, 6)
START = 1 / (1 + np.exp(-5.0))


def overlap():
    """Of true entries, the share that is true of the next cause, too."""
    return (TRUTH & np.roll(TRUTH, 1, 0)).sum() / 14


@pytest.mark.parametrize(
    ("fault", "masks", "rate"),
    [
        (None, 0, 0),
        ("masks never closed", 1 - 14 / 72, 72 - 14),
        ("no mask open", 14 / 72 - (1 - START), 14 - 72 * (1 - START)),
        ("masks of other causes", 1 - overlap(), 0),
    ],
)
def test_masks_that_are_not_the_true_ones(fault, masks, rate):
    pair = Shifted(ShiftedConfig())
    with torch.no_grad():
        pair.shifts.logits.copy_(SURE * (2 * torch.tensor(TRUTH) - 1))
        if fault is not None:
            with FAULTS[fault].plant(pair, planted.PAIRS["shifted"]):
                pass
        probs = pair.shifts.probabilities([str(n) for n in range(12)]).numpy()
    structure = xr.Dataset({"target_probs": (("cause", "latent"), probs)})
    idata = made_up(np.zeros((100, 50)), structure=structure)
    found = {f.name: f for f in inference.verdict(idata, {"target_probs": TRUTH}).findings}
    assert found["masks"].figure == pytest.approx(masks, abs=1e-5)
    assert found["mask rate"].figure == pytest.approx(rate, abs=1e-3)
    failed = {name for name, f in found.items() if not f.ok}
    named = set() if fault is None else set(FAULTS[fault].checks)
    assert named <= failed <= {"masks", "mask rate"} and bool(failed) == bool(named)
