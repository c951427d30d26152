"""HFS: the support of the codes factorises, not their distribution.

Story   z ~ N(0, I)   x | z ~ p(dec(z))
Guide   q(z | x) = N(mu(x), diag sigma(x)^2), reparameterised
Paper   Roth, Ibrahim, Akata, Vincent, Bouchacourt. Disentanglement of Correlated Factors via
        Hausdorff Factorized Support. ICLR 2023, arXiv 2210.07347
Shapes  E particle dimensions on the left, B rows, D code, H W C pixels
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import setting
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.pair import Card, Pair
from ppl_models.parts import image_code

SCALES = ("minimal_support", "variance")


@dataclass(frozen=True)
class HFSConfig(image_code.ImageCodeConfig):
    """Networks for images of 64 x 64, and the weights of the code's own example."""

    beta: float = setting(0.0, "beta, weight of KL(q(z|x) || p(z))", minimum=0)
    beta_tc: float = setting(
        0.0, "beta_tc, of the total correlation in the KL (6 with beta 1); 0: beta", minimum=0
    )
    gamma: float = setting(300.0, "gamma, weight of the sum of h_ij", minimum=0)
    pairs: int = setting(25, "pairs i, j of dimensions in a step", minimum=1)
    delta: float = setting(0.0, "delta, weight of what codes lack in size", minimum=0)
    scale: str = setting("minimal_support", "how size is measured", choices=SCALES)


class HFS(Pair):
    """A VAE all combinations of whose code values lie near codes of rows."""

    Config = HFSConfig
    config: HFSConfig
    card = Card(
        name="hfs",
        title="Disentanglement of Correlated Factors via Hausdorff Factorized Support",
        authors="Karsten Roth, Mark Ibrahim, Zeynep Akata, Pascal Vincent, Diane Bouchacourt",
        year=2023,
        arxiv="2210.07347",
        task="codes of factors that are correlated in the data",
        data={"x": "image (H W C, flat)"},
        latents={"z": "code (D)"},
        objectives=("elbo",),
        departs=(
            "the scale term is over the rows of a batch; in the published code it is over the "
            "dimensions of a row, where it keeps no dimension alive (its weight is 0 there)",
            "of the published matchings the hard one over the whole product of supports, which "
            "is its default; `HausdorffSupport(points=)` has points drawn from the product",
        ),
        limits=(
            "codes that shrink or die lower the penalty: watch their spread, and give `delta`",
            "with `beta` 0 the prior is not trained towards, and rows drawn from it mean nothing",
            "a batch shows its corners only if factors are correlated weakly enough: at sigma 0.2 "
            "and 512 rows the criterion no longer tells the factors from their mixtures",
            "networks can fill the gaps between codes in any orientation: on blob the penalty is "
            "met by codes that mix the factors, too",
            "gamma is in nats per squared unit of the code, and does not carry over to images "
            "of another size",
        ),
        picture="Above, the penalty of two correlated factors over the angle by which they are "
        "turned, and the correlation of the same codes; below, mean codes of all 576 blobs after "
        "training on correlated places, without and with the penalty, coloured by column",
    )

    def __init__(self, config: HFSConfig) -> None:
        super().__init__(config)
        self.likelihood = LIKELIHOODS[config.likelihood]
        self.decoder = image_code.decoder(config)
        self.guide = guides.Factored(z=image_code.posterior(config))

    def model(self, batch: Batch) -> None:
        """p(z) p(x | z)."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))  # E x B x D
            x = self.likelihood(self.decoder(z=z))  # E x B x H W C
            pyro.sample("x", x, obs=batch.get("x"))

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """Log p(x | z) - beta KL - gamma sum h_ij (eq. 5), and the terms that have a weight."""
        c = self.config
        objective = image_code.bound(c, bound, c.beta)
        if c.beta_tc:
            objective += inference.TotalCorrelation("z", c.beta_tc - c.beta, "mss")
        objective += inference.HausdorffSupport("z", c.gamma, c.pairs)
        if c.delta:
            kind: Any = c.scale
            objective += inference.SupportScale("z", c.delta, kind)
        return objective

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """The study's 300,000 steps."""
        return (inference.Stage(self.objective(bound), training=image_code.STUDY_TRAINING),)
