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


def test_a_pair_without_such_sites_has_no_group() -> None:
    idata = posterior(world.built(torch.float32), world.table(), draws=5)
    assert "structure" not in groups_of(idata)
