"""Every check of `inference.debug` catches the fault that is planted for it, and no other pair."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import ppl_models as zoo
from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.catalogue import PAPERS
from ppl_models.config import Config, setting
from ppl_models.data import Table
from ppl_models.networks import Label, Net
from ppl_models.pair import Card, Pair
from ppl_models.prior_rows import draw_rows
from ppl_models.testing.cases import small_settings

ROWS = 6  # three of each kind, as many as x has columns: shapes alone tell nothing


@dataclass(frozen=True)
class PlantedConfig(Config):
    fault: str = setting("", "what is wrong")


class Planted(Pair):
    """A sound pair, until a fault is asked for."""

    Config = PlantedConfig
    config: PlantedConfig
    card = Card(
        "planted", "A pair with a fault", "-", 2026, "-", "test", {"x": "data"},
        {"y": "class", "z": "code"}, ("y",),
    )  # fmt: skip

    def __init__(self, config: PlantedConfig) -> None:
        super().__init__(config)
        fault = config.fault
        self.decoder = Net({"y": Label(3), "z": 2}, (4,), 3)
        self.idle = nn.Linear(2, 2) if fault == "idle network" else nn.Identity()
        factors = {"y": guides.Categorical(3, {"x": 3}), "z": guides.Normal(2, {"x": 3})}
        if fault == "guide lacks z":
            del factors["z"]
        if fault == "guide samples w":
            factors["w"] = guides.Normal(1, {"x": 3})
        self.guide = guides.Factored(**factors)
        if fault == "weight is nan":
            with torch.no_grad():
                self.decoder.rest[-1].bias[1] = torch.nan

    def model(self, batch: Batch) -> None:
        fault = self.config.fault
        zero = self.like().new_zeros(2)
        with (
            pyro.plate("data", 5 * batch.size, subsample=batch.rows, dim=-1)
            if (fault == "own plate")
            else self.plate(batch)
        ):
            y = pyro.sample("y", dist.Categorical(logits=zero.new_zeros(3)), obs=batch.get("y"))
            z_prior = dist.Normal(zero, zero + 1).to_event(1)
            if fault == "prior is positive":
                z_prior = dist.LogNormal(zero, zero + 1).to_event(1)
            z = pyro.sample("z", z_prior)
            if fault == "poisson site":
                pyro.sample("count", dist.Poisson(z.exp().sum(-1)))
            x = self.decoder(y=y, z=z)
            with poutine.scale(scale=2.0 if fault == "own scale" else 1.0):
                if fault == "missing to_event":
                    pyro.sample("x", dist.Normal(x, 1.0), obs=batch.get("x"))
                else:
                    pyro.sample("x", dist.Normal(x, 1.0).to_event(1), obs=batch.get("x"))


@dataclass(frozen=True)
class BitsConfig(Config):
    bits: int = setting(4, "k")


class BitVector(Pair):
    """x ~ N(W b, 1) with k bits in one vector."""

    Config = BitsConfig
    config: BitsConfig
    card = Card("bits", "Bits", "-", 2026, "-", "test", {"x": "data"}, {"b": "bits"})

    def __init__(self, config: BitsConfig) -> None:
        super().__init__(config)
        self.net = nn.Linear(config.bits, 2)
        self.logits = nn.Parameter(torch.zeros(config.bits))
        self.guide = self._guide

    def model(self, batch: Batch) -> None:
        with self.plate(batch):
            b = pyro.sample("b", self.prior(torch.zeros_like(self.logits)))
            pyro.sample("x", dist.Normal(self.net(b), 1.0).to_event(1), obs=batch.get("x"))

    def _guide(self, batch: Batch) -> None:
        with self.plate(batch):
            pyro.sample("b", self.prior(self.logits))

    @staticmethod
    def prior(logits: torch.Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=logits).to_event(1)


def rows(**sites: torch.Tensor) -> Table:
    torch.manual_seed(0)
    y = torch.arange(ROWS) % 3
    mask = torch.arange(ROWS) % 2 == 0
    return Table("planted", {"x": torch.randn(ROWS, 3), "y": y, **sites}, observed={"y": mask})


def planted(fault: str) -> Pair:
    torch.manual_seed(0)
    return Planted(PlantedConfig(fault))


@pytest.mark.parametrize("name", ["", *PAPERS])
def test_a_sound_pair_passes(name: str, capsys) -> None:
    if name:
        pair = zoo.build(name, **small_settings(zoo.catalogue.get(name)))
        torch.manual_seed(0)  # all five ReLUs of a tiny layer are at 0 in some rows
        report = inference.debug(pair, draw_rows(pair, ROWS))
    else:
        pair = planted("")
        report = inference.debug(pair, rows())
    assert report.ok, str(report)
    checked = {c.name for c in report.checks}
    names = "runs, sites, plate, support, enumeration, log density, loss, gradient"
    assert checked == set(names.split(", "))
    assert capsys.readouterr().out.strip() == str(report)


@pytest.mark.parametrize("name", ["meme", "mmvae", "mopoe", "mvae"])
def test_complete_rows_are_checked_without_some_of_it_too(name: str) -> None:
    pair = zoo.build(name, **small_settings(zoo.catalogue.get(name)))
    rows = draw_rows(pair, ROWS)
    assert {c.rows for c in inference.debug(pair, rows).checks} >= {"s, t", "s", "t"}
    one = rows.without("t")  # whoever brings gaps is checked on these
    assert {c.rows for c in inference.debug(pair, one).checks} == {"s", "all kinds"}


@pytest.mark.parametrize(
    ("fault", "check", "message"),
    [
        ("guide lacks z", "sites", "nobody samples 'z'"),
        ("guide samples w", "sites", "the guide samples 'w'"),
        ("poisson site", "sites", "nobody samples 'count'"),
        ("poisson site", "enumeration", "'count' can be neither enumerated nor reparameterised"),
        ("own plate", "plate", "counts 5 times"),
        ("own scale", "plate", "'x' counts 2 times"),
        ("missing to_event", "plate", "'x' has batch shape (3, 3)"),
        ("prior is positive", "support", "the guide's values of 'z' leave the support"),
        ("weight is nan", "log density", "'x' is not finite in the model, first at row 0"),
        ("weight is nan", "loss", "not finite, first at row 0"),
        ("idle network", "gradient", "no gradient reaches 'idle.weight', 'idle.bias'"),
    ],
)
def test_a_planted_fault_is_found(fault: str, check: str, message: str) -> None:
    report = inference.debug(planted(fault), rows())
    found = [c.problem for c in report.problems if c.name == check]
    assert any(message in problem for problem in found), str(report)


def test_values_outside_the_support_are_found() -> None:
    report = inference.debug(planted(""), rows(y=torch.arange(ROWS)))
    assert any("observed values of 'y' leave the support" in c.problem for c in report.problems)


def test_an_objective_that_does_not_take_the_pair_is_named() -> None:
    report = inference.debug(planted(""), rows(), inference.ELBO())
    (problem,) = (c for c in report.problems if c.name == "loss")
    assert problem.rows == "x" and "site 'y' is discrete" in problem.problem


def test_a_short_vector_of_bits_is_summed_out_and_a_long_one_is_not() -> None:
    for bits, values in ((4, 16), (40, None)):
        pair = BitVector(BitsConfig(bits))
        found = inference.debug(pair, Table("bits", {"x": torch.randn(3, 2)}))
        (check,) = (c for c in found.checks if c.name == "enumeration")
        if values:
            assert check.detail == f"b ({values} values)" and not check.problem
        else:
            assert "'b' can be neither enumerated nor reparameterised" in check.problem


def test_nothing_is_left_behind() -> None:
    pair, table = planted(""), rows()
    state = torch.get_rng_state()
    inference.debug(pair, table)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in pair.parameters())
    assert not list(pyro.get_param_store().keys())
