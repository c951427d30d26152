"""Discrete structures that all rows share, in a group of their own."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from worlds import inner_plates as world

from ppl_models import elements
from ppl_models.batch import Batch
from ppl_models.config import Config
from ppl_models.data import Table
from ppl_models.inference.posterior.export import posterior
from ppl_models.inference.posterior.groups import groups_of
from ppl_models.pair import Card, Pair

D, TARGETS = 3, 4


class Graph(Pair):
    """An edge mask, an assignment in plates, a one-hot choice that hangs on another, codes."""

    Config = Config
    coordinates: ClassVar[dict[str, tuple[str, ...]]] = {
        "edge_dim_0": ("a", "b", "c"), "effect": ("a", "b", "c"),
    }  # fmt: skip
    card = Card(
        "graph", "A graph", "-", 2026, "-", "test", {"x": "data"},
        {"edge": "which causes which", "psi": "targets", "pick": "a choice", "z": "codes"},
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__(Config())
        torch.manual_seed(0)
        self.edge, self.psi = (
            nn.Parameter(torch.randn(D, D)),
            nn.Parameter(torch.randn(D, TARGETS)),
        )
        self.pick, self.noise = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.zeros(()))
        self.guide = self._guide

    def _sites(self, edge: Tensor, psi: Tensor, pick: Tensor) -> Tensor:
        edges = pyro.sample("edge", dist.Bernoulli(logits=edge).to_event(2))
        with pyro.plate("effect", D, dim=-1):
            pyro.sample("psi", dist.Categorical(logits=psi))
        first = edges[0, 0].long()  # the choice hangs on an edge
        pyro.sample("pick", dist.OneHotCategorical(logits=pick[first]))
        return edges

    def _guide(self, batch: Batch) -> None:
        self._sites(self.edge, self.psi, self.pick)
        with batch.plate():
            pyro.sample("z", dist.Normal(self.noise, 1.0).expand([D]).to_event(1))

    def model(self, batch: Batch) -> None:
        edges = self._sites(0 * self.edge, 0 * self.psi, 0 * self.pick)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(self.noise, 1.0).expand([D]).to_event(1))
            pyro.sample("x", dist.Normal(z @ edges, 1.0).to_event(1), obs=batch.get("x"))


@pytest.mark.parametrize(("chains", "dtype"), [(1, torch.float32), (2, torch.float64)])
def test_probabilities_and_most_probable_values(
    chains: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    pair = Graph().to(dtype)
    table = Table("rows", {"x": torch.zeros(3, D)})
    pairs = pair if chains == 1 else [pair] * chains
    idata = posterior(pairs, table, draws=100, prior_draws=0, path=tmp_path / "graph.nc")
    found = idata.structure if chains == 1 else idata.structure.isel(chain=1)
    edge = torch.sigmoid(pair.edge).detach().numpy()
    assert found.edge_probs.dims == ("edge_dim_0", "edge_dim_1")
    assert list(found.edge_dim_0.values) == ["a", "b", "c"]
    np.testing.assert_allclose(found.edge_probs, edge, rtol=1e-6)
    np.testing.assert_array_equal(found.edge, (edge > 0.5).astype(float))
    assert found.psi_probs.dims == ("effect", "psi_class")
    assert list(found.effect.values) == ["a", "b", "c"]
    np.testing.assert_allclose(found.psi_probs, pair.psi.softmax(-1).detach(), rtol=1e-6)
    np.testing.assert_array_equal(found.psi, pair.psi.argmax(-1))
    # It hangs on a drawn edge: the mean over draws, within five standard errors.
    given = pair.pick.softmax(-1).detach().numpy()
    exact = (1 - edge[0, 0]) * given[0] + edge[0, 0] * given[1]
    assert found.pick_probs.dims == ("pick_class",)
    assert np.abs(found.pick_probs - exact).max() < 5 * np.abs(given[0] - given[1]).max() / 20
    assert found.pick.values.argmax() == exact.argmax() and found.pick.values.sum() == 1
    assert idata.posterior.psi.dims == ("chain", "draw", "effect")
    assert list(idata.posterior.effect.values) == ["a", "b", "c"]


class Caused(world.Elements):
    """A pair with an effect of each kind of row on each of two things, of which one has names."""

    coordinates: ClassVar[dict[str, tuple[str, ...]]] = {"thing": ("left", "right")}

    def structure(self) -> dict[str, tuple[tuple[str, ...], Tensor]]:
        effect = torch.arange(6.0).reshape(3, 2) * self.slope
        return {"effect": (("kind", "thing"), effect), "total": (("unnamed",), effect.sum(0))}


@pytest.mark.parametrize(("chains", "dtype"), [(1, torch.float32), (2, torch.float64)])
def test_parameters_that_are_a_result(chains: int, dtype: torch.dtype, tmp_path: Path) -> None:
    pair = Caused(world.ElementsConfig()).to(dtype)
    rows = world.table()
    kind = torch.arange(len(rows)) % 3
    table = Table("rows", {**rows.sites, "kind": kind}, classes={"kind": ("a", "b", "control")})
    pairs = pair if chains == 1 else [pair] * chains
    idata = posterior(pairs, table, draws=4, prior_draws=0, path=tmp_path / "caused.nc")
    found = idata.structure if chains == 1 else idata.structure.isel(chain=1)
    assert found.effect.dims == ("kind", "thing")
    assert list(found.kind.values) == ["a", "b", "control"]
    assert list(found.thing.values) == ["left", "right"]
    wanted = torch.arange(6.0).reshape(3, 2) * world.SLOPE
    np.testing.assert_allclose(found.effect, wanted, rtol=1e-6)
    np.testing.assert_allclose(found.total.sel(unnamed=1), wanted[:, 1].sum(), rtol=1e-6)


def test_a_pair_without_such_sites_has_no_group() -> None:
    idata = posterior(world.built(torch.float32), world.table(), draws=5)
    assert "structure" not in groups_of(idata)


class Pointed(world.Elements):
    """Sets whose elements have points for codes, and a mask that all rows share."""

    def __init__(self, config: world.ElementsConfig) -> None:
        super().__init__(config)
        self.seen = nn.Parameter(torch.tensor([0.3, -1.0]))
        del self.guide  # a module
        self.guide = self._guide

    def _guide(self, batch: Batch) -> None:
        pyro.sample("used", dist.Bernoulli(logits=self.seen).to_event(1))
        there = elements.present(batch, "x", 4, batch.count)
        x = elements.inside(elements.filled(batch["x"], there))
        with batch.plate():
            c = pyro.sample("c", dist.Normal(self.slope, 1.0).expand([batch.count]))
            with elements.plate("element", there):
                pyro.sample("z", dist.Delta(x * self.slope + 0 * c))

    def model(self, batch: Batch) -> None:
        pyro.sample("used", dist.Bernoulli(logits=0 * self.seen).to_event(1))
        super().model(batch)


@pytest.mark.parametrize("told", ["plate", "labels"])
@pytest.mark.parametrize("stored", [False, True])
def test_points_in_plates_under_a_shared_mask(told: str, stored: bool, tmp_path: Path) -> None:
    labels = {"labels": True, "guided": False} if told == "labels" else {}
    pair, table = Pointed(world.ElementsConfig(**labels)), world.table()
    path = tmp_path / "sets.nc" if stored else None
    idata = posterior(pair, table, draws=6, prior_draws=2, path=path)
    there = table.sites["x_there"][:].numpy() > 0
    point = np.where(there, table.sites["x"][:] * world.SLOPE, np.nan)
    np.testing.assert_allclose(idata.posterior.z.values[0, 3], point, rtol=1e-6)
    assert idata.attrs["points"] == "z"
    assert set(idata.sample_stats) == {"log_p", "log_p_outside", "log_q_outside"}
    assert "diagnostics" not in groups_of(idata)
    np.testing.assert_allclose(idata.structure.used_probs, torch.sigmoid(pair.seen).detach(), 1e-6)
    likelihood = dist.Normal(table.sites["x"][:] * world.SLOPE, world.NOISE)
    exact = likelihood.log_prob(table.sites["x"][:]).where(torch.tensor(there), 0.0).sum(-1)
    np.testing.assert_allclose(idata.log_likelihood.x.values[0, 3], exact, rtol=2e-5, atol=1e-5)


class Named(world.Elements):
    """Names of the classes of a label within a plate."""

    coordinates: ClassVar[dict[str, tuple[str, ...]]] = {"s_class": ("low", "high")}


def test_names_along_dimensions_are_those_of_the_pair_then_of_the_table() -> None:
    """Columns of a vector do not name as many elements."""
    pair = Named(world.ElementsConfig(labels=True))
    table = world.table()
    columns = {"x": tuple("abcd")}
    table = Table("sets", table.sites, columns=columns)
    idata = posterior(pair, table, draws=2, prior_draws=0)
    assert list(idata.variational.s_class.values) == ["low", "high"]
    assert list(idata.posterior.element.values) == [0, 1, 2, 3]


def test_loops_over_plates_outside_the_rows() -> None:
    """Sites of nested loops stand alone, each with a name of its own."""

    class Looped(Pair):
        Config = Config
        card = Graph.card

        def __init__(self) -> None:
            super().__init__(Config())
            self.loc = nn.Parameter(torch.zeros(()))
            self.guide = self.model

        def model(self, batch: Batch) -> None:
            for a in pyro.plate("a", 2):
                for b in pyro.plate(f"b_{a}", 2):
                    pyro.sample(f"w_{a}{b}", dist.Bernoulli(logits=self.loc + a - b))
            with self.plate(batch):
                pyro.sample("x", dist.Normal(self.loc, 1.0), obs=batch.get("x"))

    idata = posterior(Looped(), Table("rows", {"x": torch.zeros(3)}), draws=5, prior_draws=0)
    np.testing.assert_allclose(idata.structure.w_10_probs, 1 / (1 + np.exp(-1)), rtol=1e-6)
