"""CLSVAE: a clean pattern explains every row, a dirty one the outliers; repair leaves it out.

Story   y ~ Bern(alpha)   z_c, z_d, z_eps ~ N(0, s^2 I)   x ~ p(dec(z_c, z_eps if y else z_d))
Guide   q(z_c | x) q(z_d | x) p(z_eps) q(y | z_c, z_d): y enumerated, no gradient into z_c from it
Paper   Eduardo, Xu, Nazabal, Sutton. arXiv 2207.08050
Shapes  E enumeration and particle dimensions on the left, B rows, D data, C clean, M dirty codes
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.likelihoods import ONE_OUTPUT
from ppl_models.networks import Net
from ppl_models.pair import Card, Pair
from ppl_models.parts.label_prior import LabelPrior, label_prior


@dataclass(frozen=True)
class CLSVAEConfig(Config):
    """Settings of the paper's Synthetic-Shapes."""

    data_dim: int = setting(784, "D, size of x", from_data="x", minimum=1)
    clean_code: int = setting(10, "C, size of z_c", minimum=1)
    dirty_code: int = setting(5, "M, size of z_d and z_eps", minimum=1)
    hidden: tuple[int, ...] = setting((200, 100, 50), "units of encoders, decoder back", minimum=1)
    classifier: tuple[int, ...] = setting((7, 5), "units of q(y | z_c, z_d)", minimum=1)
    likelihood: str = setting("bernoulli", "p(x | z)", choices=ONE_OUTPUT)
    label_prior: str | tuple[float, ...] = label_prior(
        (0.4, 0.6), symbol="1 - alpha, alpha: the share of inliers, rather too small"
    )
    s_c: float = setting(0.5, "s_c, prior scale of z_c; well below s_d", minimum=1e-6)
    s_d: float = setting(5.0, "s_d, prior scale of z_d", minimum=1e-6)
    s_eps: float = setting(0.5, "s_eps, scale of the noise; below s_d", minimum=1e-6)
    beta: float = setting(1000.0, "beta, weight of log q(y) averaged over labels", minimum=0)
    outlier: float = setting(1.0, "w, outliers in it: max(1, inliers / outliers)", minimum=0)
    dependence: float = setting(100.0, "lambda_T, final weight of dCor(z_c, z_d)", minimum=0)
    delay: float = setting(0.05, "share of training before KL terms and dCor count", minimum=0)
    ramp: float = setting(0.5, "share of the rest in which they grow", minimum=0)


class CLSVAE(Pair):
    """Detection and repair of systematic errors with a few trusted rows."""

    Config = CLSVAEConfig
    config: CLSVAEConfig
    card = Card(
        name="clsvae",
        title="Repairing Systematic Outliers by Learning Clean Subspaces in VAEs",
        authors="Simao Eduardo, Kai Xu, Alfredo Nazabal, Charles Sutton",
        year=2022,
        arxiv="2207.08050",
        task="detection and repair of systematic errors",
        data={"x": "data vector (D)"},
        latents={"z_c": "clean (C)", "z_d": "dirty (M)", "z_eps": "noise (M)", "y": "1: inlier"},
        labels=("y",),
        objectives=("enumerated", "iwelbo"),
        departs=("trusted and other rows of a step are two batches, each with its own dCor",),
        limits=("errors must recur, and all kinds of rows stand in the trusted set",),
        picture="outliers: clean, dirty, repaired by CLSVAE and a VAE, with another's error",
    )

    def __init__(self, config: CLSVAEConfig) -> None:
        super().__init__(config)
        c, D, H = config, config.data_dim, config.hidden
        self.label_prior = LabelPrior(c.label_prior, {"y": 2})
        self.decoder = Net({"z_c": c.clean_code, "pattern": c.dirty_code}, H[::-1], D, "relu")
        self.likelihood = ONE_OUTPUT[c.likelihood]()
        codes = {"z_c": c.clean_code, "z_d": c.dirty_code}
        classifier = guides.Stopped(Net(codes, c.classifier, 2, "relu"), "z_c")
        self.guide = guides.Factored(
            z_c=guides.Normal(c.clean_code, {"x": D}, H, "relu"),
            z_d=guides.Normal(c.dirty_code, {"x": D}, H, "relu"),
            z_eps=guides.Prior(c.dirty_code, c.s_eps),
            y=guides.Categorical(2, codes, net=classifier),
        )

    def decode(self, z_c: Tensor, pattern: Tensor) -> dist.TorchDistribution:
        """p(x | z_c, pattern), of codes ``(..., C)`` and ``(..., M)``."""
        return self.likelihood(self.decoder(z_c=z_c, pattern=pattern))

    def model(self, batch: Batch) -> None:
        """p(y) p(z_c) p(z_d) p(z_eps) p(x | y, z_c, z_d, z_eps)."""
        c, zero = self.config, self.like().new_zeros
        with self.plate(batch):
            y = pyro.sample("y", self.label_prior("y"), obs=batch.get("y"))  # E x B
            z_c = pyro.sample("z_c", dist.Normal(zero(c.clean_code), c.s_c).to_event(1))  # B x C
            z_d = pyro.sample("z_d", dist.Normal(zero(c.dirty_code), c.s_d).to_event(1))  # B x M
            z_eps = pyro.sample("z_eps", dist.Normal(zero(c.dirty_code), c.s_eps).to_event(1))
            pattern = torch.where(y.unsqueeze(-1) == 1, z_eps, z_d)  # E x B x M
            pyro.sample("x", self.decode(z_c, pattern), obs=batch.get("x"))  # E x B x D

    def score(self, batch: Batch) -> Tensor:
        """A(x) = -log q(y = 1) at the codes' means ``(B,)``; above log 2 an outlier."""
        q = self.guide.factor("y", self.guide.upstream("y", batch.only("x")))
        inlier: Tensor = q.log_prob(torch.ones_like(batch.rows))
        return -inlier

    def repair(self, batch: Batch) -> Tensor:
        """The rows as they would be without error ``(B, D)``: decoded from the mean of z_c."""
        z_c = self.guide.factor("z_c", batch).mean
        found: Tensor = self.decode(z_c, z_c.new_zeros(len(z_c), self.config.dirty_code)).mean
        return found

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound, the weighted classifier, and the penalty on the codes' dependence."""
        c = self.config
        moments = c.delay, c.delay + c.ramp * (1 - c.delay)
        beta, weight = (inference.Anneal(0, last, *moments) for last in (1, c.dependence))
        labels = inference.Classification("y", c.beta, (c.outlier, 1.0))
        apart = inference.DistanceCorrelation("z_c", "z_d", weight)
        return (bound or inference.EnumeratedELBO(kl="analytic", beta=beta)) + labels + apart
