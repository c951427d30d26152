"""Interventions: what is set, what is redrawn, what stays."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.testing import assert_close
from worlds.stories.causes import causes, rows as seen

import ppl_models as zoo
from ppl_models import Batch, Card, Config, Pair, guides, setting
from ppl_models.interventions import follow

ROWS = 4000


@dataclass(frozen=True)
class ChainConfig(Config):
    size: int = setting(3, "size of x", from_data="x")


class Chain(Pair):
    """A class shifts a code, which moves x beside a style; a leaf hangs on the style."""

    Config = ChainConfig
    card = Card(
        name="chain",
        title="Chain",
        authors="-",
        year=2024,
        arxiv="0000.00000",
        task="tests",
        data={"x": "vector"},
        latents={"y": "class", "code": "code", "style": "style", "leaf": "class of the style"},
        labels=("y", "leaf"),
    )

    def __init__(self, config: ChainConfig) -> None:
        super().__init__(config)
        self.guide = guides.Factored(
            style=guides.Normal(2, {"x": config.size}),
            code=guides.Normal(2, {"x": config.size}),
            y=guides.Categorical(3, {"code": 2}),
        )

    def model(self, batch: Batch) -> None:
        zero = self.like().new_zeros(2)
        with self.plate(batch):
            y = pyro.sample("y", dist.Categorical(logits=zero.new_zeros(3)), obs=batch.get("y"))
            loc = 10.0 * y.to(zero.dtype).unsqueeze(-1) + zero
            code = pyro.sample("code", dist.Normal(loc, 0.5).to_event(1))
            style = pyro.sample("style", dist.Normal(zero, 1.0).to_event(1))
            pyro.sample("leaf", dist.Bernoulli(logits=50 * style[..., 0]), obs=batch.get("leaf"))
            x = torch.cat([code + style, style], -1)[..., : self.config.size]
            pyro.sample("x", dist.Normal(x, 0.1).to_event(1), obs=batch.get("x"))


@pytest.fixture(scope="module")
def chain() -> Chain:
    torch.manual_seed(0)
    return Chain(ChainConfig()).double()


@pytest.fixture(scope="module")
def rows() -> Batch:
    torch.manual_seed(1)
    return Batch({"x": torch.randn(ROWS, 3, dtype=torch.float64)})


def test_what_hangs_on_the_site_is_redrawn_and_the_rest_stays(chain, rows):
    torch.manual_seed(2)
    found = chain.intervene(rows, y=2)
    torch.manual_seed(2)
    with torch.no_grad():
        style = chain.guide(rows)["style"]
    assert set(found) == {"y", "code", "style", "leaf", "x"}
    assert bool((found["y"] == 2).all())
    assert_close(found["style"], style)
    # The code is drawn anew around the new class, not inferred from x.
    standard_error = 0.5 / math.sqrt(ROWS)
    assert_close(
        found["code"].mean(0), torch.full((2,), 20.0).double(), atol=5 * standard_error, rtol=0
    )
    assert (
        found["code"].std(0).allclose(torch.full((2,), 0.5).double(), rtol=5 / math.sqrt(2 * ROWS))
    )
    # x is its mean at those codes.
    assert_close(found["x"], torch.cat([found["code"] + style, style], -1)[:, :3])


def test_draws_of_x_scatter_around_their_mean(chain, rows):
    torch.manual_seed(3)
    found = chain.intervene(rows, mean=False, code=0.0)
    rest = found["x"] - torch.cat([found["style"], found["style"]], -1)[:, :3]
    assert rest.std().item() == pytest.approx(0.1, rel=5 / math.sqrt(2 * 3 * ROWS))


def test_the_site_above_keeps_its_place(chain, rows):
    """Setting the code says nothing of the class above it."""
    torch.manual_seed(4)
    found = chain.intervene(rows, code=0.0)
    torch.manual_seed(4)
    with torch.no_grad():
        assert_close(found["y"], chain.guide(rows)["y"])


def test_a_leaf_that_nobody_infers_follows_its_parent(chain, rows):
    torch.manual_seed(5)
    found = chain.intervene(rows, style=torch.tensor([1.0, 0.0]))
    assert bool((found["leaf"] == 1).all())
    found = chain.intervene(rows, code=0.0)
    clear = found["style"][:, 0].abs() > 1
    assert_close(found["leaf"][clear], (found["style"][clear, 0] > 0).double())


def test_observed_labels_are_kept_and_redrawn_below_the_intervention(chain, rows):
    leaf = torch.ones(ROWS, dtype=torch.float64)
    labelled = rows.replace({**rows, "leaf": leaf, "y": torch.ones(ROWS, dtype=torch.long)})
    found = chain.intervene(labelled, code=0.0)
    assert bool((found["leaf"] == 1).all()) and bool((found["y"] == 1).all())
    found = chain.intervene(labelled, style=torch.tensor([-1.0, 0.0]))
    assert bool((found["leaf"] == 0).all())


def test_transfer_takes_the_sources_values(chain, rows):
    source = Batch({"x": rows["x"].flip(0)})
    torch.manual_seed(6)
    found = chain.transfer(source, rows, ["code"])
    torch.manual_seed(6)
    with torch.no_grad():
        code = chain.guide(source)["code"]
    assert_close(found["code"], code)
    assert_close(found["x"], torch.cat([code + found["style"], found["style"]], -1)[:, :3])


def test_a_class_of_m2_changes_the_picture_and_not_the_style():
    pair = zoo.build("m2", data_dim=6, classes=3, latent=4, hidden=(5,)).double()
    batch = Batch({"x": torch.rand(7, 6, dtype=torch.float64)})
    torch.manual_seed(7)
    pictures = [pair.intervene(batch, y=torch.arange(7) % 3, z=0.5)["x"] for _ in range(2)]
    assert_close(*pictures, rtol=0, atol=0)
    with torch.no_grad():
        raw = pair.decoder(y=torch.arange(7) % 3, z=torch.full((7, 4), 0.5).double())
    assert_close(pictures[0], raw.sigmoid())
    assert pair.training


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"yy": 1}, "unknown site 'yy': did you mean 'y'"),
        ({"code": torch.zeros(5)}, r"site 'code' has shape \(5,\).*broadcasts to \(4000, 2\)"),
    ],
)
def test_values_that_do_not_fit(chain, rows, values, message):
    with pytest.raises(ValueError, match=message):
        chain.intervene(rows, **values)


def test_a_site_above_that_nobody_infers_is_refused(rows):
    torch.manual_seed(0)
    blind = Chain(ChainConfig()).double()
    blind.guide = guides.Factored(
        style=guides.Normal(2, {"x": 3}), code=guides.Normal(2, {"x": 3})
    ).double()
    with pytest.raises(ValueError, match=r"site 'y' is not sampled by the guide, and \['code'"):
        blind.intervene(rows, style=0.0)


def test_transfer_needs_as_many_rows_and_known_sites(chain, rows):
    with pytest.raises(ValueError, match="source has 2 rows and target 4000"):
        chain.transfer(Batch({"x": rows["x"][:2]}), rows, ["code"])
    with pytest.raises(ValueError, match="unknown site of the source 'cod': did you mean 'code'"):
        chain.transfer(rows, rows, ["cod"])


def test_what_depends_on_the_moved_site_follows():
    """In M1+M2 the code z1 hangs on y and z2: it follows them, and x follows it."""
    pair = zoo.build("m1m2", data_dim=5, classes=3, code=4, latent=2, hidden=(6,), hidden_top=(6,))
    kept = {"y": torch.tensor([1, 1]), "z2": torch.zeros(2, 2), "z1": torch.full((2, 4), 0.3)}
    kept["z2"][1] = 2.0
    moved = follow(pair, kept, "z2", 2)["x"]
    assert (moved[0] - moved[1]).abs().max() > 1e-4
    equal = {**kept, "z2": torch.zeros(2, 2)}
    still = follow(pair, equal, "z2", 2)["x"]
    other = follow(pair, {**equal, "y": torch.tensor([0, 0])}, "z2", 2)["x"]
    # Where nothing moves, z1 is kept, and x given z1 hangs on nothing else.
    torch.testing.assert_close(still, other)
    torch.testing.assert_close(still[0], still[1])


class Supports(Chain):
    """A chain whose other sites are a share, a scale, a count and shares that add up."""

    def __init__(self, config: ChainConfig) -> None:
        super().__init__(config)
        self.guide = guides.Factored(y=guides.Categorical(3, {"x": config.size}))

    def model(self, batch: Batch) -> None:
        zero = self.like().new_zeros(self.config.size)
        with self.plate(batch):
            y = pyro.sample("y", dist.Categorical(logits=zero.new_zeros(3)), obs=batch.get("y"))
            loc = y.to(zero.dtype).unsqueeze(-1) + zero
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=batch.get("x"))
            pyro.sample("share", dist.Uniform(zero, 1.0).to_event(1))
            pyro.sample("scale", dist.LogNormal(zero[0], 1.0))
            pyro.sample("count", dist.Poisson(zero[0].exp()))
            pyro.sample("shares", dist.Dirichlet(zero.exp()))
            pyro.sample("many", dist.Categorical(logits=zero.new_zeros(40)))


CLASSES = "expected one of its 3 classes 0, 1, 2"
FINITE = "expected finite numbers"


@pytest.mark.parametrize(
    ("site", "value", "words"),
    [
        ("y", 3, f"is set to 3, {CLASSES}"),
        ("y", 1.5, f"is set to 1.5, {CLASSES}"),
        ("y", -1, f"is set to -1, {CLASSES}"),
        ("y", float("nan"), f"is set to nan, {CLASSES}"),
        ("y", [0, 1, 2, 3], f"is set to 3, {CLASSES}"),
        ("y", torch.tensor([0, 1, 2, -2]), f"is set to -2, {CLASSES}"),
        ("y", 2**40, f"is set to 1.09951e+12, {CLASSES}"),
        ("many", 40, "is set to 40, expected one of its 40 classes 0, 1, ..., 39"),
        ("y", "ape", "is set to 'ape', expected numbers"),
        ("y", None, "is set to None, expected numbers"),
        ("y", 1j, "is set to 1j, expected numbers"),
        ("share", 1.5, "is set to 1.5, expected numbers from 0 to 1"),
        ("share", [0.5, -0.1, 0.5], "is set to -0.1, expected numbers from 0 to 1"),
        ("scale", 0.0, "is set to 0, expected numbers above 0"),
        ("scale", float("inf"), "is set to inf, expected numbers above 0"),
        ("count", 2.5, "is set to 2.5, expected whole numbers of at least 0"),
        ("shares", [0.5, 0.25, 0.5],
         "is set to [0.5, 0.25, 0.5], expected shares that add up to 1"),
        ("x", float("nan"), f"is set to nan, {FINITE}"),
        ("x", [0.0, float("-inf"), 0.0], f"is set to -inf, {FINITE}"),
    ],
)  # fmt: skip
def test_values_that_a_site_never_has(site, value, words):
    torch.manual_seed(0)
    pair = Supports(ChainConfig())
    batch = Batch({"x": torch.randn(4, 3)}, torch.arange(4))
    unset = {"share": 1.0, "scale": 1.0, "count": 1.0, "shares": [0.5, 0.25, 0.25]}
    with pytest.raises(ValueError, match=f"^{re.escape(f'site {site!r} {words}')}$"):
        pair.intervene(batch, **{**unset, site: value})


@pytest.mark.parametrize("codes", ["draw", "mean"])
@pytest.mark.parametrize("draws", [None, 2])
def test_a_cause_is_what_the_data_are_made_of(codes, draws):
    """b and c are drawn, or at their means, and x is its mean at these."""
    pair, batch = causes(), seen()
    torch.manual_seed(6)
    found = pair.intervene(batch, a=2.0, codes=codes, draws=draws)
    (ab, ac, bc), b = pair.slopes, found["b"]
    assert_close(found["x"], pair.decoded(b, found["c"], found["k"], found["z"]))
    if codes == "mean":
        assert_close(b, (2 * ab).expand(b.shape))
        assert_close(found["c"], 2 * ac + bc * b)
    else:
        torch.manual_seed(6)
        drawn = pair.intervene(batch, mean=False, a=2.0, draws=draws)
        assert torch.equal(b, drawn["b"]) and torch.equal(found["c"], drawn["c"])


@pytest.mark.parametrize(
    ("site", "value"),
    [
        ("y", 2), ("y", 1.0), ("y", True), ("y", np.int64(2)), ("y", np.array([0, 1, 2, 0])),
        ("share", 0), ("share", 1.0), ("scale", 1e-30), ("count", 3), ("x", 7),
    ],
)  # fmt: skip
def test_values_that_a_site_may_have(site, value):
    torch.manual_seed(0)
    pair = Supports(ChainConfig())
    batch = Batch({"x": torch.randn(4, 3)}, torch.arange(4))
    found = pair.intervene(batch, **{site: value})[site]
    like = torch.as_tensor(value).to(found.dtype)
    assert torch.equal(found, like.expand(found.shape))
