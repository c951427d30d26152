"""Mixtures of Normals as priors of codes, and their start from codes that are there already."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import guides
from ppl_models.networks import Net, Part

FLOOR = 0.01  # added to the variances of a start, as no posterior is a point
STARTS = 5  # of the mixture that is fitted; the likeliest counts


class LatentMixture(nn.Module):
    """c ~ Cat(pi), z | c ~ N(mu_c, diag s_c^2), with learnt pi, mu and s.

    Args:
        clusters: Number K of components.
        size: Size L of z.
    """

    def __init__(self, clusters: int, size: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.empty(clusters))
        self.loc = nn.Parameter(torch.empty(clusters, size))
        self.log_variance = nn.Parameter(torch.empty(clusters, size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Even weights; means and log-variances as Willetts and Paige 2021 draw them."""
        nn.init.zeros_(self.logits)
        for table in (self.loc, self.log_variance):
            nn.init.xavier_normal_(table)

    def weights(self) -> dist.Categorical:
        """p(c), no batch shape."""
        return dist.Categorical(logits=self.logits)

    def forward(self, c: Tensor) -> dist.TorchDistribution:
        """p(z | c) at clusters ``(...)``: batch shape ``(...)``, event shape ``(L,)``."""
        scale = (0.5 * self.log_variance[c]).exp()
        return dist.Normal(self.loc[c], scale).to_event(1)

    def begin(self, codes: Tensor) -> None:
        """Become the likeliest diagonal mixture of some codes, for ``Stage(start=)``.

        Means that start near each other stay there, and the mixture is then no more than one
        Normal (Jiang et al. 2017, arXiv 1611.05148, who start so).

        Args:
            codes: ``(N, L)``, N at least K.

        Raises:
            ValueError: If there are fewer codes than clusters.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        clusters = len(self.logits)
        if len(codes) < clusters:
            raise ValueError(
                f"{len(codes)} rows for {clusters} clusters to begin at, expected at least as many"
            )
        fitted = GaussianMixture(
            clusters, covariance_type="diag", reg_covar=FLOOR, n_init=STARTS, random_state=0
        )
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", ConvergenceWarning)  # training goes on from there
            fitted.fit(codes.detach().cpu().double().numpy())
            for parameter, found in (
                (self.logits, fitted.weights_.clip(1e-6)),
                (self.loc, fitted.means_),
                (self.log_variance, fitted.covariances_),
            ):
                value = torch.from_numpy(found)
                parameter.copy_(value if parameter is self.loc else value.log())


def facet_sites(count: int, label: str) -> dict[str, str]:
    """The name of each facet's cluster by that of its code: ``c_1`` of ``z_1``, or ``c`` of ``z``.

    Args:
        count: Number J of facets.
        label: What clusters are called; empty without.

    Raises:
        ValueError: If several codes were to have the label of the rows.
    """
    if count > 1 and label == "y":
        raise ValueError(f"facets is {count}, expected 1 where prior is 'given'")
    marks = [f"_{place}" for place in range(1, count + 1)] if count > 1 else [""]
    return {f"z{mark}": label and label + mark for mark in marks}


def facet_guide(
    sizes: Mapping[str, int], data_dim: int, hidden: Sequence[int], activation: str
) -> guides.Factored:
    """q(z | x), a diagonal Normal, of each of several codes, heads of one network.

    Args:
        sizes: Of each code, by name.
        data_dim: Size of x.
        hidden: Units of each hidden layer.
        activation: One of ``networks.ACTIVATIONS``.
    """
    outputs, heads, place = 2 * sum(sizes.values()), {}, 0
    for z, size in sizes.items():
        heads[z] = guides.Normal(size, {"code": outputs}, net=Part(place, 2 * size))
        place += 2 * size
    return guides.Factored({"code": Net({"x": data_dim}, hidden, outputs, activation)}, **heads)
